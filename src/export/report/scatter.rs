//! The trade-off plot: one point a trial, the Pareto front as steps.

use crate::export::report::svg::{Scale, Svg, shorten};
use crate::study::{Objective, Study, Trial, TrialId, pareto_front};
use crate::units;

const SIZE: [f64; 2] = [760.0, 430.0];
/// Left, top, right and bottom.
const MARGIN: [f64; 4] = [86.0, 30.0, 24.0, 48.0];
/// More labels than this hide each other.
const MAX_LABELS: usize = 24;

/// The plot of `y` over `x`, or `None` when fewer than two trials have both.
pub(super) fn scatter(study: &Study, x: Objective, y: Objective) -> Option<String> {
    let points: Vec<(TrialId, &Trial, [f64; 2])> =
        study.trials.iter().filter_map(|(id, trial)| Some((*id, trial, [trial.value(x)?, trial.value(y)?]))).collect();
    if points.len() < 2 {
        return None;
    }
    let front = pareto_front(study, x, y);
    let scales = [
        Scale::around(points.iter().map(|(.., values)| values[0])),
        Scale::around(points.iter().map(|(.., values)| values[1])),
    ];
    let label = format!("{} over {}, {} trials", axis_title(y), axis_title(x), points.len());
    let mut svg = Svg::new(SIZE[0], SIZE[1], &label);
    draw_axes(&mut svg, scales, [x, y]);

    let place = |values: [f64; 2]| place(scales, values);
    let steps: Vec<[f64; 2]> =
        front.iter().filter_map(|id| points.iter().find(|point| point.0 == *id)).map(|(.., at)| place(*at)).collect();
    svg.polyline("front", &staircase(&steps));

    let mut taken: Vec<[f64; 4]> = Vec::new();
    for (id, trial, values) in &points {
        let at = place(*values);
        taken.push([at[0] - 6.0, at[1] - 6.0, at[0] + 6.0, at[1] + 6.0]);
        let is_measured = trial.measurements().is_some_and(|measurements| measurements.simulated_layers == 0);
        let class = match (id.0, front.contains(id)) {
            (0, _) => "point reference",
            (_, true) => "point best",
            (_, false) => "point",
        };
        let title = format!(
            "{id} {}\n{} {}\n{} {}{}",
            trial.spec.recipe.name,
            axis_title(x),
            tick_text(x, values[0]),
            axis_title(y),
            tick_text(y, values[1]),
            if is_measured { "" } else { "\nsimulated: not its own speed" },
        );
        svg.point(class, at, is_measured, &title);
    }
    let named = points.iter().filter(|(id, ..)| id.0 == 0 || front.contains(id)).take(MAX_LABELS);
    for (id, trial, values) in named {
        draw_label(&mut svg, &mut taken, place(*values), &format!("{id} {}", shorten(&trial.spec.recipe.name, 28)));
    }
    Some(svg.finish())
}

/// The name of an objective with its unit.
pub(super) fn axis_title(objective: Objective) -> &'static str {
    match objective {
        Objective::Kl => "mean KL to the reference (nats)",
        Objective::PerplexityIncrease => "perplexity over the reference's",
        Objective::DecodeLatency => "time of a decoded token",
        Objective::PrefillLatency => "time of the prompt",
        Objective::WeightBytes => "weights as packed",
        Objective::PeakMemory => "peak memory of the worker",
        Objective::DecodeEnergy => "energy of a decoded token (mJ)",
    }
}

fn tick_text(objective: Objective, value: f64) -> String {
    match objective {
        Objective::Kl => units::significant(value, 2),
        Objective::PerplexityIncrease => units::change(1.0 + value),
        Objective::DecodeLatency | Objective::PrefillLatency => units::duration(value),
        Objective::DecodeEnergy => units::significant(1e3 * value, 2),
        Objective::WeightBytes | Objective::PeakMemory => units::bytes(value.max(0.0) as u64),
    }
}

fn place(scales: [Scale; 2], values: [f64; 2]) -> [f64; 2] {
    let [left, top, right, bottom] = MARGIN;
    let width = SIZE[0] - left - right;
    let height = SIZE[1] - top - bottom;
    [left + width * scales[0].place(values[0]), top + height * (1.0 - scales[1].place(values[1]))]
}

fn draw_axes(svg: &mut Svg, scales: [Scale; 2], objectives: [Objective; 2]) {
    let [left, top, right, bottom] = MARGIN;
    let (floor, end) = (svg.height() - bottom, svg.width() - right);
    for tick in byte_friendly_ticks(scales[0], objectives[0], 6) {
        let x = left + (end - left) * scales[0].place(tick);
        svg.line("grid", [x, top], [x, floor]);
        svg.text("tick", [x, floor + 16.0], "middle", &tick_text(objectives[0], tick));
    }
    for tick in byte_friendly_ticks(scales[1], objectives[1], 6) {
        let y = top + (floor - top) * (1.0 - scales[1].place(tick));
        svg.line("grid", [left, y], [end, y]);
        svg.text("tick", [left - 8.0, y + 4.0], "end", &tick_text(objectives[1], tick));
    }
    svg.line("axis", [left, floor], [end, floor]);
    svg.line("axis", [left, top], [left, floor]);
    svg.text("title", [end, floor + 36.0], "end", &format!("{} →", axis_title(objectives[0])));
    svg.text("title", [left - 4.0, top - 14.0], "start", &format!("↑ {}", axis_title(objectives[1])));
}

/// Ticks of sizes are round in MiB, not in bytes.
fn byte_friendly_ticks(scale: Scale, objective: Objective, wanted: usize) -> Vec<f64> {
    const MEBIBYTE: f64 = 1_048_576.0;
    match (objective, scale) {
        (Objective::WeightBytes | Objective::PeakMemory, Scale::Linear { low, high }) => {
            let ticks = Scale::Linear { low: low / MEBIBYTE, high: high / MEBIBYTE }.ticks(wanted);
            ticks.into_iter().map(|tick| tick * MEBIBYTE).collect()
        }
        _ => scale.ticks(wanted),
    }
}

/// Horizontal, then down: between two trials of the front nothing better is known than the left one.
fn staircase(points: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let mut steps = Vec::with_capacity(points.len() * 2);
    for (position, point) in points.iter().enumerate() {
        if position > 0 {
            steps.push([point[0], points[position - 1][1]]);
        }
        steps.push(*point);
    }
    steps
}

/// Writes a label beside its point where nothing is yet; none when every place is taken.
fn draw_label(svg: &mut Svg, taken: &mut Vec<[f64; 4]>, at: [f64; 2], text: &str) {
    let width = text.chars().count() as f64 * 6.6;
    let places = [
        (at[0] + 9.0, at[1] - 8.0, "start"),
        (at[0] + 9.0, at[1] + 16.0, "start"),
        (at[0] - 9.0, at[1] - 8.0, "end"),
        (at[0] - 9.0, at[1] + 16.0, "end"),
    ];
    for (x, y, anchor) in places {
        let left = if anchor == "start" { x } else { x - width };
        let space = [left, y - 11.0, left + width, y + 3.0];
        let fits = space[0] > MARGIN[0] && space[2] < svg.width() && space[1] > MARGIN[1] - 12.0;
        if fits && !taken.iter().any(|other| overlap(space, *other)) {
            taken.push(space);
            svg.text("label", [x, y], anchor, text);
            return;
        }
    }
}

fn overlap(a: [f64; 4], b: [f64; 4]) -> bool {
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}

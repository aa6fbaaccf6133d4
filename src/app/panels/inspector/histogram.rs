//! How the weights are spread.

use egui::{Ui, vec2};
use egui_plot::{GridMark, Line, PlotPoint, PlotPoints};

use super::{Section, Shown, choice_ui, missing_ui, title_ui};
use crate::app::plots::paint::{self, quiet};
use crate::app::plots::scale::linear_marks;
use crate::units::{count, percent, significant};
use crate::worker::inspection::WeightSpread;

/// Where bins without a weight end among decimal logarithms: below those of a single one.
const EMPTY: f64 = -0.7;

/// Which counts are drawn.
#[derive(Debug, Default)]
pub(super) struct HistogramView {
    is_logarithmic: bool,
}

impl HistogramView {
    pub(super) fn ui(&mut self, shown: &Shown<'_>, ui: &mut Ui) {
        let words = &shown.cx.words.inspector;
        title_ui(ui, shown, Section::Weights, |ui| {
            choice_ui(ui, &mut self.is_logarithmic, false, words.linear, words.counts);
            choice_ui(ui, &mut self.is_logarithmic, true, words.logarithmic, words.counts);
        });
        let Some(weights) = &shown.inspection.view.weights else { return missing_ui(ui, shown, words.weights, "") };
        let tokens = shown.cx.theme;
        let is_logarithmic = self.is_logarithmic;
        let floor = if is_logarithmic { EMPTY } else { 0.0 };
        let points = outline(weights, is_logarithmic);
        let y_axis = paint::y_axis(tokens).formatter(move |mark: GridMark, _: &_| tick(mark.value, is_logarithmic));
        let y_axis = y_axis.label(quiet(words.weights_a_bin, tokens));
        let plot = paint::plot("histogram", tokens)
            .allow_double_click_reset(true)
            .include_y(floor)
            .height((ui.available_height() - 18.0).max(60.0))
            .set_margin_fraction(vec2(0.01, 0.06))
            .y_grid_spacer(move |input| if is_logarithmic { whole_marks(input.bounds) } else { linear_marks(&input) })
            .custom_x_axes(vec![paint::x_axis(tokens).label(quiet(words.weight, tokens))])
            .custom_y_axes(vec![y_axis]);
        let shown = plot.show(ui, |plot_ui| {
            let line = Line::new("", PlotPoints::Borrowed(&points)).color(tokens.variant).width(1.0);
            plot_ui.line(line.fill(floor as f32).fill_alpha(0.45).allow_hover(false));
        });
        let response = shown.response;
        response.accessible_name(words.histogram);
        let line = [
            (words.mean, significant(weights.mean, 3)),
            (words.sd, significant(weights.sd, 3)),
            (words.min, significant(weights.min, 3)),
            (words.max, significant(weights.max, 3)),
            (words.zeros, percent(weights.zero_share())),
        ];
        let line: Vec<String> = line.iter().map(|(name, value)| format!("{name} {value}")).collect();
        ui.add(egui::Label::new(quiet(line.join(" · "), tokens)).truncate());
    }
}

/// The outline of the bins: two points each, at the count or at its logarithm, [`EMPTY`] for none.
fn outline(weights: &WeightSpread, is_logarithmic: bool) -> Vec<PlotPoint> {
    let n = weights.counts.len();
    let (left, width) = if weights.max > weights.min {
        (weights.min, (weights.max - weights.min) / n as f64)
    } else {
        (weights.min - 0.5, 1.0)
    };
    let step = |(bin, count): (usize, &u64)| {
        let height = match (*count, is_logarithmic) {
            (0, true) => EMPTY,
            (count, true) => (count as f64).log10(),
            (count, false) => count as f64,
        };
        [bin, bin + 1].map(|edge| PlotPoint::new(left + edge as f64 * width, height))
    };
    weights.counts.iter().enumerate().flat_map(step).collect()
}

fn tick(value: f64, is_logarithmic: bool) -> String {
    let value = match is_logarithmic {
        true if value <= EMPTY => 0.0,
        true => 10_f64.powf(value).round(),
        false => value,
    };
    if value < 0.0 || value.fract() != 0.0 { String::new() } else { count(value as u64) }
}

/// A mark at each power of ten, and where there is none.
fn whole_marks((first, last): (f64, f64)) -> Vec<GridMark> {
    let powers = (first.max(0.0).ceil() as i32)..=(last.min(20.0).floor() as i32);
    let none = (first <= EMPTY && EMPTY <= last).then_some(EMPTY);
    let values = none.into_iter().chain(powers.map(f64::from));
    values.map(|value| GridMark { value, step_size: 1.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_stand_over_their_bins() {
        let weights =
            WeightSpread { n: 112, zeros: 0, mean: 0.0, sd: 1.0, min: -2.0, max: 2.0, counts: vec![1, 0, 100, 11] };
        let found: Vec<(f64, f64)> = outline(&weights, false).iter().map(|point| (point.x, point.y)).collect();
        assert_eq!(found[..4], [(-2.0, 1.0), (-1.0, 1.0), (-1.0, 0.0), (0.0, 0.0)]);
        assert_eq!(found[4..], [(0.0, 100.0), (1.0, 100.0), (1.0, 11.0), (2.0, 11.0)]);
        let found = outline(&weights, true);
        let heights = [0, 2, 4].map(|at| found[at].y);
        assert_eq!(heights, [0.0, EMPTY, 2.0], "a logarithm is where its tick is");
        let constant = WeightSpread { counts: vec![7], min: 0.5, max: 0.5, ..weights };
        assert_eq!(outline(&constant, false), [PlotPoint::new(0.0, 7.0), PlotPoint::new(1.0, 7.0)]);
    }

    #[test]
    fn ticks_name_counts() {
        let cases = [
            (0.0, false, "0"),
            (2000.0, false, "2,000"),
            (0.5, false, ""),
            (3.0, true, "1,000"),
            (0.0, true, "1"),
            (EMPTY, true, "0"),
        ];
        for (value, is_logarithmic, expected) in cases {
            assert_eq!(tick(value, is_logarithmic), expected);
        }
        assert_eq!((whole_marks((-0.2, 3.4)).len(), whole_marks((-1.0, 3.4)).len()), (4, 5));
    }
}

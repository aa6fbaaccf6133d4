//! The roofline: what each operation reaches, below what this machine can do.

use egui::{FontId, Pos2, Rect, RichText, Stroke, Ui, vec2};
use egui_plot::{Line, PlotPoint, PlotPoints, PlotTransform};

use super::{Shown, color, table};
use crate::app::plots::paint::{self, LabelPlacer, Shape, quiet};
use crate::app::plots::profile::{Point, RoofLine};
use crate::app::plots::scale::log_marks;
use crate::app::theme::SMALL;
use crate::measure::roofline::Roof;
use crate::model::Arithmetic;
use crate::units::{per_second, significant};

/// How far from a point the pointer still means it, in points.
const REACH: f32 = 14.0;
/// Below every value that is drawn: a logarithmic axis without a place for zero.
const NO_FLOOR: f64 = -1e9;

pub(super) fn ui(shown: &Shown<'_>, ui: &mut Ui, height: f32) {
    let (words, tokens) = (&shown.cx.words.profile, shown.cx.theme);
    let view = shown.view;
    ui.horizontal(|ui| {
        if shown.is_wide {
            ui.label(RichText::new(words.roofline).small().strong().color(tokens.text));
        }
        let text = (words.ceilings)(&shown.report.ceilings.label());
        ui.add(egui::Label::new(quiet(text, tokens)).truncate());
    });
    let x_axis = paint::x_axis(tokens).formatter(|mark, _| tick(mark.value)).label(quiet(words.intensity, tokens));
    let y_axis = paint::y_axis(tokens).formatter(|mark, _| tick(mark.value - 9.0)).label(quiet(words.rate, tokens));
    let plot = paint::plot("roofline", tokens)
        .height((height - 26.0).max(80.0))
        .allow_double_click_reset(true)
        .set_margin_fraction(vec2(0.03, 0.08))
        .x_grid_spacer(|input| log_marks(NO_FLOOR, input.bounds.0, input.bounds.1))
        .y_grid_spacer(|input| log_marks(NO_FLOOR, input.bounds.0, input.bounds.1))
        .custom_x_axes(vec![x_axis])
        .custom_y_axes(vec![y_axis]);
    let drawn = plot.show(ui, |plot_ui| {
        for roof in &view.roofs {
            let line = Line::new("", PlotPoints::Owned(roof.ends.to_vec())).color(tokens.reference).width(1.4);
            plot_ui.line(line.allow_hover(false));
        }
        // Points lie above the lines: painted below, but kept in view here.
        let places: Vec<PlotPoint> = view.points.iter().map(|point| point.at).collect();
        let invisible = egui_plot::Points::new("", PlotPoints::Owned(places)).radius(0.1).color(tokens.reference);
        plot_ui.points(invisible.allow_hover(false));
    });
    let transform = drawn.transform;
    let response = drawn.response.accessible_name(words.plot);
    let nearest = response.hover_pos().and_then(|pointer| nearest(&view.points, &transform, pointer));
    overlay(shown, ui, &transform, nearest);
    if let Some(point) = nearest {
        response.on_hover_ui_at_pointer(|ui| table::card_ui(shown, ui, point.operation, &point.effort));
    }
}

/// The number behind a decimal logarithm.
fn tick(power: f64) -> String {
    let value = 10_f64.powf(power);
    if value >= 1000.0 { significant(value, 3) } else { significant(value, 1) }
}

fn nearest<'a>(points: &'a [Point], transform: &PlotTransform, pointer: Pos2) -> Option<&'a Point> {
    let distance = |point: &Point| transform.position_from_point(&point.at).distance(pointer);
    let best = points.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)));
    best.filter(|point| distance(point) <= REACH)
}

/// Points, their names, and those of the ceilings.
fn overlay(shown: &Shown<'_>, ui: &Ui, transform: &PlotTransform, nearest: Option<&Point>) {
    let (words, tokens) = (&shown.cx.words.profile, shown.cx.theme);
    let frame = *transform.frame();
    let painter = ui.painter().with_clip_rect(frame);
    let place = |at: &PlotPoint| transform.position_from_point(at);
    let mut labels = LabelPlacer::default();
    for point in &shown.view.points {
        labels.block(Rect::from_center_size(place(&point.at), vec2(9.0, 9.0)));
    }
    let font = FontId::proportional(SMALL);
    for roof in &shown.view.roofs {
        let galley = painter.layout_no_wrap(roof_name(roof), font.clone(), tokens.text_weak);
        // Flat ones are named at their right end, steep ones at a third of their way.
        let at = match roof.roof {
            Roof::Compute(..) => {
                let end = place(&roof.ends[1]);
                Pos2::new(end.x.min(frame.right()) - galley.size().x - 12.0, end.y)
            }
            Roof::Read(..) => place(&roof.ends[0]).lerp(place(&roof.ends[1]), 0.3),
        };
        if let Some(rect) = labels.place(frame.shrink(2.0), at, galley.size()) {
            painter.galley(rect.min, galley, tokens.text_weak);
        }
    }
    for point in &shown.view.points {
        paint::mark(&painter, place(&point.at), Shape::Disc, 4.0, color(point.operation.group(), tokens));
    }
    if let Some(point) = nearest {
        painter.circle_stroke(place(&point.at), 7.0, Stroke::new(1.2, tokens.text_strong));
    }
    // What takes most of the time is named first: where there is no room, the others stay without.
    let mut points: Vec<&Point> = shown.view.points.iter().collect();
    points.sort_by(|a, b| b.effort.secs.total_cmp(&a.effort.secs));
    for point in points.into_iter().filter(|point| paint::in_view(transform, &point.at)) {
        let galley = painter.layout_no_wrap((words.operation)(point.operation).to_owned(), font.clone(), tokens.text);
        if let Some(rect) = labels.place(frame.shrink(2.0), place(&point.at), galley.size()) {
            painter.galley(rect.min, galley, tokens.text);
        }
    }
}

fn roof_name(roof: &RoofLine) -> String {
    match roof.roof {
        Roof::Read(memory, rate) => format!("{} {}", memory.label(), per_second(rate, "B/s")),
        Roof::Compute(Arithmetic::Float, rate) => format!("f32 {}", per_second(rate, "FLOP/s")),
        Roof::Compute(Arithmetic::Int8, rate) => format!("int8 {}", per_second(rate, "OP/s")),
        Roof::Compute(Arithmetic::TensorFloat, rate) => format!("tensor cores {}", per_second(rate, "FLOP/s")),
        Roof::Compute(Arithmetic::TensorInt8, rate) => format!("tensor cores int8 {}", per_second(rate, "OP/s")),
    }
}

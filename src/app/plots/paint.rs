//! Paint that more than one plot or table shares.

use egui::text::{LayoutJob, TextFormat};
use egui::{
    Align, Align2, Color32, FontId, Layout, Painter, PointerButton, Pos2, Rect, RichText, Sense, Stroke, Ui, vec2,
};
use egui_plot::{AxisHints, GridMark, Plot, PlotPoint, PlotTransform};

use crate::app::plots::metrics::Cell;
use crate::app::plots::scale::linear_marks;
use crate::app::theme::{MONO, SMALL, Tokens};
use crate::study::Study;

/// Tells one state of one study from another: caches are keyed by it.
///
/// Generation, time of creation, number of trials: two studies that were opened in turn may share a generation.
pub type StudyKey = (u64, u64, usize);

/// The key of `study` as it is.
pub fn study_key(study: &Study) -> StudyKey {
    let created = study.header.as_ref().map_or(0, |header| header.created_unix_secs);
    (study.generation, created, study.trials.len())
}

/// The colors of the theme that `ui` is drawn in.
pub fn tokens(ui: &Ui) -> &'static Tokens {
    Tokens::of(ui.ctx().theme())
}

/// A plot as every tile has it: a drag zooms, a secondary drag moves, nothing reacts to the wheel but Ctrl and wheel.
pub fn plot<'a>(id: impl egui::AsIdSalt, tokens: &Tokens) -> Plot<'a> {
    Plot::new(id)
        .allow_drag(true)
        .pan_pointer_button(PointerButton::Middle)
        .allow_boxed_zoom(true)
        .boxed_zoom_pointer_button(PointerButton::Primary)
        .allow_scroll(false)
        .show_crosshair(false)
        .show_x(false)
        .show_y(false)
        .label_formatter(|_| None)
        .grid_color(tokens.grid.gamma_multiply(0.6))
        .x_grid_spacer(|input| linear_marks(&input))
        .y_grid_spacer(|input| linear_marks(&input))
        .grid_spacing(egui::Rangef::new(12.0, 160.0))
        .sense(Sense::click_and_drag())
}

/// The number of a mark of `linear_marks`, with the decimals that tell it from its neighbours.
fn tick(mark: GridMark) -> String {
    let decimals = -(mark.step_size.log10() + 1e-9).floor();
    let decimals = if decimals.is_finite() { decimals.clamp(0.0, 12.0) as usize } else { 0 };
    let text = format!("{:.decimals$}", mark.value);
    if text.trim_start_matches(['-', '0', '.']).is_empty() { "0".to_owned() } else { text }
}

/// A horizontal axis with small, quiet numbers.
pub fn x_axis<'a>(tokens: &Tokens) -> AxisHints<'a> {
    AxisHints::new_x()
        .formatter(|mark, _| tick(mark))
        .label_spacing(34.0..=50.0)
        .tick_label_color(tokens.text_weak)
        .tick_label_font(FontId::monospace(SMALL))
}

/// A vertical axis with small, quiet numbers.
pub fn y_axis<'a>(tokens: &Tokens) -> AxisHints<'a> {
    AxisHints::new_y()
        .formatter(|mark, _| tick(mark))
        .tick_label_color(tokens.text_weak)
        .tick_label_font(FontId::monospace(SMALL))
        .min_thickness(30.0)
        .label_spacing(18.0..=30.0)
}

/// A tile that has nothing to show: what is missing, and what to do about it.
pub fn empty_ui(ui: &mut Ui, title: &str, hint: &str) {
    let tokens = tokens(ui);
    let width = (ui.available_width() - 24.0).clamp(80.0, 380.0);
    ui.vertical_centered(|ui| {
        ui.add_space((ui.available_height() * 0.5 - 34.0).max(4.0));
        ui.label(RichText::new(title).strong().color(tokens.text));
        ui.allocate_ui_with_layout(vec2(width, 0.0), Layout::top_down(Align::Center), |ui| {
            ui.label(RichText::new(hint).small().color(tokens.text_weak));
        });
    });
}

/// Small quiet text.
pub fn quiet(text: impl Into<String>, tokens: &Tokens) -> RichText {
    RichText::new(text).size(SMALL).color(tokens.text_weak)
}

/// A number in monospace with its quieter part behind it.
pub fn cell_job(cell: &Cell, color: Color32, tokens: &Tokens) -> LayoutJob {
    let mut job = LayoutJob::default();
    let format = |color: Color32| TextFormat { font_id: FontId::monospace(MONO), color, ..TextFormat::default() };
    job.append(&cell.value, 0.0, format(color));
    if !cell.quiet.is_empty() {
        let space = if cell.value.is_empty() { 0.0 } else { 5.0 };
        job.append(&cell.quiet, space, format(tokens.text_weak));
    }
    job
}

/// The shape of a point: what it means must not hang on its color.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Measured.
    Disc,
    /// Simulated.
    Ring,
    /// The reference.
    Diamond,
    /// Failed.
    Cross,
}

/// Paints a point.
pub fn mark(painter: &Painter, at: Pos2, shape: Shape, radius: f32, color: Color32) {
    match shape {
        Shape::Disc => {
            painter.circle_filled(at, radius, color);
        }
        Shape::Ring => {
            painter.circle_stroke(at, radius, Stroke::new(1.5, color));
            painter.circle_filled(at, 1.2, color);
        }
        Shape::Diamond => {
            let r = radius * 1.35;
            let corners = [vec2(0.0, -r), vec2(r, 0.0), vec2(0.0, r), vec2(-r, 0.0)].map(|offset| at + offset);
            painter.add(egui::Shape::convex_polygon(corners.to_vec(), color, Stroke::NONE));
        }
        Shape::Cross => {
            let stroke = Stroke::new(1.8, color);
            for side in [-1.0, 1.0] {
                painter.line_segment([at + vec2(-radius, -radius * side), at + vec2(radius, radius * side)], stroke);
            }
        }
    }
}

/// A shape with its word, in a row of a legend.
pub fn legend_ui(ui: &mut Ui, shape: Shape, color: Color32, text: &str) -> egui::Response {
    let tokens = tokens(ui);
    let (rect, _) = ui.allocate_exact_size(vec2(10.0, 14.0), Sense::hover());
    mark(ui.painter(), rect.center(), shape, 3.6, color);
    ui.add_space(-4.0);
    ui.label(quiet(text, tokens))
}

/// A short line with its word, painted into the upper left corner of a plot; returns where the next one goes.
pub fn line_legend(painter: &Painter, at: Pos2, color: Color32, text: &str, tokens: &Tokens) -> Pos2 {
    let galley = painter.layout_no_wrap(text.to_owned(), FontId::monospace(SMALL), color);
    let size = galley.size();
    let back = Rect::from_min_size(at, vec2(size.x + 22.0, size.y + 2.0));
    painter.rect_filled(back, 3.0, tokens.input.gamma_multiply(0.8));
    let middle = back.center().y;
    painter.line_segment([Pos2::new(at.x + 3.0, middle), Pos2::new(at.x + 14.0, middle)], Stroke::new(2.0, color));
    painter.galley(Pos2::new(at.x + 18.0, at.y + 1.0), galley, color);
    Pos2::new(at.x, back.bottom() + 1.0)
}

/// Places labels beside points without covering each other or a point; a label that finds no place is left out.
#[derive(Debug, Default)]
pub struct LabelPlacer {
    taken: Vec<Rect>,
}

impl LabelPlacer {
    /// Keeps `rect` free of labels.
    pub fn block(&mut self, rect: Rect) {
        self.taken.push(rect);
    }

    /// The place of a label of `size` beside `at` within `frame`, tried at the four corners; `None` when all are taken.
    pub fn place(&mut self, frame: Rect, at: Pos2, size: egui::Vec2) -> Option<Rect> {
        const GAP: f32 = 8.0;
        let anchors = [
            (vec2(GAP, -2.0), Align2::LEFT_BOTTOM),
            (vec2(GAP, 2.0), Align2::LEFT_TOP),
            (vec2(-GAP, -2.0), Align2::RIGHT_BOTTOM),
            (vec2(-GAP, 2.0), Align2::RIGHT_TOP),
        ];
        let free = anchors
            .into_iter()
            .map(|(offset, anchor)| anchor.anchor_size(at + offset, size))
            .find(|rect| frame.contains_rect(*rect) && self.taken.iter().all(|taken| !taken.intersects(*rect)))?;
        self.taken.push(free);
        Some(free)
    }
}

/// Whether `point` is in view.
pub fn in_view(transform: &PlotTransform, point: &PlotPoint) -> bool {
    transform.frame().contains(transform.position_from_point(point))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_marks_have_different_numbers() {
        let cases = [
            (0.5, ["0", "0.5", "1.0", "1.5"]),
            (0.2, ["0", "0.2", "0.4", "0.6"]),
            (0.05, ["0", "0.05", "0.10", "0.15"]),
            (0.001, ["0", "0.001", "0.002", "0.003"]),
            (2.0, ["0", "2", "4", "6"]),
            (500.0, ["0", "500", "1000", "1500"]),
        ];
        for (step_size, expected) in cases {
            let texts = [0.0, 1.0, 2.0, 3.0].map(|n| tick(GridMark { value: n * step_size, step_size }));
            assert_eq!(texts, expected);
        }
        assert_eq!(tick(GridMark { value: -0.0, step_size: 0.1 }), "0");
    }

    #[test]
    fn labels_do_not_cover_each_other_and_stay_inside() {
        let frame = Rect::from_min_size(Pos2::ZERO, vec2(200.0, 100.0));
        let mut placer = LabelPlacer::default();
        let at = Pos2::new(100.0, 50.0);
        let placed: Vec<Rect> = (0..6).filter_map(|_| placer.place(frame, at, vec2(60.0, 12.0))).collect();
        assert_eq!(placed.len(), 4, "one a corner, the others are left out");
        for (index, a) in placed.iter().enumerate() {
            assert!(frame.contains_rect(*a));
            assert!(placed[..index].iter().all(|b| !a.intersects(*b)));
        }
        assert_eq!(placer.place(frame, Pos2::new(300.0, 50.0), vec2(60.0, 12.0)), None);
    }
}

//! What each setting costs the layer, and how the recipe gets it.

use egui::{Align2, FontId, Pos2, Rect, Response, RichText, Role, Sense, Ui, WidgetInfo, vec2};

use super::{Shown, Target};
use crate::app::plots::paint::quiet;
use crate::app::theme::{HEADER_HEIGHT, MONO, Mark, ROW_HEIGHT, SMALL};
use crate::recipe::{LayerSettings, LowRank, LowRankMethod, RankRule, WeightFormat};
use crate::session::InspectRequest;
use crate::units::{bytes, duration, percent, significant};
use crate::worker::inspection::{Candidate, LocalError};

/// The smallest relative error that a bar shows, as a decimal logarithm.
const FLOOR: f64 = -6.0;

/// Why the selected layers would be refused a setting, for each one that was tried.
#[derive(Default)]
pub(super) struct CandidatesView {
    refused: Option<(Key, Vec<Option<String>>)>,
}

/// What refusals depend on besides the setting: what was tried, and what it would be applied to.
type Key = (InspectRequest, Target);

/// Where the columns of a row end, from its left edge.
struct Columns {
    name: f32,
    size: f32,
    weights: f32,
    outputs: Option<f32>,
    bar: f32,
}

impl Columns {
    fn new(width: f32, has_outputs: bool) -> Self {
        let number = 60.0;
        let bar = (width * 0.16).clamp(36.0, 90.0);
        let numbers = if has_outputs { 3.0 } else { 2.0 } * number;
        let name = (width - bar - numbers).max(90.0);
        let weights = name + 2.0 * number;
        Self { name, size: name + number, weights, outputs: has_outputs.then_some(weights + number), bar: width }
    }
}

impl CandidatesView {
    pub(super) fn ui(&mut self, shown: &Shown<'_>, ui: &mut Ui) {
        let (words, tokens) = (&shown.cx.words.inspector, shown.cx.theme);
        let tried = &shown.inspection.view.candidates;
        ui.horizontal(|ui| {
            ui.label(RichText::new(words.candidates).small().strong().color(tokens.text));
        });
        if tried.is_empty() {
            ui.label(quiet(words.pending, tokens));
            return;
        }
        self.refresh(shown);
        let Some((_, refused)) = &self.refused else { return };
        let has_outputs = tried.iter().flat_map(|tried| &tried.result).any(|result| result.output_error.is_some());
        let columns = Columns::new(ui.available_width(), has_outputs);
        ui.spacing_mut().item_spacing.y = 0.0;
        header_ui(ui, shown, &columns);
        let position = shown.graph.layers.iter().position(|layer| layer.path == shown.layer.path);
        let current = position.and_then(|position| shown.cx.draft.settings.get(position).copied());
        for (candidate, refused) in tried.iter().zip(refused) {
            let is_current = current == Some(candidate.settings);
            row_ui(ui, shown, &columns, (candidate, refused.as_deref(), is_current));
        }
        ui.add_space(4.0);
        ui.label(quiet(words.candidates_hint, tokens));
    }

    /// Finds out what would be refused, of what was tried since the last frame.
    fn refresh(&mut self, shown: &Shown<'_>) {
        let tried = &shown.inspection.view.candidates;
        let key = (shown.inspection.request.clone(), shown.target());
        let is_current = |(known, refused): &(Key, Vec<_>)| *known == key && refused.len() <= tried.len();
        if !self.refused.as_ref().is_some_and(is_current) {
            self.refused = Some((key, Vec::new()));
        }
        let Some((_, refused)) = &mut self.refused else { return };
        let new: Vec<Option<String>> =
            tried[refused.len()..].iter().map(|candidate| shown.refusal(candidate.settings)).collect();
        refused.extend(new);
    }
}

fn header_ui(ui: &mut Ui, shown: &Shown<'_>, columns: &Columns) {
    let (words, tokens) = (&shown.cx.words.inspector, shown.cx.theme);
    let (rect, response) = ui.allocate_exact_size(vec2(columns.bar, HEADER_HEIGHT), Sense::hover());
    let font = FontId::proportional(SMALL);
    let head = |at: f32, text: &str| {
        let at = Pos2::new(rect.left() + at, rect.center().y);
        ui.painter().text(at, Align2::RIGHT_CENTER, text, font.clone(), tokens.text_weak);
    };
    head(columns.size, words.size);
    head(columns.weights, words.weight_error);
    let mut hint = words.weight_error_hint.to_owned();
    if let Some(outputs) = columns.outputs {
        head(outputs, words.output_error);
        hint = format!("{hint}\n{}", words.output_error_hint);
    }
    response.on_hover_text(hint);
}

type Row<'a> = (&'a Candidate, Option<&'a str>, bool);

fn row_ui(ui: &mut Ui, shown: &Shown<'_>, columns: &Columns, (candidate, refused, is_current): Row<'_>) {
    let (words, tokens) = (&shown.cx.words.inspector, shown.cx.theme);
    let label = short_label(candidate.settings);
    let is_enabled = candidate.result.is_ok() && refused.is_none() && !is_current;
    let sense = if is_enabled { Sense::click() } else { Sense::hover() };
    let (rect, response) = ui.allocate_exact_size(vec2(columns.bar, ROW_HEIGHT), sense);
    response.widget_info(|| WidgetInfo::labeled(Role::Button, is_enabled, (words.apply)(&label)));
    if is_current {
        ui.painter().rect_filled(rect, 3.0, tokens.selection);
    } else if is_enabled && response.hovered() {
        ui.painter().rect_filled(rect, 3.0, tokens.widget_hover);
    }
    let color = match (&candidate.result, refused) {
        (Ok(_), None) => tokens.text,
        _ => tokens.text_weak,
    };
    let (mark, mark_color) = match &candidate.result {
        Ok(_) => (Mark::Measured.glyph(), Mark::Measured.color(tokens)),
        Err(_) => ("–", tokens.text_weak),
    };
    let middle = rect.center().y;
    let left = Pos2::new(rect.left() + 4.0, middle);
    ui.painter().text(left, Align2::LEFT_CENTER, mark, FontId::proportional(8.0), mark_color);
    let name = Rect::from_min_max(rect.left_top(), Pos2::new(rect.left() + columns.name, rect.bottom()));
    let font = FontId::monospace(MONO);
    let painter = ui.painter().with_clip_rect(name.intersect(ui.clip_rect()));
    painter.text(left + vec2(14.0, 0.0), Align2::LEFT_CENTER, &label, font.clone(), color);
    if let Ok(result) = &candidate.result {
        let number = |at: f32, text: String, color| {
            let at = Pos2::new(rect.left() + at, middle);
            ui.painter().text(at, Align2::RIGHT_CENTER, text, font.clone(), color);
        };
        number(columns.size, bytes(result.packed_bytes), color);
        number(columns.weights, error_text(result.weight_error), color);
        if let (Some(at), Some(error)) = (columns.outputs, result.output_error) {
            number(at, error_text(error), color);
        }
        bars_ui(ui, shown, columns, rect, result);
    } else {
        let at = Pos2::new(rect.left() + columns.name + 8.0, middle);
        let font = FontId::proportional(SMALL);
        ui.painter().text(at, Align2::LEFT_CENTER, words.not_available, font, tokens.text_weak);
    }
    let response = hover_ui(response, shown, (candidate, refused, is_current));
    if is_enabled && response.clicked() {
        shown.apply(candidate.settings);
    }
}

/// The error of the outputs where it is known, of the weights otherwise, over decades.
fn bars_ui(ui: &Ui, shown: &Shown<'_>, columns: &Columns, row: Rect, result: &LocalError) {
    let tokens = shown.cx.theme;
    let left = row.left() + columns.outputs.unwrap_or(columns.weights) + 8.0;
    let whole = (row.left() + columns.bar - 4.0 - left).max(0.0);
    let bar = |error: f64, top: f32, height: f32, color| {
        let size = vec2(whole * share(error), height);
        let rect = Rect::from_min_size(Pos2::new(left, row.top() + top), size);
        ui.painter().rect_filled(rect, 1.0, color);
    };
    match result.output_error {
        Some(output) => {
            bar(output, 5.0, 6.0, tokens.variant);
            bar(result.weight_error, 12.0, 5.0, tokens.faded(tokens.reference));
        }
        None => bar(result.weight_error, 7.0, 8.0, tokens.variant),
    }
}

/// The part of a bar that an error fills: none at 1e-6 and below, all at 1.
fn share(error: f64) -> f32 {
    if error <= 0.0 { 0.0 } else { ((error.log10() - FLOOR) / -FLOOR).clamp(0.0, 1.0) as f32 }
}

/// The label of a row, short where the format stays the checkpoint's: `wanda 50.0 %`, `whitened 70.0 %`.
fn short_label(settings: LayerSettings) -> String {
    match (settings.weights, settings.sparsity, settings.low_rank) {
        (WeightFormat::Native, Some(sparsity), None) if sparsity.pattern.is_none() => {
            format!("{} {}", sparsity.method.name(), percent(sparsity.fraction))
        }
        (WeightFormat::Native, None, Some(LowRank { method, rank: RankRule::Ratio(ratio), .. })) => {
            let name = match method {
                LowRankMethod::Svd => "svd",
                LowRankMethod::Whitened => "whitened",
            };
            format!("{name} {}", percent(ratio))
        }
        _ => settings.label(),
    }
}

fn error_text(error: f64) -> String {
    significant(error, 2)
}

fn hover_ui(response: Response, shown: &Shown<'_>, (candidate, refused, is_current): Row<'_>) -> Response {
    let words = &shown.cx.words.inspector;
    response.on_hover_ui(|ui| {
        ui.label(RichText::new(candidate.settings.label()).monospace().strong());
        match &candidate.result {
            Ok(result) => {
                let n = (shown.layer.shape[0] * shown.layer.shape[1]).max(1);
                let bits = significant(result.packed_bytes as f64 * 8.0 / n as f64, 3);
                let time = (words.took)(&duration(result.secs));
                ui.label(format!("{} · {bits} {} · {time}", bytes(result.packed_bytes), words.bits));
                for note in &result.notes {
                    ui.label(quiet(note, shown.cx.theme));
                }
            }
            Err(reason) => drop(ui.label((words.unavailable)(reason))),
        }
        match refused {
            Some(reason) if candidate.result.is_ok() => drop(ui.label((words.refused)(reason))),
            _ if is_current => drop(ui.label(quiet(words.current, shown.cx.theme))),
            _ if candidate.result.is_ok() => {
                ui.label(quiet((words.apply_to)(shown.selected.len()), shown.cx.theme));
            }
            _ => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Sparsity;

    #[test]
    fn bars_cover_six_decades() {
        for (error, expected) in [(0.0, 0.0), (1e-9, 0.0), (1e-6, 0.0), (1e-3, 0.5), (1.0, 1.0), (7.0, 1.0)] {
            assert!((share(error) - expected).abs() < 1e-6, "{error}");
        }
        assert_eq!(
            (error_text(0.000_045), error_text(0.0112), error_text(0.0)),
            ("4.5e-5".to_owned(), "0.011".to_owned(), "0".to_owned())
        );
    }

    #[test]
    fn rows_of_unchanged_formats_are_named_by_their_method() {
        let native = LayerSettings::default();
        let sparse = LayerSettings { sparsity: Some(Sparsity::magnitude(0.5)), ..native };
        let thin = LayerSettings { low_rank: Some(LowRank::with_ratio(LowRankMethod::Whitened, 0.7)), ..native };
        let cases = [
            (sparse, "magnitude 50.0 %"),
            (thin, "whitened 70.0 %"),
            (LayerSettings { weights: WeightFormat::Q8_0, ..sparse }, "q8_0, 50.0 % sparse"),
            (LayerSettings::of(WeightFormat::Q4_0), "q4_0"),
        ];
        for (settings, expected) in cases {
            assert_eq!(short_label(settings), expected);
        }
    }

    #[test]
    fn columns_fit_a_narrow_tile() {
        for width in [320.0, 400.0, 700.0] {
            for has_outputs in [false, true] {
                let columns = Columns::new(width, has_outputs);
                assert!(columns.outputs.unwrap_or(columns.weights) + 30.0 <= columns.bar, "{width}");
            }
        }
    }
}

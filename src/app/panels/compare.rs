//! Two trials side by side.

use egui::text::{LayoutJob, TextFormat};
use egui::{Color32, FontId, Grid, RichText, ScrollArea, Stroke, Ui};

use crate::app::command::{Command, PinSlot};
use crate::app::context::ViewContext;
use crate::app::panels::Panel;
use crate::app::plots::card;
use crate::app::plots::compare::{Line, Verdict, trial_lines};
use crate::app::plots::compression::Making;
use crate::app::plots::metrics::Cell;
use crate::app::plots::paint::{self, StudyKey, quiet, study_key, tokens};
use crate::app::plots::settings_difference::{SettingsDifference, settings_differences, whole_differences};
use crate::app::plots::text_difference::{Run, text_difference};
use crate::app::theme::{BODY, MONO, SMALL, Tokens};
use crate::app::words::{self, CompressionWords, ResultsWords};
use crate::study::{Outcome, Study, Trial, TrialId, TrialState};

/// The tile that compares two trials.
#[derive(Debug, Default)]
pub struct ComparePanel {
    cache: Option<((StudyKey, TrialId, TrialId), Comparison)>,
}

/// Everything that differs between two trials.
#[derive(Debug)]
struct Comparison {
    settings: Option<Vec<SettingsDifference>>,
    lines: Vec<Line>,
    texts: Option<[Vec<Run>; 2]>,
    /// How each side was made.
    making: [Option<Making>; 2],
}

/// The trials on both sides: pinned, else the reference and the selected one.
fn sides(cx: &ViewContext<'_>) -> Option<(TrialId, TrialId)> {
    let known = |id: Option<TrialId>| id.filter(|id| cx.study.trials.contains_key(id));
    let a = known(cx.selection.pinned_a).or_else(|| known(Some(TrialId(0))))?;
    let b = known(cx.selection.pinned_b).or_else(|| known(cx.selection.trial).filter(|id| *id != a))?;
    Some((a, b))
}

impl Comparison {
    fn new(study: &Study, a: &Trial, b: &Trial, words: &CompressionWords) -> Self {
        let graph = study.header.as_ref().map(|header| &header.graph);
        let settings = graph.map(|graph| {
            let whole = whole_differences(&a.spec.recipe, &b.spec.recipe, words);
            let layers = settings_differences(graph, &a.spec.recipe.settings(graph), &b.spec.recipe.settings(graph));
            whole.into_iter().chain(layers).collect()
        });
        let (found_a, found_b) = (a.measurements(), b.measurements());
        let lines = trial_lines(a, b).unwrap_or_default();
        let text = |trial: Option<&crate::study::Measurements>| trial.and_then(|found| found.sample_text.clone());
        let texts = text(found_a).zip(text(found_b)).map(|(a, b)| text_difference(&a, &b));
        let making = [found_a, found_b].map(|found| Some(Making::new(found?.compression.as_ref()?, words)));
        Self { settings, lines, texts, making }
    }
}

impl Panel for ComparePanel {
    fn title(&self) -> &'static str {
        words::current().titles.compare
    }

    fn ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui) {
        let words = &cx.words.results;
        let Some((a, b)) = sides(cx) else {
            paint::empty_ui(ui, words.compare.nothing, words.compare.nothing_hint);
            return;
        };
        let (Some(trial_a), Some(trial_b)) = (cx.study.trials.get(&a), cx.study.trials.get(&b)) else { return };
        let key = (study_key(cx.study), a, b);
        if self.cache.as_ref().is_none_or(|(cached, _)| *cached != key) {
            self.cache = Some((key, Comparison::new(cx.study, trial_a, trial_b, &cx.words.compression)));
        }
        let Some((_, comparison)) = &self.cache else { return };
        header_ui(cx, ui, (a, b), words);
        ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
            for trial in [trial_a, trial_b] {
                failure_ui(ui, trial, words);
            }
            if !comparison.lines.is_empty() {
                metrics_ui(ui, &comparison.lines, words);
            }
            settings_ui(ui, comparison.settings.as_deref(), words);
            for (side, making) in ["A", "B"].into_iter().zip(&comparison.making) {
                if let Some(making) = making {
                    making_ui(ui, side, making, &cx.words.compression);
                }
            }
            texts_ui(ui, comparison.texts.as_ref(), trial_b, words);
        });
    }
}

fn header_ui(cx: &ViewContext<'_>, ui: &mut Ui, (a, b): (TrialId, TrialId), words: &ResultsWords) {
    let tokens = tokens(ui);
    let compare = &words.compare;
    let sides = [
        ("A", a, cx.selection.pinned_a, tokens.side_a, PinSlot::A, compare.unpin_a),
        ("B", b, cx.selection.pinned_b, tokens.side_b, PinSlot::B, compare.unpin_b),
    ];
    for (side, id, pin, color, slot, unpin) in sides {
        ui.horizontal(|ui| {
            ui.label(RichText::new(side).strong().color(color));
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                if slot == PinSlot::A
                    && ui.small_button("⇄").accessible_name(compare.swap).on_hover_text(compare.swap).clicked()
                {
                    cx.send(Command::Pin(PinSlot::A, Some(b)));
                    cx.send(Command::Pin(PinSlot::B, Some(a)));
                }
                if pin == Some(id) {
                    if ui.small_button("×").accessible_name(unpin).on_hover_text(unpin).clicked() {
                        cx.send(Command::Pin(slot, None));
                    }
                } else {
                    ui.label(quiet(if id == TrialId(0) { words.reference } else { compare.by_default }, tokens));
                }
                ui.with_layout(egui::Layout::left_to_right(egui::Align::Center), |ui| {
                    let name = RichText::new(card::title(cx.study, id)).color(tokens.text_strong);
                    let label = ui.add(egui::Label::new(name).truncate());
                    label.on_hover_ui(|ui| card::card_ui(cx, ui, id, words));
                });
            });
        });
    }
}

/// Why a side has no numbers.
fn failure_ui(ui: &mut Ui, trial: &Trial, words: &ResultsWords) {
    let tokens = tokens(ui);
    let id = trial.spec.id;
    match &trial.state {
        TrialState::Running => {
            ui.label(quiet(format!("{id} {}", words.running), tokens));
        }
        TrialState::Finished { outcome: Outcome::Failed(failure), .. } => {
            ui.label(RichText::new(format!("✖ {id} {}", failure.kind.label())).color(tokens.bad));
            ui.label(RichText::new(&failure.message).small());
        }
        TrialState::Finished { .. } => {}
    }
}

fn heading_ui(ui: &mut Ui, text: &str) {
    let tokens = tokens(ui);
    ui.add_space(6.0);
    ui.label(RichText::new(text).size(SMALL).strong().color(tokens.text_weak));
}

fn metrics_ui(ui: &mut Ui, lines: &[Line], words: &ResultsWords) {
    let tokens = tokens(ui);
    heading_ui(ui, words.compare.metrics);
    Grid::new("metrics").num_columns(4).striped(true).spacing([7.0, 3.0]).show(ui, |ui| {
        ui.label("");
        for (side, color) in [("A", tokens.side_a), ("B", tokens.side_b)] {
            ui.label(RichText::new(side).size(SMALL).color(color));
        }
        ui.label(quiet(words.compare.change, tokens));
        ui.end_row();
        for line in lines {
            ui.label(quiet((words.metric)(line.metric), tokens)).on_hover_text((words.metric_hint)(line.metric));
            two_lines_ui(ui, &line.a, tokens);
            two_lines_ui(ui, &line.b, tokens);
            change_ui(ui, line, words);
            ui.end_row();
        }
    });
}

/// The value, and below it what is quieter.
fn two_lines_ui(ui: &mut Ui, cell: &Cell, tokens: &Tokens) {
    let mut job = LayoutJob::default();
    let format =
        |size: f32, color: Color32| TextFormat { font_id: FontId::monospace(size), color, ..TextFormat::default() };
    job.append(&cell.value, 0.0, format(MONO, tokens.text));
    // The ratio to the reference is the table's; here the change stands beside it.
    let half = cell.quiet.split("  ").next().unwrap_or_default();
    if !half.is_empty() {
        let newline = if cell.value.is_empty() { "" } else { "\n" };
        job.append(&format!("{newline}{half}"), 0.0, format(SMALL - 1.0, tokens.text_weak));
    }
    ui.label(job);
}

fn change_ui(ui: &mut Ui, line: &Line, words: &ResultsWords) {
    let tokens = tokens(ui);
    let color = match line.verdict {
        Verdict::Better => tokens.good,
        Verdict::Worse => tokens.bad,
        Verdict::Unjudged => tokens.text,
        _ => tokens.text_weak,
    };
    let (verdict, hint) = words.verdict(line.verdict);
    let mut job = LayoutJob::default();
    let font = |size| FontId::monospace(size);
    let (change, half) = value_and_half(&line.change);
    job.append(&change, 0.0, TextFormat { font_id: font(MONO), color, ..TextFormat::default() });
    let mut newline = if line.change.is_empty() { "" } else { "\n" };
    if !half.is_empty() {
        let format = TextFormat { font_id: font(SMALL - 1.0), color, ..TextFormat::default() };
        job.append(&format!("{newline}{half}"), 0.0, format);
        newline = "  ";
    }
    if !verdict.is_empty() {
        let format = TextFormat { font_id: FontId::proportional(SMALL), color, ..TextFormat::default() };
        job.append(&format!("{newline}{verdict}"), 0.0, format);
    }
    let label = ui.label(job);
    if !hint.is_empty() {
        label.on_hover_text(hint);
    }
}

/// The change with its unit, and half its interval in the same: a narrow tile has them one below the other.
fn value_and_half(change: &str) -> (String, String) {
    let Some((value, half)) = change.split_once(" ± ") else { return (change.to_owned(), String::new()) };
    let (half, unit) = half.split_once(' ').unwrap_or((half, ""));
    (format!("{value} {unit}").trim_end().to_owned(), format!("± {half}"))
}

fn settings_ui(ui: &mut Ui, settings: Option<&[SettingsDifference]>, words: &ResultsWords) {
    let tokens = tokens(ui);
    heading_ui(ui, words.compare.settings);
    match settings {
        None => drop(ui.label(quiet(words.compare.no_graph, tokens))),
        Some([]) => drop(ui.label(quiet(words.compare.same_settings, tokens))),
        Some(lines) => {
            for line in lines {
                let mut job = LayoutJob::default();
                for (text, color) in [
                    (line.layers.as_str(), tokens.text),
                    (line.from.as_str(), tokens.side_a),
                    ("→", tokens.text_weak),
                    (line.to.as_str(), tokens.side_b),
                ] {
                    let format = TextFormat { font_id: FontId::monospace(SMALL), color, ..TextFormat::default() };
                    job.append(&format!("{text} "), 0.0, format);
                }
                ui.label(job);
            }
        }
    }
}

/// The text that calibrated a side, what its layers lost, what did not go as asked.
fn making_ui(ui: &mut Ui, side: &str, making: &Making, words: &CompressionWords) {
    let tokens = tokens(ui);
    let color = if side == "A" { tokens.side_a } else { tokens.side_b };
    heading_ui(ui, &format!("{} · {side}", words.heading));
    for line in &making.lines {
        ui.add(egui::Label::new(RichText::new(line).size(SMALL).color(tokens.text)).wrap());
    }
    if !making.worst.is_empty() {
        ui.label(quiet(words.worst, tokens)).on_hover_text(words.worst_note);
        Grid::new(("worst", side)).num_columns(3).spacing([10.0, 2.0]).min_row_height(14.0).show(ui, |ui| {
            for (name, error, share) in &making.worst {
                ui.label(RichText::new(name).monospace().size(SMALL).color(tokens.text));
                ui.label(RichText::new(error).monospace().size(SMALL).color(tokens.text));
                let (rect, _) = ui.allocate_exact_size(egui::vec2(80.0, 8.0), egui::Sense::hover());
                let filled = egui::Rect::from_min_size(rect.min, egui::vec2(rect.width() * share, rect.height()));
                ui.painter().rect_filled(filled, 0.0, tokens.faded(color));
                ui.end_row();
            }
        });
    }
    for note in &making.notes {
        ui.add(egui::Label::new(RichText::new(format!("! {note}")).size(SMALL).color(tokens.warn)).wrap());
    }
}

fn texts_ui(ui: &mut Ui, texts: Option<&[Vec<Run>; 2]>, trial: &Trial, words: &ResultsWords) {
    let tokens = tokens(ui);
    let prompt = trial.spec.workload.sample.as_ref().map(|sample| sample.prompt.as_str());
    heading_ui(ui, words.compare.text);
    let Some([a, b]) = texts else {
        ui.label(quiet(words.compare.no_text, tokens));
        return;
    };
    if let Some(prompt) = prompt {
        ui.label(quiet((words.compare.prompt)(prompt), tokens));
    }
    if a.iter().chain(b).all(|run| run.common) {
        ui.label(quiet(words.compare.same_text, tokens));
        ui.label(text_job(a, tokens.side_a, tokens));
        return;
    }
    if ui.available_width() < 380.0 {
        for (side, runs, color) in [("A", a, tokens.side_a), ("B", b, tokens.side_b)] {
            ui.label(RichText::new(side).size(SMALL).color(color));
            ui.label(text_job(runs, color, tokens));
        }
    } else {
        ui.columns_const(|[left, right]| {
            for (ui, side, runs, color) in [(left, "A", a, tokens.side_a), (right, "B", b, tokens.side_b)] {
                ui.label(RichText::new(side).size(SMALL).color(color));
                ui.label(text_job(runs, color, tokens));
            }
        });
    }
}

/// Words that differ stand on the side's color and are underlined.
fn text_job(runs: &[Run], side: Color32, tokens: &Tokens) -> LayoutJob {
    let mut job = LayoutJob::default();
    for run in runs {
        let common = TextFormat { font_id: FontId::proportional(BODY), color: tokens.text, ..TextFormat::default() };
        let format = if run.common {
            common
        } else {
            TextFormat { background: tokens.band(side), underline: Stroke::new(1.0, side), ..common }
        };
        job.append(&run.text, 0.0, format);
    }
    job
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_split_into_value_and_half_its_interval() {
        for (change, value, half) in [
            ("+0.1755 ± 0.20 %", "+0.1755 %", "± 0.20"),
            ("−2.304 ± 0.39 pp", "−2.304 pp", "± 0.39"),
            ("+0.002445 ± 0.00017", "+0.002445", "± 0.00017"),
            ("−19.5 %", "−19.5 %", ""),
            ("", "", ""),
        ] {
            assert_eq!(value_and_half(change), (value.to_owned(), half.to_owned()));
        }
    }
}

//! Two trials side by side.

use egui::text::{LayoutJob, TextFormat};
use egui::{Color32, FontId, Grid, RichText, ScrollArea, Stroke, Ui};

use crate::app::command::{Command, PinSlot};
use crate::app::context::ViewContext;
use crate::app::panels::Panel;
use crate::app::plots::card;
use crate::app::plots::compare::{Line, Verdict, lines};
use crate::app::plots::metrics::Cell;
use crate::app::plots::paint::{self, StudyKey, quiet, study_key, tokens};
use crate::app::plots::settings_difference::{SettingsDifference, settings_differences};
use crate::app::plots::text_difference::{Run, text_difference};
use crate::app::theme::{BODY, MONO, SMALL, Tokens};
use crate::app::words::{self, ResultsWords};
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
}

/// The trials on both sides: pinned, else the reference and the selected one.
fn sides(cx: &ViewContext<'_>) -> Option<(TrialId, TrialId)> {
    let known = |id: Option<TrialId>| id.filter(|id| cx.study.trials.contains_key(id));
    let a = known(cx.selection.pinned_a).or_else(|| known(Some(TrialId(0))))?;
    let b = known(cx.selection.pinned_b).or_else(|| known(cx.selection.trial).filter(|id| *id != a))?;
    Some((a, b))
}

impl Comparison {
    fn new(study: &Study, a: &Trial, b: &Trial) -> Self {
        let graph = study.header.as_ref().map(|header| &header.graph);
        let settings = graph
            .map(|graph| settings_differences(graph, &a.spec.recipe.settings(graph), &b.spec.recipe.settings(graph)));
        let (found_a, found_b) = (a.measurements(), b.measurements());
        let lines = found_a.zip(found_b).map(|(a, b)| lines(a, b)).unwrap_or_default();
        let text = |trial: Option<&crate::study::Measurements>| trial.and_then(|found| found.sample_text.clone());
        let texts = text(found_a).zip(text(found_b)).map(|(a, b)| text_difference(&a, &b));
        Self { settings, lines, texts }
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
            self.cache = Some((key, Comparison::new(cx.study, trial_a, trial_b)));
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
    Grid::new("metrics").num_columns(4).striped(true).spacing([10.0, 3.0]).show(ui, |ui| {
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
    job.append(&line.change, 0.0, TextFormat { font_id: font(MONO), color, ..TextFormat::default() });
    if !verdict.is_empty() {
        let newline = if line.change.is_empty() { "" } else { "\n" };
        let format = TextFormat { font_id: FontId::proportional(SMALL), color, ..TextFormat::default() };
        job.append(&format!("{newline}{verdict}"), 0.0, format);
    }
    let label = ui.label(job);
    if !hint.is_empty() {
        label.on_hover_text(hint);
    }
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

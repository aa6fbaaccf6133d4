//! What is told of one trial when it is pointed at.

use egui::{Grid, RichText, Ui};

use crate::app::command::Command;
use crate::app::context::ViewContext;
use crate::app::plots::compression::Making;
use crate::app::plots::metrics::{Cell, Metric, mib};
use crate::app::plots::paint::{cell_job, quiet, tokens};
use crate::app::plots::settings_difference::{settings_differences, whole_differences};
use crate::app::theme::Mark;
use crate::app::words::ResultsWords;
use crate::device::DeviceSpec;
use crate::recipe::Recipe;
use crate::study::{Conditions, Measurements, Outcome, Study, Trial, TrialId, TrialState};
use crate::units::{change, duration, interval, significant};

/// Lines of settings shown at most.
const MAX_SETTINGS: usize = 6;

/// How a trial stands, as the mark of its shape and color; `None` while it runs.
pub fn state_mark(trial: &Trial) -> Option<Mark> {
    match &trial.state {
        TrialState::Running => None,
        TrialState::Finished { outcome: Outcome::Failed(_), .. } => Some(Mark::Failed),
        TrialState::Finished { outcome: Outcome::Done(found), .. } if found.simulated_layers > 0 => {
            Some(Mark::Simulated)
        }
        TrialState::Finished { .. } => Some(Mark::Measured),
    }
}

/// Number and name of a trial: `#8 q8_0`.
pub fn title(study: &Study, id: TrialId) -> String {
    let name = study.trials.get(&id).map_or("", |trial| trial.spec.recipe.name.as_str());
    format!("{id} {name}")
}

/// Tells the other panels that the pointer is on `now`.
///
/// `before` is what this panel reported last. Leaving a trial is reported only while it is still this panel's, so that the
/// panel that the pointer goes to has the last word.
pub fn report_hover(cx: &ViewContext<'_>, before: &mut Option<TrialId>, now: Option<TrialId>) {
    let shown = cx.selection.hovered;
    let entered = now.is_some() && now != shown;
    let left = now.is_none() && before.is_some() && *before == shown;
    if entered || left {
        cx.send(Command::HoverTrial(now));
    }
    *before = now;
}

/// Settings, numbers with intervals, conditions and cautions of a trial.
pub fn card_ui(cx: &ViewContext<'_>, ui: &mut Ui, id: TrialId, words: &ResultsWords) {
    let Some(trial) = cx.study.trials.get(&id) else { return };
    let tokens = tokens(ui);
    ui.set_max_width(400.0);
    ui.horizontal(|ui| {
        if let Some(mark) = state_mark(trial) {
            ui.label(RichText::new(mark.glyph()).color(mark.color(tokens)));
        }
        ui.label(RichText::new(title(cx.study, id)).strong().color(tokens.text_strong));
    });
    if let DeviceSpec::Cuda { .. } = trial.spec.device {
        ui.label(quiet(trial.spec.device.label(), tokens));
    }
    settings_ui(cx, ui, trial, words);
    match &trial.state {
        TrialState::Running => {
            ui.label(quiet(words.running, tokens));
        }
        TrialState::Finished { outcome: Outcome::Failed(failure), elapsed_secs, .. } => {
            ui.label(RichText::new(failure.kind.label()).color(tokens.bad));
            ui.label(&failure.message);
            ui.label(quiet(duration(*elapsed_secs), tokens));
        }
        TrialState::Finished { outcome: Outcome::Done(measurements), cautions, .. } => {
            numbers_ui(ui, measurements, words);
            if let Some(report) = &measurements.compression {
                for line in Making::new(report, &cx.words.compression).lines {
                    ui.label(quiet(line, tokens));
                }
            }
            for caution in cautions {
                ui.label(RichText::new(format!("! {caution}")).color(tokens.warn));
            }
            ui.label(quiet(conditions(measurements, words), tokens));
        }
    }
}

fn settings_ui(cx: &ViewContext<'_>, ui: &mut Ui, trial: &Trial, words: &ResultsWords) {
    let tokens = tokens(ui);
    let header = cx.study.header.as_ref();
    let Some(graph) = header.map(|header| &header.graph).or(cx.graph) else { return };
    let reference = Recipe::reference().settings(graph);
    let recipe = &trial.spec.recipe;
    let mut lines = whole_differences(&Recipe::reference(), recipe, &cx.words.compression);
    lines.extend(settings_differences(graph, &reference, &recipe.settings(graph)));
    if lines.is_empty() {
        ui.label(quiet(words.trade_off.changes_nothing, tokens));
    }
    for line in lines.iter().take(MAX_SETTINGS) {
        ui.label(quiet(format!("{}: {}", line.layers, line.to), tokens));
    }
    if lines.len() > MAX_SETTINGS {
        ui.label(quiet((words.trade_off.n_more)(lines.len() - MAX_SETTINGS), tokens));
    }
}

fn numbers_ui(ui: &mut Ui, measurements: &Measurements, words: &ResultsWords) {
    let tokens = tokens(ui);
    Grid::new("numbers").num_columns(2).min_row_height(14.0).spacing([16.0, 2.0]).show(ui, |ui| {
        for metric in Metric::ALL {
            let cell = metric.cell(measurements);
            if cell.value.is_empty() && cell.quiet.is_empty() {
                continue;
            }
            ui.label(quiet((words.metric)(metric), tokens));
            ui.label(cell_job(&cell, tokens.text, tokens));
            ui.end_row();
        }
        let memory = &measurements.memory;
        if let Some((predicted, ratio)) = memory.predicted_peak_bytes.zip(memory.prediction_ratio()) {
            ui.label(quiet(words.trade_off.predicted_peak, tokens));
            ui.label(cell_job(
                &Cell { value: significant(mib(predicted), 3), quiet: change(ratio) },
                tokens.text,
                tokens,
            ));
            ui.end_row();
        }
        if let Some(energy) = &measurements.energy {
            ui.label(quiet(words.trade_off.trial_energy, tokens));
            let value = significant(energy.trial_joules, 3);
            ui.label(cell_job(&Cell { value, quiet: String::new() }, tokens.text, tokens));
            ui.end_row();
        }
        // What quantized activations cost is the difference to the KL above.
        if let Some(alone) = &measurements.dequantized_quality {
            let text = interval(alone.kl_mean.value, alone.kl_mean.ci95);
            ui.label(quiet(words.trade_off.weights_alone, tokens));
            ui.label(cell_job(&Cell { value: text, quiet: String::new() }, tokens.text, tokens));
            ui.end_row();
        }
    });
}

/// Text, protocol and machine that the numbers hold for.
fn conditions(measurements: &Measurements, words: &ResultsWords) -> String {
    let words = &words.trade_off;
    let Conditions { cpu_model, threads, load_1min, frequency_mhz, temperature_celsius, .. } = &measurements.conditions;
    let mut parts = Vec::new();
    if let Some(quality) = &measurements.quality {
        parts.push((words.text_of)(&quality.protocol, &quality.split));
    }
    parts.extend(cpu_model.clone());
    parts.push((words.threads)(*threads));
    parts.extend(load_1min.map(|load| (words.load_average)(&significant(load, 2))));
    parts.extend(frequency_mhz.map(|clock| (words.megahertz)(&significant(clock, 4))));
    parts.extend(temperature_celsius.map(|degrees| (words.celsius)(&significant(degrees, 2))));
    parts.join(" · ")
}

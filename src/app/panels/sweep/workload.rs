//! What each trial measures, what a variant must keep, and when to stop.

use egui::{Button, Checkbox, DragValue, RichText, TextEdit, Ui};

use super::{heading_ui, row_ui, rows_ui};
use crate::app::command::{Command, DialogKind};
use crate::app::context::ViewContext;
use crate::app::sweep::SweepSettings;

/// The part of the form about measuring.
pub(super) fn measure_ui(cx: &ViewContext<'_>, settings: &mut SweepSettings, ui: &mut Ui) {
    let words = &cx.words.sweep;
    let max_context = cx.graph.map_or(1 << 20, |graph| graph.family.max_context());
    heading_ui(cx, words.measure, ui);
    rows_ui("measure", ui, |ui| {
        ui.checkbox(&mut settings.with_quality, words.quality);
        ui.add_enabled_ui(settings.with_quality, |ui| data_ui(cx, settings, ui));
        ui.end_row();
        ui.label("");
        ui.add_enabled_ui(settings.with_quality, |ui| windows_ui(cx, settings, max_context, ui));
        ui.end_row();
        ui.checkbox(&mut settings.with_speed, words.speed);
        ui.add_enabled_ui(settings.with_speed, |ui| {
            ui.horizontal(|ui| {
                let speed = &mut settings.speed;
                number_ui(cx, words.prompt_tokens, &mut speed.prompt, 1..=max_context as u32, ui);
                number_ui(cx, words.decode_tokens, &mut speed.decode, 1..=4096, ui);
                number_ui(cx, words.repetitions, &mut speed.repetitions, 2..=100, ui);
            });
        });
        ui.end_row();
        ui.checkbox(&mut settings.with_sample, words.sample);
        ui.add_enabled_ui(settings.with_sample, |ui| {
            ui.horizontal(|ui| {
                number_ui(cx, words.sample_tokens, &mut settings.sample.tokens, 1..=1024, ui);
                let field = TextEdit::singleline(&mut settings.sample.prompt).desired_width(ui.available_width());
                ui.add(field).accessible_name(words.sample_prompt).on_hover_text(words.sample_prompt);
            });
        });
        ui.end_row();
    });
}

/// The part of the form about limits and budget.
pub(super) fn stop_ui(cx: &ViewContext<'_>, settings: &mut SweepSettings, ui: &mut Ui) {
    let words = &cx.words.sweep;
    heading_ui(cx, words.stop, ui);
    rows_ui("stop", ui, |ui| {
        let limits = &mut settings.limits;
        row_ui(words.limits, ui, |ui| {
            optional_ui(words.max_kl, &mut limits.max_kl, 0.05, ui, |value, ui| {
                let drag = DragValue::new(value).range(1e-6..=10.0).speed(0.001).max_decimals(6);
                ui.add(drag.update_while_editing(false).suffix(" nats")).accessible_name(words.max_kl_value);
            });
            optional_ui(words.max_ratio, &mut limits.max_perplexity_ratio, 1.05, ui, |value, ui| {
                let drag = DragValue::new(value).range(1.0001..=100.0).speed(0.005).max_decimals(4);
                ui.add(drag.update_while_editing(false).suffix(" ×")).accessible_name(words.max_ratio_value);
            });
        });
        let budget = &mut settings.budget;
        row_ui(words.budget, ui, |ui| {
            optional_ui(words.max_trials, &mut budget.trials, 20, ui, |value, ui| {
                let drag = DragValue::new(value).range(1..=100_000).speed(0.2).update_while_editing(false);
                ui.add(drag).accessible_name(words.max_trials_value);
            });
            optional_ui(words.max_minutes, &mut budget.secs, 600.0, ui, |value, ui| {
                let mut minutes = *value / 60.0;
                let drag = DragValue::new(&mut minutes).range(0.1..=10_000.0).speed(0.25).max_decimals(1);
                if ui
                    .add(drag.suffix(" min").update_while_editing(false))
                    .accessible_name(words.max_minutes_value)
                    .changed()
                {
                    *value = minutes * 60.0;
                }
            });
        });
    });
}

fn data_ui(cx: &ViewContext<'_>, settings: &SweepSettings, ui: &mut Ui) {
    let words = &cx.words.sweep;
    let path = &settings.quality.data;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let (text, color) = match name {
        Some(name) => (name, cx.theme.text),
        None => (words.choose_data.to_owned(), cx.theme.warn),
    };
    let button = Button::new(RichText::new(text).color(color)).truncate();
    let response = ui.add(button).accessible_name(cx.words.commands.open_data);
    if response.on_hover_text(format!("{}\n{}", words.data_hint, path.display())).clicked() {
        cx.send(Command::Dialog(DialogKind::OpenData));
    }
}

fn windows_ui(cx: &ViewContext<'_>, settings: &mut SweepSettings, max_context: usize, ui: &mut Ui) {
    let words = &cx.words.sweep;
    ui.horizontal(|ui| {
        let quality = &mut settings.quality;
        let protocol = RichText::new(quality.protocol.id(quality.context)).monospace().color(cx.theme.text_weak);
        ui.label(protocol).on_hover_text(words.protocol_hint);
        let drag = DragValue::new(&mut quality.context).range(8..=max_context).update_while_editing(false);
        ui.add(drag).accessible_name(words.context).on_hover_text(words.context);
        optional_ui(words.windows, &mut quality.windows, 16, ui, |value, ui| {
            let drag = DragValue::new(value).range(1..=100_000).speed(0.2).update_while_editing(false);
            ui.add(drag).accessible_name(words.windows_value);
        });
    });
}

fn number_ui(cx: &ViewContext<'_>, name: &str, value: &mut u32, range: std::ops::RangeInclusive<u32>, ui: &mut Ui) {
    let label = ui.label(RichText::new(name).small().color(cx.theme.text_weak));
    let drag = DragValue::new(value).range(range).speed(0.5).update_while_editing(false);
    ui.add(drag).labelled_by(label.id);
}

/// A tick box that switches a value on, with the value's control beside it.
fn optional_ui<T>(name: &str, value: &mut Option<T>, default: T, ui: &mut Ui, control: impl FnOnce(&mut T, &mut Ui)) {
    let mut on = value.is_some();
    if ui.add(Checkbox::new(&mut on, name)).changed() {
        *value = on.then_some(default);
    }
    if let Some(value) = value {
        control(value, ui);
    }
}

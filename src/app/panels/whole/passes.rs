//! Cache, attention and calibration.

use egui::{Button, Checkbox, RichText, Ui};

use super::{choice_ui, quiet_ui, row_ui, rows_ui};
use crate::app::command::{Command, DialogKind};
use crate::app::context::ViewContext;
use crate::app::widgets::number::drag_ui;
use crate::model::{ModelFamily, ModelGraph};
use crate::recipe::{
    AttentionForm, AttentionSettings, Calibration, KvCacheSettings, KvFormat, Policy, Recipe, kv_problem,
};

pub(super) fn cache_ui(cx: &ViewContext<'_>, graph: &ModelGraph, cache: &mut KvCacheSettings, ui: &mut Ui) {
    let words = &cx.words.whole;
    rows_ui("cache", ui, |ui| {
        for (name, format) in [(words.keys, &mut cache.keys), (words.values, &mut cache.values)] {
            row_ui(name, "", ui, |ui| {
                for choice in KvFormat::ALL {
                    let problem = kv_problem(graph, &cx.draft.blocks, choice);
                    let legality = problem.map_or(Ok(None), |problem| Err(problem.to_string()));
                    if choice_ui(name, choice.name(), "", *format == choice, legality, ui) {
                        *format = choice;
                    }
                }
            });
        }
        row_ui("", "", ui, |ui| {
            let bytes =
                |shapes: &[crate::model::BlockShape], cache| crate::units::bytes(token_bytes(graph, shapes, cache));
            let before = bytes(&super::preview::shapes(graph), KvCacheSettings::default());
            let after = bytes(&cx.draft.blocks, cx.draft.recipe.kv_cache);
            quiet_ui(cx, &(words.cache_bytes)(&before, &after), ui);
        });
    });
}

/// Bytes that the keys and values of a token take in all blocks.
fn token_bytes(graph: &ModelGraph, shapes: &[crate::model::BlockShape], cache: KvCacheSettings) -> u64 {
    let ModelFamily::Llama(config) = &graph.family;
    let values: usize = shapes.iter().map(|shape| shape.n_kv_heads * config.head_dim).sum();
    let of = |format: KvFormat| (values * format.block_bytes()).div_ceil(format.block_len());
    (of(cache.keys) + of(cache.values)) as u64
}

pub(super) fn attention_ui(cx: &ViewContext<'_>, graph: &ModelGraph, attention: &mut AttentionSettings, ui: &mut Ui) {
    let words = &cx.words.whole;
    let context = graph.family.max_context();
    rows_ui("attention", ui, |ui| {
        row_ui(words.form, "", ui, |ui| {
            let forms = [("tiled", AttentionForm::Tiled), ("naive", AttentionForm::Naive)];
            for ((text, form), note) in forms.into_iter().zip(words.form_note) {
                if choice_ui(words.form, text, note, attention.form == form, Ok(None), ui) {
                    attention.form = form;
                }
            }
        });
        row_ui(words.window, words.window_note, ui, |ui| {
            let mut on = attention.window.is_some();
            if ui.add(Checkbox::without_text(&mut on)).accessible_name(words.window).changed() {
                attention.window = on.then_some((context / 2).max(1));
                attention.sinks = if on { 4 } else { 0 };
            }
            if let Some(window) = attention.window {
                let (response, edit) = drag_ui(window, 1..=context, 1.0, ui);
                response.accessible_name(words.window_tokens).on_hover_text(words.window_note);
                attention.window = edit.or(attention.window);
                let label = quiet_ui(cx, words.sinks, ui);
                let (response, edit) = drag_ui(attention.sinks, 0..=context, 0.1, ui);
                response.labelled_by(label.id).on_hover_text(words.sinks_note);
                attention.sinks = edit.unwrap_or(attention.sinks);
            }
        });
    });
}

pub(super) fn calibration_ui(cx: &ViewContext<'_>, graph: &ModelGraph, recipe: &mut Recipe, ui: &mut Ui) {
    let words = &cx.words.whole;
    let needed = recipe.needs_calibration();
    rows_ui("calibration", ui, |ui| {
        row_ui(words.text, words.text_hint, ui, |ui| text_ui(cx, needed, &mut recipe.calibration, ui));
        let calibration = &mut recipe.calibration;
        row_ui(words.windows, "", ui, |ui| {
            let (response, windows) = drag_ui(calibration.n_windows(), 1..=100_000, 0.2, ui);
            response.accessible_name(words.windows);
            if let Some(windows) = windows {
                calibration.windows = (windows != Calibration::WINDOWS).then_some(windows);
            }
            quiet_ui(cx, words.context, ui);
            let longest = graph.family.max_context();
            let usual = longest.min(2048);
            let (response, context) = drag_ui(calibration.context.unwrap_or(usual), 2..=longest, 1.0, ui);
            response.accessible_name(words.context);
            if let Some(context) = context {
                calibration.context = (context != usual).then_some(context);
            }
            if calibration.context.is_none() {
                quiet_ui(cx, words.automatic, ui);
            }
        });
        row_ui(words.policy, "", ui, |ui| {
            for (policy, note) in [Policy::Sequential, Policy::Dense].into_iter().zip(words.policy_note) {
                if choice_ui(words.policy, policy.name(), note, calibration.policy == policy, Ok(None), ui) {
                    calibration.policy = policy;
                }
            }
        });
    });
}

/// The text that this recipe would be calibrated on: its own, else the window's.
fn text_ui(cx: &ViewContext<'_>, needed: bool, calibration: &mut Calibration, ui: &mut Ui) {
    let words = &cx.words.whole;
    let is_own = calibration.data.is_some();
    let path = calibration.data.as_ref().unwrap_or(&cx.sweep.calibration).clone();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let (text, color) = match name {
        Some(name) => (name, cx.theme.text),
        None if needed => (words.choose_text.to_owned(), cx.theme.warn),
        None => (words.choose_text.to_owned(), cx.theme.text_weak),
    };
    let response = ui.add(Button::new(RichText::new(text).color(color)).truncate());
    let response = response.accessible_name(cx.words.commands.open_calibration);
    if response.on_hover_text(format!("{}\n{}", words.text_hint, path.display())).clicked() {
        cx.send(Command::Dialog(DialogKind::OpenCalibration));
    }
    if is_own {
        quiet_ui(cx, words.own_text, ui);
        let forget = ui.small_button("×").accessible_name(words.forget_text);
        if forget.on_hover_text(words.forget_text).clicked() {
            calibration.data = None;
        }
    } else if !needed {
        quiet_ui(cx, words.not_needed, ui);
    }
}

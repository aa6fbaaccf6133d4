//! Which trials: strategy, presets, formats, sparsities, layers.

use std::collections::BTreeSet;

use egui::{Button, ComboBox, DragValue, PopupCloseBehavior, RichText, Ui};

use super::{row_ui, rows_ui};
use crate::app::context::ViewContext;
use crate::app::sweep::{SweepKind, SweepSettings, SweepTarget};
use crate::model::LayerRole;
use crate::recipe::{Recipe, Rounding, SparsityMethod, WeightFormat};

/// The sparsities of a grid that can be ticked, in per cent.
const PERCENTS: [u8; 8] = [0, 10, 20, 30, 40, 50, 60, 70];

/// The part of the form that chooses trials.
pub(super) fn ui(
    cx: &ViewContext<'_>,
    settings: &mut SweepSettings,
    presets: &[(&'static str, Recipe)],
    formats: &[WeightFormat],
    ui: &mut Ui,
) {
    let words = &cx.words.sweep;
    rows_ui("strategy", ui, |ui| {
        row_ui(words.strategy, ui, |ui| {
            let combo = ComboBox::from_id_salt("kind").selected_text(words.kind(settings.kind)).width(190.0);
            let shown = combo.show_ui(ui, |ui| {
                for kind in SweepKind::ALL {
                    let response = ui.selectable_value(&mut settings.kind, kind, words.kind(kind));
                    response.on_hover_text(words.explain(kind));
                }
            });
            shown.response.accessible_name(words.strategy);
        });
    });
    ui.add(egui::Label::new(RichText::new(words.explain(settings.kind)).small().color(cx.theme.text_weak)).wrap());
    if settings.kind == SweepKind::Presets {
        ui.scope(|ui| presets_ui(settings, presets, ui));
    }
    rows_ui("varied", ui, |ui| {
        if matches!(settings.kind, SweepKind::Grid | SweepKind::LadderFormats) {
            row_ui(words.formats, ui, |ui| formats_ui(cx, settings, formats, ui));
        }
        if settings.kind == SweepKind::Grid {
            row_ui(words.roundings, ui, |ui| roundings_ui(cx, settings, ui));
            row_ui(words.sparsities, ui, |ui| percents_ui(cx, settings, ui));
            row_ui(words.pruned_by, ui, |ui| methods_ui(cx, settings, ui));
        }
        if settings.kind == SweepKind::LadderSparsity {
            row_ui(words.sparsities, ui, |ui| ladder_ui(cx, settings, ui));
            row_ui(words.pruned_by, ui, |ui| ladder_method_ui(cx, settings, ui));
        }
        if !matches!(settings.kind, SweepKind::ThisRecipe | SweepKind::Presets) {
            row_ui(words.layers, ui, |ui| target_ui(cx, settings, ui));
        }
    });
}

fn presets_ui(settings: &mut SweepSettings, presets: &[(&'static str, Recipe)], ui: &mut Ui) {
    ui.spacing_mut().item_spacing.y = 1.0;
    for (id, recipe) in presets {
        let mut ticked = settings.presets.contains(*id);
        if ui.checkbox(&mut ticked, &recipe.name).changed() {
            toggle(&mut settings.presets, (*id).to_owned(), ticked);
        }
    }
}

fn formats_ui(cx: &ViewContext<'_>, settings: &mut SweepSettings, formats: &[WeightFormat], ui: &mut Ui) {
    let words = &cx.words.sweep;
    let ticked: Vec<String> =
        formats.iter().filter(|format| settings.formats.contains(format)).map(|format| format.label()).collect();
    let text = if ticked.is_empty() { words.none.to_owned() } else { ticked.join(", ") };
    let combo = ComboBox::from_id_salt("formats").selected_text(text).width(210.0).truncate();
    let shown = combo.close_behavior(PopupCloseBehavior::CloseOnClickOutside).show_ui(ui, |ui| {
        for format in formats {
            let mut ticked = settings.formats.contains(format);
            if ui.checkbox(&mut ticked, RichText::new(format.label()).monospace()).changed() {
                toggle(&mut settings.formats, *format, ticked);
            }
        }
    });
    shown.response.accessible_name(words.formats);
}

/// Ways of rounding, any number of them; none stands for the recipe's own.
fn roundings_ui(cx: &ViewContext<'_>, settings: &mut SweepSettings, ui: &mut Ui) {
    ui.spacing_mut().item_spacing.x = 2.0;
    let words = cx.words;
    for (rounding, note) in Rounding::all().into_iter().zip(words.methods.rounding_note) {
        let name = rounding.name();
        let ticked = settings.roundings.contains(name);
        let button = Button::selectable(ticked, RichText::new(name).monospace());
        let response = ui.add(button).accessible_name(format!("{} {name}", words.methods.rounding));
        if response.on_hover_text(note).clicked() {
            toggle(&mut settings.roundings, name.to_owned(), !ticked);
        }
    }
    if settings.roundings.is_empty() {
        ui.label(RichText::new(words.sweep.as_recipe).small().color(cx.theme.text_weak));
    }
}

fn methods_ui(cx: &ViewContext<'_>, settings: &mut SweepSettings, ui: &mut Ui) {
    ui.spacing_mut().item_spacing.x = 2.0;
    for (method, note) in SparsityMethod::ALL.into_iter().zip(cx.words.methods.sparsity_note) {
        let ticked = settings.sparsity_methods.contains(&method);
        let button = Button::selectable(ticked, RichText::new(method.name()).monospace());
        let response = ui.add(button).accessible_name(format!("{} {}", cx.words.methods.sparsity, method.name()));
        if response.on_hover_text(note).clicked() {
            toggle(&mut settings.sparsity_methods, method, !ticked);
        }
    }
}

fn ladder_method_ui(cx: &ViewContext<'_>, settings: &mut SweepSettings, ui: &mut Ui) {
    ui.spacing_mut().item_spacing.x = 2.0;
    for (method, note) in SparsityMethod::ALL.into_iter().zip(cx.words.methods.sparsity_note) {
        let button = Button::selectable(settings.ladder_method == method, RichText::new(method.name()).monospace());
        let response = ui.add(button).accessible_name(format!("{} {}", cx.words.methods.sparsity, method.name()));
        if response.on_hover_text(note).clicked() {
            settings.ladder_method = method;
        }
    }
}

fn percents_ui(cx: &ViewContext<'_>, settings: &mut SweepSettings, ui: &mut Ui) {
    ui.spacing_mut().item_spacing.x = 2.0;
    let words = &cx.words.sweep;
    let has_method = !settings.sparsity_methods.is_empty();
    for percent in PERCENTS {
        let ticked = settings.grid_percents.contains(&percent);
        let text = crate::units::percent(f64::from(percent) / 100.0);
        let label = RichText::new(percent.to_string()).monospace();
        let name = (words.percent_name)(&text);
        // A share that nothing prunes by would be left out of the grid.
        let response = ui.add_enabled(percent == 0 || has_method, Button::selectable(ticked, label));
        if response.accessible_name(name).on_disabled_hover_text(words.no_method).clicked() {
            toggle(&mut settings.grid_percents, percent, !ticked);
        }
    }
    ui.label("%");
    if !has_method && settings.grid_percents.iter().any(|percent| *percent > 0) {
        ui.label(RichText::new(words.no_method).small().color(cx.theme.warn));
    }
}

fn ladder_ui(cx: &ViewContext<'_>, settings: &mut SweepSettings, ui: &mut Ui) {
    let names = cx.words.sweep.ladder;
    let [first, last, step] = &mut settings.ladder_percents;
    let ranges = [(first, 0..=95), (last, 0..=95), (step, 1..=50)];
    for ((value, range), name) in ranges.into_iter().zip(names) {
        ui.label(RichText::new(name).small().color(cx.theme.text_weak));
        let drag = DragValue::new(value).range(range).speed(0.25).suffix(" %").update_while_editing(false);
        ui.add(drag).accessible_name(name);
    }
}

fn target_ui(cx: &ViewContext<'_>, settings: &mut SweepSettings, ui: &mut Ui) {
    let words = cx.words;
    let name = |target: SweepTarget| match target {
        SweepTarget::Blocks => words.recipe.select_all.to_owned(),
        SweepTarget::Attention => words.recipe.select_attention.to_owned(),
        SweepTarget::Mlp => words.recipe.select_mlp.to_owned(),
        SweepTarget::Role(role) => (words.recipe.select_role)(role.name()),
    };
    let roles = LayerRole::ALL.into_iter().map(SweepTarget::Role);
    let combo = ComboBox::from_id_salt("target").selected_text(name(settings.target)).width(190.0);
    let shown = combo.show_ui(ui, |ui| {
        for target in [SweepTarget::Blocks, SweepTarget::Attention, SweepTarget::Mlp].into_iter().chain(roles) {
            ui.selectable_value(&mut settings.target, target, name(target));
        }
    });
    shown.response.accessible_name(words.sweep.layers);
}

fn toggle<T: Ord>(set: &mut BTreeSet<T>, value: T, ticked: bool) {
    if ticked {
        set.insert(value);
    } else {
        set.remove(&value);
    }
}

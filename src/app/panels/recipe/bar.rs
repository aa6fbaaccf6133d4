//! Above the recipe's table: name, presets, undo; filter and selection; the controls of the selection.

use std::collections::BTreeSet;

use egui::{Button, RichText, TextEdit, Ui};

use super::methods::Choices;
use super::rows::{Layers, Row, RowKind};
use super::{RecipePanel, edits, methods};
use crate::app::command::{Command, DialogKind};
use crate::app::context::ViewContext;
use crate::app::widgets::format_menu::FormatMenu;
use crate::model::{Layer, LayerRole, ModelGraph};
use crate::recipe::{LayerChange, Recipe, WeightFormat};

impl RecipePanel {
    /// Everything above the table.
    pub(super) fn top_ui(&mut self, cx: &ViewContext<'_>, graph: &ModelGraph, ui: &mut Ui) {
        self.name_ui(cx, ui);
        self.filter_ui(cx, graph, ui);
        Self::selection_ui(cx, graph, ui);
        ui.add_space(2.0);
    }

    fn name_ui(&self, cx: &ViewContext<'_>, ui: &mut Ui) {
        let words = &cx.words.recipe;
        ui.horizontal(|ui| {
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                let redo = ui
                    .add_enabled(cx.can_redo, Button::new(RichText::new("↷").size(16.0)))
                    .accessible_name(cx.words.commands.redo);
                if redo.on_hover_text(cx.words.commands.redo).clicked() {
                    cx.send(Command::Redo);
                }
                let undo = ui
                    .add_enabled(cx.can_undo, Button::new(RichText::new("↶").size(16.0)))
                    .accessible_name(cx.words.commands.undo);
                if undo.on_hover_text(cx.words.commands.undo).clicked() {
                    cx.send(Command::Undo);
                }
                ui.menu_button(words.presets, |ui| self.presets_ui(cx, ui));
                let mut name = cx.draft.recipe.name.clone();
                let field = TextEdit::singleline(&mut name).desired_width(f32::INFINITY);
                let response = ui.add(field).accessible_name(words.name);
                if response.changed() {
                    cx.send(Command::SetRecipe(Box::new(Recipe { name, ..cx.draft.recipe.clone() })));
                }
            });
        });
    }

    fn presets_ui(&self, cx: &ViewContext<'_>, ui: &mut Ui) {
        for recipe in &self.presets {
            if ui.button(&recipe.name).clicked() {
                cx.send(Command::SetRecipe(Box::new(recipe.clone())));
                ui.close();
            }
        }
        ui.separator();
        if ui.button(cx.words.commands.reference).clicked() {
            cx.send(Command::SetRecipe(Box::new(Recipe::reference())));
            ui.close();
        }
        if ui.button(cx.words.commands.open_recipe).clicked() {
            cx.send(Command::Dialog(DialogKind::OpenRecipe));
            ui.close();
        }
    }

    fn filter_ui(&mut self, cx: &ViewContext<'_>, graph: &ModelGraph, ui: &mut Ui) {
        let words = &cx.words.recipe;
        ui.horizontal(|ui| {
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                ui.menu_button(words.select, |ui| self.select_ui(cx, graph, ui));
                let field =
                    TextEdit::singleline(&mut self.filter).hint_text(words.filter_hint).desired_width(f32::INFINITY);
                ui.add(field).accessible_name(words.filter);
            });
        });
    }

    fn select_ui(&self, cx: &ViewContext<'_>, graph: &ModelGraph, ui: &mut Ui) {
        let words = &cx.words.recipe;
        let item = |ui: &mut Ui, text: &str, keep: &dyn Fn(&Layer) -> bool| {
            if ui.button(text).clicked() {
                let chosen = graph.layers.iter().filter(|layer| keep(layer)).map(|layer| layer.path.clone());
                cx.send(Command::SelectLayers(chosen.collect()));
                ui.close();
            }
        };
        item(ui, words.select_all, &|layer| layer.block.is_some());
        item(ui, words.select_attention, &|layer| is_attention(layer.role));
        item(ui, words.select_mlp, &|layer| is_mlp(layer.role));
        let shown: BTreeSet<usize> = self.rows().iter().flat_map(|row| row.layers.iter().copied()).collect();
        if ui.button(words.select_shown).clicked() {
            cx.send(Command::SelectLayers(edits::paths(graph, &shown.into_iter().collect::<Vec<_>>())));
            ui.close();
        }
        ui.separator();
        for role in LayerRole::ALL {
            if graph.layers.iter().any(|layer| layer.role == role) {
                item(ui, &(words.select_role)(role.name()), &|layer| layer.role == role);
            }
        }
        ui.separator();
        item(ui, words.select_none, &|_| false);
    }

    fn selection_ui(cx: &ViewContext<'_>, graph: &ModelGraph, ui: &mut Ui) {
        let words = &cx.words.recipe;
        let layers: Vec<usize> =
            (0..graph.layers.len()).filter(|&index| cx.selection.layers.contains(&graph.layers[index].path)).collect();
        let row = Layers::new(graph, cx.draft).row(RowKind::Layer(0), layers);
        ui.horizontal(|ui| {
            ui.set_min_height(crate::app::theme::ROW_HEIGHT);
            let Some(row) = row else {
                ui.label(RichText::new(words.select_hint).small().color(cx.theme.text_weak));
                return;
            };
            let count = RichText::new((words.selected)(row.layers.len())).color(cx.theme.text_strong);
            ui.label(count);
            selection_controls_ui(cx, graph, &row, ui);
        });
    }
}

fn selection_controls_ui(cx: &ViewContext<'_>, graph: &ModelGraph, row: &Row, ui: &mut Ui) {
    let words = &cx.words.recipe;
    let recipe = &cx.draft.recipe;
    let set = |recipe: Recipe| cx.send(Command::SetRecipe(Box::new(recipe)));
    if let Some(format) = weights_ui(cx, graph, row, words.selection_name, ui) {
        set(edits::changed(recipe, graph, &row.layers, LayerChange::Weights(format)));
    }
    let width = (ui.available_width() - 62.0).clamp(72.0, 160.0);
    methods::button_ui(cx, graph, row, words.selection_name, width, ui);
    if ui.button(words.reset).clicked() {
        set(edits::changed(recipe, graph, &row.layers, LayerChange::Reset));
    }
}

/// The choice of a format for the layers of a row.
pub(super) fn weights_ui(
    cx: &ViewContext<'_>,
    graph: &ModelGraph,
    row: &Row,
    name: &str,
    ui: &mut Ui,
) -> Option<WeightFormat> {
    let choices = Choices::new(cx, graph, &row.layers);
    let menu = FormatMenu {
        name: &(cx.words.recipe.weights_name)(name),
        current: row.weights.same(),
        status: choices.now(),
        width: super::table::WEIGHTS_WIDTH - 4.0,
        legality: &|format| choices.after(LayerChange::Weights(format)),
        fp8_heading: cx.words.methods.fp8_heading,
        words: &cx.words.recipe,
        theme: cx.theme,
    };
    menu.ui(ui)
}

fn is_attention(role: LayerRole) -> bool {
    matches!(role, LayerRole::QProj | LayerRole::KProj | LayerRole::VProj | LayerRole::OProj)
}

fn is_mlp(role: LayerRole) -> bool {
    matches!(role, LayerRole::GateProj | LayerRole::UpProj | LayerRole::DownProj)
}

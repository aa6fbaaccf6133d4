//! What a recipe says of the whole model: structure, sharing, cache, attention, calibration; and what follows from it.

mod passes;
mod preview;
mod sharing;
mod structure;

use egui::{Grid, Label, RichText, ScrollArea, Sense, Ui};

use crate::app::command::Command;
use crate::app::context::ViewContext;
use crate::app::panels::Panel;
use crate::app::panels::recipe::edits::named_after;
use crate::app::panels::recipe::issues_ui;
use crate::app::theme::Mark;
use crate::app::widgets::choice::Choice;
use crate::app::widgets::format_menu::Legality;
use crate::model::ModelGraph;
use crate::recipe::Recipe;
use crate::units;

/// Width of the tile from which its sections stand in two columns, in points.
const TWO_COLUMNS_FROM: f32 = 860.0;

/// The tile about the whole model.
#[derive(Debug, Default)]
pub struct WholePanel;

impl Panel for WholePanel {
    fn title(&self) -> &'static str {
        crate::app::words::current().titles.whole
    }

    fn ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui) {
        let Some(graph) = cx.graph else {
            ui.centered_and_justified(|ui| {
                ui.label(RichText::new(cx.words.recipe.no_model).color(cx.theme.text_weak));
            });
            return;
        };
        predicted_ui(cx, graph, ui);
        issues_ui(cx, ui);
        ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
            let mut recipe = cx.draft.recipe.clone();
            if ui.available_width() < TWO_COLUMNS_FROM {
                stored_ui(cx, graph, &mut recipe, ui);
                made_ui(cx, graph, &mut recipe, ui);
            } else {
                ui.columns_const(|[left, right]| {
                    stored_ui(cx, graph, &mut recipe, left);
                    made_ui(cx, graph, &mut recipe, right);
                });
            }
            ui.add_space(8.0);
            if recipe != cx.draft.recipe {
                let recipe = named_after(&cx.draft.recipe, recipe);
                cx.send(Command::SetRecipe(Box::new(recipe)));
            }
        });
    }
}

/// Widths of the blocks and formats of their cache.
fn stored_ui(cx: &ViewContext<'_>, graph: &ModelGraph, recipe: &mut Recipe, ui: &mut Ui) {
    heading_ui(cx, cx.words.whole.structure, cx.words.whole.structure_note, ui);
    structure::ui(cx, graph, &mut recipe.structure, ui);
    heading_ui(cx, cx.words.whole.cache, "", ui);
    passes::cache_ui(cx, graph, &mut recipe.kv_cache, ui);
}

/// Calibration, attention and sharing.
fn made_ui(cx: &ViewContext<'_>, graph: &ModelGraph, recipe: &mut Recipe, ui: &mut Ui) {
    heading_ui(cx, cx.words.whole.calibration, cx.words.whole.calibration_note, ui);
    passes::calibration_ui(cx, graph, recipe, ui);
    heading_ui(cx, cx.words.whole.attention, "", ui);
    passes::attention_ui(cx, graph, &mut recipe.attention, ui);
    heading_ui(cx, cx.words.whole.sharing, cx.words.whole.sharing_note, ui);
    sharing::ui(cx, graph, &mut recipe.sharing, ui);
}

/// Bytes and bits per weight that the plan predicts, and why they are an estimate where they are.
fn predicted_ui(cx: &ViewContext<'_>, graph: &ModelGraph, ui: &mut Ui) {
    let words = &cx.words.whole;
    ui.horizontal_wrapped(|ui| {
        ui.label(RichText::new(words.predicted).small().color(cx.theme.text_weak));
        let Some(Ok(plan)) = &cx.draft.plan else {
            ui.label(RichText::new(words.not_runnable).small().color(cx.theme.text_weak));
            return;
        };
        let (stored, bytes) = (graph.stored_bytes(), plan.weight_bytes());
        let text = format!("{} → {}", units::bytes(stored), units::bytes(bytes));
        let text = RichText::new(text).monospace().color(cx.theme.text_strong);
        if ui.add(Label::new(text).sense(Sense::click())).on_hover_text(words.copy_hint).clicked() {
            cx.send(Command::Copy(bytes.to_string()));
        }
        let bits = format!("{} {}", units::significant(plan.bits_per_weight(), 3), cx.words.toolbar.bits_per_weight);
        ui.label(RichText::new(bits).monospace());
        if let Some(reason) = plan.estimated {
            let text = Mark::Estimated.before(&format!("{}: {reason}", words.estimated));
            ui.label(RichText::new(text).small().color(cx.theme.text_weak));
        }
    });
}

/// The heading of a section, with what it is about behind it.
fn heading_ui(cx: &ViewContext<'_>, text: &str, note: &str, ui: &mut Ui) {
    ui.add_space(8.0);
    let response = ui.label(RichText::new(text).strong().color(cx.theme.text_strong));
    if !note.is_empty() {
        response.on_hover_text(note);
    }
}

/// Rows of a name and its controls, aligned.
fn rows_ui(id: &str, ui: &mut Ui, rows: impl FnOnce(&mut Ui)) {
    Grid::new(id).num_columns(2).min_col_width(78.0).spacing([8.0, 4.0]).show(ui, rows);
}

/// One row: name, then controls.
fn row_ui(name: &str, note: &str, ui: &mut Ui, controls: impl FnOnce(&mut Ui)) {
    let response = ui.label(name);
    if !note.is_empty() {
        response.on_hover_text(note);
    }
    ui.horizontal(controls);
    ui.end_row();
}

/// As [`row_ui`] for an option of the row above it.
fn option_ui(cx: &ViewContext<'_>, name: &str, ui: &mut Ui, controls: impl FnOnce(&mut Ui)) {
    quiet_ui(cx, name, ui);
    ui.horizontal(controls);
    ui.end_row();
}

/// A quiet name before a control of the same row.
fn quiet_ui(cx: &ViewContext<'_>, text: &str, ui: &mut Ui) -> egui::Response {
    ui.label(RichText::new(text).small().color(cx.theme.text_weak))
}

/// One of several named values: `Keys q8_0`; returns whether it was chosen.
fn choice_ui(of: &str, text: &str, hint: &str, selected: bool, legality: Legality, ui: &mut Ui) -> bool {
    Choice { text, name: &format!("{of} {text}"), hint, simulated: "" }.ui(selected, legality, ui) && !selected
}

/// Why nothing of the model would be left of `recipe`, if nothing would.
fn blocks_left(cx: &ViewContext<'_>, graph: &ModelGraph, recipe: &Recipe) -> Legality {
    let is_empty = recipe.block_shapes(graph).iter().all(|block| block.is_empty());
    let had_some = cx.draft.blocks.iter().any(|block| !block.is_empty());
    if is_empty && had_some { Err(crate::recipe::Problem::NothingLeft.to_string()) } else { Ok(None) }
}

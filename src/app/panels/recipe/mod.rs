//! The recipe's table: embedding, blocks, layers; what each is made of and what it weighs.

mod bar;
pub(super) mod edits;
mod methods;
mod rows;
mod table;

use std::collections::BTreeSet;

use egui::Ui;

use crate::app::command::{Command, DialogKind};
use crate::app::context::ViewContext;
use crate::app::panels::Panel;
use crate::device::DeviceSpec;
use crate::model::{Fingerprint, ModelGraph};
use crate::recipe::{Problem, Recipe, presets};
use edits::Remembered;
use rows::{Layers, Row, RowKind};

/// Models with more blocks begin with all of them closed.
const OPEN_BLOCKS: usize = 8;

/// The recipe's table.
pub struct RecipePanel {
    filter: String,
    closed: BTreeSet<u16>,
    anchor: Option<RowKind>,
    remembered: Remembered,
    presets: Vec<Recipe>,
    model: Option<Fingerprint>,
    cache: Option<(Key, Vec<Row>)>,
}

/// What the rows depend on.
#[derive(PartialEq, Eq, Clone)]
struct Key {
    draft: u64,
    model: Fingerprint,
    device: DeviceSpec,
    filter: String,
    closed: BTreeSet<u16>,
}

impl Default for RecipePanel {
    fn default() -> Self {
        Self {
            filter: String::new(),
            closed: BTreeSet::new(),
            anchor: None,
            remembered: Remembered::new(),
            presets: presets().iter().map(|preset| preset.recipe()).collect(),
            model: None,
            cache: None,
        }
    }
}

impl Panel for RecipePanel {
    fn title(&self) -> &'static str {
        crate::app::words::current().titles.recipe
    }

    fn ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui) {
        let Some(graph) = cx.graph else {
            ui.centered_and_justified(|ui| {
                ui.label(egui::RichText::new(cx.words.recipe.no_model).color(cx.theme.text_weak));
            });
            return;
        };
        self.refresh(cx, graph);
        self.top_ui(cx, graph, ui);
        issues_ui(cx, ui);
        self.table_ui(cx, graph, ui);
    }
}

impl RecipePanel {
    /// Recomputes the rows when what they depend on has changed.
    fn refresh(&mut self, cx: &ViewContext<'_>, graph: &ModelGraph) {
        if self.model.as_ref() != Some(&graph.fingerprint) {
            self.model = Some(graph.fingerprint.clone());
            self.remembered.clear();
            let n_blocks = graph.family.n_blocks();
            let blocks = if n_blocks > OPEN_BLOCKS { u16::try_from(n_blocks).unwrap_or(u16::MAX) } else { 0 };
            self.closed = (0..blocks).collect();
        }
        let key = Key {
            draft: cx.draft.generation,
            model: graph.fingerprint.clone(),
            device: cx.device,
            filter: self.filter.clone(),
            closed: self.closed.clone(),
        };
        if self.cache.as_ref().is_none_or(|(cached, _)| *cached != key) {
            let rows = Layers::new(graph, cx.draft).rows(&self.closed, &self.filter);
            self.cache = Some((key, rows));
        }
    }

    fn rows(&self) -> &[Row] {
        self.cache.as_ref().map_or(&[], |(_, rows)| rows)
    }
}

/// Every problem of the recipe on this model and device, each with its layer, and what solves it where a click does.
pub(in crate::app::panels) fn issues_ui(cx: &ViewContext<'_>, ui: &mut Ui) {
    let Some(Err(issues)) = &cx.draft.plan else { return };
    egui::Panel::bottom("issues").resizable(false).show_separator_line(true).show(ui, |ui| {
        let heading = (cx.words.recipe.issues)(issues.len());
        ui.label(egui::RichText::new(heading).color(cx.theme.bad));
        egui::ScrollArea::vertical().max_height(76.0).auto_shrink([false, true]).show(ui, |ui| {
            for issue in issues {
                ui.add(egui::Label::new(egui::RichText::new(issue.to_string()).small()).wrap());
                if issue.problem == Problem::NoCalibration && ui.button(cx.words.whole.choose_text).clicked() {
                    cx.send(Command::Dialog(DialogKind::OpenCalibration));
                }
            }
        });
    });
}

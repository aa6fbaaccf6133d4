//! The table itself: one row a block or layer; only the visible ones are built.

use egui::{Align, Checkbox, Label, Layout, RichText, Sense, TextStyle, Ui};
use egui_extras::{Column, TableBuilder, TableRow};

use super::bar::weights_ui;
use super::methods;
use super::rows::{Row, RowKind};
use super::{RecipePanel, edits};
use crate::app::command::Command;
use crate::app::context::ViewContext;
use crate::app::theme::{HEADER_HEIGHT, ROW_HEIGHT};
use crate::model::{LayerPath, LayerRole, ModelGraph};
use crate::recipe::{LayerChange, Recipe};

/// Width of the column of formats, in points.
pub(super) const WEIGHTS_WIDTH: f32 = 116.0;

/// Width of the column of methods where the tile is wide, and where it is not.
const WIDE_METHODS: f32 = 220.0;
const NARROW_METHODS: f32 = 96.0;

/// Width of the other columns with a short name of a layer, and of the gaps, without shapes.
const OTHER_COLUMNS: f32 = 354.0;

/// Width of the column of shapes: `768×288 → 576×288`.
const SHAPE_WIDTH: f32 = 134.0;

/// Below this width the shape is left to the layer's hover text.
const SHAPE_FROM: f32 = 760.0;

impl RecipePanel {
    /// The table with its header.
    pub(super) fn table_ui(&mut self, cx: &ViewContext<'_>, graph: &ModelGraph, ui: &mut Ui) {
        let words = &cx.words.recipe;
        if self.rows().is_empty() {
            ui.add_space(12.0);
            ui.label(RichText::new(words.filter_empty).color(cx.theme.text_weak));
            return;
        }
        let with_shape = ui.available_width() >= SHAPE_FROM;
        let rest = ui.available_width() - OTHER_COLUMNS;
        let roomy = rest.min(NARROW_METHODS).max(0.6 * rest).clamp(56.0, WIDE_METHODS);
        let methods_width = if with_shape { WIDE_METHODS } else { roomy };
        ui.spacing_mut().item_spacing.x = 6.0;
        let rows = std::mem::take(&mut self.cache);
        let mut table = TableBuilder::new(ui)
            .id_salt("recipe")
            .striped(true)
            .sense(Sense::click())
            .auto_shrink([false, false])
            .cell_layout(Layout::left_to_right(Align::Center))
            .column(Column::exact(22.0))
            .column(Column::remainder().at_least(76.0).clip(true));
        if with_shape {
            table = table.column(Column::exact(SHAPE_WIDTH));
        }
        let table = table
            .column(Column::exact(WEIGHTS_WIDTH))
            .column(Column::exact(methods_width))
            .column(Column::exact(62.0))
            .column(Column::exact(38.0));
        let table = table.header(HEADER_HEIGHT, |mut header| header_ui(cx, with_shape, &mut header));
        if let Some((_, rows)) = &rows {
            table.body(|body| {
                body.rows(ROW_HEIGHT, rows.len(), |mut table_row| {
                    let row = &rows[table_row.index()];
                    self.row_ui(cx, graph, (rows, row), with_shape, &mut table_row);
                });
            });
        }
        self.cache = rows;
    }

    fn row_ui(
        &mut self,
        cx: &ViewContext<'_>,
        graph: &ModelGraph,
        (rows, row): (&[Row], &Row),
        with_shape: bool,
        table_row: &mut TableRow<'_, '_>,
    ) {
        let selected = row.layers.iter().all(|&index| cx.selection.layers.contains(&graph.layers[index].path));
        table_row.set_selected(selected);
        let name = name_of(row, graph, cx);
        let mut clicked = false;
        table_row.col(|ui| self.toggle_ui(cx, graph, row, &name, ui));
        table_row.col(|ui| clicked = self.label_ui(cx, graph, row, &name, ui));
        if with_shape {
            table_row.col(|ui| shape_ui(cx, graph, row, ui));
        }
        table_row.col(|ui| {
            if let Some(format) = weights_ui(cx, graph, row, &name, ui) {
                let change = LayerChange::Weights(format);
                send(cx, edits::changed(&cx.draft.recipe, graph, &row.layers, change));
            }
        });
        table_row.col(|ui| {
            let width = ui.available_width() - 2.0;
            methods::button_ui(cx, graph, row, &name, width, ui);
        });
        table_row.col(|ui| number_ui(ui, row.bytes.map(crate::units::bytes), cx));
        table_row.col(|ui| number_ui(ui, row.bits.map(|bits| crate::units::significant(bits, 3)), cx));
        let response = table_row.response();
        if clicked || response.clicked() {
            let modifiers = response.ctx.input(|input| input.modifiers);
            self.select(cx, graph, (rows, row), modifiers);
        }
    }

    fn select(
        &mut self,
        cx: &ViewContext<'_>,
        graph: &ModelGraph,
        (rows, row): (&[Row], &Row),
        modifiers: egui::Modifiers,
    ) {
        let mut layers = cx.selection.layers.clone();
        let own: Vec<LayerPath> = edits::paths(graph, &row.layers).into_iter().collect();
        let position = |kind: RowKind| rows.iter().position(|row| row.kind == kind);
        let range = self.anchor.and_then(position).zip(position(row.kind)).filter(|_| modifiers.shift);
        if let Some((from, to)) = range {
            layers =
                rows[from.min(to)..=from.max(to)].iter().flat_map(|row| edits::paths(graph, &row.layers)).collect();
        } else if modifiers.command {
            let all = own.iter().all(|path| layers.contains(path));
            for path in own {
                if all {
                    layers.remove(&path)
                } else {
                    layers.insert(path)
                };
            }
            self.anchor = Some(row.kind);
        } else {
            layers = own.into_iter().collect();
            self.anchor = Some(row.kind);
        }
        cx.send(Command::SelectLayers(layers));
    }

    fn toggle_ui(&mut self, cx: &ViewContext<'_>, graph: &ModelGraph, row: &Row, name: &str, ui: &mut Ui) {
        let mut on = row.on.same().unwrap_or(true);
        let mixed = row.on.same().is_none();
        let check = Checkbox::without_text(&mut on).indeterminate(mixed);
        let response = ui.add(check).accessible_name((cx.words.recipe.toggle_name)(name));
        if response.changed() {
            let recipe = edits::toggled(&cx.draft.recipe, graph, &row.layers, on, &mut self.remembered);
            send(cx, recipe);
        }
        response.on_hover_text(cx.words.recipe.toggle_note);
    }

    fn label_ui(&mut self, cx: &ViewContext<'_>, graph: &ModelGraph, row: &Row, name: &str, ui: &mut Ui) -> bool {
        match row.kind {
            RowKind::Block(block) => {
                let closed = self.closed.contains(&block) && self.filter.is_empty();
                let arrow = egui::Button::new(if closed { "▸" } else { "▾" }).frame(false);
                let response = ui.add(arrow).accessible_name((cx.words.recipe.expand_name)(name));
                if response.clicked() && !self.closed.remove(&block) {
                    self.closed.insert(block);
                }
                let text = RichText::new(name).color(cx.theme.text_strong);
                name_ui(ui, Label::new(text), name).clicked()
            }
            RowKind::Layer(index) => {
                let layer = &graph.layers[index];
                let (indent, text) = match layer.role {
                    LayerRole::Embedding => (0.0, cx.words.recipe.embedding),
                    LayerRole::Head => (0.0, cx.words.recipe.head),
                    _ => (14.0, layer.short_name()),
                };
                ui.add_space(indent);
                let shape = shape_text(layer.shape, row.shape);
                name_ui(ui, Label::new(text), name)
                    .on_hover_ui(|ui| {
                        ui.label(RichText::new(name).monospace());
                        ui.label((cx.words.recipe.layer_note)(&shape, layer.stored_name()));
                    })
                    .clicked()
            }
        }
    }
}

/// The name of a row: a click selects it, so it is a button to those who do not see it.
fn name_ui(ui: &mut Ui, label: Label, name: &str) -> egui::Response {
    let response = ui.add(label.sense(Sense::click()).truncate());
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, ui.is_enabled(), name));
    response
}

fn header_ui(cx: &ViewContext<'_>, with_shape: bool, header: &mut TableRow<'_, '_>) {
    let words = &cx.words.recipe;
    let text = |text: &str| RichText::new(text).small().color(cx.theme.text_weak);
    let mut left = |name: &str| {
        header.col(|ui| {
            ui.label(text(name));
        });
    };
    left(words.on);
    left(words.layer);
    if with_shape {
        left(words.shape);
    }
    left(words.weights);
    left(cx.words.methods.column);
    for name in [words.bytes, words.bits] {
        header.col(|ui| {
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| ui.label(text(name)));
        });
    }
}

fn shape_ui(cx: &ViewContext<'_>, graph: &ModelGraph, row: &Row, ui: &mut Ui) {
    if let RowKind::Layer(index) = row.kind {
        let text = RichText::new(shape_text(graph.layers[index].shape, row.shape));
        ui.add(Label::new(text.text_style(TextStyle::Monospace).size(11.0).color(cx.theme.text_weak)).truncate());
    }
}

/// `768×288`, `768×288 → 576×288` after structural pruning, `768×288 → —` where the layer is removed.
fn shape_text([rows, columns]: [usize; 2], after: Option<[usize; 2]>) -> String {
    match after {
        Some(after) if after == [rows, columns] => format!("{rows}×{columns}"),
        Some([left, right]) => format!("{rows}×{columns} → {left}×{right}"),
        None => format!("{rows}×{columns} → —"),
    }
}

fn number_ui(ui: &mut Ui, number: Option<String>, cx: &ViewContext<'_>) {
    ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
        let text = number.unwrap_or_else(|| crate::app::theme::Mark::Failed.glyph().to_owned());
        let text = RichText::new(text).text_style(TextStyle::Monospace).size(11.0);
        ui.add(Label::new(text.color(cx.theme.text)).extend());
    });
}

fn name_of(row: &Row, graph: &ModelGraph, cx: &ViewContext<'_>) -> String {
    match row.kind {
        RowKind::Block(block) => (cx.words.recipe.block)(block),
        RowKind::Layer(index) => graph.layers[index].path.0.clone(),
    }
}

fn send(cx: &ViewContext<'_>, recipe: Recipe) {
    cx.send(Command::SetRecipe(Box::new(recipe)));
}

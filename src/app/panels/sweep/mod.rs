//! What Run will try, measure and stop at. One form, one to one with the study's specification.

mod plan;
mod strategy;
mod workload;

use egui::{Grid, Label, RichText, ScrollArea, Ui};

use crate::app::command::Command;
use crate::app::context::ViewContext;
use crate::app::panels::Panel;
use crate::recipe::{Recipe, WeightFormat, presets};

/// The sweep's form.
pub struct SweepPanel {
    presets: Vec<(&'static str, Recipe)>,
    formats: Vec<WeightFormat>,
}

impl Default for SweepPanel {
    fn default() -> Self {
        Self {
            presets: presets().iter().map(|preset| (preset.id, preset.recipe())).collect(),
            formats: crate::app::sweep::SweepSettings::choices(),
        }
    }
}

impl Panel for SweepPanel {
    fn title(&self) -> &'static str {
        crate::app::words::current().titles.sweep
    }

    fn ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui) {
        plan::ui(cx, ui);
        ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
            let mut settings = cx.sweep.clone();
            ui.add_enabled_ui(cx.status.is_none(), |ui| {
                strategy::ui(cx, &mut settings, &self.presets, &self.formats, ui);
                workload::measure_ui(cx, &mut settings, ui);
                workload::stop_ui(cx, &mut settings, ui);
            });
            if settings != *cx.sweep {
                cx.send(Command::SetSweep(Box::new(settings)));
            }
        });
    }
}

/// The heading of a part of the form.
fn heading_ui(cx: &ViewContext<'_>, text: &str, ui: &mut Ui) {
    ui.add_space(6.0);
    ui.label(RichText::new(text).small().color(cx.theme.text_weak));
}

/// Rows of a name and its controls, aligned.
fn rows_ui(id: &str, ui: &mut Ui, rows: impl FnOnce(&mut Ui)) {
    Grid::new(id).num_columns(2).min_col_width(84.0).spacing([8.0, 4.0]).show(ui, rows);
}

/// One row: name, then controls.
fn row_ui(name: &str, ui: &mut Ui, controls: impl FnOnce(&mut Ui)) {
    ui.add(Label::new(name));
    ui.horizontal(controls);
    ui.end_row();
}

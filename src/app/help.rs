//! The list of keys, made from the same table as menus and palette.

use egui::{Grid, Id, Modal, RichText};

use crate::app::actions::Action;
use crate::app::context::ViewContext;

/// Draws the list. Returns whether it should close.
pub(super) fn ui(cx: &ViewContext<'_>, ctx: &egui::Context) -> bool {
    let words = &cx.words.help;
    let modal = Modal::new(Id::unique("help")).show(ctx, |ui| {
        ui.set_width(420.0);
        ui.label(RichText::new(words.title).heading().color(cx.theme.text_strong));
        ui.add_space(8.0);
        Grid::new("keys").num_columns(2).striped(true).min_col_width(150.0).spacing([16.0, 6.0]).show(ui, |ui| {
            let keys = Action::all().filter_map(|action| Some((action.shortcut()?, action.name(cx.words))));
            for (shortcut, name) in keys {
                ui.label(RichText::new(ui.ctx().format_shortcut(&shortcut)).monospace());
                ui.label(name);
                ui.end_row();
            }
            ui.label(RichText::new("Ctrl +   Ctrl −   Ctrl 0").monospace());
            ui.label(words.zoom);
            ui.end_row();
        });
        ui.add_space(8.0);
        ui.button(words.close).clicked()
    });
    modal.inner || modal.should_close()
}

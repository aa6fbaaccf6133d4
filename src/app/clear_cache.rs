//! Asks before the cache of compressed layers is cleared.

use egui::{Button, Id, Modal, RichText};

use crate::app::command::Command;
use crate::app::context::ViewContext;

/// Draws the question. Returns whether it should close.
pub(super) fn ui(cx: &ViewContext<'_>, ctx: &egui::Context) -> bool {
    let words = &cx.words.cache;
    let modal = Modal::new(Id::unique("clear cache")).show(ctx, |ui| {
        ui.set_width(440.0);
        ui.label(RichText::new(words.question).heading().color(cx.theme.text_strong));
        ui.add_space(4.0);
        let size = cx.cache.bytes.map(crate::units::bytes).unwrap_or_default();
        ui.label((words.consequence)(&size));
        if let Some(dir) = &cx.cache.dir {
            let path = RichText::new(dir.display().to_string()).monospace().color(cx.theme.text_weak);
            ui.add(egui::Label::new(path).wrap());
        }
        ui.add_space(8.0);
        let mut close = false;
        ui.horizontal(|ui| {
            if ui.add_enabled(cx.cache.can_clear(), Button::new(words.confirm)).clicked() {
                cx.send(Command::ClearCache);
                close = true;
            }
            close |= ui.button(words.keep).clicked();
        });
        close
    });
    modal.inner || modal.should_close()
}

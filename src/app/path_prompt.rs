//! A path typed by hand, where no file dialog can be opened.

use std::path::PathBuf;

use egui::{Button, Id, Modal, RichText, TextEdit};

use crate::app::command::DialogKind;
use crate::app::context::ViewContext;
use crate::app::dialogs;
use crate::export::Existing;

/// Asks for the path that a dialog would have given.
pub(super) struct PathPrompt {
    kind: DialogKind,
    path: String,
}

impl PathPrompt {
    /// Asks for the path of `kind`, starting from `suggested`.
    pub(super) fn new(kind: DialogKind, suggested: String) -> Self {
        Self { kind, path: suggested }
    }

    /// Draws the prompt. Returns whether it should close.
    pub(super) fn ui(&mut self, cx: &ViewContext<'_>, ctx: &egui::Context) -> bool {
        let words = &cx.words.open;
        let modal = Modal::new(Id::unique("path")).show(ctx, |ui| {
            ui.set_width(480.0);
            ui.label(RichText::new(words.prompt_heading(self.kind)).heading().color(cx.theme.text_strong));
            ui.label(RichText::new(words.no_dialog).color(cx.theme.text_weak));
            ui.add_space(4.0);
            let field = TextEdit::singleline(&mut self.path).hint_text(words.path).desired_width(f32::INFINITY);
            let response = ui.add(field).accessible_name(words.path);
            let entered = response.lost_focus() && ui.input(|input| input.key_pressed(egui::Key::Enter));
            ui.add_space(8.0);
            let mut close = false;
            ui.horizontal(|ui| {
                let usable = !self.path.trim().is_empty();
                let done = ui.add_enabled(usable, Button::new(words.accept)).clicked() || (entered && usable);
                if done {
                    let path = PathBuf::from(self.path.trim());
                    cx.send(dialogs::command(self.kind, path, Existing::Refuse));
                }
                close = ui.button(words.cancel).clicked() || done;
            });
            close
        });
        modal.inner || modal.should_close()
    }
}

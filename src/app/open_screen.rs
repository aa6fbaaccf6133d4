//! What the window shows before a model or study is open: every way to open one.

use std::path::PathBuf;

use egui::{Button, Frame, Margin, RichText, ScrollArea, TextEdit, Ui};

use crate::app::command::{Command, DialogKind};
use crate::app::context::ViewContext;
use crate::session::ModelState;

/// Width of the column of choices, in points.
const WIDTH: f32 = 560.0;

/// The first screen. Holds the text of its path field.
#[derive(Default)]
pub(super) struct OpenScreen {
    path: String,
}

impl OpenScreen {
    /// Draws the screen.
    pub(super) fn ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui) {
        let words = &cx.words.open;
        ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
            let side = ((ui.available_width() - WIDTH) / 2.0).max(16.0);
            ui.add_space((ui.available_height() * 0.12).clamp(12.0, 120.0));
            ui.horizontal_top(|ui| {
                ui.add_space(side);
                ui.vertical(|ui| {
                    ui.set_width(WIDTH.min(ui.available_width() - 16.0));
                    ui.label(RichText::new(words.heading).heading().color(cx.theme.text_strong));
                    ui.label(RichText::new(words.lead).color(cx.theme.text_weak));
                    ui.add_space(16.0);
                    state_ui(cx, ui);
                    self.choices_ui(cx, ui);
                });
            });
        });
    }

    fn choices_ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui) {
        let words = &cx.words.open;
        choice_ui(cx, ui, words.demo, words.demo_hint, Command::OpenDemo);
        choice_ui(cx, ui, words.folder, words.folder_hint, Command::Dialog(DialogKind::OpenFolder));
        choice_ui(cx, ui, words.gguf, words.gguf_hint, Command::Dialog(DialogKind::OpenGguf));
        choice_ui(cx, ui, words.study, words.study_hint, Command::Dialog(DialogKind::OpenStudy));
        ui.add_space(12.0);
        ui.horizontal(|ui| {
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                let open = ui.add_enabled(!self.path.trim().is_empty(), Button::new(words.open)).clicked();
                let field =
                    TextEdit::singleline(&mut self.path).hint_text(words.path_hint).desired_width(f32::INFINITY);
                let response = ui.add(field).accessible_name(words.path);
                let entered = response.lost_focus() && ui.input(|input| input.key_pressed(egui::Key::Enter));
                if (open || entered) && !self.path.trim().is_empty() {
                    cx.send(Command::OpenPath(PathBuf::from(self.path.trim())));
                }
            });
        });
        ui.label(RichText::new(words.drop).small().color(cx.theme.text_weak));
        if !cx.recent.is_empty() {
            ui.add_space(16.0);
            ui.label(RichText::new(words.recent).color(cx.theme.text_weak));
            for path in cx.recent {
                let text = path.display().to_string();
                let button = Button::new(RichText::new(&text).monospace()).frame_when_inactive(false).truncate();
                if ui.add(button).clicked() {
                    cx.send(Command::OpenPath(path.clone()));
                }
            }
        }
    }
}

/// Says what is being opened, or why it cannot be.
fn state_ui(cx: &ViewContext<'_>, ui: &mut Ui) {
    match cx.model {
        ModelState::Closed | ModelState::Open(_) => {}
        ModelState::Opening(source) => {
            ui.horizontal(|ui| {
                ui.spinner();
                ui.label((cx.words.toolbar.opening)(&source.name()));
            });
            ui.add_space(12.0);
        }
        ModelState::Refused { source, message } => {
            Frame::new().fill(cx.theme.raised).corner_radius(4).inner_margin(Margin::same(12)).show(ui, |ui| {
                ui.set_width(ui.available_width());
                ui.label(RichText::new(cx.words.open.refused).color(cx.theme.bad));
                ui.label(RichText::new(source.path().display().to_string()).monospace().color(cx.theme.text_weak));
                ui.add(egui::Label::new(message).wrap());
            });
            ui.add_space(12.0);
        }
    }
}

fn choice_ui(cx: &ViewContext<'_>, ui: &mut Ui, name: &str, hint: &str, command: Command) {
    let hint = RichText::new(hint).color(cx.theme.text_weak);
    let name_text = RichText::new(name).color(cx.theme.text_strong);
    let button = Button::new(name_text).right_text(hint).min_size(egui::vec2(ui.available_width(), 36.0));
    if ui.add(button).accessible_name(name).clicked() {
        cx.send(command);
    }
}

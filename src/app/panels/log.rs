//! What was reported since the window opened, newest first.

use egui::{Label, RichText, ScrollArea, Ui};

use crate::app::command::Command;
use crate::app::context::ViewContext;
use crate::app::notices::level_ui;
use crate::app::panels::Panel;

/// The log.
#[derive(Debug, Default)]
pub struct LogPanel;

impl Panel for LogPanel {
    fn title(&self) -> &'static str {
        crate::app::words::current().titles.log
    }

    fn ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui) {
        if cx.log.is_empty() {
            ui.label(RichText::new(cx.words.shell.log_empty).color(cx.theme.text_weak));
            return;
        }
        let row_height = ui.text_style_height(&egui::TextStyle::Body);
        let area = ScrollArea::vertical().auto_shrink([false, false]);
        area.show_rows(ui, row_height, cx.log.len(), |ui, range| {
            for line in cx.log.iter().rev().skip(range.start).take(range.len()) {
                ui.horizontal(|ui| {
                    ui.set_height(row_height);
                    let at = RichText::new(crate::units::duration(line.at_secs as f64)).monospace().size(11.0);
                    ui.label(at.color(cx.theme.text_weak));
                    level_ui(cx.theme, line.level, ui);
                    let text = Label::new(&line.text).truncate().selectable(true);
                    ui.add(text).on_hover_text(&line.text);
                });
            }
        });
        let menu = egui::Popup::context_menu(&ui.response());
        menu.show(|ui| {
            if ui.button(cx.words.shell.copy_log).clicked() {
                let lines: Vec<&str> = cx.log.iter().map(|line| line.text.as_str()).collect();
                cx.send(Command::Copy(lines.join("\n")));
            }
        });
    }
}

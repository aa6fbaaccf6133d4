//! Messages: shown for a moment at the lower right, kept in the log.
//!
//! Drawn here and not by a toast crate: messages must be readable in both themes, and must not repaint the window while a
//! trial is being timed.

use std::time::Instant;

use egui::{Align2, Area, Button, Frame, Id, Label, Order, RichText, Ui};
use log::Level;

use crate::app::context::LogLine;
use crate::app::theme::{Mark, Tokens};
use crate::app::words::Words;

/// Messages shown at once.
const SHOWN: usize = 4;
/// Lines kept in the log.
const KEPT: usize = 500;

/// The messages of this run of the window.
#[derive(Debug)]
pub struct Notices {
    opened: Instant,
    log: Vec<LogLine>,
    shown: Vec<(u64, LogLine)>,
}

impl Default for Notices {
    fn default() -> Self {
        Self { opened: Instant::now(), log: Vec::new(), shown: Vec::new() }
    }
}

impl Notices {
    /// Takes in a message. `debug` and `trace` go to the log only.
    pub fn push(&mut self, level: Level, text: String) {
        let line = LogLine { level, at_secs: self.opened.elapsed().as_secs(), text };
        if level <= Level::Info {
            let stays_secs = if level == Level::Info { 5 } else { 12 };
            self.shown.push((line.at_secs + stays_secs, line.clone()));
            let excess = self.shown.len().saturating_sub(SHOWN);
            self.shown.drain(..excess);
        }
        self.log.push(line);
        let excess = self.log.len().saturating_sub(KEPT);
        self.log.drain(..excess);
    }

    /// Every line kept, oldest first.
    pub fn log(&self) -> &[LogLine] {
        &self.log
    }

    /// Takes away messages whose time is over; wakes the window for the next one.
    pub fn expire(&mut self, ctx: &egui::Context) {
        let now = self.opened.elapsed().as_secs();
        self.shown.retain(|(until, _)| *until > now);
        if let Some(next) = self.shown.iter().map(|(until, _)| until - now).min() {
            ctx.request_repaint_after(std::time::Duration::from_secs(next));
        }
    }

    /// Draws the messages over everything else.
    pub fn ui(&mut self, words: &Words, theme: &Tokens, ctx: &egui::Context) {
        let mut dismissed = None;
        let area =
            Area::new(Id::unique("notices")).order(Order::Foreground).anchor(Align2::RIGHT_BOTTOM, [-12.0, -12.0]);
        area.interactable(true).show(ctx, |ui| {
            for (index, (_, line)) in self.shown.iter().enumerate() {
                if notice_ui(words, theme, line, ui) {
                    dismissed = Some(index);
                }
            }
        });
        if let Some(index) = dismissed {
            self.shown.remove(index);
        }
    }
}

fn notice_ui(words: &Words, theme: &Tokens, line: &LogLine, ui: &mut Ui) -> bool {
    Frame::popup(ui.style())
        .show(ui, |ui| {
            ui.horizontal_top(|ui| {
                level_ui(theme, line.level, ui);
                ui.scope(|ui| {
                    ui.set_max_width(320.0);
                    ui.add(Label::new(&line.text).wrap());
                });
                let close = Button::new(RichText::new(Mark::Failed.glyph()).color(theme.text_weak)).frame(false);
                ui.add(close).accessible_name(words.shell.dismiss).clicked()
            })
            .inner
        })
        .inner
}

/// The sign of a level: shape and color.
pub fn level_ui(theme: &Tokens, level: Level, ui: &mut Ui) {
    let (glyph, color) = match level {
        Level::Error => ("▲", theme.bad),
        Level::Warn => ("▲", theme.warn),
        Level::Info => ("●", theme.accent),
        Level::Debug | Level::Trace => ("○", theme.text_weak),
    };
    ui.label(RichText::new(glyph).color(color));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_keeps_everything_and_the_screen_the_newest() {
        let mut notices = Notices::default();
        for index in 0..10 {
            notices.push(Level::Info, format!("{index}"));
        }
        notices.push(Level::Debug, "quiet".to_owned());
        assert_eq!(notices.log().len(), 11);
        assert_eq!(notices.shown.len(), SHOWN);
        assert_eq!(notices.shown.last().unwrap().1.text, "9");
    }
}

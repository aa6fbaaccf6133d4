//! The palette: every command by name, found by typing some of its letters.

use egui::{Align2, Area, Button, Id, Key, Modal, Modifiers, RichText, ScrollArea, TextEdit, Ui};

use crate::app::actions::Action;
use crate::app::command::Command;
use crate::app::context::ViewContext;

/// The palette of commands. Holds what was typed and the row that Enter takes.
#[derive(Default)]
pub(super) struct Palette {
    query: String,
    selected: usize,
}

impl Palette {
    /// Draws the palette. Returns whether it should close.
    pub(super) fn ui(&mut self, cx: &ViewContext<'_>, ctx: &egui::Context) -> bool {
        let area =
            Area::new(Id::unique("palette")).anchor(Align2::CENTER_TOP, [0.0, 72.0]).order(egui::Order::Foreground);
        let modal = Modal::new(Id::unique("palette")).area(area).show(ctx, |ui| {
            ui.set_width(440.0);
            self.content_ui(cx, ui)
        });
        modal.inner || modal.should_close()
    }

    fn content_ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui) -> bool {
        let words = &cx.words.help;
        let (down, up, enter) = ui.input_mut(|input| {
            (
                input.consume_key(Modifiers::NONE, Key::ArrowDown),
                input.consume_key(Modifiers::NONE, Key::ArrowUp),
                input.consume_key(Modifiers::NONE, Key::Enter),
            )
        });
        let field = TextEdit::singleline(&mut self.query).hint_text(words.search_hint).desired_width(f32::INFINITY);
        let response = ui.add(field).accessible_name(words.search);
        response.request_focus();
        if response.changed() {
            self.selected = 0;
        }
        let found = found(cx, &self.query);
        let last = found.len().saturating_sub(1);
        self.selected = match (down, up) {
            (true, _) => (self.selected + 1).min(last),
            (_, true) => self.selected.saturating_sub(1),
            _ => self.selected.min(last),
        };
        if found.is_empty() {
            ui.label(RichText::new(words.nothing_found).color(cx.theme.text_weak));
            return false;
        }
        let mut taken = if enter { found.get(self.selected).and_then(|(.., command)| command.clone()) } else { None };
        ScrollArea::vertical().max_height(380.0).show(ui, |ui| {
            ui.spacing_mut().item_spacing.y = 1.0;
            for (index, (action, name, command)) in found.iter().enumerate() {
                let mut button = Button::selectable(index == self.selected, name.as_str());
                button = match action.shortcut() {
                    Some(shortcut) => button.shortcut_text(ui.ctx().format_shortcut(&shortcut)),
                    None => button.right_text(""),
                };
                let button = button.min_size(egui::vec2(ui.available_width(), 0.0));
                let response = ui.add_enabled(command.is_some(), button);
                if index == self.selected && (down || up) {
                    response.scroll_to_me(None);
                }
                if response.clicked() {
                    taken.clone_from(command);
                }
            }
        });
        taken.is_some_and(|command| {
            cx.send(command);
            true
        })
    }
}

type Entry = (Action, String, Option<Command>);

/// The actions that match, best first; what cannot be given now comes last.
fn found(cx: &ViewContext<'_>, query: &str) -> Vec<Entry> {
    let hidden = [Action::Palette];
    let mut found: Vec<(u32, Entry)> = Action::all()
        .filter(|action| !hidden.contains(action))
        .filter_map(|action| {
            let name = action.name(cx.words);
            let score = score(query, &name)?;
            Some((score, (action, name, action.command(cx))))
        })
        .collect();
    found.sort_by_key(|(score, (.., command))| (command.is_none(), *score));
    found.into_iter().map(|(_, entry)| entry).collect()
}

/// How well `query` fits `name`, 0 best; `None` when its letters do not all occur in order.
fn score(query: &str, name: &str) -> Option<u32> {
    let name = name.to_lowercase();
    let mut rest = name.char_indices().peekable();
    let (mut score, mut last) = (0_u32, None);
    for wanted in query.to_lowercase().chars().filter(|c| !c.is_whitespace()) {
        let (at, _) = rest.find(|(_, c)| *c == wanted)?;
        let is_start = at == 0 || name[..at].ends_with(|c: char| !c.is_alphanumeric());
        let follows = last.is_some_and(|last| last + 1 == at);
        score += if follows {
            0
        } else if is_start {
            1
        } else {
            4 + u32::try_from(at).unwrap_or(u32::MAX / 64).min(64)
        };
        last = Some(at);
    }
    Some(score)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_in_order_match_and_starts_of_words_win() {
        assert_eq!(score("zz", "Reset layout"), None);
        assert_eq!(score("", "Reset layout"), Some(0));
        let best = |query: &str, names: &[&'static str]| {
            let mut names: Vec<_> = names.iter().filter_map(|name| Some((score(query, name)?, *name))).collect();
            names.sort_unstable();
            names.first().map(|(_, name)| *name)
        };
        assert_eq!(best("rl", &["Redo layer", "Reset layout", "Control"]), Some("Redo layer"));
        assert_eq!(best("lay", &["Load a yellow", "Reset layout"]), Some("Reset layout"));
        assert_eq!(best("RUN", &["Turn", "Run"]), Some("Run"));
    }
}

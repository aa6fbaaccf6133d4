//! One of several choices in a row of buttons; an impossible one is disabled and says why.

use egui::{Button, RichText, Ui};

use super::format_menu::Legality;
use crate::recipe::Execution;

/// What a button of a row of choices says.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// On the button.
    pub text: &'a str,
    /// Accessible name: `Rounding gptq`.
    pub name: &'a str,
    /// What it does.
    pub hint: &'a str,
    /// Said of a choice that the device only simulates.
    pub simulated: &'a str,
}

impl Choice<'_> {
    /// Draws the button; returns whether it was chosen.
    pub fn ui(&self, selected: bool, legality: Legality, ui: &mut Ui) -> bool {
        let text = RichText::new(self.text).text_style(egui::TextStyle::Monospace);
        let response = ui.add_enabled(legality.is_ok(), Button::selectable(selected, text));
        let response = response.accessible_name(self.name);
        match legality {
            Ok(Some(Execution::Simulated)) => response.on_hover_text(format!("{}\n{}", self.hint, self.simulated)),
            Ok(_) if self.hint.is_empty() => response,
            Ok(_) => response.on_hover_text(self.hint),
            Err(reason) => response.on_disabled_hover_text(reason),
        }
        .clicked()
    }
}

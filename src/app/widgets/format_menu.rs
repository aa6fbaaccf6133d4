//! The choice of a weight format: every named one, FP8 with its scales, and the integer grid with its bits, group and
//! symmetry.

use egui::{Button, ComboBox, PopupCloseBehavior, RichText, TextStyle, Ui};

use crate::app::theme::{Mark, Tokens};
use crate::app::words::RecipeWords;
use crate::recipe::{Execution, Fp8Scale, Group, IntFormat, WeightFormat};

/// How the device would run a format, or why it cannot.
pub type Legality = Result<Option<Execution>, String>;

/// The choice of a weight format for one or more layers.
pub struct FormatMenu<'a> {
    /// Accessible name: `Weights of model.layers.0.mlp.down_proj`.
    pub name: &'a str,
    /// The format that all layers have; `None` when they differ.
    pub current: Option<WeightFormat>,
    /// How the layers run as they are, or what is wrong with them.
    pub status: Legality,
    /// Width of the closed control, in points.
    pub width: f32,
    /// Whether a format fits the layers and the device.
    pub legality: &'a dyn Fn(WeightFormat) -> Legality,
    /// Heading of the FP8 formats.
    pub fp8_heading: &'static str,
    /// The words.
    pub words: &'static RecipeWords,
    /// The colors.
    pub theme: &'static Tokens,
}

impl FormatMenu<'_> {
    /// Shows the control; returns what was chosen.
    pub fn ui(&self, ui: &mut Ui) -> Option<WeightFormat> {
        let shown = ComboBox::from_id_salt(self.name)
            .selected_text(self.selected_text())
            .width(self.width)
            .truncate()
            .close_behavior(PopupCloseBehavior::CloseOnClickOutside)
            .show_ui(ui, |ui| self.choices_ui(ui));
        shown.response.accessible_name(self.name);
        shown.inner.flatten()
    }

    fn selected_text(&self) -> RichText {
        let Some(current) = self.current else {
            return RichText::new(self.words.mixed).italics().color(self.theme.text_weak);
        };
        let (prefix, color) = match &self.status {
            Err(_) => (Mark::Failed.glyph(), self.theme.bad),
            Ok(Some(Execution::Simulated)) => (Mark::Simulated.glyph(), self.theme.text),
            Ok(_) if current == WeightFormat::Native => ("", self.theme.text_weak),
            Ok(_) => ("", self.theme.text),
        };
        let space = if prefix.is_empty() { "" } else { " " };
        RichText::new(format!("{prefix}{space}{}", current.label()))
            .text_style(TextStyle::Monospace)
            .size(11.0)
            .color(color)
    }

    fn choices_ui(&self, ui: &mut Ui) -> Option<WeightFormat> {
        ui.set_min_width(216.0);
        ui.spacing_mut().item_spacing.y = 1.0;
        let mut chosen = None;
        for format in WeightFormat::NAMED {
            if self.choice_ui(ui, format, format.label()) {
                chosen = Some(format);
                ui.close();
            }
        }
        ui.separator();
        ui.label(RichText::new(self.fp8_heading).small().color(self.theme.text_weak));
        ui.horizontal(|ui| {
            for scale in Fp8Scale::ALL {
                let format = WeightFormat::Fp8(scale);
                if self.part_ui(ui, scale.name(), format, self.current == Some(format)) {
                    chosen = Some(format);
                }
            }
        });
        ui.separator();
        ui.label(RichText::new(self.words.int_heading).small().color(self.theme.text_weak));
        let int = match self.current {
            Some(WeightFormat::Int(int)) => Some(int),
            _ => None,
        };
        let base = int.unwrap_or(IntFormat { bits: 4, group: Group::Size(32), symmetric: false });
        egui::Grid::new("int").num_columns(2).spacing([8.0, 4.0]).show(ui, |ui| {
            ui.label(self.words.int_bits);
            ui.horizontal(|ui| {
                for bits in IntFormat::BITS {
                    let format = WeightFormat::Int(IntFormat { bits, ..base });
                    if self.part_ui(ui, &bits.to_string(), format, int.map(|int| int.bits) == Some(bits)) {
                        chosen = Some(format);
                    }
                }
            });
            ui.end_row();
            ui.label(self.words.int_group);
            ui.horizontal(|ui| {
                for group in Group::SIZES.into_iter().map(Group::Size).chain([Group::Row]) {
                    let format = WeightFormat::Int(IntFormat { group, ..base });
                    let text = match group {
                        Group::Row => self.words.int_row.to_owned(),
                        Group::Size(size) => size.to_string(),
                    };
                    if self.part_ui(ui, &text, format, int.map(|int| int.group) == Some(group)) {
                        chosen = Some(format);
                    }
                }
            });
            ui.end_row();
        });
        let mut symmetric = base.symmetric;
        let flipped = WeightFormat::Int(IntFormat { symmetric: !symmetric, ..base });
        let legality = (self.legality)(flipped);
        let check = egui::Checkbox::new(&mut symmetric, self.words.int_symmetric);
        let response = ui.add_enabled(legality.is_ok(), check);
        let response = match legality {
            Err(reason) => response.on_disabled_hover_text(reason),
            Ok(_) => response,
        };
        if response.changed() {
            chosen = Some(WeightFormat::Int(IntFormat { symmetric, ..base }));
        }
        chosen
    }

    fn choice_ui(&self, ui: &mut Ui, format: WeightFormat, label: String) -> bool {
        let legality = (self.legality)(format);
        let note = match &legality {
            Ok(Some(Execution::Simulated)) => format!("{} {}", Mark::Simulated.glyph(), self.words.simulated),
            _ => bits_note(format),
        };
        let text = RichText::new(label).text_style(TextStyle::Monospace);
        let note = RichText::new(note).small().color(self.theme.text_weak);
        let button = Button::selectable(self.current == Some(format), text)
            .right_text(note)
            .min_size(egui::vec2(ui.available_width(), 0.0));
        let response = ui.add_enabled(legality.is_ok(), button).accessible_name(format.label());
        match legality {
            Ok(Some(Execution::Simulated)) => response.on_hover_text(self.words.simulated_note).clicked(),
            Ok(_) => response.clicked(),
            Err(reason) => response.on_disabled_hover_text(reason).clicked(),
        }
    }

    fn part_ui(&self, ui: &mut Ui, text: &str, format: WeightFormat, selected: bool) -> bool {
        let legality = (self.legality)(format);
        let text = RichText::new(text).text_style(TextStyle::Monospace);
        let response = ui.add_enabled(legality.is_ok(), Button::selectable(selected, text));
        let response = response.accessible_name(format.label());
        match legality {
            Err(reason) => response.on_disabled_hover_text(reason).clicked(),
            Ok(_) => response.on_hover_text(self.words.simulated_note).clicked(),
        }
    }
}

/// Bits a weight of a block format, scales included: constants of ggml, or the width of a float.
fn bits_note(format: WeightFormat) -> String {
    match format {
        WeightFormat::Native | WeightFormat::Int(_) => String::new(),
        WeightFormat::F32 => "32".to_owned(),
        WeightFormat::F16 | WeightFormat::Bf16 => "16".to_owned(),
        named => named.ggml().map_or_else(String::new, |ggml| {
            crate::units::significant(ggml.block_bytes() as f64 * 8.0 / ggml.block_len() as f64, 3)
        }),
    }
}

//! The methods of one or more layers, in a form that a button opens: only what would resolve can be chosen.

mod compress;
mod reduce;

use std::ops::RangeInclusive;

use egui::{Button, Grid, Popup, PopupCloseBehavior, RichText, Ui};

use super::edits;
use super::rows::{Methods, Row};
use crate::app::command::Command;
use crate::app::context::ViewContext;
use crate::app::theme::Tokens;
use crate::app::widgets::choice::Choice;
use crate::app::widgets::format_menu::Legality as Verdict;
use crate::app::widgets::number;
use crate::app::widgets::share_strip::{self, Shares};
use crate::app::words::{MethodWords, RecipeWords};
use crate::model::ModelGraph;
use crate::recipe::{LayerChange, LayerSettings, Legality, WeightFormat};

/// Width of the form, in points.
const WIDTH: f32 = 452.0;

/// What can be done to the layers of a row.
pub(super) struct Choices<'a> {
    legality: Legality<'a>,
    settings: &'a [LayerSettings],
    layers: &'a [usize],
}

impl<'a> Choices<'a> {
    /// The choices for these layers of the recipe being edited.
    pub(super) fn new(cx: &'a ViewContext<'_>, graph: &'a ModelGraph, layers: &'a [usize]) -> Self {
        let legality = Legality::new(graph, &cx.draft.blocks);
        Self { legality, settings: &cx.draft.settings, layers }
    }

    /// How the layers would run after `change`, or why they would not.
    pub(super) fn after(&self, change: LayerChange) -> Verdict {
        self.legality.of_change(self.settings, self.layers, change).map_err(|issue| issue.to_string())
    }

    /// How the layers run as they are, or what is wrong.
    pub(super) fn now(&self) -> Verdict {
        self.legality.check(self.settings, self.layers).map_err(|issue| issue.to_string())
    }
}

/// The form while it is drawn; the last change of a frame counts.
struct Form<'a> {
    choices: Choices<'a>,
    methods: &'a Methods,
    /// The format of the layers where all have the same.
    weights: Option<WeightFormat>,
    /// The shape of the layers where all have the same.
    shape: Option<[usize; 2]>,
    cut: f64,
    words: &'static MethodWords,
    recipe_words: &'static RecipeWords,
    theme: &'static Tokens,
    change: Option<LayerChange>,
}

/// The button that opens the form; what was chosen is sent.
pub(super) fn button_ui(cx: &ViewContext<'_>, graph: &ModelGraph, row: &Row, name: &str, width: f32, ui: &mut Ui) {
    let words = &cx.words.methods;
    let label = row.methods.label();
    let hover = label.clone();
    let text = match label {
        None => RichText::new(cx.words.recipe.mixed).italics().color(cx.theme.text_weak),
        Some(label) if label.is_empty() => RichText::new("—").color(cx.theme.text_weak),
        Some(label) => RichText::new(label).text_style(egui::TextStyle::Monospace).size(11.0).color(cx.theme.text),
    };
    let button = Button::new(text).truncate().min_size(egui::vec2(width, crate::app::theme::ROW_HEIGHT - 4.0));
    let response = ui.scope(|ui| {
        ui.set_max_width(width);
        ui.add(button)
    });
    let response = response.inner;
    let response = response.accessible_name((words.open)(name));
    if !row.shares.is_whole() {
        let floor = egui::Rect::from_min_max(
            egui::pos2(response.rect.left() + 3.0, response.rect.bottom() - 3.0),
            egui::pos2(response.rect.right() - 3.0, response.rect.bottom() - 1.0),
        );
        share_strip::paint(row.shares, None, floor, cx.theme, ui);
    }
    let popup = Popup::menu(&response).close_behavior(PopupCloseBehavior::CloseOnClickOutside).width(WIDTH);
    let change = popup.show(|ui| form_ui(cx, graph, row, name, ui)).and_then(|shown| shown.inner);
    if let Some(hover) = hover.filter(|text| !text.is_empty()) {
        response.on_hover_text(hover);
    }
    if let Some(change) = change {
        let recipe = edits::changed(&cx.draft.recipe, graph, &row.layers, change);
        cx.send(Command::SetRecipe(Box::new(recipe)));
    }
}

fn form_ui(cx: &ViewContext<'_>, graph: &ModelGraph, row: &Row, name: &str, ui: &mut Ui) -> Option<LayerChange> {
    let words = &cx.words.methods;
    let mut shapes = row.layers.iter().map(|&index| cx.draft.shapes[index]);
    let first = shapes.next().flatten();
    let mut form = Form {
        choices: Choices::new(cx, graph, &row.layers),
        methods: &row.methods,
        weights: row.weights.same(),
        shape: first.filter(|_| shapes.all(|shape| shape == first)),
        cut: row.shares.cut,
        words,
        recipe_words: &cx.words.recipe,
        theme: cx.theme,
        change: None,
    };
    ui.set_width(WIDTH);
    ui.label(RichText::new((words.heading)(name)).color(cx.theme.text_strong));
    if row.methods.label().is_none() {
        ui.label(RichText::new(words.differ).small().color(cx.theme.text_weak));
    }
    ui.add_space(2.0);
    Grid::new("methods").num_columns(2).min_col_width(80.0).spacing([8.0, 5.0]).show(ui, |ui| {
        form.rounding_ui(ui);
        form.activations_ui(ui);
        form.sparsity_ui(ui);
        form.low_rank_ui(ui);
        form.correction_ui(ui);
    });
    form.change
}

impl Form<'_> {
    /// The name of a method's row.
    fn name_ui(name: &str, ui: &mut Ui) {
        ui.label(name);
    }

    /// The quieter name of an option's row.
    fn option_name_ui(&self, name: &str, ui: &mut Ui) {
        ui.label(RichText::new(name).small().color(self.theme.text_weak));
    }

    /// One choice of a method's row: what it is of, its name, what it does. `Rounding gptq`.
    fn choice_ui(&mut self, [of, text, hint]: [&str; 3], selected: bool, change: LayerChange, ui: &mut Ui) {
        let choice = Choice { text, name: &format!("{of} {text}"), hint, simulated: self.recipe_words.simulated_note };
        let legality = if selected { Ok(None) } else { self.choices.after(change) };
        if choice.ui(selected, legality, ui) && !selected {
            self.change = Some(change);
        }
    }

    /// A tick box that makes `change` when it is clicked.
    fn check_ui(&mut self, name: &str, hint: &str, ticked: bool, change: LayerChange, ui: &mut Ui) {
        let legality = self.choices.after(change);
        let mut ticked = ticked;
        let response = ui.add_enabled(legality.is_ok(), egui::Checkbox::new(&mut ticked, name));
        if response.changed() {
            self.change = Some(change);
        }
        match legality {
            Err(reason) => response.on_disabled_hover_text(reason),
            Ok(_) => response.on_hover_text(hint),
        };
    }

    /// Kept, zero and removed shares of the layers, as a strip with its numbers.
    fn preview_ui(&self, shares: Shares, pattern: Option<crate::recipe::Pattern>, ui: &mut Ui) {
        self.option_name_ui(self.words.preview, ui);
        ui.horizontal(|ui| {
            let strip = share_strip::ui(shares, pattern, egui::vec2(170.0, 12.0), self.theme, ui);
            strip.on_hover_text(self.words.preview_note);
            ui.label(RichText::new(shares_text(self.words, shares)).small().color(self.theme.text_weak))
                .on_hover_text(self.words.preview_note);
        });
        ui.end_row();
    }
}

/// `70.0 % kept · 30.0 % zero`.
pub(super) fn shares_text(words: &MethodWords, shares: Shares) -> String {
    let mut parts = vec![(words.kept)(&crate::units::percent(shares.kept()))];
    if shares.masked > 0.0 {
        parts.push((words.masked)(&crate::units::percent(shares.masked)));
    }
    if shares.cut > 0.0 {
        parts.push((words.cut)(&crate::units::percent(shares.cut)));
    }
    parts.join(" · ")
}

/// A number with its name before it and what it means; returns what the user made of it.
fn number_ui<N: egui::emath::Numeric>(
    [name, hint]: [&str; 2],
    value: N,
    range: RangeInclusive<N>,
    speed: f64,
    ui: &mut Ui,
) -> Option<N> {
    let label = ui.label(RichText::new(name).small());
    let (response, edit) = number::drag_ui(value, range, speed, ui);
    let response = response.labelled_by(label.id);
    if !hint.is_empty() {
        response.on_hover_text(hint);
    }
    edit
}

/// As [`number_ui`] for a whole number.
fn count_ui(name: &str, value: u16, range: RangeInclusive<u16>, ui: &mut Ui) -> Option<u16> {
    number_ui([name, ""], value, range, 0.2, ui)
}

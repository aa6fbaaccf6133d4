//! The table of trials.

use egui::{Align, Button, Key, Layout, Modifiers, RichText, Sense, TextEdit, Ui};
use egui_extras::{Column as Width, TableBuilder, TableRow};

use crate::app::command::{Command, PinSlot};
use crate::app::context::ViewContext;
use crate::app::panels::Panel;
use crate::app::plots::card::{card_ui, report_hover, state_mark};
use crate::app::plots::metrics::Metric;
use crate::app::plots::paint::{self, StudyKey, cell_job, quiet, study_key, tokens};
use crate::app::plots::table::{Column, Sort, caution_names, columns, order, raw_row, state_name};
use crate::app::theme::{HEADER_HEIGHT, MONO, ROW_HEIGHT, SMALL};
use crate::app::words::{self, ResultsWords};
use crate::study::{Outcome, Trial, TrialId, TrialState};
use crate::units::count;

/// Between numbers that end at a column's right edge and text that begins at the next one's left, in points.
const LEFT_PAD: f32 = 4.0;

/// The tile with the table of trials.
#[derive(Debug, Default)]
pub struct TrialsPanel {
    filter: String,
    sort: Sort,
    order: Option<((StudyKey, Sort, String), Vec<TrialId>)>,
    columns: Option<(StudyKey, Vec<Column>)>,
    /// The trial that this tile last reported as hovered.
    hovered: Option<TrialId>,
    /// The selection that was last scrolled to.
    scrolled_to: Option<TrialId>,
    /// The table was clicked last, so that keys are meant for it.
    has_keys: bool,
}

impl Panel for TrialsPanel {
    fn title(&self) -> &'static str {
        words::current().titles.trials
    }

    fn ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui) {
        let words = &cx.words.results;
        if cx.study.trials.is_empty() {
            paint::empty_ui(ui, words.no_trials, words.no_trials_hint);
            return;
        }
        self.refresh(cx);
        self.header_ui(cx, ui, words);
        self.refresh(cx);
        self.keys(cx, ui);
        let is_empty = self.order.as_ref().is_none_or(|(_, order)| order.is_empty());
        if is_empty {
            paint::empty_ui(ui, words.trials.no_match, words.trials.no_match_hint);
            return;
        }
        egui::ScrollArea::horizontal().auto_shrink(false).show(ui, |ui| self.table_ui(cx, ui, words));
    }
}

impl TrialsPanel {
    fn refresh(&mut self, cx: &ViewContext<'_>) {
        if self.columns.as_ref().is_none_or(|(cached, _)| *cached != study_key(cx.study)) {
            self.columns = Some((study_key(cx.study), columns(cx.study)));
        }
        let key = (study_key(cx.study), self.sort, self.filter.clone());
        if self.order.as_ref().is_none_or(|(cached, _)| *cached != key) {
            let order = order(cx.study, self.sort, &self.filter);
            self.order = Some((key, order));
        }
    }

    fn header_ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui, words: &ResultsWords) {
        let tokens = tokens(ui);
        ui.horizontal(|ui| {
            let field = TextEdit::singleline(&mut self.filter).hint_text(words.trials.filter).desired_width(180.0);
            ui.add(field).accessible_name(words.trials.filter);
            if !self.filter.is_empty()
                && ui.small_button("×").accessible_name(words.trials.clear).on_hover_text(words.trials.clear).clicked()
            {
                self.filter.clear();
            }
            let shown = self.order.as_ref().map_or(0, |(_, order)| order.len());
            let (shown, all) = (count(shown as u64), count(cx.study.trials.len() as u64));
            ui.label(quiet((words.trials.n_shown)(&shown, &all), tokens));
            ui.label(quiet(words.trials.keys_hint, tokens));
        });
    }

    /// Up and down move the selection, P pins it.
    fn keys(&mut self, cx: &ViewContext<'_>, ui: &Ui) {
        if ui.input(|input| input.pointer.any_pressed()) {
            self.has_keys = ui.rect_contains_pointer(ui.max_rect());
        }
        if !self.has_keys || ui.ctx().text_edit_focused() {
            return;
        }
        let Some((_, order)) = &self.order else { return };
        let pressed = |key| ui.input_mut(|input| input.consume_key(Modifiers::NONE, key));
        let step = isize::from(pressed(Key::ArrowDown)) - isize::from(pressed(Key::ArrowUp));
        if step != 0 && !order.is_empty() {
            let at = cx.selection.trial.and_then(|id| order.iter().position(|other| *other == id));
            let last = order.len() - 1;
            let to = at.map_or(if step > 0 { 0 } else { last }, |at| at.saturating_add_signed(step).min(last));
            cx.send(Command::SelectTrial(Some(order[to])));
        }
        if let Some(id) = cx.selection.trial
            && pressed(Key::P)
        {
            let slot = if cx.selection.pinned_a.is_none() { PinSlot::A } else { PinSlot::B };
            toggle_pin(cx, slot, id);
        }
    }

    fn table_ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui, words: &ResultsWords) {
        let (Some((_, order)), Some((_, columns))) = (&self.order, &self.columns) else { return };
        let mut sort = self.sort;
        let mut hovered = None;
        let room = Room::of(ui.available_width());
        let has_energy = columns.contains(&Column::Metric(Metric::Energy));
        ui.spacing_mut().item_spacing.x = 6.0;
        let mut table = TableBuilder::new(ui)
            .id_salt(("trials", room, columns.len()))
            .striped(true)
            .resizable(true)
            .sense(Sense::click())
            .auto_shrink(false)
            .min_scrolled_height(0.0)
            .cell_layout(Layout::left_to_right(Align::Center));
        for column in columns.iter().copied() {
            table = table.column(Width::initial(width(column, room, has_energy)).at_least(30.0).clip(true));
        }
        table = table.column(Width::exact(122.0));
        if cx.selection.trial != self.scrolled_to {
            self.scrolled_to = cx.selection.trial;
            let at = cx.selection.trial.and_then(|id| order.iter().position(|other| *other == id));
            if let Some(at) = at {
                table = table.scroll_to_row(at, None);
            }
        }
        let table = table.header(HEADER_HEIGHT, |mut row| {
            for column in columns.iter().copied() {
                row.col(|ui| sort = header_cell_ui(ui, column, sort, words));
            }
            row.col(|_| {});
        });
        table.body(|body| {
            body.rows(ROW_HEIGHT, order.len(), |mut row| {
                let id = order[row.index()];
                if let Some(trial) = cx.study.trials.get(&id) {
                    row.set_selected(cx.selection.trial == Some(id));
                    row.set_hovered(cx.selection.hovered == Some(id));
                    if row_ui(cx, &mut row, trial, columns, words) {
                        hovered = Some(id);
                    }
                }
            });
        });
        self.sort = sort;
        report_hover(cx, &mut self.hovered, hovered);
    }
}

/// How wide the table may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Room {
    Compact,
    Wide,
    Full,
}

impl Room {
    fn of(width: f32) -> Self {
        match width {
            ..1500.0 => Self::Compact,
            ..2120.0 => Self::Wide,
            _ => Self::Full,
        }
    }
}

/// Widths that show every number whole in a window of 1280 and of 1600 points, and every name and caution in a larger
/// one. With energy names are shorter, and the smallest window scrolls.
const fn width(column: Column, room: Room, has_energy: bool) -> f32 {
    let [compact, wide, full] = match column {
        Column::Number => [34.0, 42.0, 42.0],
        Column::Recipe if has_energy => [92.0, 126.0, 330.0],
        Column::Recipe => [112.0, 186.0, 440.0],
        Column::Metric(Metric::Perplexity) => [94.0, 108.0, 108.0],
        Column::Metric(Metric::Kl) => [144.0, 152.0, 152.0],
        Column::Metric(Metric::Top1) => [84.0, 96.0, 96.0],
        Column::Metric(Metric::Prefill | Metric::Decode) => [146.0; 3],
        Column::Metric(Metric::Bytes | Metric::Peak) => [58.0, 78.0, 78.0],
        Column::Metric(Metric::Energy) => [64.0, 78.0, 108.0],
        Column::Metric(Metric::Bits) => [48.0, 60.0, 60.0],
        Column::Cautions => [60.0, 128.0, 420.0],
        Column::State => [86.0, 124.0, 124.0],
    };
    match room {
        Room::Compact => compact,
        Room::Wide => wide,
        Room::Full => full,
    }
}

/// A header that sorts; returns the order after this frame.
fn header_cell_ui(ui: &mut Ui, column: Column, sort: Sort, words: &ResultsWords) -> Sort {
    let tokens = tokens(ui);
    let name = words.column(column);
    let is_number = matches!(column, Column::Metric(_));
    let layout = if is_number { Layout::right_to_left(Align::Center) } else { Layout::left_to_right(Align::Center) };
    ui.with_layout(layout, |ui| {
        let arrow = match (sort.column == column, sort.descending) {
            (false, _) => "",
            (true, false) => " ↑",
            (true, true) => " ↓",
        };
        if matches!(column, Column::Cautions | Column::State) {
            ui.add_space(LEFT_PAD);
        }
        let color = if sort.column == column { tokens.text_strong } else { tokens.text_weak };
        let text = RichText::new(format!("{name}{arrow}")).size(SMALL).color(color);
        let button = ui.add(Button::new(text).frame(false)).accessible_name((words.trials.sort_by)(name));
        let button = match column {
            Column::Metric(metric) => button.on_hover_text((words.metric_hint)(metric)),
            _ => button,
        };
        if button.clicked() { sort.after_click(column) } else { sort }
    })
    .inner
}

/// One trial; returns whether the pointer is on it.
fn row_ui(
    cx: &ViewContext<'_>,
    row: &mut TableRow<'_, '_>,
    trial: &Trial,
    columns: &[Column],
    words: &ResultsWords,
) -> bool {
    let id = trial.spec.id;
    for column in columns.iter().copied() {
        row.col(|ui| cell_ui(cx, ui, trial, column, words));
    }
    row.col(|ui| actions_ui(cx, ui, trial, words));
    let response = row.response();
    if response.double_clicked() {
        cx.send(Command::LoadRecipe(id));
    } else if response.clicked() {
        cx.send(Command::SelectTrial(Some(id)));
    }
    response.contains_pointer()
}

fn cell_ui(cx: &ViewContext<'_>, ui: &mut Ui, trial: &Trial, column: Column, words: &ResultsWords) {
    let tokens = tokens(ui);
    match column {
        Column::Number => {
            ui.label(RichText::new(trial.spec.id.to_string()).monospace().size(MONO).color(tokens.text_weak));
        }
        Column::Recipe => {
            let id = trial.spec.id;
            let pins = [(cx.selection.pinned_a, "A", tokens.side_a), (cx.selection.pinned_b, "B", tokens.side_b)];
            for (_, side, color) in pins.into_iter().filter(|(pin, ..)| *pin == Some(id)) {
                ui.label(RichText::new(side).strong().size(SMALL).color(color));
            }
            let name = egui::Label::new(RichText::new(&trial.spec.recipe.name).color(tokens.text)).truncate();
            ui.add(name).on_hover_ui(|ui| card_ui(cx, ui, id, words));
        }
        Column::Metric(metric) => {
            if let Some(measurements) = trial.measurements() {
                let mut cell = metric.cell(measurements);
                if metric.is_of_the_run() && trial.spec.recipe.is_masked_only() {
                    // Zeros stay in place: a ratio to the reference would be the machine's.
                    cell.quiet = cell.quiet.split("  ").next().unwrap_or_default().to_owned();
                }
                let job = cell_job(&cell, tokens.text, tokens);
                ui.with_layout(Layout::right_to_left(Align::Center), |ui| ui.add(egui::Label::new(job).truncate()));
            }
        }
        Column::Cautions => {
            if !trial.cautions().is_empty() {
                ui.add_space(LEFT_PAD);
                let text = RichText::new(caution_names(trial)).size(SMALL).color(tokens.warn);
                ui.add(egui::Label::new(text).truncate()).on_hover_ui(|ui| {
                    for caution in trial.cautions() {
                        ui.label(caution.to_string());
                    }
                });
            }
        }
        Column::State => {
            ui.add_space(LEFT_PAD);
            state_ui(ui, trial);
        }
    }
}

fn state_ui(ui: &mut Ui, trial: &Trial) {
    let tokens = tokens(ui);
    let (glyph, color) = state_mark(trial).map_or(("▶", tokens.accent), |mark| (mark.glyph(), mark.color(tokens)));
    let text = RichText::new(format!("{glyph} {}", state_name(trial))).size(SMALL).color(color);
    let label = ui.add(egui::Label::new(text).truncate());
    if let TrialState::Finished { outcome: Outcome::Failed(failure), .. } = &trial.state {
        label.on_hover_text(&failure.message);
    }
}

fn actions_ui(cx: &ViewContext<'_>, ui: &mut Ui, trial: &Trial, words: &ResultsWords) {
    let id = trial.spec.id;
    let tokens = tokens(ui);
    ui.spacing_mut().item_spacing.x = 2.0;
    ui.spacing_mut().button_padding.x = 5.0;
    let button = |ui: &mut Ui, text: &str, selected: bool, color: egui::Color32, name: String| {
        let text = RichText::new(text).size(SMALL).color(color);
        let button = ui.add(Button::selectable(selected, text).small()).accessible_name(name.clone());
        button.on_hover_text(name).clicked()
    };
    let name = id.to_string();
    let (a, b) = (cx.selection.pinned_a == Some(id), cx.selection.pinned_b == Some(id));
    if button(ui, "A", a, tokens.side_a, (words.trials.pin_a)(&name)) {
        toggle_pin(cx, PinSlot::A, id);
    }
    if button(ui, "B", b, tokens.side_b, (words.trials.pin_b)(&name)) {
        toggle_pin(cx, PinSlot::B, id);
    }
    if button(ui, words.trials.load_short, false, tokens.text_weak, (words.trials.load)(&name)) {
        cx.send(Command::LoadRecipe(id));
    }
    if button(ui, words.trials.copy_short, false, tokens.text_weak, (words.trials.copy)(&name)) {
        cx.send(Command::Copy(raw_row(trial)));
    }
}

/// Pins a trial, or takes the pin off when it sits there already.
fn toggle_pin(cx: &ViewContext<'_>, slot: PinSlot, id: TrialId) {
    let current = match slot {
        PinSlot::A => cx.selection.pinned_a,
        PinSlot::B => cx.selection.pinned_b,
    };
    cx.send(Command::Pin(slot, (current != Some(id)).then_some(id)));
}

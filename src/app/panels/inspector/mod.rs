//! One layer from near: its weights, its singular values, its inputs, and what each setting costs it.

mod candidates;
mod heat_map;
mod histogram;
mod inputs;
mod spectrum;

use egui::{Align, Button, Label, Layout, Response, RichText, ScrollArea, Ui, vec2};

use crate::app::command::Command;
use crate::app::context::ViewContext;
use crate::app::panels::Panel;
use crate::app::panels::recipe::edits;
use crate::app::plots::paint::{self, quiet};
use crate::app::theme::ROW_HEIGHT;
use crate::app::words;
use crate::model::{Layer, LayerPath, ModelGraph, stored_layer_bytes};
use crate::recipe::{Calibration, LayerSettings, Legality, Policy};
use crate::session::{InspectRequest, Inspection, InspectionState, ModelState};
use crate::units;

/// Width from which everything is shown at once, in points.
const WIDE: f32 = 760.0;
/// Height of a plot among others below each other, in points.
const PLOT: f32 = 220.0;

/// The tile that shows one layer from near.
#[derive(Default)]
pub struct InspectorPanel {
    section: Section,
    /// Which of the selected layers, when there are several.
    position: usize,
    /// Whether inputs are calibrated, of every layer from then on.
    is_calibrated: bool,
    /// What was asked for last: once is enough.
    asked: Option<InspectRequest>,
    histogram: histogram::HistogramView,
    map: heat_map::HeatMapView,
    spectrum: spectrum::SpectrumView,
    inputs: inputs::InputsView,
    candidates: candidates::CandidatesView,
}

/// A part of what there is to see, where there is no room for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Section {
    #[default]
    Weights,
    Map,
    Spectrum,
    Inputs,
}

impl Section {
    const ALL: [Self; 4] = [Self::Weights, Self::Map, Self::Spectrum, Self::Inputs];
}

/// What every part of the panel reads.
struct Shown<'a> {
    cx: &'a ViewContext<'a>,
    graph: &'a ModelGraph,
    layer: &'a Layer,
    inspection: &'a Inspection,
    /// Positions of the selected layers.
    selected: &'a [usize],
    /// Whether all parts are shown at once.
    is_wide: bool,
}

/// The recipe that is being edited, by its generation, and the selected layers in it.
type Target = (u64, Vec<usize>);

impl Shown<'_> {
    /// Tells one state of one inspection from another: caches are keyed by it.
    fn key(&self) -> (LayerPath, u64) {
        (self.layer.path.clone(), self.inspection.generation)
    }

    /// What settings would be applied to: what is known of their legality is keyed by it.
    fn target(&self) -> Target {
        (self.cx.draft.generation, self.selected.to_vec())
    }

    /// Settings of all layers with `settings` for the selected ones.
    fn with(&self, settings: LayerSettings) -> Vec<LayerSettings> {
        let mut all = self.cx.draft.settings.clone();
        for &index in self.selected {
            all[index] = settings;
        }
        all
    }

    /// Why the recipe would refuse `settings` for the selected layers, if it would.
    fn refusal(&self, settings: LayerSettings) -> Option<String> {
        let legality = Legality::new(self.graph, &self.cx.draft.blocks);
        legality.check(&self.with(settings), self.selected).err().map(|issue| issue.to_string())
    }

    /// Gives the selected layers `settings`.
    fn apply(&self, settings: LayerSettings) {
        let recipe = edits::with_settings(&self.cx.draft.recipe, self.graph, &self.with(settings));
        self.cx.send(Command::SetRecipe(Box::new(recipe)));
    }
}

impl Panel for InspectorPanel {
    fn title(&self) -> &'static str {
        words::current().titles.inspector
    }

    fn ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui) {
        let words = &cx.words.inspector;
        let Some(graph) = cx.graph else { return paint::empty_ui(ui, words.nothing, words.nothing_hint) };
        let is_selected = |index: &usize| cx.selection.layers.contains(&graph.layers[*index].path);
        let selected: Vec<usize> = (0..graph.layers.len()).filter(is_selected).collect();
        self.position = self.position.min(selected.len().saturating_sub(1));
        let Some(&index) = selected.get(self.position) else {
            self.asked = None;
            return paint::empty_ui(ui, words.nothing, words.nothing_hint);
        };
        let layer = &graph.layers[index];
        let calibration = self.is_calibrated.then(|| calibration(cx)).flatten();
        let wanted = InspectRequest { layer: layer.path.clone(), calibration };
        let inspection = cx.inspection.filter(|inspection| inspection.request == wanted);
        if inspection.is_none() && !matches!(cx.model, ModelState::Open(_)) {
            return paint::empty_ui(ui, words.needs_model, words.needs_model_hint);
        }
        if inspection.is_some() {
            self.asked = None;
        } else if self.asked.as_ref() != Some(&wanted) {
            cx.send(Command::Inspect(wanted.clone()));
            self.asked = Some(wanted);
        }
        self.header_ui(cx, ui, layer, inspection, selected.len());
        let Some(inspection) = inspection else { return };
        let is_wide = ui.available_width() >= WIDE;
        let shown = Shown { cx, graph, layer, inspection, selected: &selected, is_wide };
        if is_wide { self.wide_ui(&shown, ui) } else { self.narrow_ui(&shown, ui) }
    }
}

impl InspectorPanel {
    fn header_ui(
        &mut self,
        cx: &ViewContext<'_>,
        ui: &mut Ui,
        layer: &Layer,
        inspection: Option<&Inspection>,
        n_selected: usize,
    ) {
        let words = &cx.words.inspector;
        ui.horizontal(|ui| {
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                if n_selected > 1 {
                    let last = n_selected - 1;
                    let next = ui.add_enabled(self.position < last, Button::new("›").small());
                    if next.accessible_name(words.next).on_hover_text(words.next).clicked() {
                        self.position += 1;
                    }
                    let previous = ui.add_enabled(self.position > 0, Button::new("‹").small());
                    if previous.accessible_name(words.previous).on_hover_text(words.previous).clicked() {
                        self.position -= 1;
                    }
                    ui.label(quiet((words.position)(self.position + 1, n_selected), cx.theme));
                }
                ui.with_layout(Layout::left_to_right(Align::Center), |ui| {
                    let path = RichText::new(layer.path.as_str()).monospace().color(cx.theme.text_strong);
                    ui.add(Label::new(path).truncate()).on_hover_text(layer.path.as_str());
                });
            });
        });
        let [rows, row_len] = layer.shape;
        let bytes = units::bytes(stored_layer_bytes(layer));
        ui.horizontal(|ui| {
            ui.set_min_height(ROW_HEIGHT);
            ui.label(quiet(format!("{rows} × {row_len} · {} · {bytes}", layer.stored_name()), cx.theme));
            if let Some(inspection) = inspection {
                state_ui(cx, ui, inspection);
            }
        });
        if let Some(InspectionState::Failed(reason)) = inspection.map(|inspection| &inspection.state) {
            let text = RichText::new(format!("✖ {reason}")).small().color(cx.theme.bad);
            ui.add(Label::new(text).wrap());
        }
    }

    /// Four plots in two rows, the settings beside them.
    fn wide_ui(&mut self, shown: &Shown<'_>, ui: &mut Ui) {
        let size = ui.available_size();
        let right = (size.x * 0.36).clamp(300.0, 440.0);
        ui.horizontal_top(|ui| {
            let gap = ui.spacing().item_spacing;
            let plots = vec2(size.x - right - gap.x, size.y);
            let cell = vec2((plots.x - gap.x) / 2.0, (plots.y - gap.y) / 2.0);
            ui.allocate_ui_with_layout(plots, Layout::top_down(Align::Min), |ui| {
                for pair in Section::ALL.chunks(2) {
                    ui.horizontal_top(|ui| {
                        for section in pair {
                            ui.allocate_ui_with_layout(cell, Layout::top_down(Align::Min), |ui| {
                                ui.set_min_size(cell);
                                self.section_ui(*section, shown, ui);
                            });
                        }
                    });
                }
            });
            ui.allocate_ui_with_layout(vec2(right, size.y), Layout::top_down(Align::Min), |ui| {
                ScrollArea::vertical().auto_shrink(false).show(ui, |ui| self.candidates.ui(shown, ui));
            });
        });
    }

    /// One plot that is chosen above it, the settings below.
    fn narrow_ui(&mut self, shown: &Shown<'_>, ui: &mut Ui) {
        let words = &shown.cx.words.inspector;
        ui.horizontal(|ui| {
            for section in Section::ALL {
                let text = section_title(section, shown);
                choice_ui(ui, &mut self.section, section, text, words.section);
            }
        });
        ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
            let cell = vec2(ui.available_width(), PLOT);
            ui.allocate_ui_with_layout(cell, Layout::top_down(Align::Min), |ui| {
                ui.set_min_size(cell);
                self.section_ui(self.section, shown, ui);
            });
            self.candidates.ui(shown, ui);
        });
    }

    fn section_ui(&mut self, section: Section, shown: &Shown<'_>, ui: &mut Ui) {
        ui.push_id(section as u8, |ui| match section {
            Section::Weights => self.histogram.ui(shown, ui),
            Section::Map => self.map.ui(shown, ui),
            Section::Spectrum => self.spectrum.ui(shown, ui),
            Section::Inputs => self.is_calibrated = self.inputs.ui(shown, ui).unwrap_or(self.is_calibrated),
        });
    }
}

/// The text of the recipe, else the window's, by the dense policy; `None` where neither names one.
fn calibration(cx: &ViewContext<'_>) -> Option<Calibration> {
    let named = cx.draft.recipe.calibration.clone();
    let of_window = || Some(cx.sweep.calibration.clone()).filter(|path| !path.as_os_str().is_empty());
    let data = named.data.clone().or_else(of_window)?;
    Some(Calibration { data: Some(data), policy: Policy::Dense, ..named })
}

fn section_title(section: Section, shown: &Shown<'_>) -> &'static str {
    let words = &shown.cx.words.inspector;
    match section {
        Section::Weights => words.weights,
        Section::Map => words.map,
        Section::Spectrum => words.spectrum,
        Section::Inputs => words.inputs,
    }
}

/// What the worker is at, in a line; nothing when all is there.
fn state_ui(cx: &ViewContext<'_>, ui: &mut Ui, inspection: &Inspection) {
    let words = &cx.words.inspector;
    let view = &inspection.view;
    match &inspection.state {
        InspectionState::Done => {}
        InspectionState::Waiting | InspectionState::Running => {
            let is_running = inspection.state == InspectionState::Running;
            let text = match (is_running, view.calibrating, view.n_candidates) {
                (false, ..) => words.waiting.to_owned(),
                (true, Some((done, total)), _) => (words.calibrating)(done, total),
                (true, None, 0) => words.running.to_owned(),
                (true, None, total) => (words.trying)(view.candidates.len(), total),
            };
            let mark = if is_running { RichText::new("●").color(cx.theme.accent) } else { quiet("◌", cx.theme) };
            ui.label(mark.size(9.0));
            ui.label(quiet(text, cx.theme));
            if ui.small_button(words.cancel).clicked() {
                cx.send(Command::CancelInspection);
            }
        }
        InspectionState::Cancelled | InspectionState::Failed(_) => {
            if inspection.state == InspectionState::Cancelled {
                ui.label(quiet(words.cancelled, cx.theme));
            }
            if ui.small_button(words.again).clicked() {
                cx.send(Command::Inspect(inspection.request.clone()));
            }
        }
    }
}

/// A choice among a few, as small text.
fn choice_ui<T: PartialEq>(ui: &mut Ui, current: &mut T, value: T, text: &str, group: &str) -> Response {
    let button = Button::selectable(*current == value, RichText::new(text).small()).small();
    let response = ui.add(button).accessible_name(format!("{group} {text}"));
    if response.clicked() {
        *current = value;
    }
    response
}

/// The title of a part, where all parts are shown at once, with its choices behind it.
fn title_ui(ui: &mut Ui, shown: &Shown<'_>, section: Section, choices: impl FnOnce(&mut Ui)) {
    ui.horizontal(|ui| {
        if shown.is_wide {
            let words = &shown.cx.words.inspector;
            let title = if section == Section::Spectrum { words.spectrum_title } else { section_title(section, shown) };
            ui.label(RichText::new(title).small().strong().color(shown.cx.theme.text));
        }
        choices(ui);
    });
}

/// A part that has nothing to show yet, or never will.
fn missing_ui(ui: &mut Ui, shown: &Shown<'_>, title: &str, reason: &str) {
    let is_coming = matches!(shown.inspection.state, InspectionState::Running | InspectionState::Waiting);
    let words = &shown.cx.words.inspector;
    if is_coming && reason.is_empty() {
        paint::empty_ui(ui, words.pending, "");
    } else {
        paint::empty_ui(ui, title, reason);
    }
}

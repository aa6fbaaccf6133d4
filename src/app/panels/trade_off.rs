//! The trade-off of any two objectives, with its front.

use egui::{ComboBox, FontId, Pos2, RichText, Stroke, Ui, vec2};
use egui_plot::{Line, MarkerShape, PlotPoints, PlotTransform, Points};

use crate::app::command::Command;
use crate::app::context::ViewContext;
use crate::app::panels::Panel;
use crate::app::plots::card::{card_ui, report_hover};
use crate::app::plots::paint::{self, LabelPlacer, Shape, StudyKey, legend_ui, mark, quiet, study_key, tokens};
use crate::app::plots::trade_off::TradeOff;
use crate::app::theme::{Mark, SMALL};
use crate::app::words::{self, ResultsWords};
use crate::study::{Objective, TrialId};

/// How near the pointer must be to a point, in points.
const REACH: f32 = 12.0;

/// The trade-off tile.
#[derive(Debug)]
pub struct TradeOffPanel {
    x: Objective,
    y: Objective,
    /// The trial that this tile last reported as hovered.
    hovered: Option<TrialId>,
    cache: Option<(StudyKey, TradeOff)>,
}

impl Default for TradeOffPanel {
    fn default() -> Self {
        Self { x: Objective::DecodeLatency, y: Objective::Kl, hovered: None, cache: None }
    }
}

/// What happened in the plot in one frame.
struct Touched {
    nearest: Option<TrialId>,
    transform: PlotTransform,
    response: egui::Response,
}

impl Panel for TradeOffPanel {
    fn title(&self) -> &'static str {
        words::current().titles.trade_off
    }

    fn ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui) {
        let words = &cx.words.results;
        if cx.study.trials.is_empty() {
            paint::empty_ui(ui, words.no_trials, words.no_trials_hint);
            return;
        }
        self.refresh(cx);
        let reset = self.header_ui(cx, ui, words);
        self.refresh(cx);
        let Some((_, model)) = &self.cache else { return };
        let footer = 20.0 + ui.spacing().item_spacing.y;
        let height = (ui.available_height() - footer).max(60.0);
        if model.drawn().next().is_none() {
            ui.allocate_ui(vec2(ui.available_width(), height), |ui| {
                ui.set_min_height(height);
                let has_results = cx.study.trials.values().any(|trial| trial.measurements().is_some());
                let words = &words.trade_off;
                if has_results {
                    paint::empty_ui(ui, words.no_points, words.no_points_hint);
                } else {
                    paint::empty_ui(ui, words.no_results, words.no_results_hint);
                }
            });
            footer_ui(cx, ui, model, words);
            return;
        }
        let touched = plot_ui(ui, model, height, reset, words);
        overlay(cx, ui, model, &touched, words);
        footer_ui(cx, ui, model, words);
        react(cx, touched, &mut self.hovered, words);
    }
}

impl TradeOffPanel {
    fn refresh(&mut self, cx: &ViewContext<'_>) {
        let key = study_key(cx.study);
        let current = self.cache.as_ref().is_some_and(|(cached, model)| {
            *cached == key && (model.x.objective, model.y.objective) == (self.x, self.y)
        });
        if !current {
            self.cache = Some((key, TradeOff::new(cx.study, self.x, self.y)));
        }
    }

    /// Axes and actions; returns whether the view is to be reset.
    fn header_ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui, words: &ResultsWords) -> bool {
        let mut reset = false;
        ui.horizontal(|ui| {
            let missing = self.cache.as_ref().map_or(&[][..], |(_, model)| &model.missing);
            objective_ui(ui, words.trade_off.x_axis, &mut self.x, missing, words);
            objective_ui(ui, words.trade_off.y_axis, &mut self.y, missing, words);
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                let copy = ui.small_button(words.trade_off.copy).on_hover_text(words.trade_off.copy_hint);
                if copy.clicked()
                    && let Some((_, model)) = &self.cache
                {
                    cx.send(Command::Copy(model.csv(cx.study)));
                }
                let button = ui.small_button(words.trade_off.reset).on_hover_text(words.trade_off.reset_hint);
                reset = button.clicked();
                if ui.available_width() > 90.0
                    && let Some(id) = cx.selection.trial.filter(|id| cx.study.trials.contains_key(id))
                    && ui
                        .small_button(words.trade_off.load)
                        .on_hover_text((words.trials.load)(&id.to_string()))
                        .clicked()
                {
                    cx.send(Command::LoadRecipe(id));
                }
            });
        });
        reset
    }
}

/// The choice of an axis. What no trial has is there and says why it cannot be chosen.
fn objective_ui(
    ui: &mut Ui,
    label: &'static str,
    chosen: &mut Objective,
    missing: &[(Objective, Option<String>)],
    words: &ResultsWords,
) {
    let tokens = tokens(ui);
    ui.label(quiet(label, tokens));
    let shown =
        ComboBox::from_id_salt(label).selected_text((words.objective)(*chosen)).width(118.0).show_ui(ui, |ui| {
            for objective in Objective::ALL {
                let absent = missing.iter().find(|(missing, _)| *missing == objective);
                let button = egui::Button::selectable(*chosen == objective, (words.objective)(objective));
                let response = ui.add_enabled(absent.is_none(), button);
                let response = match absent {
                    Some((_, reason)) => response.on_disabled_hover_text((words.trade_off.unread)(reason.as_deref())),
                    None => response,
                };
                if response.clicked() {
                    *chosen = objective;
                }
            }
        });
    shown.response.accessible_name(format!("{label} axis"));
}

fn plot_ui(ui: &mut Ui, model: &TradeOff, height: f32, reset: bool, words: &ResultsWords) -> Touched {
    let tokens = tokens(ui);
    let (x, y) = (model.x, model.y);
    let plot = paint::plot(("trade_off", x.objective, y.objective), tokens)
        .height(height)
        .allow_double_click_reset(false)
        .set_margin_fraction(vec2(0.07, 0.09))
        .custom_x_axes(vec![paint::x_axis(tokens).formatter(move |mark, _| x.tick(mark.value))])
        .custom_y_axes(vec![paint::y_axis(tokens).formatter(move |mark, _| y.tick(mark.value))])
        .x_grid_spacer(move |input| x.marks(&input))
        .y_grid_spacer(move |input| y.marks(&input));
    let shown = plot.show(ui, |plot_ui| {
        if reset {
            plot_ui.set_auto_bounds(true);
        }
        let beaten = tokens.faded(tokens.variant);
        plot_ui
            .points(Points::new("", PlotPoints::Borrowed(&model.filled)).radius(3.0).color(beaten).allow_hover(false));
        let hollow = Points::new("", PlotPoints::Borrowed(&model.hollow)).shape(MarkerShape::Circle).filled(false);
        plot_ui.points(hollow.radius(3.4).color(tokens.faded(tokens.warn)).allow_hover(false));
        let steps =
            Line::new("", PlotPoints::Borrowed(&model.steps)).color(tokens.variant).width(1.4).allow_band(false);
        plot_ui.line(steps.allow_hover(false));
        let pointer = plot_ui.response().hover_pos();
        let transform = *plot_ui.transform();
        let nearest = pointer.and_then(|pointer| nearest(model, &transform, pointer));
        if plot_ui.response().double_clicked() && nearest.is_none() {
            plot_ui.set_auto_bounds(true);
        }
        nearest
    });
    let response = shown.response.accessible_name(words.trade_off.plot);
    Touched { nearest: shown.inner, transform: shown.transform, response }
}

fn nearest(model: &TradeOff, transform: &PlotTransform, pointer: Pos2) -> Option<TrialId> {
    let distance = |at: &egui_plot::PlotPoint| transform.position_from_point(at).distance_sq(pointer);
    let best = model.drawn().map(|point| (distance(&point.at), point.id)).min_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(distance, _)| *distance <= REACH * REACH).map(|(_, id)| id)
}

/// What stands above the points: front, reference, labels, whiskers, rings.
fn overlay(cx: &ViewContext<'_>, ui: &Ui, model: &TradeOff, touched: &Touched, words: &ResultsWords) {
    let tokens = tokens(ui);
    let transform = &touched.transform;
    let frame = *transform.frame();
    let painter = ui.painter().with_clip_rect(frame);
    let place = |at: &egui_plot::PlotPoint| transform.position_from_point(at);
    let mut labels = LabelPlacer::default();
    for point in &model.front {
        let (shape, color) = if point.simulated { (Shape::Ring, tokens.warn) } else { (Shape::Disc, tokens.variant) };
        mark(&painter, place(&point.at), shape, 4.5, color);
        labels.block(egui::Rect::from_center_size(place(&point.at), vec2(9.0, 9.0)));
    }
    if let Some(at) = model.reference {
        mark(&painter, place(&at), Shape::Diamond, 5.0, tokens.reference);
        labels.block(egui::Rect::from_center_size(place(&at), vec2(10.0, 10.0)));
        label(&painter, &mut labels, frame, place(&at), words.reference, tokens.text_weak);
    }
    let selection = cx.selection;
    let pins = [(selection.pinned_a, "A", tokens.side_a), (selection.pinned_b, "B", tokens.side_b)];
    let hovered = touched.nearest.or(selection.hovered);
    let whiskered = [hovered, selection.pinned_a, selection.pinned_b];
    for id in whiskered.into_iter().flatten() {
        for ends in model.whiskers(cx.study, id) {
            painter.line_segment(ends.map(|end| place(&end)), Stroke::new(1.2, tokens.text_weak));
        }
    }
    for (id, side, color) in pins {
        if let Some(at) = id.and_then(|id| model.position(cx.study, id)) {
            painter.circle_stroke(place(&at), 8.0, Stroke::new(2.0, color));
            label(&painter, &mut labels, frame, place(&at), side, color);
        }
    }
    if let Some(at) = selection.trial.and_then(|id| model.position(cx.study, id)) {
        painter.circle_stroke(place(&at), 6.5, Stroke::new(2.0, tokens.accent));
        mark(&painter, place(&at), Shape::Disc, 3.0, tokens.accent);
    }
    if let Some(at) = hovered.and_then(|id| model.position(cx.study, id)) {
        painter.circle_stroke(place(&at), 8.5, Stroke::new(1.2, tokens.text_strong));
    }
    for (point, text) in model.front.iter().zip(&model.labels) {
        if point.id != TrialId(0) && frame.contains(place(&point.at)) {
            label(&painter, &mut labels, frame, place(&point.at), text, tokens.text);
        }
    }
}

fn label(
    painter: &egui::Painter,
    labels: &mut LabelPlacer,
    frame: egui::Rect,
    at: Pos2,
    text: &str,
    color: egui::Color32,
) {
    let galley = painter.layout_no_wrap(text.to_owned(), FontId::proportional(SMALL), color);
    if let Some(rect) = labels.place(frame.shrink(2.0), at, galley.size()) {
        painter.galley(rect.min, galley, color);
    }
}

/// Sends what the pointer asked for.
fn react(cx: &ViewContext<'_>, touched: Touched, before: &mut Option<TrialId>, words: &ResultsWords) {
    let Touched { nearest, response, .. } = touched;
    report_hover(cx, before, nearest);
    if response.double_clicked() {
        if let Some(id) = nearest {
            cx.send(Command::LoadRecipe(id));
        }
    } else if response.clicked() {
        cx.send(Command::SelectTrial(nearest));
    }
    if let Some(id) = nearest {
        response.on_hover_ui_at_pointer(|ui| {
            card_ui(cx, ui, id, words);
            ui.label(quiet(words.trade_off.click_hint, tokens(ui)));
        });
    }
}

/// The legend of shapes, and what is not on the plot with its reason.
fn footer_ui(cx: &ViewContext<'_>, ui: &mut Ui, model: &TradeOff, words: &ResultsWords) {
    let tokens = tokens(ui);
    let trade_off = &words.trade_off;
    ui.horizontal(|ui| {
        ui.set_min_height(20.0);
        // The reference is labelled in the plot: a narrow tile needs the room for what is missing.
        if ui.available_width() >= 600.0 {
            legend_ui(ui, Shape::Diamond, tokens.reference, words.reference);
            legend_ui(ui, Shape::Disc, tokens.variant, words.measured);
        }
        if model.has_simulated {
            legend_ui(ui, Shape::Ring, tokens.warn, words.simulated);
        }
        let notes = [
            (model.n_simulated_off, trade_off.n_simulated, trade_off.simulated_reason),
            (model.n_unmeasured, trade_off.n_unmeasured, trade_off.unmeasured_reason),
            (model.n_thinned, trade_off.n_thinned, trade_off.thinned_reason),
        ];
        for ((n, text, reason), shape) in notes.into_iter().zip([Some(Shape::Ring), None, None]) {
            if n == 0 {
                continue;
            }
            let note = match shape {
                Some(shape) => legend_ui(ui, shape, tokens.warn, &text(n)),
                None => ui.label(quiet(text(n), tokens)),
            };
            note.on_hover_text(reason);
        }
        if !model.failed.is_empty() {
            legend_ui(ui, Shape::Cross, tokens.bad, &(trade_off.n_failed)(model.failed.len()));
            let mut rest = model.failed.as_slice();
            while let [id, others @ ..] = rest {
                // Room for this one and for the count of the others.
                if ui.available_width() < 140.0 {
                    break;
                }
                failed_ui(cx, ui, *id, words);
                rest = others;
            }
            if !rest.is_empty() {
                ui.label(quiet((trade_off.n_more)(rest.len()), tokens));
            }
        }
        if model.n_masked_off > 0 {
            let note = quiet((trade_off.n_masked)(model.n_masked_off), tokens);
            ui.label(note).on_hover_text(trade_off.masked_reason);
        }
    });
}

fn failed_ui(cx: &ViewContext<'_>, ui: &mut Ui, id: TrialId, words: &ResultsWords) {
    let tokens = tokens(ui);
    let selected = cx.selection.trial == Some(id);
    let text = RichText::new(format!("{} {id}", Mark::Failed.glyph())).size(SMALL).color(tokens.bad);
    let button = ui.add(egui::Button::selectable(selected, text).small());
    let button = button.accessible_name((words.trade_off.select)(&id.to_string()));
    if button.clicked() {
        cx.send(Command::SelectTrial(Some(id)));
    }
    button.on_hover_ui(|ui| card_ui(cx, ui, id, words));
}

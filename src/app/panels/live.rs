//! Latency, memory and quality of the running trial, or of the selected trial's record.

use egui::{Align, Layout, Pos2, Rect, Ui, vec2};
use egui_plot::{Axis, FilledArea, HLine, Line, LineStyle, MarkerShape, PlotPoint, PlotPoints, Points, Span};

use crate::app::command::Command;
use crate::app::context::ViewContext;
use crate::app::panels::Panel;
use crate::app::plots::card;
use crate::app::plots::live::{
    Band, Convergence, Latency, MachineCurves, MemoryCurve, PhaseSpan, QualityKind, Quantity, Source, shown_phase,
};
use crate::app::plots::live_csv::{Series, csv};
use crate::app::plots::paint::{self, StudyKey, line_legend, quiet, study_key, tokens};
use crate::app::theme::Tokens;
use crate::app::words::{self, LiveWords, ResultsWords};
use crate::study::{Phase, Study};
use crate::units::{count, interval, significant};

/// What a live model was made of: study, source, lengths of its series, width in points.
type LiveKey = (StudyKey, Source, [usize; 2], usize);

/// Width of a plot from which legends say how many samples there are, in points.
const ROOMY: f32 = 320.0;
/// Width below which nobody could read a trial's name, in points.
const LEGIBLE: f32 = 32.0;

/// Latency sample by sample.
#[derive(Debug, Default)]
pub struct LiveLatencyPanel {
    /// The phase that the user chose; the running one otherwise.
    phase: Option<Phase>,
    cache: Option<(LiveKey, Phase, Latency)>,
}

/// Memory over time; power and clocks on the same time while a trial runs.
#[derive(Debug, Default)]
pub struct LiveMemoryPanel {
    quantity: Quantity,
    cache: Option<(LiveKey, MemoryCurve)>,
    machine: Option<(LiveKey, Quantity, MachineCurves)>,
}

/// Quality as it converges.
#[derive(Debug, Default)]
pub struct LiveQualityPanel {
    kind: QualityKind,
    cache: Option<(LiveKey, QualityKind, Convergence)>,
}

impl Panel for LiveLatencyPanel {
    fn title(&self) -> &'static str {
        words::current().titles.latency
    }

    fn ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui) {
        let results = &cx.words.results;
        let words = &results.live;
        let Some(source) = source_or_hint(cx, ui, words, words.latency_hint) else { return };
        let phase = self.phase.unwrap_or_else(|| shown_phase(cx.study, source));
        let live = &cx.study.live;
        let key = key(cx.study, source, [live.prefill_nanos.len(), live.decode_nanos.len()], ui);
        if self.cache.as_ref().is_none_or(|(cached, of, _)| *cached != key || *of != phase) {
            self.cache = Some((key, phase, Latency::new(cx.study, source, phase, key.3)));
        }
        let Some((.., model)) = &self.cache else { return };
        let mut chosen = phase;
        ui.horizontal(|ui| {
            for phase in [Phase::Prefill, Phase::Decode] {
                choice_ui(ui, &mut chosen, phase, results.phase(phase), words.phase);
            }
            source_ui(cx, ui, (source, Series::Latency), words);
        });
        if chosen != phase {
            self.phase = Some(chosen);
        }
        if model.is_empty() {
            nothing_ui(ui, source, (words.latency_waiting, words.latency_absent), words);
        } else {
            latency_ui(ui, model, results);
        }
    }
}

fn latency_ui(ui: &mut Ui, model: &Latency, results: &ResultsWords) {
    let words = &results.live;
    let tokens = tokens(ui);
    let arms = [(&model.reference, tokens.reference), (&model.variant, tokens.variant)];
    let plot = paint::plot("latency", tokens)
        .allow_double_click_reset(true)
        .include_y(0.0)
        .set_margin_fraction(vec2(0.02, 0.06))
        .custom_x_axes(vec![paint::x_axis(tokens)])
        .custom_y_axes(vec![paint::y_axis(tokens)]);
    let shown = plot.show(ui, |plot_ui| {
        for (band, color) in arms {
            if let Some([median, low, high]) = band.middle {
                plot_ui.span(Span::new("", low..=high).axis(Axis::Y).fill(tokens.band(color)));
                plot_ui.line(
                    Line::new("", PlotPoints::Borrowed(&band.points))
                        .color(tokens.faded(color))
                        .width(1.0)
                        .allow_hover(false),
                );
                plot_ui.hline(HLine::new("", median).color(color).width(1.6).allow_hover(false));
            }
        }
        let cut = Points::new("", PlotPoints::Borrowed(&model.cut)).shape(MarkerShape::Up).radius(3.5);
        plot_ui.points(cut.color(tokens.warn).allow_hover(false));
    });
    let response = shown.response.accessible_name(words.latency_plot).on_hover_text(words.band_hint);
    let painter = ui.painter().with_clip_rect(response.rect);
    let mut at = shown.transform.frame().left_top() + vec2(5.0, 4.0);
    for (band, name, color) in
        [(&model.variant, results.variant, tokens.variant), (&model.reference, results.reference, tokens.reference)]
    {
        if let Some(text) = band_text(band, name, shown.transform.frame().width(), words) {
            at = line_legend(&painter, at, color, &text, tokens);
        }
    }
    if !model.cut.is_empty() {
        at = line_legend(&painter, at, tokens.warn, &(words.n_cut)(model.cut.len()), tokens);
    }
    if model.simulated {
        line_legend(&painter, at, tokens.warn, words.simulated, tokens);
    }
}

/// Median and, where there is room, the number of samples.
fn band_text(band: &Band, name: &str, room: f32, words: &LiveWords) -> Option<String> {
    let [median, ..] = band.middle?;
    let text = format!("{name} {} ms", significant(median, 3));
    let samples = (words.n_samples)(&count(band.n as u64));
    Some(if room < ROOMY { text } else { format!("{text} · {samples}") })
}

impl Panel for LiveMemoryPanel {
    fn title(&self) -> &'static str {
        words::current().titles.memory
    }

    fn ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui) {
        let results = &cx.words.results;
        let words = &results.live;
        let Some(source) = source_or_hint(cx, ui, words, words.memory_hint) else { return };
        let live = &cx.study.live;
        let key = key(cx.study, source, [live.memory.len(), live.phases.len()], ui);
        if self.cache.as_ref().is_none_or(|(cached, _)| *cached != key) {
            self.cache = Some((key, MemoryCurve::new(cx.study, source, cx.telemetry, key.3)));
        }
        let Some((_, model)) = &self.cache else { return };
        ui.horizontal(|ui| {
            let names =
                [(Quantity::Memory, words.memory), (Quantity::Power, words.power), (Quantity::Clock, words.clock)];
            for (quantity, name) in names {
                choice_ui(ui, &mut self.quantity, quantity, name, words.quantity);
            }
            source_ui(cx, ui, (source, Series::Memory), words);
        });
        if self.quantity != Quantity::Memory {
            let cached =
                self.machine.as_ref().is_some_and(|(of, quantity, _)| *of == key && *quantity == self.quantity);
            if !cached {
                let curves = MachineCurves::new(cx.study, source, cx.telemetry, self.quantity, key.3);
                self.machine = Some((key, self.quantity, curves));
            }
            if let Some((.., curves)) = &self.machine {
                machine_ui(ui, source, self.quantity, curves, results);
            }
            return;
        }
        if model.worker.len() < 2 {
            nothing_ui(ui, source, (words.memory_waiting, words.memory_absent), words);
        } else {
            memory_ui(ui, model, results);
        }
    }
}

fn memory_ui(ui: &mut Ui, model: &MemoryCurve, results: &ResultsWords) {
    let words = &results.live;
    let tokens = tokens(ui);
    let plot = paint::plot("memory", tokens)
        .include_y(0.0)
        .set_margin_fraction(vec2(0.0, 0.12))
        .custom_x_axes(vec![paint::x_axis(tokens)])
        .custom_y_axes(vec![paint::y_axis(tokens)]);
    let shown = plot.show(ui, |plot_ui| {
        phase_bands(plot_ui, &model.phases, tokens);
        for (number, gpu) in model.gpus.iter().enumerate() {
            plot_ui.line(gpu_line(&gpu.points, number, tokens));
        }
        let worker =
            Line::new("", PlotPoints::Borrowed(&model.worker)).color(tokens.variant).width(1.8).allow_band(false);
        plot_ui.line(worker.allow_hover(false));
        if let Some(peak) = model.peak_mib {
            let style = LineStyle::dashed_dense();
            plot_ui.hline(HLine::new("", peak).color(tokens.text_weak).width(1.0).style(style).allow_hover(false));
        }
    });
    let response = shown.response.accessible_name(words.memory_plot).on_hover_text(words.peak_hint);
    let painter = ui.painter().with_clip_rect(response.rect);
    phase_labels(&painter, &model.phases, &shown.transform, results, tokens);
    let newest = model.worker.last().map_or(0.0, |point| point.y);
    // Below: the peak runs along the top.
    let n_lines = 1 + usize::from(model.peak_mib.is_some()) + model.gpus.len();
    let frame = shown.transform.frame();
    let mut at = Pos2::new(frame.left() + 5.0, frame.bottom() - 6.0 - 17.0 * n_lines as f32);
    let worker = format!("{} {} MiB", words.worker, significant(newest, 3));
    at = line_legend(&painter, at, tokens.variant, &worker, tokens);
    if let Some(peak) = model.peak_mib {
        at = line_legend(&painter, at, tokens.text_weak, &(words.peak)(&significant(peak, 3)), tokens);
    }
    for (number, gpu) in model.gpus.iter().enumerate() {
        let newest = gpu.points.last().map_or(0.0, |point| point.y);
        let text = format!("{} {} MiB", (words.gpu)(number, gpu.is_own), significant(newest, 3));
        at = line_legend(&painter, at, gpu_color(number, tokens), &text, tokens);
    }
    if model.gpus.iter().any(|gpu| !gpu.is_own) {
        response.on_hover_text(words.gpu_hint);
    }
}

/// Power or clocks, on the same time as memory.
fn machine_ui(ui: &mut Ui, source: Source, quantity: Quantity, model: &MachineCurves, results: &ResultsWords) {
    let words = &results.live;
    if model.lines.is_empty() {
        nothing_ui(ui, source, (words.machine_waiting, words.machine_absent), words);
        return;
    }
    let tokens = tokens(ui);
    let plot = paint::plot(("machine", quantity as u8), tokens)
        .include_y(0.0)
        .set_margin_fraction(vec2(0.0, 0.2))
        .custom_x_axes(vec![paint::x_axis(tokens)])
        .custom_y_axes(vec![paint::y_axis(tokens)]);
    let color = |index: usize| tokens.series[index % tokens.series.len()];
    let shown = plot.show(ui, |plot_ui| {
        phase_bands(plot_ui, &model.phases, tokens);
        for (index, (_, points)) in model.lines.iter().enumerate() {
            let line = Line::new("", PlotPoints::Borrowed(points)).color(color(index)).width(1.6).allow_band(false);
            plot_ui.line(line.allow_hover(false));
        }
    });
    let (unit, name) = if quantity == Quantity::Power { ("W", words.power_plot) } else { ("MHz", words.clock_plot) };
    let response = shown.response.accessible_name(name).on_hover_text(words.machine_hint);
    let painter = ui.painter().with_clip_rect(response.rect);
    phase_labels(&painter, &model.phases, &shown.transform, results, tokens);
    let frame = shown.transform.frame();
    let mut at = Pos2::new(frame.left() + 5.0, frame.bottom() - 6.0 - 17.0 * model.lines.len() as f32);
    for (index, (owner, points)) in model.lines.iter().enumerate() {
        let newest = points.last().map_or(0.0, |point| point.y);
        let text = format!("{} {} {unit}", (words.owner)(*owner), significant(newest, 4));
        at = line_legend(&painter, at, color(index), &text, tokens);
    }
}

/// A tinted stretch for each phase.
fn phase_bands(plot_ui: &mut egui_plot::PlotUi<'_>, phases: &[PhaseSpan], tokens: &Tokens) {
    for (index, span) in phases.iter().enumerate() {
        let color = tokens.series[span.phase as usize % tokens.series.len()];
        let fill = if index % 2 == 0 { tokens.band(color) } else { tokens.band(color).gamma_multiply(0.6) };
        plot_ui.span(Span::new("", span.from_secs..=span.to_secs).fill(fill));
    }
}

fn gpu_color(number: usize, tokens: &Tokens) -> egui::Color32 {
    tokens.series[(number + 1) % tokens.series.len()]
}

fn gpu_line<'a>(points: &'a [PlotPoint], number: usize, tokens: &Tokens) -> Line<'a> {
    Line::new("", PlotPoints::Borrowed(points)).color(gpu_color(number, tokens)).width(1.4).allow_hover(false)
}

/// Names of the phases along the upper edge, where they fit.
fn phase_labels(
    painter: &egui::Painter,
    phases: &[PhaseSpan],
    transform: &egui_plot::PlotTransform,
    results: &ResultsWords,
    tokens: &Tokens,
) {
    let frame = *transform.frame();
    for span in phases {
        let left = transform.position_from_point_x(span.from_secs).max(frame.left());
        let right = transform.position_from_point_x(span.to_secs).min(frame.right());
        let font = egui::FontId::proportional(crate::app::theme::SMALL);
        let galley = painter.layout_no_wrap(results.phase(span.phase).to_owned(), font, tokens.text_weak);
        if galley.size().x + 4.0 <= right - left {
            let place = Rect::from_min_max(Pos2::new(left, frame.top()), Pos2::new(right, frame.top() + 16.0));
            painter.galley(place.center() - galley.size() * 0.5, galley, tokens.text_weak);
        }
    }
}

impl Panel for LiveQualityPanel {
    fn title(&self) -> &'static str {
        words::current().titles.quality
    }

    fn ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui) {
        let words = &cx.words.results.live;
        let Some(source) = source_or_hint(cx, ui, words, words.quality_hint) else { return };
        ui.horizontal(|ui| {
            choice_ui(ui, &mut self.kind, QualityKind::Kl, words.kl, words.quality);
            choice_ui(ui, &mut self.kind, QualityKind::PerplexityRatio, words.ratio, words.quality);
            source_ui(cx, ui, (source, Series::Quality), words);
        });
        let key = key(cx.study, source, [cx.study.live.windows.len(), 0], ui);
        if self.cache.as_ref().is_none_or(|(cached, kind, _)| *cached != key || *kind != self.kind) {
            self.cache = Some((key, self.kind, Convergence::new(cx.study, source, self.kind, key.3)));
        }
        let Some((.., model)) = &self.cache else { return };
        match model.newest {
            Some((mean, ci95)) => quality_ui(ui, model, &interval(mean, ci95), words),
            None => nothing_ui(ui, source, (words.quality_waiting, words.quality_absent), words),
        }
    }
}

fn quality_ui(ui: &mut Ui, model: &Convergence, newest: &str, words: &LiveWords) {
    let tokens = tokens(ui);
    let near = model.limit.filter(|_| model.limit_is_near());
    let plot = paint::plot("quality", tokens)
        .set_margin_fraction(vec2(0.02, 0.12))
        .custom_x_axes(vec![paint::x_axis(tokens)])
        .custom_y_axes(vec![paint::y_axis(tokens)]);
    let shown = plot.show(ui, |plot_ui| {
        let band = FilledArea::new("", &model.xs, &model.low, &model.high).fill_color(tokens.band(tokens.variant));
        plot_ui.add(band.allow_hover(false));
        let mean = Line::new("", PlotPoints::Borrowed(&model.mean)).color(tokens.variant).width(1.8).allow_band(false);
        plot_ui.line(mean.allow_hover(false));
        if let Some(limit) = near {
            let style = LineStyle::dashed_dense();
            plot_ui.hline(HLine::new("", limit).color(tokens.bad).width(1.4).style(style).allow_hover(false));
        }
    });
    let response = shown.response.accessible_name(words.quality_plot).on_hover_text(words.ci_hint);
    let painter = ui.painter().with_clip_rect(response.rect);
    let mut at = shown.transform.frame().left_top() + vec2(5.0, 4.0);
    let windows = (words.n_windows)(&count(model.n as u64));
    let roomy = shown.transform.frame().width() >= ROOMY;
    let text = if roomy { format!("{newest} · {windows}") } else { newest.to_owned() };
    at = line_legend(&painter, at, tokens.variant, &text, tokens);
    if let Some(limit) = model.limit {
        line_legend(&painter, at, tokens.bad, &(words.limit)(&significant(limit, 3)), tokens);
    }
}

/// The trial to show; without one, says so and what to do.
fn source_or_hint(cx: &ViewContext<'_>, ui: &mut Ui, words: &LiveWords, hint: &str) -> Option<Source> {
    let source = Source::choose(cx.study, cx.selection.trial);
    if source.is_none() {
        paint::empty_ui(ui, words.nothing, hint);
    }
    source
}

fn key(study: &Study, source: Source, lengths: [usize; 2], ui: &Ui) -> LiveKey {
    // A recorded trial does not change while another study's samples come in.
    let lengths = if matches!(source, Source::Running(_)) { lengths } else { [0; 2] };
    (study_key(study), source, lengths, ui.available_width().max(1.0) as usize)
}

/// The trial, whether it is live, and a button that copies its series.
fn source_ui(cx: &ViewContext<'_>, ui: &mut Ui, (source, series): (Source, Series), words: &LiveWords) {
    let tokens = tokens(ui);
    let (glyph, color, state) = match source {
        Source::Running(_) => ("▶", tokens.accent, words.running),
        Source::Recorded(_) => ("●", tokens.text_weak, words.recorded),
    };
    ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
        let button = ui.add(egui::Button::new(quiet(words.copy, tokens)).small());
        if button.accessible_name(words.copy_hint).on_hover_text(words.copy_hint).clicked() {
            cx.send(Command::Copy(csv(cx.study, source, series)));
        }
        ui.add_space(ui.spacing().item_spacing.x);
        ui.with_layout(Layout::left_to_right(Align::Center), |ui| {
            let title = card::title(cx.study, source.trial());
            let sign = ui.label(egui::RichText::new(glyph).size(9.0).color(color));
            let whole = format!("{title}: {state}");
            sign.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Label, true, &whole));
            sign.on_hover_text(&whole);
            if ui.available_width() >= LEGIBLE {
                ui.add(egui::Label::new(quiet(title, tokens)).truncate());
            }
        });
    });
}

fn choice_ui<T: PartialEq>(ui: &mut Ui, current: &mut T, value: T, text: &str, group: &str) {
    let selected = *current == value;
    let button = egui::Button::selectable(selected, egui::RichText::new(text).small()).small();
    if ui.add(button).accessible_name(format!("{group} {text}")).clicked() {
        *current = value;
    }
}

/// Nothing to draw: not yet while the trial runs, or never recorded.
fn nothing_ui(ui: &mut Ui, source: Source, (waiting, absent): (&str, &str), words: &LiveWords) {
    match source {
        Source::Running(_) => paint::empty_ui(ui, words.waiting, waiting),
        Source::Recorded(_) => paint::empty_ui(ui, words.not_recorded, absent),
    }
}

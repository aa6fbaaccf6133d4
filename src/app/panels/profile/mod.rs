//! Where the time of a variant's forward passes goes, and what limits it.

mod blocks;
mod roofline;
mod table;

use egui::{Align, Button, DragValue, Label, Layout, Response, RichText, ScrollArea, Ui, vec2};

use crate::app::command::{Command, DialogKind, ExportKind};
use crate::app::context::ViewContext;
use crate::app::panels::Panel;
use crate::app::plots::paint::{self, quiet};
use crate::app::plots::profile::{PassView, Sort};
use crate::app::theme::{ROW_HEIGHT, Tokens};
use crate::app::words;
use crate::export::profile;
use crate::measure::roofline::{Bound, host_share};
use crate::model::{ModelGraph, OperationGroup};
use crate::recipe::Recipe;
use crate::session::{ModelState, ProfileRequest, ProfileState, Profiling};
use crate::study::{PassKind, PassProfile, ProfileReport, ProfileWorkload, TrialId};
use crate::units::{count, duration, per_second, percent, significant};

/// Width from which everything is shown at once, in points.
const WIDE: f32 = 760.0;
/// Height of the roofline plot among others below each other, in points.
const PLOT: f32 = 260.0;
/// Tokens of a prompt and of a context to begin with, where the model has room.
const TOKENS: u32 = 256;

/// The tile that takes passes apart.
pub struct ProfilePanel {
    section: Section,
    /// Whether the selected trial's recipe is profiled, not the one that is being edited.
    of_trial: bool,
    workload: ProfileWorkload,
    /// Which pass is shown.
    pass: usize,
    sort: Sort,
    /// What is drawn, with what it was made from.
    drawn: Option<((u64, usize, Sort), PassView)>,
}

impl Default for ProfilePanel {
    fn default() -> Self {
        Self {
            section: Section::default(),
            of_trial: false,
            workload: ProfileWorkload { prompt: TOKENS, context: TOKENS, repetitions: 16 },
            pass: 0,
            sort: Sort::default(),
            drawn: None,
        }
    }
}

/// A part of what there is to see, where there is no room for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Section {
    #[default]
    Operations,
    Blocks,
    Roofline,
}

/// What every part of the panel reads.
struct Shown<'a> {
    cx: &'a ViewContext<'a>,
    report: &'a ProfileReport,
    pass: &'a PassProfile,
    view: &'a PassView,
    /// Whether all parts are shown at once.
    is_wide: bool,
}

impl Panel for ProfilePanel {
    fn title(&self) -> &'static str {
        words::current().titles.profile
    }

    fn ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui) {
        let words = &cx.words.profile;
        let profiling = cx.profiling;
        let is_open = matches!(cx.model, ModelState::Open(_));
        let Some(graph) = cx.graph.filter(|_| is_open || profiling.is_some()) else {
            return paint::empty_ui(ui, words.needs_model, words.needs_model_hint);
        };
        self.form_ui(cx, ui, graph);
        if let Some(profiling) = profiling {
            state_ui(cx, ui, profiling);
        }
        let Some((profiling, report)) = profiling.and_then(|it| Some((it, it.report.as_deref()?))) else {
            if profiling.is_none_or(|it| it.state == ProfileState::Cancelled) {
                paint::empty_ui(ui, words.nothing, words.nothing_hint);
            }
            return;
        };
        self.report_ui(cx, ui, profiling, report);
    }
}

impl ProfilePanel {
    /// What is profiled, and the button that begins it.
    fn form_ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui, graph: &ModelGraph) {
        let words = &cx.words.profile;
        let max_context = u32::try_from(graph.family.max_context()).unwrap_or(u32::MAX);
        let mut workload = self.workload;
        // One token behind the context has to fit too.
        let longest = max_context.saturating_sub(1).max(1);
        workload.prompt = workload.prompt.clamp(1, max_context.max(1));
        workload.context = workload.context.clamp(1, longest);
        let trial = cx.selection.trial.filter(|id| cx.study.trials.contains_key(id));
        self.of_trial &= trial.is_some();
        ui.horizontal_wrapped(|ui| {
            ui.set_min_height(ROW_HEIGHT);
            choice_ui(ui, &mut self.of_trial, false, words.current, words.source);
            if let Some(id) = trial {
                choice_ui(ui, &mut self.of_trial, true, &(words.trial)(&id.to_string()), words.source);
            }
            let ProfileWorkload { prompt, context, repetitions } = &mut workload;
            let fields = [
                (words.prompt, words.prompt_hint, prompt, 1..=max_context),
                (words.context, words.context_hint, context, 1..=longest),
                (words.repetitions, words.repetitions_hint, repetitions, 2..=1000),
            ];
            for (name, hint, value, range) in fields {
                ui.label(quiet(name, cx.theme));
                let field = ui.add(DragValue::new(value).range(range).speed(1.0));
                field.accessible_name(name).on_hover_text(hint);
            }
            let id = trial.filter(|_| self.of_trial);
            let refusal = refusal(cx, id);
            let is_running = cx.profiling.is_some_and(|it| it.state == ProfileState::Running);
            let button = ui.add_enabled(refusal.is_none() && !is_running, Button::new(words.begin).small());
            let button = button.on_hover_text(words.begin_hint);
            if button.clicked() {
                let request = ProfileRequest { recipe: recipe(cx, id), device: cx.device, workload };
                cx.send(Command::Profile(Box::new(request)));
            }
            if let Some(reason) = refusal {
                button.on_disabled_hover_text(&reason);
                ui.add(Label::new(quiet(reason, cx.theme)).truncate());
            }
        });
        self.workload = workload;
    }

    fn report_ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui, profiling: &Profiling, report: &ProfileReport) {
        self.pass = self.pass.min(report.passes.len().saturating_sub(1));
        let Some(pass) = report.passes.get(self.pass) else { return };
        let key = (profiling.generation, self.pass, self.sort);
        if self.drawn.as_ref().is_none_or(|(drawn, _)| *drawn != key) {
            self.drawn = Some((key, PassView::new(pass, &report.ceilings, self.sort)));
        }
        let Some((_, view)) = &self.drawn else { return };
        let is_wide = ui.available_width() >= WIDE;
        let shown = Shown { cx, report, pass, view, is_wide };
        let chosen = heading_ui(&shown, ui, self.pass);
        summary_ui(&shown, ui);
        let sorted = if is_wide { wide_ui(&shown, ui, self.sort) } else { self.section.ui(&shown, ui, self.sort) };
        self.section = sorted.1.unwrap_or(self.section);
        self.sort = sorted.0;
        self.pass = chosen;
    }
}

impl Section {
    /// One part that is chosen above it; gives the order asked for and the part chosen.
    fn ui(self, shown: &Shown<'_>, ui: &mut Ui, sort: Sort) -> (Sort, Option<Self>) {
        let words = &shown.cx.words.profile;
        let (mut sort, mut section) = (sort, self);
        ui.horizontal(|ui| {
            for (value, text) in
                [(Self::Operations, words.operations), (Self::Blocks, words.blocks), (Self::Roofline, words.roofline)]
            {
                choice_ui(ui, &mut section, value, text, words.section);
            }
        });
        ScrollArea::vertical().auto_shrink(false).show(ui, |ui| match section {
            Self::Operations => sort = table::ui(shown, ui, sort),
            Self::Blocks => blocks::ui(shown, ui),
            Self::Roofline => roofline::ui(shown, ui, PLOT),
        });
        (sort, Some(section))
    }
}

/// The plot over the bars, the table beside both.
fn wide_ui(shown: &Shown<'_>, ui: &mut Ui, sort: Sort) -> (Sort, Option<Section>) {
    let size = ui.available_size();
    let gap = ui.spacing().item_spacing;
    let right = (size.x * 0.5).clamp(380.0, 620.0);
    let left = vec2(size.x - right - gap.x, size.y);
    let mut sort = sort;
    ui.horizontal_top(|ui| {
        ui.allocate_ui_with_layout(left, Layout::top_down(Align::Min), |ui| {
            ui.set_min_size(left);
            let rows = shown.view.bars.len() as f32;
            let bars = ((rows + 2.0) * blocks::ROW).min(left.y * 0.5);
            roofline::ui(shown, ui, (left.y - bars - gap.y).max(120.0));
            ScrollArea::vertical().id_salt("blocks").auto_shrink(false).show(ui, |ui| blocks::ui(shown, ui));
        });
        ui.allocate_ui_with_layout(vec2(right, size.y), Layout::top_down(Align::Min), |ui| {
            ScrollArea::vertical().id_salt("operations").auto_shrink(false).show(ui, |ui| {
                sort = table::ui(shown, ui, sort);
            });
        });
    });
    (sort, None)
}

/// The passes to choose from, their times, and what can be taken away; gives the pass chosen.
fn heading_ui(shown: &Shown<'_>, ui: &mut Ui, current: usize) -> usize {
    let (words, tokens) = (&shown.cx.words.profile, shown.cx.theme);
    let mut chosen = current;
    ui.horizontal_wrapped(|ui| {
        for (index, pass) in shown.report.passes.iter().enumerate() {
            let text = match pass.kind {
                PassKind::Prefill { tokens } => (words.prefill)(&count(tokens.into())),
                PassKind::Decode { context } => (words.decode)(&count(context.into())),
            };
            choice_ui(ui, &mut chosen, index, &text, words.pass);
        }
        let time = duration(shown.pass.plain_nanos as f64 * 1e-9);
        ui.label(quiet((words.times)(&time, &count(shown.pass.repetitions.into())), tokens));
        if let Some(share) = host_share(shown.pass) {
            ui.label(quiet((words.host)(&percent(share)), tokens)).on_hover_text(words.host_hint);
        }
        if let Some(ratio) = shown.pass.overhead {
            let [low, high] = ratio.ci95.map(|bound| significant(bound, 4));
            let text = format!("{} × ({low}–{high})", significant(ratio.value, 4));
            ui.label(quiet((words.overhead)(&text), tokens)).on_hover_text(words.overhead_hint);
        }
        if ui.small_button(words.copy).clicked() {
            shown.cx.send(Command::Copy(profile::csv(shown.report)));
        }
        if ui.small_button(words.export_csv).clicked() {
            shown.cx.send(Command::Dialog(DialogKind::Export(ExportKind::ProfileCsv)));
        }
        let trace = ui.small_button(words.export_trace).on_hover_text(words.export_trace_hint);
        if trace.clicked() {
            shown.cx.send(Command::Dialog(DialogKind::Export(ExportKind::ProfileTrace)));
        }
    });
    chosen
}

/// What limits the pass, in a sentence.
fn summary_ui(shown: &Shown<'_>, ui: &mut Ui) {
    let Some(found) = shown.view.bottleneck else { return };
    let unit = if found.bound == Bound::Compute { "FLOP/s" } else { "B/s" };
    let figures = found.reached.zip(found.ceiling).map(|(reached, ceiling)| [reached, ceiling]);
    let figures = figures.map(|figures| figures.map(|figure| per_second(figure, unit)));
    let figures = figures.as_ref().map(|figures| figures.each_ref().map(String::as_str));
    let launch = duration(shown.report.ceilings.hand_over_secs);
    let text = (shown.cx.words.profile.bottleneck)(found.bound, &percent(found.time_share), figures, &launch);
    ui.add(Label::new(RichText::new(text).color(shown.cx.theme.text_strong)).wrap());
}

/// How far the worker is, or why there is nothing.
fn state_ui(cx: &ViewContext<'_>, ui: &mut Ui, profiling: &Profiling) {
    let words = &cx.words.profile;
    ui.horizontal_wrapped(|ui| {
        let name = &profiling.request.recipe.name;
        ui.label(quiet((words.of)(name), cx.theme));
        match &profiling.state {
            ProfileState::Running => {
                let text = profiling.progress.map_or_else(
                    || words.running.to_owned(),
                    |(phase, done, total)| (words.step)(cx.words.results.phase(phase), done, total),
                );
                ui.label(RichText::new("●").color(cx.theme.accent).size(9.0));
                ui.label(quiet(text, cx.theme));
                if ui.small_button(words.cancel).clicked() {
                    cx.send(Command::CancelProfile);
                }
            }
            ProfileState::Cancelled => drop(ui.label(quiet(words.cancelled, cx.theme))),
            ProfileState::Failed(reason) => {
                let text = RichText::new(format!("✖ {reason}")).small().color(cx.theme.bad);
                ui.add(Label::new(text).wrap());
            }
            ProfileState::Done => {
                for caution in &profiling.cautions {
                    ui.label(RichText::new(format!("⚠ {caution}")).small().color(cx.theme.warn));
                }
            }
        }
    });
}

/// Why a profile cannot begin now.
fn refusal(cx: &ViewContext<'_>, trial: Option<TrialId>) -> Option<String> {
    let words = &cx.words.profile;
    if !matches!(cx.model, ModelState::Open(_)) {
        return Some(words.needs_model_hint.to_owned());
    }
    if cx.status.is_some() {
        return Some(words.busy.to_owned());
    }
    match &cx.draft.plan {
        // A trial's recipe is checked by the worker, on the model that is open now.
        Some(Err(issues)) if trial.is_none() => issues.first().map(|issue| (words.refused)(&issue.to_string())),
        _ => None,
    }
}

/// The recipe with a text where it needs one.
fn recipe(cx: &ViewContext<'_>, trial: Option<TrialId>) -> Recipe {
    let of_trial = trial.and_then(|id| cx.study.trials.get(&id)).map(|trial| &trial.spec.recipe);
    of_trial.unwrap_or(&cx.draft.recipe).clone().calibrated_on(&cx.sweep.calibration)
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

/// The color of a part.
fn color(group: OperationGroup, tokens: &Tokens) -> egui::Color32 {
    match group {
        OperationGroup::Attention => tokens.series[0],
        OperationGroup::Mlp => tokens.series[1],
        OperationGroup::Norms => tokens.series[2],
        OperationGroup::Head => tokens.series[3],
        OperationGroup::Other => tokens.series[4],
    }
}

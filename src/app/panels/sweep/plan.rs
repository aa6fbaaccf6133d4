//! At the foot of the form: what Run will do before it runs, and how far it is while it does.

use egui::{Panel, ProgressBar, RichText, Ui};

use crate::app::actions;
use crate::app::context::ViewContext;
use crate::app::theme::Mark;
use crate::device::DeviceSpec;
use crate::study::{EndReason, Phase};
use crate::units;

/// Trials named before "and so many more".
const NAMED: usize = 12;

/// Draws the foot.
pub(super) fn ui(cx: &ViewContext<'_>, ui: &mut Ui) {
    Panel::bottom("plan").resizable(false).show(ui, |ui| {
        ui.add_space(4.0);
        match cx.status {
            Some(status) => running_ui(cx, status, ui),
            None => planned_ui(cx, ui),
        }
        ui.add_space(2.0);
    });
}

fn planned_ui(cx: &ViewContext<'_>, ui: &mut Ui) {
    let words = &cx.words.sweep;
    if let Err(reason) = actions::run(cx) {
        ui.add(egui::Label::new(RichText::new(reason).color(cx.theme.text_weak)).wrap());
    } else {
        let n_trials = cx.plan.recipes.len();
        ui.horizontal_wrapped(|ui| {
            let text = RichText::new((words.trials)(n_trials)).color(cx.theme.text_strong);
            ui.label(text).on_hover_ui(|ui| {
                cx.plan.recipes.iter().take(NAMED).for_each(|name| drop(ui.label(name)));
                if n_trials > NAMED {
                    ui.label((words.more)(n_trials - NAMED));
                }
            });
            let time = match cx.plan.estimated_secs {
                Some(secs) => Mark::Estimated.before(&(words.about)(&units::duration(secs))),
                None => words.time_unknown.to_owned(),
            };
            ui.label(RichText::new(time).color(cx.theme.text_weak)).on_hover_text(words.time_hint);
            peak_ui(cx, ui);
        });
        if !cx.plan.refused.is_empty() {
            let text = (words.refused)(cx.plan.refused.len());
            ui.label(RichText::new(text).color(cx.theme.warn)).on_hover_ui(|ui| {
                for (name, reason) in cx.plan.refused.iter().take(NAMED) {
                    ui.label(format!("{name}: {reason}"));
                }
            });
        }
    }
    if let Some(reason) = &cx.study.ended
        && *reason != EndReason::Complete
    {
        let text = match reason {
            EndReason::Failing(text) => (words.ended_failing)(text),
            EndReason::TimeBudget => words.ended_time.to_owned(),
            EndReason::TrialBudget => words.ended_trials.to_owned(),
            EndReason::Stopped | EndReason::Complete => words.ended_stopped.to_owned(),
        };
        ui.add(egui::Label::new(RichText::new(text).small().color(cx.theme.text_weak)).wrap());
    }
}

/// The memory that the largest trial takes, and that it is more than is free.
fn peak_ui(cx: &ViewContext<'_>, ui: &mut Ui) {
    let words = &cx.words.sweep;
    let Some((peak, recipe)) = &cx.plan.peak else { return };
    let newest = cx.telemetry.history.last();
    let free = match cx.device {
        DeviceSpec::Cpu { .. } => {
            newest.and_then(|sample| Some(sample.memory_total_bytes?.saturating_sub(sample.memory_used_bytes?)))
        }
        DeviceSpec::Cuda { .. } => {
            cx.devices.iter().find(|info| info.spec == cx.device).and_then(|info| info.memory_bytes)
        }
    };
    let short = free.filter(|free| peak > free);
    let (text, color) = match short {
        Some(free) => ((words.peak_short)(&units::bytes(*peak), &units::bytes(free)), cx.theme.warn),
        None => ((words.peak)(&units::bytes(*peak)), cx.theme.text_weak),
    };
    ui.label(RichText::new(Mark::Estimated.before(&text)).color(color)).on_hover_text((words.peak_hint)(recipe));
}

/// While a variant is made: what its layers lost so far, and how long this step still takes.
fn step_ui(cx: &ViewContext<'_>, (phase, done, total): (Phase, u32, u32), ui: &mut Ui) {
    let (words, live) = (&cx.words.compression, &cx.study.live);
    if !matches!(phase, Phase::Calibrate | Phase::Compress) {
        return;
    }
    if let Some(error) = live.mean_layer_error() {
        ui.label(RichText::new((words.error_so_far)(&units::significant(error, 3))).small().color(cx.theme.text_weak));
    }
    let began = live.phases.iter().rev().find(|(_, begun)| *begun == phase).map(|(at, _)| *at);
    if let (Some(began), Some((now, _))) = (began, live.memory.last())
        && done > 0
    {
        let spent = now.saturating_sub(began) as f64 / 1000.0;
        let left = spent / f64::from(done) * f64::from(total.saturating_sub(done));
        let text = Mark::Estimated.before(&(words.step_left)(&units::duration(left)));
        ui.label(RichText::new(text).small().color(cx.theme.text_weak));
    }
}

fn running_ui(cx: &ViewContext<'_>, status: crate::session::RunStatus, ui: &mut Ui) {
    let words = &cx.words.sweep;
    let fraction = status.done as f32 / status.total.max(1) as f32;
    let text = (cx.words.toolbar.progress)(status.done, status.total);
    ui.add(ProgressBar::new(fraction).desired_height(16.0).fill(cx.theme.accent_fill).text(text));
    ui.horizontal_wrapped(|ui| {
        if let Some((phase, done, total)) = cx.study.live.progress {
            ui.label((words.phase)(words.phase_name(phase), done, total));
            step_ui(cx, (phase, done, total), ui);
        }
        let left = status.remaining_secs.map(|left| (cx.words.toolbar.left)(&units::duration(left)));
        let left = left.map(|left| Mark::Estimated.before(&left));
        let elapsed = (words.elapsed)(&units::duration(status.elapsed_secs));
        ui.label(RichText::new(left.unwrap_or(elapsed)).color(cx.theme.text_weak));
    });
}

//! The bar at the top: menus, model, device, totals, run.

use egui::{Button, ComboBox, ProgressBar, RichText, Ui};

use crate::app::actions::{self, Action};
use crate::app::command::Command;
use crate::app::context::ViewContext;
use crate::app::layout::Tile;
use crate::app::theme::Mark;
use crate::device::{DeviceInfo, DeviceSpec};
use crate::session::{ModelState, RunStatus};
use crate::units;

/// Height of the bar, in points.
pub(super) const HEIGHT: f32 = 36.0;

/// Below this width of the window, family and size are left to the hover text of the model's name.
const DETAILS_FROM: f32 = 1240.0;

/// Draws the bar. `visible` tells which tiles are shown, for the View menu.
pub(super) fn ui(cx: &ViewContext<'_>, visible: &dyn Fn(Tile) -> bool, ui: &mut Ui) {
    ui.horizontal_centered(|ui| {
        menus_ui(cx, visible, ui);
        ui.separator();
        model_ui(cx, ui);
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            run_ui(cx, ui);
            ui.separator();
            totals_ui(cx, ui);
        });
    });
}

fn menus_ui(cx: &ViewContext<'_>, visible: &dyn Fn(Tile) -> bool, ui: &mut Ui) {
    let words = &cx.words.toolbar;
    ui.scope(|ui| {
        ui.spacing_mut().item_spacing.x = 0.0;
        ui.visuals_mut().widgets.inactive.weak_bg_fill = egui::Color32::TRANSPARENT;
        ui.menu_button(words.menu_file, |ui| {
            let open = [Action::Demo, Action::OpenFolder, Action::OpenGguf, Action::OpenStudy, Action::OpenRecipe];
            items_ui(cx, ui, &open);
            if !cx.recent.is_empty() {
                ui.menu_button(words.menu_recent, |ui| recent_ui(cx, ui));
            }
            ui.separator();
            ui.menu_button(words.menu_export, |ui| {
                items_ui(
                    cx,
                    ui,
                    &[Action::ExportFolder, Action::ExportCompressedTensors, Action::ExportGguf, Action::ExportRecipe],
                );
                ui.separator();
                items_ui(cx, ui, &[Action::ExportReport, Action::ExportCsv, Action::ExportJsonLines]);
            });
            ui.separator();
            item_ui(cx, ui, Action::Quit);
        });
        ui.menu_button(words.menu_edit, |ui| {
            items_ui(cx, ui, &[Action::Undo, Action::Redo, Action::Reference]);
            ui.separator();
            let trials = [Action::NextTrial, Action::PreviousTrial, Action::PinA, Action::PinB, Action::LoadRecipe];
            items_ui(cx, ui, &trials);
        });
        ui.menu_button(words.menu_view, |ui| {
            for tile in Tile::ALL {
                let mut shown = visible(tile);
                if ui.checkbox(&mut shown, tile.title(&cx.words.titles)).changed() {
                    cx.send(Command::ToggleTile(tile));
                }
            }
            ui.separator();
            item_ui(cx, ui, Action::ResetLayout);
            ui.menu_button(words.theme, |ui| {
                items_ui(cx, ui, &[Action::System, Action::Light, Action::Dark]);
            });
        });
        ui.menu_button(words.menu_help, |ui| {
            items_ui(cx, ui, &[Action::Help, Action::Palette]);
        });
    });
}

fn items_ui(cx: &ViewContext<'_>, ui: &mut Ui, actions: &[Action]) {
    for action in actions {
        item_ui(cx, ui, *action);
    }
}

fn item_ui(cx: &ViewContext<'_>, ui: &mut Ui, action: Action) {
    let mut button = Button::new(action.name(cx.words));
    if let Some(shortcut) = action.shortcut() {
        button = button.shortcut_text(ui.ctx().format_shortcut(&shortcut));
    }
    let command = action.command(cx);
    let mut response = ui.add_enabled(command.is_some(), button);
    if let Some(reason) = action.refusal(cx) {
        response = response.on_disabled_hover_text(reason);
    }
    if response.clicked() {
        if let Some(command) = command {
            cx.send(command);
        }
        ui.close();
    }
}

fn recent_ui(cx: &ViewContext<'_>, ui: &mut Ui) {
    for path in cx.recent {
        if ui.button(path.display().to_string()).clicked() {
            cx.send(Command::OpenPath(path.clone()));
            ui.close();
        }
    }
}

fn model_ui(cx: &ViewContext<'_>, ui: &mut Ui) {
    let words = &cx.words.toolbar;
    let weak = |text: String| RichText::new(text).color(cx.theme.text_weak);
    if let ModelState::Opening(source) = cx.model {
        ui.spinner();
        ui.label((words.opening)(&source.name()));
        return;
    }
    let Some(graph) = cx.graph else {
        ui.label(weak(words.no_model.to_owned()));
        return;
    };
    let name = RichText::new(&graph.name).strong().color(cx.theme.text_strong);
    let blocks = (words.blocks)(graph.family.name(), graph.family.n_blocks());
    let details = format!("{blocks} · {}", units::parameters(graph.n_parameters()));
    ui.scope(|ui| {
        ui.set_max_width(180.0);
        ui.add(egui::Label::new(name).truncate()).on_hover_text(format!("{}\n{details}", graph.name));
    });
    if ui.ctx().content_rect().width() >= DETAILS_FROM {
        ui.label(weak(details));
    }
    if let ModelState::Open(model) = cx.model
        && !model.refused.is_empty()
    {
        let text = RichText::new((cx.words.open.refused_tensors)(model.refused.len())).color(cx.theme.warn);
        ui.label(text).on_hover_ui(|ui| {
            for (tensor, reason) in model.refused.iter().take(12) {
                ui.label(format!("{tensor}: {reason}"));
            }
        });
    }
    if !matches!(cx.model, ModelState::Open(_)) {
        ui.label(RichText::new(words.recorded).color(cx.theme.warn)).on_hover_text(words.recorded_hint);
    }
    device_ui(cx, ui);
}

fn device_ui(cx: &ViewContext<'_>, ui: &mut Ui) {
    let words = &cx.words.toolbar;
    let chosen = match cx.also_on.len() {
        0 => cx.device.label(),
        n => format!("{} + {n}", cx.device.label()),
    };
    let combo = ComboBox::from_id_salt("device").selected_text(chosen).width(104.0);
    let shown = combo.show_ui(ui, |ui| {
        for device in cx.devices {
            let text = format!("{} · {}", device.spec.label(), device.name);
            let button = Button::selectable(device.spec == cx.device, text);
            let response = ui.add_enabled(device.unavailable.is_none(), button);
            let response = match &device.unavailable {
                Some(reason) => response.on_disabled_hover_text(reason),
                None => response,
            };
            if response.clicked() {
                cx.send(Command::SetDevice(device.spec));
            }
        }
        sharing_ui(cx, ui);
    });
    shown.response.accessible_name(words.device);
}

/// The other cards, each of which may run trials beside the chosen one.
fn sharing_ui(cx: &ViewContext<'_>, ui: &mut Ui) {
    let is_card = |spec: DeviceSpec| matches!(spec, DeviceSpec::Cuda { .. });
    let others = cx.devices.iter().filter(|device| is_card(device.spec) && device.spec != cx.device);
    let others: Vec<&DeviceInfo> = others.filter(|device| device.unavailable.is_none()).collect();
    if !is_card(cx.device) || others.is_empty() {
        return;
    }
    ui.separator();
    ui.label(RichText::new(cx.words.toolbar.also_on).color(cx.theme.text_weak))
        .on_hover_text(cx.words.toolbar.also_on_hint);
    for device in others {
        let mut is_on = cx.also_on.contains(&device.spec);
        let text = format!("{} · {}", device.spec.label(), device.name);
        if ui.checkbox(&mut is_on, text).on_hover_text(cx.words.toolbar.also_on_hint).changed() {
            cx.send(Command::ShareWith(device.spec, is_on));
        }
    }
}

/// Bytes now, bytes of the draft and its bits per weight; they follow every edit.
fn totals_ui(cx: &ViewContext<'_>, ui: &mut Ui) {
    let words = &cx.words.toolbar;
    let (Some(graph), Some(plan)) = (cx.graph, &cx.draft.plan) else { return };
    let stored = graph.stored_bytes();
    let mono = |text: String| RichText::new(text).monospace();
    // Right to left: the last one first.
    let Ok(plan) = plan else {
        ui.label(RichText::new(words.not_runnable).color(cx.theme.bad)).on_hover_text(words.not_runnable_hint);
        ui.label(mono(units::bytes(stored)).color(cx.theme.text_weak));
        return;
    };
    let bits = mono(format!("{} {}", units::significant(plan.bits_per_weight(), 3), words.bits_per_weight));
    ui.label(bits.color(cx.theme.text)).on_hover_text(words.totals_hint);
    if let Some(reason) = plan.estimated {
        let mark = RichText::new(Mark::Estimated.glyph()).color(cx.theme.text_weak);
        ui.label(mark).on_hover_text(format!("{}: {reason}", cx.words.whole.estimated));
    }
    ui.label(RichText::new("·").color(cx.theme.text_weak));
    let bytes = plan.weight_bytes();
    let color = if bytes < stored { cx.theme.good } else { cx.theme.text };
    let draft = ui.label(mono(units::bytes(bytes)).color(color));
    draft.on_hover_text(format!("{}\n{}", units::bytes_delta(stored, bytes), words.totals_hint));
    ui.label(mono("→".to_owned()).color(cx.theme.text_weak));
    ui.label(mono(units::bytes(stored)).color(cx.theme.text_weak)).on_hover_text(words.totals_hint);
}

fn run_ui(cx: &ViewContext<'_>, ui: &mut Ui) {
    let words = &cx.words.toolbar;
    let icon = |glyph: &str| Button::new(RichText::new(glyph).size(15.0)).min_size(egui::vec2(30.0, 26.0));
    let hint = |action: Action, name: &str, ui: &Ui| {
        let key = action.shortcut().map(|key| ui.ctx().format_shortcut(&key)).unwrap_or_default();
        format!("{name}  {key}")
    };
    let active = cx.status.is_some_and(|status| !status.stopping);
    let stop = ui.add_enabled(active, icon("⏹")).accessible_name(words.stop);
    if stop.on_hover_text(hint(Action::Stop, words.stop, ui)).clicked() {
        cx.send(Command::Stop);
    }
    let paused = cx.status.is_some_and(|status| status.paused);
    let (glyph, name) = if paused { ("▶", words.resume) } else { ("⏸", words.pause) };
    let pause = ui.add_enabled(active, icon(glyph)).accessible_name(name);
    if pause.on_hover_text(hint(Action::Pause, name, ui)).clicked() {
        cx.send(Command::Pause(!paused));
    }
    match cx.status {
        Some(status) => progress_ui(cx, status, ui),
        None => start_ui(cx, &hint(Action::Run, words.run, ui), ui),
    }
}

/// Run, and Continue when the study shown is unfinished.
fn start_ui(cx: &ViewContext<'_>, hint: &str, ui: &mut Ui) {
    let words = &cx.words.toolbar;
    let run = actions::run(cx);
    let text = RichText::new(format!("▶ {}", words.run)).color(cx.theme.on_accent);
    let button = Button::new(text).fill(cx.theme.accent_fill).min_size(egui::vec2(72.0, 26.0));
    let response = ui.add_enabled(run.is_ok(), button).accessible_name(words.run);
    match run {
        Ok(command) => {
            if response.on_hover_text(hint).clicked() {
                cx.send(command);
            }
        }
        Err(reason) => {
            response.on_disabled_hover_text(reason);
        }
    }
    if actions::is_unfinished(cx) && !cx.study.trials.is_empty() && ui.button(words.go_on).clicked() {
        cx.send(Command::Resume);
    }
}

fn progress_ui(cx: &ViewContext<'_>, status: RunStatus, ui: &mut Ui) {
    let words = &cx.words.toolbar;
    let text = match status {
        RunStatus { stopping: true, .. } => words.stopping.to_owned(),
        RunStatus { paused: true, .. } => words.paused.to_owned(),
        RunStatus { remaining_secs: Some(left), .. } => Mark::Estimated.before(&(words.left)(&units::duration(left))),
        RunStatus { elapsed_secs, .. } => units::duration(elapsed_secs),
    };
    ui.label(RichText::new(text).monospace().color(cx.theme.text_weak));
    let fraction = status.done as f32 / status.total.max(1) as f32;
    let bar = ProgressBar::new(fraction)
        .desired_width(110.0)
        .desired_height(18.0)
        .fill(cx.theme.accent_fill)
        .text(RichText::new((words.progress)(status.done, status.total)).monospace());
    ui.add(bar);
}

//! Every command that menus, keys, the palette and the help list share: its name, its key, and when it can be given.

use egui::{Key, KeyboardShortcut, Modifiers};

use crate::app::command::{Command, DialogKind, ExportKind, PinSlot};
use crate::app::context::ViewContext;
use crate::app::layout::Tile;
use crate::app::words::Words;
use crate::export::{ModelLayout, expressible};
use crate::recipe::Recipe;
use crate::study::TrialId;

/// Something that the user can ask for from anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the commands")]
pub enum Action {
    Run,
    Pause,
    Stop,
    Continue,
    Undo,
    Redo,
    Reference,
    Demo,
    OpenFolder,
    OpenGguf,
    OpenStudy,
    OpenRecipe,
    OpenData,
    OpenCalibration,
    ClearCache,
    ExportRecipe,
    ExportReport,
    ExportCsv,
    ExportJsonLines,
    ExportFolder,
    ExportGguf,
    ExportCompressedTensors,
    NextTrial,
    PreviousTrial,
    PinA,
    PinB,
    LoadRecipe,
    Show(Tile),
    ResetLayout,
    Light,
    Dark,
    System,
    Palette,
    Help,
    Quit,
}

impl Action {
    /// Every action, in the order of the palette.
    pub fn all() -> impl Iterator<Item = Self> {
        let head = [
            Self::Run,
            Self::Pause,
            Self::Stop,
            Self::Continue,
            Self::Undo,
            Self::Redo,
            Self::Reference,
            Self::Demo,
            Self::OpenFolder,
            Self::OpenGguf,
            Self::OpenStudy,
            Self::OpenRecipe,
            Self::OpenData,
            Self::OpenCalibration,
            Self::ExportRecipe,
            Self::ExportReport,
            Self::ExportCsv,
            Self::ExportJsonLines,
            Self::ExportFolder,
            Self::ExportGguf,
            Self::ExportCompressedTensors,
            Self::NextTrial,
            Self::PreviousTrial,
            Self::PinA,
            Self::PinB,
            Self::LoadRecipe,
        ];
        let tail = [
            Self::ClearCache,
            Self::ResetLayout,
            Self::Light,
            Self::Dark,
            Self::System,
            Self::Palette,
            Self::Help,
            Self::Quit,
        ];
        head.into_iter().chain(Tile::ALL.map(Self::Show)).chain(tail)
    }

    /// The name in menus and in the palette.
    pub fn name(self, words: &Words) -> String {
        let commands = &words.commands;
        let name = match self {
            Self::Run => words.toolbar.run,
            Self::Pause => commands.pause_or_resume,
            Self::Stop => words.toolbar.stop,
            Self::Continue => commands.continue_study,
            Self::Undo => commands.undo,
            Self::Redo => commands.redo,
            Self::Reference => commands.reference,
            Self::Demo => commands.demo,
            Self::OpenFolder => words.open.folder,
            Self::OpenGguf => words.open.gguf,
            Self::OpenStudy => words.open.study,
            Self::OpenRecipe => commands.open_recipe,
            Self::OpenData => commands.open_data,
            Self::OpenCalibration => commands.open_calibration,
            Self::ClearCache => commands.clear_cache,
            Self::ExportRecipe => commands.export_recipe,
            Self::ExportReport => commands.export_report,
            Self::ExportCsv => commands.export_csv,
            Self::ExportJsonLines => commands.export_json_lines,
            Self::ExportFolder => commands.export_folder,
            Self::ExportGguf => commands.export_gguf,
            Self::ExportCompressedTensors => commands.export_compressed_tensors,
            Self::NextTrial => commands.select_next_trial,
            Self::PreviousTrial => commands.select_previous_trial,
            Self::PinA => commands.pin_a,
            Self::PinB => commands.pin_b,
            Self::LoadRecipe => commands.load_recipe,
            Self::Show(tile) => return (commands.show_tile)(tile.title(&words.titles)),
            Self::ResetLayout => commands.reset_layout,
            Self::Light => commands.theme_light,
            Self::Dark => commands.theme_dark,
            Self::System => commands.theme_system,
            Self::Palette => commands.palette,
            Self::Help => commands.help,
            Self::Quit => commands.quit,
        };
        name.to_owned()
    }

    /// The keys, if it has any.
    pub fn shortcut(self) -> Option<KeyboardShortcut> {
        let (modifiers, key) = match self {
            Self::Run => (Modifiers::NONE, Key::F5),
            Self::Pause => (Modifiers::NONE, Key::F6),
            Self::Stop => (Modifiers::SHIFT, Key::F5),
            Self::Undo => (Modifiers::COMMAND, Key::Z),
            Self::Redo => (Modifiers::COMMAND | Modifiers::SHIFT, Key::Z),
            Self::OpenFolder => (Modifiers::COMMAND, Key::O),
            Self::OpenGguf => (Modifiers::COMMAND | Modifiers::SHIFT, Key::O),
            Self::ExportRecipe => (Modifiers::COMMAND, Key::S),
            Self::NextTrial => (Modifiers::ALT, Key::ArrowDown),
            Self::PreviousTrial => (Modifiers::ALT, Key::ArrowUp),
            Self::PinA => (Modifiers::ALT, Key::A),
            Self::PinB => (Modifiers::ALT, Key::B),
            Self::LoadRecipe => (Modifiers::ALT, Key::E),
            Self::Palette => (Modifiers::COMMAND, Key::P),
            Self::Help => (Modifiers::NONE, Key::F1),
            Self::Quit => (Modifiers::COMMAND, Key::Q),
            _ => return None,
        };
        Some(KeyboardShortcut::new(modifiers, key))
    }

    /// Why an export of the model cannot be given now, before anything is made; `None` when it can, and for other actions.
    pub fn refusal(self, cx: &ViewContext<'_>) -> Option<String> {
        let layout = match self {
            Self::ExportFolder => ModelLayout::Safetensors,
            Self::ExportGguf => ModelLayout::Gguf,
            Self::ExportCompressedTensors => ModelLayout::CompressedTensors,
            _ => return None,
        };
        let words = &cx.words.shell;
        let crate::session::ModelState::Open(model) = cx.model else { return Some(words.needs_model.to_owned()) };
        let Some(Ok(plan)) = &cx.draft.plan else { return Some(words.needs_legal_recipe.to_owned()) };
        let refusals = expressible(plan, &model.graph, layout).refusals;
        (!refusals.is_empty()).then(|| refusals.join("\n"))
    }

    /// What it asks for now; `None` while it cannot be given.
    pub fn command(self, cx: &ViewContext<'_>) -> Option<Command> {
        let dialog = |kind| Some(Command::Dialog(kind));
        let trials = |kind| (!cx.study.trials.is_empty()).then_some(Command::Dialog(DialogKind::Export(kind)));
        let model = |kind| self.refusal(cx).is_none().then_some(Command::Dialog(DialogKind::Export(kind)));
        match self {
            Self::Run => run(cx).ok(),
            Self::Pause => cx.status.filter(|status| !status.stopping).map(|status| Command::Pause(!status.paused)),
            Self::Stop => cx.status.filter(|status| !status.stopping).map(|_| Command::Stop),
            Self::Continue => is_unfinished(cx).then_some(Command::Resume),
            Self::Undo => cx.can_undo.then_some(Command::Undo),
            Self::Redo => cx.can_redo.then_some(Command::Redo),
            Self::Reference => Some(Command::SetRecipe(Box::new(Recipe::reference()))),
            Self::Demo => Some(Command::OpenDemo),
            Self::OpenFolder => dialog(DialogKind::OpenFolder),
            Self::OpenGguf => dialog(DialogKind::OpenGguf),
            Self::OpenStudy => dialog(DialogKind::OpenStudy),
            Self::OpenRecipe => dialog(DialogKind::OpenRecipe),
            Self::OpenData => dialog(DialogKind::OpenData),
            Self::OpenCalibration => dialog(DialogKind::OpenCalibration),
            Self::ClearCache => cx.cache.can_clear().then_some(Command::AskClearCache),
            Self::ExportRecipe => dialog(DialogKind::Export(ExportKind::Recipe)),
            Self::ExportReport => trials(ExportKind::Report),
            Self::ExportCsv => trials(ExportKind::TrialsCsv),
            Self::ExportJsonLines => trials(ExportKind::TrialsJsonLines),
            Self::ExportFolder => model(ExportKind::Safetensors),
            Self::ExportGguf => model(ExportKind::Gguf),
            Self::ExportCompressedTensors => model(ExportKind::CompressedTensors),
            Self::NextTrial => neighbour(cx, 1).map(|id| Command::SelectTrial(Some(id))),
            Self::PreviousTrial => neighbour(cx, -1).map(|id| Command::SelectTrial(Some(id))),
            Self::PinA => cx.selection.trial.map(|id| Command::Pin(PinSlot::A, Some(id))),
            Self::PinB => cx.selection.trial.map(|id| Command::Pin(PinSlot::B, Some(id))),
            Self::LoadRecipe => cx.selection.trial.map(Command::LoadRecipe),
            Self::Show(tile) => Some(Command::ToggleTile(tile)),
            Self::ResetLayout => Some(Command::ResetLayout),
            Self::Light => Some(Command::SetTheme(egui::ThemePreference::Light)),
            Self::Dark => Some(Command::SetTheme(egui::ThemePreference::Dark)),
            Self::System => Some(Command::SetTheme(egui::ThemePreference::System)),
            Self::Palette => Some(Command::TogglePalette),
            Self::Help => Some(Command::ToggleHelp),
            Self::Quit => Some(Command::Quit),
        }
    }
}

/// The command that runs the sweep, or why it cannot run.
///
/// # Errors
/// One sentence that says what to do next.
pub fn run(cx: &ViewContext<'_>) -> Result<Command, String> {
    let words = &cx.words.sweep;
    if cx.status.is_some() {
        return Err(words.already_running.to_owned());
    }
    if !matches!(cx.model, crate::session::ModelState::Open(_)) {
        return Err(cx.words.shell.needs_model.to_owned());
    }
    let device = cx.devices.iter().find(|device| device.spec == cx.device);
    if let Some(reason) = device.and_then(|device| device.unavailable.clone()) {
        return Err(reason);
    }
    let strategy = cx.sweep.strategy(&cx.draft.recipe).map_err(|missing| words.missing(missing).to_owned())?;
    if cx.sweep.kind == crate::app::sweep::SweepKind::ThisRecipe && matches!(cx.draft.plan, Some(Err(_))) {
        return Err(words.draft_refused.to_owned());
    }
    Ok(Command::Run(Box::new(strategy)))
}

/// Sends the command of every key that was pressed.
pub fn keys(cx: &ViewContext<'_>, ctx: &egui::Context) {
    if ctx.text_edit_focused() {
        // Undo, redo and arrows belong to the text; the others keep working.
        let mine = [Action::Palette, Action::Help, Action::Run, Action::Pause, Action::Stop];
        for action in mine {
            key(cx, ctx, action);
        }
        return;
    }
    // The longer chord first: Ctrl+Shift+Z also matches Ctrl+Z.
    key(cx, ctx, Action::Redo);
    key(cx, ctx, Action::OpenGguf);
    key(cx, ctx, Action::Stop);
    Action::all().for_each(|action| key(cx, ctx, action));
    let windows_redo = KeyboardShortcut::new(Modifiers::COMMAND, Key::Y);
    if cx.can_redo && ctx.input_mut(|input| input.consume_shortcut(&windows_redo)) {
        cx.send(Command::Redo);
    }
}

fn key(cx: &ViewContext<'_>, ctx: &egui::Context, action: Action) {
    let Some(shortcut) = action.shortcut() else { return };
    if ctx.input_mut(|input| input.consume_shortcut(&shortcut))
        && let Some(command) = action.command(cx)
    {
        cx.send(command);
    }
}

/// Whether the study shown has more to try and its model is the one that is open.
pub fn is_unfinished(cx: &ViewContext<'_>) -> bool {
    let crate::session::ModelState::Open(model) = cx.model else { return false };
    let is_ours = cx.study.header.as_ref().is_some_and(|header| header.graph.fingerprint == model.graph.fingerprint);
    let is_over = matches!(cx.study.ended, Some(crate::study::EndReason::Complete));
    is_ours && !is_over && cx.status.is_none()
}

fn neighbour(cx: &ViewContext<'_>, step: i64) -> Option<TrialId> {
    let trials = &cx.study.trials;
    let Some(current) = cx.selection.trial else {
        let mut ids = trials.keys().copied();
        return if step > 0 { ids.next() } else { ids.next_back() };
    };
    let next = if step > 0 {
        trials.range((std::ops::Bound::Excluded(current), std::ops::Bound::Unbounded)).next()
    } else {
        trials.range(..current).next_back()
    };
    next.map(|(id, _)| *id)
}

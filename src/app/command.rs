//! What panels ask for. `App::logic` applies it after the frame.

use std::cell::RefCell;
use std::path::PathBuf;

use crate::app::sweep::SweepSettings;
use crate::device::DeviceSpec;
use crate::export::Existing;
use crate::model::{LayerPath, ModelSource};
use crate::recipe::Recipe;
use crate::session::{InspectRequest, ProfileRequest};
use crate::study::{StrategySpec, TrialId};

/// One of the two sides of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[expect(missing_docs, reason = "the sides are called A and B")]
pub enum PinSlot {
    A,
    B,
}

/// A file that can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportKind {
    /// The recipe as TOML.
    Recipe,
    /// All trials as CSV.
    TrialsCsv,
    /// All trials as JSON Lines.
    TrialsJsonLines,
    /// The self-contained HTML report.
    Report,
    /// The model as a Hugging Face folder.
    Safetensors,
    /// The model as a GGUF file.
    Gguf,
    /// The model as a Hugging Face folder that keeps integer and FP8 codes.
    CompressedTensors,
    /// The profile's timeline as Chrome trace events.
    ProfileTrace,
    /// The profile's operations as CSV.
    ProfileCsv,
}

/// What a dialog is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialogKind {
    /// Choose a folder with `config.json`.
    OpenFolder,
    /// Choose a GGUF file.
    OpenGguf,
    /// Choose a recorded study.
    OpenStudy,
    /// Choose a recipe file.
    OpenRecipe,
    /// Choose the text to evaluate on.
    OpenData,
    /// Choose the text to calibrate on.
    OpenCalibration,
    /// Choose where to export.
    Export(ExportKind),
}

/// What a panel asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Opens a model.
    OpenModel(ModelSource),
    /// Opens a model, study or recipe by a path that the user typed or dropped; its kind is found by looking.
    OpenPath(PathBuf),
    /// Opens the embedded demo.
    OpenDemo,
    /// Shows a recorded study.
    Replay(PathBuf),
    /// Opens a dialog; its result comes back as another command.
    Dialog(DialogKind),
    /// Replaces the recipe that is being edited: one undo step.
    SetRecipe(Box<Recipe>),
    /// Takes over a trial's recipe for editing.
    LoadRecipe(TrialId),
    /// One step back.
    Undo,
    /// One step forward.
    Redo,
    /// Selects layers.
    SelectLayers(std::collections::BTreeSet<LayerPath>),
    /// Looks into a layer, as soon as no study runs.
    Inspect(InspectRequest),
    /// Ends that; what was found stays.
    CancelInspection,
    /// Takes the passes of a variant apart.
    Profile(Box<ProfileRequest>),
    /// Ends that.
    CancelProfile,
    /// Selects a trial everywhere.
    SelectTrial(Option<TrialId>),
    /// Rings a trial's point and row.
    HoverTrial(Option<TrialId>),
    /// Pins a trial for comparison.
    Pin(PinSlot, Option<TrialId>),
    /// Evaluates on this text from now on.
    UseData(PathBuf),
    /// Calibrates on this text from now on.
    UseCalibration(PathBuf),
    /// Changes the sweep's form.
    SetSweep(Box<SweepSettings>),
    /// Chooses the device for the next study.
    SetDevice(DeviceSpec),
    /// Whether a card runs trials of the next study beside the device that is chosen.
    ShareWith(DeviceSpec, bool),
    /// Runs a study with the workload, limits and budget of the sweep panel.
    Run(Box<StrategySpec>),
    /// Starts no new trial, or goes on.
    Pause(bool),
    /// Ends the running study.
    Stop,
    /// Goes on with the study shown, if it is unfinished.
    Resume,
    /// Writes a file; the path comes from a dialog, which asks before it gives one that exists, or from a field.
    Export(ExportKind, PathBuf, Existing),
    /// Asks whether the cache of compressed layers should be cleared.
    AskClearCache,
    /// Clears it.
    ClearCache,
    /// Sets light, dark or the system's theme.
    SetTheme(egui::ThemePreference),
    /// Puts every tile back in its place.
    ResetLayout,
    /// Shows or hides a tile.
    ToggleTile(crate::app::layout::Tile),
    /// Opens or closes the palette of all commands.
    TogglePalette,
    /// Opens or closes the list of keys.
    ToggleHelp,
    /// Closes the window.
    Quit,
    /// Shows a message for a moment.
    Notice(log::Level, String),
    /// Puts text on the clipboard.
    Copy(String),
}

/// The commands of one frame. Panels push; `App::logic` drains.
#[derive(Debug, Default)]
pub struct CommandQueue(RefCell<Vec<Command>>);

impl CommandQueue {
    /// Adds a command.
    pub fn push(&self, command: Command) {
        self.0.borrow_mut().push(command);
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Takes every command, in order.
    pub fn drain(&self) -> Vec<Command> {
        std::mem::take(&mut *self.0.borrow_mut())
    }
}

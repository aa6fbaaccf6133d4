//! What panels may read.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use crate::app::command::{Command, CommandQueue};
use crate::app::sweep::SweepSettings;
use crate::app::theme::Tokens;
use crate::app::words::Words;
use crate::device::{DeviceInfo, DeviceSpec};
use crate::model::{BlockShape, LayerPath, ModelGraph};
use crate::recipe::{LayerSettings, Plan, Recipe, RecipeIssue};
use crate::session::{CacheState, Inspection, ModelState, Profiling, RunStatus};
use crate::study::{Study, TrialId};
use crate::telemetry::TelemetrySnapshot;

/// What is selected and pinned, the same in every panel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Layers whose settings the next edit changes.
    pub layers: BTreeSet<LayerPath>,
    /// The trial that is looked at.
    pub trial: Option<TrialId>,
    /// The trial under the pointer.
    pub hovered: Option<TrialId>,
    /// The trial on side A.
    pub pinned_a: Option<TrialId>,
    /// The trial on side B.
    pub pinned_b: Option<TrialId>,
}

/// The recipe that is being edited, with everything derived from it. Recomputed when the recipe changes, not per frame.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The recipe.
    pub recipe: Recipe,
    /// Settings of every layer, in the graph's order; empty without a model.
    pub settings: Vec<LayerSettings>,
    /// Widths of every block after structural pruning; empty without a model.
    pub blocks: Vec<BlockShape>,
    /// Shape of every layer in those blocks, `None` where it is removed; empty without a model.
    pub shapes: Vec<Option<[usize; 2]>>,
    /// The checked plan with the session's calibration text where the recipe names none, or every problem; `None` without
    /// a model.
    pub plan: Option<Result<Plan, Vec<RecipeIssue>>>,
    /// Changes with every edit: caches are keyed by it.
    pub generation: u64,
}

impl Default for Draft {
    /// Nothing is changed, and no model is open.
    fn default() -> Self {
        let (settings, blocks, shapes) = (Vec::new(), Vec::new(), Vec::new());
        Self { recipe: Recipe::reference(), settings, blocks, shapes, plan: None, generation: 0 }
    }
}

/// What Run would do now. Recomputed when the recipe, the form or the study changes, not per frame.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SweepPlan {
    /// Names of the recipes that may be tried, in order, without the reference.
    pub recipes: Vec<String>,
    /// Names of those that cannot run on this model and device, each with its first problem.
    pub refused: Vec<(String, String)>,
    /// The most memory of the device that one of them takes, predicted, with its recipe.
    pub peak: Option<(u64, String)>,
    /// Time of all trials, from the mean of the trials of the same workload in the study shown; `None` without any.
    pub estimated_secs: Option<f64>,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// How much it matters.
    pub level: log::Level,
    /// Seconds since the window opened.
    pub at_secs: u64,
    /// What happened and what to do next.
    pub text: String,
}

/// What panels may read, for one frame.
pub struct ViewContext<'a> {
    /// The words of the window's language.
    pub words: &'static Words,
    /// Colors of the theme that is shown.
    pub theme: &'static Tokens,
    /// How the model stands.
    pub model: &'a ModelState,
    /// Layers of the open model, or of the study shown when no model is open.
    pub graph: Option<&'a ModelGraph>,
    /// The recipe that is being edited.
    pub draft: &'a Draft,
    /// Whether an undo step exists.
    pub can_undo: bool,
    /// Whether a redo step exists.
    pub can_redo: bool,
    /// The study as its events tell it.
    pub study: &'a Study,
    /// How far the running study is.
    pub status: Option<RunStatus>,
    /// The layer that is looked into.
    pub inspection: Option<&'a Inspection>,
    /// The profile that was asked for last.
    pub profiling: Option<&'a Profiling>,
    /// What is selected.
    pub selection: &'a Selection,
    /// The devices of this machine.
    pub devices: &'a [DeviceInfo],
    /// The device that is chosen for the next study.
    pub device: DeviceSpec,
    /// Cards that run its trials at the same time.
    pub also_on: &'a [DeviceSpec],
    /// The sweep's form: strategy, workload, limits, budget.
    pub sweep: &'a SweepSettings,
    /// What Run would do now.
    pub plan: &'a SweepPlan,
    /// Models and studies opened before, newest first.
    pub recent: &'a [PathBuf],
    /// What was reported, oldest first.
    pub log: &'a [LogLine],
    /// Readings of the host and its GPUs.
    pub telemetry: &'a Arc<TelemetrySnapshot>,
    /// What the cache of compressed layers takes up.
    pub cache: &'a CacheState,
    /// Where panels put what they ask for.
    pub commands: &'a CommandQueue,
}

impl ViewContext<'_> {
    /// Asks for `command`.
    pub fn send(&self, command: Command) {
        self.commands.push(command);
    }
}

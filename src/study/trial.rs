//! One trial: what is tried and what came of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::device::DeviceSpec;
use crate::recipe::Recipe;
use crate::study::{Measurements, Workload};

/// Number of a trial in its study, counted from 0. Trial 0 is the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TrialId(pub u32);

impl fmt::Display for TrialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// What a worker is asked to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialSpec {
    /// Number in the study.
    pub id: TrialId,
    /// What becomes of the layers.
    pub recipe: Recipe,
    /// Where it runs.
    pub device: DeviceSpec,
    /// What is measured.
    pub workload: Workload,
    /// Seed of every random choice (sampling, bootstrap).
    pub seed: u64,
}

impl TrialSpec {
    /// Identity of what is tried, whatever its number and name: a resumed study runs each key once.
    pub fn key(&self) -> String {
        let mut recipe = self.recipe.clone();
        recipe.name.clear();
        let text = serde_json::to_vec(&(recipe, self.device, &self.workload, self.seed));
        let hash = blake3::hash(&text.expect("a trial is made of tables, strings and numbers"));
        hash.to_hex()[..32].to_owned()
    }
}

/// How a trial ended. A failure is a result: it is drawn, exported and compared like the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything that was asked for was measured.
    Done(Box<Measurements>),
    /// It ended early.
    Failed(Failure),
}

/// Why a trial ended early.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The class, for programs.
    pub kind: FailureKind,
    /// What happened, where, and what to do next, for people.
    pub message: String,
}

impl Failure {
    /// A failure with its message.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// The classes of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The recipe cannot run on this model or device.
    Recipe,
    /// The model's files cannot be read, or changed while being read.
    Model,
    /// The evaluation text cannot be read, or is too short.
    Data,
    /// A loss or logit was not finite.
    NonFinite,
    /// The device ran out of memory.
    OutOfMemory,
    /// The device stopped the work, was lost, or refused it.
    Device,
    /// The worker panicked.
    Panicked,
    /// The worker was ended by a signal, the kernel's memory killer among them.
    Killed,
    /// The worker ended without a result.
    Exited,
    /// No progress within the deadline.
    TimedOut,
    /// The worker sent something that is not the protocol.
    Protocol,
    /// The worker could not be started.
    Spawn,
    /// The user cancelled.
    Cancelled,
    /// The program ended while the trial ran.
    Interrupted,
}

impl FailureKind {
    /// Short name for tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Recipe => "recipe refused",
            Self::Model => "model unreadable",
            Self::Data => "data unusable",
            Self::NonFinite => "not finite",
            Self::OutOfMemory => "out of memory",
            Self::Device => "device failed",
            Self::Panicked => "worker panicked",
            Self::Killed => "worker killed",
            Self::Exited => "worker exited",
            Self::TimedOut => "timed out",
            Self::Protocol => "garbled report",
            Self::Spawn => "worker did not start",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
        }
    }

    /// Whether a resumed study runs the trial again, once: not when the recipe or the files explain it, but what ended a
    /// worker may be gone.
    pub const fn is_retried_on_resume(self) -> bool {
        !matches!(self, Self::Recipe | Self::Model | Self::Data | Self::NonFinite)
    }

    /// Whether it is a property of the recipe alone, so that the next recipe may well run.
    pub const fn is_of_recipe(self) -> bool {
        matches!(self, Self::Recipe | Self::NonFinite)
    }
}

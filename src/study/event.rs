//! The one event type: a worker's report, a journal's record, a plot's input.

use serde::{Deserialize, Serialize};

use crate::device::DeviceInfo;
use crate::model::{LayerPath, ModelGraph};
use crate::study::{Budget, Caution, Limits, Outcome, StudySpec, TrialId, TrialSpec, WindowScore};

/// What a journal begins with; with the events behind it, everything shown can be rebuilt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudyHeader {
    /// Version of the program that made the study.
    pub app_version: String,
    /// What was asked for.
    pub spec: StudySpec,
    /// The model's layers.
    pub graph: ModelGraph,
    /// The device as it was described then.
    pub device: DeviceInfo,
    /// Seconds since 1970-01-01 UTC, for display only: order is the order of the records.
    pub created_unix_secs: u64,
    /// The beginning of the hash of the evaluation text, in hex, where it was read: a changed text gives other numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_hash: Option<String>,
}

/// A step of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Reading tensors.
    Load,
    /// Reading the calibration text: what the inputs of each layer are like.
    Calibrate,
    /// Making the variant's layers.
    Compress,
    /// Scoring the reference's windows, once a study.
    Reference,
    /// Scoring the variant's windows.
    Quality,
    /// Timed: the whole prompt in one pass.
    Prefill,
    /// Timed: one token at a time.
    Decode,
    /// Sampling text.
    Sample,
}

impl Phase {
    /// Whether the worker's clock is running: the window draws at 10 Hz or less.
    pub const fn is_timed(self) -> bool {
        matches!(self, Self::Prefill | Self::Decode)
    }
}

/// Which of the two interleaved models a sample belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// The trial's recipe.
    Variant,
    /// The model as the checkpoint has it.
    Reference,
}

/// Why a study stopped asking for trials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The strategy has nothing left to try.
    Complete,
    /// The time budget is used up.
    TimeBudget,
    /// The trial budget is used up.
    TrialBudget,
    /// The user stopped it.
    Stopped,
    /// Too many trials in a row failed in the same way; the text names it.
    Failing(String),
}

/// Something that happened in a study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum StudyEvent {
    /// First record.
    StudyCreated {
        /// What the study is.
        header: Box<StudyHeader>,
    },
    /// The study goes on with other limits or another budget.
    StudyResumed {
        /// Quality that a variant must keep from now on.
        limits: Limits,
        /// When to stop.
        budget: Budget,
    },
    /// A trial begins.
    TrialStarted {
        /// What is tried.
        spec: Box<TrialSpec>,
    },
    /// Live only: how far a trial is.
    Progress {
        /// The trial.
        trial: TrialId,
        /// The step.
        phase: Phase,
        /// Units done.
        done: u32,
        /// Units in all.
        total: u32,
    },
    /// Live only, lossy: one timed sample.
    Sampled {
        /// The trial.
        trial: TrialId,
        /// The phase.
        phase: Phase,
        /// The arm.
        arm: Arm,
        /// Nanoseconds of the prompt (prefill) or of one token (decode).
        nanos: u64,
    },
    /// Live only: one window scored.
    QualityWindow {
        /// The trial.
        trial: TrialId,
        /// Number of the window.
        index: u32,
        /// Its means.
        score: WindowScore,
    },
    /// Live only: one layer compressed.
    LayerCompressed {
        /// The trial.
        trial: TrialId,
        /// The layer.
        path: LayerPath,
        /// Relative output error over the calibrated inputs, where there are some.
        output_error: Option<f64>,
        /// Whether it was found in the layer database.
        from_database: bool,
    },
    /// Live only: resident memory of the worker.
    MemorySampled {
        /// The trial.
        trial: TrialId,
        /// Milliseconds since the trial began.
        at_millis: u64,
        /// Resident bytes.
        rss_bytes: u64,
    },
    /// A trial ended; written and synced before anything else happens.
    TrialFinished {
        /// The trial.
        trial: TrialId,
        /// What came of it.
        outcome: Outcome,
        /// What the reader of its numbers must know.
        cautions: Vec<Caution>,
        /// Wall time of the trial.
        elapsed_secs: f64,
        /// Resident memory over time: (milliseconds since the start, bytes), at most 256 points.
        memory_curve: Vec<(u64, u64)>,
    },
    /// No more trials are asked for.
    StudyEnded {
        /// Why.
        reason: EndReason,
    },
}

impl StudyEvent {
    /// Whether a journal keeps this event; the others only feed live plots.
    pub fn is_journaled(&self) -> bool {
        matches!(
            self,
            Self::StudyCreated { .. }
                | Self::StudyResumed { .. }
                | Self::TrialStarted { .. }
                | Self::TrialFinished { .. }
                | Self::StudyEnded { .. }
        )
    }

    /// The trial that this event is about.
    pub fn trial(&self) -> Option<TrialId> {
        match self {
            Self::StudyCreated { .. } | Self::StudyResumed { .. } | Self::StudyEnded { .. } => None,
            Self::TrialStarted { spec } => Some(spec.id),
            Self::Progress { trial, .. }
            | Self::Sampled { trial, .. }
            | Self::QualityWindow { trial, .. }
            | Self::LayerCompressed { trial, .. }
            | Self::MemorySampled { trial, .. }
            | Self::TrialFinished { trial, .. } => Some(*trial),
        }
    }
}

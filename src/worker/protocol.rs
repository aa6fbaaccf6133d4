//! What host and worker say to each other. Carries no tensors: weights travel as files.
//!
//! Both sides are the same build, checked by the first exchange, so the messages need no compatibility.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::device::DeviceInfo;
use crate::model::ModelSource;
use crate::study::{Caution, Failure, Outcome, ProfileReport, ProfileWorkload, StudyEvent, TrialId, TrialSpec};
use crate::worker::inspection::{Finding, InspectSpec};

/// What the host asks of its worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// First: which build asks.
    Hello {
        /// [`BUILD`] of the program that asks.
        build: String,
    },
    /// Second: the one model of this worker.
    Open {
        /// The model.
        source: ModelSource,
        /// Threads for products and vector loops.
        threads: u16,
    },
    /// A trial; the one before it has been answered.
    Run(Box<TrialSpec>),
    /// A trial that measures nothing and leaves the variant as a file: for exporters of methods that only a worker can
    /// run. Answered like a trial.
    Make {
        /// What is made; its workload is not looked at.
        spec: Box<TrialSpec>,
        /// The file, written whole or not at all.
        out: PathBuf,
    },
    /// A trial that measures nothing else than where the time of the variant's passes goes. Answered by
    /// [`Report::Profiled`], where that worked, and then like a trial.
    Profile {
        /// What is made; its workload is not looked at.
        spec: Box<TrialSpec>,
        /// What is profiled.
        workload: ProfileWorkload,
    },
    /// Ends the trial early, if it is still running.
    Cancel(TrialId),
    /// Looks into one layer; needs no open model.
    Inspect(Box<InspectSpec>),
    /// Names the worker's devices beside the processor; needs no open model.
    Devices,
}

/// What a worker tells its host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// Answer to a hello of the same build.
    Ready {
        /// [`BUILD`] of the worker.
        build: String,
        /// Its process.
        pid: u32,
    },
    /// The model can be used.
    Opened,
    /// Something live about the running trial.
    Live(StudyEvent),
    /// The process is alive, every half second; says nothing about its work.
    Heartbeat {
        /// Resident bytes, where they can be read.
        rss_bytes: Option<u64>,
    },
    /// Where the time of the trial's passes goes.
    Profiled {
        /// The trial.
        trial: TrialId,
        /// What was found.
        profile: Box<ProfileReport>,
    },
    /// The trial ended.
    Finished {
        /// The trial.
        trial: TrialId,
        /// What came of it.
        outcome: Outcome,
        /// What the reader of its numbers must know.
        cautions: Vec<Caution>,
    },
    /// Something about the layer that is looked into.
    Inspected(Box<Finding>),
    /// The devices beside the processor that this worker's program can open, or why not.
    Devices(Vec<DeviceInfo>),
    /// The worker cannot go on and ends.
    Fault(Failure),
}

/// Identity of a build: the version and a hash of the sources. Programs with the same one speak the same protocol,
/// whichever features each was built with.
pub const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), "-", env!("TRIMTAB_SOURCES"));

/// Whether a number of a live event is not finite: JSON cannot carry it.
pub(super) fn is_finite(event: &StudyEvent) -> bool {
    match event {
        StudyEvent::QualityWindow { score, .. } => {
            [score.nll, score.reference_nll, score.kl, score.top1].iter().all(|value| value.is_finite())
        }
        StudyEvent::LayerCompressed { output_error, .. } => output_error.is_none_or(f64::is_finite),
        _ => true,
    }
}

/// Whether an event may travel as [`Report::Live`].
pub(super) fn is_live(event: &StudyEvent) -> bool {
    !event.is_journaled()
}

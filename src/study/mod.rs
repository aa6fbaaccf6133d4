//! Trials, events, the journal, the Pareto front and the strategies that choose what to try next.
//!
//! Imports `recipe`, `model`, `device` and `units`. Pure but for [`journal`], which is the only file here that does I/O.
//!
//! **Invariants.** [`StudyEvent`] is the worker's report, the journal's record and the input of every plot: the live view,
//! a reopened study and a test fixture are the same fold, [`Study::apply`]. A failed trial is a result.

mod card_memory;
mod compression;
mod energy;
mod event;
pub mod journal;
mod limits;
mod live;
mod measurement;
mod memory;
mod pareto;
mod profile;
mod spec;
mod strategy;
#[expect(clippy::module_inception, reason = "the folder is named after its main type")]
mod study;
mod trial;

pub use card_memory::CardMemoryEstimate;
pub use compression::{CalibrationReport, CompressionReport, LayerReport};
pub use energy::{Energy, EnergySource};
pub use event::{Arm, EndReason, Phase, StudyEvent, StudyHeader};
pub use limits::DecodeLimits;
pub use live::LiveSeries;
pub use measurement::{
    Caution, Conditions, Disturbance, Estimate, Measurements, Memory, PhaseSpeed, Quality, Ratio, Speed, WindowScore,
};
pub use memory::{MemoryEstimate, predicted_peak_bytes};
pub use pareto::{Objective, pareto_front};
pub use profile::{
    CardDescription, Ceilings, MemoryLevel, OperationProfile, PassKind, PassProfile, ProfileReport, ProfileWorkload,
    ReadCeiling,
};
pub use spec::{
    Axis, Budget, Limits, Protocol, QualityWorkload, SampleWorkload, SpeedWorkload, StrategySpec, StudySpec, Workload,
};
pub use strategy::{Strategy, planned_recipes, strategy};
pub use study::{Study, Trial, TrialState};
pub use trial::{Failure, FailureKind, Outcome, TrialId, TrialSpec};

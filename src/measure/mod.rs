//! The measuring protocol and its statistics: from raw samples to numbers with intervals.
//!
//! Imports `study` (the vocabulary of results), `model` and `units`. Pure: no I/O, no threads, no tensors.
//!
//! **Invariants.** Every field of an [`Estimate`](crate::study::Estimate) is finite: what cannot be estimated is `None` or
//! an error, never NaN. Every random choice takes a seed, and the same seed gives the same bits on every platform.

mod energy;
mod quality;
pub mod roofline;
mod sections;
mod speed;
mod stats;

pub use energy::{Stretch, joules_per_token};
pub use quality::{QualityAccumulator, QualityError};
pub use sections::{Judgement, MAX_REPEATS, Sections};
pub use speed::{abba, phase_speed};
pub use stats::{MIN_P99_SAMPLES, mean_estimate_clustered, median_estimate, paired_ratio, percentile};

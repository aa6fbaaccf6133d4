//! One integration binary: egui and candle are linked once.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod calibrated;
mod checkpoint;
mod cli;
#[cfg(feature = "cuda")]
mod cuda_faults;
#[cfg(feature = "cuda")]
mod cuda_trials;
#[cfg(feature = "cuda")]
mod cuda_twin;
#[cfg(feature = "cuda")]
mod cuda_worker;
mod inspector;
mod journal;
mod numerics;
mod panels;
mod profile_panel;
mod screenshots;
mod session;
mod study_replay;
mod tidy;
mod ui_fixture;
mod ui_flows;
mod worker_isolation;

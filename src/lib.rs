//! Trimtab: a workbench for making Transformer models smaller and faster.
//!
//! The window process reads headers, edits recipes and draws; a worker child process holds the device, makes variants and
//! measures them. Both speak [`study::StudyEvent`]s. The modules stand in reading order: vocabulary, then work, then
//! measurement, then the process boundary, then the front ends. `ARCHITECTURE.md` has the map with its rules.

pub mod device;
pub mod units;

pub mod model;
pub mod recipe;
pub mod study;
pub mod telemetry;

pub mod cache;
pub mod checkpoint;
pub mod compress;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod eval;
pub mod kernels;
pub mod measure;
pub mod nn;
pub mod runtime;

pub mod worker;

pub mod export;
pub mod session;

pub mod app;
pub mod cli;

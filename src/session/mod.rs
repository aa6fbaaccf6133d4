//! GUI-free application state, shared by the window and the command line.
//!
//! Never waits: files are read and studies are driven on threads of their own, results arrive through bounded channels
//! and are taken in by [`Session::poll`]. Imports everything but `nn`, `compress`, `runtime`, `eval`, `worker::serve` and
//! the front ends.
//!
//! **Invariants.** The study shown is a fold of events. The journal is written by the driver thread before the window
//! sees a finished trial.

mod cache;
mod demo;
mod devices;
mod driver;
mod handle;
mod inspector;
mod model;
mod model_export;
mod paths;
mod profiler;
mod run;
#[expect(clippy::module_inception, reason = "the folder is named after its main type")]
mod session;

pub use cache::CacheState;
pub use demo::{Demo, demo};
pub use devices::devices;
pub use driver::{RunEnd, StartError, run_to_end};
pub use handle::DriverHandle;
pub use inspector::{InspectRequest, Inspection, InspectionState};
pub use model::{ModelState, OpenModel};
pub use model_export::{ExportStep, ModelExport, ModelExportError, export_model};
pub use profiler::{ProfileRequest, ProfileState, Profiling};
pub use run::RunStatus;
pub use session::{Session, Wake};

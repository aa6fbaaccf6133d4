//! The process boundary: what host and worker say to each other, who starts and ends whom.
//!
//! `protocol`, `host`, `cuda`, `inspector` and `scripted` may be used by front ends; `serve` is the child's side and is used by
//! `main` only, `inspect` by `serve`.
//!
//! **Invariants.** The protocol carries no tensors. Only `host` starts processes. A worker that saw a fault is not used
//! again. End of the worker's standard input is its order to end.

mod classify;
pub mod cuda;
#[cfg(debug_assertions)]
mod fault;
pub mod frame;
mod handle;
pub mod heat_map;
pub mod host;
pub mod inspect;
pub mod inspection;
pub mod inspector;
mod pace;
pub mod protocol;
pub mod scripted;
pub mod serve;
pub mod trial;

use std::time::Duration;

use crate::study::{Caution, StudyEvent, TrialSpec};

/// Something that runs trials one at a time: a child process, or a recorded study.
pub trait Runner: Send {
    /// Hands over a trial. The one before it must have finished.
    fn submit(&mut self, spec: &TrialSpec);

    /// The next event of the running trial; `None` when nothing came within `timeout`. Always ends with
    /// [`StudyEvent::TrialFinished`], whatever happens to the worker.
    fn next_event(&mut self, timeout: Duration) -> Option<StudyEvent>;

    /// Asks the running trial to end, and kills its worker when it has not within `grace`. Does not wait.
    fn cancel(&mut self, grace: Duration);
}

/// Adds `n` dropped live samples to the caution that counts them.
pub(crate) fn note_lost_samples(cautions: &mut Vec<Caution>, n: u64) {
    if n == 0 {
        return;
    }
    for caution in &mut *cautions {
        if let Caution::LostLiveSamples { n: before } = caution {
            *before += n;
            return;
        }
    }
    cautions.push(Caution::LostLiveSamples { n });
}

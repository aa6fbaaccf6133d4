//! Which trial comes next. Ask–tell: the study is the "tell"; deterministic in (study, seed).
//!
//! **Invariants.** Trial 0 is the reference, and nothing is tried without it. What is finished for good, told by
//! [`TrialSpec::key`], is not asked for again. A strategy decides from the study it is shown; the only thing it remembers
//! is what it asked for itself, so that a trial that fails in this run waits for the next.

mod limits;
mod ordered;
mod plan;

use crate::study::{Study, StudySpec, TrialSpec};

pub use plan::planned_recipes;

/// Chooses trials. The same study gives the same answer: a resumed study goes on where it stopped.
pub trait Strategy: Send {
    /// The next trial, or `None` when nothing is left to try before a running trial has ended. Trials of `study` that are
    /// finished for good are not asked for again.
    fn ask(&mut self, study: &Study) -> Option<TrialSpec>;
}

/// The strategy of a study. Its first trial is the reference. Budgets are the driver's to keep.
pub fn strategy(spec: &StudySpec) -> Box<dyn Strategy> {
    Box::new(ordered::Ordered::new(spec))
}

#[cfg(test)]
mod tests;

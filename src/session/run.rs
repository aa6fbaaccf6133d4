//! How far a running study is, and how long it will take.

use std::time::Instant;

use crate::session::DriverHandle;
use crate::session::driver::LeftOver;
use crate::study::{Budget, FailureKind, Outcome, Study, StudyEvent, StudySpec, planned_recipes};

/// How far the running study is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RunStatus {
    /// Trials ended, the reference among them.
    pub done: u32,
    /// Trials planned; fewer may be needed.
    pub total: u32,
    /// Seconds since the start, without the pauses between trials.
    pub elapsed_secs: f64,
    /// Estimated seconds left, once a trial has ended.
    pub remaining_secs: Option<f64>,
    /// No new trial starts.
    pub paused: bool,
    /// The user asked to stop.
    pub stopping: bool,
}

/// The clock of a run.
#[derive(Debug)]
pub(super) struct Run {
    planned: u32,
    budget: Budget,
    began: Instant,
    trial_secs: Vec<f64>,
    last_end: Instant,
    left_over: LeftOver,
    /// Trials that run at the same time.
    n_devices: usize,
}

impl Run {
    pub(super) fn new(spec: &StudySpec) -> Self {
        let planned = planned_recipes(spec).len() as u32;
        let planned = spec.budget.trials.map_or(planned, |trials| planned.min(trials)) + 1;
        let now = Instant::now();
        Self {
            planned,
            budget: spec.budget,
            began: now,
            trial_secs: Vec::new(),
            last_end: now,
            left_over: LeftOver::default(),
            n_devices: spec.devices().len(),
        }
    }

    /// The run begins with what is known of its study.
    pub(super) fn begin(&mut self, study: &Study) {
        self.left_over = LeftOver::of(study);
    }

    /// Takes in an event of the run.
    pub(super) fn apply(&mut self, event: &StudyEvent) {
        self.left_over.apply(event);
        if let StudyEvent::TrialFinished { elapsed_secs, outcome, .. } = event {
            // A recipe that is refused takes no time, and says nothing of those that run.
            if !matches!(outcome, Outcome::Failed(failure) if failure.kind == FailureKind::Recipe) {
                self.trial_secs.push(*elapsed_secs);
            }
            self.last_end = Instant::now();
        }
    }

    pub(super) fn status(&self, study: &Study, driver: &DriverHandle) -> RunStatus {
        let (paused, stopping) = (driver.is_paused(), driver.is_stopping());
        let done = self.left_over.n_ended(study);
        let total = self.planned.max(done);
        let elapsed_secs = self.began.elapsed().saturating_sub(driver.rested()).as_secs_f64();
        let in_trial = self.last_end.elapsed().as_secs_f64();
        let n_left = (total - done).div_ceil(self.n_devices as u32);
        let budget_left = self.budget.secs.map(|secs| secs - elapsed_secs);
        let remaining_secs = remaining_secs(&self.trial_secs, self.n_devices, n_left, in_trial, budget_left);
        RunStatus { done, total, elapsed_secs, remaining_secs, paused, stopping }
    }
}

/// Trials left times the mean of those that ended in this run; a time budget lets the last trial end after it.
fn remaining_secs(
    ended: &[f64],
    n_devices: usize,
    n_left: u32,
    in_trial: f64,
    budget_left: Option<f64>,
) -> Option<f64> {
    if ended.is_empty() {
        return None;
    }
    // The first trial of a device also reads the model and scores the reference.
    let usual = ended.get(n_devices..).filter(|usual| !usual.is_empty()).unwrap_or(ended);
    let mean = usual.iter().sum::<f64>() / usual.len() as f64;
    let planned = (mean * f64::from(n_left) - in_trial.min(mean)).max(0.0);
    Some(budget_left.map_or(planned, |left| planned.min(left.max(0.0) + mean)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_comes_from_trials_that_ended() {
        let check = |ended: &[f64], n_left, in_trial, budget_left, expected| {
            assert_eq!(remaining_secs(ended, 1, n_left, in_trial, budget_left), expected, "{ended:?} {n_left}");
        };
        check(&[], 8, 0.0, None, None);
        check(&[9.0], 7, 0.0, None, Some(63.0));
        check(&[9.0, 2.0, 4.0], 5, 0.0, None, Some(15.0));
        check(&[9.0, 2.0, 4.0], 5, 1.0, None, Some(14.0));
        check(&[9.0, 2.0, 4.0], 5, 100.0, None, Some(12.0));
        check(&[9.0, 2.0, 4.0], 0, 1.0, None, Some(0.0));
        check(&[9.0, 2.0, 4.0], 5, 0.0, Some(4.0), Some(7.0));
        assert_eq!(
            remaining_secs(&[9.0, 7.0, 4.0], 2, 3, 0.0, None),
            Some(12.0),
            "each device began with a longer one"
        );
        assert_eq!(remaining_secs(&[9.0, 7.0], 2, 3, 0.0, None), Some(24.0));
    }
}

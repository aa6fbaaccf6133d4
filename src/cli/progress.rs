//! How far the work is, on standard error: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::out::say;
use crate::study::{Phase, StudyEvent, TrialId};
use crate::units;

/// Between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// The progress of a command.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    began: Instant,
    last_line: Instant,
    /// Trials ended and planned.
    trials: (u32, u32),
    /// The running trial that is shown; others may run beside it on other cards.
    followed: Option<TrialId>,
    /// How far it is.
    step: Option<(Phase, u32, u32)>,
    /// When the present phase was first heard of, and how far it was then.
    phase_began: (Instant, u32),
    /// Sum and number of the output errors of the layers made so far.
    errors: (f64, u32),
}

impl Progress {
    /// Progress over so many trials.
    pub(super) fn over_trials(total: u32) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:24} {wide_msg}").expect("the template is right");
            let bar = ProgressBar::new(u64::from(total) * STEPS).with_style(style);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        let now = Instant::now();
        Self {
            bar,
            began: now,
            last_line: now,
            trials: (0, total.max(1)),
            followed: None,
            step: None,
            phase_began: (now, 0),
            errors: (0.0, 0),
        }
    }

    /// Takes in an event and shows what it changed.
    pub(super) fn observe(&mut self, event: &StudyEvent) {
        let is_end = matches!(event, StudyEvent::TrialFinished { .. });
        let is_followed = event.trial().is_none_or(|trial| *self.followed.get_or_insert(trial) == trial);
        if !is_followed && !is_end {
            return;
        }
        match event {
            StudyEvent::TrialStarted { .. } => (self.step, self.errors) = (None, (0.0, 0)),
            StudyEvent::Progress { phase, done, total, .. } => {
                if self.step.is_none_or(|(before, ..)| before != *phase) {
                    self.phase_began = (Instant::now(), *done);
                }
                self.step = Some((*phase, *done, *total));
            }
            StudyEvent::LayerCompressed { output_error: Some(error), .. } => {
                self.errors = (self.errors.0 + error, self.errors.1 + 1);
            }
            StudyEvent::TrialFinished { .. } => {
                self.trials.0 += 1;
                self.trials.1 = self.trials.1.max(self.trials.0);
                if is_followed {
                    (self.followed, self.step, self.errors) = (None, None, (0.0, 0));
                }
            }
            _ => return,
        }
        let text = self.text();
        if let Some(bar) = &self.bar {
            let inside = self.step.map_or(0, |(_, done, total)| u64::from(done) * STEPS / u64::from(total.max(1)));
            bar.set_position(u64::from(self.trials.0) * STEPS + inside.min(STEPS));
            bar.set_message(text);
        } else if self.last_line.elapsed() >= LINE_INTERVAL {
            self.last_line = Instant::now();
            say(&text);
        }
    }

    /// Writes a line of words without breaking the bar.
    pub(super) fn say(&self, words: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(words)),
            None => say(words),
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    fn text(&self) -> String {
        let (done, total) = self.trials;
        let mut parts = Vec::new();
        if total > 1 {
            parts.push(format!("trial {} of {total}", (done + 1).min(total)));
        }
        parts.extend(self.step.map(|(phase, done, total)| format!("{} {done} of {total}", phase_name(phase))));
        if let (Some((Phase::Compress, ..)), (sum, n @ 1..)) = (self.step, self.errors) {
            parts.push(format!("output error {} so far", units::significant(sum / f64::from(n), 3)));
        }
        parts.extend(self.secs_left().map(|secs| format!("{} left", units::duration(secs))));
        parts.join(", ")
    }

    /// From the trials that ended; within the only trial, of its present phase.
    fn secs_left(&self) -> Option<f64> {
        let (done, total) = self.trials;
        if total == 1 {
            let (phase, done, total) = self.step?;
            let (began, before) = self.phase_began;
            // Other phases are short, or their steps differ in length.
            let is_even = matches!(phase, Phase::Calibrate | Phase::Compress | Phase::Quality | Phase::Reference);
            return is_even.then(|| {
                secs_left(began.elapsed().as_secs_f64(), done.saturating_sub(before), total - done.min(total))
            })?;
        }
        if done == 0 || done >= total {
            return None;
        }
        secs_left(self.began.elapsed().as_secs_f64(), done, total - done)
    }
}

/// The time of `left` steps when `done` of them took `elapsed`.
fn secs_left(elapsed: f64, done: u32, left: u32) -> Option<f64> {
    (done > 0 && left > 0).then(|| elapsed / f64::from(done) * f64::from(left))
}

/// Resolution of the bar within a trial.
const STEPS: u64 = 100;

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Load => "reading tensors",
        Phase::Calibrate => "calibrating",
        Phase::Compress => "compressing layers",
        Phase::Reference => "scoring the reference",
        Phase::Quality => "scoring windows",
        Phase::Prefill => "timing the prompt",
        Phase::Decode => "timing tokens",
        Phase::Sample => "sampling text",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_needs_a_step_and_something_left() {
        for (elapsed, done, left, expected) in
            [(4.0, 2, 6, Some(12.0)), (4.0, 0, 6, None), (4.0, 2, 0, None), (0.0, 1, 1, Some(0.0))]
        {
            assert_eq!(secs_left(elapsed, done, left), expected);
        }
    }
}

//! How long a trial may go without progress, and how its memory went. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::study::Phase;
use crate::worker::host::Deadlines;

/// The pace of the running step: intervals between signs of progress, by the phase that was named before them.
///
/// Phases may alternate, as prompts and single tokens do: each has its own pace.
#[derive(Debug)]
pub(super) struct Pace {
    phase: Option<Phase>,
    last: Instant,
    intervals: BTreeMap<Option<Phase>, VecDeque<Duration>>,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { phase: None, last: now, intervals: BTreeMap::new() }
    }

    /// The last step that was reported.
    pub(super) fn phase(&self) -> Option<Phase> {
        self.phase
    }

    /// A sign of progress; `phase` where the sign names one.
    pub(super) fn step(&mut self, phase: Option<Phase>, now: Instant) {
        let intervals = self.intervals.entry(self.phase).or_default();
        intervals.push_back(now - self.last);
        if intervals.len() > 64 {
            intervals.pop_front();
        }
        self.phase = phase.or(self.phase);
        self.last = now;
    }

    /// When the next sign of progress is due, and how long that is after the last one.
    pub(super) fn due(&self, deadlines: &Deadlines) -> (Instant, Duration) {
        let slow =
            matches!(self.phase, None | Some(Phase::Load | Phase::Calibrate | Phase::Compress | Phase::Reference));
        let mut sorted: Vec<Duration> = self.intervals.get(&self.phase).into_iter().flatten().copied().collect();
        sorted.sort_unstable();
        let allowed = match sorted.get(sorted.len() / 2) {
            Some(median) if !slow => deadlines.step.max(*median * deadlines.step_factor),
            _ => deadlines.first_step,
        };
        (self.last + allowed, allowed)
    }
}

/// Resident memory over time in at most 256 points: neighbours are merged, the larger one stays.
#[derive(Debug, Default)]
pub(super) struct MemoryCurve {
    points: Vec<(u64, u64)>,
    stride: usize,
    pending: Option<(u64, u64)>,
    n_pending: usize,
}

impl MemoryCurve {
    const MAX_POINTS: usize = 256;

    pub(super) fn push(&mut self, at_millis: u64, bytes: u64) {
        let larger = self.pending.filter(|pending| pending.1 >= bytes).unwrap_or((at_millis, bytes));
        self.pending = Some(larger);
        self.n_pending += 1;
        if self.n_pending < self.stride.max(1) {
            return;
        }
        self.points.extend(self.pending.take());
        self.n_pending = 0;
        if self.points.len() == Self::MAX_POINTS {
            let merged = self.points.chunks(2).map(|pair| pair.iter().copied().max_by_key(|point| point.1));
            self.points = merged.flatten().collect();
            self.stride = self.stride.max(1) * 2;
        }
    }

    pub(super) fn into_points(mut self) -> Vec<(u64, u64)> {
        self.points.extend(self.pending);
        self.points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_stays_short_and_keeps_its_peak() {
        for n in [0, 1, 255, 256, 257, 100_000] {
            let mut curve = MemoryCurve::default();
            (0..n).for_each(|at| curve.push(at, if at == n / 3 { 9_000 } else { 10 + at % 7 }));
            let points = curve.into_points();
            assert!(points.len() <= 256 && points.is_sorted_by_key(|point| point.0), "{n}: {}", points.len());
            assert_eq!(points.is_empty(), n == 0);
            assert!(n == 0 || points.iter().any(|point| point.1 == 9_000), "{n}");
        }
    }

    #[test]
    fn the_first_step_may_take_long_and_later_ones_go_by_the_median() {
        let deadlines = Deadlines::default();
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.due(&deadlines).1, deadlines.first_step);
        let mut now = start;
        let mut step = |pace: &mut Pace, phase, secs| {
            now += Duration::from_secs(secs);
            pace.step(phase, now);
            pace.due(&deadlines)
        };
        assert_eq!(step(&mut pace, Some(Phase::Load), 100).1, deadlines.first_step);
        assert_eq!(step(&mut pace, Some(Phase::Load), 1).1, deadlines.first_step);
        assert_eq!(step(&mut pace, Some(Phase::Quality), 50).1, deadlines.first_step);
        assert_eq!(step(&mut pace, Some(Phase::Quality), 1).1, deadlines.step);
        step(&mut pace, None, 5);
        let (due, allowed) = step(&mut pace, None, 5);
        assert_eq!(allowed, Duration::from_secs(100));
        assert_eq!(due, start + Duration::from_secs(162 + 100));
    }

    #[test]
    fn prompts_and_single_tokens_have_a_pace_each() {
        let deadlines = Deadlines::default();
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let mut step = |secs, phase| {
            now += Duration::from_secs(secs);
            pace.step(Some(phase), now);
            pace.due(&deadlines).1
        };
        step(0, Phase::Prefill);
        for repetition in 0..3 {
            let first = repetition == 0;
            // A prompt of a minute, then tokens of a second.
            assert_eq!(step(60, Phase::Decode), if first { deadlines.first_step } else { deadlines.step });
            for _ in 0..9 {
                assert_eq!(step(1, Phase::Decode), deadlines.step);
            }
            assert_eq!(step(1, Phase::Prefill), Duration::from_mins(20));
        }
    }
}

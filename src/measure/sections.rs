//! Which repetitions count: those during which something else took the machine are made again, a bounded number of times.

use crate::measure::abba;
use crate::study::Arm;

/// Shortest time over which use by other processes is told apart from the kernel's ticks of 10 ms: a tenth of a core is then
/// five of them. A look at the process table costs milliseconds, so it is also what keeps a quiet run quick.
const MIN_SECS: f64 = 0.5;

/// Most sections that are made again in one trial: a machine that is always busy must not hold up a study.
pub const MAX_REPEATS: u32 = 5;

/// The order of the repetitions, cut into sections that are judged as a whole. A section ends between two pairs, so that what
/// is made again has both arms in the same order.
#[derive(Debug, Clone)]
pub struct Sections {
    order: Vec<Arm>,
    /// Repetitions between which a section may end.
    pair: usize,
    began: usize,
    next: usize,
    repeats: u32,
    kept_disturbed: u32,
}

/// What becomes of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Its samples count.
    Keep,
    /// Its samples are dropped, and it is made again.
    Repeat,
}

impl Sections {
    /// So many repetitions of both arms, or of the variant alone where it is the reference.
    pub fn new(repetitions: u32, is_reference: bool) -> Self {
        let (order, pair) =
            if is_reference { (vec![Arm::Variant; repetitions as usize], 1) } else { (abba(repetitions).collect(), 2) };
        Self { order, pair, began: 0, next: 0, repeats: 0, kept_disturbed: 0 }
    }

    /// Repetitions in all.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Repetitions done.
    pub fn n_done(&self) -> usize {
        self.next
    }

    /// The next repetition; `None` when all are done.
    pub fn next_arm(&mut self) -> Option<Arm> {
        let arm = self.order.get(self.next).copied()?;
        self.next += 1;
        Some(arm)
    }

    /// Whether the section ends here, `secs` after it began.
    pub fn is_due(&self, secs: f64) -> bool {
        self.next == self.order.len() || (self.next.is_multiple_of(self.pair) && secs >= MIN_SECS)
    }

    /// Ends the section. A disturbed one is made again while some of [`MAX_REPEATS`] are left.
    pub fn judge(&mut self, is_disturbed: bool) -> Judgement {
        if is_disturbed && self.repeats < MAX_REPEATS {
            self.repeats += 1;
            self.next = self.began;
            return Judgement::Repeat;
        }
        self.kept_disturbed += u32::from(is_disturbed);
        self.began = self.next;
        Judgement::Keep
    }

    /// Sections that were made again.
    pub fn repeats(&self) -> u32 {
        self.repeats
    }

    /// Sections that count though they were disturbed.
    pub fn kept_disturbed(&self) -> u32 {
        self.kept_disturbed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs sections of `secs` a repetition; each is disturbed as `disturbed` says in turn, the last one from then on.
    fn run(repetitions: u32, is_reference: bool, secs: f64, disturbed: &[bool]) -> (Vec<Arm>, usize, Sections) {
        let mut sections = Sections::new(repetitions, is_reference);
        let (mut kept, mut pending, mut n_sections, mut n_run) = (Vec::new(), Vec::new(), 0, 0);
        while let Some(arm) = sections.next_arm() {
            n_run += 1;
            pending.push(arm);
            if sections.is_due(secs * pending.len() as f64) {
                let is_disturbed = *disturbed.get(n_sections).or(disturbed.last()).unwrap_or(&false);
                n_sections += 1;
                match sections.judge(is_disturbed) {
                    Judgement::Keep => kept.append(&mut pending),
                    Judgement::Repeat => pending.clear(),
                }
            }
        }
        assert!(pending.is_empty(), "the last section is judged too");
        (kept, n_run, sections)
    }

    #[test]
    fn a_quiet_run_is_the_plain_order_and_nothing_more() {
        for (secs, is_reference) in [(0.01, false), (0.3, false), (2.0, false), (0.3, true)] {
            let (kept, n_run, sections) = run(6, is_reference, secs, &[false]);
            let expected: Vec<Arm> = if is_reference { vec![Arm::Variant; 6] } else { abba(6).collect() };
            assert_eq!((kept, n_run), (expected.clone(), expected.len()));
            assert_eq!((sections.repeats(), sections.kept_disturbed()), (0, 0));
        }
    }

    #[test]
    fn a_section_ends_between_pairs_once_it_is_long_enough() {
        let mut sections = Sections::new(4, false);
        let due: Vec<bool> = (0..8).map(|_| (sections.next_arm().unwrap(), sections.is_due(0.6)).1).collect();
        assert_eq!(due, [false, true, false, true, false, true, false, true]);
        assert!(!sections.is_empty() && sections.len() == 8 && sections.next_arm().is_none());
        let mut short = Sections::new(4, false);
        let due: Vec<bool> = (0..8).map(|_| (short.next_arm().unwrap(), short.is_due(0.4)).1).collect();
        assert_eq!(due.iter().filter(|is_due| **is_due).count(), 1, "the end of all");
    }

    #[test]
    fn a_disturbed_section_is_made_again_with_its_own_arms() {
        let (kept, n_run, sections) = run(4, false, 0.3, &[false, true, false]);
        assert_eq!(kept, abba(4).collect::<Vec<_>>());
        assert_eq!((n_run, sections.repeats(), sections.kept_disturbed()), (10, 1, 0));
    }

    #[test]
    fn after_five_repeats_what_is_disturbed_is_kept() {
        let (kept, n_run, sections) = run(4, false, 0.3, &[true]);
        assert_eq!(kept, abba(4).collect::<Vec<_>>());
        assert_eq!((n_run, sections.repeats(), sections.kept_disturbed()), (8 + 5 * 2, MAX_REPEATS, 4));
        // The number is the trial's, not the section's.
        let (_, _, sections) = run(4, false, 0.3, &[true, true, true, false, true, true, true, false]);
        assert_eq!((sections.repeats(), sections.kept_disturbed()), (5, 1));
    }
}

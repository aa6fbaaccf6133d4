//! When each operation of a pass ended.

use std::time::Instant;

use crate::model::Operation;

/// The end of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The block; `None` outside of the blocks.
    pub block: Option<u16>,
    /// What ended.
    pub operation: Operation,
    /// Since the beginning of the pass, in nanoseconds.
    pub end_nanos: u64,
}

/// Reads a monotonic clock at the end of every operation of a pass. An operation begins where the one before it ended, so
/// nothing is counted twice and nothing in between is left out.
#[derive(Debug)]
pub struct Probe {
    began: Instant,
    marks: Vec<Mark>,
}

impl Probe {
    /// A probe for passes of so many operations: those are recorded without an allocation.
    pub fn new(n_operations: usize) -> Self {
        Self { began: Instant::now(), marks: Vec::with_capacity(n_operations) }
    }

    /// Forgets the pass before; the next one begins now.
    pub fn begin(&mut self) {
        self.marks.clear();
        self.began = Instant::now();
    }

    /// The ends so far, in the order of time.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    pub(super) fn end(&mut self, block: Option<usize>, operation: Operation) {
        let end_nanos = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.marks.push(Mark { block: block.map(|block| block as u16), operation, end_nanos });
    }
}

//! Spreading in plain code: what every other form must equal.

#![expect(clippy::inline_always, reason = "loops become part of the function around them")]

use half::f16;

use super::super::ints::{PANEL, STEP};
use super::super::vector::{Lanes, Register as _};
use super::ints::Raised;
use super::spread::Spread;
use super::{PADDING, STEP_INPUTS, Value};

/// Any processor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain;

impl Spread for Plain {
    type Vector = Lanes;

    #[inline(never)]
    fn run(self, work: impl FnOnce()) {
        work();
    }

    #[inline(always)]
    fn fetch<T>(self, _place: *const T) {}

    #[inline(always)]
    fn halves(self, values: &[f16; PADDING], mask: u64) -> [Lanes; STEP_INPUTS] {
        weights(values, mask)
    }

    #[inline(always)]
    fn numbers(self, values: &[Raised; PADDING], mask: u64) -> [Lanes; STEP_INPUTS] {
        weights(values, mask)
    }

    #[inline(always)]
    fn codes(self, values: &[Raised; PADDING], mask: u64, step: &mut [u8; STEP]) {
        let mut next = 0;
        for (bit, code) in step.iter_mut().enumerate() {
            let is_there = mask >> bit & 1 == 1;
            *code = if is_there { values[next].0 } else { 128 };
            next += usize::from(is_there);
        }
    }
}

/// The bits of a step are in one of two orders; both are found in a table of constants by the compiler.
#[inline(always)]
fn weights<V: Value>(values: &[V; PADDING], mask: u64) -> [Lanes; STEP_INPUTS] {
    let mut weights = [[0.0; PANEL]; STEP_INPUTS];
    for lane in 0..PANEL {
        for (within, weights) in weights.iter_mut().enumerate() {
            let bit = V::bit(lane, within);
            let before = (mask & ((1 << bit) - 1)).count_ones() as usize;
            weights[lane] = if mask >> bit & 1 == 1 { values[before].to_f32() } else { 0.0 };
        }
    }
    weights.map(|weights| Lanes::of(&weights))
}

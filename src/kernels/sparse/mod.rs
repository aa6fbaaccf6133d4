//! Products with weights that are mostly zero: the other weights, and one bit a weight that says where they are.
//!
//! Weights lie in panels of 16 outputs, in steps of 4 inputs: a step has a mask of 64 bits, and a panel's weights follow
//! each other in the order of the bits. A few rows of activations are multiplied with weights that are spread over the
//! lanes of registers as they are loaded: by expansion on AVX-512, by shuffles whose orders are in tables on AVX2 and
//! NEON. For more rows, a stretch of some panels is spread into a buffer in the first-level cache and multiplied as if it
//! were dense.
//!
//! A sum is one chain of fused multiply-adds in f32 over the inputs in order, zeros included, on every instruction set
//! (of the plain one, where the compiler may assume them): results are those of the dense product to the bit, whatever rows are computed together.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod half;
mod ints;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod spread;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod tables;

pub use self::half::SparseHalf;
pub use self::ints::SparseInts;

use ::half::f16;

use self::portable::Plain;
use self::spread::{Number, Scaled};
use super::ints::{LARGE, PANEL, Store};
use super::isa::Isa;
use super::pool::{Parts, share_out_if};

/// Inputs of a step.
const STEP_INPUTS: usize = 4;
/// Values after the last one, so that a whole register can be loaded at any of them.
const PADDING: usize = 64;
/// Rows of activations up to which weights are not spread into a buffer.
const FEW: usize = 8;

/// A kind of weight.
trait Value: Copy + Send + Sync {
    const ZERO: Self;

    /// The bit of a weight in the mask of its step.
    fn bit(lane: usize, input: usize) -> usize;

    fn is_zero(self) -> bool;

    fn to_f32(self) -> f32;
}

/// A matrix without its zeros.
#[derive(Debug, Clone, PartialEq)]
struct Packed<V> {
    /// Panel after panel, then [`PADDING`].
    values: Vec<V>,
    /// (panels, steps).
    masks: Vec<u64>,
    /// Where the values of each panel begin, and the end.
    offsets: Vec<u32>,
    n_outputs: usize,
    n_inputs: usize,
}

impl<V: Value> Packed<V> {
    fn new(weights: &[V], n_outputs: usize, n_inputs: usize) -> Self {
        assert!(n_inputs > 0, "a row has inputs");
        assert_eq!(Some(weights.len()), n_outputs.checked_mul(n_inputs), "a matrix of this shape");
        let n_steps = n_inputs.div_ceil(STEP_INPUTS);
        let mut masks = Vec::with_capacity(n_outputs.div_ceil(PANEL) * n_steps);
        let mut offsets = vec![0];
        let n_values = weights.iter().filter(|weight| !weight.is_zero()).count();
        let mut values = Vec::with_capacity(n_values + PADDING);
        for rows in weights.chunks(PANEL * n_inputs) {
            for first in (0..n_inputs).step_by(STEP_INPUTS) {
                let mut step = [V::ZERO; 64];
                for (lane, row) in rows.chunks(n_inputs).enumerate() {
                    for (within, weight) in row[first..].iter().take(STEP_INPUTS).enumerate() {
                        step[V::bit(lane, within)] = *weight;
                    }
                }
                masks.push((0..64).filter(|bit| !step[*bit].is_zero()).fold(0, |mask, bit| mask | 1 << bit));
                values.extend(step.into_iter().filter(|weight| !weight.is_zero()));
            }
            offsets.push(u32::try_from(values.len()).expect("fewer than 2^32 weights"));
        }
        values.extend([V::ZERO; PADDING]);
        Self { values, masks, offsets, n_outputs, n_inputs }
    }

    fn bytes(&self) -> usize {
        size_of_val(&self.values[..]) + size_of_val(&self.masks[..]) + size_of_val(&self.offsets[..])
    }

    fn n_nonzero(&self) -> usize {
        self.values.len() - PADDING
    }

    fn n_panels(&self) -> usize {
        self.n_outputs.div_ceil(PANEL)
    }

    fn n_steps(&self) -> usize {
        self.n_inputs.div_ceil(STEP_INPUTS)
    }

    /// The masks of a panel.
    #[inline]
    fn masks(&self, panel: usize) -> &[u64] {
        &self.masks[panel * self.n_steps()..][..self.n_steps()]
    }

    /// Where the values of a panel begin.
    #[inline]
    fn start(&self, panel: usize) -> usize {
        self.offsets[panel] as usize
    }

    /// The values from one on, as many as a step has at most.
    #[inline]
    fn values_from(&self, first: usize) -> &[V; PADDING] {
        self.values[first..].first_chunk().expect("values that fill up")
    }

    /// The weights of one output feature.
    fn row(&self, output: usize, values: &mut [f32]) {
        assert!(output < self.n_outputs && values.len() == self.n_inputs, "a row of the matrix");
        let (panel, lane) = (output / PANEL, output % PANEL);
        let mut next = self.start(panel);
        for (mask, values) in self.masks(panel).iter().zip(values.chunks_mut(STEP_INPUTS)) {
            for (within, value) in values.iter_mut().enumerate() {
                let bit = V::bit(lane, within);
                let before = (mask & ((1 << bit) - 1)).count_ones() as usize;
                *value = if mask >> bit & 1 == 1 { self.values[next + before].to_f32() } else { 0.0 };
            }
            next += mask.count_ones() as usize;
        }
    }

    /// Runs `task` with the panels and the results of each share.
    fn share_out(&self, n_rows: usize, y: &mut [f32], task: impl Fn(std::ops::Range<usize>, &Store<'_>) + Sync) {
        assert_eq!(n_rows.checked_mul(self.n_outputs), Some(y.len()), "one output row for each row of activations");
        let y = Parts::new(y);
        share_out_if(n_rows * self.n_outputs * self.n_inputs >= LARGE, |share| {
            task(share.of(self.n_panels(), 1), &Store { y: &y, n_outputs: self.n_outputs, first_panel: 0 });
        });
    }

    /// Rows of activations.
    fn n_rows(&self, x: &[f32]) -> usize {
        assert!(x.len().is_multiple_of(self.n_inputs), "whole rows of activations");
        x.len() / self.n_inputs
    }
}

impl<V: Number> Packed<V> {
    /// y = x Wᵀ for rows of activations, each weight times `scales` of its panel.
    fn multiply(&self, isa: Isa, scales: impl Fn(usize) -> [f16; PANEL] + Copy + Sync, x: &[f32], y: &mut [f32]) {
        self.share_out(self.n_rows(x), y, |panels, store| {
            let weights = Scaled { packed: self, scales };
            #[cfg(target_arch = "x86_64")]
            if let Some(set) = avx512::Avx512::of(isa) {
                return avx512::multiply(set, &weights, x, panels, store);
            } else if let Some(set) = avx2::Avx2::of(isa) {
                return spread::multiply(set, &weights, x, panels, store);
            }
            #[cfg(target_arch = "aarch64")]
            if let Some(set) = neon::Neon::of(isa) {
                return spread::multiply(set, &weights, x, panels, store);
            }
            let _ = isa;
            spread::multiply(Plain, &weights, x, panels, store);
        });
    }
}

#[cfg(test)]
mod tests;

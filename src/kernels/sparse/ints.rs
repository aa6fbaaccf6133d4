//! 8-bit weights without their zeros.

use std::cell::Cell;
use std::ops::Range;

use half::f16;

use super::super::ints::{Ints, PANEL, STEP, Store};
use super::super::tokens::Tokens;
use super::portable::Plain;
use super::{FEW, Isa, Packed, Value, spread};

/// Panels that are spread out at once for a product of many tokens.
const STRETCH: usize = 3;
/// Inputs up to which dot products fit i32 as one.
const LONGEST: usize = 1 << 15;

/// A code with 128 added: byte dot products take weights without a sign.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(transparent)]
pub(super) struct Raised(pub(super) u8);

impl Value for Raised {
    const ZERO: Self = Self(128);

    /// An output's 4 inputs follow each other, as byte dot products take them.
    fn bit(lane: usize, input: usize) -> usize {
        lane * 4 + input
    }

    fn is_zero(self) -> bool {
        self == Self::ZERO
    }

    fn to_f32(self) -> f32 {
        f32::from(self.0) - 128.0
    }
}

/// Weights (`out_features`, `in_features`) as 8-bit codes, without their zeros: weight = scale of the row · code.
///
/// Holds a byte for each code that is not zero, one bit for each code (the rows filled up to a multiple of 16, their
/// length to a multiple of 4), 2 bytes for each row, 4 for each 16 rows, and 68 bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct SparseInts {
    packed: Packed<Raised>,
    /// (panels).
    scales: Vec<[f16; PANEL]>,
}

thread_local! {
    /// Codes of a stretch of panels, spread out; kept from one product to the next.
    static SPREAD: Cell<Vec<[u8; STEP]>> = const { Cell::new(Vec::new()) };
}

impl SparseInts {
    /// Repacks a row-major matrix.
    ///
    /// - `codes`: (`n_outputs`, `n_inputs`), `scales`: (`n_outputs`)
    ///
    /// # Panics
    /// If the lengths are not so, or there are no inputs, or 2³² codes that are not zero.
    pub fn pack(codes: &[i8], scales: &[f16], n_outputs: usize, n_inputs: usize) -> Self {
        assert_eq!(scales.len(), n_outputs, "one scale a row");
        let mut panels = vec![[f16::ZERO; PANEL]; n_outputs.div_ceil(PANEL)];
        panels.as_flattened_mut()[..n_outputs].copy_from_slice(scales);
        let codes: Vec<_> = codes.iter().map(|code| Raised(code.cast_unsigned() ^ 128)).collect();
        Self { packed: Packed::new(&codes, n_outputs, n_inputs), scales: panels }
    }

    /// Output features.
    pub fn n_outputs(&self) -> usize {
        self.packed.n_outputs
    }

    /// Input features.
    pub fn n_inputs(&self) -> usize {
        self.packed.n_inputs
    }

    /// Codes that are not zero.
    pub fn n_nonzero(&self) -> usize {
        self.packed.n_nonzero()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.packed.bytes() + size_of_val(&self.scales[..])
    }

    /// Writes the weights of one output feature to `values` (`in_features`).
    ///
    /// # Panics
    /// If there is no such output, or the length is not the number of inputs.
    pub fn row(&self, output: usize, values: &mut [f32]) {
        self.packed.row(output, values);
        let scale = self.scales.as_flattened()[output].to_f32();
        for value in values {
            *value *= scale;
        }
    }

    /// y = x Wᵀ for rows of activations, on all threads: an output is its scale · Σ code · x.
    ///
    /// - `x`: (rows, `in_features`), `y`: (rows, `out_features`), overwritten
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn multiply(&self, x: &[f32], y: &mut [f32]) {
        self.multiply_with(Isa::current(), x, y);
    }

    pub(super) fn multiply_with(&self, isa: Isa, x: &[f32], y: &mut [f32]) {
        self.packed.multiply(isa, |panel| self.scales[panel], x, y);
    }

    /// y = x Wᵀ for rows of rounded activations, on all threads: dot products are exact, results those of
    /// [`Ints`] with the codes raised by 128.
    ///
    /// - `y`: (rows, `out_features`), overwritten
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn multiply_tokens(&self, x: &Tokens, y: &mut [f32]) {
        self.multiply_tokens_with(Isa::current(), x, y);
    }

    pub(super) fn multiply_tokens_with(&self, isa: Isa, x: &Tokens, y: &mut [f32]) {
        assert_eq!(x.n_inputs(), self.n_inputs(), "activations for this matrix");
        let is_direct = x.n_rows() <= FEW && self.n_inputs() <= LONGEST;
        self.packed.share_out(x.n_rows(), y, |panels, store| {
            #[cfg(target_arch = "x86_64")]
            if is_direct && let Some(set) = super::avx512::Avx512::of(isa) {
                return super::avx512::multiply_tokens(set, &self.packed, &self.scales, x, (panels, store));
            }
            self.spread_and_multiply(isa, x, panels, store);
        });
        let _ = is_direct;
    }

    /// Spreads some panels out at a time and multiplies them as dense ones.
    fn spread_and_multiply(&self, isa: Isa, x: &Tokens, panels: Range<usize>, store: &Store<'_>) {
        let mut codes = SPREAD.take();
        for panel in panels.clone().step_by(STRETCH) {
            let stretch = panel..(panel + STRETCH).min(panels.end);
            codes.resize(stretch.len() * self.packed.n_steps(), [0; STEP]);
            self.spread(isa, stretch.clone(), &mut codes);
            let dense = Ints::of_panels(codes, self.scales[stretch].to_vec(), self.n_inputs());
            codes = dense.multiply_panels(isa, x, &Store { first_panel: panel, ..*store });
        }
        SPREAD.set(codes);
    }

    /// Some panels as dense ones.
    fn spread(&self, isa: Isa, panels: Range<usize>, dense: &mut [[u8; STEP]]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(set) = super::avx512::Avx512::of(isa) {
            return spread::spread(set, &self.packed, panels, dense);
        } else if let Some(set) = super::avx2::Avx2::of(isa) {
            return spread::spread(set, &self.packed, panels, dense);
        }
        #[cfg(target_arch = "aarch64")]
        if let Some(set) = super::neon::Neon::of(isa) {
            return spread::spread(set, &self.packed, panels, dense);
        }
        let _ = isa;
        spread::spread(Plain, &self.packed, panels, dense);
    }
}

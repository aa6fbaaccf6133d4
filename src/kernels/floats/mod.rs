//! Products of single-precision activations with weights held as floats or as codes of a grid.
//!
//! Weights are repacked once, into panels of 16 outputs with the inputs outermost, and stay in their format: they become
//! numbers of single precision in registers, or, when many rows pass, a cache block at a time. Each output is one chain
//! of multiply-adds over the inputs in order, of activations with the numbers that the weights stand for. So
//! - a row's result has the same bits alone and in a batch, on any number of threads;
//! - every format gives the bits that single precision gives with the same numbers (zero points between codes: with
//!   weights that are rounded once, not twice);
//! - the error against exact sums is at most n · 2⁻²³ · Σ |x · w| for n inputs, and one rounding of each weight.
//!
//! Sets of instructions differ within that bound where one of them has no fused multiply-add.

mod format;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
mod peak;
mod product;
mod simd;
#[cfg(test)]
mod tests;
mod tile;
#[cfg(target_arch = "x86_64")]
mod x86;

use half::{bf16, f16};

use self::format::{Bytes, Fp8, Grid, Half, Nibbles, Pair, PanelScales, PanelZeros, SQUARE, Wide};
pub(super) use self::peak::{ONES, flops_a_turn, multiply_adds, read};
pub(super) use self::simd::Line;
use self::simd::{LANES, Portable, Simd};
use crate::kernels::isa::Isa;

/// The scales of 8-bit floats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fp8Scales<'a> {
    /// One for the matrix.
    Tensor(f32),
    /// One for each output.
    Rows(&'a [f32]),
    /// One for each square of 128 outputs and 128 inputs, row by row; the last of each direction may be smaller.
    Squares(&'a [f32]),
}

/// The zero points of integer groups.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Zeros<'a> {
    /// 2^(bits − 1).
    Middle,
    /// A code for each group, row by row.
    Codes(&'a [u8]),
    /// A number for each group, row by row.
    Floats(&'a [f16]),
}

/// Weights (`out_features`, `in_features`) in panels of 16 outputs.
///
/// The last panel is filled up, and an odd number of inputs by one: nothing else is held beyond the format's bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Floats {
    panels: Panels,
    n_outputs: usize,
    n_inputs: usize,
}

#[derive(Debug, Clone, PartialEq)]
enum Panels {
    F32(Vec<Pair<f32>>),
    F16(Vec<Pair<u16>>),
    Bf16(Vec<Pair<u16>>),
    Fp8 {
        codes: Vec<[[u8; LANES]; 2]>,
        scales: PanelScales,
        /// Outputs with a weight that is no number: no activation makes a number of it.
        nan_outputs: Vec<usize>,
    },
    Int8 {
        codes: Vec<[[u8; LANES]; 2]>,
        grid: Grid,
    },
    Int4 {
        codes: Vec<[u8; LANES]>,
        grid: Grid,
    },
}

impl Floats {
    /// Single precision.
    ///
    /// # Panics
    /// If `weights` is not `n_outputs` × `n_inputs`, row-major.
    pub fn f32(weights: &[f32], n_outputs: usize, n_inputs: usize) -> Self {
        check(weights, n_outputs, n_inputs);
        Self { panels: Panels::F32(pack::aligned_pairs(weights, n_inputs)), n_outputs, n_inputs }
    }

    /// Half precision.
    ///
    /// # Panics
    /// If `weights` is not `n_outputs` × `n_inputs`, row-major.
    pub fn f16(weights: &[f16], n_outputs: usize, n_inputs: usize) -> Self {
        check(weights, n_outputs, n_inputs);
        let panels = pack::pairs(weights, n_inputs, |pair| Pair(pair.map(|half| half.map(f16::to_bits))));
        Self { panels: Panels::F16(panels), n_outputs, n_inputs }
    }

    /// bfloat16.
    ///
    /// # Panics
    /// If `weights` is not `n_outputs` × `n_inputs`, row-major.
    pub fn bf16(weights: &[bf16], n_outputs: usize, n_inputs: usize) -> Self {
        check(weights, n_outputs, n_inputs);
        let panels = pack::pairs(weights, n_inputs, |pair| Pair(pair.map(|half| half.map(bf16::to_bits))));
        Self { panels: Panels::Bf16(panels), n_outputs, n_inputs }
    }

    /// E4M3 without infinities: weight = scale · code.
    ///
    /// Scales above 2^119 leave no room for the powers of two that codes are shifted by: such weights are held in single
    /// precision.
    ///
    /// # Panics
    /// If `codes` is not `n_outputs` × `n_inputs`, row-major, or the scales are not as many as [`Fp8Scales`] says.
    pub fn fp8(codes: &[u8], scales: Fp8Scales<'_>, n_outputs: usize, n_inputs: usize) -> Self {
        check(codes, n_outputs, n_inputs);
        let per_row = n_inputs.div_ceil(SQUARE);
        let (given, n_scales) = match &scales {
            Fp8Scales::Tensor(scale) => (std::slice::from_ref(scale), 1),
            Fp8Scales::Rows(scales) => (*scales, n_outputs),
            Fp8Scales::Squares(scales) => (*scales, n_outputs.div_ceil(SQUARE) * per_row),
        };
        assert_eq!(given.len(), n_scales, "as many scales as parts");
        let shift = |scale: &f32| scale * 256.0;
        let panel_scales = match scales {
            Fp8Scales::Tensor(scale) => PanelScales::Tensor(shift(&scale)),
            Fp8Scales::Rows(scales) => {
                PanelScales::Rows(pack::columns(&scales.iter().map(shift).collect::<Vec<_>>(), 1))
            }
            Fp8Scales::Squares(scales) => PanelScales::Squares { values: scales.iter().map(shift).collect(), per_row },
        };
        let rows = codes.chunks(n_inputs.max(1)).enumerate();
        let has_nan = |row: &[u8]| row.iter().any(|code| code & 0x7f == 0x7f);
        let nan_outputs = rows.filter(|(_, row)| has_nan(row)).map(|(output, _)| output).collect();
        let packed = pack::pairs(codes, n_inputs, |pair| pair);
        let panels = Panels::Fp8 { codes: packed, scales: panel_scales, nan_outputs };
        let floats = Self { panels, n_outputs, n_inputs };
        if given.iter().any(|scale| !shift(scale).is_finite()) {
            return Self::f32(&fp8_values(codes, scales, n_inputs), n_outputs, n_inputs);
        }
        floats
    }

    /// Codes of `bits` (4 or 8) on a uniform grid: weight = scale · (code − zero point), a scale and a zero point for
    /// each `group_len` inputs of an output.
    ///
    /// - `group_len`: even, or `n_inputs`; the last group of a row may be short
    /// - `codes`: one a weight, row-major, below 2^bits
    /// - `scales`: one a group, row by row
    ///
    /// # Panics
    /// If the lengths do not fit, the group is odd, or `bits` is another number.
    #[expect(clippy::too_many_arguments, reason = "a grid's parts, each of another type")]
    pub fn int(
        bits: u8,
        group_len: usize,
        codes: &[u8],
        scales: &[f16],
        zeros: Zeros<'_>,
        n_outputs: usize,
        n_inputs: usize,
    ) -> Self {
        check(codes, n_outputs, n_inputs);
        assert!(bits == 4 || bits == 8, "codes of 4 or 8 bits");
        let group_len = group_len.min(n_inputs.max(1));
        assert!(group_len > 0 && (group_len.is_multiple_of(2) || group_len == n_inputs), "groups of whole pairs");
        let n_groups = n_inputs.div_ceil(group_len);
        let n_zeros = match zeros {
            Zeros::Middle => scales.len(),
            Zeros::Codes(codes) => codes.len(),
            Zeros::Floats(values) => values.len(),
        };
        assert!([scales.len(), n_zeros] == [n_outputs * n_groups; 2], "one scale and one zero point for each group");
        let grid = pack::grid(bits, group_len, n_groups, scales, zeros);
        let panels = if bits == 8 {
            Panels::Int8 { codes: pack::pairs(codes, n_inputs, |pair| pair), grid }
        } else {
            Panels::Int4 { codes: pack::pairs(codes, n_inputs, pack::nibbles), grid }
        };
        Self { panels, n_outputs, n_inputs }
    }

    /// Output features.
    pub fn n_outputs(&self) -> usize {
        self.n_outputs
    }

    /// Input features.
    pub fn n_inputs(&self) -> usize {
        self.n_inputs
    }

    /// What the weights are held in.
    pub fn name(&self) -> &'static str {
        match self.panels {
            Panels::F32(_) => "f32",
            Panels::F16(_) => "f16",
            Panels::Bf16(_) => "bf16",
            Panels::Fp8 { .. } => "fp8",
            Panels::Int8 { .. } => "int8",
            Panels::Int4 { .. } => "int4",
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match &self.panels {
            Panels::F32(pairs) => size_of_val(&**pairs),
            Panels::F16(pairs) | Panels::Bf16(pairs) => size_of_val(&**pairs),
            Panels::Fp8 { codes, scales, nan_outputs } => {
                let scales = match scales {
                    PanelScales::Tensor(scale) => size_of_val(scale),
                    PanelScales::Rows(scales) => size_of_val(&**scales),
                    PanelScales::Squares { values, .. } => size_of_val(&**values),
                };
                size_of_val(&**codes) + scales + size_of_val(&**nan_outputs)
            }
            Panels::Int8 { codes, grid } => size_of_val(&**codes) + grid_bytes(grid),
            Panels::Int4 { codes, grid } => size_of_val(&**codes) + grid_bytes(grid),
        }
    }

    /// The weights of one output feature, to `values` (`in_features`): scale · code, scale · (code − zero point).
    ///
    /// # Panics
    /// If there is no such output, or the length is not the number of inputs.
    pub fn row(&self, output: usize, values: &mut [f32]) {
        assert!(output < self.n_outputs && values.len() == self.n_inputs, "a row of the matrix");
        let (panel, lane) = (output / LANES, output % LANES);
        let first = panel * self.n_inputs.div_ceil(2);
        let values = values.iter_mut().enumerate();
        match &self.panels {
            Panels::F32(pairs) => values.for_each(|(i, value)| *value = pairs[first + i / 2].0[i % 2][lane]),
            Panels::F16(pairs) => {
                values.for_each(|(i, value)| *value = f16::from_bits(pairs[first + i / 2].0[i % 2][lane]).to_f32());
            }
            Panels::Bf16(pairs) => {
                values.for_each(|(i, value)| *value = bf16::from_bits(pairs[first + i / 2].0[i % 2][lane]).to_f32());
            }
            Panels::Fp8 { codes, scales, .. } => values.for_each(|(i, value)| {
                let scale = match scales {
                    PanelScales::Tensor(scale) => *scale,
                    PanelScales::Rows(scales) => scales[panel][lane],
                    PanelScales::Squares { values, per_row } => values[output / SQUARE * per_row + i / SQUARE],
                };
                *value = fp8_value(codes[first + i / 2][i % 2][lane]) * (scale / 256.0);
            }),
            Panels::Int8 { codes, grid } => values.for_each(|(i, value)| {
                *value = grid_value(grid, output, i, codes[first + i / 2][i % 2][lane]);
            }),
            Panels::Int4 { codes, grid } => values.for_each(|(i, value)| {
                *value = grid_value(grid, output, i, (codes[first + i / 2][lane] >> (i % 2 * 4)) & 0xf);
            }),
        }
    }

    /// y = x Wᵀ for rows of activations, shared between threads.
    ///
    /// - `x`: (rows, `in_features`), `y`: (rows, `out_features`), overwritten
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn multiply(&self, x: &[f32], y: &mut [f32]) {
        self.multiply_on(Isa::current(), x, y);
    }

    fn multiply_on(&self, isa: Isa, x: &[f32], y: &mut [f32]) {
        let (n_inputs, n_outputs) = (self.n_inputs, self.n_outputs);
        let n_rows = y.len() / n_outputs.max(1);
        assert_eq!(n_rows * n_outputs, y.len(), "whole rows of outputs");
        assert!(n_rows * n_inputs == x.len() || n_outputs == 0, "one row of activations for each row of outputs");
        if n_inputs == 0 {
            y.fill(0.0);
        }
        if x.is_empty() || y.is_empty() {
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = x86::Avx512::of(isa) {
            return self.multiply_with(simd, x, y);
        } else if let Some(simd) = x86::Avx2::of(isa) {
            return self.multiply_with(simd, x, y);
        }
        #[cfg(target_arch = "aarch64")]
        if let Some(simd) = neon::Neon::of(isa) {
            return self.multiply_with(simd, x, y);
        }
        let _ = isa;
        self.multiply_with(Portable, x, y);
    }

    fn multiply_with<S: Simd>(&self, simd: S, x: &[f32], y: &mut [f32]) {
        let shape = [self.n_outputs, self.n_inputs];
        match &self.panels {
            Panels::F32(pairs) => product::multiply(simd, Wide(pairs), shape, x, y),
            Panels::F16(pairs) => product::multiply(simd, Half::<'_, false>(pairs), shape, x, y),
            Panels::Bf16(pairs) => product::multiply(simd, Half::<'_, true>(pairs), shape, x, y),
            Panels::Fp8 { codes, scales, nan_outputs } => {
                product::multiply(simd, Fp8 { codes, scales }, shape, x, y);
                for output in nan_outputs {
                    y.iter_mut().skip(*output).step_by(self.n_outputs).for_each(|value| *value = f32::NAN);
                }
            }
            Panels::Int8 { codes, grid } => product::multiply(simd, Bytes { codes, grid }, shape, x, y),
            Panels::Int4 { codes, grid } => product::multiply(simd, Nibbles { codes, grid }, shape, x, y),
        }
    }
}

fn check<T>(values: &[T], n_outputs: usize, n_inputs: usize) {
    assert_eq!(Some(values.len()), n_outputs.checked_mul(n_inputs), "a matrix of this shape");
}

fn grid_bytes(grid: &Grid) -> usize {
    let zeros = match &grid.zeros {
        PanelZeros::All(_) => 0,
        PanelZeros::Bytes(codes) => size_of_val(&**codes),
        PanelZeros::Nibbles(codes) => size_of_val(&**codes),
        PanelZeros::Floats(bits) => size_of_val(&**bits),
    };
    size_of_val(&*grid.scales) + zeros
}

/// scale · (code − zero point), each rounded.
fn grid_value(grid: &Grid, output: usize, input: usize, code: u8) -> f32 {
    let (place, lane) = (output / LANES * grid.n_groups + input / grid.group_len, output % LANES);
    let zero = match &grid.zeros {
        PanelZeros::All(zero) => *zero,
        PanelZeros::Bytes(codes) => f32::from(codes[place][lane]),
        PanelZeros::Nibbles(codes) => f32::from((codes[place][lane % 8] >> (lane / 8 * 4)) & 0xf),
        PanelZeros::Floats(bits) => f16::from_bits(bits[place][lane]).to_f32(),
    };
    f16::from_bits(grid.scales[place][lane]).to_f32() * (f32::from(code) - zero)
}

/// The number of an E4M3 code.
fn fp8_value(code: u8) -> f32 {
    let [value, ..] = Portable.fp8(&[code; LANES]);
    if code & 0x7f == 0x7f { f32::NAN } else { value * 256.0 }
}

/// The weights of E4M3 codes, row-major.
fn fp8_values(codes: &[u8], scales: Fp8Scales<'_>, n_inputs: usize) -> Vec<f32> {
    let scale = |index: usize| match scales {
        Fp8Scales::Tensor(scale) => scale,
        Fp8Scales::Rows(scales) => scales[index / n_inputs],
        Fp8Scales::Squares(scales) => {
            scales[index / n_inputs / SQUARE * n_inputs.div_ceil(SQUARE) + index % n_inputs / SQUARE]
        }
    };
    codes.iter().enumerate().map(|(index, code)| fp8_value(*code) * scale(index)).collect()
}

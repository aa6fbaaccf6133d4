//! Integer products: weights of 8 or 4 bits with activations of 8 bits.
//!
//! Weights lie in panels of 16 outputs. A step of a panel is 64 bytes: 4 consecutive inputs of each output (8 bits), or
//! 8 of them, the first 4 in the low halves of the bytes and the next 4 in the high halves (4 bits). That is what a
//! byte dot product over 512 bits takes: weights as the unsigned operand, 4 activations for all outputs as the signed
//! one. Dot products of a group are exact in i32 and the same on every instruction set. The sum over groups is one
//! chain of fused multiply-adds in f32 in the order of the groups, so results are equal bit for bit too.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod peak;
mod portable;

pub(super) use self::peak::dot_products;

use std::ops::Range;

use half::f16;

use super::floats::Zeros;
use super::isa::Isa;
use super::pool::{Parts, share_out_if};
use super::tokens::{RUN, Tokens};

/// Outputs of a panel.
pub(super) const PANEL: usize = 16;
/// Bytes of a step of a panel.
pub(super) const STEP: usize = 64;
/// Inputs whose dot product fits i32 for sure: 2¹⁵ · 255 · 128 < 2³¹.
const LONGEST: usize = 1 << 15;
/// Inputs whose dot product is exact in f32: 2⁷ · 255 · 128 < 2²⁴.
const EXACT: usize = 1 << 7;
/// Multiplications below which a hand-over to other threads costs more than it saves.
pub(super) const LARGE: usize = 1 << 16;

/// Zero points as held: (panels, groups, lanes).
#[derive(Debug, Clone, PartialEq)]
enum PanelZeros {
    Middle(u8),
    /// One byte a lane.
    Bytes(Vec<[u8; PANEL]>),
    /// Lanes 0..8 in the low halves of the bytes, lanes 8..16 in the high ones.
    Halves(Vec<[u8; PANEL / 2]>),
    Floats(Vec<[f16; PANEL]>),
}

impl PanelZeros {
    /// The zero points of a panel's group.
    fn get(&self, place: usize) -> [f32; PANEL] {
        match self {
            Self::Middle(code) => [f32::from(*code); PANEL],
            Self::Bytes(codes) => codes[place].map(f32::from),
            Self::Halves(codes) => {
                let codes = codes[place];
                std::array::from_fn(|lane| f32::from(codes[lane % 8] >> (lane / 8 * 4) & 15))
            }
            Self::Floats(zeros) => zeros[place].map(f16::to_f32),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Middle(_) => 0,
            Self::Bytes(codes) => size_of_val(&codes[..]),
            Self::Halves(codes) => size_of_val(&codes[..]),
            Self::Floats(zeros) => size_of_val(&zeros[..]),
        }
    }
}

/// Weights (`out_features`, `in_features`) on integer grids, repacked: weight = scale · (code − zero point).
///
/// Holds the bytes of the format. The last panel is filled up with zeros to 16 rows, and a row whose length is not a
/// multiple of 4 (8 bits) or 8 (4 bits) to the next one.
#[derive(Debug, Clone, PartialEq)]
pub struct Ints {
    bits: u8,
    group_len: usize,
    n_outputs: usize,
    n_inputs: usize,
    /// (panels, steps).
    codes: Vec<[u8; STEP]>,
    /// (panels, groups).
    scales: Vec<[f16; PANEL]>,
    zeros: PanelZeros,
}

impl Ints {
    /// Repacks a row-major matrix.
    ///
    /// - `bits`: 4 or 8
    /// - `group_len`: inputs that share a scale and a zero point: 32, 64, 96 or 128, a divisor of `n_inputs`; or
    ///   `n_inputs`
    /// - `codes`: (`n_outputs`, `n_inputs`), each below 2^`bits`
    /// - `scales` and the zero points: (`n_outputs`, `n_inputs` / `group_len`)
    ///
    /// # Panics
    /// If lengths, bits, group or codes are not so.
    pub fn pack(
        bits: u8,
        group_len: usize,
        codes: &[u8],
        scales: &[f16],
        zeros: Zeros<'_>,
        [n_outputs, n_inputs]: [usize; 2],
    ) -> Self {
        assert!(bits == 4 || bits == 8, "4 or 8 bits");
        assert_eq!(Some(codes.len()), n_outputs.checked_mul(n_inputs), "a matrix of this shape");
        let is_group = matches!(group_len, 32 | 64 | 96 | 128) && n_inputs.is_multiple_of(group_len);
        assert!(n_inputs > 0 && (group_len == n_inputs || is_group), "whole groups");
        let n_groups = n_inputs / group_len;
        let n_zeros = match zeros {
            Zeros::Middle => n_outputs * n_groups,
            Zeros::Codes(zeros) => zeros.len(),
            Zeros::Floats(zeros) => zeros.len(),
        };
        assert_eq!([scales.len(), n_zeros], [n_outputs * n_groups; 2], "one scale and zero point a group");
        assert!(bits == 8 || codes.iter().all(|code| *code < 16), "codes of 4 bits");
        let zeros = match zeros {
            Zeros::Middle => PanelZeros::Middle(1 << (bits - 1)),
            Zeros::Codes(zeros) if bits == 4 => {
                assert!(zeros.iter().all(|zero| *zero < 16), "zero points of 4 bits");
                let panels = in_panels(zeros, n_groups, 0);
                PanelZeros::Halves(panels.into_iter().map(|zeros| in_halves(zeros.as_chunks().0)).collect())
            }
            Zeros::Codes(zeros) => PanelZeros::Bytes(in_panels(zeros, n_groups, 0)),
            Zeros::Floats(zeros) => PanelZeros::Floats(in_panels(zeros, n_groups, f16::ZERO)),
        };
        let scales = in_panels(scales, n_groups, f16::ZERO);
        let mut ints = Self { bits, group_len, n_outputs, n_inputs, codes: Vec::new(), scales, zeros };
        ints.codes = in_steps(codes, &ints);
        ints
    }

    /// Output features.
    pub fn n_outputs(&self) -> usize {
        self.n_outputs
    }

    /// Input features.
    pub fn n_inputs(&self) -> usize {
        self.n_inputs
    }

    /// Bits of a code.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.codes[..]) + size_of_val(&self.scales[..]) + self.zeros.bytes()
    }

    /// Inputs of one step of a panel.
    fn step_inputs(&self) -> usize {
        if self.bits == 8 { 4 } else { 8 }
    }

    fn n_steps(&self) -> usize {
        self.n_inputs.div_ceil(self.step_inputs())
    }

    fn n_groups(&self) -> usize {
        self.n_inputs / self.group_len
    }

    /// Whether a row is one group, so long that its sums may not be exact in f32.
    fn is_long(&self) -> bool {
        self.group_len > EXACT || !self.group_len.is_multiple_of(RUN)
    }

    /// The steps of a panel.
    #[inline]
    fn panel(&self, panel: usize) -> &[[u8; STEP]] {
        &self.codes[panel * self.n_steps()..][..self.n_steps()]
    }

    /// The code of a weight.
    fn code(&self, output: usize, input: usize) -> u8 {
        let within = input % self.step_inputs();
        let step = &self.codes[output / PANEL * self.n_steps() + input / self.step_inputs()];
        let byte = step[output % PANEL * 4 + within % 4];
        match self.bits {
            8 => byte,
            _ if within < 4 => byte & 15,
            _ => byte >> 4,
        }
    }

    /// Writes the weights of one output feature to `values` (`in_features`).
    ///
    /// # Panics
    /// If there is no such output, or the length is not the number of inputs.
    pub fn row(&self, output: usize, values: &mut [f32]) {
        assert!(output < self.n_outputs && values.len() == self.n_inputs, "a row of the matrix");
        let (panel, lane) = (output / PANEL, output % PANEL);
        for (group, values) in values.chunks_mut(self.group_len).enumerate() {
            let place = panel * self.n_groups() + group;
            let scale = self.scales[place][lane].to_f32();
            let zero = self.zeros.get(place)[lane];
            for (within, value) in values.iter_mut().enumerate() {
                *value = scale * (f32::from(self.code(output, group * self.group_len + within)) - zero);
            }
        }
    }

    /// y = x Wᵀ for rows of rounded activations, on all threads.
    ///
    /// - `y`: (rows, `out_features`), overwritten
    ///
    /// An output is scale of the token · Σ over groups (scale · (dot − zero point · sum of the codes)); dot products
    /// are exact. A row's result does not depend on the rows beside it, nor on threads or instruction set.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn multiply(&self, x: &Tokens, y: &mut [f32]) {
        self.multiply_with(Isa::current(), x, y);
    }

    fn multiply_with(&self, isa: Isa, x: &Tokens, y: &mut [f32]) {
        assert_eq!(x.n_inputs(), self.n_inputs, "activations for this matrix");
        assert_eq!(x.n_rows().checked_mul(self.n_outputs), Some(y.len()), "one output row for each token");
        let is_large = x.n_rows() * self.n_outputs * self.n_inputs >= LARGE;
        let y = Parts::new(y);
        share_out_if(is_large, |share| {
            let store = Store { y: &y, n_outputs: self.n_outputs, first_panel: 0 };
            self.run(isa, x, share.of(self.n_outputs.div_ceil(PANEL), 1), &store);
        });
    }

    /// All rows with some panels.
    fn run(&self, isa: Isa, x: &Tokens, panels: Range<usize>, store: &Store<'_>) {
        match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has these instructions, as `Isa` says.
            Isa::Avx512Vnni if self.bits == 8 => unsafe { avx512::multiply::<4>(self, x, panels, store) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512Vnni => unsafe { avx512::multiply::<8>(self, x, panels, store) },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2Vnni => self.run_plainly::<avx2::Avx2Vnni>(x, panels, store),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => self.run_plainly::<avx2::Avx2>(x, panels, store),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => self.run_plainly::<avx512::Avx512>(x, panels, store),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => self.run_plainly::<neon::Neon>(x, panels, store),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod => self.run_plainly::<neon::NeonDotprod>(x, panels, store),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => self.run_plainly::<neon::NeonI8mm>(x, panels, store),
            _ => self.run_plainly::<portable::Plain>(x, panels, store),
        }
    }

    /// The plain loops around exact sums of one set of instructions.
    fn run_plainly<D: portable::Dots>(&self, x: &Tokens, panels: Range<usize>, store: &Store<'_>) {
        if self.bits == 8 {
            portable::multiply::<4, D>(self, x, panels, store);
        } else {
            portable::multiply::<8, D>(self, x, panels, store);
        }
    }

    /// Some panels of 8-bit codes with the zero point 128 and a scale a row, lent to a product.
    pub(super) fn of_panels(codes: Vec<[u8; STEP]>, scales: Vec<[f16; PANEL]>, n_inputs: usize) -> Self {
        assert_eq!(codes.len(), scales.len() * n_inputs.div_ceil(4), "whole panels");
        let n_outputs = scales.len() * PANEL;
        Self { bits: 8, group_len: n_inputs, n_outputs, n_inputs, codes, scales, zeros: PanelZeros::Middle(128) }
    }

    /// The product of [`Self::of_panels`], on this thread; gives the codes back.
    pub(super) fn multiply_panels(self, isa: Isa, x: &Tokens, store: &Store<'_>) -> Vec<[u8; STEP]> {
        self.run(isa, x, 0..self.scales.len(), store);
        self.codes
    }

    /// Sections of a row whose dot products are taken as one.
    fn sections(&self) -> impl Iterator<Item = Section> {
        let len = self.group_len.min(LONGEST);
        (0..self.n_inputs).step_by(len).map(move |first| {
            let end = (first + len).min(self.n_inputs);
            Section {
                group: first / self.group_len,
                steps: first / self.step_inputs()..end.div_ceil(self.step_inputs()),
                runs: first / RUN..end.div_ceil(RUN),
            }
        })
    }
}

/// A part of a row that lies in one group.
#[derive(Debug, Clone)]
struct Section {
    group: usize,
    /// Its steps of a panel.
    steps: Range<usize>,
    /// Its sums of activations.
    runs: Range<usize>,
}

/// Where a share puts its results.
pub(super) struct Store<'a> {
    pub(super) y: &'a Parts<'a, f32>,
    /// Length of a row of results.
    pub(super) n_outputs: usize,
    /// Counted on from here.
    pub(super) first_panel: usize,
}

impl Store<'_> {
    /// The outputs of a panel for one row of activations.
    #[inline]
    pub(super) fn put(&self, row: usize, panel: usize, values: &[f32; PANEL]) {
        let first = (self.first_panel + panel) * PANEL;
        let end = (first + PANEL).min(self.n_outputs);
        // SAFETY: shares own different panels, and a share writes one at a time.
        let y = unsafe { self.y.range(row * self.n_outputs + first..row * self.n_outputs + end) };
        match y.as_mut_array() {
            Some(y) => *y = *values,
            None => y.copy_from_slice(&values[..y.len()]),
        }
    }
}

/// (rows, groups) to (panels, groups, 16 rows).
fn in_panels<T: Copy>(values: &[T], n_groups: usize, padding: T) -> Vec<[T; PANEL]> {
    let n_outputs = values.len() / n_groups;
    let lane = |panel: usize, group: usize, lane: usize| {
        let output = panel * PANEL + lane;
        if output < n_outputs { values[output * n_groups + group] } else { padding }
    };
    let places = (0..n_outputs.div_ceil(PANEL)).flat_map(|panel| (0..n_groups).map(move |group| (panel, group)));
    places.map(|(panel, group)| std::array::from_fn(|index| lane(panel, group, index))).collect()
}

/// The first half of the codes in the low halves of bytes, the second in the high ones.
fn in_halves<const N: usize>(codes: &[[u8; N]]) -> [u8; N] {
    std::array::from_fn(|index| codes[0][index] | codes[1][index] << 4)
}

/// Row-major codes as the steps of panels.
fn in_steps(codes: &[u8], ints: &Ints) -> Vec<[u8; STEP]> {
    let (n_inputs, n_steps, step_inputs) = (ints.n_inputs, ints.n_steps(), ints.step_inputs());
    let mut steps = vec![[0; STEP]; ints.n_outputs.div_ceil(PANEL) * n_steps];
    for (rows, panel) in codes.chunks(PANEL * n_inputs).zip(steps.chunks_mut(n_steps)) {
        for (lane, row) in rows.chunks(n_inputs).enumerate() {
            for (codes, step) in row.chunks(step_inputs).zip(&mut *panel) {
                let bytes = &mut step[lane * 4..][..4];
                for (within, code) in codes.iter().enumerate() {
                    bytes[within % 4] |= code << (within / 4 * 4);
                }
            }
        }
    }
    steps
}

#[cfg(test)]
mod tests;

//! How each format's panels become numbers in registers.

#![expect(clippy::inline_always, reason = "vector code must become part of the function that has the instructions")]

use super::simd::{LANES, Simd};

/// Two inputs of a panel, in whole cache lines: a load never touches two.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(super) struct Pair<T>(pub(super) [[T; LANES]; 2]);

/// Panels that a product reads: [`LANES`] outputs each, and in a panel pairs of inputs in order.
pub(super) trait Format: Copy + Send + Sync {
    /// The weights of a panel for two inputs.
    type Pair: Copy + Send + Sync;
    /// What the weights of a panel have in common over some inputs.
    type Group<V: Copy>: Copy;

    /// Whether the pairs are numbers of single precision already.
    const IS_WIDE: bool = false;

    /// The pairs of all panels.
    fn pairs(&self) -> &[Self::Pair];

    /// Inputs of a group; even, if there is more than one group.
    fn group_len(&self) -> usize;

    fn group<S: Simd>(&self, simd: S, panel: usize, group: usize) -> Self::Group<S::Vector>;

    /// The weights for one input of a pair.
    fn weights<S: Simd, const SECOND: bool>(simd: S, group: Self::Group<S::Vector>, pair: &Self::Pair) -> S::Vector;
}

/// Single precision.
#[derive(Clone, Copy)]
pub(super) struct Wide<'a>(pub(super) &'a [Pair<f32>]);

impl Format for Wide<'_> {
    type Pair = Pair<f32>;
    type Group<V: Copy> = ();
    const IS_WIDE: bool = true;

    #[inline(always)]
    fn pairs(&self) -> &[Pair<f32>] {
        self.0
    }

    #[inline(always)]
    fn group_len(&self) -> usize {
        usize::MAX
    }

    #[inline(always)]
    fn group<S: Simd>(&self, _simd: S, _panel: usize, _group: usize) {}

    #[inline(always)]
    fn weights<S: Simd, const SECOND: bool>(simd: S, _group: (), pair: &Pair<f32>) -> S::Vector {
        simd.load(&pair.0[usize::from(SECOND)])
    }
}

/// Half precision or bfloat16.
#[derive(Clone, Copy)]
pub(super) struct Half<'a, const IS_BRAIN: bool>(pub(super) &'a [Pair<u16>]);

impl<const IS_BRAIN: bool> Format for Half<'_, IS_BRAIN> {
    type Pair = Pair<u16>;
    type Group<V: Copy> = ();

    #[inline(always)]
    fn pairs(&self) -> &[Pair<u16>] {
        self.0
    }

    #[inline(always)]
    fn group_len(&self) -> usize {
        usize::MAX
    }

    #[inline(always)]
    fn group<S: Simd>(&self, _simd: S, _panel: usize, _group: usize) {}

    #[inline(always)]
    fn weights<S: Simd, const SECOND: bool>(simd: S, _group: (), pair: &Pair<u16>) -> S::Vector {
        let bits = &pair.0[usize::from(SECOND)];
        if IS_BRAIN { simd.bf16(bits) } else { simd.f16(bits) }
    }
}

/// E4M3 with scales.
#[derive(Clone, Copy)]
pub(super) struct Fp8<'a> {
    pub(super) codes: &'a [[[u8; LANES]; 2]],
    pub(super) scales: &'a PanelScales,
}

/// Scales of E4M3, each times 2^8: see [`Simd::fp8`].
#[derive(Debug, Clone, PartialEq)]
pub(super) enum PanelScales {
    /// One.
    Tensor(f32),
    /// One an output.
    Rows(Vec<[f32; LANES]>),
    /// One for [`SQUARE`] outputs and as many inputs.
    Squares {
        /// Row by row.
        values: Vec<f32>,
        /// Scales of a row.
        per_row: usize,
    },
}

/// Outputs, and inputs, of one scale.
pub(super) const SQUARE: usize = 128;

impl PanelScales {
    /// The scales of a panel's group, times 2^8.
    #[inline(always)]
    fn of<S: Simd>(&self, simd: S, panel: usize, group: usize) -> S::Vector {
        match self {
            Self::Tensor(scale) => simd.splat(*scale),
            Self::Rows(scales) => simd.load(&scales[panel]),
            Self::Squares { values, per_row } => simd.splat(values[panel / (SQUARE / LANES) * per_row + group]),
        }
    }
}

impl Format for Fp8<'_> {
    type Pair = [[u8; LANES]; 2];
    type Group<V: Copy> = V;

    #[inline(always)]
    fn pairs(&self) -> &[Self::Pair] {
        self.codes
    }

    #[inline(always)]
    fn group_len(&self) -> usize {
        if matches!(self.scales, PanelScales::Squares { .. }) { SQUARE } else { usize::MAX }
    }

    #[inline(always)]
    fn group<S: Simd>(&self, simd: S, panel: usize, group: usize) -> S::Vector {
        self.scales.of(simd, panel, group)
    }

    #[inline(always)]
    fn weights<S: Simd, const SECOND: bool>(simd: S, scale: S::Vector, pair: &Self::Pair) -> S::Vector {
        simd.multiply(simd.fp8(&pair[usize::from(SECOND)]), scale)
    }
}

/// The scales and zero points of an integer grid: of each panel its groups in order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Grid {
    pub(super) group_len: usize,
    pub(super) n_groups: usize,
    /// Half precision, as bits.
    pub(super) scales: Vec<[u16; LANES]>,
    pub(super) zeros: PanelZeros,
}

/// The zero point of each group.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum PanelZeros {
    /// The same.
    All(f32),
    /// Codes of 8 bits.
    Bytes(Vec<[u8; LANES]>),
    /// Codes of 4 bits: the outputs of the panel's first half in the low bits.
    Nibbles(Vec<[u8; LANES / 2]>),
    /// Half precision, as bits.
    Floats(Vec<[u16; LANES]>),
}

impl Grid {
    /// Scales s, and −z · s, which is exact: 11 bits times 11 or fewer. So a code's weight s · (c − z) is one
    /// multiply-add that rounds once.
    #[inline(always)]
    fn of<S: Simd>(&self, simd: S, panel: usize, group: usize) -> [S::Vector; 2] {
        let place = panel * self.n_groups + group;
        let scale = simd.f16(&self.scales[place]);
        let zero = match &self.zeros {
            PanelZeros::All(zero) => simd.splat(*zero),
            PanelZeros::Bytes(codes) => simd.bytes(&codes[place]),
            PanelZeros::Nibbles(codes) => {
                let codes = u64::from_le_bytes(codes[place]);
                let (low, high) = (codes & 0x0f0f_0f0f_0f0f_0f0f, (codes >> 4) & 0x0f0f_0f0f_0f0f_0f0f);
                simd.bytes(&(u128::from(low) | u128::from(high) << 64).to_le_bytes())
            }
            PanelZeros::Floats(bits) => simd.f16(&bits[place]),
        };
        [scale, simd.multiply(simd.multiply(zero, simd.splat(-1.0)), scale)]
    }
}

/// Integers of 8 bits.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a> {
    pub(super) codes: &'a [[[u8; LANES]; 2]],
    pub(super) grid: &'a Grid,
}

impl Format for Bytes<'_> {
    type Pair = [[u8; LANES]; 2];
    type Group<V: Copy> = [V; 2];

    #[inline(always)]
    fn pairs(&self) -> &[Self::Pair] {
        self.codes
    }

    #[inline(always)]
    fn group_len(&self) -> usize {
        self.grid.group_len
    }

    #[inline(always)]
    fn group<S: Simd>(&self, simd: S, panel: usize, group: usize) -> [S::Vector; 2] {
        self.grid.of(simd, panel, group)
    }

    #[inline(always)]
    fn weights<S: Simd, const SECOND: bool>(simd: S, group: [S::Vector; 2], pair: &Self::Pair) -> S::Vector {
        simd.multiply_add(simd.bytes(&pair[usize::from(SECOND)]), group[0], group[1])
    }
}

/// Integers of 4 bits: a byte has an output's codes for two inputs, the first in the low bits.
#[derive(Clone, Copy)]
pub(super) struct Nibbles<'a> {
    pub(super) codes: &'a [[u8; LANES]],
    pub(super) grid: &'a Grid,
}

impl Format for Nibbles<'_> {
    type Pair = [u8; LANES];
    type Group<V: Copy> = [V; 3];

    #[inline(always)]
    fn pairs(&self) -> &[Self::Pair] {
        self.codes
    }

    #[inline(always)]
    fn group_len(&self) -> usize {
        self.grid.group_len
    }

    #[inline(always)]
    fn group<S: Simd>(&self, simd: S, panel: usize, group: usize) -> [S::Vector; 3] {
        let [scale, offset] = self.grid.of(simd, panel, group);
        [scale, offset, simd.multiply(scale, simd.splat(1.0 / 16.0))]
    }

    #[inline(always)]
    fn weights<S: Simd, const SECOND: bool>(simd: S, group: [S::Vector; 3], pair: &Self::Pair) -> S::Vector {
        simd.multiply_add(simd.nibbles::<SECOND>(pair), group[if SECOND { 2 } else { 0 }], group[1])
    }
}

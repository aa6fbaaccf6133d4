//! The few vector operations that the products are written in, over 16 numbers at a time.

#![expect(clippy::inline_always, reason = "vector code must become part of the function that has the instructions")]

/// Numbers of one vector, and outputs of one panel.
pub(super) const LANES: usize = 16;
/// Rows of activations that share one pass at most: 6 × 4 sums, 4 weights and an activation fill 29 of 32 registers of
/// 512 bits, and 6 × 2 sums, 2 weights and an activation 15 of 16 registers of 256 bits.
pub(super) const ROWS: usize = 6;

/// One vector in memory, in one cache line.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(in crate::kernels) struct Line(pub(super) [f32; LANES]);

/// A set of instructions. Its value is the proof that the processor has them: the types that need more than the
/// compiler may assume are made by a check only.
pub(super) trait Simd: Copy + Send + Sync {
    /// [`LANES`] numbers of single precision.
    type Vector: Copy;

    /// Panels that share one pass, by its rows less one: as many as keep the sums and an input's weights in registers.
    const PANELS: [usize; ROWS];

    /// Runs a loop compiled for these instructions.
    fn run(self, task: impl Task);

    /// Asks for a value that will be read later on.
    fn fetch<T>(self, value: &T);

    /// The same number everywhere.
    fn splat(self, value: f32) -> Self::Vector;

    fn load(self, values: &[f32; LANES]) -> Self::Vector;

    fn store(self, vector: Self::Vector, values: &mut [f32; LANES]);

    /// a · b.
    fn multiply(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// a · b + c, rounded once where the processor can.
    fn multiply_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;

    /// Half precision, as bits.
    fn f16(self, bits: &[u16; LANES]) -> Self::Vector;

    /// bfloat16, as bits.
    fn bf16(self, bits: &[u16; LANES]) -> Self::Vector;

    /// E4M3 divided by 2^8, which is where its bits lie in half precision; what is no number comes out as 480 / 2^8.
    fn fp8(self, codes: &[u8; LANES]) -> Self::Vector;

    fn bytes(self, codes: &[u8; LANES]) -> Self::Vector;

    /// The low four bits of each byte, or 16 times the high four: where they are needs no shift.
    fn nibbles<const HIGH: bool>(self, codes: &[u8; LANES]) -> Self::Vector;
}

/// A loop over vectors.
pub(super) trait Task {
    /// Always inlined: what it calls must become part of [`Simd::run`]'s function, whose instructions it needs.
    fn run<S: Simd>(self, simd: S);
}

/// Plain code, in arrays that any compiler turns into vectors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

impl Simd for Portable {
    type Vector = [f32; LANES];

    const PANELS: [usize; ROWS] = NARROW_PANELS;

    #[inline(never)]
    fn run(self, task: impl Task) {
        task.run(self);
    }

    #[inline(always)]
    fn fetch<T>(self, _value: &T) {}

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> [f32; LANES] {
        *values
    }

    #[inline(always)]
    fn store(self, vector: [f32; LANES], values: &mut [f32; LANES]) {
        *values = vector;
    }

    #[inline(always)]
    fn multiply(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|lane| a[lane] * b[lane])
    }

    #[inline(always)]
    fn multiply_add(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|lane| multiply_add(a[lane], b[lane], c[lane]))
    }

    #[inline(always)]
    fn f16(self, bits: &[u16; LANES]) -> [f32; LANES] {
        bits.map(|bits| {
            let bits = u32::from(bits);
            // The power of two makes up for the other bias, and makes numbers of the denormals.
            let value = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
            let is_finite = bits & 0x7c00 != 0x7c00;
            let magnitude = if is_finite { value.to_bits() } else { 0x7f80_0000 | ((bits & 0x3ff) << 13) };
            f32::from_bits(magnitude | ((bits & 0x8000) << 16))
        })
    }

    #[inline(always)]
    fn bf16(self, bits: &[u16; LANES]) -> [f32; LANES] {
        bits.map(|bits| f32::from_bits(u32::from(bits) << 16))
    }

    #[inline(always)]
    fn fp8(self, codes: &[u8; LANES]) -> [f32; LANES] {
        codes.map(|code| {
            let bits = u32::from(code);
            f32::from_bits(((bits & 0x7f) << 20) | ((bits & 0x80) << 24)) * f32::from_bits((127 + 112) << 23)
        })
    }

    #[inline(always)]
    fn bytes(self, codes: &[u8; LANES]) -> [f32; LANES] {
        codes.map(f32::from)
    }

    #[inline(always)]
    fn nibbles<const HIGH: bool>(self, codes: &[u8; LANES]) -> [f32; LANES] {
        codes.map(|code| f32::from(code & if HIGH { 0xf0 } else { 0xf }))
    }
}

/// [`Simd::PANELS`] of 16 registers with 8 numbers each.
pub(super) const NARROW_PANELS: [usize; ROWS] = [4, 2, 1, 1, 1, 1];

/// a · b + c, fused where the processor surely has the instruction: elsewhere `mul_add` would call a function.
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
}

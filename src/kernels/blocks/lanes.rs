//! The vector operations that a product of blocks is made of.

#![expect(clippy::inline_always, reason = "the instructions of the caller are used only where it is inlined")]

use half::f16;

/// Bytes of a line: 4 inputs of each of 16 outputs.
pub(super) const LINE: usize = 64;
/// Outputs of a panel.
pub(super) const OUTPUTS: usize = 16;

/// Operations on 16 outputs at a time, or on one of `PARTS` equal parts of them.
///
/// A value of the type stands for a processor that has the instructions.
pub(super) trait Lanes: Copy {
    /// Codes: 4 inputs of each output.
    type Bytes: Copy;
    /// One sum for each output.
    type Ints: Copy;
    /// One number for each output.
    type Floats: Copy;
    /// Parts that the 16 outputs are cut into.
    const PARTS: usize;
    /// Whether [`Self::dot`] takes 128 off wide codes.
    const CENTERS: bool;
    /// Rows that the registers hold sums of: 8 or 4.
    const MAX_ROWS: usize;

    /// Asks for a line that is needed soon. Any address will do.
    fn prefetch(self, line: *const u8);
    /// The part of a line.
    fn bytes(self, line: &[u8; LINE], part: usize) -> Self::Bytes;
    /// `(bytes >> from & mask) << to`, where one of `from` and `to` is 0 or both are constants.
    fn field(self, bytes: Self::Bytes, from: u32, mask: u8, to: u32) -> Self::Bytes;
    /// Bits of either.
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// The same number everywhere.
    fn int(self, value: i32) -> Self::Ints;
    /// `sum` and the products of codes with 4 inputs. Codes are below 128 unless `IS_WIDE`.
    fn dot<const IS_WIDE: bool>(self, sum: Self::Ints, bytes: Self::Bytes, inputs: [i8; 4]) -> Self::Ints;
    /// The nearest floats.
    fn floats(self, values: Self::Ints) -> Self::Floats;
    /// The same number everywhere.
    fn float(self, value: f32) -> Self::Floats;
    /// Widens f16.
    fn halves(self, values: &[f16; OUTPUTS], part: usize) -> Self::Floats;
    /// Widens bytes with a sign.
    fn small(self, values: &[u8; OUTPUTS], part: usize) -> Self::Floats;
    /// `a * b`.
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// Writes the part.
    fn store(self, values: Self::Floats, into: &mut [f32; OUTPUTS], part: usize);
}

/// Plain code.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

impl Lanes for Portable {
    type Bytes = [u8; LINE];
    type Ints = [i32; OUTPUTS];
    type Floats = [f32; OUTPUTS];
    const PARTS: usize = 1;
    const CENTERS: bool = false;
    const MAX_ROWS: usize = 4;

    #[inline(always)]
    fn prefetch(self, _line: *const u8) {}

    #[inline(always)]
    fn bytes(self, line: &[u8; LINE], _part: usize) -> Self::Bytes {
        *line
    }

    #[inline(always)]
    fn field(self, bytes: Self::Bytes, from: u32, mask: u8, to: u32) -> Self::Bytes {
        bytes.map(|byte| (byte >> from & mask) << to)
    }

    #[inline(always)]
    fn or(self, mut a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        a.iter_mut().zip(b).for_each(|(a, b)| *a |= b);
        a
    }

    #[inline(always)]
    fn int(self, value: i32) -> Self::Ints {
        [value; OUTPUTS]
    }

    #[inline(always)]
    fn dot<const IS_WIDE: bool>(self, mut sum: Self::Ints, bytes: Self::Bytes, inputs: [i8; 4]) -> Self::Ints {
        for (sum, bytes) in sum.iter_mut().zip(bytes.as_chunks::<4>().0) {
            for (byte, input) in bytes.iter().zip(inputs) {
                *sum += i32::from(*byte) * i32::from(input);
            }
        }
        sum
    }

    #[inline(always)]
    fn floats(self, values: Self::Ints) -> Self::Floats {
        values.map(|value| value as f32)
    }

    #[inline(always)]
    fn float(self, value: f32) -> Self::Floats {
        [value; OUTPUTS]
    }

    #[inline(always)]
    fn halves(self, values: &[f16; OUTPUTS], _part: usize) -> Self::Floats {
        values.map(|value| value.to_f32())
    }

    #[inline(always)]
    fn small(self, values: &[u8; OUTPUTS], _part: usize) -> Self::Floats {
        values.map(|value| f32::from(value.cast_signed()))
    }

    #[inline(always)]
    fn mul(self, mut a: Self::Floats, b: Self::Floats) -> Self::Floats {
        a.iter_mut().zip(b).for_each(|(a, b)| *a *= b);
        a
    }

    #[inline(always)]
    fn fma(self, a: Self::Floats, b: Self::Floats, mut c: Self::Floats) -> Self::Floats {
        c.iter_mut().zip(a.iter().zip(b)).for_each(|(c, (a, b))| *c = a.mul_add(b, *c));
        c
    }

    #[inline(always)]
    fn store(self, values: Self::Floats, into: &mut [f32; OUTPUTS], _part: usize) {
        *into = values;
    }
}

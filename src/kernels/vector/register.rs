//! Sixteen numbers side by side, as a loop's steps see them.

use half::f16;

use crate::kernels::vector::LANES;
use crate::kernels::vector::functions::decay;
use crate::kernels::vector::wide::multiply_add;

/// Arithmetic on sixteen lanes. Loops over arrays become vector code too, but not reliably 512 bits wide.
pub(in crate::kernels) trait Register: Copy {
    fn splat(value: f32) -> Self;
    fn of(values: &[f32; LANES]) -> Self;
    fn of_halves(values: &[f16; LANES]) -> Self;
    fn write(self, values: &mut [f32; LANES]);
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// self · b + c.
    fn multiply_add(self, b: Self, c: Self) -> Self;
    /// The larger, or `other` where one is NaN.
    fn larger(self, other: Self) -> Self;
    /// e^x for x ≤ 0 within 3 ulp; 0 below −87; NaN stays NaN.
    fn decay(self) -> Self;
    fn sum(self) -> f32;
    fn largest(self) -> f32;
}

/// Plain code: two registers of AVX2 or four of NEON.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Lanes([f32; LANES]);

impl Lanes {
    #[inline(always)]
    fn each(mut self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        // A plain counter: iterators keep their checks in builds with assertions, at four times the time.
        let mut lane = 0;
        while lane < LANES {
            self.0[lane] = f(self.0[lane], other.0[lane]);
            lane += 1;
        }
        self
    }

    /// Lanes folded in halves.
    #[inline(always)]
    fn folded(self, f: impl Fn(f32, f32) -> f32) -> f32 {
        let [mut eight, mut four] = [[0.0; 8], [0.0; 8]];
        let mut lane = 0;
        while lane < 8 {
            eight[lane] = f(self.0[lane], self.0[lane + 8]);
            lane += 1;
        }
        lane = 0;
        while lane < 4 {
            four[lane] = f(eight[lane], eight[lane + 4]);
            lane += 1;
        }
        f(f(four[0], four[2]), f(four[1], four[3]))
    }
}

impl Register for Lanes {
    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; LANES])
    }

    #[inline(always)]
    fn of(values: &[f32; LANES]) -> Self {
        Self(*values)
    }

    #[inline(always)]
    fn of_halves(values: &[f16; LANES]) -> Self {
        let mut lanes = [0.0; LANES];
        let mut lane = 0;
        while lane < LANES {
            lanes[lane] = widened(values[lane]);
            lane += 1;
        }
        Self(lanes)
    }

    #[inline(always)]
    fn write(self, values: &mut [f32; LANES]) {
        *values = self.0;
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.each(other, |a, b| a + b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.each(other, |a, b| a * b)
    }

    #[inline(always)]
    fn multiply_add(mut self, b: Self, c: Self) -> Self {
        let mut lane = 0;
        while lane < LANES {
            self.0[lane] = multiply_add(self.0[lane], b.0[lane], c.0[lane]);
            lane += 1;
        }
        self
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        self.each(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn decay(mut self) -> Self {
        for x in &mut self.0 {
            *x = decay(*x);
        }
        self
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        self.folded(|a, b| a + b)
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        self.folded(|a, b| if a > b { a } else { b })
    }
}

/// The same number in f32, without a branch.
#[inline(always)]
fn widened(value: f16) -> f32 {
    let bits = u32::from(value.to_bits());
    let magnitude = (bits & 0x7fff) << 13;
    // The exponent's bias differs by 112; as a product, denormal numbers come right too.
    let finite = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    let magnitude = if magnitude < 31 << 23 { finite.to_bits() } else { magnitude | 0xff << 23 };
    f32::from_bits(magnitude | (bits & 0x8000) << 16)
}

/// e^r and n + [`ROUND`] for x = r + n ln 2, as in the plain code.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
pub(super) fn reduced<V: Register>(x: V) -> (V, V) {
    use crate::kernels::vector::functions::{LN2_HIGH, LN2_LOW, LOG2_E, POWERS, ROUND};
    let shifted = x.multiply_add(V::splat(LOG2_E), V::splat(ROUND));
    let n = shifted.add(V::splat(-ROUND));
    let r = n.multiply_add(V::splat(-LN2_LOW), n.multiply_add(V::splat(-LN2_HIGH), x));
    let mut p = V::splat(POWERS[POWERS.len() - 1]);
    let mut power = POWERS.len() - 1;
    while power > 0 {
        power -= 1;
        p = p.multiply_add(r, V::splat(POWERS[power]));
    }
    (p.mul(r).multiply_add(r, r).add(V::splat(1.0)), shifted)
}

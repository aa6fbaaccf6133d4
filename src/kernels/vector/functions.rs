//! Functions of one value without branches, so that the loops around them become vector code.

use std::f32::consts::FRAC_1_SQRT_2;
pub(super) use std::f32::consts::LOG2_E;

use crate::kernels::vector::multiply_add;

/// Adding and taking away 1.5 · 2^23 rounds to the nearest integer; the low bits of the sum hold it.
pub(super) const ROUND: f32 = 12_582_912.0;

/// ln 2 in two parts, the first with few bits: n times it is exact.
pub(super) const LN2_HIGH: f32 = 0.693_359_4;
pub(super) const LN2_LOW: f32 = -2.121_944_4e-4;
/// e^r = 1 + r + r² · these.
pub(super) const POWERS: [f32; 6] = [0.5, 1.666_666_5e-1, 4.166_579_6e-2, 8.333_452e-3, 1.398_199_9e-3, 1.987_569_1e-4];

/// e^x for any x within 3 ulp, also where the result is denormal; ∞ above 88.8, NaN stays NaN.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let (p, shifted) = reduced(x);
    // n reaches 128 and −150: 2^n as the product of two powers that f32 has.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
    let half = n >> 1;
    let power = |n: i32| f32::from_bits(n.wrapping_add(127).cast_unsigned() << 23);
    p * power(half) * power(n.wrapping_sub(half))
}

/// e^x for x ≤ 0 within 3 ulp; 0 below −87; NaN stays NaN. Cheaper than [`exp`].
#[inline(always)]
pub(in crate::kernels) fn decay(x: f32) -> f32 {
    let (p, shifted) = reduced(if x < -87.0 { -87.0 } else { x });
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < -87.0 { 0.0 } else { p * scale }
}

/// e^r and n + [`ROUND`] for x = r + n ln 2.
///
/// Cody and Waite's reduction to |r| ≤ ln 2 / 2, then a degree-6 Taylor-like polynomial (coefficients of Cephes' `expf`).
#[inline(always)]
fn reduced(x: f32) -> (f32, f32) {
    let shifted = multiply_add(x, LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = multiply_add(n, -LN2_LOW, multiply_add(n, -LN2_HIGH, x));
    let p = polynomial(&POWERS, r);
    (multiply_add(p * r, r, r) + 1.0, shifted)
}

/// Σ coefficients[i] xⁱ.
#[inline(always)]
fn polynomial<const N: usize>(coefficients: &[f32; N], x: f32) -> f32 {
    let mut sum = coefficients[N - 1];
    for i in (0..N - 1).rev() {
        sum = multiply_add(sum, x, coefficients[i]);
    }
    sum
}

#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// ½ x (1 + tanh u) is x / (1 + e^−2u), which neither cancels nor overflows to NaN.
#[inline(always)]
pub(super) fn gelu_tanh(x: f32) -> f32 {
    /// 2 √(2 / π).
    const SLOPE: f32 = 1.595_769;
    let u = SLOPE * x * multiply_add(0.044_715 * x, x, 1.0);
    x / (1.0 + exp(-u))
}

/// x · Φ(x).
///
/// Φ(−|x|) = ½ e^(−z²) s P(s) with z = |x| / √2, s = 1 / (1 + 0.4 z): P fitted to e^(z²) erfc(z) / s in
/// the relative minimax sense (1.3e-7 over all z).
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    const POLYNOMIAL: [f32; 9] = [
        0.225_675_87,
        0.225_669_37,
        0.207_846_03,
        0.168_520_44,
        0.141_505_66,
        -0.005_752_794_4,
        0.169_247_21,
        -0.182_996_91,
        0.050_285_27,
    ];
    let z = x.abs() * FRAC_1_SQRT_2;
    let s = 1.0 / multiply_add(0.4, z, 1.0);
    let tail = 0.5 * exp(-z * z) * s * polynomial(&POLYNOMIAL, s);
    // NaN takes the second branch and stays NaN.
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

//! The steps between a Transformer's products: norms, residuals, gates, positions and softmax over plain slices.
//!
//! Each loop is plain code that is compiled once for each instruction set. A row's result depends on the row alone: not
//! on the rows beside it, nor on the threads that share them. On one instruction set a result is the same each time;
//! between sets the last bits may differ where the compiler has no fused multiply-add, within the bounds stated here.

mod functions;
#[cfg(target_arch = "aarch64")]
mod neon;
mod register;
mod rows;
mod wide;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;

pub(in crate::kernels) use functions::decay;
use functions::{gelu, gelu_tanh, silu};
#[cfg(target_arch = "aarch64")]
pub(in crate::kernels) use neon::Quad;
/// What loops for other processors' sets use: nothing of their own here.
#[cfg(not(target_arch = "aarch64"))]
pub(in crate::kernels) use register::Lanes as Quad;
#[cfg(not(target_arch = "x86_64"))]
pub(in crate::kernels) use register::{Lanes as Pair, Lanes as Wide};
pub(in crate::kernels) use register::{Lanes, Register};
use rows::{gated, inverse_norm, scale_row, soften, total, turn_halves, turn_pairs};
pub(in crate::kernels) use wide::{LANES, compiled_for, multiply_add};
#[cfg(target_arch = "x86_64")]
pub(in crate::kernels) use x86::{Pair, Wide};

use crate::kernels::Isa;
use crate::kernels::pool::{Parts, share_out_if};

/// Values from which two threads are faster than one: some 10 microseconds of work.
const LARGE: usize = 1 << 15;
/// Values of the smallest part of work that has no rows.
const GRAIN: usize = 1 << 10;

/// The function of a gated unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x / (1 + e^−x).
    Silu,
    /// x · Φ(x) by the formula with tanh.
    GeluTanh,
    /// x · Φ(x), Φ within 2e-7.
    Gelu,
}

/// Which features of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotaryOrder {
    /// Feature i with feature i + half a head.
    Halves,
    /// Features 2 i and 2 i + 1.
    Interleaved,
}

/// y = x · weight / √(mean(x²) + eps), row by row.
///
/// - `x`, `y`: (rows, width), `weight`: (width)
///
/// Relative error at most (width / 64 + 10) · 2⁻²⁴; squares beyond f32 (|x| > 1e18) give zeros, NaN gives a row of NaN.
///
/// # Panics
/// If the lengths do not fit.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    rms_norm_on(Isa::current(), x, weight, eps, y);
}

fn rms_norm_on(isa: Isa, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    assert_rows(x.len(), weight.len());
    assert_eq!(x.len(), y.len(), "an output for each input");
    shared([y], weight.len(), |range, [y]| {
        let x = &x[range];
        compiled_for(
            isa,
            #[inline(always)]
            || {
                for (x, y) in x.chunks_exact(weight.len()).zip(y.chunks_exact_mut(weight.len())) {
                    scale_row(x, weight, inverse_norm(x, eps), y);
                }
            },
        );
    });
}

/// y = (x − mean(x)) · weight / √(variance(x) + eps) + bias, row by row.
///
/// - `x`, `y`: (rows, width), `weight`, `bias`: (width)
///
/// The variance is taken of the centred values; the error is at most (width / 32 + 20) · 2⁻²⁴ of the row's largest
/// centred value, scaled alike.
///
/// # Panics
/// If the lengths do not fit.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, y: &mut [f32]) {
    layer_norm_on(Isa::current(), x, weight, bias, eps, y);
}

fn layer_norm_on(isa: Isa, x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, y: &mut [f32]) {
    assert_rows(x.len(), weight.len());
    assert_eq!(x.len(), y.len(), "an output for each input");
    assert!(bias.is_none_or(|bias| bias.len() == weight.len()), "a bias for each weight");
    shared([y], weight.len(), |range, [y]| {
        let x = &x[range];
        compiled_for(
            isa,
            #[inline(always)]
            || {
                for (x, y) in x.chunks_exact(weight.len()).zip(y.chunks_exact_mut(weight.len())) {
                    let mean = total(x) / x.len() as f32;
                    for (y, x) in y.iter_mut().zip(x) {
                        *y = x - mean;
                    }
                    let scale = inverse_norm(y, eps);
                    match bias {
                        None => y.iter_mut().zip(weight).for_each(|(y, weight)| *y = *y * scale * weight),
                        Some(bias) => {
                            for ((y, weight), bias) in y.iter_mut().zip(weight).zip(bias) {
                                *y = multiply_add(*y * scale, *weight, *bias);
                            }
                        }
                    }
                }
            },
        );
    });
}

/// x += y.
///
/// # Panics
/// If the lengths differ.
pub fn add_in_place(x: &mut [f32], y: &[f32]) {
    add_in_place_on(Isa::current(), x, y);
}

fn add_in_place_on(isa: Isa, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "a value for each value");
    shared([x], GRAIN, |range, [x]| {
        let y = &y[range];
        compiled_for(
            isa,
            #[inline(always)]
            || x.iter_mut().zip(y).for_each(|(x, y)| *x += y),
        );
    });
}

/// hidden += added, then normed = [`rms_norm`] of it: one pass fewer over the rows than one after the other, same bits.
///
/// - `hidden`, `added`, `normed`: (rows, width), `weight`: (width)
///
/// # Panics
/// If the lengths do not fit.
pub fn add_and_norm(hidden: &mut [f32], added: &[f32], weight: &[f32], eps: f32, normed: &mut [f32]) {
    add_and_norm_on(Isa::current(), hidden, added, weight, eps, normed);
}

fn add_and_norm_on(isa: Isa, hidden: &mut [f32], added: &[f32], weight: &[f32], eps: f32, normed: &mut [f32]) {
    let width = weight.len();
    assert_rows(hidden.len(), width);
    assert!(hidden.len() == added.len() && hidden.len() == normed.len(), "an output for each input");
    shared([hidden, normed], width, |range, [hidden, normed]| {
        let added = &added[range];
        compiled_for(
            isa,
            #[inline(always)]
            || {
                let rows = hidden.chunks_exact_mut(width).zip(added.chunks_exact(width));
                for ((hidden, added), normed) in rows.zip(normed.chunks_exact_mut(width)) {
                    hidden.iter_mut().zip(added).for_each(|(hidden, added)| *hidden += added);
                    scale_row(hidden, weight, inverse_norm(hidden, eps), normed);
                }
            },
        );
    });
}

/// Adds `bias` (width) to each of `rows` (rows, width).
///
/// # Panics
/// If the lengths do not fit.
pub fn add_bias(rows: &mut [f32], bias: &[f32]) {
    add_bias_on(Isa::current(), rows, bias);
}

fn add_bias_on(isa: Isa, rows: &mut [f32], bias: &[f32]) {
    assert_rows(rows.len(), bias.len());
    shared([rows], bias.len(), |_, [rows]| {
        compiled_for(
            isa,
            #[inline(always)]
            || {
                for row in rows.chunks_exact_mut(bias.len()) {
                    row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
                }
            },
        );
    });
}

/// y = act(gate) · up, value by value.
///
/// `Silu` and `GeluTanh` are within 6 and 12 ulp of their formulas where those do not cancel or underflow, absolutely
/// within 1e-7 (below 3e-37, `Silu` may be 0); `Gelu` within 2e-7 · |gate|. Finite values of any size give what the function gives;
/// NaN gives NaN, and −∞ shows as NaN too.
///
/// # Panics
/// If the lengths differ.
pub fn gate(gate: &[f32], up: &[f32], act: Activation, y: &mut [f32]) {
    gate_on(Isa::current(), gate, up, act, y);
}

fn gate_on(isa: Isa, gate: &[f32], up: &[f32], act: Activation, y: &mut [f32]) {
    assert!(gate.len() == up.len() && gate.len() == y.len(), "a value for each value");
    shared([y], GRAIN, |range, [y]| {
        let (gate, up) = (&gate[range.clone()], &up[range]);
        compiled_for(
            isa,
            #[inline(always)]
            || match act {
                Activation::Silu => gated(gate, up, y, silu),
                Activation::GeluTanh => gated(gate, up, y, gelu_tanh),
                Activation::Gelu => gated(gate, up, y, gelu),
            },
        );
    });
}

/// Turns the features of each head by the angles of its position, in place.
///
/// - `rows`: (seq, heads · `head_dim`), `cos`, `sin`: (seq, `head_dim` / 2)
///
/// # Panics
/// If the lengths do not fit or `head_dim` is odd.
pub fn rotate(rows: &mut [f32], cos: &[f32], sin: &[f32], head_dim: usize, order: RotaryOrder) {
    rotate_on(Isa::current(), rows, cos, sin, head_dim, order);
}

fn rotate_on(isa: Isa, rows: &mut [f32], cos: &[f32], sin: &[f32], head_dim: usize, order: RotaryOrder) {
    assert!(head_dim > 0 && head_dim.is_multiple_of(2), "pairs of features");
    let half = head_dim / 2;
    assert!(cos.len() == sin.len() && cos.len().is_multiple_of(half), "angles for each position");
    let seq = cos.len() / half;
    assert!(rows.len().is_multiple_of(head_dim * seq.max(1)) && (seq > 0 || rows.is_empty()), "whole heads");
    if rows.is_empty() {
        return;
    }
    let width = rows.len() / seq;
    shared([rows], width, |range, [rows]| {
        let angles = range.start / width * half..range.end / width * half;
        let angles = cos[angles.clone()].chunks_exact(half).zip(sin[angles].chunks_exact(half));
        compiled_for(
            isa,
            #[inline(always)]
            || {
                for (row, (cos, sin)) in rows.chunks_exact_mut(width).zip(angles) {
                    for head in row.chunks_exact_mut(head_dim) {
                        match order {
                            RotaryOrder::Halves => turn_halves(head, cos, sin),
                            RotaryOrder::Interleaved => turn_pairs(head, cos, sin),
                        }
                    }
                }
            },
        );
    });
}

/// Softmax of a row in place: e^(x − max) / Σ. NaN or +∞ anywhere gives a row of NaN; −∞ beside finite values gives 0.
pub fn softmax(row: &mut [f32]) {
    softmax_on(Isa::current(), row);
}

fn softmax_on(isa: Isa, row: &mut [f32]) {
    compiled_for(
        isa,
        #[inline(always)]
        || match isa {
            Isa::Avx512 | Isa::Avx512Vnni => soften::<Wide>(row),
            Isa::Avx2 | Isa::Avx2Vnni => soften::<Pair>(row),
            Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => soften::<Quad>(row),
            Isa::Portable => soften::<Lanes>(row),
        },
    );
}

fn assert_rows(len: usize, width: usize) {
    assert!(width > 0 && len.is_multiple_of(width), "whole rows");
}

/// Shares slices of one length by rows of `width` values where they are large. A task gets the range and the slices.
fn shared<const N: usize>(slices: [&mut [f32]; N], width: usize, task: impl Fn(Range<usize>, [&mut [f32]; N]) + Sync) {
    let len = slices[0].len();
    if len < LARGE {
        return task(0..len, slices);
    }
    let parts = slices.map(Parts::new);
    share_out_if(true, |share| {
        let range = share.of(len, width);
        // SAFETY: the shares of a task do not overlap.
        task(range.clone(), parts.each_ref().map(|part| unsafe { part.range(range.clone()) }));
    });
}

#[cfg(test)]
mod tests;

//! What the loops do with one row.

use crate::kernels::vector::{LANES, Register, decay, multiply_add};

/// Registers that take turns in a sum: one chain alone would wait for each addition.
const CHAINS: usize = 4;

/// Sum of `term(sum, x)` over a row: lanes start at 0, and are added at the end.
#[inline(always)]
fn folded(row: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut chains = [[0.0; LANES]; CHAINS];
    let (body, rest) = row.as_chunks::<{ CHAINS * LANES }>();
    for values in body {
        for (chain, values) in chains.iter_mut().zip(values.as_chunks::<LANES>().0) {
            for lane in 0..LANES {
                chain[lane] = term(chain[lane], values[lane]);
            }
        }
    }
    let (rest, tail) = rest.as_chunks::<LANES>();
    for (chain, values) in chains.iter_mut().zip(rest) {
        for lane in 0..LANES {
            chain[lane] = term(chain[lane], values[lane]);
        }
    }
    for (lane, value) in chains[CHAINS - 1].iter_mut().zip(tail) {
        *lane = term(*lane, *value);
    }
    let [mut lanes, second, third, fourth] = chains;
    for lane in 0..LANES {
        lanes[lane] = (lanes[lane] + second[lane]) + (third[lane] + fourth[lane]);
    }
    let mut n = LANES / 2;
    while n > 0 {
        for lane in 0..n {
            lanes[lane] += lanes[lane + n];
        }
        n /= 2;
    }
    lanes[0]
}

#[inline(always)]
pub(super) fn total(row: &[f32]) -> f32 {
    folded(row, |sum, x| sum + x)
}

/// e^(x − max) / Σ in place.
#[inline(always)]
pub(super) fn soften<V: Register>(row: &mut [f32]) {
    let (body, tail) = row.as_chunks_mut();
    let mut max = V::splat(f32::NEG_INFINITY);
    for values in &*body {
        max = V::of(values).larger(max);
    }
    let max = tail.iter().fold(max.largest(), |max, x| if *x > max { *x } else { max });
    let mut sums = V::splat(0.0);
    for values in &mut *body {
        let weights = V::of(values).add(V::splat(-max)).decay();
        weights.write(values);
        sums = sums.add(weights);
    }
    let mut sum = sums.sum();
    for x in &mut *tail {
        *x = decay(*x - max);
        sum += *x;
    }
    let scale = 1.0 / sum;
    for x in row {
        *x *= scale;
    }
}

/// 1 / √(mean of squares + eps).
#[inline(always)]
pub(super) fn inverse_norm(row: &[f32], eps: f32) -> f32 {
    let squares = folded(row, |sum, x| multiply_add(x, x, sum));
    1.0 / (squares / row.len() as f32 + eps).sqrt()
}

#[inline(always)]
pub(super) fn scale_row(x: &[f32], weight: &[f32], scale: f32, y: &mut [f32]) {
    for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
        *y = x * scale * weight;
    }
}

#[inline(always)]
pub(super) fn gated(gate: &[f32], up: &[f32], y: &mut [f32], act: impl Fn(f32) -> f32) {
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        *y = act(*gate) * up;
    }
}

#[inline(always)]
pub(super) fn turn_halves(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = head.split_at_mut(cos.len());
    for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        (*low, *high) = (multiply_add(*low, *cos, -(*high * sin)), multiply_add(*low, *sin, *high * cos));
    }
}

#[inline(always)]
pub(super) fn turn_pairs(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    for (([low, high], cos), sin) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
        (*low, *high) = (multiply_add(*low, *cos, -(*high * sin)), multiply_add(*low, *sin, *high * cos));
    }
}

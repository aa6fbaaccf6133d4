//! Sixteen runs of weights side by side: everything that a search does for one of them, it does for all.
#![expect(clippy::inline_always, reason = "the instructions of the caller are used only where it is inlined")]

/// Runs that are searched together.
pub(super) const LANES: usize = 16;
/// One number for each run.
pub(super) type Lanes = [f32; LANES];

/// `LANES` runs of `RUN` weights: weight `i` of every run is entry `i`.
pub(super) type Runs<const RUN: usize> = [Lanes; RUN];

/// The runs of `weights`, one after the other; runs beyond its end are zeros.
#[inline(always)]
pub(super) fn side_by_side<const RUN: usize>(weights: &[f32], runs: &mut Runs<RUN>) {
    for (lane, run) in weights.as_chunks::<RUN>().0.iter().enumerate().take(LANES) {
        for (entry, weight) in runs.iter_mut().zip(run) {
            entry[lane] = *weight;
        }
    }
    for lane in weights.len() / RUN..LANES {
        for entry in runs.iter_mut() {
            entry[lane] = 0.0;
        }
    }
}

/// `f` of each run.
#[inline(always)]
pub(super) fn each(f: impl Fn(usize) -> f32) -> Lanes {
    let mut lanes = [0.0; LANES];
    for (lane, value) in lanes.iter_mut().enumerate() {
        *value = f(lane);
    }
    lanes
}

/// The smaller; `b` where `a` is no number.
#[inline(always)]
pub(super) fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// The larger; `b` where `a` is no number.
#[inline(always)]
pub(super) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Lowest and highest weight of each run, with 0 among them.
#[inline(always)]
pub(super) fn ends<const RUN: usize>(runs: &Runs<RUN>) -> (Lanes, Lanes) {
    let (mut low, mut high) = ([0.0; LANES], [0.0; LANES]);
    for entry in runs {
        for lane in 0..LANES {
            low[lane] = smaller(entry[lane], low[lane]);
            high[lane] = larger(entry[lane], high[lane]);
        }
    }
    (low, high)
}

/// 1.5 · 2²³: added to a number below 2²² it leaves the nearest whole one, ties to even, in the low bits.
const ROUNDER: f32 = 12_582_912.0;

/// The nearest whole number, ties to even, of magnitudes below 2²².
#[inline(always)]
pub(super) fn nearest(x: f32) -> f32 {
    (x + ROUNDER) - ROUNDER
}

/// The low byte of the nearest whole number, ties to even, of magnitudes below 2²².
#[inline(always)]
pub(super) fn nearest_byte(x: f32) -> u8 {
    (x + ROUNDER).to_bits() as u8
}

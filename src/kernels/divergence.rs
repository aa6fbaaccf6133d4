//! Two rows of logits reduced to likelihood, KL divergence and agreement in two passes over the vocabulary.

/// What one scored position says about a variant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Divergence {
    /// Negative log likelihood of the target under the variant, in nats.
    pub nll: f64,
    /// Negative log likelihood of the target under the reference, in nats.
    pub reference_nll: f64,
    /// KL(reference ‖ variant), in nats; rounding may leave it a little below 0.
    pub kl: f64,
    /// Both name the same most likely token.
    pub same_top1: bool,
}

/// Width of the partial sums: enough independent chains for two AVX2 registers.
const LANES: usize = 16;

/// Elements summed in f32 before the partial sums are added to f64.
const CHUNK: usize = 1024;

/// Compares two rows of logits.
///
/// - `reference`, `variant`: (vocabulary) logits
/// - `target`: the token that followed
///
/// KL = Σ p (r − v) − (log `Z_r` − log `Z_v`) with p the reference's softmax. Sums run in f32 over 1,024 elements and in f64
/// over those. Non-finite logits give a non-finite result.
///
/// # Panics
/// If the rows differ in length or do not contain `target`.
pub fn divergence(reference: &[f32], variant: &[f32], target: usize) -> Divergence {
    assert_eq!(reference.len(), variant.len(), "both rows are over one vocabulary");
    let (reference_top, reference_max) = argmax(reference);
    let (variant_top, variant_max) = argmax(variant);
    let (mut reference_sum, mut variant_sum, mut cross) = (0.0_f64, 0.0_f64, 0.0_f64);
    for (reference, variant) in reference.chunks(CHUNK).zip(variant.chunks(CHUNK)) {
        let sums = chunk_sums(reference, variant, reference_max, variant_max);
        reference_sum += f64::from(sums[0]);
        variant_sum += f64::from(sums[1]);
        cross += f64::from(sums[2]);
    }
    // `cross` is over logits shifted by their maxima, so it stays small and the shift cancels against the maxima below.
    let (reference_log, variant_log) = (reference_sum.ln(), variant_sum.ln());
    Divergence {
        nll: variant_log + f64::from(variant_max) - f64::from(variant[target]),
        reference_nll: reference_log + f64::from(reference_max) - f64::from(reference[target]),
        kl: cross / reference_sum - reference_log + variant_log,
        same_top1: reference_top == variant_top,
    }
}

/// Position and value of the first largest element; NaN where there is one.
fn argmax(row: &[f32]) -> (usize, f32) {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut poison = [0.0_f32; LANES];
    let (body, tail) = row.as_chunks::<LANES>();
    for chunk in body {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
            // Infinity and NaN times zero are NaN: one add keeps track of every non-finite value.
            poison[lane] += chunk[lane] * 0.0;
        }
    }
    let mut max = lanes.iter().fold(f32::NEG_INFINITY, |max, lane| max.max(*lane));
    let mut poisoned: f32 = poison.iter().sum();
    for value in tail {
        max = max.max(*value);
        poisoned += value * 0.0;
    }
    if poisoned != 0.0 {
        return (0, f32::NAN);
    }
    (row.iter().position(|value| *value == max).unwrap_or(0), max)
}

/// Σ e^(r−R), Σ e^(v−V) and Σ e^(r−R) ((r−R) − (v−V)) over one chunk.
fn chunk_sums(reference: &[f32], variant: &[f32], reference_max: f32, variant_max: f32) -> [f32; 3] {
    let mut sums = [[0.0_f32; LANES]; 3];
    let (reference_body, reference_tail) = reference.as_chunks::<LANES>();
    let (variant_body, variant_tail) = variant.as_chunks::<LANES>();
    for (r, v) in reference_body.iter().zip(variant_body) {
        for lane in 0..LANES {
            let (r, v) = (r[lane] - reference_max, v[lane] - variant_max);
            let e = exp(r);
            sums[0][lane] += e;
            sums[1][lane] += exp(v);
            sums[2][lane] += e * (r - v);
        }
    }
    let mut totals = sums.map(|lanes| lanes.iter().sum::<f32>());
    for (r, v) in reference_tail.iter().zip(variant_tail) {
        let (r, v) = (r - reference_max, v - variant_max);
        totals[0] += exp(r);
        totals[1] += exp(v);
        totals[2] += exp(r) * (r - v);
    }
    totals
}

/// e^x for x ≤ 0 within 3 ulp; 0 below −87; NaN stays NaN.
///
/// Cody and Waite's reduction to |r| ≤ ln 2 / 2, then a degree-6 Taylor-like polynomial (coefficients of Cephes' `expf`).
/// Branch-free, so that the loops around it become vector code.
#[inline]
pub(super) fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and taking away 1.5 · 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < -87.0 { -87.0 } else { x };
    let shifted = clamped * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_1e-4_f32;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    // The low bits of `shifted` hold n; move them into the exponent.
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < -87.0 { 0.0 } else { p * scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Straight from the definitions, in f64.
    fn oracle(reference: &[f32], variant: &[f32], target: usize) -> (f64, f64, f64) {
        let log_softmax = |row: &[f32]| -> Vec<f64> {
            let max = row.iter().fold(f64::NEG_INFINITY, |max, x| max.max(f64::from(*x)));
            let log_sum = row.iter().map(|x| (f64::from(*x) - max).exp()).sum::<f64>().ln() + max;
            row.iter().map(|x| f64::from(*x) - log_sum).collect()
        };
        let (r, v) = (log_softmax(reference), log_softmax(variant));
        let kl = r.iter().zip(&v).map(|(r, v)| r.exp() * (r - v)).sum();
        (-v[target], -r[target], kl)
    }

    fn logits(n: usize, seed: f32, spread: f32) -> Vec<f32> {
        (0..n).map(|i| ((i as f32 * 12.9898 + seed).sin() * 43_758.547).fract() * spread).collect()
    }

    #[test]
    fn agrees_with_the_definition() {
        for n in [1, 15, 16, 17, 1000, 1024, 1041, 32_000] {
            for (spread, noise) in [(1.0, 0.01), (20.0, 0.5), (80.0, 5.0), (300.0, 1.0)] {
                let reference = logits(n, 1.0, spread);
                let variant: Vec<f32> = reference.iter().zip(logits(n, 2.0, noise)).map(|(a, b)| a + b).collect();
                let found = divergence(&reference, &variant, n / 2);
                let (nll, reference_nll, kl) = oracle(&reference, &variant, n / 2);
                assert!((found.nll - nll).abs() < 2e-6 * (1.0 + nll), "{n} {spread}: {} {nll}", found.nll);
                assert!((found.reference_nll - reference_nll).abs() < 2e-6 * (1.0 + reference_nll));
                assert!(
                    (found.kl - kl).abs() < 1e-6 * (1.0 + kl) + 2e-7 * f64::from(noise),
                    "{n} {spread}: {} {kl}",
                    found.kl
                );
            }
        }
    }

    #[test]
    fn equal_rows_diverge_by_nothing() {
        let row = logits(32_000, 3.0, 15.0);
        let found = divergence(&row, &row, 7);
        assert_eq!((found.kl, found.same_top1), (0.0, true));
        assert_eq!(found.nll, found.reference_nll);
    }

    #[test]
    fn non_finite_logits_show() {
        let row = logits(100, 3.0, 15.0);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 50, 99] {
                let mut variant = row.clone();
                variant[place] = bad;
                let found = divergence(&row, &variant, 7);
                assert!(!(found.nll.is_finite() && found.kl.is_finite()), "{bad} at {place}");
            }
        }
    }

    #[test]
    fn exp_is_within_three_ulp() {
        let mut worst = 0.0_f64;
        for i in 0..200_000 {
            let x = -(i as f32) * 87.0 / 200_000.0;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 3.0 * f64::from(f32::EPSILON) / 2.0, "{worst}");
    }
}

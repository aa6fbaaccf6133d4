//! Two rows of logits reduced to likelihood, KL divergence and agreement in one pass over the vocabulary.

use crate::kernels::Isa;
use crate::kernels::vector::{LANES, Lanes, Pair, Quad, Register, Wide, compiled_for, decay};

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

/// Elements of both rows that are read from memory once, and then stay in the first-level cache: their maxima are found
/// before their sums, which run in f32 before they are added to f64.
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
    divergence_on(Isa::current(), reference, variant, target)
}

fn divergence_on(isa: Isa, reference: &[f32], variant: &[f32], target: usize) -> Divergence {
    assert_eq!(reference.len(), variant.len(), "both rows are over one vocabulary");
    let sums = compiled_for(
        isa,
        #[inline(always)]
        || match isa {
            Isa::Avx512 | Isa::Avx512Vnni => Sums::over::<Wide>(reference, variant),
            Isa::Avx2 | Isa::Avx2Vnni => Sums::over::<Pair>(reference, variant),
            Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => Sums::over::<Quad>(reference, variant),
            Isa::Portable => Sums::over::<Lanes>(reference, variant),
        },
    );
    // `cross` is over logits shifted by their maxima, so it stays small and the shift cancels against the maxima below.
    let (reference_log, variant_log) = (sums.reference.sum.ln(), sums.variant.sum.ln());
    let nll = |log: f64, largest: &Largest, logit: f32| log + f64::from(largest.value()) - f64::from(logit);
    Divergence {
        nll: nll(variant_log, &sums.variant, variant[target]),
        reference_nll: nll(reference_log, &sums.reference, reference[target]),
        kl: sums.cross / sums.reference.sum - reference_log + variant_log,
        same_top1: sums.reference.place(reference) == sums.variant.place(variant),
    }
}

/// The largest logit R of a row so far, and Σ e^(r−R).
struct Largest {
    max: f32,
    /// The first chunk that holds it.
    chunk: usize,
    /// 0, or NaN once a logit was not finite.
    poison: f32,
    sum: f64,
}

/// What is known of both rows so far.
struct Sums {
    reference: Largest,
    variant: Largest,
    /// Σ e^(r−R) ((r−R) − (v−V)).
    cross: f64,
}

impl Sums {
    #[inline(always)]
    fn over<V: Register>(reference: &[f32], variant: &[f32]) -> Self {
        let none = || Largest { max: f32::NEG_INFINITY, chunk: 0, poison: 0.0, sum: 0.0 };
        let mut sums = Self { reference: none(), variant: none(), cross: 0.0 };
        for (number, (reference, variant)) in reference.chunks(CHUNK).zip(variant.chunks(CHUNK)).enumerate() {
            let (r_factor, r_shift) = sums.reference.raise::<V>(number, reference);
            let (v_factor, v_shift) = sums.variant.raise::<V>(number, variant);
            // Σ e^(r−R') ((r−R') − (v−V')) for the new maxima R' = R + shift.
            sums.cross = r_factor * (sums.cross + sums.reference.sum * (v_shift - r_shift));
            sums.reference.sum *= r_factor;
            sums.variant.sum *= v_factor;
            let [r_sum, v_sum, cross] =
                chunk_sums::<V>(reference, variant, sums.reference.value(), sums.variant.value());
            sums.reference.sum += f64::from(r_sum);
            sums.variant.sum += f64::from(v_sum);
            sums.cross += f64::from(cross);
        }
        sums
    }
}

impl Largest {
    /// Takes a chunk's largest in, and returns the factor for what was summed under the old one, and the difference.
    #[inline(always)]
    fn raise<V: Register>(&mut self, number: usize, chunk: &[f32]) -> (f64, f64) {
        let (mut max, mut poison) = (V::splat(f32::NEG_INFINITY), V::splat(self.poison));
        let (body, tail) = chunk.as_chunks::<LANES>();
        for values in body {
            max = V::of(values).larger(max);
            // Infinity and NaN times zero are NaN: one step keeps track of every non-finite value.
            poison = V::of(values).multiply_add(V::splat(0.0), poison);
        }
        let (mut max, mut poison) = (max.largest(), poison.sum());
        for value in tail {
            max = max.max(*value);
            poison += value * 0.0;
        }
        self.poison = poison;
        if max <= self.max {
            return (1.0, 0.0);
        }
        let shift = f64::from(max) - f64::from(self.max);
        let is_first = self.max == f32::NEG_INFINITY;
        (self.max, self.chunk) = (max, number);
        if is_first { (0.0, 0.0) } else { ((-shift).exp(), shift) }
    }

    /// The largest; NaN where a logit was not finite.
    #[inline(always)]
    fn value(&self) -> f32 {
        self.max + self.poison
    }

    /// Position of the first largest of its row; 0 where there is none.
    fn place(&self, row: &[f32]) -> usize {
        let max = self.value();
        let mut chunk = row.iter().enumerate().skip(self.chunk * CHUNK).take(CHUNK);
        chunk.find(|(_, value)| **value == max).map_or(0, |(place, _)| place)
    }
}

/// Σ e^(r−R), Σ e^(v−V) and Σ e^(r−R) ((r−R) − (v−V)) over one chunk.
#[inline(always)]
fn chunk_sums<V: Register>(reference: &[f32], variant: &[f32], reference_max: f32, variant_max: f32) -> [f32; 3] {
    let mut sums = [V::splat(0.0); 3];
    let (reference_body, reference_tail) = reference.as_chunks();
    let (variant_body, variant_tail) = variant.as_chunks();
    for (r, v) in reference_body.iter().zip(variant_body) {
        let (r, v) = (V::of(r).add(V::splat(-reference_max)), V::of(v).add(V::splat(-variant_max)));
        let e = r.decay();
        sums[0] = sums[0].add(e);
        sums[1] = sums[1].add(v.decay());
        sums[2] = e.multiply_add(v.multiply_add(V::splat(-1.0), r), sums[2]);
    }
    let [mut r_sum, mut v_sum, mut cross] = [sums[0].sum(), sums[1].sum(), sums[2].sum()];
    for (r, v) in reference_tail.iter().zip(variant_tail) {
        let (r, v) = (r - reference_max, v - variant_max);
        r_sum += decay(r);
        v_sum += decay(v);
        cross += decay(r) * (r - v);
    }
    [r_sum, v_sum, cross]
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
                let (nll, reference_nll, kl) = oracle(&reference, &variant, n / 2);
                for isa in Isa::available() {
                    let found = divergence_on(isa, &reference, &variant, n / 2);
                    assert!((found.nll - nll).abs() < 2e-6 * (1.0 + nll), "{n} {spread}: {} {nll}", found.nll);
                    assert!((found.reference_nll - reference_nll).abs() < 2e-6 * (1.0 + reference_nll));
                    assert!(
                        (found.kl - kl).abs() < 1e-6 * (1.0 + kl) + 2e-7 * f64::from(noise),
                        "{n} {spread}: {} {kl}",
                        found.kl
                    );
                    let top = |row: &[f32]| (0..n).fold(0, |top, i| if row[i] > row[top] { i } else { top });
                    assert_eq!(found.same_top1, top(&reference) == top(&variant));
                }
            }
        }
    }

    #[test]
    fn equal_rows_diverge_by_nothing() {
        let row = logits(32_000, 3.0, 15.0);
        // Rising logits move the maximum in each chunk.
        let rising: Vec<f32> = row.iter().enumerate().map(|(i, x)| x + i as f32 * 0.01).collect();
        for isa in Isa::available() {
            for row in [&row, &rising] {
                let found = divergence_on(isa, row, row, 7);
                assert_eq!((found.kl, found.same_top1), (0.0, true));
                assert_eq!(found.nll, found.reference_nll);
            }
        }
    }

    #[test]
    fn non_finite_logits_show() {
        let row = logits(100, 3.0, 15.0);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 50, 99] {
                let mut variant = row.clone();
                variant[place] = bad;
                for isa in Isa::available() {
                    let found = divergence_on(isa, &row, &variant, 7);
                    assert!(!found.nll.is_finite() && !found.kl.is_finite(), "{bad} at {place}");
                    assert!(found.reference_nll.is_finite(), "{bad} at {place}");
                }
            }
        }
    }

    #[test]
    fn maxima_may_come_late() {
        let n = 5000;
        for step in [-0.03, 0.03] {
            let reference: Vec<f32> =
                logits(n, 1.0, 3.0).iter().enumerate().map(|(i, x)| x + i as f32 * step).collect();
            let variant: Vec<f32> = logits(n, 2.0, 3.0).iter().enumerate().map(|(i, x)| x - i as f32 * step).collect();
            let (nll, reference_nll, kl) = oracle(&reference, &variant, 9);
            for isa in Isa::available() {
                let found = divergence_on(isa, &reference, &variant, 9);
                for (found, exact) in [(found.nll, nll), (found.reference_nll, reference_nll), (found.kl, kl)] {
                    assert!((found - exact).abs() < 2e-6 * (1.0 + exact), "{found} {exact}");
                }
                assert!(!found.same_top1);
            }
        }
    }
}

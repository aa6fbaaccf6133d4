//! Speed of one phase from its raw samples.

use crate::measure::stats::{MIN_P99_SAMPLES, median_estimate, paired_ratio, percentile};
use crate::study::{Arm, Estimate, PhaseSpeed};

/// The order of both arms over `repetitions` pairs: A B B A A B B A …, so that a steady drift hits both arms alike.
///
/// Gives `2 * repetitions` arms; the first is the reference.
pub fn abba(repetitions: u32) -> impl Iterator<Item = Arm> {
    (0..repetitions)
        .flat_map(|pair| if pair % 2 == 0 { [Arm::Reference, Arm::Variant] } else { [Arm::Variant, Arm::Reference] })
}

/// Speed of a phase beside the reference.
///
/// - `tokens_per_sample`: the prompt's length (prefill) or 1 (decode)
/// - `samples_nanos`, `reference_nanos`: one a repetition (prefill) or a token (decode), in the order of time
/// - `block`: samples of one repetition; the ratio pairs the sums of whole blocks, the first with the first
/// - `is_reference`: the trial is the reference itself, so it gets no ratio
///
/// `None` when there is no sample, or one of zero nanoseconds: no rate can be given for it.
pub fn phase_speed(
    tokens_per_sample: u32,
    samples_nanos: Vec<u64>,
    reference_nanos: Vec<u64>,
    block: usize,
    is_reference: bool,
    seed: u64,
) -> Option<PhaseSpeed> {
    if samples_nanos.contains(&0) {
        return None;
    }
    let mut secs: Vec<f64> = samples_nanos.iter().map(|nanos| *nanos as f64 * 1e-9).collect();
    let latency_secs = median_estimate(&secs)?;
    secs.sort_by(f64::total_cmp);
    let ratio = if is_reference {
        None
    } else {
        paired_ratio(&block_secs(&reference_nanos, block), &block_secs(&samples_nanos, block), seed)
    };
    Some(PhaseSpeed {
        tokens_per_second: rate(latency_secs, f64::from(tokens_per_sample)),
        latency_secs,
        p50_secs: percentile(&secs, 0.5),
        p90_secs: percentile(&secs, 0.9),
        p99_secs: (secs.len() >= MIN_P99_SAMPLES).then(|| percentile(&secs, 0.99)),
        ratio,
        samples_nanos,
        reference_nanos,
    })
}

/// The rate behind a latency; a short time is a high rate, so the bounds change places.
fn rate(latency_secs: Estimate, tokens: f64) -> Estimate {
    Estimate {
        value: tokens / latency_secs.value,
        ci95: [tokens / latency_secs.ci95[1], tokens / latency_secs.ci95[0]],
        n: latency_secs.n,
    }
}

fn block_secs(nanos: &[u64], block: usize) -> Vec<f64> {
    nanos.chunks_exact(block.max(1)).map(|block| block.iter().sum::<u64>() as f64 * 1e-9).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arms_alternate_and_are_equally_many() {
        use Arm::{Reference as A, Variant as B};
        assert_eq!(abba(3).collect::<Vec<_>>(), [A, B, B, A, A, B]);
        assert_eq!(abba(0).count(), 0);
        // A drift that grows by one a sample costs both arms the same after every second pair.
        let cost = |arm: Arm| abba(4).enumerate().filter(|(_, found)| *found == arm).map(|(at, _)| at).sum::<usize>();
        assert_eq!(cost(A), cost(B));
    }

    #[test]
    fn rates_follow_from_latencies() {
        let millis = |values: &[u64]| values.iter().map(|millis| millis * 1_000_000).collect::<Vec<_>>();
        let speed = phase_speed(256, millis(&[100, 128, 160]), millis(&[200, 256, 320]), 1, false, 0).unwrap();
        assert!((speed.tokens_per_second.value - 2000.0).abs() < 1e-6);
        assert!((speed.tokens_per_second.ci95[0] - 1600.0).abs() < 1e-6);
        assert!((speed.tokens_per_second.ci95[1] - 2560.0).abs() < 1e-6);
        assert!((speed.latency_secs.value - 0.128).abs() < 1e-12);
        let ratio = speed.ratio.unwrap();
        assert!((ratio.value - 2.0).abs() < 1e-9 && ratio.is_resolved() && ratio.n_pairs == 3);
        assert_eq!(speed.p99_secs, None);
        assert_eq!(speed.samples_nanos, millis(&[100, 128, 160]));
    }

    #[test]
    fn the_ratio_pairs_whole_repetitions() {
        // Four repetitions of three tokens; the last token of the variant's third is ten times slower.
        let reference = vec![10; 12];
        let mut variant = vec![10; 12];
        variant[8] = 100;
        let speed = phase_speed(1, variant, reference, 3, false, 0).unwrap();
        let ratio = speed.ratio.unwrap();
        assert_eq!((ratio.value, ratio.n_pairs), (1.0, 4));
        assert!(!ratio.is_resolved());
    }

    #[test]
    fn what_was_not_measured_is_absent() {
        assert!(phase_speed(1, vec![], vec![], 1, false, 0).is_none());
        assert!(phase_speed(1, vec![5, 0], vec![5, 5], 1, false, 0).is_none());
        assert_eq!(phase_speed(1, vec![5, 6], vec![5, 6], 1, true, 0).unwrap().ratio, None);
        assert_eq!(phase_speed(1, vec![5, 6], vec![], 1, false, 0).unwrap().ratio, None);
        let many: Vec<u64> = (1..=1000).collect();
        let p99 = phase_speed(1, many.clone(), many, 1, true, 0).unwrap().p99_secs.unwrap();
        assert!((p99 - 990.01e-9).abs() < 1e-15);
    }
}

use super::*;

/// Expected values: numpy 2 `median` and scipy 1.17 `stats.quantile_test(x, p=0.5).confidence_interval(0.95)`.
#[test]
fn medians_match_scipy() {
    let x = [12.1, 11.9, 12.4, 13.0, 11.7, 12.2, 15.3, 12.0, 11.8, 12.6];
    let found = median_estimate(&x).unwrap();
    assert!((found.value - 12.15).abs() < 1e-12);
    assert_eq!(found.ci95, [11.8, 13.0]);
    assert_eq!(found.n, 10);
}

/// Expected ranks: largest k with scipy 1.17 `stats.binom.cdf(k - 1, n, 0.5) <= 0.025`.
#[test]
fn order_statistic_ranks_match_scipy() {
    for (n, rank) in [(1, 0), (5, 0), (6, 1), (8, 1), (9, 2), (25, 8), (100, 40), (1000, 469), (5000, 2431)] {
        assert_eq!(lower_rank(n), rank, "n = {n}");
    }
}

#[test]
fn medians_of_few_samples() {
    let check = |samples: &[f64], expected: Option<(f64, [f64; 2])>| {
        assert_eq!(median_estimate(samples).map(|estimate| (estimate.value, estimate.ci95)), expected, "{samples:?}");
    };
    check(&[], None);
    check(&[1.0, f64::NAN], None);
    check(&[1.0, f64::INFINITY], None);
    check(&[3.0], Some((3.0, [3.0, 3.0])));
    check(&[3.0, 1.0], Some((2.0, [1.0, 3.0])));
    check(&[5.0; 40], Some((5.0, [5.0, 5.0])));
}

/// Expected values: numpy 2 `percentile`, linear.
#[test]
fn percentiles_match_numpy() {
    let mut x = [12.1, 11.9, 12.4, 13.0, 11.7, 12.2, 15.3, 12.0, 11.8, 12.6];
    x.sort_by(f64::total_cmp);
    for (q, expected) in [(0.0, 11.7), (0.5, 12.15), (0.9, 13.23), (0.99, 15.093), (1.0, 15.3)] {
        assert!((percentile(&x, q) - expected).abs() < 1e-9, "{q}");
    }
    assert_eq!(percentile(&[4.0], 0.99), 4.0);
}

/// Expected values: scipy 1.17 `stats.t.interval(0.95, 5, mean, stats.sem(x))` and `stats.t.ppf(0.975, df)`.
#[test]
fn clustered_means_match_scipy() {
    let found = mean_estimate_clustered(&[3.31, 3.42, 3.29, 3.37, 3.40, 3.35]).unwrap();
    assert!((found.value - 3.356666666666667).abs() < 1e-12);
    assert!((found.ci95[0] - 3.303707412392433).abs() < 1e-9);
    assert!((found.ci95[1] - 3.409625920940901).abs() < 1e-9);
    for (freedom, expected) in [(1, 12.70620474), (2, 4.30265273), (5, 2.57058184), (30, 2.04227246), (347, 1.966824)] {
        assert!((student_t_975(freedom) - expected).abs() < 1e-6, "{freedom}");
    }
    assert_eq!(mean_estimate_clustered(&[]), None);
    assert_eq!(mean_estimate_clustered(&[1.0]), None);
    assert_eq!(mean_estimate_clustered(&[1.0, f64::NAN]), None);
    assert_eq!(mean_estimate_clustered(&[2.0; 4]).unwrap().ci95, [2.0, 2.0]);
}

#[test]
fn ratios_say_how_much_faster_the_variant_is() {
    let reference = [2.0, 2.1, 1.9, 2.05, 1.95];
    let half = reference.map(|secs| secs / 2.0);
    let ratio = paired_ratio(&reference, &half, 1).unwrap();
    assert!((ratio.value - 2.0).abs() < 1e-12 && ratio.is_resolved());
    assert_eq!(ratio.n_pairs, 5);
    assert_eq!(paired_ratio(&reference, &half[..1], 1), None);
    assert_eq!(paired_ratio(&reference, &[0.0; 5], 1), None);
    assert_eq!(paired_ratio(&[f64::NAN; 5], &half, 1), None);
    assert!(!paired_ratio(&[1.0; 20], &[1.0; 20], 1).unwrap().is_resolved());
    let noisy = arms(30, 1.0, 7);
    assert_eq!(paired_ratio(&noisy.0, &noisy.1, 3), paired_ratio(&noisy.0, &noisy.1, 3));
}

/// Equal arms must be declared different in about 5 % of experiments: 3 to 7 % of 500 is the binomial 95 % band.
#[test]
fn equal_arms_are_rarely_declared_different() {
    for n_pairs in [2, 3, 5, 10, 20, 30] {
        let different = n_declared_different(n_pairs, 1.0);
        assert!((15..=35).contains(&different), "{different} of 500 at {n_pairs} pairs");
    }
}

#[test]
fn a_slowdown_of_five_per_cent_is_seen() {
    let seen = n_declared_different(30, 1.05);
    assert!(seen >= 475, "{seen} of 500");
}

/// Experiments of 500 in which the interval excludes 1; noise of 2 %, variant slower by `slowdown`.
fn n_declared_different(n_pairs: usize, slowdown: f64) -> usize {
    (0..500)
        .filter(|seed| {
            let (reference, variant) = arms(n_pairs, slowdown, *seed);
            paired_ratio(&reference, &variant, *seed).unwrap().is_resolved()
        })
        .count()
}

fn arms(n_pairs: usize, slowdown: f64, seed: u64) -> (Vec<f64>, Vec<f64>) {
    let mut random = SplitMix64(seed.wrapping_mul(0xD1B5_4A32_D192_ED03));
    let mut secs = |mean: f64| {
        // Twelve uniform variables less six: near enough to a standard normal one.
        let normal: f64 = (0..12).map(|_| random.next() as f64 / u64::MAX as f64).sum::<f64>() - 6.0;
        mean * (1.0 + 0.02 * normal)
    };
    (0..n_pairs).map(|_| (secs(1.0), secs(slowdown))).unzip()
}

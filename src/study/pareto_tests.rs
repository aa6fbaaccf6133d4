use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::device::DeviceSpec;
use crate::recipe::Recipe;
use crate::study::{
    Conditions, Energy, EnergySource, Estimate, Failure, FailureKind, Memory, Outcome, PhaseSpeed, Speed, StudyEvent,
    TrialSpec, Workload,
};

/// A variant with so many bytes and, when it was timed, so many seconds a token.
fn variant(weight_bytes: u64, decode_secs: Option<f64>) -> Measurements {
    let phase = |secs: f64| PhaseSpeed {
        tokens_per_second: estimate(1.0 / secs),
        latency_secs: estimate(secs),
        p50_secs: secs,
        p90_secs: secs,
        p99_secs: None,
        ratio: None,
        samples_nanos: vec![],
        reference_nanos: vec![],
    };
    let speed = decode_secs.map(|secs| Speed {
        prompt_tokens: 8,
        decode_tokens: 8,
        prefill: phase(1.0),
        decode: phase(secs),
        limits: None,
    });
    Measurements {
        quality: None,
        dequantized_quality: None,
        speed,
        memory: Memory {
            weight_bytes,
            held_bytes: 0,
            peak_rss_bytes: None,
            peak_gpu_bytes: None,
            predicted_peak_bytes: None,
        },
        energy: None,
        bits_per_weight: 4.5,
        simulated_layers: 0,
        products: BTreeMap::new(),
        compressed_layers: 0,
        compress_secs: 0.0,
        compression: None,
        sample_text: None,
        conditions: Conditions::default(),
    }
}

fn estimate(value: f64) -> Estimate {
    Estimate { value, ci95: [value, value], n: 1 }
}

fn study(outcomes: Vec<Outcome>) -> Study {
    let mut study = Study::default();
    for (id, outcome) in (0..).map(TrialId).zip(outcomes) {
        let device = DeviceSpec::Cpu { threads: 1 };
        let spec = TrialSpec { id, recipe: Recipe::reference(), device, workload: Workload::default(), seed: 0 };
        study.apply(&StudyEvent::TrialStarted { spec: Box::new(spec) });
        let (cautions, memory_curve) = (vec![], vec![]);
        study.apply(&StudyEvent::TrialFinished { trial: id, outcome, cautions, elapsed_secs: 1.0, memory_curve });
    }
    study
}

fn done(measurements: Measurements) -> Outcome {
    Outcome::Done(Box::new(measurements))
}

#[test]
fn fronts() {
    let check = |name: &str, outcomes: Vec<Outcome>, expected: &[u32]| {
        let front = pareto_front(&study(outcomes), Objective::WeightBytes, Objective::DecodeLatency);
        assert_eq!(front, expected.iter().copied().map(TrialId).collect::<Vec<_>>(), "{name}");
    };
    let at = |bytes: u64, secs: f64| done(variant(bytes, Some(secs)));
    let failed = || Outcome::Failed(Failure::new(FailureKind::OutOfMemory, "too large"));
    let simulated = |bytes: u64, secs: f64| done(Measurements { simulated_layers: 3, ..variant(bytes, Some(secs)) });
    check("no trials", vec![], &[]);
    check("one", vec![at(5, 5.0)], &[0]);
    check("by rising x", vec![at(9, 1.0), at(1, 9.0), at(5, 5.0)], &[1, 2, 0]);
    check("a beaten one", vec![at(1, 9.0), at(5, 5.0), at(6, 6.0)], &[0, 1]);
    check("of duplicates the first", vec![at(2, 2.0), at(2, 2.0)], &[0]);
    check("of a tie in x the smaller y", vec![at(2, 3.0), at(2, 2.0)], &[1]);
    check("of a tie in y the smaller x", vec![at(3, 2.0), at(2, 2.0)], &[1]);
    check("failures are not on it", vec![failed(), at(5, 5.0)], &[1]);
    check("what was not timed is not on it", vec![done(variant(1, None)), at(5, 5.0)], &[1]);
    check("a simulated latency is nobody's", vec![simulated(1, 0.1), at(5, 5.0)], &[1]);
}

#[test]
fn simulated_variants_keep_what_is_their_own() {
    let simulated = Measurements { simulated_layers: 1, ..variant(7, Some(1.0)) };
    let values = Objective::ALL.map(|objective| objective.value(&simulated));
    assert_eq!(values, [None, None, None, None, Some(7.0), None, None]);
    let value = Estimate { value: 0.2, ci95: [0.1, 0.3], n: 4 };
    let energy = Energy {
        source: EnergySource::RaplPackage,
        refresh_secs: 0.001,
        prefill_joules_per_token: None,
        decode_joules_per_token: Some(value),
        prefill_secs: 0.0,
        decode_secs: 1.0,
        trial_joules: 9.0,
        trial_secs: 2.0,
    };
    let simulated = Measurements { energy: Some(energy), ..simulated };
    assert_eq!(Objective::DecodeEnergy.value(&simulated), None);
    let own = Measurements { simulated_layers: 0, ..simulated };
    assert_eq!(Objective::DecodeEnergy.value(&own), Some(0.2));
    assert_eq!(Objective::DecodeLatency.value(&own), Some(1.0));
    assert_eq!(Objective::PrefillLatency.value(&own), Some(1.0));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_front_is_what_nothing_dominates(points in prop::collection::vec((0_u64..8, 0_u8..8), 0..24)) {
        let outcomes = points.iter().map(|(bytes, secs)| done(variant(*bytes, Some(f64::from(*secs) + 1.0)))).collect();
        let front = pareto_front(&study(outcomes), Objective::WeightBytes, Objective::DecodeLatency);
        for (id, point) in points.iter().enumerate() {
            let no_worse = |other: &(u64, u8)| other.0 <= point.0 && other.1 <= point.1;
            let dominated = points.iter().any(|other| no_worse(other) && other != point);
            let tied = front.iter().any(|kept| &points[kept.0 as usize] == point);
            if front.contains(&TrialId(id as u32)) {
                prop_assert!(!dominated);
            } else {
                prop_assert!(dominated || tied);
            }
        }
        prop_assert!(front.windows(2).all(|pair| points[pair[0].0 as usize].0 < points[pair[1].0 as usize].0));
    }
}

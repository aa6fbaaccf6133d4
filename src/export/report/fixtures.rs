//! A small study with one of everything, for tests of what is exported.

use std::collections::BTreeMap;

use crate::device::{DeviceInfo, DeviceSpec};
use crate::model::ModelSource;
use crate::model::fixtures::tiny_graph;
use crate::recipe::{Recipe, WeightFormat};
use crate::study::{
    Budget, Caution, Conditions, EndReason, Estimate, Failure, FailureKind, Limits, Measurements, Memory, Outcome,
    PhaseSpeed, Quality, Ratio, Speed, StrategySpec, Study, StudyEvent, StudyHeader, StudySpec, TrialId, TrialSpec,
    WindowScore, Workload,
};

const DEVICE: DeviceSpec = DeviceSpec::Cpu { threads: 2 };

/// The reference, two variants (one simulated), a failure and a trial that still runs.
pub(in crate::export) fn small_study(names: [&str; 5]) -> Study {
    let specs: Vec<TrialSpec> = names
        .into_iter()
        .enumerate()
        .map(|(id, name)| TrialSpec {
            id: TrialId(id as u32),
            recipe: Recipe::uniform(name, [WeightFormat::Native, WeightFormat::Q8_0][usize::from(id > 0)], None),
            device: DEVICE,
            workload: Workload::default(),
            seed: 7,
        })
        .collect();
    let mut events = vec![StudyEvent::StudyCreated { header: Box::new(header()) }];
    let failure = Failure::new(FailureKind::OutOfMemory, "out of memory, twice; choose a smaller context");
    let outcomes = [
        Outcome::Done(Box::new(measurements(29_000_000, 0.0, 0))),
        Outcome::Done(Box::new(measurements(16_000_000, 0.0003, 0))),
        Outcome::Done(Box::new(measurements(9_000_000, 0.09, 42))),
        Outcome::Failed(failure),
    ];
    for spec in &specs {
        events.push(StudyEvent::TrialStarted { spec: Box::new(spec.clone()) });
        let Some(outcome) = outcomes.get(spec.id.0 as usize) else { break };
        let cautions = if spec.id.0 == 2 { vec![Caution::Simulated { layers: 42 }] } else { Vec::new() };
        events.push(StudyEvent::TrialFinished {
            trial: spec.id,
            outcome: outcome.clone(),
            cautions,
            elapsed_secs: 2.5,
            memory_curve: vec![(0, 100), (10, 200)],
        });
    }
    events.push(StudyEvent::StudyEnded { reason: EndReason::Stopped });
    Study::from_events(&events)
}

fn header() -> StudyHeader {
    StudyHeader {
        app_version: "0.1.0".to_owned(),
        spec: StudySpec {
            name: "small study".to_owned(),
            model: ModelSource::Safetensors { dir: "tiny".into() },
            device: DEVICE,
            also_on: Vec::new(),
            workload: Workload::default(),
            strategy: StrategySpec::List { recipes: Vec::new() },
            limits: Limits { max_kl: Some(0.1), max_perplexity_ratio: None },
            budget: Budget::default(),
            seed: 7,
        },
        graph: tiny_graph(),
        device: DeviceInfo::named(DEVICE, "a processor"),
        created_unix_secs: 0,
        data_hash: None,
    }
}

fn measurements(weight_bytes: u64, kl: f64, simulated_layers: u32) -> Measurements {
    let around =
        |value: f64, share: f64| Estimate { value, ci95: [value * (1.0 - share), value * (1.0 + share)], n: 9 };
    let phase = |rate: f64| PhaseSpeed {
        tokens_per_second: around(rate, 0.02),
        latency_secs: around(1.0 / rate, 0.02),
        p50_secs: 1.0 / rate,
        p90_secs: 1.1 / rate,
        p99_secs: None,
        ratio: Some(Ratio { value: 1.01, ci95: [0.98, 1.04], n_pairs: 8 }),
        samples_nanos: vec![1_400_000, 1_500_000],
        reference_nanos: vec![1_400_000, 1_500_000],
    };
    let nll = 1.2 + kl;
    Measurements {
        quality: Some(Quality {
            protocol: "gptq-256".to_owned(),
            split: "report".to_owned(),
            tokens: 510,
            perplexity: around(nll.exp(), 0.01),
            reference_perplexity: 1.2_f64.exp(),
            log_perplexity_difference: around(kl, 0.1),
            kl_mean: around(kl, 0.1),
            kl_median: kl / 2.0,
            kl_p99: kl * 8.0,
            kl_max: kl * 20.0,
            top1_agreement: around(1.0 - kl, 0.001),
            windows: vec![WindowScore { nll, reference_nll: 1.2, kl, top1: 1.0 - kl }; 2],
        }),
        dequantized_quality: None,
        speed: Some(Speed {
            prompt_tokens: 256,
            decode_tokens: 64,
            prefill: phase(3000.0),
            decode: phase(700.0),
            limits: None,
        }),
        memory: Memory {
            weight_bytes,
            held_bytes: weight_bytes * 2,
            peak_rss_bytes: Some(weight_bytes * 4),
            peak_gpu_bytes: None,
            predicted_peak_bytes: None,
        },
        energy: None,
        bits_per_weight: 8.5,
        simulated_layers,
        products: BTreeMap::from([("candle q8_0".to_owned(), 42)]),
        compressed_layers: 42,
        compress_secs: 0.05,
        compression: None,
        sample_text: None,
        conditions: Conditions {
            cpu_model: Some("a processor".to_owned()),
            threads: 2,
            busy_processes: vec![("cc1, plus".to_owned(), 0.9)],
            build: "trimtab 0.1.0".to_owned(),
            ..Conditions::default()
        },
    }
}

//! A synthetic study for tests and the frame benchmark: every state that a trial can have, numbers from fixed formulas.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::house::device::{DeviceInfo, DeviceSpec};
use super::house::model::{
    Fingerprint, HiddenAct, Layer, LayerPath, LayerRole, LlamaConfig, ModelFamily, ModelGraph, ModelSource, RopeOrder,
    StoredFormat,
};
use super::house::recipe::{Group, IntFormat, PartialSettings, Recipe, Rule, Sparsity, Target, WeightFormat};
use super::house::study::{
    Arm, Caution, Conditions, Energy, EnergySource, Estimate, Failure, FailureKind, Limits, Measurements, Memory,
    Outcome, Phase, PhaseSpeed, Protocol, Quality, QualityWorkload, Ratio, SampleWorkload, Speed, SpeedWorkload,
    StrategySpec, Study, StudyEvent, StudyHeader, StudySpec, TrialId, TrialSpec, WindowScore, Workload,
};

/// Six Llama blocks of width 288, as stories15M has them.
pub(super) fn graph() -> ModelGraph {
    let config = LlamaConfig {
        hidden_size: 288,
        intermediate_size: 768,
        n_blocks: 6,
        n_heads: 6,
        n_kv_heads: 6,
        head_dim: 48,
        vocab_size: 32_000,
        max_context: 256,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: None,
        rope_order: RopeOrder::Halves,
        hidden_act: HiddenAct::Silu,
        tied_head: true,
        attention_bias: false,
        mlp_bias: false,
        bos_token: Some(1),
        eos_tokens: vec![2],
        block_shapes: Vec::new(),
    };
    let layer = |path: String, block: Option<u16>, role: LayerRole, shape: [usize; 2]| Layer {
        path: LayerPath(path),
        block,
        role,
        shape,
        stored: StoredFormat::F16,
        bias_len: 0,
        rank: None,
        sparse: None,
        shared_with: None,
    };
    let mut layers = vec![layer("model.embed_tokens".to_owned(), None, LayerRole::Embedding, [32_000, 288])];
    for block in 0..6_u16 {
        for role in &LayerRole::ALL[1..8] {
            let (group, shape) = match role {
                LayerRole::GateProj | LayerRole::UpProj => ("mlp", [768, 288]),
                LayerRole::DownProj => ("mlp", [288, 768]),
                _ => ("self_attn", [288, 288]),
            };
            layers.push(layer(format!("model.layers.{block}.{group}.{}", role.name()), Some(block), *role, shape));
        }
    }
    ModelGraph {
        name: "stories15M".to_owned(),
        fingerprint: Fingerprint("synthetic".to_owned()),
        family: ModelFamily::Llama(config),
        layers,
        other_bytes: 13 * 288 * 2,
        other_weights: 13 * 288,
    }
}

fn workload() -> Workload {
    Workload {
        quality: Some(QualityWorkload {
            data: PathBuf::from("search.jsonl"),
            protocol: Protocol::Gptq,
            context: 256,
            windows: Some(24),
            dequantized: false,
        }),
        speed: Some(SpeedWorkload { prompt: 128, decode: 64, repetitions: 5 }),
        sample: Some(SampleWorkload { prompt: "Once upon a time".to_owned(), tokens: 48, temperature: 0.0 }),
    }
}

/// The first record of every study here.
pub(super) fn created() -> StudyEvent {
    let device = DeviceSpec::Cpu { threads: 2 };
    StudyEvent::StudyCreated {
        header: Box::new(StudyHeader {
            app_version: "0.1.0".to_owned(),
            spec: StudySpec {
                name: "synthetic".to_owned(),
                model: ModelSource::Safetensors { dir: PathBuf::from("stories15M") },
                device,
                also_on: Vec::new(),
                workload: workload(),
                strategy: StrategySpec::List { recipes: Vec::new() },
                limits: Limits { max_kl: Some(0.1), max_perplexity_ratio: Some(1.1) },
                budget: super::house::study::Budget::default(),
                seed: 7,
            },
            graph: graph(),
            device: DeviceInfo { memory_bytes: Some(8 << 30), ..DeviceInfo::named(device, "AMD EPYC 9R14") },
            created_unix_secs: 1_700_000_000,
            data_hash: None,
        }),
    }
}

/// A recipe by the trial's number: eight kinds in turn, later rounds named apart.
pub(super) fn recipe(id: u32) -> Recipe {
    if id == 0 {
        return Recipe::reference();
    }
    let int4 = WeightFormat::Int(IntFormat { bits: 4, group: Group::Size(32), symmetric: false });
    let mut recipe = match id % 8 {
        1 => Recipe::uniform("q8_0", WeightFormat::Q8_0, None),
        2 => Recipe::uniform("q4_0", WeightFormat::Q4_0, None),
        3 => Recipe::uniform("bf16", WeightFormat::Bf16, None),
        4 => Recipe::uniform("int4 g32", int4, None),
        5 => Recipe::uniform("magnitude 30 %", WeightFormat::Native, Some(Sparsity::magnitude(0.3))),
        6 => Recipe::uniform("q6k", WeightFormat::Q6k, None),
        7 => Recipe::uniform("q5_1", WeightFormat::Q5_1, None),
        _ => {
            let mut mixed = Recipe::uniform("q8_0, MLP q4_0", WeightFormat::Q8_0, None);
            let down = Target::Role(LayerRole::DownProj);
            let settings = PartialSettings { weights: Some(WeightFormat::Q4_0), ..PartialSettings::default() };
            mixed.rules.push(Rule::new(down, settings));
            mixed
        }
    };
    if id > 8 {
        recipe.name = format!("{} · {}", recipe.name, id / 8);
    }
    recipe
}

/// A number in 0..1 that depends on its arguments alone.
pub(super) fn noise(a: u32, b: u32) -> f64 {
    let mixed = (u64::from(a) << 32 | u64::from(b)).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    ((mixed ^ (mixed >> 32)) & 0xF_FFFF) as f64 / f64::from(0x10_0000)
}

/// KL, bits per weight and speed-up by kind of recipe.
fn character(id: u32) -> (f64, f64, f64) {
    match id {
        0 => (0.0, 16.0, 1.0),
        id => match id % 8 {
            1 => (0.0004, 8.5, 1.6),
            2 => (0.094, 4.5, 2.1),
            3 => (0.00003, 16.0, 1.0),
            4 => (0.080, 4.63, 1.0),
            5 => (0.225, 16.0, 1.005),
            6 => (0.004, 6.56, 1.45),
            7 => (0.021, 6.0, 1.3),
            _ => (0.035, 6.9, 1.8),
        },
    }
}

/// Windows of a trial's quality.
pub(super) fn windows(id: u32, n: u32) -> Vec<WindowScore> {
    let (kl, ..) = character(id);
    let spread = 1.0 + 0.3 * (noise(id, 7) - 0.5);
    (0..n)
        .map(|index| {
            let wobble = 0.6 + 0.8 * noise(id, index);
            let reference_nll = 1.21 + 0.2 * (noise(1, index) - 0.5);
            WindowScore {
                nll: reference_nll + 0.95 * kl * spread * wobble,
                reference_nll,
                kl: kl * spread * wobble,
                top1: 1.0 - 0.5 * kl.min(1.0) * wobble,
            }
        })
        .collect()
}

/// Timed samples around a median.
pub(super) fn samples(seed: u32, median_nanos: f64, n: u32) -> Vec<u64> {
    (0..n)
        .map(|index| {
            let spike = if noise(seed, index + 1000) > 0.97 { 1.8 } else { 1.0 };
            (median_nanos * spike * (0.94 + 0.12 * noise(seed, index))) as u64
        })
        .collect()
}

fn estimate(value: f64, half: f64, n: u32) -> Estimate {
    Estimate { value, ci95: [value - half, value + half], n }
}

fn phase_speed(id: u32, tokens: f64, base_secs: f64, n: u32) -> PhaseSpeed {
    let (.., speedup) = character(id);
    let jitter = 1.0 + 0.08 * (noise(id, 3) - 0.5);
    let secs = base_secs / speedup * jitter;
    let ratio = speedup / jitter;
    PhaseSpeed {
        tokens_per_second: estimate(tokens / secs, 0.02 * tokens / secs, n),
        latency_secs: estimate(secs, 0.02 * secs, n),
        p50_secs: secs,
        p90_secs: secs * 1.05,
        p99_secs: None,
        ratio: (id != 0).then_some(Ratio { value: ratio, ci95: [ratio * 0.96, ratio * 1.04], n_pairs: 5 }),
        samples_nanos: samples(id, secs * 1e9, n),
        reference_nanos: if id == 0 { Vec::new() } else { samples(id + 1, base_secs * 1e9, n) },
    }
}

/// What a trial of this kind measures.
pub(super) fn measurements(id: u32, n_samples: u32) -> Measurements {
    let (kl, bits, _) = character(id);
    let windows = windows(id, n_samples.min(24));
    let kl_here = windows.iter().map(|window| window.kl).sum::<f64>() / windows.len() as f64;
    let simulated = id != 0 && matches!(id % 8, 3 | 4);
    let weight_bytes = (9_216_000.0 * 2.0 + 5_971_968.0 * bits / 8.0) as u64 + 7488;
    Measurements {
        dequantized_quality: None,
        quality: Some(Quality {
            protocol: "gptq-256".to_owned(),
            split: "search".to_owned(),
            tokens: 6120,
            perplexity: estimate(3.357 * (0.95 * kl_here).exp(), 0.05, 24),
            reference_perplexity: 3.357,
            log_perplexity_difference: estimate(0.95 * kl_here, 0.06 * kl, 24),
            kl_mean: estimate(kl_here, 0.08 * kl, 24),
            kl_median: 0.6 * kl,
            kl_p99: 6.0 * kl,
            kl_max: 14.0 * kl,
            top1_agreement: estimate(1.0 - 0.5 * kl, 0.01, 24),
            windows,
        }),
        speed: Some(Speed {
            prompt_tokens: 128,
            decode_tokens: 64,
            prefill: phase_speed(id, 128.0, 0.060, 5.max(n_samples / 20)),
            decode: phase_speed(id, 1.0, 0.0021, n_samples),
            limits: None,
        }),
        memory: Memory {
            weight_bytes,
            held_bytes: weight_bytes * 2,
            peak_rss_bytes: Some(156 << 20 | u64::from(id) << 14),
            peak_gpu_bytes: None,
            predicted_peak_bytes: None,
        },
        energy: Some(energy(0.02 + 0.01 * f64::from(id % 7))),
        bits_per_weight: bits,
        simulated_layers: if simulated { 42 } else { 0 },
        products: BTreeMap::from([("candle f32".to_owned(), 42)]),
        compressed_layers: if id == 0 { 0 } else { 42 },
        compress_secs: 0.4,
        compression: None,
        sample_text: Some(sample_text(id)),
        conditions: Conditions {
            cpu_model: Some("AMD EPYC 9R14".to_owned()),
            threads: 2,
            load_1min: Some(1.4),
            frequency_mhz: Some(2600.0),
            temperature_celsius: None,
            busy_processes: Vec::new(),
            repeated_sections: 0,
            no_energy: None,
            build: "trimtab 0.1.0, candle 0.11.1".to_owned(),
        },
    }
}

/// Energy of a trial whose decoded token takes so many joules.
fn energy(decode_joules: f64) -> Energy {
    let around = |value: f64| Some(Estimate { value, ci95: [0.95 * value, 1.05 * value], n: 8 });
    Energy {
        source: EnergySource::RaplPackage,
        refresh_secs: 0.001,
        prefill_joules_per_token: around(decode_joules / 8.0),
        decode_joules_per_token: around(decode_joules),
        prefill_secs: 0.5,
        decode_secs: 1.1,
        trial_joules: 900.0 * decode_joules,
        trial_secs: 12.0,
    }
}

fn sample_text(id: u32) -> String {
    let toy = ["ball", "red ball", "kite", "small boat"][id as usize % 4];
    let place = ["park", "garden", "park near the lake"][id as usize % 3];
    format!(
        "Once upon a time, there was a little girl named Lily. She loved to play with her {toy} in the {place}. \
         One day, she saw a big tree and wanted to climb it. Her mom said no, and Lily was sad."
    )
}

/// The trial that the reference precedes.
pub(super) fn spec(id: u32) -> TrialSpec {
    TrialSpec {
        id: TrialId(id),
        recipe: recipe(id),
        device: DeviceSpec::Cpu { threads: 2 },
        workload: workload(),
        seed: 7,
    }
}

/// How trial `id` ends: every ninth fails.
pub(super) fn finished(id: u32, n_samples: u32) -> StudyEvent {
    let mut cautions = Vec::new();
    let outcome = if id % 9 == 6 {
        Outcome::Failed(Failure::new(
            FailureKind::OutOfMemory,
            "the worker was ended by the kernel while compressing layer 17 of 42; use fewer f32 layers",
        ))
    } else {
        let measurements = measurements(id, n_samples);
        if measurements.simulated_layers > 0 {
            cautions.push(Caution::Simulated { layers: measurements.simulated_layers });
        }
        if id % 8 == 5 {
            cautions.push(Caution::Masked { layers: 42 });
        }
        Outcome::Done(Box::new(measurements))
    };
    StudyEvent::TrialFinished {
        trial: TrialId(id),
        outcome,
        cautions,
        elapsed_secs: 6.5,
        memory_curve: (0..n_samples.min(64)).map(|at| (u64::from(at) * 100, memory_at(at))).collect(),
    }
}

fn memory_at(step: u32) -> u64 {
    let ramp = f64::from(step.min(12)) / 12.0;
    ((60.0 + 88.0 * ramp + 4.0 * noise(5, step)) * f64::from(1 << 20)) as u64
}

/// A study of `n` finished trials, the reference among them.
pub(super) fn study(n: u32) -> Study {
    let n_samples = if n > 1000 { 8 } else { 320 };
    let mut study = Study::from_events([&created()]);
    for id in 0..n {
        study.apply(&StudyEvent::TrialStarted { spec: Box::new(spec(id)) });
        study.apply(&finished(id, n_samples));
    }
    study
}

/// A study of `n` finished trials with one more that runs and has reached decode after its quality.
pub(super) fn running(n: u32) -> Study {
    let mut study = study(n);
    let trial = TrialId(n);
    study.apply(&StudyEvent::TrialStarted { spec: Box::new(spec(n)) });
    let phases = [Phase::Load, Phase::Compress, Phase::Quality, Phase::Prefill, Phase::Decode];
    for (step, phase) in (0_u32..).zip(phases) {
        for part in 0..12 {
            let at = step * 12 + part;
            let at_millis = u64::from(at) * 100;
            study.apply(&StudyEvent::MemorySampled { trial, at_millis, rss_bytes: memory_at(at) });
            study.apply(&StudyEvent::Progress { trial, phase, done: part, total: 12 });
        }
    }
    for (index, score) in (0..).zip(windows(n, 24)) {
        study.apply(&StudyEvent::QualityWindow { trial, index, score });
    }
    for (arm, seed, median) in [(Arm::Reference, 900, 2.1e6), (Arm::Variant, 901, 1.3e6)] {
        for nanos in samples(seed, median, 240) {
            study.apply(&StudyEvent::Sampled { trial, phase: Phase::Decode, arm, nanos });
        }
        for nanos in samples(seed, median * 28.0, 8) {
            study.apply(&StudyEvent::Sampled { trial, phase: Phase::Prefill, arm, nanos });
        }
    }
    study
}

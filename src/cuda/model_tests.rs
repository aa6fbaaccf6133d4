//! Whole models over the emulated card, beside the processor's pass.

use std::rc::Rc;
use std::sync::Arc;

use half::{bf16, f16};

use super::emulated_card::EmulatedCard;
use super::*;
use crate::compress::{ActivationGrid, LowRankMatrix, PackedWeights, quantize_ggml, round_to_nearest};
use crate::device::DeviceSpec;
use crate::kernels::divergence;
use crate::model::{GgmlType, HiddenAct, ModelSource, RopeOrder};
use crate::nn::Llama;
use crate::nn::toy::Toy;
use crate::recipe::{Group, IntFormat, KvCacheSettings, KvFormat};
use crate::runtime::{ModelStore, Sampling, generate};

fn device() -> Device {
    Device::emulated()
}

/// With plain loops in the place of cuBLASLt, with its twin, and without it.
fn devices() -> [Device; 3] {
    [EmulatedCard::default(), EmulatedCard::with_twin(), EmulatedCard::without_library()]
        .map(|card| Device::on(Rc::new(card)))
}

fn logits_of(host: &Llama, tokens: &[u32]) -> Vec<f32> {
    let mut cache = host.new_cache(tokens.len()).unwrap();
    let mut logits = Vec::new();
    host.next_logits(tokens, &mut cache, &mut logits).unwrap();
    logits
}

fn assert_near(found: &[f32], expected: &[f32], bound: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let most = expected.iter().fold(1.0_f32, |most, value| most.max(value.abs()));
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= bound * most, "{what} at {place}: {found} {expected}");
    }
}

/// Prompt and single tokens of a model, on the card and on the processor.
fn check(toy: &Toy, bound: f32, what: &str) {
    let host = toy.model();
    let device = device();
    let model = device.model(&host).unwrap();
    let tokens: Vec<u32> = (0..24).map(|i| i * 37 % 128).collect();
    let mut text = Text::new(&model, 32).unwrap();
    text.prefill(&tokens[..19]).unwrap();
    assert_near(&text.logits().unwrap(), &logits_of(&host, &tokens[..19]), bound, what);
    for end in 20..=tokens.len() {
        let chosen = text.step(Some(tokens[end - 1]), 0.0).unwrap();
        let (found, expected) = (text.logits().unwrap(), logits_of(&host, &tokens[..end]));
        assert_near(&found, &expected, bound, what);
        let best = (0..found.len()).fold(0, |best, i| if found[i] > found[best] { i } else { best });
        assert_eq!(chosen, Some(best as u32), "{what}");
    }
    assert_eq!(text.len(), tokens.len());
    // The same step after another text was there.
    text.truncate(0).unwrap();
    text.prefill(&tokens[..3]).unwrap();
    text.step(Some(5), 0.0).unwrap();
    assert_near(&text.logits().unwrap(), &logits_of(&host, &[tokens[0], tokens[1], tokens[2], 5]), bound, what);
}

#[test]
fn a_model_on_the_card_gives_the_processor_s_logits() {
    check(&Toy::new(|_| {}), 1e-4, "plain");
    check(&Toy::new(|config| config.rope_order = RopeOrder::Interleaved), 1e-4, "interleaved");
    check(&Toy::new(|config| config.hidden_act = HiddenAct::GeluTanh), 1e-4, "gelu tanh");
    let mut toy = Toy::new(|_| {});
    (toy.attention.window, toy.attention.sinks) = (Some(5), 2);
    check(&toy, 1e-4, "window");
    let mut toy = Toy::new(|_| {});
    toy.kv_cache = KvCacheSettings { keys: KvFormat::F16, values: KvFormat::F16 };
    // Rounding of a number at the edge between two halves may differ.
    check(&toy, 2e-3, "f16 cache");
}

#[test]
fn caches_of_blocks_give_the_host_s_numbers() {
    // A number at the edge between two codes may be stored as either.
    for (format, bound) in [(KvFormat::Q8_0, 5e-3), (KvFormat::Q4_0, 0.05)] {
        // Blocks of 32 that go over the edges of heads, rows that are padded, and keys rotated either way.
        let (halves, interleaved) = (RopeOrder::Halves, RopeOrder::Interleaved);
        for (n_kv_heads, head_dim, rope_order) in
            [(2, 16, halves), (1, 32, interleaved), (4, 24, halves), (16, 6, halves)]
        {
            let mut toy = Toy::new(|config| {
                (config.head_dim, config.n_kv_heads, config.rope_order) = (head_dim, n_kv_heads, rope_order);
                config.n_heads = n_kv_heads.max(4);
            });
            toy.kv_cache = KvCacheSettings { keys: format, values: format };
            check(&toy, bound, &format!("{} cache, {n_kv_heads} heads of {head_dim}", format.name()));
        }
    }
}

/// A toy whose layers are packed, beside the same numbers in f32.
fn check_packed(pack: impl Fn(&[f32], [usize; 2]) -> PackedWeights, grid: ActivationGrid, bound: f32, what: &str) {
    let toy = Toy::new(|_| {});
    let packed = toy.model_with(|_, shape, weights| (pack(&weights, shape), grid));
    let plain = toy.model_with(|_, shape, weights| (PackedWeights::F32(pack(&weights, shape).dequantize()), grid));
    let device = device();
    let mut text = Text::new(&device.model(&packed).unwrap(), 16).unwrap();
    let tokens = [3, 1, 4, 1, 5, 9, 2, 6, 5];
    text.prefill(&tokens[..8]).unwrap();
    text.step(Some(tokens[8]), 0.0).unwrap();
    assert_near(&text.logits().unwrap(), &logits_of(&plain, &tokens), bound, what);
}

#[test]
fn packed_layers_give_what_their_numbers_give() {
    let q8_0 = |weights: &[f32], [_, inputs]: [usize; 2]| quantize_ggml(weights, inputs, GgmlType::Q8_0).unwrap();
    check_packed(q8_0, ActivationGrid::Float, 1e-4, "q8_0");
    let int = |bits| {
        let format = IntFormat { bits, group: Group::Row, symmetric: true };
        move |weights: &[f32], [_, inputs]: [usize; 2]| {
            PackedWeights::Int(round_to_nearest(weights, inputs, format).unwrap())
        }
    };
    check_packed(int(4), ActivationGrid::Float, 1e-4, "int4");
    // An input at the edge between two codes may be rounded to either.
    check_packed(int(8), ActivationGrid::Int8PerToken, 2e-2, "int8 × int8");
    let factors = |weights: &[f32], [outputs, inputs]: [usize; 2]| {
        let part = |len: usize| PackedWeights::F32(weights[..len].to_vec());
        LowRankMatrix { up: Box::new(part(outputs * 3)), down: Arc::new(part(3 * inputs)), shape: [outputs, 3, inputs] }
    };
    check_packed(
        |weights, shape| PackedWeights::LowRank(factors(weights, shape)),
        ActivationGrid::Float,
        1e-4,
        "factors",
    );
    let corrected = |weights: &[f32], shape: [usize; 2]| PackedWeights::Corrected {
        base: Box::new(q8_0(weights, shape)),
        term: factors(weights, shape),
    };
    check_packed(corrected, ActivationGrid::Float, 1e-4, "corrected");
}

/// A prompt of many tokens through packed layers, its score, and the token behind it, beside the same numbers in f32.
///
/// The bound is that of logits relative to the largest; that of scores is in nats.
fn check_prompt(pack: impl Fn(&[f32], [usize; 2]) -> PackedWeights, grid: ActivationGrid, bound: f32, name: &str) {
    let toy = Toy::new(|_| {});
    let packed = toy.model_with(|_, shape, weights| (pack(&weights, shape), grid));
    let plain = toy.model_with(|_, shape, weights| (PackedWeights::F32(pack(&weights, shape).dequantize()), grid));
    let tokens: Vec<u32> = (0..31).map(|i| i * 53 % 128).collect();
    for (device, has_library) in devices().iter().zip([true, true, false]) {
        let model = device.model(&packed).unwrap();
        let labels: Vec<String> = model.products().into_keys().collect();
        let prompts = format!("prompts by cuBLASLt {name}");
        assert_eq!(labels.iter().any(|label| label.contains(&prompts)), has_library, "{labels:?}");
        let mut text = Text::new(&model, 32).unwrap();
        text.prefill(&tokens[..30]).unwrap();
        assert_near(&text.logits().unwrap(), &logits_of(&plain, &tokens[..30]), bound, name);
        text.step(Some(tokens[30]), 0.0).unwrap();
        assert_near(&text.logits().unwrap(), &logits_of(&plain, &tokens), bound, name);
        for (place, found) in score(&mut text, None, &tokens).unwrap().iter().enumerate() {
            let logits = logits_of(&plain, &tokens[..=place]);
            let expected = divergence(&logits, &logits, tokens[place + 1] as usize);
            let most = logits.iter().fold(1.0_f32, |most, logit| most.max(logit.abs()));
            let error = (found.nll - expected.nll).abs();
            assert!(error < 2.0 * f64::from(bound * most), "{name} {place}: {} {}", found.nll, expected.nll);
        }
        drop((text, model));
        assert_eq!(device.allocated_bytes().0, 0, "what weights are written out into is given back too");
    }
}

#[test]
fn prompts_go_through_the_library_in_every_format() {
    // Some twenty products in a row round both factors: 2^-8 for brain floats and 2^-11 for halves, at random.
    let float = ActivationGrid::Float;
    check_prompt(|weights, _| PackedWeights::F32(weights.to_vec()), float, 1e-4, "f32");
    let halves = |weights: &[f32]| weights.iter().map(|weight| f16::from_f32(*weight)).collect();
    check_prompt(|weights, _| PackedWeights::F16(halves(weights)), float, 4e-3, "f16");
    let brains = |weights: &[f32]| weights.iter().map(|weight| bf16::from_f32(*weight)).collect();
    check_prompt(|weights, _| PackedWeights::Bf16(brains(weights)), float, 3e-2, "bf16");
    let q4_0 = |weights: &[f32], [_, inputs]: [usize; 2]| quantize_ggml(weights, inputs, GgmlType::Q4_0).unwrap();
    check_prompt(q4_0, float, 4e-3, "f16");
    let format = IntFormat { bits: 8, group: Group::Row, symmetric: true };
    let int8 = |weights: &[f32], [_, inputs]: [usize; 2]| {
        PackedWeights::Int(round_to_nearest(weights, inputs, format).unwrap())
    };
    check_prompt(int8, ActivationGrid::Int8PerToken, 2e-2, "int8");
    let factors = |weights: &[f32], [outputs, inputs]: [usize; 2]| {
        let part = |len: usize| PackedWeights::Bf16(brains(&weights[..len]));
        PackedWeights::Corrected {
            base: Box::new(q4_0(weights, [outputs, inputs])),
            term: LowRankMatrix {
                up: Box::new(part(outputs * 3)),
                down: Arc::new(part(3 * inputs)),
                shape: [outputs, 3, inputs],
            },
        }
    };
    check_prompt(factors, float, 3e-2, "bf16");
}

#[test]
fn the_demo_model_continues_a_text_as_on_the_processor() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/stories15M");
    let checkpoint = crate::checkpoint::open(&ModelSource::Safetensors { dir }).unwrap();
    let store = ModelStore::load(checkpoint, DeviceSpec::Cpu { threads: 1 }, &|_, _| true).unwrap();
    let host = store.reference();
    let prompt = [1, 9038, 2501, 263, 931];
    let sampling = Sampling { temperature: 0.0, seed: 0 };
    let expected = generate(host, &prompt, 6, sampling, &|_| true).unwrap();
    let mut text = Text::new(&device().model(host).unwrap(), 16).unwrap();
    text.prefill(&prompt).unwrap();
    assert_near(&text.logits().unwrap(), &logits_of(host, &prompt), 1e-4, "stories15M");
    let mut found = vec![text.choose_first(0.0).unwrap().unwrap()];
    while found.len() < 6 {
        found.push(text.step(None, 0.0).unwrap().unwrap());
    }
    assert_eq!(found, expected);
}

#[test]
fn what_has_no_kernel_is_refused_with_its_name() {
    let mut toy = Toy::new(|_| {});
    toy.kv_cache = KvCacheSettings { keys: KvFormat::Q8_0, values: KvFormat::F16 };
    let refused = device().model(&toy.model()).unwrap_err().to_string();
    assert!(refused.contains("q8_0") && refused.contains("no kernel"), "{refused}");
    let model = device().model(&Toy::new(|_| {}).model()).unwrap();
    let mut text = Text::new(&model, 4).unwrap();
    assert!(text.prefill(&[1, 2, 3, 4, 5]).is_err() && text.prefill(&[1, 128]).is_err());
    text.prefill(&[1, 2, 3]).unwrap();
    text.step(Some(4), 0.0).unwrap();
    assert!(text.step(Some(4), 0.0).is_err(), "no place for a fifth");
}

#[test]
fn a_text_continues_itself_and_seeds_repeat() {
    let host = Toy::new(|_| {}).model();
    let model = device().model(&host).unwrap();
    let run = |temperature: f64, draws: &[f64]| {
        let mut text = Text::new(&model, 16).unwrap();
        text.prefill(&[1, 2, 3]).unwrap();
        text.set_draws(draws).unwrap();
        let mut tokens = vec![text.choose_first(temperature).unwrap().unwrap()];
        for _ in 0..4 {
            tokens.push(text.step(None, temperature).unwrap().unwrap());
        }
        tokens
    };
    let mut greedy: Vec<u32> = vec![1, 2, 3];
    for _ in 0..5 {
        let logits = logits_of(&host, &greedy);
        greedy.push((0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best }) as u32);
    }
    assert_eq!(run(0.0, &[]), greedy[3..]);
    let draws: Vec<f64> = (0..5).map(|i| f64::from(i * 37 % 100) / 100.0).collect();
    assert_eq!(run(1.5, &draws), run(1.5, &draws));
    // A draw of 0 takes the first token that has a share, whatever it is.
    assert_eq!(run(1.0, &[0.0; 5]), [0; 5]);
}

#[test]
fn a_window_is_scored_as_on_the_processor() {
    let (host, mut other) = (Toy::new(|_| {}).model(), Toy::new(|_| {}));
    for weights in other.weights.values_mut() {
        for weight in weights {
            *weight *= 1.1;
        }
    }
    let other = other.model();
    let device = device();
    let (model, variant) = (device.model(&host).unwrap(), device.model(&other).unwrap());
    let tokens: Vec<u32> = (0..40).map(|i| i * 53 % 128).collect();
    let (mut first, mut second) = (Text::new(&model, 64).unwrap(), Text::new(&variant, 64).unwrap());
    let found = score(&mut first, Some(&mut second), &tokens).unwrap();
    assert_eq!(found.len(), tokens.len() - 1);
    for (place, found) in found.iter().enumerate() {
        let (r, v) = (logits_of(&host, &tokens[..=place]), logits_of(&other, &tokens[..=place]));
        let expected = divergence(&r, &v, tokens[place + 1] as usize);
        let near = |a: f64, b: f64| (a - b).abs() < 2e-4 * (1.0 + b.abs());
        assert!(near(found.nll, expected.nll) && near(found.reference_nll, expected.reference_nll), "{place}");
        assert!(near(found.kl, expected.kl), "{place}: {} {}", found.kl, expected.kl);
    }
    let itself = score(&mut first, None, &tokens).unwrap();
    assert!(itself.iter().all(|position| position.kl == 0.0 && position.same_top1));
}

#[test]
fn matrices_are_shared_and_given_back() {
    let host = Toy::new(|_| {}).model();
    let device = device();
    let first = device.model(&host).unwrap();
    let (held, _) = device.allocated_bytes();
    let second = device.model(&host).unwrap();
    let (both, _) = device.allocated_bytes();
    assert!(both - held < held / 10, "only norms are copied again: {held} {both}");
    drop((first, second));
    assert_eq!(device.allocated_bytes().0, 0);
}

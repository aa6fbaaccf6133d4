//! Windows on their way through blocks on the emulated card, beside the processor's pass and its sums.

use std::collections::BTreeMap;
use std::rc::Rc;

use candle_core::Tensor;

use super::card::{Buffer, Card};
use super::emulated_card::EmulatedCard;
use super::moments::Sums;
use super::*;
use crate::compress::{ActivationGrid, Moments, PackedWeights, SAMPLE_TOKENS, quantize_ggml};
use crate::model::{GgmlType, LayerPath, Operation, RopeOrder};
use crate::nn::toy::{Toy, noise};
use crate::nn::{Llama, Observer, with_values};
use crate::recipe::{KvCacheSettings, KvFormat};

const ALL: [Operation; 4] = [Operation::AttentionNorm, Operation::Attention, Operation::MlpNorm, Operation::Activation];
const EVERY: usize = 3;

type Found = BTreeMap<Operation, Moments>;

fn windows() -> Vec<Vec<u32>> {
    (0..2).map(|window| (0..19).map(|at| (window * 19 + at) * 37 % 128).collect()).collect()
}

/// Sums by the processor.
struct Seen(BTreeMap<LayerPath, (Operation, Moments)>);

impl Observer for Seen {
    fn input(&mut self, layer: &LayerPath, x: &Tensor) {
        if let Some((_, moments)) = self.0.get_mut(layer) {
            with_values(x, |x| moments.observe(x, EVERY)).unwrap();
        }
    }
}

/// The inputs of a block, and the states behind it.
fn on_host(host: &Llama, states: &mut [Tensor], block: usize) -> Found {
    let parts = &host.parts().blocks[block];
    let attention = parts.attention.iter().flat_map(|part| [(ALL[0], &part.q), (ALL[1], &part.o)]);
    let mlp = parts.mlp.iter().flat_map(|part| [(ALL[2], &part.gate), (ALL[3], &part.down)]);
    let readers = attention.chain(mlp);
    let sums = readers.map(|(at, layer)| (layer.path().clone(), (at, Moments::new(layer.shape()[1]))));
    let mut seen = Seen(sums.collect());
    for state in states {
        *state = host.run_blocks(block..block + 1, state, None, Some(&mut seen)).unwrap();
    }
    seen.0.into_values().map(|(at, moments)| (at, moments.finish())).collect()
}

/// `bound` is relative: of products to the lengths of both features, of magnitudes to the largest.
fn assert_near(found: &Moments, expected: &Moments, bound: f64, what: &str) {
    let sizes = |moments: &Moments| (moments.n_inputs(), moments.n_tokens(), moments.sample().len());
    assert_eq!(sizes(found), sizes(expected), "{what}");
    let lengths: Vec<f64> = expected.sum_squares().iter().map(|sum| sum.sqrt()).collect();
    let width = found.n_inputs();
    for (place, (found, expected)) in found.gram().iter().zip(expected.gram()).enumerate() {
        let error = (found - expected).abs() / (lengths[place / width] * lengths[place % width]);
        assert!(error <= bound, "{what}: product {place} is {error:e} off");
    }
    let most = expected.max_abs().iter().fold(0.0_f32, |most, value| most.max(*value));
    let near = |found: f64, expected: f64| (found - expected).abs() <= bound * f64::from(most);
    assert!(found.mean_abs().iter().zip(expected.mean_abs()).all(|(a, b)| near(*a, b)), "{what}: means");
    let singles = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| near(f64::from(*a), f64::from(*b)));
    assert!(singles(found.max_abs(), expected.max_abs()), "{what}: largest");
    assert!(singles(found.sample(), expected.sample()), "{what}: sample");
}

fn reading(goes_on: bool) -> Reading<'static> {
    Reading { behind: &ALL, sample_every: EVERY, goes_on }
}

fn states(card: &Rc<dyn Card>, host: &Llama, rows: usize) -> States {
    States::new(card, &Rc::default(), host, &windows(), rows).unwrap()
}

/// Every block of a model, whole windows and parts of them at a time, with the library of products and without it.
fn check(host: &Llama, bound: f64, what: &str) {
    let mut on_host_states: Vec<Tensor> = windows().iter().map(|window| host.embed(window).unwrap()).collect();
    let n_blocks = host.config().n_blocks;
    let expected: Vec<Found> = (0..n_blocks).map(|block| on_host(host, &mut on_host_states, block)).collect();
    for (card, rows) in [(EmulatedCard::default(), 64), (EmulatedCard::without_library(), 10)] {
        let card: Rc<dyn Card> = Rc::new(card);
        let mut states = states(&card, host, rows);
        for (block, expected) in expected.iter().enumerate() {
            let mut heard = Vec::new();
            let mut hear = |window| {
                heard.push(window);
                true
            };
            let found = states.through_block(host, block, reading(true), &mut hear).unwrap().unwrap();
            assert_eq!(heard, [0, 1]);
            assert!(found.keys().eq(expected.keys()), "{what}: {:?}", found.keys());
            for (at, expected) in expected {
                assert_near(&found[at], expected, bound, &format!("{what}, block {block} {at:?}, {rows} rows"));
            }
        }
        drop(states);
        assert_eq!(card.allocated_bytes().0, 0, "{what}");
    }
}

#[test]
fn a_walk_on_the_card_has_the_processor_s_sums() {
    check(&Toy::new(|_| {}).model(), 1e-5, "grouped queries");
    let other = Toy::new(|config| {
        (config.n_kv_heads, config.intermediate_size, config.tied_head) = (4, 131, false);
        (config.attention_bias, config.mlp_bias, config.rope_order) = (true, true, RopeOrder::Interleaved);
    });
    check(&other.model(), 1e-5, "biases, odd channels");
}

#[test]
fn a_walk_sees_what_the_variant_s_attention_sees() {
    let mut toy = Toy::new(|_| {});
    (toy.attention.window, toy.attention.sinks) = (Some(5), 2);
    check(&toy.model(), 1e-5, "window");
    let mut toy = Toy::new(|_| {});
    toy.kv_cache = KvCacheSettings { keys: KvFormat::F16, values: KvFormat::F16 };
    // Rounding of a number at the edge between two halves may differ.
    check(&toy.model(), 2e-3, "f16 cache");
}

#[test]
fn blocks_without_a_part_have_fewer_inputs() {
    let parts = Toy::new(|_| {}).model().parts().clone();
    let without = |gone: fn(&mut crate::nn::Block, usize)| {
        let mut parts = parts.clone();
        parts.blocks.iter_mut().enumerate().for_each(|(index, block)| gone(block, index));
        let shapes: Vec<_> = parts.blocks.iter().map(crate::nn::Block::shape).collect();
        parts.config = parts.config.with_block_shapes(&shapes);
        Llama::new(parts, candle_core::Device::Cpu).unwrap()
    };
    check(
        &without(|block, index| block.attention = block.attention.take().filter(|_| index == 1)),
        1e-5,
        "no attention",
    );
    check(&without(|block, index| block.mlp = block.mlp.take().filter(|_| index == 1)), 1e-5, "no mlp");
}

#[test]
fn what_is_only_read_stays_and_another_model_may_take_it_on() {
    let dense = Toy::new(|_| {}).model();
    let pack = |_: &LayerPath, [_, inputs]: [usize; 2], weights: Vec<f32>| {
        let packed = quantize_ggml(&weights, inputs, GgmlType::Q8_0).unwrap();
        (PackedWeights::F32(packed.dequantize()), ActivationGrid::Float)
    };
    let made = Toy::new(|_| {}).model_with(pack);
    let mut on_host_states: Vec<Tensor> = windows().iter().map(|window| dense.embed(window).unwrap()).collect();
    on_host(&made, &mut on_host_states, 0);
    let expected = on_host(&dense, &mut on_host_states, 1);
    let card: Rc<dyn Card> = Rc::new(EmulatedCard::default());
    let mut states = states(&card, &dense, 64);
    let read = |states: &mut States, model, block, goes_on| {
        states.through_block(model, block, reading(goes_on), &mut |_| true).unwrap().unwrap()
    };
    let first = read(&mut states, &dense, 0, false);
    assert_eq!(read(&mut states, &dense, 0, false), first);
    let on = Reading { behind: &[], sample_every: 1, goes_on: true };
    assert!(states.through_block(&made, 0, on, &mut |_| true).unwrap().unwrap().is_empty());
    for (at, found) in read(&mut states, &dense, 1, false) {
        assert_near(&found, &expected[&at], 1e-5, &format!("{at:?}"));
    }
}

#[test]
fn the_host_holds_weights_once_that_only_the_card_multiplies() {
    let host = Toy::new(|_| {}).model();
    let card: Rc<dyn Card> = Rc::new(EmulatedCard::default());
    let mut states = states(&card, &host, 64);
    for block in 0..2 {
        states.through_block(&host, block, reading(true), &mut |_| true).unwrap().unwrap();
    }
    assert!(host.layers().all(|layer| !layer.is_made()));
}

#[test]
fn states_give_way_where_a_block_needs_the_memory() {
    let host = Toy::new(|_| {}).model();
    let all = |memory: &dyn Fn(&EmulatedCard, usize)| -> Vec<Found> {
        let emulated = Rc::new(EmulatedCard::default());
        let card: Rc<dyn Card> = emulated.clone();
        memory(&emulated, 0);
        let mut states = states(&card, &host, 10);
        memory(&emulated, 1);
        let blocks = (0..2).map(|block| states.through_block(&host, block, reading(true), &mut |_| true));
        blocks.map(|found| found.unwrap().unwrap()).collect()
    };
    let expected = all(&|_, _| {});
    // What the states take is needed behind them, by some bytes.
    let needed = Rc::new(EmulatedCard::default());
    let card: Rc<dyn Card> = needed.clone();
    let mut probe = states(&card, &host, 10);
    let held = card.allocated_bytes().0;
    probe.through_block(&host, 0, reading(true), &mut |_| true).unwrap();
    let most = card.allocated_bytes().1;
    assert!(held > 0 && most > 2 * held);
    let less = |card: &EmulatedCard, step| {
        if step == 1 {
            card.hold_at_most(most - 16);
        }
    };
    assert_eq!(all(&less), expected);
    // There is room for the embedding, but not for every window.
    let embedding = 128 * 64 * 4 + 10 * 64 * 4 + 10 * 4;
    let little = |card: &EmulatedCard, step| card.hold_at_most([embedding + held / 2, most][step]);
    assert_eq!(all(&little), expected);
    // And none for a block.
    card.forget_peak();
    needed.hold_at_most(held + 100);
    let refused = probe.through_block(&host, 1, reading(true), &mut |_| true);
    assert!(matches!(refused, Err(CudaError::Memory { .. })), "{refused:?}");
}

#[test]
fn a_walk_ends_where_it_is_told_to_and_refuses_what_does_not_fit() {
    let host = Toy::new(|_| {}).model();
    let device = Device::emulated();
    let mut states = device.states(&host, &windows()).unwrap();
    assert!(states.through_block(&host, 0, reading(true), &mut |window| window < 1).unwrap().is_none());
    assert!(device.states(&host, &[vec![1, 128]]).is_err(), "no such token");
    let mut long = device.states(&host, &[vec![1; 65]]).unwrap();
    assert!(long.through_block(&host, 0, reading(true), &mut |_| true).is_err(), "the context is 64");
    drop((states, long));
    assert_eq!(device.allocated_bytes().0, 0);
    assert!(device.kind().unwrap().contains("emulated, 9.0, with cuBLASLt"));
}

#[test]
fn sums_of_many_tokens_are_those_of_the_processor() {
    // A row that is not whole tiles, more tokens than are kept, and parts of other lengths.
    for (width, n_tokens, every) in [(131, 70, 1), (33, 700, 1), (129, 50, 4), (1, 9, 2)] {
        let x: Vec<f32> = (0..width * n_tokens).map(|i| noise(7, i, 3.0)).collect();
        let card: Rc<dyn Card> = Rc::new(EmulatedCard::default());
        let mut sums = Sums::new(&card, width, n_tokens, every).unwrap();
        let mut expected = Moments::new(width);
        for part in x.chunks(41 * width) {
            sums.add(&Buffer::of(&card, part).unwrap(), part.len() / width).unwrap();
            expected.observe(part, every);
        }
        let (found, expected) = (sums.finish().unwrap(), expected.finish());
        assert_near(&found, &expected, 1e-6, &format!("{width} {n_tokens} {every}"));
        assert_eq!((found.sample(), found.max_abs()), (expected.sample(), expected.max_abs()));
        assert_eq!(found.sample().len(), n_tokens.div_ceil(every).min(SAMPLE_TOKENS) * width);
    }
}

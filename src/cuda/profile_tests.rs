//! Passes taken apart and ceilings, over the emulated card.

use std::rc::Rc;

use super::*;
use crate::compress::{ActivationGrid, PackedWeights, round_to_nearest};
use crate::cuda::card::{Buffer, Card, Launch};
use crate::cuda::emulated_card::EmulatedCard;
use crate::model::{Arithmetic, Operation};
use crate::nn::toy::Toy;
use crate::recipe::{Group, IntFormat};

#[test]
fn every_operation_has_one_span_and_the_numbers_stay_the_same() {
    let host = Toy::new(|_| {}).model();
    let device = Device::emulated();
    let model = device.model(&host).unwrap();
    let tokens: Vec<u32> = (0..20).map(|i| i * 37 % 128).collect();
    let mut text = Text::new(&model, 24).unwrap();
    let expected = |text: &mut Text| {
        text.truncate(0).unwrap();
        text.prefill(&tokens).unwrap();
        let prompt = text.logits().unwrap();
        text.step(Some(7), 0.0).unwrap();
        (prompt, text.logits().unwrap())
    };
    let (prompt, token) = expected(&mut text);
    let launches = text.step_launches().unwrap();
    for _ in 0..2 {
        text.truncate(0).unwrap();
        for (tokens, logits) in [(&tokens[..], &prompt), (&[7][..], &token)] {
            let past = text.len();
            text.run_marked(tokens).unwrap();
            assert_eq!((text.len(), &text.logits().unwrap()), (past + tokens.len(), logits));
            let marks = text.marks().unwrap();
            let listed: Vec<_> =
                host.work(tokens.len(), past).iter().map(|work| (work.block, work.operation)).collect();
            assert_eq!(marks.iter().map(|mark| (mark.block, mark.operation)).collect::<Vec<_>>(), listed);
            assert!(marks.is_sorted_by_key(|mark| mark.end_nanos) && marks[0].end_nanos > 0);
        }
        text.truncate(tokens.len()).unwrap();
        text.run_timed(&[7]).unwrap();
        assert!(text.nanos().unwrap() > 0);
        assert_eq!(text.logits().unwrap(), token, "the recorded step");
    }
    assert_eq!(text.step_launches(), Some(launches), "it was recorded once");
    // Products and what stands between them in both blocks, beside the embedding, the last norm, the head and the choice.
    assert_eq!(launches, 2 * (7 + 2 + 3) + 4);
}

#[test]
fn a_long_prompt_in_parts_has_each_operation_once() {
    let host = Toy::new(|config| config.max_context = 600).model();
    let device = Device::emulated();
    let mut text = Text::new(&device.model(&host).unwrap(), 520).unwrap();
    let tokens: Vec<u32> = (0..520).map(|i| i * 37 % 128).collect();
    text.run_marked(&tokens).unwrap();
    let marks = text.marks().unwrap();
    assert_eq!(marks.len(), host.work(520, 0).len());
    assert!(marks.last().is_some_and(|mark| mark.operation == Operation::Head));
    assert!(marks.is_sorted_by_key(|mark| mark.end_nanos));
}

#[test]
fn the_work_counts_what_lies_on_the_card() {
    let toy = Toy::new(|_| {});
    let format = IntFormat { bits: 8, group: Group::Row, symmetric: true };
    let host = toy.model_with(|_, [_, inputs], weights| {
        let packed = PackedWeights::Int(round_to_nearest(&weights, inputs, format).unwrap());
        (packed, ActivationGrid::Int8PerToken)
    });
    let device = Device::emulated();
    let model = device.model(&host).unwrap();
    let works = model.work(&host, 3, 5);
    assert!(host.layers().all(|layer| !layer.is_made()), "the host holds its weights once");
    let products = works.iter().filter(|work| work.product.is_some());
    for work in products {
        assert!(work.product.as_ref().unwrap().contains("(cuda"), "{work:?}");
        let is_head = work.operation == Operation::Head;
        assert_eq!(work.arithmetic, if is_head { Arithmetic::Float } else { Arithmetic::Int8 }, "{work:?}");
    }
    let query = works.iter().find(|work| work.operation == Operation::Query).unwrap();
    let layer = &model.blocks[0].attention.as_ref().unwrap().q;
    let [outputs, inputs] = layer.shape().map(|n| n as u64);
    assert_eq!(query.streamed_bytes, layer.held_bytes());
    assert_eq!(query.flops, 3 * 2 * outputs * inputs);
    // What has no layer is counted as on the processor.
    let rope = |works: &[crate::nn::Work]| works.iter().find(|work| work.operation == Operation::Rope).cloned();
    assert_eq!(rope(&works), rope(&host.work(3, 5)));
}

/// One launch over `values`, which are read back.
fn after<T: bytemuck::Pod>(kernel: &str, values: &[T], turns: u64) -> Vec<T> {
    let card: Rc<dyn Card> = Rc::new(EmulatedCard::default());
    let buffer = Buffer::of(&card, values).unwrap();
    let grid = [values.len() / 256, 1, 1];
    card.launch(Launch { kernel, grid, threads: 256, args: &[buffer.address(), turns] }).unwrap();
    let mut found = values.to_vec();
    buffer.read(&mut found).unwrap();
    found
}

#[test]
fn the_kernels_of_the_ceilings_do_the_work_that_is_counted() {
    // Chains of x / 2 + 1 end at 2; there are eight, and 32 links are more than a single-precision number has bits.
    assert_eq!(after("multiply_adds", &[0.5_f32; 512], 8), [16.0; 512]);
    let dot = |a: i32, b: i32| -> i32 {
        a.to_le_bytes()
            .iter()
            .zip(b.to_le_bytes())
            .map(|(a, b)| i32::from(a.cast_signed()) * i32::from(b.cast_signed()))
            .sum()
    };
    let chain = |k: i32| (0..2 * 4).fold(k, |x, _| dot(0x0102_03fe, x) + k);
    let expected: i32 = (0..8).map(chain).sum();
    assert_eq!(after("dot_products", &[0x0102_03fe_i32; 256], 2), [expected; 256]);
    // Every word is read in every turn; lengths that are no multiple of what the threads read at once.
    let card: Rc<dyn Card> = Rc::new(EmulatedCard::default());
    for n in [1, 300, 512 * 4 * 3 + 77] {
        let words: Vec<u32> = (0..n * 4).map(|i| (i as u32).wrapping_mul(2_654_435_761)).collect();
        let (buffer, sums) = (Buffer::of(&card, &words).unwrap(), Buffer::floats(&card, 512).unwrap());
        let args = [buffer.address(), sums.address(), n as u64, 3];
        card.launch(Launch { kernel: "read_again", grid: [2, 1, 1], threads: 256, args: &args }).unwrap();
        let mut found = [0_u32; 512];
        sums.read(&mut found).unwrap();
        let sum = |values: &[u32]| values.iter().fold(0_u32, |sum, value| sum.wrapping_add(*value));
        assert_eq!(sum(&found), sum(&words).wrapping_mul(3), "{n}");
    }
}

#[test]
fn ceilings_are_rates_and_their_memory_is_given_back() {
    let device = Device::emulated();
    let found = device.ceilings().unwrap();
    assert_eq!((found.name.as_str(), found.instructions.as_str(), found.multiprocessors), ("emulated", "sm_90", 1));
    let (cache, memory) = (found.cache.unwrap(), found.memory.unwrap());
    assert_eq!((found.cache_bytes, cache.buffer_bytes, memory.buffer_bytes), (8 << 10, 4 << 10, 128 << 10));
    let rates = [cache.bytes_per_second, memory.bytes_per_second, found.float_flops, found.int8_ops];
    assert!(rates.iter().all(|rate| *rate > 0.0 && rate.is_finite()), "{found:?}");
    assert!(found.launch_secs > 0.0 && found.recorded_launch_secs > 0.0);
    assert_eq!(device.allocated_bytes().0, 0);
}

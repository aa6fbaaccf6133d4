use super::*;
use crate::model::BlockShape;
use crate::nn::Probe;
use crate::nn::toy::Toy;

/// (block, operation) of the marks of one pass.
fn ran(toy: &Toy, tokens: &[u32], past: &[u32]) -> Vec<(Option<u16>, Operation)> {
    let model = toy.model();
    let mut cache = model.new_cache(64).unwrap();
    let mut logits = Vec::new();
    if !past.is_empty() {
        model.next_logits(past, &mut cache, &mut logits).unwrap();
    }
    let mut probe = Probe::new(model.work(tokens.len(), past.len()).len());
    probe.begin();
    model.probed_logits(tokens, &mut cache, &mut logits, Some(&mut probe)).unwrap();
    probe.marks().iter().map(|mark| (mark.block, mark.operation)).collect()
}

#[test]
fn the_list_is_what_runs() {
    let shape = |(n_heads, n_kv_heads, intermediate_size)| BlockShape { n_heads, n_kv_heads, intermediate_size };
    let cut = Toy::new(|config| {
        config.n_blocks = 4;
        config.block_shapes = [(4, 2, 0), (0, 0, 96), (0, 0, 0), (2, 1, 40)].map(shape).to_vec();
    });
    for toy in [Toy::new(|_| ()), Toy::new(|config| config.tied_head = false), cut] {
        for (tokens, past) in [(&[1, 2, 3][..], &[][..]), (&[4], &[1, 2, 3])] {
            let listed = toy.model().work(tokens.len(), past.len());
            let listed: Vec<_> = listed.iter().map(|work| (work.block, work.operation)).collect();
            assert_eq!(ran(&toy, tokens, past), listed);
        }
    }
}

#[test]
fn a_probe_changes_no_bit_and_its_marks_are_contiguous() {
    let toy = Toy::new(|_| ());
    let model = toy.model();
    let (mut plain, mut probed) = (Vec::new(), Vec::new());
    let mut caches = [model.new_cache(16).unwrap(), model.new_cache(16).unwrap()];
    let n_operations = model.work(1, 0).len();
    let mut probe = Probe::new(n_operations);
    let place = probe.marks().as_ptr();
    for tokens in [&[1, 5, 99][..], &[7], &[8]] {
        let [first, second] = &mut caches;
        model.next_logits(tokens, first, &mut plain).unwrap();
        probe.begin();
        let began = std::time::Instant::now();
        model.probed_logits(tokens, second, &mut probed, Some(&mut probe)).unwrap();
        let took = began.elapsed().as_nanos();
        assert!(plain.iter().zip(&probed).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert_eq!(probe.marks().len(), n_operations);
        assert!(probe.marks().is_sorted_by_key(|mark| mark.end_nanos));
        let last = u128::from(probe.marks().last().unwrap().end_nanos);
        // The probe begins before `began` is read: what lies between is far less than a pass of this model takes.
        assert!(last <= took + 1_000_000, "{last} of {took}");
    }
    assert_eq!(probe.marks().as_ptr(), place, "no pass made room for more");
}

#[test]
fn the_counts_are_those_made_by_hand() {
    let toy = Toy::new(|_| ());
    let model = toy.model();
    let config = model.config();
    let (hidden, head_dim) = (config.hidden_size as u64, config.head_dim as u64);
    let BlockShape { n_heads, n_kv_heads, intermediate_size } = config.block_shape(0);
    let (width, kv_width) = (n_heads as u64 * head_dim, n_kv_heads as u64 * head_dim);
    let (seq, past) = (3, 5);
    let works = model.work(3, 5);
    let of = |operation| works.iter().find(|work| work.operation == operation).unwrap();
    let flops = |operation| of(operation).flops;
    assert_eq!(flops(Operation::Embedding), 0);
    assert_eq!(flops(Operation::Query), 2 * seq * hidden * width);
    assert_eq!(flops(Operation::Key), 2 * seq * hidden * kv_width);
    assert_eq!(flops(Operation::Output), 2 * seq * hidden * width);
    assert_eq!(flops(Operation::Down), 2 * seq * hidden * intermediate_size as u64);
    // Queries at 5, 6 and 7 see 6, 7 and 8 keys: a product and a sum for scores, and for mixing.
    assert_eq!(flops(Operation::Attention), 4 * (6 + 7 + 8) * width);
    assert_eq!(flops(Operation::Head), 2 * hidden * config.vocab_size as u64, "one row of logits");
    // f32 keys and values of the 5 earlier tokens.
    assert_eq!(of(Operation::Attention).streamed_bytes, past * 2 * kv_width * 4);
    let products = works.iter().filter(|work| work.product.is_some());
    let weights: u64 = products.map(|work| work.streamed_bytes).sum();
    let held: u64 = model.layers().map(|layer| layer.held_bytes()).sum();
    assert_eq!(weights, held, "every layer streams once, and a tied head is the embedding");
    // The first norm adds nothing, the others add what a part made.
    assert_eq!(flops(Operation::AttentionNorm), 4 * seq * hidden);
    assert_eq!(flops(Operation::MlpNorm), 5 * seq * hidden);
    assert_eq!(flops(Operation::FinalNorm), 4 * hidden + seq * hidden);
}

#[test]
fn a_window_sees_less() {
    let mut toy = Toy::new(|_| ());
    (toy.attention.window, toy.attention.sinks) = (Some(4), 1);
    let works = toy.model().work(1, 9);
    let attention = works.iter().find(|work| work.operation == Operation::Attention).unwrap();
    let config = &toy.config;
    let (width, kv_width) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
    // The window's 4 with its own, and the sink.
    assert_eq!(attention.flops as usize, 4 * 5 * width);
    assert_eq!(attention.streamed_bytes as usize, 4 * 2 * kv_width * 4);
}

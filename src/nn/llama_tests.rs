use super::*;
use crate::model::{BlockShape, HiddenAct, RopeOrder};
use crate::nn::toy::Toy;
use crate::recipe::{AttentionForm, KvFormat};

const TOKENS: [u32; 9] = [1, 5, 99, 0, 127, 42, 42, 7, 64];

/// Changes of the toy: with and without grouped queries, biases and a tied head, all orders and nonlinearities, and
/// blocks of other widths with parts that are gone.
const CHANGES: [fn(&mut LlamaConfig); 7] = [
    |_| (),
    |config| config.rope_order = RopeOrder::Interleaved,
    |config| (config.attention_bias, config.mlp_bias) = (true, true),
    |config| (config.tied_head, config.n_kv_heads) = (false, 4),
    |config| (config.hidden_act, config.n_kv_heads) = (HiddenAct::Gelu, 1),
    |config| config.hidden_act = HiddenAct::GeluTanh,
    |config| {
        config.n_blocks = 4;
        config.block_shapes = [(4, 2, 0), (0, 0, 96), (0, 0, 0), (2, 1, 40)].map(shape).to_vec();
        config.attention_bias = true;
    },
];

fn shape((n_heads, n_kv_heads, intermediate_size): (usize, usize, usize)) -> BlockShape {
    BlockShape { n_heads, n_kv_heads, intermediate_size }
}

fn logits(model: &Llama, tokens: &[u32]) -> Vec<Vec<f32>> {
    let hidden = model.run_all(&model.embed(tokens).unwrap(), None).unwrap();
    let normed = model.final_norm(&hidden).unwrap();
    let mut logits = Vec::new();
    with_values(&normed, |normed| model.head(normed, &mut logits)).unwrap().unwrap();
    logits.chunks(logits.len() / tokens.len()).map(<[f32]>::to_vec).collect()
}

fn next(model: &Llama, tokens: &[u32], cache: &mut KvCache) -> Vec<f32> {
    let mut logits = Vec::new();
    model.next_logits(tokens, cache, &mut logits).unwrap();
    logits
}

fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn worst_of(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    worst(&found.concat(), &expected.concat())
}

fn narrow(expected: &[Vec<f64>]) -> Vec<Vec<f32>> {
    expected.iter().map(|row| row.iter().map(|x| *x as f32).collect()).collect()
}

fn long_text() -> Vec<u32> {
    (0..300).map(|i| (i * 37 + 11) % 128).collect()
}

#[test]
fn the_forward_pass_follows_its_definition() {
    for (number, change) in CHANGES.into_iter().enumerate() {
        for (form, window, sinks) in
            [(AttentionForm::Tiled, None, 0), (AttentionForm::Naive, None, 0), (AttentionForm::Tiled, Some(3), 1)]
        {
            let mut toy = Toy::new(change);
            toy.attention = AttentionSettings { form, window, sinks };
            let expected = narrow(&toy.oracle(&TOKENS, &toy.open_gates()));
            let found = worst_of(&logits(&toy.model(), &TOKENS), &expected);
            assert!(found < 2e-4, "change {number}, {form:?} {window:?}: {found}");
        }
    }
}

#[test]
fn both_forms_give_the_same_logits_at_every_window() {
    let tokens = long_text();
    for (window, sinks) in [(None, 0), (Some(40), 0), (Some(40), 4), (Some(300), 2)] {
        let mut toy = Toy::new(|config| config.max_context = 400);
        let run = |toy: &Toy| logits(&toy.model(), &tokens);
        toy.attention = AttentionSettings { form: AttentionForm::Tiled, window, sinks };
        let tiled = run(&toy);
        toy.attention.form = AttentionForm::Naive;
        assert!(worst_of(&tiled, &run(&toy)) < 1e-4, "{window:?} {sinks}");
        if window == Some(300) {
            toy.attention = AttentionSettings::default();
            assert_eq!(tiled, run(&toy), "a window over the whole text is no window");
        }
    }
}

fn check_cache(toy: &Toy, tokens: &[u32]) {
    let name = format!("{:?} {:?} {} blocks", toy.kv_cache, toy.attention, toy.config.n_blocks);
    let model = toy.model();
    let whole = logits(&model, tokens);
    let mut cache = model.new_cache(300).unwrap();
    let mut last = next(&model, &tokens[..100], &mut cache);
    for position in 100..tokens.len() {
        assert!(worst(&last, &whole[position - 1]) < 1e-4, "{name} at {position}");
        last = next(&model, &tokens[position..=position], &mut cache);
    }
    // A prompt in two parts, after forgetting what came behind the first.
    cache.truncate(100);
    let appended = next(&model, &tokens[100..], &mut cache);
    assert!(worst(&appended, &last) < 1e-4 && worst(&appended, &whole[299]) < 1e-4, "{name}");
}

#[test]
fn the_cache_gives_what_the_whole_text_gives() {
    let tokens = long_text();
    let formats =
        KvFormat::ALL.into_iter().flat_map(|keys| [(keys, KvFormat::F32), (keys, KvFormat::Q4_0), (keys, keys)]);
    for (keys, values) in formats {
        // Later blocks read states whose last bits depend on how many queries ran together, and a number at the edge
        // between two steps of a coarser format may then fall to either side.
        let is_exact = [keys, values] == [KvFormat::F32; 2];
        let n_blocks = if is_exact { 2 } else { 1 };
        let mut toy = Toy::new(|config| (config.max_context, config.n_blocks) = (400, n_blocks));
        toy.kv_cache = KvCacheSettings { keys, values };
        for (window, form) in [(None, AttentionForm::Tiled), (Some(50), AttentionForm::Tiled)] {
            toy.attention = AttentionSettings { form, window, sinks: usize::from(window.is_some()) };
            check_cache(&toy, &tokens);
        }
        if keys == values {
            toy.attention.form = AttentionForm::Naive;
            check_cache(&toy, &tokens);
        }
    }
}

#[test]
fn coarser_caches_err_more_and_hold_fewer_bytes() {
    let tokens = long_text();
    let run = |keys, values| {
        let mut toy = Toy::new(|config| config.max_context = 400);
        toy.kv_cache = KvCacheSettings { keys, values };
        let model = toy.model();
        (logits(&model, &tokens), model.new_cache(400).unwrap().bytes())
    };
    let (exact, f32_bytes) = run(KvFormat::F32, KvFormat::F32);
    // Two blocks, keys and values of 2 × 16, 400 tokens.
    assert_eq!(f32_bytes, 2 * 2 * 32 * 400 * 4);
    let error = |keys, values| worst_of(&run(keys, values).0, &exact);
    // Logits reach ±9. Half precision rounds by 2⁻¹¹ and q8_0 by 1/254 of the largest of a block.
    for (format, bytes, least, most) in [
        (KvFormat::F16, 2 * 2 * 64 * 400, 1e-5, 0.02),
        (KvFormat::Q8_0, 2 * 2 * 34 * 400, 1e-3, 0.2),
        (KvFormat::Q4_0, 2 * 2 * 18 * 400, 0.02, 3.0),
    ] {
        assert_eq!(run(format, format).1, bytes);
        for (keys, values) in [(format, format), (format, KvFormat::F32), (KvFormat::F32, format)] {
            let found = error(keys, values);
            assert!((least..most).contains(&found), "{keys:?} {values:?}: {found}");
        }
    }
    let mixed = run(KvFormat::Q8_0, KvFormat::F16).1;
    assert_eq!(mixed, 2 * (34 + 64) * 400);
}

#[test]
fn a_dropped_block_is_the_identity() {
    let mut dropped = Toy::new(|_| ());
    let mut silent = dropped.clone();
    for name in ["self_attn.o_proj", "mlp.down_proj"] {
        silent.weights.get_mut(&format!("model.layers.1.{name}.weight")).unwrap().fill(0.0);
    }
    dropped.config.block_shapes = [(4, 2, 192), (0, 0, 0)].map(shape).to_vec();
    assert_eq!(logits(&dropped.model(), &TOKENS), logits(&silent.model(), &TOKENS));
    let layers: Vec<String> = dropped.model().layers().map(|layer| layer.path().0.clone()).collect();
    assert!(layers.len() == 8 && !layers.iter().any(|path| path.contains("layers.1")), "{layers:?}");
}

/// Keeps these rows (of `len`) of a matrix.
fn keep_rows(values: &[f32], len: usize, rows: impl Iterator<Item = usize>) -> Vec<f32> {
    rows.flat_map(|row| values[row * len..][..len].to_vec()).collect()
}

fn keep_columns(values: &[f32], len: usize, columns: &[usize]) -> Vec<f32> {
    values.chunks(len).flat_map(|row| columns.iter().map(|column| row[*column])).collect()
}

#[test]
fn a_shrunk_model_is_the_masked_one() {
    for change in [CHANGES[0], CHANGES[2], CHANGES[3]] {
        let toy = Toy::new(change);
        let config = &toy.config;
        let group = config.n_heads / config.n_kv_heads;
        let channels: Vec<usize> = (0..192).filter(|channel| channel % 3 != 1).collect();
        // Every key-value head but the first, with the queries that share it.
        let kv: Vec<usize> = (16..16 * config.n_kv_heads).collect();
        let queries: Vec<usize> = (16 * group..64).collect();
        let (mut masked, mut shrunk) = (toy.clone(), toy.clone());
        let alike = shape((4, config.n_kv_heads, 192));
        shrunk.config.block_shapes =
            vec![alike, shape(((config.n_kv_heads - 1) * group, config.n_kv_heads - 1, channels.len()))];
        let layer = |name: &str| format!("model.layers.1.{name}");
        for (name, len, kept) in [("self_attn.o_proj", 64, &queries), ("mlp.down_proj", 192, &channels)] {
            let name = layer(name) + ".weight";
            for row in masked.weights.get_mut(&name).unwrap().chunks_mut(len) {
                row.iter_mut().enumerate().filter(|(i, _)| !kept.contains(i)).for_each(|(_, weight)| *weight = 0.0);
            }
            shrunk.weights.insert(name.clone(), keep_columns(&toy.weights[&name], len, kept));
        }
        for (name, kept) in [
            ("self_attn.q_proj", &queries),
            ("self_attn.k_proj", &kv),
            ("self_attn.v_proj", &kv),
            ("mlp.gate_proj", &channels),
            ("mlp.up_proj", &channels),
        ] {
            for (name, len) in [(layer(name) + ".weight", 64), (layer(name) + ".bias", 1)] {
                let Some(values) = toy.weights.get(&name) else { continue };
                shrunk.weights.insert(name, keep_rows(values, len, kept.iter().copied()));
            }
        }
        let (masked, shrunk) = (masked.model(), shrunk.model());
        assert!(worst_of(&logits(&shrunk, &TOKENS), &logits(&masked, &TOKENS)) < 1e-4);
        let bytes = |model: &Llama| model.new_cache(8).unwrap().bytes();
        assert!(bytes(&shrunk) < bytes(&masked), "a smaller block has a smaller cache");
    }
}

struct Inputs(Vec<(String, Vec<usize>)>);
impl Observer for Inputs {
    fn input(&mut self, layer: &LayerPath, x: &Tensor) {
        self.0.push((layer.0.clone(), x.dims().to_vec()));
    }
}

#[test]
fn a_pass_can_be_entered_at_a_block_boundary_and_observed() {
    let model = Toy::new(CHANGES[6]).model();
    let mut observer = Inputs(Vec::new());
    let embedded = model.embed(&TOKENS).unwrap();
    let whole = model.run_blocks(0..4, &embedded, None, Some(&mut observer)).unwrap();
    let boundary = model.run_blocks(0..1, &embedded, None, None).unwrap();
    let restarted = model.run_blocks(1..4, &boundary, None, None).unwrap();
    assert_eq!(whole.to_vec2::<f32>().unwrap(), restarted.to_vec2::<f32>().unwrap());
    let in_blocks = model.layers().skip(1).map(|layer| (layer.path().0.clone(), vec![9, layer.shape()[1]]));
    assert_eq!(observer.0, in_blocks.collect::<Vec<_>>());
    // The ranges of a pass over a cache see the same tokens, which count once.
    let mut cache = model.new_cache(20).unwrap();
    model.run_all(&embedded, Some(&mut cache)).unwrap();
    let boundary = model.run_blocks(0..3, &embedded, Some(&mut cache), None).unwrap();
    assert_eq!(cache.len(), 9);
    let behind = model.run_blocks(3..4, &boundary, Some(&mut cache), None).unwrap();
    assert_eq!(cache.len(), 18);
    let twice = model.embed(&[TOKENS, TOKENS].concat()).unwrap();
    let twice = model.run_all(&twice, None).unwrap().narrow(0, 9, 9).unwrap();
    assert!(worst_of(&behind.to_vec2().unwrap(), &twice.to_vec2().unwrap()) < 1e-4);
}

#[test]
fn what_does_not_fit_is_refused() {
    let toy = Toy::new(|_| ());
    let model = toy.model();
    assert!(matches!(model.embed(&[128]), Err(NnError::Token { token: 128, vocab_size: 128 })));
    assert!(matches!(model.new_cache(65), Err(NnError::Context { .. })));
    let mut cache = model.new_cache(4).unwrap();
    assert!(matches!(
        model.next_logits(&[1; 5], &mut cache, &mut Vec::new()),
        Err(NnError::Context { needed: 5, context: 4 })
    ));
    let mut other = toy.clone();
    other.kv_cache.keys = KvFormat::Q8_0;
    assert!(matches!(other.model().next_logits(&[1], &mut cache, &mut Vec::new()), Err(NnError::Shape(_))));
    let mut narrow = Toy::new(|config| config.n_kv_heads = 1);
    assert!(matches!(narrow.model().next_logits(&[1], &mut cache, &mut Vec::new()), Err(NnError::Shape(_))));
    // Keys of 16 are half a block.
    narrow.kv_cache.keys = KvFormat::Q4_0;
    assert!(matches!(narrow.model().new_cache(4), Err(NnError::Shape(_))));
    let mut parts = model.parts().clone();
    parts.blocks[1].mlp = None;
    assert!(matches!(Llama::new(parts, Device::Cpu), Err(NnError::Missing(_))));
    let mut parts = model.parts().clone();
    parts.attention.window = Some(0);
    assert!(matches!(Llama::new(parts, Device::Cpu), Err(NnError::Shape(_))));
}

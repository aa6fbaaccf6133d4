use std::collections::BTreeMap;

use super::*;
use crate::compress::PackedWeights;
use crate::model::{ModelFamily, RopeOrder, fixtures::tiny_graph};
use crate::recipe::Execution;

/// A number in ±`scale` for position `i` of the tensor `seed`.
fn noise(seed: usize, i: usize, scale: f32) -> f32 {
    let hash = ((seed * 1_000_003 + i) as u32).wrapping_mul(2_654_435_761);
    let hash = (hash ^ (hash >> 15)).wrapping_mul(2_246_822_519);
    ((hash >> 8) as f32 / (1 << 24) as f32 - 0.5) * 2.0 * scale
}

struct Tiny {
    config: LlamaConfig,
    weights: BTreeMap<String, Vec<f32>>,
    model: Llama,
}

fn tiny(change: impl Fn(&mut LlamaConfig)) -> Tiny {
    let graph = tiny_graph();
    let ModelFamily::Llama(mut config) = graph.family.clone();
    change(&mut config);
    let mut weights = BTreeMap::new();
    let mut layers = Vec::new();
    for (seed, layer) in graph.layers.iter().enumerate() {
        let n = layer.shape[0] * layer.shape[1];
        let values: Vec<f32> = (0..n).map(|i| noise(seed, i, 0.3)).collect();
        let packed = PackedWeights::F32(values.clone());
        let linear =
            Linear::new(layer.path.clone(), packed, layer.shape, Execution::Packed, None, &Device::Cpu).unwrap();
        weights.insert(layer.path.0.clone(), values);
        layers.push(Arc::new(linear));
    }
    let norm = |seed: usize| {
        let values: Vec<f32> = (0..64).map(|i| 1.0 + noise(seed, i, 0.2)).collect();
        Tensor::from_vec(values, 64, &Device::Cpu).unwrap()
    };
    let blocks = (0..2).map(|block| std::array::from_fn(|i| layers[1 + block * 7 + i].clone())).collect();
    let norms: Vec<[Tensor; 2]> = (0..2).map(|block| [norm(50 + block), norm(60 + block)]).collect();
    for (block, [a, b]) in norms.iter().enumerate() {
        weights.insert(format!("norm.{block}.0"), a.to_vec1().unwrap());
        weights.insert(format!("norm.{block}.1"), b.to_vec1().unwrap());
    }
    weights.insert("norm.final".to_owned(), norm(70).to_vec1().unwrap());
    let parts = LlamaParts {
        config: config.clone(),
        embedding: layers[0].clone(),
        blocks,
        norms,
        final_norm: norm(70),
        head: None,
        rotary: Arc::new(Rotary::new(&config, None)),
    };
    Tiny { config, weights, model: Llama::new(parts, Device::Cpu).unwrap() }
}

/// The forward pass by its definition: plain loops in f64, every head on its own.
impl Tiny {
    fn product(&self, path: &str, x: &[f64]) -> Vec<f64> {
        self.weights[path].chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()).collect()
    }

    fn rms(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (mean + self.config.rms_norm_eps).sqrt();
        x.iter().zip(&self.weights[name]).map(|(x, w)| x * scale * f64::from(*w)).collect()
    }

    fn rotate(&self, head: &mut [f64], position: usize) {
        let half = head.len() / 2;
        for pair in 0..half {
            let (a, b) = match self.config.rope_order {
                RopeOrder::Halves => (pair, pair + half),
                RopeOrder::Interleaved => (2 * pair, 2 * pair + 1),
            };
            let angle = position as f64 * self.config.rope_theta.powf(-2.0 * pair as f64 / head.len() as f64);
            let (sin, cos) = angle.sin_cos();
            (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
        }
    }

    fn oracle(&self, tokens: &[u32]) -> Vec<Vec<f64>> {
        let d = self.config.head_dim;
        let embedding = &self.weights["model.embed_tokens"];
        let row = |token: u32| embedding[token as usize * 64..][..64].iter().map(|x| f64::from(*x)).collect();
        let mut hidden: Vec<Vec<f64>> = tokens.iter().map(|token| row(*token)).collect();
        for block in 0..2 {
            let path = |name: &str| format!("model.layers.{block}.{name}");
            let mut keys = Vec::new();
            let mut values = Vec::new();
            for (position, x) in hidden.iter_mut().enumerate() {
                let normed = self.rms(&format!("norm.{block}.0"), x);
                let mut query = self.product(&path("self_attn.q_proj"), &normed);
                let mut key = self.product(&path("self_attn.k_proj"), &normed);
                query.chunks_mut(d).chain(key.chunks_mut(d)).for_each(|head| self.rotate(head, position));
                keys.push(key);
                values.push(self.product(&path("self_attn.v_proj"), &normed));
                let mut mixed = vec![0.0; 64];
                for head in 0..4 {
                    let shared = head / 2 * d;
                    let query = &query[head * d..][..d];
                    let scores: Vec<f64> = keys
                        .iter()
                        .map(|key| key[shared..][..d].iter().zip(query).map(|(k, q)| k * q).sum::<f64>() / 4.0)
                        .collect();
                    let max = scores.iter().fold(f64::MIN, |max, score| max.max(*score));
                    let total: f64 = scores.iter().map(|score| (score - max).exp()).sum();
                    for (score, value) in scores.iter().zip(&values) {
                        for i in 0..d {
                            mixed[head * d + i] += (score - max).exp() / total * value[shared + i];
                        }
                    }
                }
                for (x, y) in x.iter_mut().zip(self.product(&path("self_attn.o_proj"), &mixed)) {
                    *x += y;
                }
                let normed = self.rms(&format!("norm.{block}.1"), x);
                let gate = self.product(&path("mlp.gate_proj"), &normed);
                let up = self.product(&path("mlp.up_proj"), &normed);
                let inner: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                for (x, y) in x.iter_mut().zip(self.product(&path("mlp.down_proj"), &inner)) {
                    *x += y;
                }
            }
        }
        hidden.iter().map(|x| self.product("model.embed_tokens", &self.rms("norm.final", x))).collect()
    }
}

const TOKENS: [u32; 9] = [1, 5, 99, 0, 127, 42, 42, 7, 64];

fn logits(model: &Llama, tokens: &[u32]) -> Vec<Vec<f32>> {
    let hidden = model.run_blocks(0, model.embed(tokens).unwrap(), None, None).unwrap();
    model.head(&model.final_norm(&hidden).unwrap()).unwrap().to_vec2().unwrap()
}

fn assert_close(found: &[f32], expected: &[f64], tolerance: f64) {
    for (found, expected) in found.iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() < tolerance, "{found} {expected}");
    }
}

#[test]
fn the_forward_pass_follows_its_definition() {
    for order in [RopeOrder::Halves, RopeOrder::Interleaved] {
        let tiny = tiny(|config| config.rope_order = order);
        let expected = tiny.oracle(&TOKENS);
        for (found, expected) in logits(&tiny.model, &TOKENS).iter().zip(&expected) {
            assert_close(found, expected, 2e-4);
        }
    }
}

#[test]
fn the_cache_gives_what_the_whole_text_gives() {
    let tiny = tiny(|_| ());
    let expected = tiny.oracle(&TOKENS);
    for split in [1, 4, 8] {
        let mut cache = tiny.model.new_cache(16).unwrap();
        let first = tiny.model.next_logits(&TOKENS[..split], &mut cache).unwrap();
        assert_close(&first.to_vec1().unwrap(), &expected[split - 1], 2e-4);
        for position in split..TOKENS.len() {
            let next = tiny.model.next_logits(&TOKENS[position..=position], &mut cache).unwrap();
            assert_close(&next.to_vec1().unwrap(), &expected[position], 2e-4);
        }
        cache.truncate(split);
        let again = tiny.model.next_logits(&TOKENS[split..], &mut cache).unwrap();
        assert_close(&again.to_vec1().unwrap(), expected.last().unwrap(), 2e-4);
    }
}

struct FirstInput(Option<Tensor>);
impl Observer for FirstInput {
    fn input(&mut self, layer: &LayerPath, x: &Tensor) {
        if layer.0 == "model.layers.1.self_attn.q_proj" {
            self.0 = Some(x.clone());
        }
    }
}

#[test]
fn a_pass_can_be_entered_at_a_block_boundary() {
    let tiny = tiny(|_| ());
    let model = &tiny.model;
    let mut observer = FirstInput(None);
    let whole = model.run_blocks(0, model.embed(&TOKENS).unwrap(), None, Some(&mut observer)).unwrap();
    assert_eq!(observer.0.unwrap().dims(), [TOKENS.len(), 64]);
    // The hidden state at the boundary, from a pass that has only the first block.
    let masks = model.causal_masks(9, 0).unwrap();
    let angles = model.parts.rotary.angles(0, 9, &Device::Cpu).unwrap();
    let step = Step { block: 0, position: 0, angles: &angles, masks: &masks, cache: None };
    let boundary = model.run_block(model.embed(&TOKENS).unwrap(), &step, &mut None).unwrap();
    let restarted = model.run_blocks(1, boundary, None, None).unwrap();
    assert_eq!(whole.to_vec2::<f32>().unwrap(), restarted.to_vec2::<f32>().unwrap());
}

#[test]
fn runs_of_queries_give_what_single_tokens_give() {
    let tiny = tiny(|config| config.max_context = 400);
    let tokens: Vec<u32> = (0..300).map(|i| (i * 37 + 11) % 128).collect();
    let whole = logits(&tiny.model, &tokens);
    let mut cache = tiny.model.new_cache(300).unwrap();
    for (position, token) in tokens.iter().enumerate() {
        let alone: Vec<f32> = tiny.model.next_logits(&[*token], &mut cache).unwrap().to_vec1().unwrap();
        let worst = alone.iter().zip(&whole[position]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{worst} at {position}");
    }
    // A prompt in two parts, the second of which starts inside a run.
    let mut cache = tiny.model.new_cache(300).unwrap();
    tiny.model.next_logits(&tokens[..100], &mut cache).unwrap();
    let last: Vec<f32> = tiny.model.next_logits(&tokens[100..], &mut cache).unwrap().to_vec1().unwrap();
    assert!(last.iter().zip(&whole[299]).all(|(a, b)| (a - b).abs() < 1e-4));
}

#[test]
fn what_does_not_fit_is_refused() {
    let model = tiny(|_| ()).model;
    assert!(matches!(model.embed(&[128]), Err(NnError::Token { token: 128, vocab_size: 128 })));
    assert!(matches!(model.new_cache(65), Err(NnError::Context { .. })));
    let mut cache = model.new_cache(4).unwrap();
    assert!(matches!(model.next_logits(&[1; 5], &mut cache), Err(NnError::Context { needed: 5, context: 4 })));
}

//! Small seeded transformers for tests, and their forward pass by its definition.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::compress::{ActivationGrid, PackedWeights};
use crate::model::{HiddenAct, LayerPath, LayerRole, LlamaConfig, ModelFamily, RopeOrder, fixtures::tiny_graph};
use crate::nn::{Attention, Block, Linear, LinearParts, Llama, LlamaParts, Mlp, Rotary};
use crate::recipe::{AttentionSettings, Execution, KvCacheSettings};

/// The linear layers of a block by the last parts of their paths.
const LAYERS: [(LayerRole, &str); 7] = [
    (LayerRole::QProj, "self_attn.q_proj"),
    (LayerRole::KProj, "self_attn.k_proj"),
    (LayerRole::VProj, "self_attn.v_proj"),
    (LayerRole::OProj, "self_attn.o_proj"),
    (LayerRole::GateProj, "mlp.gate_proj"),
    (LayerRole::UpProj, "mlp.up_proj"),
    (LayerRole::DownProj, "mlp.down_proj"),
];

/// A transformer with its weights, which may be changed before the model is made.
#[derive(Clone)]
pub(crate) struct Toy {
    pub(crate) config: LlamaConfig,
    /// By Hugging Face name: `model.layers.0.mlp.up_proj.weight`.
    pub(crate) weights: BTreeMap<String, Vec<f32>>,
    pub(crate) attention: AttentionSettings,
    pub(crate) kv_cache: KvCacheSettings,
}

/// Factors on heads and channels, block by block.
#[derive(Clone)]
pub(crate) struct Gates {
    pub(crate) heads: Vec<Vec<f64>>,
    pub(crate) channels: Vec<Vec<f64>>,
}

/// A number in ±`scale` for position `i` of the tensor `seed`.
pub(crate) fn noise(seed: usize, i: usize, scale: f32) -> f32 {
    let hash = ((seed * 1_000_003 + i) as u32).wrapping_mul(2_654_435_761);
    let hash = (hash ^ (hash >> 15)).wrapping_mul(2_246_822_519);
    ((hash >> 8) as f32 / (1 << 24) as f32 - 0.5) * 2.0 * scale
}

impl Toy {
    /// Width 64, two blocks, 4 query heads that share 2 key-value heads of 16, an MLP of 192, a tied head, 128 tokens,
    /// a context of 64, no bias; `change` makes it another one.
    pub(crate) fn new(change: impl FnOnce(&mut LlamaConfig)) -> Self {
        let ModelFamily::Llama(mut config) = tiny_graph().family;
        change(&mut config);
        let mut toy = Self {
            config: config.clone(),
            weights: BTreeMap::new(),
            attention: AttentionSettings::default(),
            kv_cache: KvCacheSettings::default(),
        };
        let hidden = config.hidden_size;
        toy.fill("model.embed_tokens.weight", config.vocab_size * hidden, 0.0, 0.3);
        if !config.tied_head {
            toy.fill("lm_head.weight", config.vocab_size * hidden, 0.0, 0.3);
        }
        toy.fill("model.norm.weight", hidden, 1.0, 0.2);
        for block in 0..config.n_blocks {
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                toy.fill(&format!("model.layers.{block}.{norm}.weight"), hidden, 1.0, 0.2);
            }
            for (role, name) in LAYERS {
                let Some([rows, row_len]) = config.block_shape(block).layer_shape(&config, role) else { continue };
                toy.fill(&format!("model.layers.{block}.{name}.weight"), rows * row_len, 0.0, 0.3);
                let has_bias = if name.starts_with("mlp") { config.mlp_bias } else { config.attention_bias };
                if has_bias {
                    toy.fill(&format!("model.layers.{block}.{name}.bias"), rows, 0.0, 0.3);
                }
            }
        }
        toy
    }

    fn fill(&mut self, name: &str, len: usize, center: f32, scale: f32) {
        let seed = self.weights.len() + 1;
        self.weights.insert(name.to_owned(), (0..len).map(|i| center + noise(seed, i, scale)).collect());
    }

    /// The model, all layers in f32.
    pub(crate) fn model(&self) -> Llama {
        self.model_with(|_, _, weights| (PackedWeights::F32(weights), ActivationGrid::Float))
    }

    /// The model with each layer of the blocks packed from its shape and weights.
    pub(crate) fn model_with(
        &self,
        pack: impl Fn(&LayerPath, [usize; 2], Vec<f32>) -> (PackedWeights, ActivationGrid),
    ) -> Llama {
        let config = self.config.clone();
        let linear = |path: String, shape: [usize; 2], pack: &dyn Fn(&LayerPath, [usize; 2], Vec<f32>) -> _| {
            let bias = self.weights.get(&format!("{path}.bias"));
            let weights = self.weights[&format!("{path}.weight")].clone();
            let path = LayerPath(path);
            let (packed, activations) = pack(&path, shape, weights);
            let bias = bias.map(|bias| tensor(bias));
            let parts = LinearParts { path, packed, shape, execution: Execution::Packed, bias, activations };
            Arc::new(Linear::new(parts).unwrap())
        };
        let whole = |_: &LayerPath, _: [usize; 2], weights| (PackedWeights::F32(weights), ActivationGrid::Float);
        let table = [config.vocab_size, config.hidden_size];
        let blocks = (0..config.n_blocks).map(|block| {
            let shape = config.block_shape(block);
            let layer = |index: usize| {
                let (role, name) = LAYERS[index];
                let shape = shape.layer_shape(&config, role).unwrap();
                linear(format!("model.layers.{block}.{name}"), shape, &pack)
            };
            let norm = |name: &str| tensor(&self.weights[&format!("model.layers.{block}.{name}.weight")]);
            Block {
                attention: (shape.n_heads > 0).then(|| Attention {
                    norm: norm("input_layernorm"),
                    q: layer(0),
                    k: layer(1),
                    v: layer(2),
                    o: layer(3),
                    n_heads: shape.n_heads,
                    n_kv_heads: shape.n_kv_heads,
                }),
                mlp: (shape.intermediate_size > 0).then(|| Mlp {
                    norm: norm("post_attention_layernorm"),
                    gate: layer(4),
                    up: layer(5),
                    down: layer(6),
                }),
            }
        });
        let parts = LlamaParts {
            embedding: linear("model.embed_tokens".to_owned(), table, &whole),
            blocks: blocks.collect(),
            final_norm: tensor(&self.weights["model.norm.weight"]),
            head: (!config.tied_head).then(|| linear("lm_head".to_owned(), table, &whole)),
            rotary: Arc::new(Rotary::new(&config, None)),
            attention: self.attention,
            kv_cache: self.kv_cache,
            config,
        };
        Llama::new(parts, Device::Cpu).unwrap()
    }

    /// Gates that change nothing.
    pub(crate) fn open_gates(&self) -> Gates {
        let shapes: Vec<_> = (0..self.config.n_blocks).map(|block| self.config.block_shape(block)).collect();
        Gates {
            heads: shapes.iter().map(|shape| vec![1.0; shape.n_heads]).collect(),
            channels: shapes.iter().map(|shape| vec![1.0; shape.intermediate_size]).collect(),
        }
    }

    /// Logits of every token by the definition of the forward pass: plain loops in f64, every head on its own.
    pub(crate) fn oracle(&self, tokens: &[u32], gates: &Gates) -> Vec<Vec<f64>> {
        let hidden = self.config.hidden_size;
        let embedding = &self.weights["model.embed_tokens.weight"];
        let row = |token: u32| embedding[token as usize * hidden..][..hidden].iter().map(|x| f64::from(*x)).collect();
        let mut states: Vec<Vec<f64>> = tokens.iter().map(|token| row(*token)).collect();
        for block in 0..self.config.n_blocks {
            let shape = self.config.block_shape(block);
            if shape.n_heads > 0 {
                self.attend(block, &mut states, &gates.heads[block]);
            }
            if shape.intermediate_size > 0 {
                self.feed_forward(block, &mut states, &gates.channels[block]);
            }
        }
        let head = if self.config.tied_head { "model.embed_tokens" } else { "lm_head" };
        states.iter().map(|x| self.product(head, &self.rms("model.norm", x))).collect()
    }

    /// Mean negative log likelihood of the tokens after the first.
    pub(crate) fn loss(&self, tokens: &[u32], gates: &Gates) -> f64 {
        let logits = self.oracle(tokens, gates);
        let positions = logits.iter().zip(&tokens[1..]).map(|(logits, target)| {
            let max = logits.iter().fold(f64::MIN, |max, x| max.max(*x));
            logits.iter().map(|x| (x - max).exp()).sum::<f64>().ln() + max - logits[*target as usize]
        });
        positions.sum::<f64>() / (tokens.len() - 1) as f64
    }

    fn attend(&self, block: usize, states: &mut [Vec<f64>], gates: &[f64]) {
        let d = self.config.head_dim;
        let group = gates.len() / self.config.block_shape(block).n_kv_heads;
        let path = |name: &str| format!("model.layers.{block}.self_attn.{name}");
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let (window, sinks) = (self.attention.window.unwrap_or(usize::MAX), self.attention.sinks);
        for (position, x) in states.iter_mut().enumerate() {
            let normed = self.rms(&format!("model.layers.{block}.input_layernorm"), x);
            let mut query = self.product(&path("q_proj"), &normed);
            let mut key = self.product(&path("k_proj"), &normed);
            query.chunks_mut(d).chain(key.chunks_mut(d)).for_each(|head| self.rotate(head, position));
            keys.push(key);
            values.push(self.product(&path("v_proj"), &normed));
            let seen: Vec<usize> = (0..=position).filter(|key| position - key < window || *key < sinks).collect();
            let mut mixed = vec![0.0; gates.len() * d];
            for (head, gate) in gates.iter().enumerate() {
                let shared = head / group * d;
                let query = &query[head * d..][..d];
                let score = |key: &usize| {
                    let products = keys[*key][shared..][..d].iter().zip(query).map(|(k, q)| k * q);
                    products.sum::<f64>() / (d as f64).sqrt()
                };
                let scores: Vec<f64> = seen.iter().map(score).collect();
                let max = scores.iter().fold(f64::MIN, |max, score| max.max(*score));
                let total: f64 = scores.iter().map(|score| (score - max).exp()).sum();
                for (score, key) in scores.iter().zip(&seen) {
                    for i in 0..d {
                        mixed[head * d + i] += gate * (score - max).exp() / total * values[*key][shared + i];
                    }
                }
            }
            for (x, y) in x.iter_mut().zip(self.product(&path("o_proj"), &mixed)) {
                *x += y;
            }
        }
    }

    fn feed_forward(&self, block: usize, states: &mut [Vec<f64>], gates: &[f64]) {
        let path = |name: &str| format!("model.layers.{block}.mlp.{name}");
        let act = |x: f64| match self.config.hidden_act {
            HiddenAct::Silu => x / (1.0 + (-x).exp()),
            HiddenAct::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
            }
            HiddenAct::Gelu => 0.5 * x * (1.0 + statrs::function::erf::erf(x / 2.0_f64.sqrt())),
        };
        for x in states {
            let normed = self.rms(&format!("model.layers.{block}.post_attention_layernorm"), x);
            let gate = self.product(&path("gate_proj"), &normed);
            let up = self.product(&path("up_proj"), &normed);
            let inner: Vec<f64> = gate.iter().zip(up).zip(gates).map(|((g, u), gate)| act(*g) * u * gate).collect();
            for (x, y) in x.iter_mut().zip(self.product(&path("down_proj"), &inner)) {
                *x += y;
            }
        }
    }

    fn product(&self, path: &str, x: &[f64]) -> Vec<f64> {
        let rows = self.weights[&format!("{path}.weight")].chunks(x.len());
        let mut y: Vec<f64> = rows.map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()).collect();
        if let Some(bias) = self.weights.get(&format!("{path}.bias")) {
            y.iter_mut().zip(bias).for_each(|(y, bias)| *y += f64::from(*bias));
        }
        y
    }

    fn rms(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (mean + self.config.rms_norm_eps).sqrt();
        x.iter().zip(&self.weights[&format!("{name}.weight")]).map(|(x, w)| x * scale * f64::from(*w)).collect()
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
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap()
}

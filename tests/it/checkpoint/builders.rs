//! Tiny models and crafted headers, made in code: no binary file is kept.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use trimtab::checkpoint::{self, Checkpoint, CheckpointError};
use trimtab::model::StoredFormat;

pub(crate) const HIDDEN: usize = 32;
pub(crate) const MLP: usize = 64;
pub(crate) const VOCAB: usize = 32;
pub(crate) const KV: usize = 16;

pub(crate) fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": MLP,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCAB,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2
    })
}

/// The tensors of the tiny model by their Hugging Face names.
pub(crate) fn tensors() -> Vec<(String, Vec<usize>)> {
    let block = |name: &str, shape: &[usize]| (format!("model.layers.0.{name}.weight"), shape.to_vec());
    vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN]),
        block("input_layernorm", &[HIDDEN]),
        block("self_attn.q_proj", &[HIDDEN, HIDDEN]),
        block("self_attn.k_proj", &[KV, HIDDEN]),
        block("self_attn.v_proj", &[KV, HIDDEN]),
        block("self_attn.o_proj", &[HIDDEN, HIDDEN]),
        block("post_attention_layernorm", &[HIDDEN]),
        block("mlp.gate_proj", &[MLP, HIDDEN]),
        block("mlp.up_proj", &[MLP, HIDDEN]),
        block("mlp.down_proj", &[HIDDEN, MLP]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ]
}

/// The tensors of the tiny model with so many blocks.
pub(crate) fn tensors_of(n_blocks: usize) -> Vec<(String, Vec<usize>)> {
    let (in_block, outside): (Vec<_>, Vec<_>) =
        tensors().into_iter().partition(|(name, _)| name.starts_with("model.layers.0."));
    let blocks = (0..n_blocks).flat_map(|block| {
        in_block.iter().map(move |(name, shape)| (name.replace(".0.", &format!(".{block}.")), shape.clone()))
    });
    blocks.chain(outside).collect()
}

/// A repeatable weight for element `index` of a tensor.
pub(crate) fn weight(index: usize) -> f32 {
    ((index * 7919 + 13) % 251) as f32 / 256.0 - 0.5
}

pub(crate) fn encode(format: StoredFormat, elements: usize) -> Vec<u8> {
    let values = (0..elements).map(weight);
    match format {
        StoredFormat::F32 => values.flat_map(f32::to_le_bytes).collect(),
        StoredFormat::F16 => values.flat_map(|value| half::f16::from_f32(value).to_le_bytes()).collect(),
        StoredFormat::Bf16 => values.flat_map(|value| half::bf16::from_f32(value).to_le_bytes()).collect(),
        StoredFormat::Ggml(ggml) => {
            let len = elements / ggml.block_len() * ggml.block_bytes();
            // A byte that makes small finite scales wherever the scale of a block lies.
            vec![0x11; len]
        }
    }
}

/// A safetensors file: header text as given, then data.
pub(crate) fn safetensors_file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// A valid safetensors file with these tensors.
pub(crate) fn safetensors(tensors: &[(String, Vec<usize>)], format: StoredFormat) -> Vec<u8> {
    let dtype = match format {
        StoredFormat::F32 => "F32",
        StoredFormat::F16 => "F16",
        _ => "BF16",
    };
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape) in tensors {
        let begin = data.len();
        data.extend(encode(format, shape.iter().product()));
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, data.len()]}));
    }
    safetensors_file(&Value::Object(header).to_string(), &data)
}

/// A folder with this configuration and these weights.
pub(crate) fn folder(root: &Path, config: &Value, weights: &[u8]) -> PathBuf {
    fs::write(root.join("config.json"), config.to_string()).unwrap();
    fs::write(root.join("model.safetensors"), weights).unwrap();
    root.to_owned()
}

pub(crate) fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
    checkpoint::open(&checkpoint::detect(path)?)
}

/// A GGUF file under construction; every part can be wrong.
#[derive(Clone, Default)]
pub(crate) struct Gguf {
    pub(crate) keys: Vec<(String, Vec<u8>)>,
    pub(crate) tensors: Vec<GgufTensor>,
    pub(crate) data: Vec<u8>,
    pub(crate) version: Option<u32>,
    pub(crate) n_keys: Option<u64>,
    pub(crate) n_tensors: Option<u64>,
}

#[derive(Clone)]
pub(crate) struct GgufTensor {
    pub(crate) name: String,
    /// As in the file: length of a row first.
    pub(crate) dims: Vec<u64>,
    pub(crate) n_dims: Option<u32>,
    pub(crate) code: u32,
    pub(crate) offset: u64,
}

pub(crate) fn gguf_text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn typed(code: u32, bytes: &[u8]) -> Vec<u8> {
    [&code.to_le_bytes(), bytes].concat()
}

/// A u32 value with its type.
pub(crate) fn u32_value(value: u32) -> Vec<u8> {
    typed(4, &value.to_le_bytes())
}

/// A text value with its type.
pub(crate) fn text_value(text: &str) -> Vec<u8> {
    typed(8, &gguf_text(text))
}

/// An array value: type of its elements, declared count, bytes.
pub(crate) fn array_value(code: u32, count: u64, bytes: &[u8]) -> Vec<u8> {
    typed(9, &[&code.to_le_bytes()[..], &count.to_le_bytes(), bytes].concat())
}

impl Gguf {
    /// The tiny model; weights of the linear layers in `format`.
    pub(crate) fn tiny(format: StoredFormat) -> Self {
        let mut gguf = Self::default();
        gguf.set("general.architecture", text_value("llama"));
        for (key, value) in [
            ("block_count", 1),
            ("context_length", 64),
            ("embedding_length", HIDDEN as u32),
            ("feed_forward_length", MLP as u32),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
        ] {
            gguf.set(&format!("llama.{key}"), u32_value(value));
        }
        gguf.set("llama.attention.layer_norm_rms_epsilon", typed(6, &1e-5_f32.to_le_bytes()));
        for (name, gguf_name) in [
            ("model.embed_tokens", "token_embd"),
            ("model.layers.0.input_layernorm", "blk.0.attn_norm"),
            ("model.layers.0.self_attn.q_proj", "blk.0.attn_q"),
            ("model.layers.0.self_attn.k_proj", "blk.0.attn_k"),
            ("model.layers.0.self_attn.v_proj", "blk.0.attn_v"),
            ("model.layers.0.self_attn.o_proj", "blk.0.attn_output"),
            ("model.layers.0.post_attention_layernorm", "blk.0.ffn_norm"),
            ("model.layers.0.mlp.gate_proj", "blk.0.ffn_gate"),
            ("model.layers.0.mlp.up_proj", "blk.0.ffn_up"),
            ("model.layers.0.mlp.down_proj", "blk.0.ffn_down"),
            ("model.norm", "output_norm"),
        ] {
            let (_, shape) = tensors().into_iter().find(|(found, _)| *found == format!("{name}.weight")).unwrap();
            let format = if shape.len() == 1 { StoredFormat::F32 } else { format };
            gguf.add(&format!("{gguf_name}.weight"), &shape, format);
        }
        gguf
    }

    pub(crate) fn set(&mut self, key: &str, value: Vec<u8>) {
        match self.keys.iter_mut().find(|(found, _)| found == key) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key.to_owned(), value)),
        }
    }

    pub(crate) fn add(&mut self, name: &str, shape: &[usize], format: StoredFormat) {
        let offset = self.data.len() as u64;
        self.data.extend(encode(format, shape.iter().product()));
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        let dims = shape.iter().rev().map(|&dim| dim as u64).collect();
        self.tensors.push(GgufTensor { name: name.to_owned(), dims, n_dims: None, code: format.gguf_code(), offset });
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut GgufTensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    /// The header without the padding before the data.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.unwrap_or(3).to_le_bytes());
        bytes.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.n_keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            bytes.extend(gguf_text(key));
            bytes.extend(value);
        }
        for tensor in &self.tensors {
            bytes.extend(gguf_text(&tensor.name));
            bytes.extend(tensor.n_dims.unwrap_or(tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
            bytes.extend(tensor.code.to_le_bytes());
            bytes.extend(tensor.offset.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }
}

/// Changes `bytes` in 1 to 4 places: a bit, a byte, a hostile number, an insertion, a deletion, or a cut.
pub(crate) fn mutate(bytes: &[u8], random: &mut impl FnMut(usize) -> usize) -> Vec<u8> {
    const HOSTILE: [u64; 8] = [0, 1, 1 << 31, 1 << 32, 1 << 40, 1 << 63, u64::MAX, u64::MAX - 49];
    let mut bytes = bytes.to_vec();
    for _ in 0..=random(3) {
        if bytes.is_empty() {
            break;
        }
        let at = random(bytes.len());
        match random(6) {
            0 => bytes[at] ^= 1 << random(8),
            1 => bytes[at] = random(256) as u8,
            2 => {
                let number = HOSTILE[random(HOSTILE.len())].to_le_bytes();
                let end = (at + 8).min(bytes.len());
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            3 => bytes.insert(at, random(256) as u8),
            4 => {
                bytes.remove(at);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

/// A small generator of numbers below a bound, the same in every run.
pub(crate) fn numbers(mut state: u64) -> impl FnMut(usize) -> usize {
    move |bound| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as usize) % bound.max(1)
    }
}

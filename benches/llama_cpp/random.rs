//! Models with random weights: their speed is that of trained ones of the same shape.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use serde_json::{Map, json};

/// What a Llama of random weights is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Widths {
    pub(crate) hidden: usize,
    pub(crate) n_blocks: usize,
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) mlp: usize,
    pub(crate) is_tied: bool,
}

/// The embedded model's, whose tokenizer is used.
const VOCAB: usize = 32_000;

/// The longest context that `config.json` names.
pub(crate) const MAX_CONTEXT: u32 = 2048;

/// The same weights on every machine.
const SEED: u64 = 2_026;

/// Writes `config.json` and `model.safetensors` in f32 into `folder`.
pub(crate) fn write(widths: &Widths, folder: &Path) -> io::Result<()> {
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": widths.hidden,
        "intermediate_size": widths.mlp,
        "num_hidden_layers": widths.n_blocks,
        "num_attention_heads": widths.n_heads,
        "num_key_value_heads": widths.n_kv_heads,
        "vocab_size": VOCAB,
        "max_position_embeddings": MAX_CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": widths.is_tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    });
    std::fs::write(folder.join("config.json"), config.to_string())?;

    let tensors = tensors(widths);
    let mut header = Map::new();
    let mut end = 0;
    for (name, shape) in &tensors {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }));
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut out = BufWriter::with_capacity(1 << 20, File::create(folder.join("model.safetensors"))?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (index, (_, shape)) in tensors.iter().enumerate() {
        write_values(&mut out, shape, index as u64)?;
    }
    out.flush()
}

/// Names and shapes, in the order of the file.
fn tensors(widths: &Widths) -> Vec<(String, Vec<usize>)> {
    let Widths { hidden, n_blocks, n_heads, n_kv_heads, mlp, is_tied } = *widths;
    let kv = hidden / n_heads * n_kv_heads;
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![VOCAB, hidden])];
    for block in 0..n_blocks {
        let in_block: [(&str, Vec<usize>); 9] = [
            ("input_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.k_proj", vec![kv, hidden]),
            ("self_attn.v_proj", vec![kv, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("post_attention_layernorm", vec![hidden]),
            ("mlp.gate_proj", vec![mlp, hidden]),
            ("mlp.up_proj", vec![mlp, hidden]),
            ("mlp.down_proj", vec![hidden, mlp]),
        ];
        tensors.extend(in_block.map(|(name, shape)| (format!("model.layers.{block}.{name}.weight"), shape)));
    }
    tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
    if !is_tied {
        tensors.push(("lm_head.weight".to_owned(), vec![VOCAB, hidden]));
    }
    tensors
}

/// Ones for a norm; for a matrix bell-shaped weights whose products neither grow nor fade.
fn write_values(out: &mut impl io::Write, shape: &[usize], tensor: u64) -> io::Result<()> {
    let n: usize = shape.iter().product();
    let mut row = Vec::new();
    let [_, row_len] = *shape else {
        row.extend((0..n).flat_map(|_| 1.0_f32.to_le_bytes()));
        return out.write_all(&row);
    };
    let scale = (3.0 / row_len as f64).sqrt() as f32;
    let mut state = (SEED << 32) + tensor;
    for _ in 0..n / row_len {
        row.clear();
        row.extend((0..row_len).flat_map(|_| (scale * bell(next(&mut state))).to_le_bytes()));
        out.write_all(&row)?;
    }
    Ok(())
}

/// The generator splitmix64: Steele, Lea and Flood, OOPSLA 2014.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// The sum of four uniform numbers around zero: variance ⅓, nearly normal.
fn bell(bits: u64) -> f32 {
    (0..4).map(|part| (bits >> (16 * part) & 0xFFFF) as f32 / 65_536.0 - 0.5).sum()
}

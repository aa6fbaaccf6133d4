//! Small graphs for tests.

use crate::model::{
    Fingerprint, HiddenAct, Layer, LayerPath, LayerRole, LlamaConfig, ModelFamily, ModelGraph, RopeOrder, StoredFormat,
};

/// Two Llama blocks of width 64 with an MLP of 192, tied head, all f16.
pub(crate) fn tiny_graph() -> ModelGraph {
    let config = LlamaConfig {
        hidden_size: 64,
        intermediate_size: 192,
        n_blocks: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        vocab_size: 128,
        max_context: 64,
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
    let mut layers = vec![layer("model.embed_tokens".to_owned(), None, LayerRole::Embedding, [128, 64])];
    for block in 0..2_u16 {
        for (name, role, shape) in [
            ("self_attn.q_proj", LayerRole::QProj, [64, 64]),
            ("self_attn.k_proj", LayerRole::KProj, [32, 64]),
            ("self_attn.v_proj", LayerRole::VProj, [32, 64]),
            ("self_attn.o_proj", LayerRole::OProj, [64, 64]),
            ("mlp.gate_proj", LayerRole::GateProj, [192, 64]),
            ("mlp.up_proj", LayerRole::UpProj, [192, 64]),
            ("mlp.down_proj", LayerRole::DownProj, [64, 192]),
        ] {
            layers.push(layer(format!("model.layers.{block}.{name}"), Some(block), role, shape));
        }
    }
    ModelGraph {
        name: "tiny".to_owned(),
        fingerprint: Fingerprint("tiny".to_owned()),
        family: ModelFamily::Llama(config),
        layers,
        other_bytes: 5 * 64 * 2,
        other_weights: 5 * 64,
    }
}

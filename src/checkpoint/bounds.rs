//! The bounds of a configuration, whichever file it comes from.

use crate::checkpoint::limits::{self, Limit};
use crate::model::{BlockShape, LlamaConfig, RopeScaling};

/// Checks that the configuration is one that a forward pass can be made of; gives field and reason otherwise.
///
/// Fields have the names of `config.json`.
pub(super) fn check_config(config: &LlamaConfig) -> Result<(), (&'static str, String)> {
    let sizes: [(&str, usize, &Limit); 8] = [
        ("hidden_size", config.hidden_size, &limits::WIDTH),
        ("intermediate_size", config.intermediate_size, &limits::MLP_WIDTH),
        ("num_hidden_layers", config.n_blocks, &limits::BLOCKS),
        ("num_attention_heads", config.n_heads, &limits::WIDTH),
        ("num_key_value_heads", config.n_kv_heads, &limits::WIDTH),
        ("head_dim", config.head_dim, &limits::WIDTH),
        ("vocab_size", config.vocab_size, &limits::VOCABULARY),
        ("max_position_embeddings", config.max_context, &limits::CONTEXT),
    ];
    for (field, size, limit) in sizes {
        if size == 0 {
            return Err((field, "0 is not a size".to_owned()));
        }
        limit.check(size as u64).map_err(|reason| (field, reason))?;
    }
    check_heads(config.n_heads, config.n_kv_heads, config.head_dim)?;
    if !config.block_shapes.is_empty() {
        check_blocks(config).map_err(|reason| ("blocks", reason))?;
    }
    if !config.head_dim.is_multiple_of(2) {
        return Err(("head_dim", format!("{} cannot be rotated in pairs", config.head_dim)));
    }
    if let Some(bos) = config.bos_token.filter(|&bos| bos as usize >= config.vocab_size) {
        return Err(("bos_token_id", format!("{bos} is not one of {} tokens", config.vocab_size)));
    }
    let positive = |field, number: f64| {
        let good = number.is_finite() && number > 0.0;
        if good { Ok(()) } else { Err((field, format!("{number} is not a positive number"))) }
    };
    positive("rms_norm_eps", config.rms_norm_eps)?;
    positive("rope_theta", config.rope_theta)?;
    match config.rope_scaling {
        None => {}
        Some(RopeScaling::Linear { factor }) => positive("rope_scaling.factor", factor)?,
        Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context }) => {
            positive("rope_scaling.factor", factor)?;
            positive("rope_scaling.low_freq_factor", low_freq_factor)?;
            positive("rope_scaling.high_freq_factor", high_freq_factor)?;
            if high_freq_factor <= low_freq_factor {
                return Err(("rope_scaling.high_freq_factor", "not above low_freq_factor".to_owned()));
            }
            if original_context == 0 {
                return Err(("rope_scaling.original_max_position_embeddings", "0 is not a size".to_owned()));
            }
        }
    }
    Ok(())
}

fn check_heads(n_heads: usize, n_kv_heads: usize, head_dim: usize) -> Result<(), (&'static str, String)> {
    let heads_width = (n_heads as u64).saturating_mul(head_dim as u64);
    limits::WIDTH.check(heads_width).map_err(|reason| ("num_attention_heads", reason))?;
    if !n_heads.is_multiple_of(n_kv_heads) {
        return Err(("num_key_value_heads", format!("{n_kv_heads} does not divide {n_heads} heads")));
    }
    Ok(())
}

/// Blocks of different widths: one each, none of them empty.
fn check_blocks(config: &LlamaConfig) -> Result<(), String> {
    let shapes = &config.block_shapes;
    if shapes.len() != config.n_blocks {
        return Err(format!("{} of them for {} blocks", shapes.len(), config.n_blocks));
    }
    for (block, shape) in shapes.iter().enumerate() {
        let BlockShape { n_heads, n_kv_heads, intermediate_size } = *shape;
        if shape.is_empty() {
            return Err(format!("block {block} has neither attention nor MLP"));
        }
        if (n_heads == 0) != (n_kv_heads == 0) {
            return Err(format!("block {block} has {n_heads} query heads and {n_kv_heads} key-value heads"));
        }
        if n_heads > 0 {
            check_heads(n_heads, n_kv_heads, config.head_dim)
                .map_err(|(field, reason)| format!("block {block}: {field}: {reason}"))?;
        }
        let width = limits::MLP_WIDTH.check(intermediate_size as u64);
        width.map_err(|reason| format!("block {block}: {reason}"))?;
    }
    Ok(())
}

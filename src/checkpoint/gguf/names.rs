//! The two vocabularies of tensor names: Hugging Face's, which is ours, and GGUF's for the Llama architecture.

/// Module of a block: Hugging Face's name, GGUF's name.
const IN_BLOCK: [(&str, &str); 9] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

const OUTSIDE: [(&str, &str); 3] =
    [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

/// The Hugging Face name of a GGUF tensor; `None` when the Llama family has no such tensor.
pub(crate) fn canonical_name(gguf: &str) -> Option<String> {
    let (module, kind) = gguf.rsplit_once('.')?;
    if !matches!(kind, "weight" | "bias") {
        return None;
    }
    if let Some((canonical, _)) = OUTSIDE.iter().find(|(_, name)| *name == module) {
        return Some(format!("{canonical}.{kind}"));
    }
    let (block, part) = module.strip_prefix("blk.")?.split_once('.')?;
    let block = block_number(block)?;
    let (canonical, _) = IN_BLOCK.iter().find(|(_, name)| *name == part)?;
    Some(format!("model.layers.{block}.{canonical}.{kind}"))
}

/// The GGUF name of a Hugging Face tensor; `None` when the Llama architecture has no such tensor.
pub(crate) fn gguf_name(canonical: &str) -> Option<String> {
    let (module, kind) = canonical.rsplit_once('.')?;
    if !matches!(kind, "weight" | "bias") {
        return None;
    }
    if let Some((_, gguf)) = OUTSIDE.iter().find(|(name, _)| *name == module) {
        return Some(format!("{gguf}.{kind}"));
    }
    let (block, part) = module.strip_prefix("model.layers.")?.split_once('.')?;
    let block = block_number(block)?;
    let (_, gguf) = IN_BLOCK.iter().find(|(name, _)| *name == part)?;
    Some(format!("blk.{block}.{gguf}.{kind}"))
}

/// A number as the formats write it: `+1` and `01` would be second names of a tensor.
fn block_number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|block: &u16| block.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_translate_both_ways() {
        let cases = [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("model.norm.weight", "output_norm.weight"),
            ("lm_head.weight", "output.weight"),
            ("model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight"),
            ("model.layers.31.mlp.down_proj.weight", "blk.31.ffn_down.weight"),
            ("model.layers.2.self_attn.q_proj.bias", "blk.2.attn_q.bias"),
            ("model.layers.2.self_attn.o_proj.weight", "blk.2.attn_output.weight"),
        ];
        for (canonical, gguf) in cases {
            assert_eq!(canonical_name(gguf).as_deref(), Some(canonical));
            assert_eq!(gguf_name(canonical).as_deref(), Some(gguf));
        }
        for unknown in [
            "blk.0.ffn_gate_inp.weight",
            "blk.99999.attn_q.weight",
            "blk.-1.attn_q.weight",
            "blk.01.attn_q.weight",
            "rope_freqs",
            "",
        ] {
            assert_eq!(canonical_name(unknown), None, "{unknown}");
        }
    }
}

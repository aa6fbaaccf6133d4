//! The Llama configuration in GGUF metadata.

use crate::checkpoint::CheckpointError;
use crate::checkpoint::bounds::check_config;
use crate::checkpoint::file::SourceFile;
use crate::checkpoint::gguf::value::{Metadata, Value};
use crate::model::{HiddenAct, LlamaConfig, RopeOrder, RopeScaling};

/// Reads the configuration; `has` tells whether the file has a tensor with a name of GGUF, `vocab_rows` the rows of its
/// embedding.
pub(crate) fn llama_config(
    file: &SourceFile,
    metadata: &Metadata,
    has: &dyn Fn(&str) -> bool,
    vocab_rows: usize,
) -> Result<LlamaConfig, CheckpointError> {
    let reader = Reader { file, metadata };
    match reader.take("general.architecture", Metadata::text)? {
        Some("llama") => {}
        Some(other) => {
            return Err(
                reader.refuse("general.architecture", format!("architecture {other:?} is not supported; Llama is"))
            );
        }
        None => return Err(reader.refuse("general.architecture", "absent")),
    }
    if reader.size("llama.expert_count")?.is_some_and(|count| count > 0) {
        return Err(reader.refuse("llama.expert_count", "a mixture of experts is not supported"));
    }
    let hidden_size = reader.needed("llama.embedding_length")?;
    let n_heads = reader.needed("llama.attention.head_count")?;
    let head_dim = match reader.size("llama.attention.key_length")? {
        Some(head_dim) => head_dim,
        None if n_heads > 0 && hidden_size.is_multiple_of(n_heads) => hidden_size / n_heads,
        None => return Err(reader.refuse("llama.attention.head_count", "does not divide llama.embedding_length")),
    };
    if reader.size("llama.attention.value_length")?.is_some_and(|value_length| value_length != head_dim) {
        return Err(reader.refuse("llama.attention.value_length", "differs from the length of keys"));
    }
    if reader.size("llama.rope.dimension_count")?.is_some_and(|rotated| rotated != head_dim) {
        return Err(reader.refuse("llama.rope.dimension_count", "a partly rotated head is not supported"));
    }
    let bias = |part: &str| has(&format!("blk.0.{part}.bias"));
    let config = LlamaConfig {
        hidden_size,
        intermediate_size: reader.needed("llama.feed_forward_length")?,
        n_blocks: reader.needed("llama.block_count")?,
        n_heads,
        n_kv_heads: reader.size("llama.attention.head_count_kv")?.unwrap_or(n_heads),
        head_dim,
        vocab_size: vocab_rows,
        max_context: reader.needed("llama.context_length")?,
        rms_norm_eps: reader
            .take("llama.attention.layer_norm_rms_epsilon", Metadata::float)?
            .ok_or_else(|| reader.refuse("llama.attention.layer_norm_rms_epsilon", "absent"))?,
        rope_theta: reader.take("llama.rope.freq_base", Metadata::float)?.unwrap_or(10_000.0),
        rope_scaling: reader.rope_scaling()?,
        rope_order: RopeOrder::Interleaved,
        hidden_act: HiddenAct::Silu,
        tied_head: !has("output.weight"),
        attention_bias: bias("attn_q") || bias("attn_k") || bias("attn_v"),
        mlp_bias: bias("ffn_gate") || bias("ffn_up") || bias("ffn_down"),
        bos_token: reader.bos_token()?,
        eos_tokens: reader.eos_tokens()?,
        block_shapes: Vec::new(),
    };
    check_config(&config).map_err(|(field, reason)| reader.refuse(field, reason))?;
    Ok(config)
}

struct Reader<'a> {
    file: &'a SourceFile,
    metadata: &'a Metadata,
}

impl<'a> Reader<'a> {
    fn refuse(&self, key: &str, reason: impl Into<String>) -> CheckpointError {
        self.file.header(key, self.metadata.offset(key), reason)
    }

    fn take<T>(
        &self,
        key: &str,
        get: impl FnOnce(&'a Metadata, &str) -> Result<Option<T>, String>,
    ) -> Result<Option<T>, CheckpointError> {
        get(self.metadata, key).map_err(|reason| self.refuse(key, reason))
    }

    fn size(&self, key: &str) -> Result<Option<usize>, CheckpointError> {
        if matches!(self.metadata.get(key), Some(Value::Array(_))) {
            return Err(self.refuse(key, "blocks of different shapes are not supported"));
        }
        let Some(size) = self.take(key, Metadata::unsigned)? else { return Ok(None) };
        usize::try_from(size).map(Some).map_err(|_too_large| self.refuse(key, format!("{size} is too large")))
    }

    fn needed(&self, key: &str) -> Result<usize, CheckpointError> {
        self.size(key)?.ok_or_else(|| self.refuse(key, "absent"))
    }

    fn rope_scaling(&self) -> Result<Option<RopeScaling>, CheckpointError> {
        const TYPE: &str = "llama.rope.scaling.type";
        const FACTOR: &str = "llama.rope.scaling.factor";
        const OLD_FACTOR: &str = "llama.rope.scale_linear";
        let new = self.take(FACTOR, Metadata::float)?;
        let factor = match new {
            Some(factor) => Some(factor),
            None => self.take(OLD_FACTOR, Metadata::float)?,
        };
        match self.take(TYPE, Metadata::text)? {
            Some("none") => Ok(None),
            Some("linear") | None => {
                Ok(factor.filter(|&factor| factor != 1.0 && factor != 0.0).map(|factor| RopeScaling::Linear { factor }))
            }
            Some(other) => Err(self.refuse(TYPE, format!("rotary scaling {other:?} is not supported"))),
        }
    }

    fn token(&self, key: &str) -> Result<Option<u32>, CheckpointError> {
        let Some(id) = self.take(key, Metadata::unsigned)? else { return Ok(None) };
        u32::try_from(id).map(Some).map_err(|_too_large| self.refuse(key, format!("{id} is too large")))
    }

    /// The first token of a text. Without a word on it in the file, as llama.cpp: SPM vocabularies want one, and so does
    /// the Llama 3 one.
    fn bos_token(&self) -> Result<Option<u32>, CheckpointError> {
        let spm = self.take("tokenizer.ggml.model", Metadata::text)? == Some("llama");
        let llama3 = matches!(self.take("tokenizer.ggml.pre", Metadata::text)?, Some("llama-bpe" | "llama3"));
        let wanted = self.take("tokenizer.ggml.add_bos_token", Metadata::switch)?.unwrap_or(spm || llama3);
        let token = self.token("tokenizer.ggml.bos_token_id")?.or(spm.then_some(1));
        Ok(token.filter(|_| wanted))
    }

    fn eos_tokens(&self) -> Result<Vec<u32>, CheckpointError> {
        let mut tokens = Vec::new();
        for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
            tokens.extend(self.token(key)?.filter(|token| !tokens.contains(token)));
        }
        Ok(tokens)
    }
}

//! The Llama configuration in a `config.json`.

use std::path::Path;

use serde_json::{Map, Value};

use crate::checkpoint::CheckpointError;
use crate::checkpoint::bounds::check_config;
use crate::checkpoint::own::{ARCHITECTURE, KEY, OwnLayout};
use crate::checkpoint::tokenizer::FirstToken;
use crate::model::{HiddenAct, LlamaConfig, RopeOrder, RopeScaling};

/// Reads the configuration, and what is said under our own key. `first_token` is what the tokenizer says.
pub(super) fn llama_config(
    json: &[u8],
    path: &Path,
    first_token: FirstToken,
) -> Result<(LlamaConfig, OwnLayout), CheckpointError> {
    let table: Map<String, Value> = serde_json::from_slice(json).map_err(|error| CheckpointError::Config {
        field: "config.json".to_owned(),
        reason: error.to_string(),
        path: path.to_owned(),
    })?;
    let fields = Fields { table: &table, prefix: "", path };
    let family = family(&fields)?;
    if fields.get("quantization_config").is_some() {
        return Err(
            fields.refuse("quantization_config", "weights that are already quantized are not supported in this layout")
        );
    }
    if fields.number("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
        return Err(fields.refuse("partial_rotary_factor", "a partly rotated head is not supported"));
    }
    let own = match fields.get(KEY) {
        Some(value) => OwnLayout::read(value).map_err(|reason| fields.refuse(KEY, reason))?,
        None if family == Family::Own => return Err(fields.refuse(KEY, "absent")),
        None => OwnLayout::default(),
    };
    let mistral = family == Family::Mistral;
    let hidden_size = fields.needed("hidden_size")?;
    let n_heads = fields.needed("num_attention_heads")?;
    let head_dim = match fields.size("head_dim")? {
        Some(head_dim) => head_dim,
        None if n_heads > 0 && hidden_size.is_multiple_of(n_heads) => hidden_size / n_heads,
        None => return Err(fields.refuse("num_attention_heads", "does not divide hidden_size, and head_dim is absent")),
    };
    let max_context = fields.size("max_position_embeddings")?.unwrap_or(if mistral { 131_072 } else { 2_048 });
    if mistral && fields.size("sliding_window")?.is_some_and(|window| window < max_context) {
        return Err(fields.refuse("sliding_window", "a window shorter than the context is not supported"));
    }
    let default_kv_heads = if mistral { 8 } else { n_heads };
    let (rope_theta, rope_scaling) = rope(&fields)?;
    let config = LlamaConfig {
        hidden_size,
        intermediate_size: fields.needed("intermediate_size")?,
        n_blocks: fields.needed("num_hidden_layers")?,
        n_heads,
        n_kv_heads: fields.size("num_key_value_heads")?.unwrap_or(default_kv_heads),
        head_dim,
        vocab_size: fields.needed("vocab_size")?,
        max_context,
        rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
        rope_theta,
        rope_scaling,
        rope_order: RopeOrder::Halves,
        hidden_act: hidden_act(&fields)?,
        tied_head: fields.switch("tie_word_embeddings")?.unwrap_or(false),
        attention_bias: fields.switch("attention_bias")?.unwrap_or(false),
        mlp_bias: fields.switch("mlp_bias")?.unwrap_or(false),
        bos_token: match first_token {
            FirstToken::Is(token) => Some(token),
            FirstToken::None => None,
            FirstToken::Unknown => fields.token("bos_token_id")?,
        },
        eos_tokens: fields.tokens("eos_token_id")?,
        block_shapes: own.blocks.clone(),
    };
    check_config(&config).map_err(|(field, reason)| fields.refuse(field, reason))?;
    Ok((config, own))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Llama,
    Mistral,
    /// Llama with [`KEY`].
    Own,
}

fn family(fields: &Fields<'_>) -> Result<Family, CheckpointError> {
    let architecture = fields.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
    let (field, name) = match architecture {
        Some(name) => ("architectures", name),
        None => ("model_type", fields.text("model_type")?.unwrap_or("none")),
    };
    match name {
        "LlamaForCausalLM" | "llama" => Ok(Family::Llama),
        "MistralForCausalLM" | "mistral" => Ok(Family::Mistral),
        ARCHITECTURE => Ok(Family::Own),
        other => {
            let reason = format!("{other:?} is not supported; LlamaForCausalLM and MistralForCausalLM are");
            Err(fields.refuse(field, reason))
        }
    }
}

fn hidden_act(fields: &Fields<'_>) -> Result<HiddenAct, CheckpointError> {
    match fields.text("hidden_act")?.unwrap_or("silu") {
        "silu" | "swish" => Ok(HiddenAct::Silu),
        "gelu" => Ok(HiddenAct::Gelu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(HiddenAct::GeluTanh),
        other => Err(fields.refuse("hidden_act", format!("{other:?} is not supported"))),
    }
}

/// Base and scaling, from the old `rope_theta` and `rope_scaling` or the new `rope_parameters`.
fn rope(fields: &Fields<'_>) -> Result<(f64, Option<RopeScaling>), CheckpointError> {
    let new = fields.table("rope_parameters")?;
    let old = fields.table("rope_scaling")?;
    let mut theta = fields.number("rope_theta")?;
    if let Some(table) = &new {
        theta = table.number("rope_theta")?.or(theta);
    }
    let theta = theta.unwrap_or(10_000.0);
    let Some(table) = new.or(old) else { return Ok((theta, None)) };
    let kind = match table.text("rope_type")? {
        Some(kind) => Some(kind),
        None => table.text("type")?,
    };
    let needed = |field: &str| table.number(field)?.ok_or_else(|| table.refuse(field, "absent"));
    let scaling = match kind {
        None | Some("default") => None,
        Some("linear") => Some(RopeScaling::Linear { factor: needed("factor")? }),
        Some("llama3") => Some(RopeScaling::Llama3 {
            factor: needed("factor")?,
            low_freq_factor: needed("low_freq_factor")?,
            high_freq_factor: needed("high_freq_factor")?,
            original_context: table.needed("original_max_position_embeddings")?,
        }),
        Some(other) => {
            let reason = format!("rotary scaling {other:?} is not supported; llama3 and linear are");
            return Err(table.refuse("rope_type", reason));
        }
    };
    Ok((theta, scaling))
}

/// Typed access to a table; `null` is the same as absent.
struct Fields<'a> {
    table: &'a Map<String, Value>,
    prefix: &'static str,
    path: &'a Path,
}

impl<'a> Fields<'a> {
    fn refuse(&self, field: &str, reason: impl Into<String>) -> CheckpointError {
        let field = format!("{}{field}", self.prefix);
        CheckpointError::Config { field, reason: reason.into(), path: self.path.to_owned() }
    }

    fn get(&self, field: &str) -> Option<&'a Value> {
        self.table.get(field).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &self,
        field: &str,
        what: &str,
        get: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, CheckpointError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        get(value).map(Some).ok_or_else(|| self.refuse(field, format!("not {what}")))
    }

    fn size(&self, field: &str) -> Result<Option<usize>, CheckpointError> {
        self.typed(field, "a size", |value| value.as_u64().and_then(|size| usize::try_from(size).ok()))
    }

    fn needed(&self, field: &str) -> Result<usize, CheckpointError> {
        self.size(field)?.ok_or_else(|| self.refuse(field, "absent"))
    }

    fn number(&self, field: &str) -> Result<Option<f64>, CheckpointError> {
        self.typed(field, "a number", Value::as_f64)
    }

    fn switch(&self, field: &str) -> Result<Option<bool>, CheckpointError> {
        self.typed(field, "a truth value", Value::as_bool)
    }

    fn text(&self, field: &str) -> Result<Option<&'a str>, CheckpointError> {
        self.typed(field, "a text", Value::as_str)
    }

    fn table(&self, field: &'static str) -> Result<Option<Self>, CheckpointError> {
        let prefix = if field == "rope_parameters" { "rope_parameters." } else { "rope_scaling." };
        let table = self.typed(field, "a table", Value::as_object)?;
        Ok(table.map(|table| Self { table, prefix, path: self.path }))
    }

    fn token(&self, field: &str) -> Result<Option<u32>, CheckpointError> {
        self.typed(field, "a token", as_token)
    }

    /// A token or a list of them.
    fn tokens(&self, field: &str) -> Result<Vec<u32>, CheckpointError> {
        let tokens = self.typed(field, "a token or a list of tokens", |value| match value {
            Value::Array(list) => list.iter().map(as_token).collect(),
            one => as_token(one).map(|token| vec![token]),
        });
        Ok(tokens?.unwrap_or_default())
    }
}

fn as_token(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|token| u32::try_from(token).ok())
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;

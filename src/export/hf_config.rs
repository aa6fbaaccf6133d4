//! The files beside the weights of an exported Hugging Face folder.

use serde_json::{Map, Value, json};

use crate::checkpoint::Checkpoint;
use crate::checkpoint::own::{ARCHITECTURE, KEY, OwnLayout};
use crate::export::ExportError;
use crate::export::gguf_metadata::llama3_factors;
use crate::export::model::OutModel;
use crate::model::{HiddenAct, LlamaConfig, RopeScaling, StoredFormat};

fn torch_dtype(format: StoredFormat) -> &'static str {
    match format {
        StoredFormat::F32 => "float32",
        StoredFormat::Bf16 => "bfloat16",
        StoredFormat::F16 | StoredFormat::Ggml(_) => "float16",
    }
}

/// `config.json`: the source's with another dtype and the widths that are left, or one made from the metadata of a GGUF
/// file.
pub(super) fn config_json(
    model: &OutModel<'_>,
    own: &OwnLayout,
    quantization: Option<&Value>,
    format: StoredFormat,
) -> Result<Vec<u8>, ExportError> {
    let mut table = match model.source.texts() {
        Some(texts) => serde_json::from_slice(&texts.config_json()?).map_err(|error| unsupported(&error))?,
        None => made_config(model)?,
    };
    // The key has two names; a file that has the new one keeps it.
    let key = if table.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    table.insert(key.to_owned(), json!(torch_dtype(format)));
    table.remove(KEY);
    let is_cut = model.has_other_widths();
    let was_own = table.get("architectures").is_some_and(|names| names[0] == ARCHITECTURE);
    if is_cut || !own.is_plain() {
        put_widths(&mut table, model);
    }
    if !own.is_plain() {
        put_architecture(&mut table, ARCHITECTURE, "trimtab_llama");
        table.insert(KEY.to_owned(), serde_json::to_value(own).map_err(|error| unsupported(&error))?);
    } else if (is_cut || was_own) && !has_llama_heads(&model.config) {
        put_architecture(&mut table, "MistralForCausalLM", "mistral");
    } else if was_own {
        put_architecture(&mut table, "LlamaForCausalLM", "llama");
    }
    if let Some(quantization) = quantization {
        table.insert("quantization_config".to_owned(), quantization.clone());
    }
    serde_json::to_vec_pretty(&table).map_err(|error| unsupported(&error))
}

/// Numbers that are read from the tensors' shapes, all of them named: families differ in what they take for granted.
fn put_widths(table: &mut Map<String, Value>, model: &OutModel<'_>) {
    let config = &model.config;
    for (key, number) in [
        ("num_hidden_layers", config.n_blocks),
        ("intermediate_size", config.intermediate_size),
        ("num_attention_heads", config.n_heads),
        ("num_key_value_heads", config.n_kv_heads),
        ("head_dim", config.head_dim),
        ("max_position_embeddings", config.max_context),
    ] {
        table.insert(key.to_owned(), json!(number));
    }
    // One word a block, and all blocks alike: what is left out says the same.
    table.remove("layer_types");
}

/// `sliding_window` was seen to be no shorter than the context, and is not every architecture's word.
fn put_architecture(table: &mut Map<String, Value>, architecture: &str, model_type: &str) {
    table.insert("architectures".to_owned(), json!([architecture]));
    table.insert("model_type".to_owned(), json!(model_type));
    table.insert("sliding_window".to_owned(), Value::Null);
}

/// Whether transformers' Llama takes these widths: it insists on heads that divide the hidden width. Its Mistral, the same
/// model but for biases, does not.
fn has_llama_heads(config: &LlamaConfig) -> bool {
    config.hidden_size.is_multiple_of(config.n_heads)
}

/// Whether plain Hugging Face words are enough for the widths of the blocks.
pub(super) fn has_plain_widths(config: &LlamaConfig) -> bool {
    config.block_shapes.is_empty() && (has_llama_heads(config) || !config.attention_bias && !config.mlp_bias)
}

fn unsupported(error: &serde_json::Error) -> ExportError {
    ExportError::Unsupported(error.to_string())
}

fn made_config(model: &OutModel<'_>) -> Result<Map<String, Value>, ExportError> {
    let (source, config) = (model.source, &model.config);
    let hidden_act = match config.hidden_act {
        HiddenAct::Silu => "silu",
        HiddenAct::GeluTanh => "gelu_pytorch_tanh",
        HiddenAct::Gelu => "gelu",
    };
    let eos = match config.eos_tokens.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        list => json!(list),
    };
    let table = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size, "num_hidden_layers": config.n_blocks,
        "num_attention_heads": config.n_heads, "num_key_value_heads": config.n_kv_heads, "head_dim": config.head_dim,
        "vocab_size": config.vocab_size, "max_position_embeddings": config.max_context,
        "rms_norm_eps": config.rms_norm_eps, "rope_theta": config.rope_theta, "rope_scaling": rope_scaling(source, config)?,
        "hidden_act": hidden_act, "tie_word_embeddings": config.tied_head, "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias, "bos_token_id": config.bos_token, "eos_token_id": eos,
    });
    match table {
        Value::Object(table) => Ok(table),
        _ => Err(ExportError::Unsupported("a configuration that is no table".to_owned())),
    }
}

/// The scaling in the words of `config.json`. A GGUF file has divisors instead of the numbers that they come from; they
/// are found again or the export is refused.
fn rope_scaling(source: &Checkpoint, config: &LlamaConfig) -> Result<Value, ExportError> {
    match (source.rope_factors(), config.rope_scaling) {
        (None, None) => Ok(Value::Null),
        (None, Some(RopeScaling::Linear { factor })) => Ok(json!({"rope_type": "linear", "factor": factor})),
        (None, Some(scaling @ RopeScaling::Llama3 { .. })) => Ok(llama3_table(scaling)),
        (Some(factors), _) => {
            let factor = factors.iter().fold(1.0_f32, |largest, &factor| largest.max(factor));
            let published = RopeScaling::Llama3 {
                factor: f64::from(factor),
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_context: 8192,
            };
            let expected = llama3_factors(config, published).unwrap_or_default();
            let same = expected.len() == factors.len()
                && expected.iter().zip(factors).all(|(a, b)| (a - b).abs() <= 1e-4 * a.abs());
            if same && config.rope_scaling.is_none() {
                return Ok(llama3_table(published));
            }
            let reason = "the file's rotary divisors are not those of Llama 3.1, and config.json has no other words";
            Err(ExportError::Unsupported(reason.to_owned()))
        }
    }
}

fn llama3_table(scaling: RopeScaling) -> Value {
    match scaling {
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor, "original_max_position_embeddings": original_context,
        }),
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
    }
}

/// The tokenizer files: the source's as they are, or made from the metadata of a GGUF file.
pub(super) fn companions(source: &Checkpoint) -> Result<Vec<(&'static str, Vec<u8>)>, ExportError> {
    if let Some(texts) = source.texts() {
        return Ok(texts.others()?);
    }
    let Some(metadata) = source.metadata() else { return Ok(Vec::new()) };
    if metadata.get("tokenizer.ggml.tokens").is_none() {
        return Ok(Vec::new());
    }
    let tokens = metadata.texts("tokenizer.ggml.tokens").map_err(ExportError::Unsupported)?.unwrap_or_default();
    let word = |key: &str| {
        let id = metadata.unsigned(key).ok().flatten().and_then(|id| usize::try_from(id).ok());
        id.and_then(|id| tokens.get(id))
    };
    let table = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": word("tokenizer.ggml.bos_token_id"),
        "eos_token": word("tokenizer.ggml.eos_token_id"), "unk_token": word("tokenizer.ggml.unknown_token_id"),
        "add_bos_token": source.config().bos_token.is_some(), "model_max_length": source.config().max_context,
        "chat_template": metadata.text("tokenizer.chat_template").ok().flatten(),
    });
    let words = table.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let words: Map<String, Value> = words.map(|(key, value)| (key.clone(), value.clone())).collect();
    let words = serde_json::to_vec_pretty(&words).map_err(|error| unsupported(&error))?;
    Ok(vec![("tokenizer.json", source.tokenizer_json()?), ("tokenizer_config.json", words)])
}

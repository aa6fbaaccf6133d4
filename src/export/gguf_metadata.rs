//! The metadata of an exported GGUF file.

use std::f64::consts::TAU;

use serde_json::Value as Json;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::gguf::Value;
use crate::checkpoint::tokenizer::gguf_from_json;
use crate::export::ExportError;
use crate::export::model::OutModel;
use crate::model::{GgmlType, HiddenAct, LlamaConfig, RopeScaling, StoredFormat};

/// Keys that belong to one file rather than to the model.
const OF_THE_FILE: [&str; 3] = ["general.alignment", "general.file_type", "general.quantization_version"];

/// Keys and values; `main_format` is the format of most weights, `alignment` that of the data.
pub(super) fn metadata(
    model: &OutModel<'_>,
    main_format: StoredFormat,
    alignment: u32,
) -> Result<Vec<(String, Value)>, ExportError> {
    let mut entries: Vec<(String, Value)> = match model.source.metadata() {
        Some(metadata) => metadata
            .entries
            .iter()
            .filter(|(key, ..)| !OF_THE_FILE.contains(&key.as_str()) && !key.starts_with("split."))
            .map(|(key, _, value)| (key.clone(), value.clone()))
            .collect(),
        None => made(model)?,
    };
    if model.has_other_widths() {
        for (key, value) in sizes(&model.config)? {
            match entries.iter_mut().find(|(found, _)| *found == key) {
                Some((_, found)) => *found = value,
                None => entries.push((key, value)),
            }
        }
    }
    entries.push((OF_THE_FILE[0].to_owned(), Value::U32(alignment)));
    entries.push((OF_THE_FILE[1].to_owned(), Value::U32(file_type(main_format))));
    entries.push((OF_THE_FILE[2].to_owned(), Value::U32(2)));
    Ok(entries)
}

/// The number by which GGUF files say what most of their weights are (`llama_ftype`).
fn file_type(format: StoredFormat) -> u32 {
    match format {
        StoredFormat::F32 => 0,
        StoredFormat::F16 => 1,
        StoredFormat::Bf16 => 32,
        StoredFormat::Ggml(ggml) => match ggml {
            GgmlType::Q4_0 => 2,
            GgmlType::Q4_1 => 3,
            GgmlType::Q8_0 => 7,
            GgmlType::Q5_0 => 8,
            GgmlType::Q5_1 => 9,
            GgmlType::Q2k => 10,
            GgmlType::Q3k => 12,
            GgmlType::Q4k => 15,
            GgmlType::Q5k => 17,
            GgmlType::Q6k => 18,
        },
    }
}

/// Numbers of the tensors' shapes.
fn sizes(config: &LlamaConfig) -> Result<Vec<(String, Value)>, ExportError> {
    let sizes = [
        ("block_count", config.n_blocks),
        ("context_length", config.max_context),
        ("embedding_length", config.hidden_size),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.n_heads),
        ("attention.head_count_kv", config.n_kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
        ("vocab_size", config.vocab_size),
    ];
    let entry = |(key, size): (&str, usize)| {
        let size = u32::try_from(size).map_err(|error| ExportError::Unsupported(format!("{key}: {error}")))?;
        Ok((format!("llama.{key}"), Value::U32(size)))
    };
    sizes.into_iter().map(entry).collect()
}

/// From a Hugging Face folder.
fn made(model: &OutModel<'_>) -> Result<Vec<(String, Value)>, ExportError> {
    let (source, config) = (model.source, &model.config);
    if config.hidden_act != HiddenAct::Silu {
        let reason = "GGUF's Llama architecture has silu only; export as safetensors";
        return Err(ExportError::Unsupported(reason.to_owned()));
    }
    let mut entries = vec![
        ("general.architecture".to_owned(), Value::String("llama".to_owned())),
        ("general.type".to_owned(), Value::String("model".to_owned())),
        ("general.name".to_owned(), Value::String(source.graph().name.clone())),
    ];
    entries.extend(sizes(config)?);
    entries.push(("llama.attention.layer_norm_rms_epsilon".to_owned(), Value::F32(config.rms_norm_eps as f32)));
    entries.push(("llama.rope.freq_base".to_owned(), Value::F32(config.rope_theta as f32)));
    if let Some(RopeScaling::Linear { factor }) = config.rope_scaling {
        entries.push(("llama.rope.scaling.type".to_owned(), Value::String("linear".to_owned())));
        entries.push(("llama.rope.scaling.factor".to_owned(), Value::F32(factor as f32)));
    }
    entries.extend(words(source)?);
    Ok(entries)
}

fn words(source: &Checkpoint) -> Result<Vec<(String, Value)>, ExportError> {
    let config = source.config();
    let json = source.tokenizer_json()?;
    let vocabulary = gguf_from_json(&json, config.vocab_size)
        .map_err(|reason| ExportError::Unsupported(format!("the tokenizer: {reason}")))?;
    let mut entries: Vec<(String, Value)> =
        vocabulary.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let mut bos = config.bos_token;
    if let Some(texts) = source.texts() {
        let json: Json = serde_json::from_slice(&texts.config_json()?).unwrap_or(Json::Null);
        let named = json.get("bos_token_id").and_then(Json::as_u64).and_then(|id| u32::try_from(id).ok());
        bos = bos.or(named.filter(|&id| (id as usize) < config.vocab_size));
        let words = texts.tokenizer_config_json()?;
        let words: Json = words.and_then(|words| serde_json::from_slice(&words).ok()).unwrap_or(Json::Null);
        if let Some(template) = words.get("chat_template").and_then(Json::as_str) {
            entries.push(("tokenizer.chat_template".to_owned(), Value::String(template.to_owned())));
        }
    }
    if let Some(bos) = bos {
        entries.push(("tokenizer.ggml.bos_token_id".to_owned(), Value::U32(bos)));
    }
    let keys = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"];
    for (key, &token) in keys.iter().zip(&config.eos_tokens) {
        entries.push(((*key).to_owned(), Value::U32(token)));
    }
    entries.push(("tokenizer.ggml.add_bos_token".to_owned(), Value::Bool(config.bos_token.is_some())));
    entries.push(("tokenizer.ggml.add_eos_token".to_owned(), Value::Bool(false)));
    Ok(entries)
}

/// Divisors of the rotary frequencies (`head_dim` / 2) for Llama 3.1's scaling; `None` for another one.
///
/// Source: the reference implementation of Llama 3.1 (`apply_scaling`).
pub(super) fn llama3_factors(config: &LlamaConfig, scaling: RopeScaling) -> Option<Vec<f32>> {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } = scaling else {
        return None;
    };
    let context = original_context as f64;
    let divisor = |pair: usize| {
        let wavelength = TAU * config.rope_theta.powf(2.0 * pair as f64 / config.head_dim as f64);
        if wavelength < context / high_freq_factor {
            return 1.0;
        }
        if wavelength > context / low_freq_factor {
            return factor;
        }
        let smooth = (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
        1.0 / ((1.0 - smooth) / factor + smooth)
    };
    Some((0..config.head_dim / 2).map(|pair| divisor(pair) as f32).collect())
}

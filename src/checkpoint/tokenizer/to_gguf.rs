//! GGUF metadata from a `tokenizer.json`.

use serde_json::Value;

use crate::checkpoint::gguf::{Array, Value as GgufValue};
use crate::checkpoint::tokenizer::check::{Shape, check_json};
use crate::checkpoint::tokenizer::pieces::{BYTE_LEVEL, SPACE, byte_of, pre_tokenizer_name, token_type};

/// The score of a token that no merge makes: below every merge.
const NEVER_MERGED: f32 = -1e9;

/// The `tokenizer.ggml.*` entries of a vocabulary, padded to `vocab_size` tokens; gives the reason when GGUF has no
/// word for this kind.
pub(crate) fn gguf_from_json(json: &[u8], vocab_size: usize) -> Result<Vec<(&'static str, GgufValue)>, String> {
    let shape = check_json(json)?;
    let words = Words::new(&shape, vocab_size)?;
    let text = |text: &str| GgufValue::String(text.to_owned());
    let mut entries = Vec::new();
    if let Some(prefix) = sentence_piece_prefix(&shape) {
        entries.push(("tokenizer.ggml.model", text("llama")));
        entries.push(("tokenizer.ggml.pre", text("default")));
        entries.push(("tokenizer.ggml.scores", GgufValue::Array(Array::F32(words.scores(&shape)))));
        entries.push(("tokenizer.ggml.add_space_prefix", GgufValue::Bool(prefix)));
    } else if let Some(name) = byte_level_name(&shape)? {
        entries.push(("tokenizer.ggml.model", text("gpt2")));
        entries.push(("tokenizer.ggml.pre", text(name)));
        let merges = shape.model.merges.0.iter().map(|(left, right)| format!("{left} {right}")).collect();
        entries.push(("tokenizer.ggml.merges", GgufValue::Array(Array::String(merges))));
    } else {
        return Err("it is neither SentencePiece's BPE nor a byte-level one, and GGUF has no other here".to_owned());
    }
    let unknown = words.types.iter().position(|&kind| kind == token_type::UNKNOWN);
    if let Some(unknown) = unknown.and_then(|id| u32::try_from(id).ok()) {
        entries.push(("tokenizer.ggml.unknown_token_id", GgufValue::U32(unknown)));
    }
    entries.push(("tokenizer.ggml.tokens", GgufValue::Array(Array::String(words.tokens))));
    entries.push(("tokenizer.ggml.token_type", GgufValue::Array(Array::I32(words.types))));
    Ok(entries)
}

struct Words {
    tokens: Vec<String>,
    types: Vec<i32>,
}

impl Words {
    fn new(shape: &Shape, vocab_size: usize) -> Result<Self, String> {
        let mut tokens: Vec<Option<String>> = vec![None; vocab_size];
        let mut types = vec![token_type::NORMAL; vocab_size];
        let vocab = shape.model.vocab.0.iter().map(|(token, &id)| (token, id as usize, None));
        let added = shape.added_tokens.iter().map(|token| (&token.content, token.id as usize, Some(token.special)));
        let byte_fallback = shape.model.byte_fallback == Some(true);
        for (token, id, special) in vocab.chain(added) {
            let Some(slot) = tokens.get_mut(id) else {
                return Err(format!("token {token:?} has id {id} in a vocabulary of {vocab_size}"));
            };
            if slot.as_ref().is_some_and(|found| found != token) {
                return Err(format!(
                    "tokens {:?} and {token:?} both have id {id}",
                    slot.as_deref().unwrap_or_default()
                ));
            }
            *slot = Some(token.clone());
            types[id] = match special {
                _ if shape.model.unk_token.as_ref() == Some(token) => token_type::UNKNOWN,
                Some(true) => token_type::CONTROL,
                Some(false) => token_type::USER_DEFINED,
                None if byte_fallback && byte_of(token).is_some() => token_type::BYTE,
                None => token_type::NORMAL,
            };
        }
        // Rows of the embedding without a word: GGUF wants a name for each.
        let tokens = tokens.into_iter().enumerate().map(|(id, token)| {
            token.unwrap_or_else(|| {
                types[id] = token_type::USER_DEFINED;
                format!("[PAD{id}]")
            })
        });
        let tokens = tokens.collect();
        Ok(Self { tokens, types })
    }

    /// `SentencePiece` puts the pair with the best score together first; so a token that merge number r makes first has
    /// the score −r.
    fn scores(&self, shape: &Shape) -> Vec<f32> {
        let mut scores = vec![NEVER_MERGED; self.tokens.len()];
        for (id, &kind) in self.types.iter().enumerate() {
            if matches!(kind, token_type::UNKNOWN | token_type::CONTROL | token_type::BYTE) {
                scores[id] = 0.0;
            }
        }
        for (rank, (left, right)) in shape.model.merges.0.iter().enumerate().rev() {
            if let Some(&id) = shape.model.vocab.0.get(&format!("{left}{right}")) {
                scores[id as usize] = -(rank as f32);
            }
        }
        scores
    }
}

/// Whether a `SentencePiece` vocabulary puts a space before a text; `None` when it is not one.
fn sentence_piece_prefix(shape: &Shape) -> Option<bool> {
    if shape.model.byte_fallback != Some(true) {
        return None;
    }
    match (&shape.normalizer, &shape.pre_tokenizer) {
        (Some(normalizer), None) => normalizer_prefix(normalizer),
        (None, Some(pre_tokenizer)) => metaspace_prefix(pre_tokenizer),
        _ => None,
    }
}

fn normalizer_prefix(normalizer: &Value) -> Option<bool> {
    let kind = |part: &Value| part.get("type").and_then(Value::as_str).map(str::to_owned);
    let replaces_spaces = |part: &Value| {
        kind(part).as_deref() == Some("Replace")
            && part.pointer("/pattern/String").and_then(Value::as_str) == Some(" ")
            && part.get("content").and_then(Value::as_str) == Some(SPACE)
    };
    let prepends = |part: &Value| {
        kind(part).as_deref() == Some("Prepend") && part.get("prepend").and_then(Value::as_str) == Some(SPACE)
    };
    match normalizer.get("normalizers").and_then(Value::as_array).map(Vec::as_slice) {
        Some([first, second]) if prepends(first) && replaces_spaces(second) => Some(true),
        Some([only]) if replaces_spaces(only) => Some(false),
        None if replaces_spaces(normalizer) => Some(false),
        _ => None,
    }
}

fn metaspace_prefix(pre_tokenizer: &Value) -> Option<bool> {
    let text = |field: &str| pre_tokenizer.get(field).and_then(Value::as_str);
    let whole_text = pre_tokenizer.get("split").and_then(Value::as_bool) == Some(false);
    if text("type") != Some("Metaspace") || text("replacement") != Some(SPACE) || !whole_text {
        return None;
    }
    match text("prepend_scheme") {
        Some("first" | "always") => Some(true),
        Some("never") => Some(false),
        _ => None,
    }
}

fn byte_level_name(shape: &Shape) -> Result<Option<&'static str>, String> {
    let Some(pre_tokenizer) = &shape.pre_tokenizer else { return Ok(None) };
    if shape.normalizer.is_some() {
        return Ok(None);
    }
    let Some(name) = pre_tokenizer_name(pre_tokenizer) else {
        return Err(format!("its pre_tokenizer is none of those that are known: {}", BYTE_LEVEL.join(", ")));
    };
    if shape.model.ignore_merges == Some(true) && name != "llama-bpe" {
        return Err(format!("ignore_merges with pre_tokenizer {name} has no word in GGUF"));
    }
    Ok(Some(name))
}

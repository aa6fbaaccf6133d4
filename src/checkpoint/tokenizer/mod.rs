//! Tokenizers: `tokenizer.json` checked before the tokenizers crate sees it, and the vocabularies of GGUF files.

mod check;
mod from_gguf;
mod pieces;
mod to_gguf;

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::checkpoint::CheckpointError;

pub(super) use from_gguf::json_from_gguf;
pub(crate) use to_gguf::gguf_from_json;

/// What a folder's tokenizer files say of the token before a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FirstToken {
    /// The configuration knows which one.
    Unknown,
    /// There is none.
    None,
    /// This one.
    Is(u32),
}

/// Builds the tokenizer after our own checks. Truncation and padding of the file are switched off.
pub(super) fn from_json(json: &[u8], path: &Path) -> Result<Tokenizer, CheckpointError> {
    let refuse = |reason: String| CheckpointError::Tokenizer { reason, path: path.to_owned() };
    check::check_json(json).map_err(refuse)?;
    let mut tokenizer = Tokenizer::from_bytes(json).map_err(|error| refuse(error.to_string()))?;
    tokenizer.with_truncation(None).map_err(|error| refuse(error.to_string()))?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

/// The token before a text as a folder's tokenizer files say.
pub(super) fn first_token(tokenizer: Option<&[u8]>, tokenizer_config: Option<&[u8]>) -> FirstToken {
    #[derive(Deserialize)]
    struct Json {
        post_processor: Option<Value>,
    }
    #[derive(Deserialize, Default)]
    struct Config {
        add_bos_token: Option<bool>,
        tokenizer_class: Option<String>,
    }
    // Damage in these files is reported when the tokenizer is asked for.
    let config: Config = tokenizer_config.and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default();
    if config.add_bos_token == Some(false) {
        return FirstToken::None;
    }
    let json: Option<Json> = tokenizer.and_then(|json| serde_json::from_slice(json).ok());
    let Some(json) = json else { return FirstToken::Unknown };
    let llama_class = config.tokenizer_class.is_some_and(|class| class.starts_with("LlamaTokenizer"));
    match json.post_processor.as_ref().and_then(template_token) {
        Some(token) => FirstToken::Is(token),
        None if config.add_bos_token == Some(true) || llama_class => FirstToken::Unknown,
        None => FirstToken::None,
    }
}

/// The id of the special token with which a template begins.
fn template_token(processor: &Value) -> Option<u32> {
    match processor.get("type")?.as_str()? {
        "Sequence" => processor.get("processors")?.as_array()?.iter().find_map(template_token),
        "TemplateProcessing" => {
            let name = processor.get("single")?.get(0)?.get("SpecialToken")?.get("id")?.as_str()?;
            let id = processor.get("special_tokens")?.get(name)?.get("ids")?.get(0)?.as_u64()?;
            u32::try_from(id).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

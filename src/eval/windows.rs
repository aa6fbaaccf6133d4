//! Texts cut into windows of tokens.

use tokenizers::Tokenizer;

use crate::eval::DataError;

/// Non-overlapping windows of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    /// Tokens of each window, all of one length.
    pub tokens: Vec<Vec<u32>>,
    /// Windows that the whole text has.
    pub available: u32,
}

/// Cuts texts by the `gptq` protocol.
///
/// One BOS before each text (if the model has one), all concatenated, windows of `context` tokens without overlap, the
/// remainder dropped; the first `limit` windows are kept.
///
/// # Errors
/// [`DataError::TooShort`] when there is not one whole window.
pub fn cut(
    texts: &[String],
    tokenizer: &Tokenizer,
    bos: Option<u32>,
    context: usize,
    limit: Option<u32>,
) -> Result<Windows, DataError> {
    let mut tokens = Vec::new();
    // Batches keep both cores busy and bound what the tokenizer holds.
    for (batch, texts) in texts.chunks(256).enumerate() {
        let encodings = tokenizer.encode_batch_fast(texts.iter().map(String::as_str).collect(), false);
        let encodings =
            encodings.map_err(|error| DataError::Tokenizer { index: batch * 256 + 1, reason: error.to_string() })?;
        for encoding in encodings {
            tokens.extend(bos);
            tokens.extend_from_slice(encoding.get_ids());
        }
    }
    if context < 2 || tokens.len() < context {
        return Err(DataError::TooShort { tokens: tokens.len(), context });
    }
    let available = tokens.len() / context;
    let kept = limit.map_or(available, |limit| (limit as usize).clamp(1, available));
    let tokens = tokens.chunks_exact(context).take(kept).map(<[u32]>::to_vec).collect();
    Ok(Windows { tokens, available: available as u32 })
}

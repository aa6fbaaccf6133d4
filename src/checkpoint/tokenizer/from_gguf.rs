//! `tokenizer.json` from the metadata of a GGUF file.

use std::cmp::Reverse;
use std::collections::HashMap;

use serde_json::{Value, json};

use crate::checkpoint::gguf::{Array, Metadata, Value as GgufValue};
use crate::checkpoint::tokenizer::pieces::{BYTE_LEVEL, SPACE, byte_of, pre_tokenizer, token_type};

/// The vocabulary of a GGUF file in the form of `tokenizer.json`; gives the reason when it is of an unknown kind.
pub(in crate::checkpoint) fn json_from_gguf(metadata: &Metadata) -> Result<Vec<u8>, String> {
    let tokens = metadata.texts("tokenizer.ggml.tokens")?.ok_or("the file has no tokenizer.ggml.tokens")?;
    let words = Words { metadata, tokens, ids: ids(tokens)?, types: types(metadata, tokens)? };
    let json = match metadata.text("tokenizer.ggml.model")? {
        Some("llama") => words.sentence_piece()?,
        Some("gpt2") => words.byte_level()?,
        Some(other) => return Err(format!("tokenizer.ggml.model {other:?} is not supported; llama and gpt2 are")),
        None => return Err("the file has no tokenizer.ggml.model".to_owned()),
    };
    serde_json::to_vec(&json).map_err(|error| error.to_string())
}

fn ids(tokens: &[String]) -> Result<HashMap<&str, usize>, String> {
    let mut ids = HashMap::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        if let Some(first) = ids.insert(token.as_str(), id) {
            return Err(format!("tokens {first} and {id} are both {token:?}"));
        }
    }
    Ok(ids)
}

fn types(metadata: &Metadata, tokens: &[String]) -> Result<Vec<i32>, String> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let types = match metadata.get(KEY) {
        None => vec![token_type::NORMAL; tokens.len()],
        Some(GgufValue::Array(Array::I32(types))) => types.clone(),
        Some(GgufValue::Array(Array::U32(types))) => types.iter().map(|&kind| kind.cast_signed()).collect(),
        Some(_) => return Err(format!("{KEY} is not an array of integers")),
    };
    if types.len() != tokens.len() {
        return Err(format!("{KEY} has {} entries for {} tokens", types.len(), tokens.len()));
    }
    Ok(types)
}

struct Words<'a> {
    metadata: &'a Metadata,
    tokens: &'a [String],
    ids: HashMap<&'a str, usize>,
    types: Vec<i32>,
}

impl Words<'_> {
    /// `SentencePiece`'s BPE as merges: every way to put a token together, best score first.
    fn sentence_piece(&self) -> Result<Value, String> {
        const SCORES: &str = "tokenizer.ggml.scores";
        let scores = match self.metadata.get(SCORES) {
            Some(GgufValue::Array(Array::F32(scores))) if scores.len() == self.tokens.len() => scores,
            Some(GgufValue::Array(Array::F32(_))) => return Err(format!("{SCORES} has not one entry for each token")),
            Some(_) => return Err(format!("{SCORES} is not an array of f32")),
            None => return Err(format!("the file has no {SCORES}")),
        };
        if let Some(id) = scores.iter().position(|score| !score.is_finite()) {
            return Err(format!("{SCORES} of token {id} is not finite"));
        }
        for (token, &kind) in self.tokens.iter().zip(&self.types) {
            if kind == token_type::BYTE && byte_of(token).is_none() {
                return Err(format!("byte token {token:?} is not a byte"));
            }
        }
        let mut order: Vec<usize> = (0..self.tokens.len()).filter(|&id| self.can_be_merged(id)).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let merges: Vec<[&str; 2]> = order.into_iter().flat_map(|id| self.splits(id)).collect();

        let prefix = self.metadata.switch("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        let mut normalizers = vec![replace(" ", SPACE)];
        let mut decoders = vec![replace(SPACE, " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
        if prefix {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let unknown = self.types.iter().position(|&kind| kind == token_type::UNKNOWN);
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": unknown.map(|id| &self.tokens[id]),
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": self.types.contains(&token_type::BYTE), "vocab": self.ids, "merges": merges,
        });
        let normalizer = json!({"type": "Sequence", "normalizers": normalizers});
        let decoder = json!({"type": "Sequence", "decoders": decoders});
        self.whole([normalizer, Value::Null, decoder, model])
    }

    fn can_be_merged(&self, id: usize) -> bool {
        matches!(self.types[id], token_type::NORMAL | token_type::USER_DEFINED)
    }

    /// The pairs of tokens that make this one, longest left part first.
    fn splits(&self, id: usize) -> Vec<[&str; 2]> {
        let token = self.tokens[id].as_str();
        let places = token.char_indices().map(|(place, _)| place).skip(1);
        let pairs = places.map(|place| token.split_at(place));
        let mut pairs: Vec<[&str; 2]> = pairs
            .filter(|(left, right)| self.ids.contains_key(left) && self.ids.contains_key(right))
            .map(|(left, right)| [left, right])
            .collect();
        pairs.sort_by_key(|[left, _]| Reverse(left.len()));
        pairs
    }

    /// BPE over bytes, as in GPT-2.
    fn byte_level(&self) -> Result<Value, String> {
        let name = self.metadata.text("tokenizer.ggml.pre")?.unwrap_or("default");
        let name = if name == "llama3" { "llama-bpe" } else { name };
        let pre_tokenizer = pre_tokenizer(name)
            .ok_or_else(|| format!("tokenizer.ggml.pre {name:?} is not supported; {} are", BYTE_LEVEL.join(", ")))?;
        let merges = self.metadata.texts("tokenizer.ggml.merges")?.ok_or("the file has no tokenizer.ggml.merges")?;
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": name == "llama-bpe", "vocab": self.ids, "merges": merges,
        });
        let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        self.whole([Value::Null, pre_tokenizer, decoder, model])
    }

    fn whole(&self, [normalizer, pre_tokenizer, decoder, model]: [Value; 4]) -> Result<Value, String> {
        let added = self.types.iter().enumerate().filter_map(|(id, &kind)| {
            let special = match kind {
                token_type::UNKNOWN | token_type::CONTROL => true,
                token_type::USER_DEFINED => false,
                _ => return None,
            };
            Some(json!({"id": id, "content": self.tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special}))
        });
        let added: Vec<Value> = added.collect();
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": self.template()?, "decoder": decoder, "model": model,
        }))
    }

    /// Puts the first token before a text where the file asks for it.
    fn template(&self) -> Result<Value, String> {
        let Some(bos) = self.metadata.unsigned("tokenizer.ggml.bos_token_id")? else { return Ok(Value::Null) };
        let model = self.metadata.text("tokenizer.ggml.model")?;
        let wanted = self.metadata.switch("tokenizer.ggml.add_bos_token")?.unwrap_or(model == Some("llama"));
        let token = usize::try_from(bos).ok().and_then(|bos| self.tokens.get(bos));
        let Some(token) = token.filter(|_| wanted) else { return Ok(Value::Null) };
        let special = json!({"SpecialToken": {"id": token, "type_id": 0}});
        let text = |id: &str, type_id: u8| json!({"Sequence": {"id": id, "type_id": type_id}});
        Ok(json!({
            "type": "TemplateProcessing", "single": [special, text("A", 0)],
            "pair": [special, text("A", 0), special, text("B", 1)],
            "special_tokens": {token.as_str(): {"id": token, "ids": [bos], "tokens": [token]}},
        }))
    }
}

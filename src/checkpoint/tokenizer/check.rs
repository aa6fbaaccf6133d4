//! What a `tokenizer.json` must be before the tokenizers crate may see it.
//!
//! The crate sizes buffers by what the file says and gives up the process on some files; whatever could lead there is
//! refused here: merges outside of the vocabulary, ids far beyond it, and parts that this program has no use for.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::checkpoint::limits;

/// The parts of a `tokenizer.json` that matter.
#[derive(Deserialize)]
pub(super) struct Shape {
    pub(super) model: Model,
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    pub(super) normalizer: Option<Value>,
    pub(super) pre_tokenizer: Option<Value>,
    pub(super) post_processor: Option<Value>,
    pub(super) decoder: Option<Value>,
}

#[derive(Deserialize)]
pub(super) struct AddedToken {
    pub(super) id: u64,
    pub(super) content: String,
    #[serde(default)]
    pub(super) special: bool,
}

#[derive(Deserialize)]
pub(super) struct Model {
    #[serde(rename = "type")]
    pub(super) kind: Kind,
    pub(super) vocab: Vocab,
    pub(super) merges: Merges,
    dropout: Option<f64>,
    pub(super) unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub(super) byte_fallback: Option<bool>,
    #[serde(default)]
    pub(super) ignore_merges: Option<bool>,
}

/// The one kind of model that the Llama family has.
#[derive(Deserialize)]
pub(super) enum Kind {
    #[serde(rename = "BPE")]
    Bpe,
}

/// Parses and checks; gives the reason of a refusal.
pub(super) fn check_json(json: &[u8]) -> Result<Shape, String> {
    limits::TOKENIZER.check(json.len() as u64)?;
    let shape: Shape = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let Model { kind: Kind::Bpe, vocab, merges, .. } = &shape.model;
    let n_tokens = (vocab.0.len() + shape.added_tokens.len()) as u64;
    let ids = vocab.0.iter().map(|(token, &id)| (token, u64::from(id)));
    let added = shape.added_tokens.iter().map(|token| (&token.content, token.id));
    for (token, id) in ids.chain(added) {
        limits::TOKEN_ID.check(id).map_err(|reason| format!("token {token:?}: {reason}"))?;
        if id >= 16 * n_tokens {
            return Err(format!("token {token:?}: id {id} is far beyond a vocabulary of {n_tokens}"));
        }
    }
    if shape.added_tokens.iter().any(|token| token.content.is_empty()) {
        return Err("an added token is empty".to_owned());
    }
    for (left, right) in &merges.0 {
        for part in [left, right, &format!("{left}{right}")] {
            if !vocab.0.contains_key(part.as_str()) {
                return Err(format!("merge of {left:?} and {right:?}: {part:?} is not in the vocabulary"));
            }
        }
    }
    check_model(&shape.model)?;
    check_parts("normalizer", shape.normalizer.as_ref(), &NORMALIZERS)?;
    check_parts("pre_tokenizer", shape.pre_tokenizer.as_ref(), &PRE_TOKENIZERS)?;
    check_parts("post_processor", shape.post_processor.as_ref(), &POST_PROCESSORS)?;
    check_parts("decoder", shape.decoder.as_ref(), &DECODERS)?;
    Ok(shape)
}

fn check_model(model: &Model) -> Result<(), String> {
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err("a model with dropout gives another result each time".to_owned());
    }
    for affix in [&model.continuing_subword_prefix, &model.end_of_word_suffix] {
        if affix.as_ref().is_some_and(|affix| !affix.is_empty()) {
            return Err("continuing_subword_prefix and end_of_word_suffix are not supported".to_owned());
        }
    }
    if let Some(unknown) = model.unk_token.as_ref().filter(|token| !model.vocab.0.contains_key(*token)) {
        return Err(format!("unk_token {unknown:?} is not in the vocabulary"));
    }
    Ok(())
}

const NORMALIZERS: [&str; 9] = ["Sequence", "Prepend", "Replace", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip"];
const PRE_TOKENIZERS: [&str; 7] =
    ["Sequence", "ByteLevel", "Split", "Digits", "Metaspace", "Whitespace", "Punctuation"];
const POST_PROCESSORS: [&str; 3] = ["Sequence", "TemplateProcessing", "ByteLevel"];
const DECODERS: [&str; 7] = ["Sequence", "ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"];

/// The lists in which the parts of a sequence stand.
const SEQUENCES: [&str; 4] = ["normalizers", "pretokenizers", "processors", "decoders"];

fn check_parts(field: &str, part: Option<&Value>, known: &[&str]) -> Result<(), String> {
    let Some(part) = part else { return Ok(()) };
    match part.get("type").and_then(Value::as_str) {
        Some(kind) if known.contains(&kind) => {}
        Some(kind) => return Err(format!("{field} of type {kind:?} is not supported")),
        None => return Err(format!("{field} has no type")),
    }
    if let Some(pattern) = part.get("pattern") {
        let text = pattern.get("Regex").or_else(|| pattern.get("String")).and_then(Value::as_str);
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return Err(format!("{field} has a pattern that is neither text nor regular expression"));
        };
        limits::TOKENIZER_REGEX.check(text.len() as u64).map_err(|reason| format!("{field}: {reason}"))?;
    }
    for list in SEQUENCES.iter().filter_map(|list| part.get(list)) {
        let Some(list) = list.as_array() else { return Err(format!("{field} has a sequence that is not a list")) };
        for inner in list {
            // A sequence in a sequence has no use and would have to be followed down.
            if inner.get("type").and_then(Value::as_str) == Some("Sequence") {
                return Err(format!("{field} has a sequence in a sequence"));
            }
            check_parts(field, Some(inner), known)?;
        }
    }
    Ok(())
}

/// Tokens and ids; a token that stands twice is an error.
pub(super) struct Vocab(pub(super) HashMap<String, u32>);

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct VocabVisitor;
        impl<'de> Visitor<'de> for VocabVisitor {
            type Value = Vocab;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of tokens and ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                let mut vocab = HashMap::new();
                while let Some((token, id)) = map.next_entry::<String, u32>()? {
                    if vocab.insert(token, id).is_some() {
                        return Err(A::Error::custom("a token stands twice in the vocabulary"));
                    }
                }
                Ok(Vocab(vocab))
            }
        }
        deserializer.deserialize_map(VocabVisitor)
    }
}

/// Pairs in the order of their ranks.
pub(super) struct Merges(pub(super) Vec<(String, String)>);

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MergesVisitor;
        impl<'de> Visitor<'de> for MergesVisitor {
            type Value = Merges;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merges, A::Error> {
                let mut merges = Vec::new();
                while let Some(Merge(left, right)) = list.next_element()? {
                    merges.push((left, right));
                }
                Ok(Merges(merges))
            }
        }
        deserializer.deserialize_seq(MergesVisitor)
    }
}

/// A pair, written as a list of two or as one text with a space between.
struct Merge(String, String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MergeVisitor;
        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge of two tokens")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Merge, E> {
                let parts = text.split_once(' ').filter(|(_, right)| !right.contains(' '));
                let (left, right) = parts.ok_or_else(|| E::custom(format!("merge {text:?} has not two tokens")))?;
                Ok(Merge(left.to_owned(), right.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merge, A::Error> {
                let too_short = || A::Error::custom("a merge has not two tokens");
                let left = list.next_element()?.ok_or_else(too_short)?;
                let right = list.next_element()?.ok_or_else(too_short)?;
                if list.next_element::<String>()?.is_some() {
                    return Err(A::Error::custom("a merge has more than two tokens"));
                }
                Ok(Merge(left, right))
            }
        }
        deserializer.deserialize_any(MergeVisitor)
    }
}

//! The parts of tokenizers that both layouts know: how GGUF names them and how `tokenizer.json` spells them out.

use serde_json::{Value, json};

/// The sign for a space in `SentencePiece` vocabularies.
pub(super) const SPACE: &str = "\u{2581}";

/// What a token is, by the numbers of GGUF.
pub(super) mod token_type {
    pub(in crate::checkpoint) const NORMAL: i32 = 1;
    pub(in crate::checkpoint) const UNKNOWN: i32 = 2;
    pub(in crate::checkpoint) const CONTROL: i32 = 3;
    pub(in crate::checkpoint) const USER_DEFINED: i32 = 4;
    pub(in crate::checkpoint) const BYTE: i32 = 6;
}

/// The pre-tokenizers of byte-level vocabularies that are known, by their GGUF names.
pub(super) const BYTE_LEVEL: [&str; 4] = ["gpt-2", "llama-bpe", "smollm", "default"];

/// The `pre_tokenizer` behind a GGUF name.
pub(super) fn pre_tokenizer(name: &str) -> Option<Value> {
    let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let split =
        |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let sequence = |parts: Vec<Value>| json!({"type": "Sequence", "pretokenizers": parts});
    Some(match name {
        "gpt-2" => bytes(true),
        "llama-bpe" => sequence(vec![
            split(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
            bytes(false),
        ]),
        "smollm" => sequence(vec![json!({"type": "Digits", "individual_digits": true}), bytes(true)]),
        "default" => sequence(vec![
            split(r"[\p{P}\$\+<=>\^~\|]+"),
            split(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"),
            split(r"\p{N}+"),
            split(r"[0-9][0-9][0-9]"),
            bytes(false),
        ]),
        _ => return None,
    })
}

/// The GGUF name of a `pre_tokenizer`, by what it does: fields that do not change tokens are not compared.
pub(super) fn pre_tokenizer_name(found: &Value) -> Option<&'static str> {
    BYTE_LEVEL.into_iter().find(|name| pre_tokenizer(name).is_some_and(|known| same_tokens(&known, found)))
}

fn same_tokens(known: &Value, found: &Value) -> bool {
    match (known, found) {
        (Value::Object(known), Value::Object(found)) => {
            known.iter().all(|(key, value)| match (key.as_str(), found.get(key)) {
                ("trim_offsets", _) => true,
                ("use_regex", None) => value == &Value::Bool(true),
                (_, Some(found)) => same_tokens(value, found),
                (_, None) => false,
            })
        }
        (Value::Array(known), Value::Array(found)) => {
            known.len() == found.len() && known.iter().zip(found).all(|(known, found)| same_tokens(known, found))
        }
        _ => known == found,
    }
}

/// The byte behind a byte token: `<0x0A>`.
pub(super) fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let plain = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| plain)
}

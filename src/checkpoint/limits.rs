//! What a file may ask for. Each limit is named in the refusal that it causes.

/// A bound and its name in the refusal.
pub(super) struct Limit {
    pub(super) name: &'static str,
    pub(super) max: u64,
}

macro_rules! limits {
    ($($(#[$doc:meta])* $id:ident = $max:expr, $name:literal;)*) => {
        $($(#[$doc])* pub(super) const $id: Limit = Limit { name: $name, max: $max };)*
    };
}

limits! {
    SAFETENSORS_HEADER = 64 << 20, "bytes of a safetensors header";
    TENSORS = 500_000, "tensors in a file";
    SHARDS = 4_096, "shards of a model";
    GGUF_KEYS = 100_000, "metadata keys of a GGUF file";
    GGUF_STRING = 16 << 20, "bytes of a GGUF string";
    GGUF_ARRAY = 16_000_000, "elements of a GGUF array";
    /// Arrays of arrays of arrays of arrays.
    GGUF_DEPTH = 4, "nested GGUF arrays";
    GGUF_DIMS = 4, "dimensions of a GGUF tensor";
    GGUF_ALIGNMENT = 1 << 20, "bytes of GGUF alignment";
    JSON = 16 << 20, "bytes of a configuration or index";
    TOKENIZER = 128 << 20, "bytes of tokenizer.json";
    TOKEN_ID = (1 << 24) - 1, "token id";
    TOKENIZER_REGEX = 64 << 10, "bytes of a tokenizer's regular expression";
    BLOCKS = 4_096, "blocks of a model";
    WIDTH = 1 << 20, "width of a hidden layer or of all heads";
    MLP_WIDTH = 1 << 22, "width of an MLP";
    VOCABULARY = 1 << 24, "rows of an embedding";
    CONTEXT = 1 << 27, "tokens of context";
}

impl Limit {
    /// The reason of a refusal when `found` is above the limit.
    pub(super) fn check(&self, found: u64) -> Result<(), String> {
        if found > self.max {
            return Err(format!("{found} is over the limit of {} {}", self.max, self.name));
        }
        Ok(())
    }
}

//! Words of how a variant was made.

/// Words of how a variant was made.
#[derive(Debug)]
#[expect(missing_docs, reason = "one line of the report each")]
pub struct CompressionWords {
    pub heading: &'static str,
    pub tokens: fn(&str, u32, u32) -> String,
    pub thin: fn(usize) -> String,
    pub layers: fn(usize) -> String,
    pub mean_error: fn(&str) -> String,
    pub from_database: fn(usize) -> String,
    pub worst: &'static str,
    pub worst_note: &'static str,
    pub more: fn(usize) -> String,
    pub error_so_far: fn(&str) -> String,
    pub step_left: fn(&str) -> String,
    /// Rows of the comparison of recipes: structure, sharing, KV cache, attention.
    pub whole: [&'static str; 4],
    pub all_kept: &'static str,
}

impl CompressionWords {
    /// English.
    pub const EN: Self = Self {
        heading: "How it was made",
        tokens: |tokens, windows, context| format!("{tokens} tokens ({windows} windows of {context})"),
        thin: |n| {
            if n == 1 {
                "1 layer saw fewer tokens than it has inputs".to_owned()
            } else {
                format!("{n} layers saw fewer tokens than they have inputs")
            }
        },
        layers: |n| if n == 1 { "1 layer made".to_owned() } else { format!("{n} layers made") },
        mean_error: |error| format!("mean output error {error}"),
        from_database: |n| format!("{n} from the layer database"),
        worst: "Largest output errors",
        worst_note: "Squared error of a layer's outputs on the calibration text, relative to the outputs",
        more: |n| format!("and {n} more notes"),
        error_so_far: |error| format!("mean error so far {error}"),
        step_left: |time| format!("{time} left in this step"),
        whole: ["structure", "sharing", "KV cache", "attention"],
        all_kept: "as the checkpoint",
    };
}

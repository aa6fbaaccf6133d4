//! Words of the cache of compressed layers.

/// Words of the cache of compressed layers.
#[derive(Debug)]
#[expect(missing_docs, reason = "one word a control")]
pub struct CacheWords {
    pub name: &'static str,
    pub hint: &'static str,
    pub unknown: &'static str,
    pub clear: &'static str,
    pub question: &'static str,
    pub consequence: fn(&str) -> String,
    pub confirm: &'static str,
    pub keep: &'static str,
}

impl CacheWords {
    /// English.
    pub const EN: Self = Self {
        name: "Cache",
        hint: "Calibrations and compressed layers, each made once for all studies. The oldest go when it is full",
        unknown: "not read yet",
        clear: "Clear…",
        question: "Clear the cache?",
        consequence: |size| {
            format!(
                "{size} of calibrations and compressed layers are deleted. Recorded results stay; the next trials take longer"
            )
        },
        confirm: "Clear the cache",
        keep: "Keep it",
    };
}

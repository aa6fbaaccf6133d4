//! What holds for the whole model: calibration, attention and its cache.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The text that calibrated methods read, and how its effects travel through the model.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// JSON lines with a `text` each; disjoint from the texts that variants are judged by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// The first so many windows; [`Self::WINDOWS`] when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<u32>,
    /// Tokens a window; the model's context, at most 2048, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// Where the inputs of a block come from.
    #[serde(default)]
    pub policy: Policy,
}

impl Calibration {
    /// Windows when a recipe names none.
    pub const WINDOWS: u32 = 128;

    /// The longest window where a recipe names none.
    const MAX_CONTEXT: usize = 2048;

    /// Tokens a window, for a model of this context.
    pub fn context_of(&self, max_context: usize) -> usize {
        self.context.unwrap_or(max_context.min(Self::MAX_CONTEXT))
    }

    /// Whether nothing is named.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Windows that are read.
    pub fn n_windows(&self) -> u32 {
        self.windows.unwrap_or(Self::WINDOWS)
    }
}

/// Where the calibrated inputs of a block come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// From the compressed blocks before it; the linear layers of a block all read inputs that its own dense weights make.
    #[default]
    Sequential,
    /// From the dense model: the same for every recipe.
    Dense,
}

impl Policy {
    /// The name in recipes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Dense => "dense",
        }
    }
}

/// Formats of the cached keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvCacheSettings {
    /// Format of the keys.
    #[serde(default)]
    pub keys: KvFormat,
    /// Format of the values.
    #[serde(default)]
    pub values: KvFormat,
}

impl KvCacheSettings {
    /// Whether both are in full precision.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde wants")]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A format of cached keys or values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvFormat {
    /// Single precision.
    #[default]
    F32,
    /// IEEE half precision.
    F16,
    /// Blocks of 32 with 8 bits and an f16 scale; 34 bytes a block.
    Q8_0,
    /// Blocks of 32 with 4 bits and an f16 scale; 18 bytes a block.
    Q4_0,
}

impl KvFormat {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Q8_0, Self::Q4_0];

    /// The name in recipes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
        }
    }

    /// Values of a block: a token's keys (or values) of all heads are made of whole blocks.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 => 1,
            Self::Q8_0 | Self::Q4_0 => 32,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
        }
    }
}

/// How attention is computed, and what it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionSettings {
    /// How it is computed; both give the same numbers.
    #[serde(default)]
    pub form: AttentionForm,
    /// A query sees so many of the latest tokens, its own included; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// And so many of the first tokens of the text, when there is a window. Xiao et al., 2023, arXiv:2309.17453.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sinks: usize,
}

impl AttentionSettings {
    /// Whether every query sees every token before it, in the default form.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde wants")]
fn is_zero(sinks: &usize) -> bool {
    *sinks == 0
}

/// How attention is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionForm {
    /// Tiles of keys with an online softmax: scores of a tile exist at a time. Dao et al., 2022, arXiv:2205.14135.
    #[default]
    Tiled,
    /// All scores of a head at once: what the tiled form is compared with.
    Naive,
}

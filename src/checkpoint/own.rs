//! The own key in `config.json`: what Hugging Face's layout has no words for.
//!
//! A folder that needs it has the architecture [`ARCHITECTURE`], so that a program that does not know the key refuses the
//! folder instead of making up the weights that it misses.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{BlockShape, LayerPath, SparseValues};

/// The key.
pub(crate) const KEY: &str = "trimtab";

/// The architecture of a folder that has [`KEY`].
pub(crate) const ARCHITECTURE: &str = "TrimtabLlamaForCausalLM";

/// The value of [`KEY`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OwnLayout {
    /// [`OwnLayout::VERSION`].
    pub(crate) format_version: u32,
    /// Widths of each block where they are not all alike.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) blocks: Vec<BlockShape>,
    /// Ranks of the layers that have factors `PATH.up.weight` and `PATH.down.weight` in the place of `PATH.weight`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) low_rank: BTreeMap<LayerPath, usize>,
    /// How the values lie of the layers that have `PATH.weight.bitmask`, `.row_starts`, `.values` and, of int8, `.scales`
    /// in the place of `PATH.weight`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) sparse: BTreeMap<LayerPath, SparseValues>,
    /// Layers without a tensor of their own, each with the layer whose weights (of low rank: whose `down`) it reads.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) shared: BTreeMap<LayerPath, LayerPath>,
}

impl OwnLayout {
    /// The version that this program writes and reads.
    pub(crate) const VERSION: u32 = 1;

    /// Whether plain Hugging Face words are enough.
    pub(crate) fn is_plain(&self) -> bool {
        self.blocks.is_empty() && self.low_rank.is_empty() && self.sparse.is_empty() && self.shared.is_empty()
    }

    /// The layout in the value of [`KEY`]; why not, otherwise.
    pub(super) fn read(value: &serde_json::Value) -> Result<Self, String> {
        if !value.is_object() {
            return Err("it is no object".to_owned());
        }
        let version = value.get("format_version").and_then(serde_json::Value::as_u64);
        // A newer layout may have keys that this version does not know: its version is the better message.
        if let Some(version) = version.filter(|version| *version > u64::from(Self::VERSION)) {
            return Err(format!("format_version {version} is newer than {}; update Trimtab to open it", Self::VERSION));
        }
        let layout: Self = Self::deserialize(value).map_err(|error| error.to_string())?;
        if layout.format_version != Self::VERSION {
            return Err(format!("format_version {} is not {}", layout.format_version, Self::VERSION));
        }
        Ok(layout)
    }
}

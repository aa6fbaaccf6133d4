//! How a variant was made: what calibrated it, and what each layer lost.

use serde::{Deserialize, Serialize};

use crate::model::LayerPath;
use crate::recipe::Policy;

/// How a variant was made. Absent from trials whose layers are all the checkpoint's own.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CompressionReport {
    /// The text that calibrated methods read, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationReport>,
    /// Every layer that was made, in the order of the model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerReport>,
    /// Peak resident memory of the worker while it made the variant, from the kernel; absent where it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
    /// What holds for the whole variant, in words: the blocks that were chosen to go, what was shared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl CompressionReport {
    /// Mean relative output error over the layers that have one.
    pub fn mean_output_error(&self) -> Option<f64> {
        mean(self.layers.iter().filter_map(|layer| layer.output_error))
    }

    /// Layers that were found in the layer database.
    pub fn n_from_database(&self) -> usize {
        self.layers.iter().filter(|layer| layer.from_database).count()
    }

    /// Layers whose compression did not go as asked in some point.
    pub fn n_noted(&self) -> usize {
        self.layers.iter().filter(|layer| !layer.notes.is_empty()).count()
    }
}

/// The text that calibrated a variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalibrationReport {
    /// Name of the text: its file stem.
    pub text: String,
    /// The beginning of the hash of the windows' tokens, in hex: equal hashes saw equal tokens.
    pub hash: String,
    /// Windows read.
    pub windows: u32,
    /// Windows that the text has.
    pub available: u32,
    /// Tokens a window.
    pub context: u32,
    /// Where the inputs of a block came from.
    pub policy: Policy,
    /// Blocks whose sums of inputs were found on the disk, from an earlier trial with the same text.
    pub cached_blocks: u32,
    /// Blocks whose inputs were read anew; with none of either, every calibrated layer came from the layer database.
    pub read_blocks: u32,
    /// Layers that saw fewer tokens than they have input features.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub thin_layers: Vec<LayerPath>,
    /// Time of the forward passes and sums, in seconds.
    pub secs: f64,
}

impl CalibrationReport {
    /// Tokens that every layer saw.
    pub fn tokens(&self) -> u64 {
        u64::from(self.windows) * u64::from(self.context)
    }
}

/// What became of one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerReport {
    /// The layer.
    pub path: LayerPath,
    /// ‖X (W − Ŵ)ᵀ‖² / ‖X Wᵀ‖² over the calibrated inputs; absent without calibration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_error: Option<f64>,
    /// Time of compressing it, in seconds; what it took back then where it came from the database.
    pub secs: f64,
    /// Whether it was found in the layer database.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_database: bool,
    /// Bytes packed; what it shares counts with the first layer that has it.
    pub packed_bytes: u64,
    /// What did not go as asked, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// The mean; `None` of nothing.
pub(super) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0_u32), |(sum, n), value| (sum + value, n + 1));
    (n > 0).then(|| sum / f64::from(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_leave_out_layers_without_an_error() {
        let layer = |output_error| LayerReport {
            path: "a".into(),
            output_error,
            secs: 0.5,
            from_database: output_error.is_none(),
            packed_bytes: 8,
            notes: Vec::new(),
        };
        let mut report = CompressionReport { layers: vec![layer(Some(0.5)), layer(None)], ..Default::default() };
        assert_eq!((report.mean_output_error(), report.n_from_database()), (Some(0.5), 1));
        let json = serde_json::to_string(&report).unwrap();
        assert!(!json.contains("notes") && !json.contains("calibration"), "{json}");
        assert_eq!(serde_json::from_str::<CompressionReport>(&json).unwrap(), report);
        report.layers.clear();
        assert_eq!(report.mean_output_error(), None);
    }
}

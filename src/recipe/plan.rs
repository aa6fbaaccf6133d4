//! A recipe that was checked against one model and one device.

use serde::{Deserialize, Serialize};

use crate::device::DeviceSpec;
use crate::model::{
    BlockShape, Fingerprint, Layer, LayerPath, ModelGraph, SparseValues, StoredFormat, stored_layer_bytes,
};
use crate::recipe::{
    Activations, Allocation, AttentionSettings, Calibration, Correction, Execution, Fp8Scale, Group, IntFormat,
    KvCacheSettings, LowRank, LowRankMethod, RankRule, Rounding, Sharing, SharingMethod, Sparsity, Structure,
    WeightFormat, rank_of_ratio,
};

/// Concrete settings of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LayerSettings {
    /// Format of the weights.
    pub weights: WeightFormat,
    /// How they are rounded to it; nearest where the format is no grid.
    pub rounding: Rounding,
    /// How activations enter the product.
    pub activations: Activations,
    /// Pruning, with a fraction above 0.
    pub sparsity: Option<Sparsity>,
    /// Two thin factors in the place of the matrix, in the format of the weights.
    pub low_rank: Option<LowRank>,
    /// A low-rank term beside quantized weights, with a rank above 0.
    pub correction: Option<Correction>,
}

impl LayerSettings {
    /// Whether the layer stays as the checkpoint has it.
    pub fn is_reference(&self) -> bool {
        *self == Self::default()
    }

    /// Settings of a format alone.
    pub fn of(weights: WeightFormat) -> Self {
        Self { weights, ..Self::default() }
    }

    /// Whether a method among them reads activations.
    pub fn needs_calibration(&self) -> bool {
        let low_rank = self.low_rank.is_some_and(|low_rank| low_rank.method == LowRankMethod::Whitened);
        let correction = self.correction.is_some_and(|correction| correction.method == LowRankMethod::Whitened);
        let sparsity = self
            .sparsity
            .is_some_and(|sparsity| sparsity.method.needs_calibration() || sparsity.allocation == Allocation::Owl);
        let rounding = self.weights.is_quantized() && self.rounding.needs_calibration();
        rounding || self.activations.needs_calibration() || sparsity || low_rank || correction
    }

    /// How the weights that stay are stored where zeros are left out of a layer that the checkpoint stores as `stored`;
    /// `None` where zeros are stored, and where the format has no such storage.
    pub fn bitmask_values(&self, stored: StoredFormat) -> Option<SparseValues> {
        self.sparsity.filter(Sparsity::is_bitmask)?;
        match self.weights {
            WeightFormat::F16 => Some(SparseValues::F16),
            WeightFormat::Native if stored == StoredFormat::F16 => Some(SparseValues::F16),
            WeightFormat::Int(IntFormat { bits: 8, group: Group::Row, symmetric: true }) => Some(SparseValues::Int8),
            _ => None,
        }
    }

    /// These settings with what has no effect on this format left out, so that equal layers have equal settings.
    #[must_use]
    pub(super) fn canonical(mut self) -> Self {
        if !self.weights.is_quantized() {
            self.rounding = Rounding::Nearest;
            self.correction = None;
        }
        self.sparsity = self.sparsity.filter(|sparsity| sparsity.fraction != 0.0);
        self.low_rank = self.low_rank.filter(|low_rank| !low_rank.is_full());
        self.correction = self.correction.filter(|correction| correction.rank > 0);
        self
    }

    /// Short text for tables: `q8_0`, `int4 g32 gptq, 30 % sparse`.
    pub fn label(&self) -> String {
        let mut parts = vec![match self.rounding {
            Rounding::Nearest => self.weights.label(),
            rounding => format!("{} {}", self.weights.label(), rounding.name()),
        }];
        if self.activations != Activations::Float {
            let smooth = if self.activations.smoothing().is_some() { " smooth" } else { "" };
            parts.push(format!("{}{smooth}", self.activations.name()));
        }
        parts.extend(self.sparsity.map(|sparsity| sparsity.label()));
        parts.extend(self.low_rank.map(|low_rank| low_rank.label()));
        parts.extend(self.correction.map(|correction| format!("correction rank {}", correction.rank)));
        parts.join(", ")
    }
}

/// One layer of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerPlan {
    /// The layer.
    pub path: LayerPath,
    /// What becomes of it.
    pub settings: LayerSettings,
    /// How the device multiplies with it.
    pub execution: Execution,
    /// (`out_features`, `in_features`) after structural pruning; `None` where the layer is removed.
    pub shape: Option<[usize; 2]>,
    /// Bytes of the packed weights: what a file holds, scales and minimums included. Zeros of a mask count in full, those
    /// that a bitmask leaves out as a bit, layers that share a tensor count it once. Kept weights that are rounded to zero
    /// are left out of a bitmask too, so this is the most that it can be.
    pub packed_bytes: u64,
}

/// Total for one model on one device.
///
/// Invariant: one entry per layer of the graph, in its order, every entry supported by the device. Made by
/// [`crate::recipe::Recipe::resolve`] only.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The model.
    pub model: Fingerprint,
    /// The device.
    pub device: DeviceSpec,
    /// One entry per layer.
    pub layers: Vec<LayerPlan>,
    /// Widths of each block after structural pruning.
    pub blocks: Vec<BlockShape>,
    /// Why `packed_bytes` is an estimate, where it is: ranks or blocks are chosen by a score when the variant is made.
    pub estimated: Option<&'static str>,
    /// Parts that are removed first.
    pub structure: Structure,
    /// Layers that share a tensor.
    pub sharing: Vec<Sharing>,
    /// Formats of cached keys and values.
    pub kv_cache: KvCacheSettings,
    /// How attention is computed, and what it sees.
    pub attention: AttentionSettings,
    /// The text that calibrated methods read; with data wherever one is needed.
    pub calibration: Calibration,
    pub(super) other_bytes: u64,
    pub(super) block_weights: u64,
    pub(super) block_bits: u64,
}

impl Plan {
    /// Bytes of the variant's tensors as packed; norms and biases as stored.
    pub fn weight_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.packed_bytes).sum::<u64>() + self.other_bytes
    }

    /// Whether making the variant reads the calibration text.
    pub fn needs_calibration(&self) -> bool {
        self.structure.needs_calibration()
            || self.layers.iter().any(|layer| layer.shape.is_some() && layer.settings.needs_calibration())
            || self.sharing.iter().any(|sharing| sharing.method == SharingMethod::Basis)
    }

    /// Effective bits per weight over the linear layers of the blocks, and over embedding and head where a rule changed
    /// them; scales and minimums count.
    pub fn bits_per_weight(&self) -> f64 {
        self.block_bits as f64 / self.block_weights as f64
    }

    /// Layers whose product is simulated.
    pub fn n_simulated(&self) -> usize {
        let is_simulated = |layer: &&LayerPlan| layer.shape.is_some() && layer.execution == Execution::Simulated;
        self.layers.iter().filter(is_simulated).count()
    }
}

/// Bits of a layer's weights in `format`, scales and minimums included; `None` when a row is not made of whole blocks.
///
/// An integer grid stores an f16 scale a group and, when asymmetric, a zero point of `bits` a group; FP8 stores f32 scales.
pub fn weight_bits(layer: &Layer, format: WeightFormat) -> Option<u64> {
    matrix_bits(layer.shape, format, layer.stored)
}

/// [`weight_bits`] of an (`rows`, `row_len`) matrix whose native format is `stored`.
pub(super) fn matrix_bits([rows, row_len]: [usize; 2], format: WeightFormat, stored: StoredFormat) -> Option<u64> {
    let stored = match format {
        WeightFormat::Native => stored,
        WeightFormat::F32 => StoredFormat::F32,
        WeightFormat::F16 => StoredFormat::F16,
        WeightFormat::Bf16 => StoredFormat::Bf16,
        WeightFormat::Fp8(scale) => return Some(fp8_bits(rows, row_len, scale)),
        WeightFormat::Int(int) => return int_bits(rows, row_len, int),
        ggml => StoredFormat::Ggml(ggml.ggml()?),
    };
    let bytes = stored.tensor_bytes(rows as u128, row_len as u128)?;
    u64::try_from(bytes * 8).ok()
}

/// Bits of a layer with all its settings in a shape after structural pruning: as in the file while nothing is done to it.
pub fn layer_bits(layer: &Layer, shape: [usize; 2], settings: &LayerSettings) -> Option<u64> {
    // Thin factors, shared tensors and left out zeros of the file stay what they are.
    if settings.is_reference() && shape == layer.shape {
        return Some(stored_layer_bytes(layer) * 8);
    }
    settings_bits(shape, settings, layer.stored)
}

/// Bits of a matrix with all its settings: both factors of a low-rank layer, the term beside a corrected one, of a bitmask
/// the weights that stay.
///
/// Ranks that depend on the singular values are taken as the kept share; HQQ's zero points are f16.
pub fn settings_bits(shape: [usize; 2], settings: &LayerSettings, stored: StoredFormat) -> Option<u64> {
    let [rows, row_len] = shape;
    if let Some(low_rank) = settings.low_rank {
        let ratio = match low_rank.rank {
            RankRule::Ratio(ratio) | RankRule::Energy(ratio) => ratio,
            RankRule::ErrorBudget(budget) => 1.0 - budget,
        };
        let rank = rank_of_ratio(rows, row_len, ratio, low_rank.align);
        let up = matrix_bits([rows, rank], settings.weights, stored)?;
        return Some(up + matrix_bits([rank, row_len], settings.weights, stored)?);
    }
    if let (Some(values), Some(sparsity)) = (settings.bitmask_values(stored), settings.sparsity) {
        let n_values = (rows * row_len - sparsity.n_zeros(shape)) as u64;
        return Some(values.matrix_bytes(shape, n_values) * 8);
    }
    let mut bits = matrix_bits(shape, settings.weights, stored)?;
    if let (WeightFormat::Int(int), Rounding::Hqq(_)) = (settings.weights, settings.rounding) {
        let groups = (rows * (row_len / int.group.len(row_len))) as u64;
        bits += groups * (16 - if int.symmetric { 0 } else { u64::from(int.bits) });
    }
    let correction = settings.correction.map_or(0, |correction| usize::from(correction.rank).min(rows.min(row_len)));
    Some(bits + 16 * (correction * (rows + row_len)) as u64)
}

fn fp8_bits(rows: usize, row_len: usize, scale: Fp8Scale) -> u64 {
    rows as u64 * row_len as u64 * 8 + 32 * scale.count(rows, row_len) as u64
}

fn int_bits(rows: usize, row_len: usize, int: IntFormat) -> Option<u64> {
    let group = int.group.len(row_len);
    if group == 0 || !row_len.is_multiple_of(group) {
        return None;
    }
    let zero_point = if int.symmetric { 0 } else { u64::from(int.bits) };
    let groups = (row_len / group) as u64;
    Some(rows as u64 * (row_len as u64 * u64::from(int.bits) + groups * (16 + zero_point)))
}

/// The weights that count for bits per weight.
pub(super) fn counts_for_bits(graph: &ModelGraph, index: usize, settings: &LayerSettings) -> bool {
    graph.layers[index].block.is_some() || settings.weights != WeightFormat::Native
}

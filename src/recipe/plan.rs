//! A recipe that was checked against one model and one device.

use serde::{Deserialize, Serialize};

use crate::device::DeviceSpec;
use crate::model::{Fingerprint, Layer, LayerPath, ModelGraph, StoredFormat};
use crate::recipe::{Execution, IntFormat, Sparsity, WeightFormat};

/// Concrete settings of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct LayerSettings {
    /// Format of the weights.
    pub weights: WeightFormat,
    /// Pruning, with a fraction above 0.
    pub sparsity: Option<Sparsity>,
}

impl LayerSettings {
    /// Whether the layer stays as the checkpoint has it.
    pub fn is_reference(&self) -> bool {
        *self == Self::default()
    }

    /// Short text for tables: `q8_0`, `int4 g32, 30 % sparse`.
    pub fn label(&self) -> String {
        match self.sparsity {
            None => self.weights.label(),
            Some(sparsity) => {
                format!("{}, {} sparse", self.weights.label(), crate::units::percent(sparsity.fraction))
            }
        }
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
    /// Bytes of the packed weights: what a file holds, scales and minimums included. Zeros of a mask count in full.
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
    pub(super) other_bytes: u64,
    pub(super) block_weights: u64,
    pub(super) block_bits: u64,
}

impl Plan {
    /// Bytes of the variant's tensors as packed; norms and biases as stored.
    pub fn weight_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.packed_bytes).sum::<u64>() + self.other_bytes
    }

    /// Effective bits per weight over the linear layers of the blocks, and over embedding and head where a rule changed
    /// them; scales and minimums count.
    pub fn bits_per_weight(&self) -> f64 {
        self.block_bits as f64 / self.block_weights as f64
    }

    /// This plan with every GGML layer that a rule made dequantized to f32: the weights alone, without the quantized
    /// activations of the packed products.
    #[must_use]
    pub fn dequantized(&self) -> Self {
        let mut plan = self.clone();
        for layer in plan.layers.iter_mut().filter(|layer| layer.settings.weights.ggml().is_some()) {
            layer.execution = Execution::Simulated;
        }
        plan
    }

    /// Layers whose product is simulated.
    pub fn n_simulated(&self) -> usize {
        self.layers.iter().filter(|layer| matches!(layer.execution, Execution::Simulated)).count()
    }
}

/// Bits of a layer's weights in `format`, scales and minimums included; `None` when a row is not made of whole blocks.
///
/// An integer grid stores an f16 scale a group and, when asymmetric, a zero point of `bits` a group.
pub fn weight_bits(layer: &Layer, format: WeightFormat) -> Option<u64> {
    let [rows, row_len] = layer.shape;
    let stored = match format {
        WeightFormat::Native => layer.stored,
        WeightFormat::F32 => StoredFormat::F32,
        WeightFormat::F16 => StoredFormat::F16,
        WeightFormat::Bf16 => StoredFormat::Bf16,
        WeightFormat::Int(int) => return int_bits(rows, row_len, int),
        ggml => StoredFormat::Ggml(ggml.ggml()?),
    };
    let bytes = stored.tensor_bytes(rows as u128, row_len as u128)?;
    u64::try_from(bytes * 8).ok()
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

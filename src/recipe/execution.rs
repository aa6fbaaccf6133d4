//! Which products a device has.

use serde::{Deserialize, Serialize};

use crate::device::DeviceSpec;
use crate::model::StoredFormat;
use crate::recipe::WeightFormat;

/// How a device multiplies with a layer's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Execution {
    /// A product over the packed weights: memory and speed are the format's own.
    Packed,
    /// Widened to f32 at load, which is exact, and multiplied in f32: speed and memory are those of f32.
    Widened,
    /// Dequantized to f32 because the device has no product for the format: quality is the format's own, bytes are those
    /// of the packed format, speed and resident memory are *not*.
    Simulated,
}

impl Execution {
    /// How `device` multiplies weights of `format` that the checkpoint stores as `stored`; `None` when it cannot.
    pub fn of(device: DeviceSpec, format: WeightFormat, stored: StoredFormat) -> Option<Self> {
        if !matches!(device, DeviceSpec::Cpu { .. }) {
            // The CUDA worker is a separate executable and is not part of this version.
            return None;
        }
        Some(match format {
            WeightFormat::Native => match stored {
                StoredFormat::F32 | StoredFormat::Ggml(_) => Self::Packed,
                StoredFormat::F16 | StoredFormat::Bf16 => Self::Widened,
            },
            // candle's bf16 product widens the whole weight at every call (0.9 GFLOP/s at one row): not a product.
            WeightFormat::Bf16 | WeightFormat::Fp8(_) | WeightFormat::Int(_) => Self::Simulated,
            _ => Self::Packed,
        })
    }
}

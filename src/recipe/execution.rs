//! Which products a device has.

use serde::{Deserialize, Serialize};

use crate::recipe::{IntFormat, WeightFormat};

/// How a device multiplies with a layer's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Execution {
    /// A product over the packed weights: memory and speed are the format's own.
    Packed,
    /// Dequantized to f32 because the device has no product for the format: quality is the format's own, bytes are those
    /// of the packed format, speed and resident memory are *not*.
    Simulated,
}

impl Execution {
    /// How weights of `format` are multiplied. Processor and cards have products for the same formats.
    pub fn of(format: WeightFormat) -> Self {
        match format {
            WeightFormat::Int(int) if !IntFormat::PACKED_BITS.contains(&int.bits) => Self::Simulated,
            _ => Self::Packed,
        }
    }
}

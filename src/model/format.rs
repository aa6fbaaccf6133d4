//! The storage formats of tensors and their sizes.

use serde::{Deserialize, Serialize};

/// A GGML block format that this program can compute with.
///
/// Source: ggml's block structs; sizes are checked against candle's in a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are ggml's")]
pub enum GgmlType {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2k,
    Q3k,
    Q4k,
    Q5k,
    Q6k,
}

impl GgmlType {
    /// Every type, in ggml's order.
    pub const ALL: [Self; 10] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2k,
        Self::Q3k,
        Self::Q4k,
        Self::Q5k,
        Self::Q6k,
    ];

    /// Weights a block.
    pub const fn block_len(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2k | Self::Q3k | Self::Q4k | Self::Q5k | Self::Q6k => 256,
        }
    }

    /// Bytes a block, scales and minimums included.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2k => 84,
            Self::Q3k => 110,
            Self::Q4k => 144,
            Self::Q5k => 176,
            Self::Q6k => 210,
        }
    }

    /// The number of this type in a GGUF file (`ggml_type`).
    pub const fn gguf_code(self) -> u32 {
        match self {
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2k => 10,
            Self::Q3k => 11,
            Self::Q4k => 12,
            Self::Q5k => 13,
            Self::Q6k => 14,
        }
    }

    /// The name that recipes and tables use: `q4_0`, `q6k`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q8_0 => "q8_0",
            Self::Q2k => "q2k",
            Self::Q3k => "q3k",
            Self::Q4k => "q4k",
            Self::Q5k => "q5k",
            Self::Q6k => "q6k",
        }
    }
}

/// How the elements of a tensor lie in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoredFormat {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// A GGML block format; rows are made of whole blocks.
    Ggml(GgmlType),
}

impl StoredFormat {
    /// The number of this format in a GGUF file (`ggml_type`).
    pub const fn gguf_code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Bf16 => 30,
            Self::Ggml(ggml) => ggml.gguf_code(),
        }
    }

    /// The format with this number in a GGUF file, if the program can compute with it.
    pub fn from_gguf_code(code: u32) -> Option<Self> {
        match code {
            0 => Some(Self::F32),
            1 => Some(Self::F16),
            30 => Some(Self::Bf16),
            _ => GgmlType::ALL.into_iter().find(|ggml| ggml.gguf_code() == code).map(Self::Ggml),
        }
    }

    /// Elements in the smallest addressable unit of a row.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Ggml(ggml) => ggml.block_len(),
        }
    }

    /// Bytes of one such unit.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Ggml(ggml) => ggml.block_bytes(),
        }
    }

    /// Bytes of a tensor whose rows have `row_len` elements, or `None` when a row is not made of whole blocks.
    ///
    /// Computed in 128 bits: shapes come from untrusted files.
    pub fn tensor_bytes(self, rows: u128, row_len: u128) -> Option<u128> {
        let block_len = self.block_len() as u128;
        if !row_len.is_multiple_of(block_len) {
            return None;
        }
        rows.checked_mul(row_len / block_len)?.checked_mul(self.block_bytes() as u128)
    }

    /// The name that tables use: `f16`, `q4_0`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Ggml(ggml) => ggml.name(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_the_published_bits_per_weight() {
        let expected = [4.5, 5.0, 5.5, 6.0, 8.5, 2.625, 3.4375, 4.5, 5.5, 6.5625];
        for (ggml, bits) in GgmlType::ALL.into_iter().zip(expected) {
            let found = ggml.block_bytes() as f64 * 8.0 / ggml.block_len() as f64;
            assert_eq!(found, bits, "{}", ggml.name());
        }
    }

    #[test]
    fn gguf_codes_round_trip() {
        for code in 0..64 {
            if let Some(format) = StoredFormat::from_gguf_code(code) {
                assert_eq!(format.gguf_code(), code);
            }
        }
    }

    #[test]
    fn sizes_do_not_wrap() {
        assert_eq!(StoredFormat::F32.tensor_bytes(1 << 40, 1 << 40), Some(1 << 82));
        assert_eq!(StoredFormat::Ggml(GgmlType::Q4k).tensor_bytes(1, 288), None);
        assert_eq!(StoredFormat::F32.tensor_bytes(u128::MAX, 2), None);
    }
}

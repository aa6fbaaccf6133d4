//! Keys and values of the tokens seen so far, in the formats that a recipe names.

use half::f16;
use half::slice::HalfFloatSliceExt as _;

use crate::kernels::{Rows, quantize_q4_0, quantize_q8_0};
use crate::nn::NnError;
use crate::recipe::{KvCacheSettings, KvFormat};

/// Keys and values of one sequence, allocated once.
///
/// Every token is kept, also those that a window no longer shows to any query. A token's keys of all heads of a block,
/// rotated, form one row; so do its values. A quantized row is made of whole GGML blocks.
///
/// Tokens one by one give what the whole text gives, but for rounding: where states differ in their last bits, a number
/// at the edge between two steps of a coarse format may be stored as either.
#[derive(Debug)]
pub struct KvCache {
    /// `None` where a block has no attention.
    blocks: Vec<Option<KeyValues>>,
    settings: KvCacheSettings,
    len: usize,
    capacity: usize,
}

impl KvCache {
    /// An empty cache for `capacity` tokens of blocks whose rows are so wide; 0 where a block has no attention.
    pub(super) fn new(
        widths: impl Iterator<Item = usize>,
        capacity: usize,
        settings: KvCacheSettings,
    ) -> Result<Self, NnError> {
        let make = |width| match width {
            0 => Ok(None),
            _ => KeyValues::new(width, capacity, settings).map(Some),
        };
        Ok(Self { blocks: widths.map(make).collect::<Result<_, _>>()?, settings, len: 0, capacity })
    }

    /// Tokens seen so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tokens that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether no token was seen.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of keys and values for all tokens that fit.
    pub fn bytes(&self) -> u64 {
        self.blocks.iter().flatten().map(|block| block.keys.bytes() + block.values.bytes()).sum()
    }

    /// Forgets every token after the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The formats.
    pub(super) fn settings(&self) -> KvCacheSettings {
        self.settings
    }

    /// Puts keys and values (seq, width) of `block` behind the tokens seen and lends all of them. [`Self::advance`]
    /// counts the tokens once every block has added its own.
    pub(super) fn append(
        &mut self,
        block: usize,
        keys: &[f32],
        values: &[f32],
    ) -> Result<(Rows<'_>, Rows<'_>), NnError> {
        let missing = || NnError::Shape("the cache was made for another model".to_owned());
        let block = self.blocks.get_mut(block).and_then(Option::as_mut).ok_or_else(missing)?;
        if !keys.len().is_multiple_of(block.width) || keys.len() != values.len() {
            return Err(missing());
        }
        let needed = self.len + keys.len() / block.width;
        if needed > self.capacity {
            return Err(NnError::Context { needed, context: self.capacity });
        }
        block.write(self.len, keys, values);
        Ok(block.rows(needed))
    }

    pub(super) fn advance(&mut self, n_tokens: usize) {
        self.len += n_tokens;
    }
}

/// Keys and values of one block.
#[derive(Debug)]
pub(super) struct KeyValues {
    keys: Store,
    values: Store,
    width: usize,
}

impl KeyValues {
    pub(super) fn new(width: usize, capacity: usize, settings: KvCacheSettings) -> Result<Self, NnError> {
        let KvCacheSettings { keys, values } = settings;
        let make = |format| Store::new(format, width, capacity);
        Ok(Self { keys: make(keys)?, values: make(values)?, width })
    }

    /// Rounds rows (seq, width) to the formats, from the row `first` on.
    pub(super) fn write(&mut self, first: usize, keys: &[f32], values: &[f32]) {
        self.keys.write(first * self.width, keys);
        self.values.write(first * self.width, values);
    }

    /// The first `tokens` rows of both.
    pub(super) fn rows(&self, tokens: usize) -> (Rows<'_>, Rows<'_>) {
        (self.keys.rows(tokens * self.width), self.values.rows(tokens * self.width))
    }
}

#[derive(Debug)]
enum Store {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Blocks(KvFormat, Vec<u8>),
}

impl Store {
    fn new(format: KvFormat, width: usize, capacity: usize) -> Result<Self, NnError> {
        if !width.is_multiple_of(format.block_len()) {
            let text = format!("rows of {width} are not whole blocks of {} in a cache", format.name());
            return Err(NnError::Shape(text));
        }
        let n_values = width * capacity;
        Ok(match format {
            KvFormat::F32 => Self::F32(vec![0.0; n_values]),
            KvFormat::F16 => Self::F16(vec![f16::ZERO; n_values]),
            KvFormat::Q8_0 | KvFormat::Q4_0 => Self::Blocks(format, vec![0; bytes_of(format, n_values)]),
        })
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::F32(values) => values.len() as u64 * 4,
            Self::F16(values) => values.len() as u64 * 2,
            Self::Blocks(_, bytes) => bytes.len() as u64,
        }
    }

    /// Puts whole rows at the value `first`.
    fn write(&mut self, first: usize, values: &[f32]) {
        match self {
            Self::F32(held) => held[first..first + values.len()].copy_from_slice(values),
            Self::F16(held) => held[first..first + values.len()].convert_from_f32_slice(values),
            Self::Blocks(format, held) => {
                let held = &mut held[bytes_of(*format, first)..][..bytes_of(*format, values.len())];
                let quantize = if *format == KvFormat::Q8_0 { quantize_q8_0 } else { quantize_q4_0 };
                quantize(values, held);
            }
        }
    }

    fn rows(&self, n_values: usize) -> Rows<'_> {
        match self {
            Self::F32(values) => Rows::F32(&values[..n_values]),
            Self::F16(values) => Rows::F16(&values[..n_values]),
            Self::Blocks(KvFormat::Q8_0, bytes) => Rows::Q8_0(&bytes[..bytes_of(KvFormat::Q8_0, n_values)]),
            Self::Blocks(format, bytes) => Rows::Q4_0(&bytes[..bytes_of(*format, n_values)]),
        }
    }
}

fn bytes_of(format: KvFormat, n_values: usize) -> usize {
    n_values / format.block_len() * format.block_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::{PackedWeights, quantize_ggml};
    use crate::model::GgmlType;
    use crate::nn::toy::noise;

    #[test]
    fn blocks_are_those_of_the_format() {
        let values: Vec<f32> = (0..4 * 96).map(|i| noise(1, i, 3.0)).collect();
        for (format, ggml) in [(KvFormat::Q8_0, GgmlType::Q8_0), (KvFormat::Q4_0, GgmlType::Q4_0)] {
            let PackedWeights::Ggml { bytes: expected, .. } = quantize_ggml(&values, 96, ggml).unwrap() else {
                panic!("ggml in, ggml out")
            };
            let mut store = Store::new(format, 96, 5).unwrap();
            // Row by row, and the last row stays empty.
            for (row, values) in values.chunks(96).enumerate() {
                store.write(row * 96, values);
            }
            let Store::Blocks(_, bytes) = &store else { panic!("blocks") };
            assert_eq!(bytes[..expected.len()], expected, "{}", format.name());
            assert_eq!(store.bytes() as usize, expected.len() / 4 * 5);
        }
    }
}

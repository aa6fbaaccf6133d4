//! Weights that stay in the files of a checkpoint until somebody multiplies with them.

use std::error::Error;
use std::sync::Arc;

use candle_core::Tensor;

use crate::checkpoint::{Checkpoint, TensorEntry};
use crate::model::{Layer, StoredFormat};
use crate::nn::{Linear, NnError, StoredParts, StoredWeights};
use crate::runtime::RuntimeError;

/// Bytes that are read before they are checked: they are still in a core's cache then. Weights and blocks end at it.
const PART_BYTES: usize = 256 << 10;
/// Weights that are checked with one branch.
const CHECKED: usize = 2_048;

/// A tensor of a checkpoint.
#[derive(Debug)]
struct StoredTensor {
    checkpoint: Arc<Checkpoint>,
    entry: TensorEntry,
    /// As errors call it.
    name: String,
}

impl StoredWeights for StoredTensor {
    fn format(&self) -> StoredFormat {
        self.entry.format
    }

    fn n_bytes(&self) -> u64 {
        self.entry.len
    }

    fn read_into(&self, begin: u64, bytes: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        let mut place = begin;
        for part in bytes.chunks_mut(PART_BYTES) {
            self.checkpoint.read_into(&self.entry, place, part).map_err(RuntimeError::from)?;
            if let Some(index) = first_broken(self.entry.format, part) {
                let index = place / self.entry.format.block_bytes() as u64 + index as u64;
                return Err(RuntimeError::BrokenWeight { what: format!("weight {index} of {}", self.name) }.into());
            }
            place += part.len() as u64;
        }
        Ok(())
    }
}

/// A layer as the checkpoint has it, whose weights are read when they are used.
pub(super) fn layer(checkpoint: &Arc<Checkpoint>, layer: &Layer, bias: Option<Tensor>) -> Result<Linear, RuntimeError> {
    let stored = |name: &str| -> Result<Arc<dyn StoredWeights>, NnError> {
        let entry = checkpoint.entry(name).ok_or_else(|| NnError::Missing(name.to_owned()))?.clone();
        Ok(Arc::new(StoredTensor { checkpoint: Arc::clone(checkpoint), entry, name: name.to_owned() }))
    };
    let parts = match &layer.tensors()[..] {
        [(up, shape), (down, _)] => StoredParts::LowRank { up: stored(up)?, down: stored(down)?, rank: shape[1] },
        whole => StoredParts::Whole(stored(&whole[0].0)?),
    };
    Ok(Linear::stored(layer.path.clone(), parts, layer.shape, bias)?)
}

/// The first number of a dense format that is infinite or not a number; blocks are taken as they are.
fn first_broken(format: StoredFormat, bytes: &[u8]) -> Option<usize> {
    // All bits of the exponent are set.
    match format {
        StoredFormat::F32 => first(bytes, |bytes| u32::from_le_bytes(bytes) & 0x7f80_0000 == 0x7f80_0000),
        StoredFormat::F16 => first(bytes, |bytes| u16::from_le_bytes(bytes) & 0x7c00 == 0x7c00),
        StoredFormat::Bf16 => first(bytes, |bytes| u16::from_le_bytes(bytes) & 0x7f80 == 0x7f80),
        StoredFormat::Ggml(_) => None,
    }
}

fn first<const WIDTH: usize>(bytes: &[u8], is_broken: impl Fn([u8; WIDTH]) -> bool) -> Option<usize> {
    let weights = bytes.as_chunks::<WIDTH>().0;
    let any = |piece: &[[u8; WIDTH]]| piece.iter().fold(false, |any, weight| any | is_broken(*weight));
    let begin = weights.chunks(CHECKED).position(any)? * CHECKED;
    weights[begin..].iter().position(|weight| is_broken(*weight)).map(|index| begin + index)
}

#[cfg(test)]
#[path = "stored_tests.rs"]
mod tests;

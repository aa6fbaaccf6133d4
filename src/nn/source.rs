//! What products were made from, for those that run elsewhere. Held in workers for cards only, where the host's own form
//! is made when the host multiplies.

use std::error::Error;
use std::fmt::Debug;
use std::sync::{Arc, Weak};

use crate::compress::{ActivationGrid, PackedWeights};
use crate::model::StoredFormat;
use crate::nn::NnError;
use crate::recipe::Execution;

/// Weights that stay where they are stored and are read when they are used: rows of a dense format, or of GGML blocks.
pub trait StoredWeights: Debug + Send + Sync {
    /// How they lie.
    fn format(&self) -> StoredFormat;

    /// Bytes of all rows.
    fn n_bytes(&self) -> u64;

    /// Reads bytes from byte `begin` on, which lies at the beginning of a weight or block, as `bytes` ends at one.
    ///
    /// # Errors
    /// When they cannot be read any more, or a weight of a dense format is infinite or not a number.
    fn read_into(&self, begin: u64, bytes: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>>;
}

/// The weights of a product. Cloning shares them.
#[derive(Debug, Clone)]
pub enum Weights {
    /// In the memory of the host.
    Held(Arc<PackedWeights>),
    /// Read when they are used.
    Stored(Arc<dyn StoredWeights>),
}

/// What a product was made from. Cloning shares the weights.
#[derive(Debug, Clone)]
pub struct MatrixSource {
    /// The weights. Products that share a matrix share them.
    pub weights: Weights,
    /// (`out_features`, `in_features`).
    pub shape: [usize; 2],
    /// How the product runs.
    pub execution: Execution,
    /// How inputs enter it.
    pub activations: ActivationGrid,
}

/// What the products of a layer were made from: W = base + up · down, of which one may be missing.
#[derive(Debug, Clone)]
pub struct LinearSources {
    /// The whole matrix.
    pub base: Option<MatrixSource>,
    /// `down` and `up`.
    pub factors: Option<[MatrixSource; 2]>,
}

/// Keeps the identity of weights from being used again, and not the weights.
#[derive(Debug)]
pub struct WeightsIdentity(WeakWeights);

#[derive(Debug)]
enum WeakWeights {
    Held(Weak<PackedWeights>),
    Stored(Weak<dyn StoredWeights>),
}

impl Weights {
    /// What [`WeightsIdentity::is_of`] knows them by.
    pub fn identity(&self) -> WeightsIdentity {
        WeightsIdentity(match self {
            Self::Held(packed) => WeakWeights::Held(Arc::downgrade(packed)),
            Self::Stored(stored) => WeakWeights::Stored(Arc::downgrade(stored)),
        })
    }

    /// Bytes as held or stored.
    pub(super) fn n_bytes(&self) -> u64 {
        match self {
            Self::Held(packed) => packed.packed_bytes(),
            Self::Stored(stored) => stored.n_bytes(),
        }
    }

    /// The f32 values, row by row.
    pub(super) fn dequantize(&self) -> Result<Vec<f32>, NnError> {
        match self {
            Self::Held(packed) => Ok(packed.dequantize()),
            Self::Stored(stored) => Ok(read(&**stored)?.dequantize()),
        }
    }

    /// Weights of the caller's own.
    pub(super) fn packed(&self) -> Result<PackedWeights, NnError> {
        match self {
            Self::Held(packed) => Ok(PackedWeights::clone(packed)),
            Self::Stored(stored) => read(&**stored),
        }
    }
}

impl WeightsIdentity {
    /// Whether these are the weights.
    pub fn is_of(&self, weights: &Weights) -> bool {
        match (&self.0, weights) {
            (WeakWeights::Held(known), Weights::Held(packed)) => std::ptr::eq(known.as_ptr(), Arc::as_ptr(packed)),
            (WeakWeights::Stored(known), Weights::Stored(stored)) => {
                std::ptr::addr_eq(known.as_ptr(), Arc::as_ptr(stored))
            }
            _ => false,
        }
    }
}

/// All of the weights.
fn read(stored: &dyn StoredWeights) -> Result<PackedWeights, NnError> {
    let n_bytes = stored.n_bytes() as usize;
    match stored.format() {
        StoredFormat::F32 => Ok(PackedWeights::F32(read_as(stored, n_bytes / 4)?)),
        StoredFormat::F16 => Ok(PackedWeights::F16(read_as(stored, n_bytes / 2)?)),
        StoredFormat::Bf16 => Ok(PackedWeights::Bf16(read_as(stored, n_bytes / 2)?)),
        StoredFormat::Ggml(format) => Ok(PackedWeights::Ggml { format, bytes: read_as(stored, n_bytes)? }),
    }
}

fn read_as<T: bytemuck::Pod>(stored: &dyn StoredWeights, len: usize) -> Result<Vec<T>, NnError> {
    let mut values = vec![T::zeroed(); len];
    stored.read_into(0, bytemuck::cast_slice_mut(&mut values)).map_err(NnError::Stored)?;
    Ok(values)
}

//! Keys and values of the tokens seen so far.

use candle_core::{DType, Device, Tensor};

use crate::nn::NnError;

/// Keys and values of one sequence, allocated once.
#[derive(Debug)]
pub struct KvCache {
    blocks: Vec<(Tensor, Tensor)>,
    len: usize,
    capacity: usize,
}

impl KvCache {
    /// An empty cache for `capacity` tokens of `n_blocks` blocks, each (`n_kv_heads`, capacity, `head_dim`) f32.
    pub(super) fn new(
        n_blocks: usize,
        n_kv_heads: usize,
        capacity: usize,
        head_dim: usize,
        device: &Device,
    ) -> Result<Self, NnError> {
        let make = || Tensor::zeros((n_kv_heads, capacity, head_dim), DType::F32, device);
        let blocks = (0..n_blocks).map(|_| Ok((make()?, make()?))).collect::<Result<_, candle_core::Error>>()?;
        Ok(Self { blocks, len: 0, capacity })
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

    /// Forgets every token after the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Adds keys and values (`n_kv_heads`, seq, `head_dim`) of `block` behind the tokens seen, and returns all of them.
    /// [`Self::advance`] counts the tokens once every block has added its own.
    pub(super) fn append(&self, block: usize, key: &Tensor, value: &Tensor) -> Result<(Tensor, Tensor), NnError> {
        let needed = self.len + key.dim(1)?;
        if needed > self.capacity {
            return Err(NnError::Context { needed, context: self.capacity });
        }
        let (keys, values) = &self.blocks[block];
        keys.slice_set(key, 1, self.len)?;
        values.slice_set(value, 1, self.len)?;
        Ok((keys.narrow(1, 0, needed)?, values.narrow(1, 0, needed)?))
    }

    pub(super) fn advance(&mut self, n_tokens: usize) {
        self.len += n_tokens;
    }
}

//! What a pass has to compute and to move, counted from shapes: beside the times of a profile it tells what limits them.

use crate::kernels::Sight;
use crate::model::{Arithmetic, Operation};
use crate::nn::{Attention, Linear, Llama, Mlp};
use crate::recipe::{KvCacheSettings, KvFormat};

/// Bytes of a number of single precision.
const F32: u64 = 4;
/// Operations that a norm takes a number: square and add, two multiplications.
const NORM: u64 = 4;
/// Operations that rotation takes a number: four multiplications and two additions a pair.
const ROPE: u64 = 3;
/// Operations that a gate takes a number: a function counts as one, then add, divide and multiply.
const GATE: u64 = 4;

/// What one operation has to do. What is read and written again within it, and functions behind an exponential, are not
/// counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// The block; `None` outside of the blocks.
    pub block: Option<u16>,
    /// The operation.
    pub operation: Operation,
    /// Multiplications and additions; those with weights that are left out are not counted.
    pub flops: u64,
    /// Bytes that only the next pass needs again: weights as held, keys and values of earlier tokens.
    pub streamed_bytes: u64,
    /// Bytes of the pass's own states, read and written once each.
    pub activation_bytes: u64,
    /// What the products are done in.
    pub arithmetic: Arithmetic,
    /// The product that runs, for linear layers.
    pub product: Option<String>,
}

/// What a layer's product of some rows takes where it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProductWork {
    /// Multiplications and additions, for all rows.
    pub flops: u64,
    /// Bytes of its weights and bias as held.
    pub bytes: u64,
    /// What it is done in.
    pub arithmetic: Arithmetic,
    /// Its name.
    pub product: String,
}

/// What the product of so many rows of a layer takes, by the layer and its place: block and operation.
pub type OfProduct<'a> = &'a dyn Fn(&Linear, (Option<u16>, Operation), u64) -> ProductWork;

impl Linear {
    /// The product of so many rows on the processor.
    pub fn product_work(&self, rows: u64) -> ProductWork {
        let bias = if self.bias().is_some() { self.shape()[0] as u64 } else { 0 };
        ProductWork {
            flops: rows * (2 * self.n_multiplied() + bias),
            bytes: self.held_bytes() + bias * F32,
            arithmetic: self.arithmetic(),
            product: self.product(),
        }
    }
}

impl Llama {
    /// The work of each operation when `seq` tokens run behind `past` tokens and the logits behind the last are made, in
    /// the order in which [`Llama::next_logits`] runs them.
    pub fn work(&self, seq: usize, past: usize) -> Vec<Work> {
        self.work_by(seq, past, &|layer, _, rows| layer.product_work(rows))
    }

    /// [`Self::work`] with products that run elsewhere: `of_product` says what they take there.
    pub fn work_by(&self, seq: usize, past: usize, of_product: OfProduct<'_>) -> Vec<Work> {
        let parts = self.parts();
        let mut list = List { works: Vec::new(), block: None, seq: seq as u64, is_pending: false, of_product };
        let hidden = parts.config.hidden_size as u64;
        list.embedding(&parts.embedding);
        for (index, block) in parts.blocks.iter().enumerate() {
            list.block = Some(index as u16);
            if let Some(attention) = &block.attention {
                list.norm(Operation::AttentionNorm, hidden, list.seq);
                let sight = Sight { window: parts.attention.window, sinks: parts.attention.sinks };
                list.attention(attention, parts.config.head_dim as u64, sight, past, parts.kv_cache);
            }
            if let Some(mlp) = &block.mlp {
                list.norm(Operation::MlpNorm, hidden, list.seq);
                list.mlp(mlp);
            }
        }
        list.block = None;
        list.norm(Operation::FinalNorm, hidden, 1);
        list.product(Operation::Head, parts.head.as_ref().unwrap_or(&parts.embedding), 1);
        list.works
    }
}

struct List<'a> {
    works: Vec<Work>,
    block: Option<u16>,
    seq: u64,
    of_product: OfProduct<'a>,
    /// Whether the next norm adds what a part made to the stream.
    is_pending: bool,
}

impl List<'_> {
    fn push(&mut self, operation: Operation, flops: u64, streamed_bytes: u64, activation_bytes: u64) {
        let (block, arithmetic) = (self.block, Arithmetic::Float);
        self.works.push(Work { block, operation, flops, streamed_bytes, activation_bytes, arithmetic, product: None });
    }

    fn embedding(&mut self, layer: &Linear) {
        let [rows, width] = layer.shape().map(|n| n as u64);
        let held = (self.of_product)(layer, (None, Operation::Embedding), self.seq).bytes;
        let streamed = held * self.seq / rows.max(1);
        self.push(Operation::Embedding, 0, streamed, self.seq * width * F32);
    }

    fn norm(&mut self, operation: Operation, width: u64, rows: u64) {
        let (read, written) = (self.seq.min(rows) * width, rows * width);
        let (mut flops, mut moved) = (NORM * rows * width, read + written);
        if self.is_pending {
            // The sum is read with its second term and written back.
            flops += self.seq * width;
            moved = 3 * self.seq * width + written;
        }
        self.is_pending = false;
        self.push(operation, flops, width * F32, moved * F32);
    }

    fn product(&mut self, operation: Operation, layer: &Linear, rows: u64) {
        let [n_outputs, n_inputs] = layer.shape().map(|n| n as u64);
        let own = (self.of_product)(layer, (self.block, operation), rows);
        self.push(operation, own.flops, own.bytes, rows * (n_inputs + n_outputs) * F32);
        if let Some(work) = self.works.last_mut() {
            (work.arithmetic, work.product) = (own.arithmetic, Some(own.product));
        }
    }

    fn attention(&mut self, part: &Attention, head_dim: u64, sight: Sight, past: usize, formats: KvCacheSettings) {
        let seq = self.seq;
        self.product(Operation::Query, &part.q, seq);
        self.product(Operation::Key, &part.k, seq);
        self.product(Operation::Value, &part.v, seq);
        let (width, kv_width) = (part.n_heads as u64 * head_dim, part.n_kv_heads as u64 * head_dim);
        let rotated = seq * (width + kv_width);
        self.push(Operation::Rope, ROPE * rotated, 0, 2 * rotated * F32);
        let seen: u64 = (past..past + seq as usize).map(|position| sight.n_seen(position) as u64).sum();
        let row_bytes = stored_bytes(formats.keys, kv_width) + stored_bytes(formats.values, kv_width);
        // Every query sees its own key: what it sees beside that is of earlier tokens.
        let earlier = (sight.n_seen(past) as u64).saturating_sub(1);
        // Queries in, mixed heads out; keys and values in, and their rows in the cache.
        let moved = seq * (2 * width + 2 * kv_width) * F32 + seq * row_bytes;
        self.push(Operation::Attention, 4 * seen * width, earlier * row_bytes, moved);
        self.product(Operation::Output, &part.o, seq);
        self.is_pending = true;
    }

    fn mlp(&mut self, part: &Mlp) {
        let seq = self.seq;
        self.product(Operation::Gate, &part.gate, seq);
        self.product(Operation::Up, &part.up, seq);
        let gated = seq * part.up.shape()[0] as u64;
        self.push(Operation::Activation, GATE * gated, 0, 3 * gated * F32);
        self.product(Operation::Down, &part.down, seq);
        self.is_pending = true;
    }
}

/// Bytes of a row of a cache.
fn stored_bytes(format: KvFormat, width: u64) -> u64 {
    width / format.block_len() as u64 * format.block_bytes() as u64
}

#[cfg(test)]
#[path = "work_tests.rs"]
mod tests;

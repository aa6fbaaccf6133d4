//! Tokens on their way through blocks on a card: the buffers of a pass and the kernels of a block.

use std::rc::Rc;

use crate::cuda::CudaError;
use crate::cuda::card::{Buffer, Card, Launch};
use crate::cuda::linear::Linear;
use crate::cuda::matrix::FEW_ROWS;
use crate::cuda::model::{Attention, Block, Mlp, Settings};
use crate::cuda::rounding::{Activations, Rounding};
use crate::model::{LlamaConfig, Operation};
use crate::nn::Rotary;

/// Tokens of a prompt or a window that go through a block at once: written-out weights are read again for each such part.
pub(super) const MOST_ROWS: usize = 1024;
/// Threads of the kernels between products, of attention and of reductions.
const THREADS: u32 = 256;
/// Of attention, and the pairs of a query and a head that a block has: for few tokens and for prompts.
const ATTENTION: (u32, usize) = (128, 4);
const TILED_ATTENTION: (u32, usize) = (128, 64);

/// What hears of the end of each operation of a block.
pub(super) type End<'a> = &'a mut dyn FnMut(Operation) -> Result<(), CudaError>;

/// What all blocks of a model have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) card: &'a Rc<dyn Card>,
    pub(super) config: &'a LlamaConfig,
    pub(super) rotary: &'a Rotary,
    pub(super) settings: Settings,
}

impl Frame<'_> {
    /// Room for the keys and values of `capacity` tokens; `None` where a block has no attention.
    pub(super) fn cache(&self, block: &Block, capacity: usize) -> Result<Option<[Buffer; 2]>, CudaError> {
        let Some(part) = &block.attention else { return Ok(None) };
        let bytes = capacity.max(1) * self.settings.cache_row_bytes(part.n_kv_heads * self.config.head_dim);
        Ok(Some([Buffer::zeroed(self.card, bytes)?, Buffer::zeroed(self.card, bytes)?]))
    }
}

/// The widest of what goes through some blocks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Widths {
    heads: usize,
    kv_heads: usize,
    channels: usize,
    /// Of the inputs of a layer.
    inputs: usize,
    /// Between factors.
    rank: usize,
}

impl Widths {
    pub(super) fn of(blocks: &[Block]) -> Self {
        let mut widths = Self::default();
        for block in blocks {
            if let Some(part) = &block.attention {
                widths.heads = widths.heads.max(part.n_heads);
                widths.kv_heads = widths.kv_heads.max(part.n_kv_heads);
            }
            if let Some(part) = &block.mlp {
                widths.channels = widths.channels.max(part.gate.shape()[0]);
            }
            widths = block.layers().fold(widths, Self::and);
        }
        widths
    }

    /// With room for one more layer.
    #[must_use]
    pub(super) fn and(self, layer: &Linear) -> Self {
        Self { inputs: self.inputs.max(layer.shape()[1]), rank: self.rank.max(layer.rank()), ..self }
    }
}

/// How much goes through at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Tokens before and in a pass.
    pub(super) capacity: usize,
    /// Tokens of a pass.
    pub(super) rows: usize,
    /// Parts that the attention of a single token is split into.
    pub(super) splits: usize,
}

/// The buffers of a pass.
#[derive(Debug)]
pub(super) struct Space {
    card: Rc<dyn Card>,
    settings: Settings,
    hidden_size: usize,
    head_dim: usize,
    /// The bits of what norms add below the root.
    eps: u64,
    cos: Buffer,
    sin: Buffer,
    /// Tokens in the cache, and tokens chosen.
    pub(super) counters: Buffer,
    /// The residual stream (rows, hidden).
    pub(super) hidden: Buffer,
    /// What the last part adds to it with the next norm (rows, hidden).
    pub(super) added: Buffer,
    /// After a norm (rows, hidden).
    pub(super) normed: Buffer,
    query: Buffer,
    key: Buffer,
    value: Buffer,
    /// The mixed heads (rows, heads · `head_dim`).
    mixed: Buffer,
    /// The gate, then the gated channels (rows, width).
    gate: Buffer,
    up: Buffer,
    /// Between factors (rows, rank).
    pub(super) middle: Buffer,
    parts: Buffer,
    sums: Buffer,
    pub(super) rounding: Rounding,
}

impl Space {
    /// Buffers for blocks of these widths.
    pub(super) fn new(frame: Frame<'_>, widths: Widths, room: Room) -> Result<Self, CudaError> {
        let Frame { card, config, rotary, settings } = frame;
        let Room { capacity, rows, splits } = room;
        let Widths { heads, kv_heads, channels, inputs, rank } = widths;
        let (hidden_size, head_dim) = (config.hidden_size, config.head_dim);
        let (cos, sin) = rotary.table(capacity)?;
        let floats = |len: usize| Buffer::floats(card, len);
        // Only a single token's attention is split.
        let split_rows = splits * heads;
        Ok(Self {
            card: Rc::clone(card),
            settings,
            hidden_size,
            head_dim,
            // The host's norm takes single precision too.
            eps: f64::from(config.rms_norm_eps as f32).to_bits(),
            cos: Buffer::of(card, &cos)?,
            sin: Buffer::of(card, &sin)?,
            counters: floats(2)?,
            hidden: floats(rows * hidden_size)?,
            added: floats(rows * hidden_size)?,
            normed: floats(rows * hidden_size)?,
            query: floats(rows * heads * head_dim)?,
            key: floats(rows * kv_heads * head_dim)?,
            value: floats(rows * kv_heads * head_dim)?,
            mixed: floats(rows * heads * head_dim)?,
            gate: floats(rows * channels)?,
            up: floats(rows * channels)?,
            middle: floats(rows * rank)?,
            parts: floats(split_rows * head_dim)?,
            sums: floats(split_rows * 2)?,
            rounding: Rounding::new(card, rows, inputs)?,
        })
    }

    /// Tells the kernels how many tokens are in the cache, and how many were chosen.
    pub(super) fn count(&self, len: usize, chosen: i32) -> Result<(), CudaError> {
        self.counters.write(&[i32::try_from(len).unwrap_or(i32::MAX), chosen])
    }

    /// A pass of so many tokens, behind those that were counted.
    pub(super) fn pass(&self, rows: usize, splits: usize) -> Pass<'_> {
        Pass { space: self, rows, splits }
    }

    /// What an operation of a block has just made for the products behind it; `None` where no product reads it.
    pub(super) fn behind(&self, operation: Operation) -> Option<&Buffer> {
        match operation {
            Operation::AttentionNorm | Operation::MlpNorm => Some(&self.normed),
            Operation::Attention => Some(&self.mixed),
            Operation::Activation => Some(&self.gate),
            _ => None,
        }
    }
}

/// Some tokens on their way. What a part makes is pending until the next norm adds it to the residual stream, in one pass
/// over it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass<'a> {
    space: &'a Space,
    rows: usize,
    splits: usize,
}

impl Pass<'_> {
    /// Takes the residual stream through a block; whether something is pending then.
    pub(super) fn block(
        self,
        block: &Block,
        cache: Option<&[Buffer; 2]>,
        mut is_pending: bool,
        end: End<'_>,
    ) -> Result<bool, CudaError> {
        if let (Some(attention), Some(cache)) = (&block.attention, cache) {
            self.norm(&attention.norm, is_pending)?;
            end(Operation::AttentionNorm)?;
            self.attention(attention, cache, end)?;
            is_pending = true;
        }
        if let Some(mlp) = &block.mlp {
            self.norm(&mlp.norm, is_pending)?;
            end(Operation::MlpNorm)?;
            self.mlp(mlp, end)?;
            is_pending = true;
        }
        Ok(is_pending)
    }

    /// Adds what is pending to the residual stream and normalizes it.
    pub(super) fn norm(self, weight: &Buffer, is_pending: bool) -> Result<(), CudaError> {
        let Space { hidden, added, normed, hidden_size, eps, .. } = self.space;
        let added = if is_pending { added.address() } else { 0 };
        let args = [hidden.address(), added, weight.address(), normed.address(), *hidden_size as u64, *eps];
        self.launch("rms_norm", [self.rows, 1, 1], THREADS, &args)
    }

    fn inputs(&self, buffer: &Buffer) -> Activations<'_> {
        self.space.rounding.of(buffer.address(), self.rows)
    }

    fn attention(self, part: &Attention, cache: &[Buffer; 2], end: End<'_>) -> Result<(), CudaError> {
        let Space { normed, query, key, value, mixed, added, middle, counters, settings, .. } = self.space;
        let (x, middle) = (self.inputs(normed), middle.address());
        part.q.multiply(x, query.address(), middle)?;
        end(Operation::Query)?;
        part.k.multiply(x, key.address(), middle)?;
        end(Operation::Key)?;
        part.v.multiply(x, value.address(), middle)?;
        end(Operation::Value)?;
        let [keys, values] = cache.each_ref().map(Buffer::address);
        let args = [
            query.address(),
            key.address(),
            value.address(),
            self.space.cos.address(),
            self.space.sin.address(),
            keys,
            values,
            counters.address(),
            part.n_heads as u64,
            part.n_kv_heads as u64,
            self.space.head_dim as u64,
            u64::from(settings.is_interleaved),
        ];
        self.launch(&format!("rotate_and_store_{}", settings.cache.name()), [self.rows, 1, 1], THREADS, &args)?;
        end(Operation::Rope)?;
        self.attend(part, [keys, values])?;
        end(Operation::Attention)?;
        part.o.multiply(self.inputs(mixed), added.address(), middle)?;
        end(Operation::Output)
    }

    /// Softmax(q kᵀ) v of the queries over the cache.
    fn attend(self, part: &Attention, [keys, values]: [u64; 2]) -> Result<(), CudaError> {
        let Space { query, mixed, counters, parts, sums, settings, head_dim, .. } = self.space;
        let (heads, kv_heads, rows, splits) = (part.n_heads, part.n_kv_heads, self.rows, self.splits);
        let pairs = rows * (heads / kv_heads);
        let shape = [rows, heads, kv_heads, *head_dim].map(|size| size as u64);
        let [query, mixed, parts, sums, counters] = [query, mixed, parts, sums, counters].map(Buffer::address);
        let seen = [settings.window, settings.sinks];
        if rows > FEW_ROWS {
            debug_assert_eq!(splits, 1, "only a single token's attention is split");
            let room = head_dim.next_power_of_two().max(64);
            let args = [&[query, keys, values, mixed, counters][..], &shape, &seen].concat();
            let (threads, most) = TILED_ATTENTION;
            let kernel = format!("attend_tile_{}_{room}", settings.cache.name());
            return self.launch(&kernel, [pairs.div_ceil(most), kv_heads, 1], threads, &args);
        }
        let (threads, most) = ATTENTION;
        let args = [&[query, keys, values, mixed, parts, sums, counters][..], &shape, &seen].concat();
        let grid = [pairs.div_ceil(most), kv_heads, splits];
        self.launch(&format!("attend_{}", settings.cache.name()), grid, threads, &args)?;
        if splits > 1 {
            let args = [parts, sums, mixed, splits as u64, *head_dim as u64];
            self.launch("combine", [rows * heads, 1, 1], THREADS, &args)?;
        }
        Ok(())
    }

    fn mlp(self, part: &Mlp, end: End<'_>) -> Result<(), CudaError> {
        let Space { normed, gate, up, added, middle, settings, .. } = self.space;
        let (x, middle) = (self.inputs(normed), middle.address());
        part.gate.multiply(x, gate.address(), middle)?;
        end(Operation::Gate)?;
        part.up.multiply(x, up.address(), middle)?;
        end(Operation::Up)?;
        let len = self.rows * part.gate.shape()[0];
        let args = [gate.address(), up.address(), len as u64, settings.act];
        self.launch("gate", [len.div_ceil(THREADS as usize), 1, 1], THREADS, &args)?;
        end(Operation::Activation)?;
        part.down.multiply(self.inputs(gate), added.address(), middle)?;
        end(Operation::Down)
    }

    fn launch(&self, kernel: &str, grid: [usize; 3], threads: u32, args: &[u64]) -> Result<(), CudaError> {
        self.space.card.launch(Launch { kernel, grid, threads, args })
    }
}

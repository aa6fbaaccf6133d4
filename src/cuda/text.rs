//! A text on a card: the keys and values of its tokens, the buffers of a pass, and the step that a single token takes,
//! recorded once. All that changes from step to step lies in the card's memory.

use std::rc::Rc;

use crate::cuda::CudaError;
use crate::cuda::card::{Buffer, Card, Launch, Recorded};
use crate::cuda::matrix::FEW_ROWS;
use crate::cuda::model::{Attention, Block, Mlp, Model};
use crate::cuda::profile::Marks;
use crate::cuda::rounding::{Activations, Rounding};
use crate::model::Operation;
use crate::nn::NnError;

/// Tokens of a prompt that go through the model at once: written-out weights are read again for each such part.
const MOST_ROWS: usize = 1024;
/// Rows whose logits exist at the same time: the head's weights are read again for each such part. 256 rows of 128,256
/// logits are 131 MB.
pub(super) const LOGIT_ROWS: usize = 256;
/// Threads of the kernels between products, of attention and of reductions.
const THREADS: u32 = 256;
/// Of attention, and the pairs of a query and a head that a block has: for few tokens and for prompts.
const ATTENTION: (u32, usize) = (128, 4);
const TILED_ATTENTION: (u32, usize) = (128, 64);
const REDUCTION: u32 = 512;
/// Keys that a block of single-token attention reads at least before others share the work.
const SPLIT: usize = 64;
const MAX_SPLITS: usize = 64;
/// What `choose` writes where a logit is not finite.
const NO_TOKEN: u32 = u32::MAX;

/// What hears of the end of each operation of a block.
type End<'a> = &'a dyn Fn(Operation) -> Result<(), CudaError>;

/// One text over one model.
#[derive(Debug)]
pub struct Text {
    model: Rc<Model>,
    capacity: usize,
    len: usize,
    rows: usize,
    /// Keys and values; `None` where a block has no attention.
    cache: Vec<Option<[Buffer; 2]>>,
    cos: Buffer,
    sin: Buffer,
    space: Space,
    splits: usize,
    /// The step of a single token, with the bits of the temperature that it was recorded for.
    step: Option<(u64, Recorded)>,
    /// Kernels that the recorded step launches.
    step_launches: u64,
    pub(super) marks: Marks,
}

/// The buffers of a pass.
#[derive(Debug)]
struct Space {
    tokens: Buffer,
    /// Tokens in the cache, and tokens chosen.
    counters: Buffer,
    /// One number in [0, 1) for each token that is chosen.
    draws: Buffer,
    hidden: Buffer,
    added: Buffer,
    normed: Buffer,
    query: Buffer,
    key: Buffer,
    value: Buffer,
    mixed: Buffer,
    gate: Buffer,
    up: Buffer,
    middle: Buffer,
    parts: Buffer,
    sums: Buffer,
    logits: Buffer,
    rounding: Rounding,
}

impl Text {
    /// An empty text with room for `capacity` tokens.
    ///
    /// # Errors
    /// When the context is exceeded or the card has no memory left.
    pub fn new(model: &Rc<Model>, capacity: usize) -> Result<Self, CudaError> {
        let (config, card) = (&model.config, &model.card);
        let rows = capacity.clamp(1, MOST_ROWS);
        let kv = |part: &Attention| part.n_kv_heads * config.head_dim;
        let bytes = |part| capacity.max(1) * kv(part) * model.settings.cache_width;
        let mut cache = Vec::with_capacity(model.blocks.len());
        for block in &model.blocks {
            let make =
                |part| Ok::<_, CudaError>([Buffer::zeroed(card, bytes(part))?, Buffer::zeroed(card, bytes(part))?]);
            cache.push(block.attention.as_ref().map(make).transpose()?);
        }
        let (cos, sin) = model.rotary.table(capacity)?;
        let splits = capacity.div_ceil(SPLIT).clamp(1, MAX_SPLITS);
        Ok(Self {
            model: Rc::clone(model),
            capacity,
            len: 0,
            rows,
            cache,
            cos: Buffer::of(card, &cos)?,
            sin: Buffer::of(card, &sin)?,
            space: Space::new(model, capacity, rows, splits)?,
            splits,
            step: None,
            step_launches: 0,
            marks: Marks::default(),
        })
    }

    /// Tokens that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no token.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets every token after the first `len`.
    ///
    /// # Errors
    /// When the card fails.
    pub fn truncate(&mut self, len: usize) -> Result<(), CudaError> {
        self.len = self.len.min(len);
        self.count(0)
    }

    /// Puts tokens behind the others and makes the logits behind the last one, which stay on the card. Returns when they
    /// are there.
    ///
    /// # Errors
    /// When they do not fit, or the card fails.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<(), CudaError> {
        self.fits(tokens)?;
        for tokens in tokens.chunks(self.rows) {
            self.pass(tokens)?;
        }
        let last = (tokens.len() - 1) % self.rows;
        self.head(last, 1)?;
        self.marks.end(self.card(), None, Operation::Head)?;
        self.marks.end_whole(self.card())?;
        self.model.card.wait()
    }

    /// One token more, as a recorded step: `token`, or the one that was chosen last. Returns the token chosen from the
    /// logits behind it, the first of the most likely.
    ///
    /// # Errors
    /// When it does not fit, a logit is not finite, or the card fails.
    pub fn step(&mut self, token: Option<u32>, temperature: f64) -> Result<Option<u32>, CudaError> {
        if let Some(token) = token {
            self.fits(&[token])?;
            self.space.tokens.write(&[token])?;
        } else {
            self.fits(&[])?;
        }
        if self.len + 1 > self.capacity {
            return Err(NnError::Context { needed: self.len + 1, context: self.capacity }.into());
        }
        if self.marks.is_each() {
            self.single(temperature)?;
            self.len += 1;
            return self.chosen();
        }
        let recorded = match self.step {
            Some((bits, recorded)) if bits == temperature.to_bits() => recorded,
            _ => {
                let card = Rc::clone(&self.model.card);
                self.forget_step();
                let before = card.launches();
                let recorded = card.record(&mut || self.single(temperature))?;
                self.step_launches = card.launches() - before;
                self.step = Some((temperature.to_bits(), recorded));
                recorded
            }
        };
        self.model.card.replay(recorded)?;
        self.marks.end_whole(self.card())?;
        self.len += 1;
        self.chosen()
    }

    /// Chooses the next token from the logits that are there, behind a prompt.
    ///
    /// # Errors
    /// When a logit is not finite, or the card fails.
    pub fn choose_first(&self, temperature: f64) -> Result<Option<u32>, CudaError> {
        self.choose(temperature)?;
        // The kernel counts a token in the cache, as a step does; none was added.
        let chosen = self.chosen()?;
        self.count(1)?;
        Ok(chosen)
    }

    /// Sets the numbers in [0, 1) by which the next tokens are chosen.
    ///
    /// # Errors
    /// When the card fails.
    pub fn set_draws(&self, draws: &[f64]) -> Result<(), CudaError> {
        self.space.draws.write(draws)?;
        self.count(0)
    }

    /// The logits (vocabulary) that were made last.
    ///
    /// # Errors
    /// When the card fails.
    pub fn logits(&self) -> Result<Vec<f32>, CudaError> {
        let mut logits = vec![0.0; self.model.config.vocab_size];
        self.space.logits.read(&mut logits)?;
        Ok(logits)
    }

    /// Kernels that the step of a single token launches; `None` before it was recorded.
    pub fn step_launches(&self) -> Option<u64> {
        self.step.map(|_| self.step_launches)
    }

    fn forget_step(&mut self) {
        if let Some((_, recorded)) = self.step.take() {
            self.model.card.forget(recorded);
        }
    }

    fn chosen(&self) -> Result<Option<u32>, CudaError> {
        let mut token = [0];
        self.space.tokens.read(&mut token)?;
        Ok(Some(token[0]).filter(|token| *token != NO_TOKEN))
    }

    fn count(&self, chosen: i32) -> Result<(), CudaError> {
        let len = i32::try_from(self.len).unwrap_or(i32::MAX);
        self.space.counters.write(&[len, chosen])
    }

    fn fits(&self, tokens: &[u32]) -> Result<(), CudaError> {
        let vocab_size = self.model.config.vocab_size;
        if let Some(&token) = tokens.iter().find(|token| **token as usize >= vocab_size) {
            return Err(NnError::Token { token, vocab_size }.into());
        }
        let needed = self.len + tokens.len();
        if needed > self.capacity {
            return Err(NnError::Context { needed, context: self.capacity }.into());
        }
        Ok(())
    }

    /// Runs at most `rows` tokens through all blocks and the last norm.
    pub(super) fn pass(&mut self, tokens: &[u32]) -> Result<(), CudaError> {
        self.fits(tokens)?;
        self.space.tokens.write(tokens)?;
        self.count(0)?;
        self.blocks(tokens.len(), 1)?;
        self.len += tokens.len();
        self.count(0)
    }

    pub(super) fn card(&self) -> &Rc<dyn Card> {
        &self.model.card
    }

    pub(super) fn vocab_size(&self) -> usize {
        self.model.config.vocab_size
    }

    /// Tokens that [`Self::pass`] takes at once.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The step of a single token: everything that changes is read from the card's memory.
    fn single(&self, temperature: f64) -> Result<(), CudaError> {
        self.blocks(1, self.splits)?;
        self.head(0, 1)?;
        self.marks.end(self.card(), None, Operation::Head)?;
        self.choose(temperature)
    }

    fn choose(&self, temperature: f64) -> Result<(), CudaError> {
        let Space { logits, draws, counters, tokens, .. } = &self.space;
        let vocab_size = self.model.config.vocab_size as u64;
        let args = [
            logits.address(),
            vocab_size,
            temperature.to_bits(),
            draws.address(),
            counters.address(),
            tokens.address(),
        ];
        self.launch("choose", [1, 1, 1], REDUCTION, &args)
    }

    fn blocks(&self, rows: usize, splits: usize) -> Result<(), CudaError> {
        let Space { tokens, hidden, .. } = &self.space;
        self.model.embedding.gather(tokens.address(), rows, hidden.address())?;
        let end = |block, operation| self.marks.end(self.card(), block, operation);
        end(None, Operation::Embedding)?;
        // What the last part made joins the stream with the next norm, in one pass over it.
        let mut is_pending = false;
        for (index, (Block { attention, mlp }, cache)) in self.model.blocks.iter().zip(&self.cache).enumerate() {
            let end = |operation| end(Some(index), operation);
            if let (Some(attention), Some(cache)) = (attention, cache) {
                self.norm(&attention.norm, rows, is_pending)?;
                end(Operation::AttentionNorm)?;
                self.attention(attention, cache, rows, splits, &end)?;
                is_pending = true;
            }
            if let Some(mlp) = mlp {
                self.norm(&mlp.norm, rows, is_pending)?;
                end(Operation::MlpNorm)?;
                self.mlp(mlp, rows, &end)?;
                is_pending = true;
            }
        }
        self.norm(&self.model.final_norm, rows, is_pending)?;
        end(None, Operation::FinalNorm)
    }

    fn norm(&self, weight: &Buffer, rows: usize, is_pending: bool) -> Result<(), CudaError> {
        let Space { hidden, added, normed, .. } = &self.space;
        let added = if is_pending { added.address() } else { 0 };
        // The host's norm takes single precision too.
        let eps = f64::from(self.model.config.rms_norm_eps as f32).to_bits();
        let width = self.model.config.hidden_size as u64;
        let args = [hidden.address(), added, weight.address(), normed.address(), width, eps];
        self.launch("rms_norm", [rows, 1, 1], THREADS, &args)
    }

    fn inputs(&self, buffer: &Buffer, rows: usize) -> Activations<'_> {
        self.space.rounding.of(buffer.address(), rows)
    }

    fn attention(
        &self,
        part: &Attention,
        cache: &[Buffer; 2],
        rows: usize,
        splits: usize,
        end: End<'_>,
    ) -> Result<(), CudaError> {
        let Space { normed, query, key, value, mixed, added, middle, counters, .. } = &self.space;
        let (x, middle) = (self.inputs(normed, rows), middle.address());
        part.q.multiply(x, query.address(), middle)?;
        end(Operation::Query)?;
        part.k.multiply(x, key.address(), middle)?;
        end(Operation::Key)?;
        part.v.multiply(x, value.address(), middle)?;
        end(Operation::Value)?;
        let settings = self.model.settings;
        let (heads, kv_heads, head_dim) = (part.n_heads, part.n_kv_heads, self.model.config.head_dim);
        let [keys, values] = cache.each_ref().map(Buffer::address);
        let shape = [heads as u64, kv_heads as u64, head_dim as u64];
        let args = [
            query.address(),
            key.address(),
            value.address(),
            self.cos.address(),
            self.sin.address(),
            keys,
            values,
            counters.address(),
            shape[0],
            shape[1],
            shape[2],
            u64::from(settings.is_interleaved),
        ];
        self.launch(&format!("rotate_and_store_{}", settings.cache), [rows, 1, 1], THREADS, &args)?;
        end(Operation::Rope)?;
        self.attend(part, [keys, values], rows, splits)?;
        end(Operation::Attention)?;
        part.o.multiply(self.inputs(mixed, rows), added.address(), middle)?;
        end(Operation::Output)
    }

    /// Softmax(q kᵀ) v of the queries over the cache.
    fn attend(&self, part: &Attention, [keys, values]: [u64; 2], rows: usize, splits: usize) -> Result<(), CudaError> {
        let Space { query, mixed, counters, parts, sums, .. } = &self.space;
        let settings = self.model.settings;
        let (heads, kv_heads, head_dim) = (part.n_heads, part.n_kv_heads, self.model.config.head_dim);
        let pairs = rows * (heads / kv_heads);
        let shape = [rows, heads, kv_heads, head_dim].map(|size| size as u64);
        let [query, mixed, parts, sums, counters] = [query, mixed, parts, sums, counters].map(Buffer::address);
        let seen = [settings.window, settings.sinks];
        if rows > FEW_ROWS {
            debug_assert_eq!(splits, 1, "only a single token's attention is split");
            let room = head_dim.next_power_of_two().max(64);
            let args = [&[query, keys, values, mixed, counters][..], &shape, &seen].concat();
            let (threads, most) = TILED_ATTENTION;
            let kernel = format!("attend_tile_{}_{room}", settings.cache);
            return self.launch(&kernel, [pairs.div_ceil(most), kv_heads, 1], threads, &args);
        }
        let (threads, most) = ATTENTION;
        let args = [&[query, keys, values, mixed, parts, sums, counters][..], &shape, &seen].concat();
        let grid = [pairs.div_ceil(most), kv_heads, splits];
        self.launch(&format!("attend_{}", settings.cache), grid, threads, &args)?;
        if splits > 1 {
            let args = [parts, sums, mixed, splits as u64, head_dim as u64];
            self.launch("combine", [rows * heads, 1, 1], THREADS, &args)?;
        }
        Ok(())
    }

    fn mlp(&self, part: &Mlp, rows: usize, end: End<'_>) -> Result<(), CudaError> {
        let Space { normed, gate, up, added, middle, .. } = &self.space;
        let (x, middle) = (self.inputs(normed, rows), middle.address());
        part.gate.multiply(x, gate.address(), middle)?;
        end(Operation::Gate)?;
        part.up.multiply(x, up.address(), middle)?;
        end(Operation::Up)?;
        let len = rows * part.gate.shape()[0];
        let args = [gate.address(), up.address(), len as u64, self.model.settings.act];
        self.launch("gate", [len.div_ceil(THREADS as usize), 1, 1], THREADS, &args)?;
        end(Operation::Activation)?;
        part.down.multiply(self.inputs(gate, rows), added.address(), middle)?;
        end(Operation::Down)
    }

    /// Logits of `rows` rows of the last pass, from `first` on.
    pub(super) fn head(&self, first: usize, rows: usize) -> Result<(), CudaError> {
        let Space { normed, logits, middle, rounding, .. } = &self.space;
        let values = normed.float(first * self.model.config.hidden_size);
        self.model.head().multiply(rounding.of(values, rows), logits.address(), middle.address())
    }

    /// Where the logits are that were made last.
    pub(super) fn logits_address(&self) -> u64 {
        self.space.logits.address()
    }

    fn launch(&self, kernel: &str, grid: [usize; 3], threads: u32, args: &[u64]) -> Result<(), CudaError> {
        self.model.card.launch(Launch { kernel, grid, threads, args })
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        self.forget_step();
    }
}

impl Space {
    fn new(model: &Model, capacity: usize, rows: usize, splits: usize) -> Result<Self, CudaError> {
        let (config, card) = (&model.config, &model.card);
        let most = |width: fn(&Attention) -> usize| {
            model.blocks.iter().filter_map(|block| block.attention.as_ref()).map(width).max().unwrap_or(0)
        };
        let (heads, kv_heads) = (most(|part| part.n_heads), most(|part| part.n_kv_heads));
        let mlps = model.blocks.iter().filter_map(|block| block.mlp.as_ref());
        let channels = mlps.map(|part| part.gate.shape()[0]).max().unwrap_or(0);
        let (widest, rank) = model.widths();
        let floats = |len: usize| Buffer::floats(card, len);
        // Only a single token's attention is split.
        let split_rows = splits * heads;
        Ok(Self {
            tokens: floats(rows)?,
            counters: floats(2)?,
            draws: Buffer::zeroed(card, (capacity + 1) * 8)?,
            hidden: floats(rows * config.hidden_size)?,
            added: floats(rows * config.hidden_size)?,
            normed: floats(rows * config.hidden_size)?,
            query: floats(rows * heads * config.head_dim)?,
            key: floats(rows * kv_heads * config.head_dim)?,
            value: floats(rows * kv_heads * config.head_dim)?,
            mixed: floats(rows * heads * config.head_dim)?,
            gate: floats(rows * channels)?,
            up: floats(rows * channels)?,
            middle: floats(rows * rank)?,
            parts: floats(split_rows * config.head_dim)?,
            sums: floats(split_rows * 2)?,
            logits: floats(rows.min(LOGIT_ROWS) * config.vocab_size)?,
            rounding: Rounding::new(card, rows, widest)?,
        })
    }
}

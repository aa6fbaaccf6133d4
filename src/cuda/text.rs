//! A text on a card: the keys and values of its tokens, the buffers of a pass, and the step that a single token takes,
//! recorded once. All that changes from step to step lies in the card's memory.

use std::rc::Rc;

use crate::cuda::CudaError;
use crate::cuda::card::{Buffer, Card, Launch, Recorded};
use crate::cuda::model::Model;
use crate::cuda::pass::{MOST_ROWS, Room, Space, Widths};
use crate::cuda::profile::Marks;
use crate::model::Operation;
use crate::nn::NnError;

/// Rows whose logits exist at the same time: the head's weights are read again for each such part. 256 rows of 128,256
/// logits are 131 MB.
pub(super) const LOGIT_ROWS: usize = 256;
/// Threads of the kernel that chooses a token.
const REDUCTION: u32 = 512;
/// Keys that a block of single-token attention reads at least before others share the work.
const SPLIT: usize = 64;
const MAX_SPLITS: usize = 64;
/// What `choose` writes where a logit is not finite.
const NO_TOKEN: u32 = u32::MAX;

/// One text over one model.
#[derive(Debug)]
pub struct Text {
    model: Rc<Model>,
    capacity: usize,
    len: usize,
    rows: usize,
    /// Keys and values; `None` where a block has no attention.
    cache: Vec<Option<[Buffer; 2]>>,
    tokens: Buffer,
    /// One number in [0, 1) for each token that is chosen.
    draws: Buffer,
    logits: Buffer,
    space: Space,
    splits: usize,
    /// The step of a single token, with the bits of the temperature that it was recorded for.
    step: Option<(u64, Recorded)>,
    /// Kernels that the recorded step launches.
    step_launches: u64,
    pub(super) marks: Marks,
}

impl Text {
    /// An empty text with room for `capacity` tokens.
    ///
    /// # Errors
    /// When the context is exceeded or the card has no memory left.
    pub fn new(model: &Rc<Model>, capacity: usize) -> Result<Self, CudaError> {
        let (frame, card) = (model.frame(), &model.card);
        let rows = capacity.clamp(1, MOST_ROWS);
        let splits = capacity.div_ceil(SPLIT).clamp(1, MAX_SPLITS);
        let widths = Widths::of(&model.blocks).and(&model.embedding).and(model.head());
        Ok(Self {
            model: Rc::clone(model),
            capacity,
            len: 0,
            rows,
            cache: model.blocks.iter().map(|block| frame.cache(block, capacity)).collect::<Result<_, _>>()?,
            tokens: Buffer::floats(card, rows)?,
            draws: Buffer::zeroed(card, (capacity + 1) * 8)?,
            logits: Buffer::floats(card, rows.min(LOGIT_ROWS) * model.config.vocab_size)?,
            space: Space::new(frame, widths, Room { capacity, rows, splits })?,
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
            self.tokens.write(&[token])?;
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
        self.draws.write(draws)?;
        self.count(0)
    }

    /// The logits (vocabulary) that were made last.
    ///
    /// # Errors
    /// When the card fails.
    pub fn logits(&self) -> Result<Vec<f32>, CudaError> {
        let mut logits = vec![0.0; self.model.config.vocab_size];
        self.logits.read(&mut logits)?;
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
        self.tokens.read(&mut token)?;
        Ok(Some(token[0]).filter(|token| *token != NO_TOKEN))
    }

    fn count(&self, chosen: i32) -> Result<(), CudaError> {
        self.space.count(self.len, chosen)
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
        self.tokens.write(tokens)?;
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
        let [logits, draws, counters, tokens] =
            [&self.logits, &self.draws, &self.space.counters, &self.tokens].map(Buffer::address);
        let args = [logits, self.model.config.vocab_size as u64, temperature.to_bits(), draws, counters, tokens];
        self.card().launch(Launch { kernel: "choose", grid: [1, 1, 1], threads: REDUCTION, args: &args })
    }

    fn blocks(&self, rows: usize, splits: usize) -> Result<(), CudaError> {
        self.model.embedding.gather(self.tokens.address(), rows, self.space.hidden.address())?;
        let end = |block, operation| self.marks.end(self.card(), block, operation);
        end(None, Operation::Embedding)?;
        let pass = self.space.pass(rows, splits);
        let mut is_pending = false;
        for (index, (block, cache)) in self.model.blocks.iter().zip(&self.cache).enumerate() {
            is_pending = pass.block(block, cache.as_ref(), is_pending, &mut |operation| end(Some(index), operation))?;
        }
        pass.norm(&self.model.final_norm, is_pending)?;
        end(None, Operation::FinalNorm)
    }

    /// Logits of `rows` rows of the last pass, from `first` on.
    pub(super) fn head(&self, first: usize, rows: usize) -> Result<(), CudaError> {
        let Space { normed, middle, rounding, .. } = &self.space;
        let values = normed.float(first * self.model.config.hidden_size);
        self.model.head().multiply(rounding.of(values, rows), self.logits.address(), middle.address())
    }

    /// Where the logits are that were made last.
    pub(super) fn logits_address(&self) -> u64 {
        self.logits.address()
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        self.forget_step();
    }
}

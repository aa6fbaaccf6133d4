//! Sums over the inputs of a layer on a card.

use std::rc::Rc;

use crate::compress::{MomentParts, Moments, SAMPLE_TOKENS};
use crate::cuda::CudaError;
use crate::cuda::card::{Buffer, Card, Launch};

/// Threads of the kernels.
const THREADS: u32 = 256;
/// Inputs of one side of what a block sums of `XᵀX`, and inputs whose magnitudes a block sums.
const GRAM_TILE: usize = 128;
const MAGNITUDES: usize = 32;

/// What [`Moments`] are made of, while tokens are added.
#[derive(Debug)]
pub(super) struct Sums {
    card: Rc<dyn Card>,
    width: usize,
    n_tokens: usize,
    sample_every: usize,
    n_sampled: usize,
    /// The lower half of `XᵀX`, row behind row, f64.
    lower: Buffer,
    /// Sums of magnitudes (width) f64.
    magnitudes: Buffer,
    /// Largest magnitudes (width) f32.
    largest: Buffer,
    /// Inputs as they were, (tokens, width) f32.
    sample: Buffer,
}

impl Sums {
    /// No tokens yet; of at most `n_tokens` every `sample_every`-th one will be kept, until [`SAMPLE_TOKENS`] are.
    pub(super) fn new(
        card: &Rc<dyn Card>,
        width: usize,
        n_tokens: usize,
        sample_every: usize,
    ) -> Result<Self, CudaError> {
        let sample_every = sample_every.max(1);
        let most = n_tokens.div_ceil(sample_every).min(SAMPLE_TOKENS);
        Ok(Self {
            card: Rc::clone(card),
            width,
            n_tokens: 0,
            sample_every,
            n_sampled: 0,
            lower: Buffer::zeroed(card, n_lower(width) * 8)?,
            magnitudes: Buffer::zeroed(card, width * 8)?,
            largest: Buffer::floats(card, width)?,
            sample: Buffer::floats(card, most * width)?,
        })
    }

    /// Adds inputs x (rows, width) f32, as [`Moments::observe`] does. Their products are summed in f32: so that this stays
    /// below the rounding of the inputs themselves, rows are some thousand at most.
    pub(super) fn add(&mut self, x: &Buffer, rows: usize) -> Result<(), CudaError> {
        assert!(rows * self.width * 4 <= x.bytes(), "inputs that are there");
        let (n, width) = (rows as u64, self.width as u64);
        let tiles = self.width.div_ceil(GRAM_TILE);
        self.launch("add_gram", n_lower(tiles), &[x.address(), self.lower.address(), n, width])?;
        let args = [x.address(), self.magnitudes.address(), self.largest.address(), n, width];
        self.launch("add_magnitudes", self.width.div_ceil(MAGNITUDES), &args)?;
        let first = self.n_tokens.next_multiple_of(self.sample_every) - self.n_tokens;
        let picked = rows.saturating_sub(first).div_ceil(self.sample_every).min(SAMPLE_TOKENS - self.n_sampled);
        if picked > 0 {
            assert!((self.n_sampled + picked) * self.width * 4 <= self.sample.bytes(), "as many tokens as were told");
            let to = self.sample.float(self.n_sampled * self.width);
            self.launch("copy_rows", picked, &[x.address(), to, width, first as u64, self.sample_every as u64])?;
        }
        self.n_sampled += picked;
        self.n_tokens += rows;
        Ok(())
    }

    /// The sums, copied from the card.
    pub(super) fn finish(self) -> Result<Moments, CudaError> {
        let mut parts = MomentParts {
            n_tokens: self.n_tokens as u64,
            lower: vec![0.0; n_lower(self.width)],
            sum_abs: vec![0.0; self.width],
            max_abs: vec![0.0; self.width],
            sample: vec![0.0; self.n_sampled * self.width],
        };
        self.lower.read(&mut parts.lower)?;
        self.magnitudes.read(&mut parts.sum_abs)?;
        self.largest.read(&mut parts.max_abs)?;
        self.sample.read(&mut parts.sample)?;
        let width = self.width;
        // The card's memory is free before the host's second copy of the largest sum is made.
        drop(self);
        Ok(Moments::from_parts(width, parts).expect("sums of this width"))
    }

    fn launch(&self, kernel: &str, blocks: usize, args: &[u64]) -> Result<(), CudaError> {
        self.card.launch(Launch { kernel, grid: [blocks, 1, 1], threads: THREADS, args })
    }
}

/// Numbers in the lower half of a square.
fn n_lower(width: usize) -> usize {
    width * (width + 1) / 2
}

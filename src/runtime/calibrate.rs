//! The inputs of layers over a calibration text, one block at a time.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::compress::{Moments, SAMPLE_TOKENS};
use crate::model::{LayerPath, LayerRole};
use crate::nn::{Block, Linear, Llama, NnError, Observer, with_values};
use crate::runtime::{RuntimeError, Watch};

/// Windows of tokens that calibrated methods read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CalibrationText {
    /// Name for people: the file's stem.
    pub name: String,
    /// Tokens of each window, all of one length.
    pub tokens: Vec<Vec<u32>>,
    /// Windows that the text has.
    pub available: u32,
    /// Windows that were asked for.
    pub asked: u32,
    /// BLAKE3 over the windows' tokens and their length.
    pub hash: [u8; 32],
}

impl CalibrationText {
    /// Windows with their hash.
    pub fn new(name: String, tokens: Vec<Vec<u32>>, available: u32, asked: u32) -> Self {
        let mut hasher = blake3::Hasher::new();
        for window in &tokens {
            hasher.update(&(window.len() as u64).to_le_bytes());
            for token in window {
                hasher.update(&token.to_le_bytes());
            }
        }
        Self { name, tokens, available, asked, hash: *hasher.finalize().as_bytes() }
    }

    /// Tokens of all windows.
    pub fn n_tokens(&self) -> u64 {
        self.tokens.iter().map(|window| window.len() as u64).sum()
    }

    /// The text cut to its first `n` windows.
    pub(super) fn first(&self, n: usize) -> &[Vec<u32>] {
        &self.tokens[..n.min(self.tokens.len())]
    }
}

/// An input of a block that one or more of its linear layers read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Input {
    /// After the attention's norm: q, k, v.
    Attention,
    /// The mixed heads: o.
    Heads,
    /// After the MLP's norm: gate, up.
    Mlp,
    /// The gated channels: down.
    Channels,
}

impl Input {
    /// What layers of `role` read; `None` outside of blocks.
    pub(super) fn of(role: LayerRole) -> Option<Self> {
        Some(match role {
            LayerRole::QProj | LayerRole::KProj | LayerRole::VProj => Self::Attention,
            LayerRole::OProj => Self::Heads,
            LayerRole::GateProj | LayerRole::UpProj => Self::Mlp,
            LayerRole::DownProj => Self::Channels,
            LayerRole::Embedding | LayerRole::Head => return None,
        })
    }

    /// The first layer of `block` that reads it; `None` where that part was removed.
    pub(super) fn first_reader(self, block: &Block) -> Option<&Linear> {
        let (attention, mlp) = (block.attention.as_ref(), block.mlp.as_ref());
        match self {
            Self::Attention => attention.map(|part| &*part.q),
            Self::Heads => attention.map(|part| &*part.o),
            Self::Mlp => mlp.map(|part| &*part.gate),
            Self::Channels => mlp.map(|part| &*part.down),
        }
    }
}

/// Sums over the inputs of one block.
pub(super) type BlockMoments = BTreeMap<Input, Moments>;

/// Sums the inputs that it knows, as the forward pass meets them.
struct Sums {
    /// By the layer that reads the input first.
    readers: BTreeMap<LayerPath, (Input, Moments)>,
    sample_every: usize,
    refused: Option<NnError>,
}

impl Observer for Sums {
    fn input(&mut self, layer: &LayerPath, x: &Tensor) {
        if let Some((_, moments)) = self.readers.get_mut(layer) {
            let seen = with_values(x, |x| moments.observe(x, self.sample_every));
            self.refused = self.refused.take().or(seen.err());
        }
    }
}

/// The hidden states of every window at a block boundary, (window, hidden) f32 each, on their way through the model.
pub(super) struct Walk<'a> {
    text: &'a CalibrationText,
    states: Vec<Tensor>,
    /// The block whose inputs `states` are.
    block: usize,
}

impl<'a> Walk<'a> {
    /// Before the first block; nothing is embedded yet.
    pub(super) fn new(text: &'a CalibrationText) -> Self {
        Self { text, states: Vec::new(), block: 0 }
    }

    fn start(&mut self, model: &Llama) -> Result<(), RuntimeError> {
        if self.states.is_empty() {
            let states = self.text.tokens.iter().map(|window| model.embed(window));
            self.states = states.collect::<Result<_, _>>()?;
        }
        Ok(())
    }

    /// Goes on to `block` through the blocks of `model`.
    pub(super) fn advance(&mut self, model: &Llama, block: usize, watch: &dyn Watch) -> Result<(), RuntimeError> {
        self.start(model)?;
        let windows = self.states.len() as u32;
        let total = model.config().n_blocks as u32 * windows;
        while self.block < block {
            for (state, window) in self.states.iter_mut().zip(0..) {
                if !watch.calibrating(self.block as u32 * windows + window, total) {
                    return Err(RuntimeError::Cancelled);
                }
                *state = model.run_blocks(self.block..self.block + 1, state, None, None)?;
            }
            self.block += 1;
        }
        Ok(())
    }

    /// Sums the inputs `wanted` of the block where the walk stands, as its layers in `model` make them. Goes on behind it
    /// when `onward`: a second pass is saved.
    pub(super) fn observe(
        &mut self,
        model: &Llama,
        wanted: &[Input],
        onward: bool,
        watch: &dyn Watch,
    ) -> Result<BlockMoments, RuntimeError> {
        self.start(model)?;
        let block = &model.parts().blocks[self.block];
        let readers = wanted.iter().filter_map(|input| Some((*input, input.first_reader(block)?)));
        let sums = readers.map(|(input, layer)| (layer.path().clone(), (input, Moments::new(layer.shape()[1]))));
        let sample_every = (self.text.n_tokens() as usize).div_ceil(SAMPLE_TOKENS);
        let mut sums = Sums { readers: sums.collect(), sample_every, refused: None };
        let windows = self.states.len() as u32;
        let (before, total) = (self.block as u32 * windows, model.config().n_blocks as u32 * windows);
        for (state, window) in self.states.iter_mut().zip(0..) {
            if !watch.calibrating(before + window, total) {
                return Err(RuntimeError::Cancelled);
            }
            let next = model.run_blocks(self.block..self.block + 1, state, None, Some(&mut sums))?;
            if let Some(error) = sums.refused {
                return Err(error.into());
            }
            if onward {
                *state = next;
            }
        }
        if onward {
            self.block += 1;
        }
        let finish = |(layer, (input, moments)): (LayerPath, (Input, Moments))| {
            let moments = moments.finish();
            if moments.sum_squares().iter().all(|sum| sum.is_finite()) {
                return Ok((input, moments));
            }
            Err(RuntimeError::NonFinite { what: format!("a calibrated input of {layer}") })
        };
        sums.readers.into_iter().map(finish).collect()
    }
}

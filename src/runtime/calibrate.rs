//! The inputs of layers over a calibration text, one block at a time.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::compress::{Moments, SAMPLE_TOKENS};
use crate::model::{LayerPath, LayerRole};
use crate::nn::{Block, Linear, Llama, NnError, Observer, with_values};
use crate::runtime::card::CardStates;
use crate::runtime::{Place, RuntimeError, Watch};

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

/// A way of every window through one block.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) model: &'a Llama,
    pub(super) block: usize,
    /// The inputs that are summed; the block has what reads them.
    pub(super) wanted: &'a [Input],
    /// Of the tokens of all windows every so many-th is kept.
    pub(super) sample_every: usize,
    /// Whether the states go on behind the block.
    pub(super) onward: bool,
}

/// The hidden states of every window at a block boundary, (window, hidden) f32 each.
enum States {
    OnHost(Vec<Tensor>),
    OnCard(CardStates),
}

impl States {
    /// Embeds every window.
    fn new(model: &Llama, text: &CalibrationText, place: &Place) -> Result<Self, RuntimeError> {
        if let Some(states) = place.states(model, &text.tokens)? {
            return Ok(Self::OnCard(states));
        }
        let states = text.tokens.iter().map(|window| model.embed(window));
        Ok(Self::OnHost(states.collect::<Result<_, _>>()?))
    }

    /// Takes the windows through a block; `keep_going` hears of each before it runs.
    fn through(
        &mut self,
        way: Way<'_>,
        keep_going: &mut dyn FnMut(usize) -> bool,
    ) -> Result<BlockMoments, RuntimeError> {
        match self {
            Self::OnHost(states) => through_on_host(states, way, keep_going),
            Self::OnCard(states) => states.through(way, keep_going),
        }
    }
}

fn through_on_host(
    states: &mut [Tensor],
    way: Way<'_>,
    keep_going: &mut dyn FnMut(usize) -> bool,
) -> Result<BlockMoments, RuntimeError> {
    let Way { model, block, wanted, sample_every, onward } = way;
    let parts = &model.parts().blocks[block];
    let readers = wanted.iter().filter_map(|input| Some((*input, input.first_reader(parts)?)));
    let readers = readers.map(|(input, layer)| (layer.path().clone(), (input, Moments::new(layer.shape()[1]))));
    let mut sums = Sums { readers: readers.collect(), sample_every, refused: None };
    for (number, state) in states.iter_mut().enumerate() {
        if !keep_going(number) {
            return Err(RuntimeError::Cancelled);
        }
        let observer: Option<&mut dyn Observer> = if wanted.is_empty() { None } else { Some(&mut sums) };
        let next = model.run_blocks(block..block + 1, state, None, observer)?;
        if let Some(error) = sums.refused {
            return Err(error.into());
        }
        if onward {
            *state = next;
        }
    }
    Ok(sums.readers.into_values().map(|(input, moments)| (input, moments.finish())).collect())
}

/// The hidden states of every window on their way through the model.
pub(super) struct Walk<'a> {
    text: &'a CalibrationText,
    place: &'a Place,
    /// Before the block; `None` where nothing is embedded yet.
    states: Option<States>,
    /// The block whose inputs the states are.
    block: usize,
}

impl<'a> Walk<'a> {
    /// Before the first block; nothing is embedded yet. On a card where `place` is one.
    pub(super) fn new(text: &'a CalibrationText, place: &'a Place) -> Self {
        Self { text, place, states: None, block: 0 }
    }

    /// Goes on to `block` through the blocks of `model`.
    pub(super) fn advance(&mut self, model: &Llama, block: usize, watch: &dyn Watch) -> Result<(), RuntimeError> {
        while self.block < block {
            self.through(model, &[], true, watch)?;
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
        let block = &model.parts().blocks[self.block];
        let readers: BTreeMap<Input, &Linear> =
            wanted.iter().filter_map(|input| Some((*input, input.first_reader(block)?))).collect();
        let wanted: Vec<Input> = readers.keys().copied().collect();
        let found = self.through(model, &wanted, onward, watch)?;
        for (input, moments) in &found {
            if !moments.sum_squares().iter().all(|sum| sum.is_finite()) {
                let what = format!("a calibrated input of {}", readers[input].path());
                return Err(RuntimeError::NonFinite { what });
            }
        }
        Ok(found)
    }

    fn through(
        &mut self,
        model: &Llama,
        wanted: &[Input],
        onward: bool,
        watch: &dyn Watch,
    ) -> Result<BlockMoments, RuntimeError> {
        let states = match &mut self.states {
            Some(states) => states,
            none => none.insert(States::new(model, self.text, self.place)?),
        };
        let windows = self.text.tokens.len() as u32;
        let (before, total) = (self.block as u32 * windows, model.config().n_blocks as u32 * windows);
        let sample_every = (self.text.n_tokens() as usize).div_ceil(SAMPLE_TOKENS);
        let way = Way { model, block: self.block, wanted, sample_every, onward };
        let found = states.through(way, &mut |window| watch.calibrating(before + window as u32, total))?;
        self.block += usize::from(onward);
        Ok(found)
    }
}

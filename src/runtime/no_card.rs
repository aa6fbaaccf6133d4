//! In the place of `card.rs` where nothing opens cards: there is none, and never a model on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;

use crate::checkpoint::Checkpoint;
use crate::compress::Solver;
use crate::device::{CardCeilings, DeviceSpec};
use crate::model::Layer;
use crate::nn::{Linear, Llama, Work};
use crate::runtime::calibrate::{BlockMoments, Way};
use crate::runtime::place::{Scorer, Steps};
use crate::runtime::{RuntimeError, Sampling};

/// No card.
#[derive(Debug)]
pub(super) enum Card {}

/// No model on a card.
#[derive(Debug, Clone)]
pub(super) enum CardModel {}

/// No states on a card.
#[derive(Debug)]
pub(super) enum CardStates {}

impl Card {
    pub(super) fn open(ordinal: u16) -> Result<Self, RuntimeError> {
        let reason = "this program runs trials on the processor only; trimtab-worker-cuda runs them on cards";
        Err(RuntimeError::Device { device: DeviceSpec::Cuda { ordinal }.label(), reason })
    }

    pub(super) fn model(&self, _host: &Llama, _watch: &dyn Fn(u32, u32) -> bool) -> Result<CardModel, RuntimeError> {
        match *self {}
    }

    pub(super) fn layer(
        &self,
        _checkpoint: &Arc<Checkpoint>,
        _layer: &Layer,
        _bias: Option<Tensor>,
    ) -> Result<Linear, RuntimeError> {
        match *self {}
    }

    pub(super) fn states(&self, _model: &Llama, _windows: &[Vec<u32>]) -> Result<CardStates, RuntimeError> {
        match *self {}
    }

    pub(super) fn kind(&self) -> Result<String, RuntimeError> {
        match *self {}
    }

    pub(super) fn peak_bytes(&self) -> u64 {
        match *self {}
    }

    pub(super) fn has_library(&self) -> bool {
        match *self {}
    }

    pub(super) fn ceilings(&self) -> Result<CardCeilings, RuntimeError> {
        match *self {}
    }

    pub(super) fn forget_peak(&self) {
        match *self {}
    }

    pub(super) fn solver(&self) -> &dyn Solver {
        match *self {}
    }
}

impl CardStates {
    pub(super) fn through(
        &self,
        _way: Way<'_>,
        _keep_going: &mut dyn FnMut(usize) -> bool,
    ) -> Result<BlockMoments, RuntimeError> {
        match *self {}
    }
}

impl CardModel {
    pub(super) fn products(&self) -> BTreeMap<String, u32> {
        match *self {}
    }

    pub(super) fn held_bytes(&self) -> u64 {
        match *self {}
    }

    pub(super) fn work(&self, _host: &Llama, _seq: usize, _past: usize) -> Vec<Work> {
        match *self {}
    }

    pub(super) fn text(&self, _capacity: usize) -> Result<Box<dyn Steps>, RuntimeError> {
        match *self {}
    }

    pub(super) fn generate(
        &self,
        _prompt: &[u32],
        _n_tokens: usize,
        _sampling: Sampling,
        _keep_going: &dyn Fn(u32) -> bool,
    ) -> Result<Vec<u32>, RuntimeError> {
        match *self {}
    }

    pub(super) fn scorer(&self, _reference: &Self, _context: usize) -> Result<Box<dyn Scorer>, RuntimeError> {
        match *self {}
    }
}

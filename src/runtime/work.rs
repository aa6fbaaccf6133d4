//! What every step of making a variant works with.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Instant;

use candle_core::Device;

use crate::cache::{Key, Store};
use crate::checkpoint::Checkpoint;
use crate::compress::Moments;
use crate::model::LayerPath;
use crate::nn::Llama;
use crate::recipe::{Plan, Policy};
use crate::runtime::calibrate::{BlockMoments, CalibrationText, Input, Walk};
use crate::runtime::keys::{self, Hash, Inputs};
use crate::runtime::{Place, RuntimeError};

/// Hears how the making of a variant goes; both cores may speak at once.
pub trait Watch: Sync {
    /// Windows of the calibration text that were run through a block, and in all; `false` ends the work.
    fn calibrating(&self, done: u32, total: u32) -> bool;

    /// Layers done and in all; `false` ends the work.
    fn compressing(&self, done: u32, total: u32) -> bool;

    /// A layer was compressed, or found among those of earlier trials.
    fn made(&self, layer: &MadeLayer);
}

/// Hears nothing and never ends the work.
impl Watch for () {
    fn calibrating(&self, _done: u32, _total: u32) -> bool {
        true
    }

    fn compressing(&self, _done: u32, _total: u32) -> bool {
        true
    }

    fn made(&self, _layer: &MadeLayer) {}
}

/// What is told of a layer that was made.
#[derive(Debug, Clone, PartialEq)]
pub struct MadeLayer {
    /// The layer.
    pub path: LayerPath,
    /// ‖X (W − Ŵ)ᵀ‖² / ‖X Wᵀ‖² over the calibrated inputs, where it had some.
    pub output_error: Option<f64>,
    /// Time of compressing it, in seconds; what it took back then where it was kept.
    pub secs: f64,
    /// Whether it was there from an earlier trial.
    pub was_kept: bool,
    /// Bytes packed; what it shares counts with the first layer that has it.
    pub packed_bytes: u64,
    /// Whether it saw fewer calibration tokens than it has input features.
    pub is_thin: bool,
    /// Whether it is made of factors whose two products are more work than one.
    pub is_slow: bool,
    /// What did not go as asked, in words.
    pub notes: Vec<String>,
}

impl MadeLayer {
    /// A layer of which nothing is known yet.
    pub fn new(path: LayerPath) -> Self {
        Self {
            path,
            output_error: None,
            secs: 0.0,
            was_kept: false,
            packed_bytes: 0,
            is_thin: false,
            is_slow: false,
            notes: Vec::new(),
        }
    }
}

/// How a variant was calibrated.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Calibrated {
    /// Blocks whose sums were found on the disk.
    pub cached_blocks: u32,
    /// Blocks whose inputs were read anew.
    pub read_blocks: u32,
    /// Time of the forward passes and sums, in seconds.
    pub secs: f64,
}

/// One variant in the making.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) device: &'a Device,
    /// Where the variant will run, and what makes of it what a card makes faster.
    pub(super) place: &'a Place,
    pub(super) plan: &'a Plan,
    pub(super) text: Option<&'a CalibrationText>,
    pub(super) files: Option<&'a Store>,
    pub(super) watch: &'a dyn Watch,
    pub(super) calibrated: &'a Cell<Calibrated>,
}

impl<'a> Work<'a> {
    /// The calibration text, which a plan that needs one always has.
    pub(super) fn text(&self) -> Result<&'a CalibrationText, RuntimeError> {
        self.text.ok_or(RuntimeError::NoText)
    }

    /// What was stored under `hash`.
    pub(super) fn stored(&self, hash: Hash) -> Option<Vec<u8>> {
        self.files?.get(&Key(hash))
    }

    /// Stores what can be made again: a failure costs time later, nothing now.
    pub(super) fn store(&self, hash: Hash, parts: &[&[u8]]) {
        if let Some(files) = self.files
            && let Err(error) = files.put(&Key(hash), parts)
        {
            log::warn!("a result is not kept for later: {error}");
        }
    }

    /// The inputs of the blocks of a model, by `policy`; `base` is the hash of that model.
    pub(super) fn inputs(self, base: Hash, policy: Policy) -> Result<BlockInputs<'a>, RuntimeError> {
        let text = self.text()?;
        Ok(BlockInputs { work: self, text, walk: Walk::new(text), base, policy })
    }
}

/// The sums over the inputs of blocks: from the disk where they were kept, from forward passes where not.
pub(super) struct BlockInputs<'a> {
    work: Work<'a>,
    text: &'a CalibrationText,
    walk: Walk<'a>,
    base: Hash,
    policy: Policy,
}

impl BlockInputs<'_> {
    /// What calibrates layers whose upstream has this hash.
    pub(super) fn identity(&self, upstream: Hash) -> Inputs {
        let upstream = match self.policy {
            Policy::Sequential => upstream,
            Policy::Dense => Hash::default(),
        };
        Inputs { text: self.text.hash, policy: self.policy, upstream }
    }

    /// Sums over the inputs `wanted` of `block`, as the layers of that block in `dense` read them.
    ///
    /// - `dense`: the model whose layers are compressed
    /// - `made`: the same model with the blocks before `block` as they will run, and `upstream` the hash of those; with
    ///   the dense policy neither is looked at
    ///
    /// Blocks are asked for in their order.
    pub(super) fn of_block(
        &mut self,
        block: usize,
        wanted: &[Input],
        dense: &Llama,
        made: &Llama,
        upstream: Hash,
    ) -> Result<BlockMoments, RuntimeError> {
        let start = Instant::now();
        let identity = self.identity(upstream);
        let parts = &dense.parts().blocks[block];
        let mut found: BlockMoments = BTreeMap::new();
        let mut missing = Vec::new();
        for &input in wanted {
            let Some(reader) = input.first_reader(parts) else { continue };
            let stored = self.work.stored(keys::moments(self.base, identity, block, input));
            match stored.and_then(|bytes| Moments::from_bytes(&bytes, reader.shape()[1])) {
                Some(moments) => _ = found.insert(input, moments),
                None => missing.push(input),
            }
        }
        let mut told = self.work.calibrated.get();
        if missing.is_empty() {
            told.cached_blocks += u32::from(!found.is_empty());
        } else {
            let is_dense = self.policy == Policy::Dense;
            self.walk.advance(if is_dense { dense } else { made }, block, self.work.watch)?;
            let observed = self.walk.observe(dense, &missing, is_dense, self.work.watch)?;
            for (input, moments) in &observed {
                if self.work.files.is_some() {
                    let key = keys::moments(self.base, identity, block, *input);
                    self.work.store(key, &[&moments.to_bytes()]);
                }
            }
            found.extend(observed);
            told.read_blocks += 1;
        }
        told.secs += start.elapsed().as_secs_f64();
        self.work.calibrated.set(told);
        Ok(found)
    }
}

//! What becomes of each layer of a variant, and what each result depends on, before anything is made.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::StoredFormat;
use crate::model::{Layer, LayerRole};
use crate::nn::{Linear, Llama};
use crate::recipe::{Execution, LayerSettings, Policy, Rounding, WeightFormat};
use crate::runtime::calibrate::Input;
use crate::runtime::keys::{self, CURRENT, Hash, Inputs, LayerIdentity};
use crate::runtime::scales::{ScaledLayer, Scaling, scaled_inputs};
use crate::runtime::shared::Base;
use crate::runtime::work::Work;
use crate::runtime::{RuntimeError, layers};

/// How a layer comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// As the dense model has it.
    AsBase,
    /// Compressed.
    Make,
    /// The weights of the layer at this position in the graph.
    Tied(usize),
    /// Already made, with the group that it shares a basis with.
    Shared,
}

/// One layer of the variant.
#[derive(Debug, Clone)]
pub(super) struct Target<'a> {
    /// Its position in the graph.
    pub(super) index: usize,
    pub(super) layer: &'a Layer,
    /// With the fraction or rank that an allocation over blocks gave it.
    pub(super) settings: LayerSettings,
    pub(super) execution: Execution,
    pub(super) shape: [usize; 2],
    pub(super) how: How,
    pub(super) key: Hash,
    /// What of its settings cannot be done, in words.
    pub(super) note: Option<&'static str>,
}

/// The layers of one block, or those outside of blocks.
#[derive(Debug)]
pub(super) struct BlockOutline<'a> {
    pub(super) block: Option<usize>,
    pub(super) targets: Vec<Target<'a>>,
    /// The inputs whose scales are searched.
    pub(super) scaled: BTreeMap<Input, Scaling>,
    /// Where those scales are stored; `None` where there are none.
    pub(super) scales_key: Option<Hash>,
    /// Everything that was done to the blocks before.
    pub(super) upstream: Hash,
}

/// The layers of a variant: those outside of blocks, then block by block.
#[derive(Debug)]
pub(super) struct Outline<'a> {
    pub(super) blocks: Vec<BlockOutline<'a>>,
}

impl<'a> Outline<'a> {
    /// Every layer that the plan keeps, with `settings` by position in the graph.
    pub(super) fn new(
        work: Work<'a>,
        reference: &Llama,
        base: &Base,
        settings: &[LayerSettings],
    ) -> Result<Self, RuntimeError> {
        let n_blocks = reference.config().n_blocks;
        let mut blocks: Vec<BlockOutline<'a>> = std::iter::once(None)
            .chain((0..n_blocks).map(Some))
            .map(|block| BlockOutline {
                block,
                targets: Vec::new(),
                scaled: BTreeMap::new(),
                scales_key: None,
                upstream: Hash::default(),
            })
            .collect();
        let graph = work.checkpoint.graph();
        for (index, (layer, plan)) in graph.layers.iter().zip(&work.plan.layers).enumerate() {
            let Some(shape) = plan.shape else { continue };
            let how = how(index, layer, &settings[index], reference, base);
            let (settings, execution) = (searched(layer.role, settings[index]), plan.execution);
            let target = Target { index, layer, settings, execution, shape, how, key: Hash::default(), note: None };
            blocks[layer.block.map_or(0, |block| usize::from(block) + 1)].targets.push(target);
        }
        let mut upstream = keys::hash("upstream", &(work.plan.attention, work.plan.kv_cache));
        for outline in &mut blocks {
            outline.upstream = upstream;
            outline.identify(work, base)?;
            upstream = outline.downstream();
        }
        Ok(Self { blocks })
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = &Target<'a>> {
        self.blocks.iter().flat_map(|block| &block.targets)
    }
}

impl BlockOutline<'_> {
    /// Gives each layer its key.
    fn identify(&mut self, work: Work<'_>, base: &Base) -> Result<(), RuntimeError> {
        let policy = work.plan.calibration.policy;
        let upstream = if policy == Policy::Sequential { self.upstream } else { Hash::default() };
        let inputs = work.text_hash().map(|text| Inputs { text, policy, upstream });
        let is_own = |target: &Target<'_>| target.how == How::Make && !base.ties.contains_key(&target.index);
        let scaled_layers = self.targets.iter().map(|target| {
            let (role, settings, is_own) = (target.layer.role, &target.settings, is_own(target));
            ScaledLayer { role, settings, is_own }
        });
        let scaled_layers: Vec<ScaledLayer<'_>> = scaled_layers.collect();
        let is_grouped = self.block.is_some_and(|block| {
            let shape = base.model.parts().blocks[block].shape();
            shape.n_heads != shape.n_kv_heads
        });
        let (scaled, unscaled) = scaled_inputs(&scaled_layers, is_grouped);
        if !scaled.is_empty() {
            let members: Vec<_> =
                self.targets.iter().map(|target| (&target.layer.path, &target.settings, is_own(target))).collect();
            let versions = (CURRENT.scales, CURRENT.awq, CURRENT.moments);
            self.scales_key = Some(keys::hash("scales", &(versions, base.hash, self.block, members, inputs)));
        }
        let scales_key = self.scales_key;
        for target in &mut self.targets {
            let is_calibrated = target.settings.needs_calibration();
            if is_calibrated && inputs.is_none() && target.how == How::Make {
                return Err(RuntimeError::NoText);
            }
            let identity = LayerIdentity {
                base: base.hash,
                path: &target.layer.path,
                shape: target.shape,
                native: target.layer.stored,
                settings: &target.settings,
                inputs: inputs.filter(|_| is_calibrated),
                scaled: scales_key,
                solver: keys::solver(&target.settings, work.place),
            };
            target.key = identity.hash(&CURRENT);
            target.note = Input::of(target.layer.role).and_then(|input| unscaled.get(&input).copied());
        }
        self.scaled = scaled;
        Ok(())
    }

    /// The upstream of the next block.
    fn downstream(&self) -> Hash {
        let done = |target: &Target<'_>| match target.how {
            How::AsBase | How::Shared => None,
            How::Make => Some((target.key, target.execution)),
            How::Tied(first) => Some((keys::hash("tied", &first), target.execution)),
        };
        let done: Vec<_> = self.targets.iter().map(|target| (&target.layer.path, done(target))).collect();
        keys::hash("upstream", &(self.upstream, done))
    }
}

/// AWQ's search for a clipped range leaves out queries and keys, whose products the clipping would distort.
fn searched(role: LayerRole, mut settings: LayerSettings) -> LayerSettings {
    if let (LayerRole::QProj | LayerRole::KProj, Rounding::Awq(options)) = (role, &mut settings.rounding) {
        options.clip = false;
    }
    settings
}

/// How one layer comes to be.
fn how(index: usize, layer: &Layer, settings: &LayerSettings, reference: &Llama, base: &Base) -> How {
    if base.shared.contains_key(&index) {
        return How::Shared;
    }
    let find = |model: &Llama| layers::find(model.parts(), layer).cloned();
    let (own, original): (Option<Arc<Linear>>, _) = (find(&base.model), find(reference));
    let is_original = matches!((&own, &original), (Some(own), Some(original)) if Arc::ptr_eq(own, original));
    let is_plain = *settings == LayerSettings::of(settings.weights);
    let same_numbers = match settings.weights {
        WeightFormat::Native => is_original || layer.stored == StoredFormat::F32,
        // What was cut is in f32 already.
        WeightFormat::F32 => !is_original || layer.stored == StoredFormat::F32 && layer.sparse.is_none(),
        _ => false,
    };
    if is_plain && same_numbers {
        return How::AsBase;
    }
    match base.ties.get(&index) {
        Some(&first) if first != index => How::Tied(first),
        _ => How::Make,
    }
}

//! One variant, block by block: calibrate, scale, compress, run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::compress::{Compressed, Host, Job, Moments, PackedWeights, Solver, compress_with};
use crate::model::Layer;
use crate::nn::{Linear, LinearParts, Llama, LlamaParts};
use crate::recipe::Policy;
use crate::runtime::calibrate::{BlockMoments, Input};
use crate::runtime::keys;
use crate::runtime::layer_cache::{Kept, LayerCache, LayerKey};
use crate::runtime::outline::{BlockOutline, How, Outline, Target};
use crate::runtime::scales::{self, BlockScales, DenseLayer};
use crate::runtime::shared::Base;
use crate::runtime::work::{BlockInputs, Work};
use crate::runtime::{MadeLayer, RuntimeError, database, layers};

/// Layers of a block that are compressed at a time: each needs its moments, their factor and a copy of the weights.
const AT_A_TIME: usize = 2;

/// A layer that is there.
pub(super) struct Made {
    pub(super) kept: Kept,
    /// Its weights as a file holds them, where they are asked for.
    pub(super) packed: Option<Compressed>,
}

/// The layers of a variant in the making.
pub(super) struct Build<'a> {
    pub(super) work: Work<'a>,
    pub(super) base: &'a Base,
    pub(super) outline: &'a Outline<'a>,
    pub(super) cache: &'a mut LayerCache,
    /// Packed weights are kept for a file.
    pub(super) keep_packed: bool,
    /// By position in the graph.
    pub(super) made: BTreeMap<usize, Made>,
    /// The model as far as it is made.
    pub(super) parts: LlamaParts,
}

impl<'a> Build<'a> {
    /// Makes every layer; whether one was.
    pub(super) fn run(&mut self) -> Result<(), RuntimeError> {
        let scales: Vec<Option<BlockScales>> =
            self.outline.blocks.iter().map(|block| self.fetch(block)).collect::<Result<_, _>>()?;
        let is_missing = |made: &BTreeMap<usize, Made>, target: &Target<'_>| {
            target.how == How::Make && !made.contains_key(&target.index)
        };
        let total = self.outline.targets().filter(|target| is_missing(&self.made, target)).count() as u32;
        let mut done = 0;
        let mut inputs = None;
        for (outline, found) in self.outline.blocks.iter().zip(scales) {
            let missing: Vec<&Target<'_>> =
                outline.targets.iter().filter(|target| is_missing(&self.made, target)).collect();
            let mut scales = found;
            if !missing.is_empty() {
                let moments = self.calibrate(outline, &missing, scales.is_none(), &mut inputs)?;
                if scales.is_none() && !outline.scaled.is_empty() {
                    scales = Some(self.find_scales(outline, &moments)?);
                }
                let scales = scales.as_ref();
                for pair in missing.chunks(AT_A_TIME) {
                    if !self.work.watch.compressing(done, total) {
                        return Err(RuntimeError::Cancelled);
                    }
                    self.make(pair, &moments, scales)?;
                    done += pair.len() as u32;
                }
            }
            self.place(outline, scales.as_ref())?;
        }
        if total > 0 && !self.work.watch.compressing(done, total) {
            return Err(RuntimeError::Cancelled);
        }
        Ok(())
    }

    /// Takes what is there of a block: kept layers, and its scales where it has some. Without the scales no layer counts.
    fn fetch(&mut self, outline: &BlockOutline<'_>) -> Result<Option<BlockScales>, RuntimeError> {
        let mut found = None;
        if let Some(hash) = outline.scales_key {
            let stored = self.work.stored(hash);
            found = stored.and_then(|bytes| scales::from_bytes(&bytes, &outline.scaled));
            if found.is_none() {
                return Ok(None);
            }
        }
        for target in outline.targets.iter().filter(|target| target.how == How::Make) {
            let key = LayerKey::new(target.key, target.execution);
            let kept = if self.keep_packed { None } else { self.cache.get(key) };
            let made = match kept {
                Some(kept) => Made { kept, packed: None },
                None => match self.stored(target, found.as_ref())? {
                    Some(made) => made,
                    None => continue,
                },
            };
            self.insert(target, made, true);
        }
        Ok(found)
    }

    /// A layer from the database.
    fn stored(&self, target: &Target<'_>, scales: Option<&BlockScales>) -> Result<Option<Made>, RuntimeError> {
        if !keys::is_costly(&target.settings) {
            return Ok(None);
        }
        let stored = self.work.stored(target.key).and_then(|bytes| database::layer(&bytes, target.shape));
        let Some((compressed, secs)) = stored else { return Ok(None) };
        let bias = self.bias(target, scales)?;
        let task = Task { target, compressed, secs, bias };
        Ok(Some(task.finish(self.keep_packed)?))
    }

    fn insert(&mut self, target: &Target<'_>, mut made: Made, was_kept: bool) {
        let told = &mut made.kept.told;
        told.was_kept = was_kept;
        let n_tokens = self.work.text.map_or(0, |text| text.n_tokens());
        told.is_thin = target.settings.needs_calibration() && n_tokens < target.shape[1] as u64;
        self.work.watch.made(told);
        self.cache.insert(LayerKey::new(target.key, target.execution), made.kept.clone());
        self.made.insert(target.index, made);
    }

    fn dense_layer(&self, layer: &Layer) -> Result<Arc<Linear>, RuntimeError> {
        let found = layers::find(self.base.model.parts(), layer);
        Ok(found.cloned().ok_or_else(|| crate::nn::NnError::Missing(layer.path.0.clone()))?)
    }

    /// A layer's bias, divided where its rows are.
    fn bias(&self, target: &Target<'_>, scales: Option<&BlockScales>) -> Result<Option<Tensor>, RuntimeError> {
        let bias = self.dense_layer(target.layer)?.bias().cloned();
        Ok(match (bias, scales.and_then(|scales| scales::row_scales(scales, target.layer.role))) {
            (Some(bias), Some(scales)) => Some(layers::divided(&bias, scales, self.work.device)?),
            (bias, _) => bias,
        })
    }

    /// Sums over the inputs that the missing layers of a block read, and its scales where they are searched.
    fn calibrate(
        &self,
        outline: &BlockOutline<'_>,
        missing: &[&Target<'_>],
        needs_scales: bool,
        inputs: &mut Option<BlockInputs<'a>>,
    ) -> Result<BlockMoments, RuntimeError> {
        let Some(block) = outline.block else { return Ok(BlockMoments::new()) };
        let calibrated = missing.iter().filter(|target| target.settings.needs_calibration());
        let mut wanted: BTreeSet<Input> = calibrated.filter_map(|target| Input::of(target.layer.role)).collect();
        if needs_scales {
            wanted.extend(outline.scaled.keys());
        }
        if wanted.is_empty() {
            return Ok(BlockMoments::new());
        }
        if inputs.is_none() {
            *inputs = Some(self.work.inputs(self.base.hash, self.work.plan.calibration.policy)?);
        }
        let Some(inputs) = inputs else { return Err(RuntimeError::NoText) };
        let wanted: Vec<Input> = wanted.into_iter().collect();
        let made = match self.work.plan.calibration.policy {
            Policy::Sequential => Arc::new(Llama::new(self.parts.clone(), self.work.device.clone())?),
            Policy::Dense => self.base.model.clone(),
        };
        inputs.of_block(block, &wanted, &self.base.model, &made, outline.upstream)
    }

    fn find_scales(&self, outline: &BlockOutline<'_>, moments: &BlockMoments) -> Result<BlockScales, RuntimeError> {
        let in_groups = |target: &&Target<'_>| {
            let is_scaled = Input::of(target.layer.role).is_some_and(|input| outline.scaled.contains_key(&input));
            let is_fed = outline.scaled.keys().any(|input| scales::feeder(*input) == Some(target.layer.role));
            is_scaled || is_fed
        };
        let mut dense = Vec::new();
        for target in outline.targets.iter().filter(in_groups) {
            let weights = self.dense_layer(target.layer)?.dequantize()?;
            let (role, settings) = (target.layer.role, &target.settings);
            dense.push(DenseLayer { role, weights, shape: target.shape, settings });
        }
        let path = &outline.targets[0].layer.path;
        let found = scales::find(&outline.scaled, dense, moments).map_err(keys::of_layer(path))?;
        if let Some(key) = outline.scales_key {
            self.work.store(key, &[&scales::to_bytes(&found)]);
        }
        Ok(found)
    }

    /// Compresses layers of a block at the same time.
    fn make(
        &mut self,
        targets: &[&Target<'_>],
        moments: &BlockMoments,
        scales: Option<&BlockScales>,
    ) -> Result<(), RuntimeError> {
        let mut jobs = Vec::with_capacity(targets.len());
        for target in targets {
            jobs.push((*target, self.dense_layer(target.layer)?, self.bias(target, scales)?));
        }
        let none = BlockScales::new();
        let scales = scales.unwrap_or(&none);
        let of_target = |target: &Target<'_>| {
            let input = Input::of(target.layer.role).filter(|_| target.settings.needs_calibration());
            input.and_then(|input| moments.get(&input))
        };
        let solver = self.work.place.solver();
        // A card stays on its thread; what it does not make faster is done beside each other.
        let is_for_card = |target: &Target<'_>| solver.is_some() && keys::is_costly(&target.settings);
        let (for_card, others): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|(target, ..)| is_for_card(target));
        let make = |(target, dense, bias): (_, Arc<Linear>, _), solver: &dyn Solver| {
            compress_one(target, &dense, (of_target(target), scales), bias, solver)
        };
        let mut compressed: Vec<Task<'_, '_>> = Vec::with_capacity(targets.len());
        for job in for_card {
            compressed.push(make(job, solver.unwrap_or(&Host))?);
        }
        let others: Result<Vec<_>, _> = others.into_par_iter().map(|job| make(job, &Host)).collect();
        compressed.extend(others?);
        for task in compressed {
            if keys::is_costly(&task.target.settings) && self.work.files.is_some() {
                let [head, body] = database::layer_bytes(&task.compressed, task.secs);
                self.work.store(task.target.key, &[&head, &body]);
            }
            let target = task.target;
            let made = task.finish(self.keep_packed)?;
            self.insert(target, made, false);
        }
        Ok(())
    }

    /// Puts the layers of a block into the model, and its scales into the norms.
    fn place(&mut self, outline: &BlockOutline<'_>, scales: Option<&BlockScales>) -> Result<(), RuntimeError> {
        for target in &outline.targets {
            if let How::Tied(first) = target.how {
                let own = self.dense_layer(target.layer)?;
                let made = match self.made.get(&first) {
                    Some(first) => first.kept.linear.tied(target.layer.path.clone(), own.bias().cloned()),
                    None => continue,
                };
                let told = MadeLayer { was_kept: true, ..MadeLayer::new(target.layer.path.clone()) };
                self.made.insert(target.index, Made { kept: Kept { linear: Arc::new(made), told }, packed: None });
            }
            if let Some(made) = self.made.get(&target.index) {
                layers::replace(&mut self.parts, target.layer, made.kept.linear.clone());
            }
        }
        let (Some(block), Some(scales)) = (outline.block, scales) else { return Ok(()) };
        let block = &mut self.parts.blocks[block];
        if let (Some(attention), Some(scales)) = (&mut block.attention, scales.get(&Input::Attention)) {
            attention.norm = layers::divided(&attention.norm, scales, self.work.device)?;
        }
        if let (Some(mlp), Some(scales)) = (&mut block.mlp, scales.get(&Input::Mlp)) {
            mlp.norm = layers::divided(&mlp.norm, scales, self.work.device)?;
        }
        Ok(())
    }
}

/// A compressed layer on its way to its product.
struct Task<'a, 'b> {
    target: &'a Target<'b>,
    compressed: Compressed,
    secs: f64,
    bias: Option<Tensor>,
}

impl Task<'_, '_> {
    fn finish(self, keep_packed: bool) -> Result<Made, RuntimeError> {
        let Self { target, compressed, secs, bias } = self;
        let packed = keep_packed.then(|| compressed.clone());
        let told = MadeLayer {
            output_error: compressed.output_error.filter(|error| error.is_finite()),
            secs,
            packed_bytes: compressed.weights.packed_bytes(),
            is_slow: is_slow(&compressed.weights),
            notes: compressed.notes,
            ..MadeLayer::new(target.layer.path.clone())
        };
        let parts = LinearParts {
            path: target.layer.path.clone(),
            packed: compressed.weights,
            shape: target.shape,
            execution: target.execution,
            bias,
            activations: compressed.activations,
        };
        let linear = Arc::new(Linear::new(parts)?);
        Ok(Made { kept: Kept { linear, told }, packed })
    }
}

/// Compresses one layer of which `dense` has the weights.
fn compress_one<'a, 'b>(
    target: &'a Target<'b>,
    dense: &Linear,
    (moments, scales): (Option<&Moments>, &BlockScales),
    bias: Option<Tensor>,
    solver: &dyn Solver,
) -> Result<Task<'a, 'b>, RuntimeError> {
    let start = Instant::now();
    let role = target.layer.role;
    let mut weights = dense.dequantize()?;
    let columns = scales::column_scales(scales, role);
    scales::apply(&mut weights, target.shape[1], scales::row_scales(scales, role), columns);
    let divided;
    let moments = match (moments, columns) {
        (Some(moments), Some(columns)) => {
            divided = moments.divided(columns);
            Some(&divided)
        }
        (moments, _) => moments,
    };
    let job =
        Job { dense: &weights, shape: target.shape, settings: &target.settings, native: target.layer.stored, moments };
    let mut compressed = compress_with(&job, solver).map_err(keys::of_layer(&target.layer.path))?;
    compressed.notes.extend(target.note.map(str::to_owned));
    Ok(Task { target, compressed, secs: start.elapsed().as_secs_f64(), bias })
}

/// Whether the two products of factors are more work than one product.
pub(super) fn is_slow(weights: &PackedWeights) -> bool {
    match weights {
        PackedWeights::LowRank(factors) => {
            let [rows, rank, row_len] = factors.shape;
            rank * (rows + row_len) > rows * row_len
        }
        _ => false,
    }
}

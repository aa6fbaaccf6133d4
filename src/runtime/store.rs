//! One model, and the making of its variants.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Device;

use crate::cache::Store;
use crate::checkpoint::Checkpoint;
use crate::compress::PackedWeights;
use crate::device::DeviceSpec;
use crate::nn::{Linear, LinearParts, Llama};
use crate::recipe::{Execution, Plan, Policy};
use crate::runtime::build::Build;
use crate::runtime::layer_cache::LayerCache;
use crate::runtime::outline::Outline;
use crate::runtime::shared::Base;
use crate::runtime::structure::Cut;
use crate::runtime::work::{Calibrated, Watch, Work};
use crate::runtime::{CalibrationText, MadeLayer, Place, RuntimeError, Variant};
use crate::runtime::{allocate, choose, device, keys, layers, load, made_file, structure, variant};

/// Smallest budget of compressed layers that are kept though no running variant uses them.
const MIN_CACHE_BYTES: u64 = 48 << 20;

/// A model: the reference's layers, and compressed ones kept between trials.
#[derive(Debug)]
pub struct ModelStore {
    checkpoint: Arc<Checkpoint>,
    device: Device,
    place: Place,
    reference: Arc<Llama>,
    layers: LayerCache,
    files: Option<Store>,
}

impl ModelStore {
    /// Opens the device that `spec` names, then reads every tensor into the memory of the host; for a card, the weights of
    /// layers are read when they are used, as by [`Place::load`]. `progress` hears of layers read and in all, and ends the
    /// load by returning `false`.
    ///
    /// # Errors
    /// When the device cannot be opened, or a tensor cannot be had.
    pub fn load(
        checkpoint: Checkpoint,
        spec: DeviceSpec,
        progress: &dyn Fn(u32, u32) -> bool,
    ) -> Result<Self, RuntimeError> {
        // A card that cannot be opened says so before a large model is read.
        let place = Place::open(spec)?;
        Self::on(place, checkpoint, device::open(spec), progress)
    }

    fn on(
        place: Place,
        checkpoint: Checkpoint,
        device: Device,
        progress: &dyn Fn(u32, u32) -> bool,
    ) -> Result<Self, RuntimeError> {
        let checkpoint = Arc::new(checkpoint);
        let reference = Arc::new(load::reference(&checkpoint, &place, &device, progress)?);
        let held: u64 = reference.layers().map(|layer| layer.held_bytes()).sum();
        let layers = LayerCache::new(MIN_CACHE_BYTES.max(held / 10));
        Ok(Self { checkpoint, device, place, reference, layers, files: None })
    }

    /// Keeps calibrations and compressed layers in `files` too, where other workers find them.
    #[must_use]
    pub fn with_files(mut self, files: Option<Store>) -> Self {
        self.files = files;
        self
    }

    /// The same with its variants on `place`.
    #[cfg(all(test, feature = "cuda"))]
    fn moved_to(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    /// The files behind the model.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Where its variants run.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The model as the checkpoint has it.
    pub fn reference(&self) -> &Arc<Llama> {
        &self.reference
    }

    /// Builds the variant that `plan` describes. Only layers that are not there yet are compressed; when all are, no text
    /// is read.
    ///
    /// - `text`: what calibrated methods read; a plan that has some needs it
    ///
    /// # Errors
    /// When a layer cannot be compressed, or `watch` ends the work.
    pub fn build(
        &mut self,
        plan: &Plan,
        text: Option<&CalibrationText>,
        watch: &dyn Watch,
    ) -> Result<Variant, RuntimeError> {
        self.build_to(plan, text, watch, None)
    }

    /// [`Self::build`], and writes the variant to the file `out`.
    ///
    /// # Errors
    /// As [`Self::build`], and when the file cannot be written; it is then as it was.
    pub fn make(
        &mut self,
        plan: &Plan,
        text: Option<&CalibrationText>,
        watch: &dyn Watch,
        out: &Path,
    ) -> Result<Variant, RuntimeError> {
        self.build_to(plan, text, watch, Some(out))
    }

    /// The blocks that the plan's score chooses to go, for a plan that says how many and not which.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn choose_blocks(
        &self,
        plan: &Plan,
        text: &CalibrationText,
        watch: &dyn Watch,
    ) -> Result<Vec<u16>, RuntimeError> {
        let calibrated = Cell::default();
        choose::blocks(self.work(plan, Some(text), watch, &calibrated), text, &self.reference)
    }

    fn work<'a>(
        &'a self,
        plan: &'a Plan,
        text: Option<&'a CalibrationText>,
        watch: &'a dyn Watch,
        calibrated: &'a Cell<Calibrated>,
    ) -> Work<'a> {
        let (checkpoint, device, place, files) = (&self.checkpoint, &self.device, &self.place, self.files.as_ref());
        Work { checkpoint, device, place, plan, text, files, watch, calibrated }
    }

    fn build_to(
        &mut self,
        plan: &Plan,
        text: Option<&CalibrationText>,
        watch: &dyn Watch,
        out: Option<&Path>,
    ) -> Result<Variant, RuntimeError> {
        let start = Instant::now();
        let calibrated = Cell::default();
        let mut cache = std::mem::take(&mut self.layers);
        let built = self.build_with(self.work(plan, text, watch, &calibrated), &mut cache, out);
        cache.trim();
        self.layers = cache;
        let mut variant = built?;
        variant.calibrated = plan.needs_calibration().then(|| calibrated.get());
        variant.compress_secs = start.elapsed().as_secs_f64();
        Ok(variant)
    }

    fn build_with(&self, work: Work<'_>, cache: &mut LayerCache, out: Option<&Path>) -> Result<Variant, RuntimeError> {
        let (plan, original) = (work.plan, self.reference.parts());
        let Cut { model: dense, hash, notes } = structure::cut(work, &self.reference)?;
        let mut base = Base::new(work, &dense, hash)?;
        let is_whole = Arc::ptr_eq(&base.model, &self.reference);
        drop(dense);
        let mut parts = base.model.parts().clone();
        (parts.attention, parts.kv_cache) = (plan.attention, plan.kv_cache);
        let runs_alike = (parts.attention, parts.kv_cache) == (original.attention, original.kv_cache);
        if plan.calibration.policy == Policy::Sequential && !runs_alike {
            // The inputs of a block are those that the variant will make.
            base.hash = keys::hash("runs", &(base.hash, plan.attention, plan.kv_cache));
            base.model = Arc::new(Llama::new(parts.clone(), self.device.clone())?);
        }
        let settings = allocate::settings(work, &base)?;
        let outline = Outline::new(work, &self.reference, &base, &settings)?;
        let made = std::mem::take(&mut base.shared);
        let keep_packed = out.is_some();
        let mut build = Build { work, base: &base, outline: &outline, cache, keep_packed, made, parts };
        build.run()?;
        let Build { made, parts, .. } = build;
        if let Some(out) = out {
            made_file::write(work, (&base, &outline), &made, &parts, out)?;
        }
        let model = if is_whole && made.is_empty() && runs_alike {
            self.reference.clone()
        } else {
            Arc::new(Llama::new(parts, self.device.clone())?)
        };
        let (weight_bytes, bits_per_weight) = variant::bytes_and_bits(&self.checkpoint, plan, &made);
        let layers: Vec<MadeLayer> = made.into_values().map(|made| made.kept.told).collect();
        Ok(Variant { model, layers, notes, calibrated: None, weight_bytes, bits_per_weight, compress_secs: 0.0 })
    }

    /// The variant with every layer that `plan` gives a GGML format dequantized to f32: the weights alone, without the
    /// quantized activations of the packed products.
    ///
    /// # Errors
    /// When a layer's own storage cannot be read.
    pub fn dequantized(&self, variant: &Variant, plan: &Plan) -> Result<Arc<Llama>, RuntimeError> {
        if plan.layers.iter().all(|layer| layer.settings.weights.ggml().is_none()) {
            return Ok(variant.model.clone());
        }
        let mut parts = variant.model.parts().clone();
        for (layer, wanted) in self.checkpoint.graph().layers.iter().zip(&plan.layers) {
            let Some(linear) = layers::find(&parts, layer).filter(|_| wanted.settings.weights.ggml().is_some()) else {
                continue;
            };
            let own = LinearParts {
                path: layer.path.clone(),
                packed: PackedWeights::F32(linear.dequantize()?),
                shape: linear.shape(),
                execution: Execution::Simulated,
                bias: linear.bias().cloned(),
                activations: linear.activations(),
            };
            let linear = Arc::new(Linear::new(own)?);
            layers::replace(&mut parts, layer, linear);
        }
        Ok(Arc::new(Llama::new(parts, self.device.clone())?))
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;

#[cfg(test)]
#[cfg(feature = "cuda")]
#[path = "store_card_tests.rs"]
mod card_tests;

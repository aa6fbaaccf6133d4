//! One model on one device, and its variants.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use candle_core::Device;
use rayon::prelude::*;

use crate::checkpoint::Checkpoint;
use crate::compress::{CompressError, compress};
use crate::device::DeviceSpec;
use crate::model::{Layer, StoredFormat};
use crate::nn::{Linear, Llama, LlamaParts, NnError};
use crate::recipe::{Execution, LayerPlan, Plan};
use crate::runtime::layer_cache::{LayerCache, LayerKey};
use crate::runtime::{RuntimeError, device, load};

/// Smallest budget of compressed layers that are kept though no running variant uses them.
const MIN_CACHE_BYTES: u64 = 48 << 20;

/// A model on a device: the reference's layers, and compressed ones kept between trials.
#[derive(Debug)]
pub struct ModelStore {
    checkpoint: Checkpoint,
    device: Device,
    reference: Arc<Llama>,
    layers: LayerCache,
}

/// A model whose layers follow a plan.
#[derive(Debug)]
pub struct Variant {
    /// The model.
    pub model: Arc<Llama>,
    /// Layers compressed for it; the others were there.
    pub compressed_layers: u32,
    /// Time of that, in seconds.
    pub compress_secs: f64,
}

impl ModelStore {
    /// Opens the device and reads every tensor. `progress` hears of layers done and in all, and ends the load by
    /// returning `false`.
    ///
    /// # Errors
    /// When the device or a tensor cannot be had.
    pub fn load(
        checkpoint: Checkpoint,
        spec: DeviceSpec,
        progress: &dyn Fn(u32, u32) -> bool,
    ) -> Result<Self, RuntimeError> {
        let device = device::open(spec)?;
        let reference = Arc::new(load::reference(&checkpoint, &device, progress)?);
        let held: u64 = reference.layers().map(|layer| layer.held_bytes()).sum();
        let layers = LayerCache::new(MIN_CACHE_BYTES.max(held / 10));
        Ok(Self { checkpoint, device, reference, layers })
    }

    /// The files behind the model.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The model as the checkpoint has it.
    pub fn reference(&self) -> &Arc<Llama> {
        &self.reference
    }

    /// Builds the variant that `plan` describes. Only layers that are not there yet are compressed, on all cores.
    ///
    /// # Errors
    /// When a layer cannot be compressed, or `progress` returns `false`.
    pub fn build(
        &mut self,
        plan: &Plan,
        progress: &(dyn Fn(u32, u32) -> bool + Sync),
    ) -> Result<Variant, RuntimeError> {
        let start = Instant::now();
        let graph = self.checkpoint.graph();
        let reference: Vec<Arc<Linear>> = self.reference.layers().cloned().collect();
        let mut found: Vec<Option<Arc<Linear>>> = Vec::with_capacity(plan.layers.len());
        let mut missing = Vec::new();
        for (index, wanted) in plan.layers.iter().enumerate() {
            let kept = if runs_as_reference(wanted, &graph.layers[index]) {
                Some(reference[index].clone())
            } else {
                self.layers.get(&LayerKey::new(&wanted.path, &wanted.settings, wanted.execution))
            };
            if kept.is_none() {
                missing.push(index);
            }
            found.push(kept);
        }
        let done = AtomicU32::new(0);
        let total = missing.len() as u32;
        let made: Vec<(usize, Arc<Linear>)> = missing
            .par_iter()
            .map(|&index| {
                if !progress(done.load(Ordering::Relaxed), total) {
                    return Err(RuntimeError::Cancelled);
                }
                let made = make(&reference[index], &graph.layers[index], &plan.layers[index], &self.device)?;
                done.fetch_add(1, Ordering::Relaxed);
                Ok((index, Arc::new(made)))
            })
            .collect::<Result<_, _>>()?;
        for (index, layer) in made {
            let wanted = &plan.layers[index];
            self.layers.insert(LayerKey::new(&wanted.path, &wanted.settings, wanted.execution), layer.clone());
            found[index] = Some(layer);
        }
        self.layers.trim();
        let layers = found.into_iter().collect::<Option<Vec<_>>>().expect("every missing layer was made");
        let model = if total == 0 && layers.iter().zip(&reference).all(|(a, b)| Arc::ptr_eq(a, b)) {
            self.reference.clone()
        } else {
            Arc::new(self.assemble(&layers)?)
        };
        Ok(Variant { model, compressed_layers: total, compress_secs: start.elapsed().as_secs_f64() })
    }

    /// The reference with its linear layers replaced, in the order of [`Llama::layers`].
    fn assemble(&self, layers: &[Arc<Linear>]) -> Result<Llama, RuntimeError> {
        let parts = self.reference.parts();
        let (embedding, rest) = layers.split_first().expect("a model has an embedding");
        let (blocks, head) = rest.as_chunks::<7>();
        let parts = LlamaParts {
            config: parts.config.clone(),
            embedding: embedding.clone(),
            blocks: blocks.to_vec(),
            norms: parts.norms.clone(),
            final_norm: parts.final_norm.clone(),
            head: head.first().cloned(),
            rotary: parts.rotary.clone(),
        };
        Ok(Llama::new(parts, self.device.clone())?)
    }
}

impl Variant {
    /// Bytes of the linear layers as held; layers shared with the reference count too.
    pub fn held_bytes(&self) -> u64 {
        self.model.layers().map(|layer| layer.held_bytes()).sum()
    }

    /// Which products run, each with its number of layers; a tied head runs the embedding's.
    pub fn products(&self) -> BTreeMap<String, u32> {
        let mut products = BTreeMap::new();
        for layer in self.model.layers() {
            *products.entry(layer.product().label()).or_insert(0) += 1;
        }
        products
    }
}

/// Whether a layer's product is the reference's own: widened half precision is the same numbers as named f32.
fn runs_as_reference(wanted: &LayerPlan, layer: &Layer) -> bool {
    let same_values = wanted.settings.weights == crate::recipe::WeightFormat::F32
        && !matches!(layer.stored, StoredFormat::Ggml(_))
        && wanted.settings.sparsity.is_none();
    wanted.settings.is_reference() || same_values
}

fn make(reference: &Linear, layer: &Layer, wanted: &LayerPlan, device: &Device) -> Result<Linear, RuntimeError> {
    let dense = reference.dequantize()?;
    let with_layer = |source: CompressError| RuntimeError::Compress { source, layer: layer.path.clone() };
    let packed = compress(&dense, layer.shape, &wanted.settings, layer.stored).map_err(with_layer)?;
    drop(dense);
    let execution = match (wanted.execution, wanted.settings.weights) {
        // A pruned half-precision layer that stays native runs widened, like the reference beside it.
        (Execution::Packed, crate::recipe::WeightFormat::Native) => Execution::Widened,
        (execution, _) => execution,
    };
    let bias = reference.bias().cloned();
    Linear::new(layer.path.clone(), packed, layer.shape, execution, bias, device).map_err(NnError::into)
}

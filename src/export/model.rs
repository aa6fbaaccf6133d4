//! The model as it will be written: blocks renumbered, what was removed left out.

use std::collections::BTreeMap;

use half::{bf16, f16};

use crate::cache::VariantFile;
use crate::checkpoint::{Checkpoint, TensorEntry};
use crate::compress::{ActivationGrid, PackedWeights};
use crate::export::expressible::{Asked, Expressible, judge, without_empty_blocks};
use crate::export::layers::{self, Made};
use crate::export::{ExportError, Kind, ModelLayout, Weights};
use crate::model::{Layer, LayerPath, LayerRole, LlamaConfig, StoredFormat};
use crate::recipe::{Activations, LayerSettings, WeightFormat};

/// What an export writes. Rows of query and key layers have the order of the configuration.
pub(super) struct OutModel<'a> {
    pub(super) source: &'a Checkpoint,
    weights: Weights<'a>,
    pub(super) config: LlamaConfig,
    pub(super) layers: Vec<OutLayer>,
    /// Norms and biases by their names in the export.
    vectors: BTreeMap<String, OutVector>,
}

/// A linear layer of it.
pub(super) struct OutLayer {
    /// Its path in the export.
    pub(super) path: LayerPath,
    pub(super) block: Option<u16>,
    pub(super) role: LayerRole,
    pub(super) shape: [usize; 2],
    pub(super) kind: Kind,
    pub(super) activations: ActivationGrid,
    /// The layer, by position, whose weights (of low rank: whose `down`) it shares.
    pub(super) shared_with: Option<usize>,
    /// Position in the graph of the source.
    origin: usize,
}

/// A norm or bias.
pub(super) struct OutVector {
    pub(super) values: Vec<f32>,
    /// As the checkpoint has it, or f32 where that does not hold the values.
    pub(super) format: StoredFormat,
    /// The role of the layer whose bias it is.
    pub(super) role: Option<LayerRole>,
}

impl<'a> OutModel<'a> {
    /// Reads everything but the weights of the linear layers.
    pub(super) fn new(source: &'a Checkpoint, weights: Weights<'a>) -> Result<Self, ExportError> {
        let (config, layers) = match weights {
            Weights::Settings(settings) => (source.config().clone(), of_settings(source, settings)?),
            Weights::Variant(variant) => (without_empty_blocks(variant.config()), of_variant(source, variant)?),
        };
        let mut model = Self { source, weights, config, layers, vectors: BTreeMap::new() };
        model.read_vectors()?;
        Ok(model)
    }

    fn read_vectors(&mut self) -> Result<(), ExportError> {
        let mut vectors = BTreeMap::new();
        for layer in &self.layers {
            let origin = &self.source.graph().layers[layer.origin];
            if let (Some(name), Some(from)) =
                (norm_before(layer.role, layer.block), norm_before(origin.role, origin.block))
            {
                vectors.insert(name, self.norm(&from)?);
            }
            if let Some(values) = self.bias(origin)? {
                let stored = self.source.entry(&format!("{}.bias", origin.path)).map(|entry| entry.format);
                let format = fitting(&values, stored);
                vectors.insert(format!("{}.bias", layer.path), OutVector { values, format, role: Some(layer.role) });
            }
        }
        let last = "model.norm.weight";
        vectors.insert(last.to_owned(), self.norm(last)?);
        self.vectors = vectors;
        Ok(())
    }

    /// A norm by its name in the source.
    fn norm(&self, name: &str) -> Result<OutVector, ExportError> {
        let made = match self.weights {
            Weights::Settings(_) => None,
            Weights::Variant(variant) => variant.vector(name)?,
        };
        let values = match made {
            Some(values) => Some(values),
            None => self.source.read_f32(name)?,
        };
        let values = values.ok_or_else(|| ExportError::Unsupported(format!("{name} is gone")))?;
        let format = fitting(&values, self.source.entry(name).map(|entry| entry.format));
        Ok(OutVector { values, format, role: None })
    }

    fn bias(&self, origin: &Layer) -> Result<Option<Vec<f32>>, ExportError> {
        match self.weights {
            Weights::Variant(variant) if variant.layer(&origin.path).is_some() => Ok(variant.bias(&origin.path)?),
            _ if origin.bias_len > 0 => Ok(self.source.read_f32(&format!("{}.bias", origin.path))?),
            _ => Ok(None),
        }
    }

    /// Whether blocks are fewer or of other widths than in the source.
    pub(super) fn has_other_widths(&self) -> bool {
        let widths =
            |config: &LlamaConfig| (0..config.n_blocks).map(|block| config.block_shape(block)).collect::<Vec<_>>();
        widths(&self.config) != widths(self.source.config())
    }

    /// Fails with every reason why `layout` cannot hold the model; gives what it says in another way, and what was noted
    /// when it was made.
    pub(super) fn judge(&self, layout: ModelLayout, dtype: Option<StoredFormat>) -> Result<Vec<String>, ExportError> {
        let layers: Vec<Asked<'_>> = self
            .layers
            .iter()
            .map(|layer| Asked {
                path: &layer.path,
                role: layer.role,
                kind: layer.kind,
                has_int8_inputs: layer.activations != ActivationGrid::Float,
                is_shared: layer.shared_with.is_some(),
            })
            .collect();
        let Expressible { refusals, mut notes } = judge(&self.config, &layers, layout, dtype);
        if !refusals.is_empty() {
            return Err(ExportError::Unsupported(refusals.join("; ")));
        }
        if let Weights::Variant(variant) = self.weights {
            notes.extend_from_slice(variant.notes());
        }
        Ok(notes)
    }

    /// The norm or bias with this name in the export.
    pub(super) fn vector(&self, name: &str) -> Option<&OutVector> {
        self.vectors.get(name)
    }

    /// The one tensor of the checkpoint that the layer at `index` is made of, and by what settings; `None` where there is
    /// another source.
    pub(super) fn origin(&self, index: usize) -> Option<(&'a TensorEntry, LayerSettings)> {
        let origin_index = self.layers[index].origin;
        let origin = &self.source.graph().layers[origin_index];
        let settings = match self.weights {
            Weights::Settings(settings) => settings[origin_index],
            Weights::Variant(variant) => variant.layer(&origin.path).is_none().then(LayerSettings::default)?,
        };
        match &origin.tensors()[..] {
            [(name, shape)] if origin.sparse.is_none() => {
                let entry = self.source.entry(name)?;
                (entry.shape == *shape && *shape == self.layers[index].shape).then_some((entry, settings))
            }
            _ => None,
        }
    }

    /// The weights of the layer at `index`.
    pub(super) fn make(&self, index: usize) -> Result<Made, ExportError> {
        let origin = &self.source.graph().layers[self.layers[index].origin];
        match self.weights {
            Weights::Settings(settings) => layers::make(self.source, origin, &settings[self.layers[index].origin]),
            Weights::Variant(variant) => match variant.weights(&origin.path)? {
                Some(weights) => Ok(Made::Packed(weights)),
                None => layers::make(self.source, origin, &LayerSettings::default()),
            },
        }
    }
}

/// The name of the norm that stands before a layer, if one does.
pub(super) fn norm_before(role: LayerRole, block: Option<u16>) -> Option<String> {
    let name = match role {
        LayerRole::QProj => "input_layernorm",
        LayerRole::GateProj => "post_attention_layernorm",
        _ => return None,
    };
    Some(format!("model.layers.{}.{name}.weight", block?))
}

fn of_settings(source: &Checkpoint, settings: &[LayerSettings]) -> Result<Vec<OutLayer>, ExportError> {
    let graph = source.graph();
    if settings.len() != graph.layers.len() {
        let reason = format!("{} settings for {} layers", settings.len(), graph.layers.len());
        return Err(ExportError::Unsupported(reason));
    }
    let mut out: Vec<OutLayer> = Vec::with_capacity(settings.len());
    for (origin, (layer, own)) in graph.layers.iter().zip(settings).enumerate() {
        if needs_worker(own) {
            let reason = format!("{}: {} is made by a worker first", layer.path, own.label());
            return Err(ExportError::Unsupported(reason));
        }
        // Sharing ends where one of the two is compressed.
        let owner = layer.shared_with.as_ref().filter(|_| own.is_reference());
        let owner = owner.and_then(|owner| graph.layers.iter().position(|layer| &layer.path == owner));
        out.push(OutLayer {
            path: layer.path.clone(),
            block: layer.block,
            role: layer.role,
            shape: layer.shape,
            kind: Kind::planned(own, layer),
            activations: match own.activations {
                Activations::Float => ActivationGrid::Float,
                Activations::Int8Dynamic(_) | Activations::Int8Static(_) => ActivationGrid::Int8PerToken,
            },
            shared_with: owner.filter(|owner| settings[*owner].is_reference()),
            origin,
        });
    }
    Ok(out)
}

fn of_variant(source: &Checkpoint, variant: &VariantFile) -> Result<Vec<OutLayer>, ExportError> {
    let config = variant.config();
    let left: Vec<usize> = (0..config.n_blocks).filter(|block| !config.block_shape(*block).is_empty()).collect();
    let graph = source.graph();
    let mut out: Vec<OutLayer> = Vec::with_capacity(graph.layers.len());
    let mut owners: Vec<Option<&LayerPath>> = Vec::with_capacity(graph.layers.len());
    for (origin, layer) in graph.layers.iter().enumerate() {
        let number = layer.block.map(|block| left.iter().position(|left| *left == usize::from(block)));
        let found = variant.layer(&layer.path);
        let (block, path) = match (number, found) {
            (Some(None), _) | (Some(_), None) => continue,
            (None, _) => (None, layer.path.clone()),
            (Some(Some(number)), _) => {
                let number = u16::try_from(number).unwrap_or(u16::MAX);
                (Some(number), LayerPath(format!("model.layers.{number}.{}", in_block(&layer.path))))
            }
        };
        // The embedding and the head may be the checkpoint's own.
        let Some(found) = found else {
            let kind = Kind::planned(&LayerSettings::default(), layer);
            let activations = ActivationGrid::Float;
            out.push(OutLayer {
                path,
                block,
                role: layer.role,
                shape: layer.shape,
                kind,
                activations,
                shared_with: None,
                origin,
            });
            owners.push(None);
            continue;
        };
        let weights = variant.weights(&layer.path)?.ok_or_else(|| gone(&layer.path))?;
        out.push(OutLayer {
            path,
            block,
            role: layer.role,
            shape: found.shape,
            kind: kind_of(&weights, layer, &found.settings),
            activations: found.activations,
            shared_with: None,
            origin,
        });
        owners.push(found.shared_with.as_ref());
    }
    for (index, owner) in owners.into_iter().enumerate() {
        let is_owner = |other: &OutLayer| owner.is_some_and(|owner| graph.layers[other.origin].path == *owner);
        out[index].shared_with = out.iter().position(is_owner).filter(|owner| *owner != index);
    }
    Ok(out)
}

fn gone(path: &LayerPath) -> ExportError {
    ExportError::Unsupported(format!("{path} is gone"))
}

/// The part of a layer's path behind its block: `mlp.down_proj`.
fn in_block(path: &LayerPath) -> &str {
    path.as_str().splitn(4, '.').nth(3).unwrap_or(path.as_str())
}

/// What made weights are; dense ones keep the checkpoint's format where it holds them.
fn kind_of(weights: &PackedWeights, layer: &Layer, settings: &LayerSettings) -> Kind {
    match weights {
        PackedWeights::F32(values) if settings.weights != WeightFormat::F32 => {
            Kind::Stored(fitting(values, Some(layer.stored)))
        }
        other => Kind::of(other),
    }
}

/// `stored` where that is a dense format that holds every value exactly, otherwise f32.
fn fitting(values: &[f32], stored: Option<StoredFormat>) -> StoredFormat {
    let holds = match stored {
        Some(StoredFormat::F16) => values.iter().all(|value| f16::from_f32(*value).to_f32() == *value),
        Some(StoredFormat::Bf16) => values.iter().all(|value| bf16::from_f32(*value).to_f32() == *value),
        Some(StoredFormat::F32 | StoredFormat::Ggml(_)) | None => false,
    };
    stored.filter(|_| holds).unwrap_or(StoredFormat::F32)
}

/// Whether only a worker can make the layer: by calibrated inputs, or with ranks or numbers of zeros that are found
/// on the way.
pub(super) fn needs_worker(settings: &LayerSettings) -> bool {
    let leaves_out = settings.sparsity.is_some_and(|sparsity| sparsity.is_bitmask());
    settings.needs_calibration() || settings.low_rank.is_some() || settings.correction.is_some() || leaves_out
}

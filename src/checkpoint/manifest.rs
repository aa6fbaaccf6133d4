//! What the family needs, checked against what the files have.

use std::collections::BTreeMap;
use std::path::Path;

use crate::checkpoint::{CheckpointError, RefusedTensor, TensorEntry};
use crate::model::{Fingerprint, Layer, LayerPath, LayerRole, LlamaConfig, ModelFamily, ModelGraph, StoredFormat};

/// The rotary factors of a GGUF file, under the name that they have there.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The names by which the program knows the tensors of a checkpoint.
pub(super) type Names = BTreeMap<String, usize>;

struct Needed {
    name: String,
    shape: Vec<usize>,
}

struct NeededLayer {
    path: String,
    block: Option<u16>,
    role: LayerRole,
    shape: [usize; 2],
}

/// Everything that is not yet a graph: configuration, tensors, and where they come from.
pub(super) struct Found<'a> {
    pub(super) name: String,
    pub(super) config: LlamaConfig,
    pub(super) entries: &'a [TensorEntry],
    pub(super) names: &'a Names,
    /// Canonical names, too, where the family knows the tensor.
    pub(super) refused: &'a [RefusedTensor],
    pub(super) path: &'a Path,
}

impl Found<'_> {
    /// Builds the graph; its fingerprint is left empty.
    ///
    /// Every tensor that the family needs is there, has the shape that the configuration asks for and a supported format.
    pub(super) fn into_graph(self) -> Result<ModelGraph, CheckpointError> {
        let layers = needed_layers(&self.config);
        let vectors = self.needed_vectors(&layers);
        self.check_present(&layers, &vectors)?;
        let mut graph_layers = Vec::with_capacity(layers.len());
        for layer in layers {
            let entry = self.entry(&format!("{}.weight", layer.path)).expect("checked to be present");
            self.check_shape(entry, &layer.shape)?;
            let bias = self.entry(&format!("{}.bias", layer.path)).filter(|_| self.has_bias(layer.role));
            graph_layers.push(Layer {
                path: LayerPath(layer.path),
                block: layer.block,
                role: layer.role,
                shape: layer.shape,
                stored: entry.format,
                bias_len: bias.map_or(0, |_| layer.shape[0]),
            });
        }
        let (mut other_bytes, mut other_weights) = (0, 0);
        for vector in &vectors {
            let entry = self.entry(&vector.name).expect("checked to be present");
            self.check_shape(entry, &vector.shape)?;
            if matches!(entry.format, StoredFormat::Ggml(_)) {
                let reason = format!("a norm or bias in {} is not supported", entry.format.name());
                let tensors = vec![RefusedTensor { name: entry.name.clone(), reason, canonical: vector.name.clone() }];
                return Err(CheckpointError::NeededRefused { tensors, path: self.path.to_owned() });
            }
            other_bytes += entry.len;
            other_weights += vector.shape.iter().product::<usize>() as u64;
        }
        Ok(ModelGraph {
            name: self.name,
            fingerprint: Fingerprint(String::new()),
            family: ModelFamily::Llama(self.config),
            layers: graph_layers,
            other_bytes,
            other_weights,
        })
    }

    fn entry(&self, canonical: &str) -> Option<&TensorEntry> {
        self.names.get(canonical).map(|&index| &self.entries[index])
    }

    fn has_bias(&self, role: LayerRole) -> bool {
        match role {
            LayerRole::QProj | LayerRole::KProj | LayerRole::VProj | LayerRole::OProj => self.config.attention_bias,
            LayerRole::GateProj | LayerRole::UpProj | LayerRole::DownProj => self.config.mlp_bias,
            LayerRole::Embedding | LayerRole::Head => false,
        }
    }

    /// Norms, biases and rotary factors.
    fn needed_vectors(&self, layers: &[NeededLayer]) -> Vec<Needed> {
        let hidden = self.config.hidden_size;
        let mut vectors = Vec::new();
        for block in 0..self.config.n_blocks {
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                vectors.push(Needed { name: format!("model.layers.{block}.{norm}.weight"), shape: vec![hidden] });
            }
        }
        vectors.push(Needed { name: "model.norm.weight".to_owned(), shape: vec![hidden] });
        for layer in layers.iter().filter(|layer| self.has_bias(layer.role)) {
            let name = format!("{}.bias", layer.path);
            // Some families have a bias on q, k and v only.
            if layer.role != LayerRole::OProj || self.names.contains_key(&name) {
                vectors.push(Needed { name, shape: vec![layer.shape[0]] });
            }
        }
        if self.names.contains_key(ROPE_FACTORS) {
            vectors.push(Needed { name: ROPE_FACTORS.to_owned(), shape: vec![self.config.head_dim / 2] });
        }
        vectors
    }

    fn check_present(&self, layers: &[NeededLayer], vectors: &[Needed]) -> Result<(), CheckpointError> {
        let weights = layers.iter().map(|layer| format!("{}.weight", layer.path));
        let absent = weights.chain(vectors.iter().map(|vector| vector.name.clone()));
        let absent: Vec<String> = absent.filter(|name| !self.names.contains_key(name)).collect();
        let mut refused: Vec<RefusedTensor> = Vec::new();
        let mut missing = Vec::new();
        for name in absent {
            match self.refused.iter().find(|tensor| tensor.canonical == name) {
                Some(tensor) => refused.push(tensor.clone()),
                None => missing.push(name),
            }
        }
        let factors = self.refused.iter().find(|tensor| tensor.canonical == ROPE_FACTORS);
        refused.extend(factors.cloned());
        if !refused.is_empty() {
            return Err(CheckpointError::NeededRefused { tensors: refused, path: self.path.to_owned() });
        }
        if !missing.is_empty() {
            return Err(CheckpointError::Missing { names: missing, path: self.path.to_owned() });
        }
        Ok(())
    }

    fn check_shape(&self, entry: &TensorEntry, expected: &[usize]) -> Result<(), CheckpointError> {
        if entry.shape == expected {
            return Ok(());
        }
        Err(CheckpointError::Shape {
            tensor: entry.name.clone(),
            expected: expected.to_vec(),
            found: entry.shape.clone(),
            path: self.path.to_owned(),
        })
    }
}

/// The linear layers in the order of execution.
fn needed_layers(config: &LlamaConfig) -> Vec<NeededLayer> {
    let hidden = config.hidden_size;
    let heads = config.n_heads * config.head_dim;
    let kv_heads = config.n_kv_heads * config.head_dim;
    let mlp = config.intermediate_size;
    let outside =
        |path: &str, role| NeededLayer { path: path.to_owned(), block: None, role, shape: [config.vocab_size, hidden] };
    let mut layers = vec![outside("model.embed_tokens", LayerRole::Embedding)];
    for block in 0..config.n_blocks {
        for (name, role, shape) in [
            ("self_attn.q_proj", LayerRole::QProj, [heads, hidden]),
            ("self_attn.k_proj", LayerRole::KProj, [kv_heads, hidden]),
            ("self_attn.v_proj", LayerRole::VProj, [kv_heads, hidden]),
            ("self_attn.o_proj", LayerRole::OProj, [hidden, heads]),
            ("mlp.gate_proj", LayerRole::GateProj, [mlp, hidden]),
            ("mlp.up_proj", LayerRole::UpProj, [mlp, hidden]),
            ("mlp.down_proj", LayerRole::DownProj, [hidden, mlp]),
        ] {
            let block_number = u16::try_from(block).expect("the number of blocks was checked");
            layers.push(NeededLayer {
                path: format!("model.layers.{block}.{name}"),
                block: Some(block_number),
                role,
                shape,
            });
        }
    }
    if !config.tied_head {
        layers.push(outside("lm_head", LayerRole::Head));
    }
    layers
}

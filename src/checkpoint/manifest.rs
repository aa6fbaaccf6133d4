//! What the family needs, checked against what the files have.

use std::collections::BTreeMap;
use std::path::Path;

use crate::checkpoint::own::{KEY, OwnLayout};
use crate::checkpoint::sparse::Parts;
use crate::checkpoint::{CheckpointError, RefusedTensor, TensorEntry};
use crate::model::{
    Fingerprint, Layer, LayerPath, LayerRole, LlamaConfig, ModelFamily, ModelGraph, StoredFormat, StoredSparse,
};

/// The rotary factors of a GGUF file, under the name that they have there.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The names by which the program knows the tensors of a checkpoint.
pub(super) type Names = BTreeMap<String, usize>;

/// A tensor that is not a matrix: a norm, a bias, or the rotary factors.
pub(super) struct Vector {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
}

/// Everything that is not yet a graph: configuration, tensors, and where they come from.
pub(super) struct Found<'a> {
    pub(super) name: String,
    pub(super) config: LlamaConfig,
    /// What is said under our own key.
    pub(super) own: &'a OwnLayout,
    pub(super) entries: &'a [TensorEntry],
    /// The names of shared tensors are added.
    pub(super) names: &'a mut Names,
    /// Of the layers whose zeros are left out.
    pub(super) parts: &'a Parts,
    /// Canonical names, too, where the family knows the tensor.
    pub(super) refused: &'a [RefusedTensor],
    pub(super) path: &'a Path,
}

impl Found<'_> {
    /// Builds the graph; its fingerprint is left empty.
    ///
    /// Every tensor that the family needs is there, has the shape that the configuration asks for and a supported format.
    pub(super) fn into_graph(mut self) -> Result<ModelGraph, CheckpointError> {
        let mut layers = needed_layers(&self.config);
        self.apply_own(&mut layers)?;
        let vectors = needed_vectors(&self.config, &layers, |name| self.names.contains_key(name));
        self.check_present(&layers, &vectors)?;
        for layer in &mut layers {
            let mut formats = Vec::new();
            for (name, shape) in layer.tensors() {
                let found = self.found(&name).expect("checked to be present");
                self.check_shape(&name, found, &shape)?;
                formats.extend(self.entry(&name).map(|entry| entry.format));
            }
            if let Some(sparse) = layer.sparse
                && formats != [StoredFormat::F16]
            {
                let found: Vec<&str> = formats.iter().map(|format| format.name()).collect();
                let (path, name, found) = (&layer.path, sparse.values.name(), found.join(", "));
                return Err(self.refuse(format!("sparse: {path} is {name} with one tensor of f16, not {found}")));
            }
            if let ([up, down], Some(_)) = (&formats[..], layer.rank)
                && (up != down || matches!(up, StoredFormat::Ggml(_)))
            {
                return Err(self.refuse(format!("factors of {} in {} and {}", layer.path, up.name(), down.name())));
            }
            layer.stored = layer.sparse.map_or(formats[0], |sparse| sparse.values.dense());
            let bias = self.entry(&format!("{}.bias", layer.path)).filter(|_| has_bias(&self.config, layer.role));
            layer.bias_len = bias.map_or(0, |_| layer.shape[0]);
        }
        let (mut other_bytes, mut other_weights) = (0, 0);
        for vector in &vectors {
            let entry = self.entry(&vector.name).expect("checked to be present");
            self.check_shape(&entry.name, &entry.shape, &vector.shape)?;
            if matches!(entry.format, StoredFormat::Ggml(_)) {
                let reason = format!("a norm or bias in {} is not supported", entry.format.name());
                let tensors = vec![RefusedTensor {
                    name: entry.name.clone(),
                    reason,
                    canonical: vector.name.clone(),
                    part: None,
                }];
                return Err(CheckpointError::NeededRefused { tensors, path: self.path.to_owned() });
            }
            other_bytes += entry.len;
            other_weights += vector.shape.iter().product::<usize>() as u64;
        }
        Ok(ModelGraph {
            name: self.name,
            fingerprint: Fingerprint(String::new()),
            family: ModelFamily::Llama(self.config),
            layers,
            other_bytes,
            other_weights,
        })
    }

    fn refuse(&self, reason: String) -> CheckpointError {
        CheckpointError::Config { field: KEY.to_owned(), reason, path: self.path.to_owned() }
    }

    /// Gives layers their ranks and what they share, and shared tensors their other names.
    fn apply_own(&mut self, layers: &mut [Layer]) -> Result<(), CheckpointError> {
        let position = |path: &LayerPath, layers: &[Layer]| layers.iter().position(|layer| &layer.path == path);
        for (path, &rank) in &self.own.low_rank {
            let Some(at) = position(path, layers).filter(|at| layers[*at].block.is_some()) else {
                return Err(self.refuse(format!("low_rank: {path} is no layer of a block")));
            };
            let most = layers[at].shape[0].min(layers[at].shape[1]);
            if rank == 0 || rank > most {
                return Err(self.refuse(format!("low_rank: {path} has rank {rank}, which is not from 1 to {most}")));
            }
            layers[at].rank = Some(rank);
        }
        for (path, &values) in &self.own.sparse {
            let Some(at) = position(path, layers).filter(|at| layers[*at].rank.is_none()) else {
                return Err(self.refuse(format!("sparse: {path} is no layer of the model, or has factors")));
            };
            let [rows, row_len] = layers[at].shape;
            let n_values = self.found(&format!("{path}.weight.values")).and_then(|shape| shape.first()).copied();
            let n_values = n_values.unwrap_or_default();
            let most = u32::try_from(rows.saturating_mul(row_len)).unwrap_or_default();
            if n_values as u64 > u64::from(most) {
                return Err(self.refuse(format!("sparse: {path} has {n_values} values for {rows} × {row_len} weights")));
            }
            layers[at].sparse = Some(StoredSparse { values, n_values: n_values as u64 });
        }
        for (path, owner) in &self.own.shared {
            let (Some(at), Some(from)) = (position(path, layers), position(owner, layers)) else {
                return Err(self.refuse(format!("shared: {path} or {owner} is no layer of the model")));
            };
            if at == from || self.own.shared.contains_key(owner) {
                return Err(self.refuse(format!("shared: {owner} of {path} has no tensor of its own")));
            }
            let alike = |layer: &Layer| (layer.role, layer.shape, layer.rank, layer.block.is_some());
            if alike(&layers[at]) != alike(&layers[from]) || layers[at].block.is_none() {
                return Err(self.refuse(format!("shared: {path} and {owner} are layers of different kinds or shapes")));
            }
            if layers[from].sparse.is_some() || layers[at].sparse.is_some() {
                let name = format!("{path}.weight");
                if layers[at].sparse.is_some() || self.names.contains_key(&name) {
                    return Err(self.refuse(format!("shared: {name} is in the files, too")));
                }
                (layers[at].sparse, layers[at].shared_with) = (layers[from].sparse, Some(owner.clone()));
                continue;
            }
            let last = |layer: &Layer| layer.tensors().pop().map(|(name, _)| name).expect("a layer has weights");
            let (alias, name) = (last(&layers[at]), last(&layers[from]));
            let Some(&index) = self.names.get(&name) else {
                return Err(CheckpointError::Missing { names: vec![name], path: self.path.to_owned() });
            };
            if self.names.insert(alias.clone(), index).is_some() {
                return Err(self.refuse(format!("shared: {alias} is in the files, too")));
            }
            layers[at].shared_with = Some(owner.clone());
        }
        Ok(())
    }

    fn entry(&self, canonical: &str) -> Option<&TensorEntry> {
        self.names.get(canonical).map(|&index| &self.entries[index])
    }

    /// The shape of a tensor that can be read.
    fn found(&self, canonical: &str) -> Option<&[usize]> {
        let part = || self.parts.get(canonical).map(|part| &part.shape[..]);
        self.entry(canonical).map(|entry| &entry.shape[..]).or_else(part)
    }

    fn check_present(&self, layers: &[Layer], vectors: &[Vector]) -> Result<(), CheckpointError> {
        let weights = layers.iter().flat_map(|layer| layer.tensors().into_iter().map(|(name, _)| name));
        let absent = weights.chain(vectors.iter().map(|vector| vector.name.clone()));
        let absent: Vec<String> = absent.filter(|name| self.found(name).is_none()).collect();
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

    fn check_shape(&self, tensor: &str, found: &[usize], expected: &[usize]) -> Result<(), CheckpointError> {
        if found == expected {
            return Ok(());
        }
        Err(CheckpointError::Shape {
            tensor: tensor.to_owned(),
            expected: expected.to_vec(),
            found: found.to_vec(),
            path: self.path.to_owned(),
        })
    }
}

fn has_bias(config: &LlamaConfig, role: LayerRole) -> bool {
    match role {
        LayerRole::QProj | LayerRole::KProj | LayerRole::VProj | LayerRole::OProj => config.attention_bias,
        LayerRole::GateProj | LayerRole::UpProj | LayerRole::DownProj => config.mlp_bias,
        LayerRole::Embedding | LayerRole::Head => false,
    }
}

/// Norms, biases and rotary factors of a model; `is_there` says whether the files have an optional one.
pub(super) fn needed_vectors(config: &LlamaConfig, layers: &[Layer], is_there: impl Fn(&str) -> bool) -> Vec<Vector> {
    let hidden = config.hidden_size;
    let mut vectors = Vec::new();
    for block in 0..config.n_blocks {
        let shape = config.block_shape(block);
        let norms = [("input_layernorm", shape.n_heads), ("post_attention_layernorm", shape.intermediate_size)];
        for (norm, _) in norms.iter().filter(|(_, width)| *width > 0) {
            vectors.push(Vector { name: format!("model.layers.{block}.{norm}.weight"), shape: vec![hidden] });
        }
    }
    vectors.push(Vector { name: "model.norm.weight".to_owned(), shape: vec![hidden] });
    for layer in layers.iter().filter(|layer| has_bias(config, layer.role)) {
        let name = format!("{}.bias", layer.path);
        // Some families have a bias on q, k and v only.
        if layer.role != LayerRole::OProj || is_there(&name) {
            vectors.push(Vector { name, shape: vec![layer.shape[0]] });
        }
    }
    if is_there(ROPE_FACTORS) {
        vectors.push(Vector { name: ROPE_FACTORS.to_owned(), shape: vec![config.head_dim / 2] });
    }
    vectors
}

/// The linear layers in the order of execution, with formats and biases still open.
pub(super) fn needed_layers(config: &LlamaConfig) -> Vec<Layer> {
    const ROLES: [(&str, LayerRole); 7] = [
        ("self_attn.q_proj", LayerRole::QProj),
        ("self_attn.k_proj", LayerRole::KProj),
        ("self_attn.v_proj", LayerRole::VProj),
        ("self_attn.o_proj", LayerRole::OProj),
        ("mlp.gate_proj", LayerRole::GateProj),
        ("mlp.up_proj", LayerRole::UpProj),
        ("mlp.down_proj", LayerRole::DownProj),
    ];
    let layer = |path: String, block: Option<u16>, role, shape| Layer {
        path: LayerPath(path),
        block,
        role,
        shape,
        stored: StoredFormat::F32,
        bias_len: 0,
        rank: None,
        sparse: None,
        shared_with: None,
    };
    let outside = |path: &str, role| layer(path.to_owned(), None, role, [config.vocab_size, config.hidden_size]);
    let mut layers = vec![outside("model.embed_tokens", LayerRole::Embedding)];
    for block in 0..config.n_blocks {
        let block_number = u16::try_from(block).expect("the number of blocks was checked");
        for (name, role) in ROLES {
            // Where attention or MLP was removed there is no layer.
            if let Some(shape) = config.block_shape(block).layer_shape(config, role) {
                layers.push(layer(format!("model.layers.{block}.{name}"), Some(block_number), role, shape));
            }
        }
    }
    if !config.tied_head {
        layers.push(outside("lm_head", LayerRole::Head));
    }
    layers
}

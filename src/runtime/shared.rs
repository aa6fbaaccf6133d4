//! The dense model that a variant is made from: cut, with the tensors that layers share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::compress::{
    ActivationGrid, Compressed, Host, Job, LowRankMatrix, Moments, PackedWeights, compress, shared_basis_with, tie,
};
use crate::model::Layer;
use crate::nn::{Linear, LinearParts, Llama, LlamaParts, NnError, SharedFactors};
use crate::recipe::{LayerSettings, Policy, Sharing, SharingMethod, basis_rank};
use crate::runtime::build::{Made, is_slow};
use crate::runtime::calibrate::Input;
use crate::runtime::keys::{self, CURRENT, Hash};
use crate::runtime::layer_cache::Kept;
use crate::runtime::work::Work;
use crate::runtime::{MadeLayer, RuntimeError, database, layers};

/// The dense model with everything that happens before layers are compressed one by one.
pub(super) struct Base {
    pub(super) model: Arc<Llama>,
    pub(super) hash: Hash,
    /// Layers with one tensor: each and the first of its group, by position in the graph.
    pub(super) ties: BTreeMap<usize, usize>,
    /// Layers that a common basis finished, by position in the graph.
    pub(super) shared: BTreeMap<usize, Made>,
}

impl Base {
    /// Makes the groups of the plan share their tensors in the cut model `dense`, which has this hash.
    pub(super) fn new(work: Work<'_>, dense: &Arc<Llama>, hash: Hash) -> Result<Self, RuntimeError> {
        let mut base = Self { model: dense.clone(), hash, ties: BTreeMap::new(), shared: BTreeMap::new() };
        if work.plan.sharing.is_empty() {
            return Ok(base);
        }
        let mut parts = dense.parts().clone();
        let mut groups = Vec::new();
        for sharing in &work.plan.sharing {
            let members = members(work, sharing);
            match sharing.method {
                SharingMethod::Tie => base.tie(&members, &mut parts)?,
                SharingMethod::Basis => groups.push(Group { sharing, members, moments: Vec::new() }),
            }
        }
        if !groups.is_empty() {
            base.find_bases(work, dense, groups, &mut parts)?;
        }
        let text = work.text_hash();
        base.hash = keys::hash("shared", &(CURRENT.sharing, hash, &work.plan.sharing, text));
        base.model = Arc::new(Llama::new(parts, work.device.clone())?);
        Ok(base)
    }

    /// One tensor, the mean, for all members.
    fn tie(&mut self, members: &[(usize, &Layer)], parts: &mut LlamaParts) -> Result<(), RuntimeError> {
        let Some(&(first, first_layer)) = members.first() else { return Ok(()) };
        let mut weights = Vec::with_capacity(members.len());
        for (_, layer) in members {
            weights.push(own(parts, layer)?.dequantize()?);
        }
        let weights: Vec<&[f32]> = weights.iter().map(Vec::as_slice).collect();
        let original = own(parts, first_layer)?;
        let mean = layers::dense(&first_layer.path, tie(&weights), original.shape(), original.bias().cloned())?;
        for (index, layer) in members {
            let bias = own(parts, layer)?.bias().cloned();
            let linear = if *index == first { mean.clone() } else { Arc::new(mean.tied(layer.path.clone(), bias)) };
            layers::replace(parts, layer, linear);
            self.ties.insert(*index, first);
        }
        Ok(())
    }

    /// One basis of the inputs for the members of each group, over the inputs of the dense model.
    fn find_bases(
        &mut self,
        work: Work<'_>,
        dense: &Arc<Llama>,
        mut groups: Vec<Group<'_>>,
        parts: &mut LlamaParts,
    ) -> Result<(), RuntimeError> {
        let text = work.text_hash().ok_or(RuntimeError::NoText)?;
        let mut open = Vec::new();
        for group in groups.drain(..) {
            let shapes = group.shapes(parts)?;
            let key = group.key(work, self.hash, text);
            match work.stored(key).and_then(|bytes| database::group(&bytes, &shapes)) {
                Some((layers, secs)) => self.finish(work, &group, layers, (secs, true), parts)?,
                None => open.push((key, group)),
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        let mut inputs = work.inputs(self.hash, Policy::Dense)?;
        for block in 0..dense.config().n_blocks {
            let reads = |group: &Group<'_>| {
                let member = group.members.iter().find(|(_, layer)| layer.block.map(usize::from) == Some(block));
                member.and_then(|(_, layer)| Input::of(layer.role))
            };
            let mut wanted: Vec<Input> = open.iter().filter_map(|(_, group)| reads(group)).collect();
            wanted.sort_unstable();
            wanted.dedup();
            if wanted.is_empty() {
                continue;
            }
            let moments = inputs.of_block(block, &wanted, dense, dense, Hash::default())?;
            for (_, group) in &mut open {
                let read = reads(group).and_then(|input| moments.get(&input));
                group.moments.extend(read.cloned());
            }
            while let Some(at) = open.iter().position(|(_, group)| group.moments.len() == group.members.len()) {
                let (key, mut group) = open.swap_remove(at);
                let start = Instant::now();
                let layers = group.basis(work, dense.parts())?;
                let secs = start.elapsed().as_secs_f64();
                group.moments = Vec::new();
                let [head, body] = database::group_bytes(&layers.iter().collect::<Vec<_>>(), secs);
                work.store(key, &[&head, &body]);
                self.finish(work, &group, layers, (secs, false), parts)?;
            }
        }
        Ok(())
    }

    /// Puts the members of a group into the model.
    fn finish(
        &mut self,
        work: Work<'_>,
        group: &Group<'_>,
        compressed: Vec<Compressed>,
        (secs, was_kept): (f64, bool),
        parts: &mut LlamaParts,
    ) -> Result<(), RuntimeError> {
        let mut factors = SharedFactors::default();
        for (position, ((index, layer), compressed)) in group.members.iter().zip(compressed).enumerate() {
            let own = own(parts, layer)?;
            let (shape, bias) = (own.shape(), own.bias().cloned());
            let packed_bytes = match &compressed.weights {
                PackedWeights::LowRank(factors) if position > 0 => factors.up.packed_bytes(),
                weights => weights.packed_bytes(),
            };
            let told = MadeLayer {
                output_error: compressed.output_error,
                secs: secs / group.members.len() as f64,
                was_kept,
                packed_bytes,
                is_slow: is_slow(&compressed.weights),
                is_thin: work.text.is_some_and(|text| text.n_tokens() < shape[1] as u64),
                notes: compressed.notes.clone(),
                ..MadeLayer::new(layer.path.clone())
            };
            let linear = LinearParts {
                path: layer.path.clone(),
                packed: compressed.weights.clone(),
                shape,
                execution: work.plan.layers[*index].execution,
                bias,
                activations: compressed.activations,
            };
            let linear = Arc::new(Linear::sharing(linear, &mut factors)?);
            work.watch.made(&told);
            layers::replace(parts, layer, linear.clone());
            self.shared.insert(*index, Made { kept: Kept { linear, told }, packed: Some(compressed) });
        }
        Ok(())
    }
}

/// Layers that get a common basis.
struct Group<'a> {
    sharing: &'a Sharing,
    members: Vec<(usize, &'a Layer)>,
    /// Of the inputs of each member, as far as they were read.
    moments: Vec<Moments>,
}

impl Group<'_> {
    fn shapes(&self, parts: &LlamaParts) -> Result<Vec<[usize; 2]>, NnError> {
        self.members.iter().map(|(_, layer)| Ok(own(parts, layer)?.shape())).collect()
    }

    fn key(&self, work: Work<'_>, base: Hash, text: Hash) -> Hash {
        let members: Vec<_> =
            self.members.iter().map(|(index, layer)| (&layer.path, work.plan.layers[*index].settings)).collect();
        let versions = (CURRENT.sharing, CURRENT.moments, CURRENT.packing);
        keys::hash(&keys::made_by("basis", work.place), &(versions, base, self.sharing, members, text))
    }

    /// The factors of every member, packed in its format.
    fn basis(&self, work: Work<'_>, parts: &LlamaParts) -> Result<Vec<Compressed>, RuntimeError> {
        let Some((index, first)) = self.members.first() else { return Ok(Vec::new()) };
        let failed = keys::of_layer(&first.path);
        let mut weights = Vec::with_capacity(self.members.len());
        for (_, layer) in &self.members {
            weights.push(own(parts, layer)?.dequantize()?);
        }
        let shape @ [rows, row_len] = own(parts, first)?.shape();
        let rank = basis_rank(shape, self.members.len(), self.sharing.ratio.unwrap_or(1.0));
        let dense: Vec<&[f32]> = weights.iter().map(Vec::as_slice).collect();
        let moments: Vec<&Moments> = self.moments.iter().collect();
        let solver = work.place.solver().unwrap_or(&Host);
        let basis = shared_basis_with(&dense, shape, rank, &moments, solver).map_err(&failed)?;
        let settings = LayerSettings::of(work.plan.layers[*index].settings.weights);
        let pack = |dense: &[f32], shape: [usize; 2]| {
            let job = Job { dense, shape, settings: &settings, native: first.stored, moments: None };
            compress(&job).map(|compressed| compressed.weights).map_err(&failed)
        };
        let rank = basis.rank;
        let down = Arc::new(pack(&basis.down, [rank, row_len])?);
        let mut layers = Vec::with_capacity(self.members.len());
        for ((up, dense), moments) in basis.ups.iter().zip(&dense).zip(&moments) {
            let up = Box::new(pack(up, [rows, rank])?);
            let weights =
                PackedWeights::LowRank(LowRankMatrix { up, down: down.clone(), shape: [rows, rank, row_len] });
            let output_error = solver.output_error(dense, &weights.dequantize(), moments).map_err(&failed)?;
            layers.push(Compressed { weights, activations: ActivationGrid::Float, output_error, notes: Vec::new() });
        }
        if let Some(first) = layers.first_mut() {
            first.notes = basis.notes;
        }
        Ok(layers)
    }
}

/// The layers of a group that the plan keeps, with their positions in the graph.
fn members<'a>(work: Work<'a>, sharing: &Sharing) -> Vec<(usize, &'a Layer)> {
    let [first, last] = sharing.blocks;
    let is_member =
        |layer: &Layer| layer.role == sharing.role && layer.block.is_some_and(|block| (first..=last).contains(&block));
    let layers = work.checkpoint.graph().layers.iter().enumerate();
    layers.filter(|(index, layer)| is_member(layer) && work.plan.layers[*index].shape.is_some()).collect()
}

fn own<'a>(parts: &'a LlamaParts, layer: &Layer) -> Result<&'a Arc<Linear>, NnError> {
    layers::find(parts, layer).ok_or_else(|| NnError::Missing(layer.path.0.clone()))
}

//! Settings that are spread over blocks: fractions by OWL, ranks under one budget of error.

use std::collections::BTreeSet;

use crate::compress::owl::{OwlBlock, owl_fractions};
use crate::compress::{Host, Moments, Spectrum, allocate_ranks, fixed_rank, singular_values_with, wanda_scores};
use crate::model::Layer;
use crate::nn::NnError;
use crate::recipe::{Allocation, LayerSettings, LowRank, LowRankMethod, Policy, RankRule, Sparsity};
use crate::runtime::calibrate::{BlockMoments, Input};
use crate::runtime::keys::{self, CURRENT, Hash};
use crate::runtime::shared::Base;
use crate::runtime::work::Work;
use crate::runtime::{RuntimeError, layers, lists};

/// The settings of every layer by position in the graph, with the fraction or rank that is its own.
pub(super) fn settings(work: Work<'_>, base: &Base) -> Result<Vec<LayerSettings>, RuntimeError> {
    let mut settings: Vec<LayerSettings> = work.plan.layers.iter().map(|layer| layer.settings).collect();
    let is_own = |index: usize| {
        let plan = &work.plan.layers[index];
        let is_tied = base.ties.get(&index).is_some_and(|first| *first != index);
        plan.shape.is_some() && !is_tied && !base.shared.contains_key(&index)
    };
    let in_blocks = work.checkpoint.graph().layers.iter().enumerate();
    let in_blocks = in_blocks.filter(|(index, layer)| layer.block.is_some() && is_own(*index));
    let layers: Vec<Member<'_>> = in_blocks.map(|(index, layer)| Member { index, layer }).collect();
    for group in groups(&layers, |member| owl(&settings[member.index])) {
        let values = spread(work, base, &group, &settings, owl_group)?;
        for (member, fraction) in group.iter().zip(values) {
            if let Some(sparsity) = &mut settings[member.index].sparsity {
                sparsity.fraction = fraction;
            }
        }
    }
    for group in groups(&layers, |member| budget(&settings[member.index])) {
        let values = spread(work, base, &group, &settings, budget_group)?;
        for (member, rank) in group.iter().zip(values) {
            let shape = work.plan.layers[member.index].shape;
            if let (Some(low_rank), Some(shape)) = (&mut settings[member.index].low_rank, shape) {
                *low_rank = fixed_rank(low_rank.method, shape, rank as usize);
            }
        }
    }
    Ok(settings)
}

/// A layer of a block.
#[derive(Debug, Clone, Copy)]
struct Member<'a> {
    /// Its position in the graph.
    index: usize,
    layer: &'a Layer,
}

fn owl(settings: &LayerSettings) -> Option<Sparsity> {
    settings.sparsity.filter(|sparsity| sparsity.allocation == Allocation::Owl && sparsity.pattern.is_none())
}

fn budget(settings: &LayerSettings) -> Option<LowRank> {
    settings.low_rank.filter(|low_rank| matches!(low_rank.rank, RankRule::ErrorBudget(_)))
}

/// Layers with the same value, in their order; those without one are left out.
fn groups<'a, T: PartialEq>(layers: &[Member<'a>], value: impl Fn(&Member<'a>) -> Option<T>) -> Vec<Vec<Member<'a>>> {
    let mut groups: Vec<(T, Vec<Member<'a>>)> = Vec::new();
    for member in layers {
        let Some(value) = value(member) else { continue };
        match groups.iter_mut().find(|(known, _)| *known == value) {
            Some((_, group)) => group.push(*member),
            None => groups.push((value, vec![*member])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Finds one number for each layer of a group with these settings.
type Find = fn(Blocks<'_>, &[Member<'_>], &LayerSettings) -> Result<Vec<f64>, RuntimeError>;

/// Finds one number for each layer of a group, from what is stored or from `find`.
fn spread(
    work: Work<'_>,
    base: &Base,
    group: &[Member<'_>],
    settings: &[LayerSettings],
    find: Find,
) -> Result<Vec<f64>, RuntimeError> {
    let members: Vec<_> = group.iter().map(|member| (&member.layer.path, settings[member.index])).collect();
    let versions = (CURRENT.allocation, CURRENT.moments, CURRENT.pruning, CURRENT.low_rank);
    let text = work.text_hash();
    let key = keys::hash(&keys::made_by("allocated", work.place), &(versions, base.hash, text, members));
    let stored = work.stored(key).and_then(|bytes| lists::from_bytes::<1>(&bytes));
    if let Some([Some(bits)]) = stored {
        let pairs = bits.as_chunks::<2>().0.iter();
        let values: Vec<f64> =
            pairs.map(|[low, high]| f64::from_bits(u64::from(*high) << 32 | u64::from(*low))).collect();
        if values.len() == group.len() && values.iter().all(|value| value.is_finite() && *value >= 0.0) {
            return Ok(values);
        }
    }
    let values = find(Blocks { work, base }, group, &settings[group[0].index])?;
    let bits = values.iter().map(|value| value.to_bits()).flat_map(|bits| [bits as u32, (bits >> 32) as u32]);
    work.store(key, &[&lists::to_bytes(&[Some(bits.collect())])]);
    Ok(values)
}

/// The dense model, block by block.
#[derive(Clone, Copy)]
struct Blocks<'a> {
    work: Work<'a>,
    base: &'a Base,
}

impl Blocks<'_> {
    /// Calls `visit` with the members of each block in order and, where `calibrated`, the sums over their inputs.
    fn each(
        self,
        group: &[Member<'_>],
        calibrated: bool,
        mut visit: impl FnMut(&[Member<'_>], &BlockMoments) -> Result<(), RuntimeError>,
    ) -> Result<(), RuntimeError> {
        let mut inputs = if calibrated { Some(self.work.inputs(self.base.hash, Policy::Dense)?) } else { None };
        let model = &self.base.model;
        for members in group.chunk_by(|a, b| a.layer.block == b.layer.block) {
            let wanted: BTreeSet<Input> = members.iter().filter_map(|member| Input::of(member.layer.role)).collect();
            let wanted: Vec<Input> = wanted.into_iter().collect();
            let block = members[0].layer.block.map_or(0, usize::from);
            let moments = match &mut inputs {
                Some(inputs) => inputs.of_block(block, &wanted, model, model, Hash::default())?,
                None => BlockMoments::new(),
            };
            visit(members, &moments)?;
        }
        Ok(())
    }

    fn weights(self, member: &Member<'_>) -> Result<(Vec<f32>, [usize; 2]), RuntimeError> {
        let found = layers::find(self.base.model.parts(), member.layer);
        let found = found.ok_or_else(|| NnError::Missing(member.layer.path.0.clone()))?;
        Ok((found.dequantize()?, found.shape()))
    }
}

fn read<'a>(moments: &'a BlockMoments, member: &Member<'_>) -> Option<&'a Moments> {
    moments.get(&Input::of(member.layer.role)?)
}

/// Yin et al., 2023 (OWL), arXiv:2310.05175.
fn owl_group(blocks: Blocks<'_>, group: &[Member<'_>], settings: &LayerSettings) -> Result<Vec<f64>, RuntimeError> {
    let fraction = owl(settings).map_or(0.0, |sparsity| sparsity.fraction);
    let (mut found, mut counts) = (Vec::new(), Vec::new());
    blocks.each(group, true, |members, moments| {
        let mut weights = Vec::with_capacity(members.len());
        for member in members {
            weights.push((blocks.weights(member)?, member));
        }
        let mut scores = Vec::with_capacity(members.len());
        for ((dense, [_, row_len]), member) in &weights {
            let failed = keys::of_layer(&member.layer.path);
            let moments = read(moments, member).ok_or(RuntimeError::NoText)?;
            scores.push(wanda_scores(dense, *row_len, moments).map_err(failed)?);
        }
        found.push(OwlBlock::new(scores.into_iter().flatten()));
        counts.push(members.len());
        Ok(())
    })?;
    let fractions = owl_fractions(&found, fraction);
    Ok(fractions.into_iter().zip(counts).flat_map(|(fraction, count)| std::iter::repeat_n(fraction, count)).collect())
}

fn budget_group(blocks: Blocks<'_>, group: &[Member<'_>], settings: &LayerSettings) -> Result<Vec<f64>, RuntimeError> {
    let Some(LowRank { method, rank: RankRule::ErrorBudget(budget), align }) = settings.low_rank else {
        return Ok(vec![1.0; group.len()]);
    };
    let solver = blocks.work.place.solver().unwrap_or(&Host);
    let mut spectra = Vec::with_capacity(group.len());
    blocks.each(group, method == LowRankMethod::Whitened, |members, moments| {
        for member in members {
            if !blocks.work.watch.compressing(spectra.len() as u32, group.len() as u32) {
                return Err(RuntimeError::Cancelled);
            }
            let (dense, shape) = blocks.weights(member)?;
            let failed = keys::of_layer(&member.layer.path);
            spectra.push((
                singular_values_with(&dense, shape, method, read(moments, member), solver).map_err(failed)?,
                shape,
            ));
        }
        Ok(())
    })?;
    let spectra: Vec<Spectrum<'_>> =
        spectra.iter().map(|(values, shape)| Spectrum { singular_values: values, shape: *shape }).collect();
    Ok(allocate_ranks(&spectra, budget, align).into_iter().map(|rank| rank as f64).collect())
}

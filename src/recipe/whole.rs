//! What a recipe says of the whole model: structure, sharing, cache and attention.

use crate::model::{BlockShape, Layer, LayerRole, ModelFamily, ModelGraph};
use crate::recipe::plan::{layer_bits, matrix_bits, settings_bits};
use crate::recipe::resolve::Traced;
use crate::recipe::{
    Allocation, BlockPart, KvFormat, LayerPlan, LayerSettings, Problem, RankRule, Recipe, RecipeIssue, Rounding,
    Sharing, SharingMethod, Sparsity, WidthCut,
};

/// Checks everything that is not about one layer, and gives the widths of the blocks after structural pruning with the
/// reason why they are an estimate, if they are.
pub(super) fn check(
    recipe: &Recipe,
    graph: &ModelGraph,
    traced: &[Traced],
    issues: &mut Vec<RecipeIssue>,
) -> (Vec<BlockShape>, Option<&'static str>) {
    let mut problems = Vec::new();
    let (blocks, estimated) = cut_blocks(recipe, graph, &mut problems);
    let cache = [recipe.kv_cache.keys, recipe.kv_cache.values];
    problems.extend(cache.into_iter().filter_map(|format| kv_problem(graph, &blocks, format)));
    check_attention(recipe, &mut problems);
    check_calibration(recipe, graph.family.max_context(), &mut problems);
    check_sharing(recipe, graph, &blocks, traced, &mut problems);
    check_scaled_groups(graph, traced, &mut problems);
    issues.extend(problems.into_iter().map(RecipeIssue::of_recipe));
    (blocks, estimated)
}

/// Widths of the blocks after structural pruning, with the reason why they are an estimate, if they are.
pub(super) fn cut_blocks(
    recipe: &Recipe,
    graph: &ModelGraph,
    problems: &mut Vec<Problem>,
) -> (Vec<BlockShape>, Option<&'static str>) {
    let ModelFamily::Llama(config) = &graph.family;
    let structure = &recipe.structure;
    let mut blocks: Vec<BlockShape> = (0..config.n_blocks).map(|block| config.block_shape(block)).collect();
    for (name, cut) in [("structure.ffn.fraction", structure.ffn), ("structure.heads.fraction", structure.heads)] {
        let Some(WidthCut { fraction, .. }) = cut else { continue };
        if !(0.0..=Sparsity::MAX_FRACTION).contains(&fraction) {
            problems.push(Problem::OutOfRange { name, value: fraction, range: "from 0 to 0.95" });
            return (blocks, None);
        }
    }
    let before = blocks.clone();
    for (index, block) in blocks.iter_mut().enumerate() {
        let index = u16::try_from(index).unwrap_or(u16::MAX);
        if let Some(cut) = structure.ffn.filter(|cut| cut.covers(index) && block.intermediate_size > 0) {
            block.intermediate_size = cut.kept(block.intermediate_size, WidthCut::FFN_ALIGN);
        }
        if let Some(cut) = structure.heads.filter(|cut| cut.covers(index) && block.n_kv_heads > 0) {
            let queries = block.n_heads / block.n_kv_heads;
            block.n_kv_heads = cut.kept(block.n_kv_heads, 1);
            block.n_heads = queries * block.n_kv_heads;
        }
    }
    let narrowed = |width: fn(&BlockShape) -> usize| before.iter().zip(&blocks).any(|(a, b)| width(a) != width(b));
    let asks = |cut: Option<WidthCut>| cut.is_some_and(|cut| cut.fraction > 0.0);
    if asks(structure.ffn) && !narrowed(|block| block.intermediate_size) {
        problems.push(Problem::Conflict(
            "structure.ffn removes nothing: raise its fraction, lower its align, or name blocks first to last",
        ));
    }
    if asks(structure.heads) && !narrowed(|block| block.n_kv_heads) {
        problems.push(Problem::Conflict(
            "structure.heads removes nothing: raise its fraction, lower its align, or name blocks first to last",
        ));
    }
    let ranges = [structure.ffn, structure.heads].into_iter().flatten().filter_map(|cut| cut.blocks).flatten();
    let named = structure.blocks.iter().flat_map(|cut| cut.drop.iter().copied()).chain(ranges);
    let missing: Vec<u16> = named.filter(|block| usize::from(*block) >= config.n_blocks).collect();
    problems.extend(missing.iter().map(|&block| Problem::NoBlock { block, n_blocks: config.n_blocks }));
    let Some(cut) = structure.blocks.as_ref().filter(|cut| !cut.is_empty() && missing.is_empty()) else {
        return (blocks, None);
    };
    if !cut.drop.is_empty() && cut.count > 0 {
        problems.push(Problem::Conflict("structure.blocks names the blocks to drop, or how many; not both"));
    }
    // Which ones go is measured when the variant is made. Until then the last ones stand for them.
    let is_chosen = cut.drop.is_empty();
    let count = usize::from(cut.count).min(config.n_blocks);
    let gone: Vec<usize> = if is_chosen {
        (config.n_blocks - count..config.n_blocks).collect()
    } else {
        cut.drop.iter().map(|&block| usize::from(block)).collect()
    };
    for block in gone {
        if matches!(cut.part, BlockPart::Block | BlockPart::Attention) {
            (blocks[block].n_heads, blocks[block].n_kv_heads) = (0, 0);
        }
        if matches!(cut.part, BlockPart::Block | BlockPart::Mlp) {
            blocks[block].intermediate_size = 0;
        }
    }
    if blocks.iter().all(|block| block.is_empty()) {
        problems.push(Problem::NothingLeft);
    }
    (blocks, is_chosen.then_some("which blocks go is measured when the variant is made"))
}

/// Why keys and values of blocks with these widths cannot be cached as `format`, if they cannot.
pub fn kv_problem(graph: &ModelGraph, blocks: &[BlockShape], format: KvFormat) -> Option<Problem> {
    let ModelFamily::Llama(config) = &graph.family;
    let mut row_lens = blocks.iter().map(|block| block.n_kv_heads * config.head_dim);
    let row_len = row_lens.find(|row_len| !row_len.is_multiple_of(format.block_len()))?;
    Some(Problem::KvBlocks { format, row_len })
}

fn check_attention(recipe: &Recipe, problems: &mut Vec<Problem>) {
    let attention = &recipe.attention;
    if attention.window == Some(0) {
        problems.push(Problem::OutOfRange { name: "attention.window", value: 0.0, range: "at least 1 token" });
    }
    if attention.sinks > 0 && attention.window.is_none() {
        problems.push(Problem::Conflict("attention.sinks are kept beside a window; name attention.window too"));
    }
}

fn check_calibration(recipe: &Recipe, max_context: usize, problems: &mut Vec<Problem>) {
    if recipe.calibration.windows == Some(0) {
        problems.push(Problem::OutOfRange { name: "calibration.windows", value: 0.0, range: "at least 1 window" });
    }
    if let Some(context) = recipe.calibration.context.filter(|context| !(2..=max_context).contains(context)) {
        let range = "from 2 tokens to the model's context";
        problems.push(Problem::OutOfRange { name: "calibration.context", value: context as f64, range });
    }
}

fn check_sharing(
    recipe: &Recipe,
    graph: &ModelGraph,
    blocks: &[BlockShape],
    traced: &[Traced],
    problems: &mut Vec<Problem>,
) {
    for (position, sharing) in recipe.sharing.iter().enumerate() {
        let Sharing { role, blocks: [first, last], method, ratio } = *sharing;
        let members: Vec<usize> = members(graph, sharing).collect();
        if let Some(block) = [first, last].into_iter().find(|block| usize::from(*block) >= blocks.len()) {
            problems.push(Problem::NoBlock { block, n_blocks: blocks.len() });
            continue;
        }
        let overlaps = |other: &Sharing| other.role == role && other.blocks[0] <= last && first <= other.blocks[1];
        if recipe.sharing[..position].iter().any(overlaps) {
            problems.push(Problem::Conflict("two sharing groups name the same layer; make their blocks disjoint"));
        }
        if members.len() < 2 {
            problems.push(Problem::Conflict("a sharing group needs the layers of at least two blocks"));
        }
        if members.windows(2).any(|pair| traced[pair[0]].settings != traced[pair[1]].settings) {
            problems.push(Problem::Conflict("layers that share a tensor must have the same settings"));
        }
        let shape = |index: &usize| shape_after(graph, blocks, &graph.layers[*index]);
        if members.windows(2).any(|pair| shape(&pair[0]) != shape(&pair[1])) {
            problems.push(Problem::Conflict("layers that share a tensor must have the same shape"));
        }
        match (method, ratio) {
            (SharingMethod::Tie, Some(_)) => problems.push(Problem::Conflict("sharing by tie has no ratio")),
            (SharingMethod::Basis, ratio) => {
                let ratio = ratio.unwrap_or(f64::NAN);
                if !(1e-3..=1.0).contains(&ratio) {
                    let range = "above 0, at most 1, and must be named";
                    problems.push(Problem::OutOfRange { name: "sharing ratio", value: ratio, range });
                }
                let plain = |settings: &LayerSettings| *settings == LayerSettings::of(settings.weights);
                if members.iter().any(|&index| !plain(&traced[index].settings)) {
                    problems.push(Problem::Conflict("layers that share a basis have a format and nothing else"));
                }
            }
            (SharingMethod::Tie, None) => {}
        }
    }
}

fn check_scaled_groups(graph: &ModelGraph, traced: &[Traced], problems: &mut Vec<Problem>) {
    for block in 0..u16::try_from(graph.family.n_blocks()).unwrap_or(u16::MAX) {
        let layers = graph.layers.iter().zip(traced).filter(|(layer, _)| layer.block == Some(block));
        let members: Vec<_> = layers.map(|(layer, traced)| (layer.role, traced.settings)).collect();
        if let Some(problem) = scaled_group_problem(&members) {
            problems.push(problem);
            return;
        }
    }
}

/// AWQ and `SmoothQuant` scale the inputs of a layer through the norm before it, which feeds its neighbours too: what is
/// wrong with the layers of one block, if anything.
pub(super) fn scaled_group_problem(members: &[(LayerRole, LayerSettings)]) -> Option<Problem> {
    const GROUPS: [&[LayerRole]; 2] =
        [&[LayerRole::QProj, LayerRole::KProj, LayerRole::VProj], &[LayerRole::GateProj, LayerRole::UpProj]];
    let scaling = |settings: &LayerSettings| {
        let awq = match settings.rounding {
            Rounding::Awq(options) => Some(options),
            _ => None,
        };
        (awq, settings.activations.smoothing().map(f64::to_bits))
    };
    for group in GROUPS {
        let mut group = members.iter().filter(|(role, _)| group.contains(role)).map(|(_, settings)| settings);
        let Some(first) = group.next() else { continue };
        if scaling(first).0.is_some() && scaling(first).1.is_some() {
            return Some(Problem::Conflict("awq and smoothing both scale the inputs; use one of them"));
        }
        if group.any(|settings| scaling(settings) != scaling(first)) {
            return Some(Problem::Conflict(
                "awq and smoothing scale q, k and v (and gate and up) through the norm that they share: give all of \
                 them the same",
            ));
        }
    }
    None
}

/// Positions of the group's layers.
fn members(graph: &ModelGraph, sharing: &Sharing) -> impl Iterator<Item = usize> {
    let Sharing { role, blocks: [first, last], .. } = *sharing;
    let is_member =
        move |layer: &Layer| layer.role == role && layer.block.is_some_and(|block| (first..=last).contains(&block));
    graph.layers.iter().enumerate().filter(move |(_, layer)| is_member(layer)).map(|(index, _)| index)
}

/// A layer's shape in blocks of these widths; `None` when it is gone.
pub(super) fn shape_after(graph: &ModelGraph, blocks: &[BlockShape], layer: &Layer) -> Option<[usize; 2]> {
    let ModelFamily::Llama(config) = &graph.family;
    match layer.block {
        None => Some(layer.shape),
        Some(block) => blocks.get(usize::from(block))?.layer_shape(config, layer.role),
    }
}

/// Bits of a layer's own tensors: those that it shares count with the first layer of its group. With the reason why they
/// are an estimate, if they are.
pub(super) fn shared_bits(
    recipe: &Recipe,
    graph: &ModelGraph,
    layer: &Layer,
    plan: &LayerPlan,
    shape: [usize; 2],
) -> (u64, Option<&'static str>) {
    let whole = layer_bits(layer, shape, &plan.settings).unwrap_or(0);
    let by_value = plan.settings.low_rank.is_some_and(|low_rank| !matches!(low_rank.rank, RankRule::Ratio(_)));
    let by_outliers = |sparsity: Sparsity| sparsity.is_bitmask() && sparsity.allocation == Allocation::Owl;
    let note = if plan.settings.sparsity.is_some_and(by_outliers) {
        Some("fractions of layers follow their outliers when the variant is made")
    } else {
        by_value.then_some("ranks follow the singular values when the variant is made")
    };
    let position = graph.layers.iter().position(|other| other.path == layer.path);
    let group = recipe.sharing.iter().find(|sharing| members(graph, sharing).any(|index| Some(index) == position));
    let Some(sharing) = group else { return (whole, note) };
    let is_first = members(graph, sharing).next() == position;
    match sharing.method {
        // A mean has the zeros and the rank of none.
        SharingMethod::Tie if is_first => (settings_bits(shape, &plan.settings, layer.stored).unwrap_or(0), note),
        SharingMethod::Tie => (0, note),
        SharingMethod::Basis => {
            let count = members(graph, sharing).count();
            let rank = basis_rank(shape, count, sharing.ratio.unwrap_or(1.0));
            let bits = |shape| matrix_bits(shape, plan.settings.weights, layer.stored).unwrap_or(0);
            let basis = if is_first { bits([rank, shape[1]]) } else { 0 };
            (bits([shape[0], rank]) + basis, note)
        }
    }
}

/// The rank of a basis of the inputs that `count` matrices of `shape` share, for a kept share of their parameters.
pub fn basis_rank([rows, row_len]: [usize; 2], count: usize, ratio: f64) -> usize {
    crate::recipe::rank_of_ratio(rows * count, row_len, ratio, 1)
}

#[cfg(test)]
#[path = "whole_tests.rs"]
mod tests;

//! What an editor asks before it offers a choice: would the recipe still resolve with it?

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{BlockShape, ModelGraph};
use crate::recipe::resolve::Traced;
use crate::recipe::{
    Execution, LayerChange, LayerSettings, Problem, Recipe, RecipeIssue, Rounding, layer_checks, whole,
};

/// The rules of [`Recipe::resolve`] for single layers, and for the layers of a block that one norm feeds.
#[derive(Debug)]
pub struct Legality<'a> {
    graph: &'a ModelGraph,
    blocks: &'a [BlockShape],
}

impl<'a> Legality<'a> {
    /// The rules on a model whose blocks have these widths after structural pruning.
    pub fn new(graph: &'a ModelGraph, blocks: &'a [BlockShape]) -> Self {
        Self { graph, blocks }
    }

    /// How the layers at these positions run with `settings` (one a layer of the graph): simulated if one of them is.
    ///
    /// # Errors
    /// The first problem.
    pub fn check(&self, settings: &[LayerSettings], layers: &[usize]) -> Result<Option<Execution>, RecipeIssue> {
        let (issues, execution) = self.issues(&|index| settings[index], layers);
        issues.into_iter().next().map_or(Ok(execution), Err)
    }

    /// As [`Self::check`] after `change` to the layers. Problems that are there before it are not counted.
    ///
    /// # Errors
    /// The first problem that `change` makes, or why it would have no effect.
    pub fn of_change(
        &self,
        settings: &[LayerSettings],
        layers: &[usize],
        change: LayerChange,
    ) -> Result<Option<Execution>, RecipeIssue> {
        if let Some(problem) = without_effect(settings, layers, change) {
            return Err(RecipeIssue::of_recipe(problem));
        }
        let changed: BTreeMap<usize, LayerSettings> = layers
            .iter()
            .map(|&index| {
                let mut settings = settings[index];
                change.apply(&mut settings);
                (index, settings)
            })
            .collect();
        let (after, execution) = self.issues(&|index| changed.get(&index).copied().unwrap_or(settings[index]), layers);
        if after.is_empty() {
            return Ok(execution);
        }
        let (before, _) = self.issues(&|index| settings[index], layers);
        after.into_iter().find(|issue| !before.contains(issue)).map_or(Ok(execution), Err)
    }

    fn issues(
        &self,
        settings: &dyn Fn(usize) -> LayerSettings,
        layers: &[usize],
    ) -> (Vec<RecipeIssue>, Option<Execution>) {
        let (mut issues, mut execution) = (Vec::new(), None);
        for &index in layers {
            let layer = &self.graph.layers[index];
            let shape = whole::shape_after(self.graph, self.blocks, layer);
            let traced = Traced { settings: settings(index).canonical(), ..Traced::default() };
            if let Some(plan) = layer_checks::check(layer, shape, traced, &mut issues) {
                let is_worse = execution.is_none() || plan.execution == Execution::Simulated;
                execution = if is_worse { Some(plan.execution) } else { execution };
            }
        }
        let blocks: BTreeSet<u16> = layers.iter().filter_map(|&index| self.graph.layers[index].block).collect();
        for block in blocks {
            let of_block = self.graph.layers.iter().enumerate().filter(|(_, layer)| layer.block == Some(block));
            let members: Vec<_> = of_block.map(|(index, layer)| (layer.role, settings(index).canonical())).collect();
            issues.extend(whole::scaled_group_problem(&members).map(RecipeIssue::of_recipe));
        }
        (issues, execution)
    }
}

/// Why `change` would leave every one of the layers as it is, if it would.
fn without_effect(settings: &[LayerSettings], layers: &[usize], change: LayerChange) -> Option<Problem> {
    let no_grid = layers.iter().all(|&index| !settings[index].weights.is_quantized());
    match change {
        LayerChange::Rounding(rounding) if no_grid && rounding != Rounding::Nearest => {
            Some(Problem::Conflict("floating formats are rounded to nearest; give the layers a quantized format first"))
        }
        LayerChange::Correction(Some(correction)) if no_grid && correction.rank > 0 => Some(Problem::Conflict(
            "correction gives back what rounding took; give the layers a quantized format first",
        )),
        _ => None,
    }
}

impl Recipe {
    /// Widths of every block after structural pruning, legal or not: what an editor shows. Blocks that are chosen by a
    /// score when the variant is made are stood for by the last ones.
    pub fn block_shapes(&self, graph: &ModelGraph) -> Vec<BlockShape> {
        whole::cut_blocks(self, graph, &mut Vec::new()).0
    }

    /// (`out_features`, `in_features`) of every layer in blocks of these widths; `None` where it is removed.
    pub fn layer_shapes(graph: &ModelGraph, blocks: &[BlockShape]) -> Vec<Option<[usize; 2]>> {
        graph.layers.iter().map(|layer| whole::shape_after(graph, blocks, layer)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::tiny_graph;
    use crate::recipe::{
        Activations, AwqOptions, Correction, DynamicOptions, GptqOptions, Group, HqqOptions, IntFormat, LowRank,
        LowRankMethod, Pattern, Sparsity, SparsityMethod, WeightFormat,
    };

    fn int(size: u16) -> WeightFormat {
        WeightFormat::Int(IntFormat { bits: 4, group: Group::Size(size), symmetric: true })
    }

    /// Changes of all block layers that have `from`, with what is said of each.
    fn check(from: WeightFormat, change: LayerChange, expected: Result<Execution, &str>) {
        let graph = tiny_graph();
        let settings = vec![LayerSettings::of(from); graph.layers.len()];
        let layers: Vec<usize> = (0..graph.layers.len()).filter(|&index| graph.layers[index].block.is_some()).collect();
        let blocks = Recipe::reference().block_shapes(&graph);
        let found = Legality::new(&graph, &blocks).of_change(&settings, &layers, change);
        match expected {
            Ok(execution) => assert_eq!(found, Ok(Some(execution)), "{from:?} {change:?}"),
            Err(text) => {
                let reason = found.expect_err("it does not resolve").to_string();
                assert!(reason.contains(text), "{reason}");
            }
        }
    }

    #[test]
    fn an_illegal_choice_says_why() {
        let gptq = LayerChange::Rounding(Rounding::Gptq(GptqOptions::default()));
        let hqq = LayerChange::Rounding(Rounding::Hqq(HqqOptions::default()));
        let int8 = LayerChange::Activations(Activations::Int8Dynamic(DynamicOptions::default()));
        let svd = LayerChange::LowRank(Some(LowRank::with_ratio(LowRankMethod::Svd, 0.5)));
        let correction = LayerChange::Correction(Some(Correction { rank: 4, method: LowRankMethod::Svd }));
        let pruned = |method| LayerChange::Sparsity(Some(Sparsity::with_pattern(method, Pattern::TWO_OF_FOUR)));
        check(WeightFormat::Native, LayerChange::Weights(WeightFormat::Q8_0), Ok(Execution::Packed));
        check(WeightFormat::Native, LayerChange::Weights(int(64)), Ok(Execution::Packed));
        let int3 = IntFormat { bits: 3, group: Group::Row, symmetric: false };
        check(WeightFormat::Native, LayerChange::Weights(WeightFormat::Int(int3)), Ok(Execution::Simulated));
        check(WeightFormat::Native, LayerChange::Weights(int(128)), Err("multiple of 128"));
        check(WeightFormat::Native, LayerChange::Weights(WeightFormat::Q4k), Err("multiple of 256"));
        check(WeightFormat::Native, gptq, Err("quantized format first"));
        check(WeightFormat::Native, correction, Err("quantized format first"));
        check(WeightFormat::Native, pruned(SparsityMethod::Wanda), Ok(Execution::Packed));
        check(WeightFormat::Q4_0, gptq, Ok(Execution::Packed));
        check(WeightFormat::Q4_0, hqq, Err("only int formats"));
        check(WeightFormat::Q4_0, int8, Err("int weights"));
        check(WeightFormat::Q4_1, pruned(SparsityMethod::Magnitude), Err("no exact zero"));
        check(int(32), int8, Ok(Execution::Packed));
        check(int(32), svd, Err("rank of the factors"));
        let aligned = LowRank { align: 32, ..LowRank::with_ratio(LowRankMethod::Svd, 0.9) };
        check(int(32), LayerChange::LowRank(Some(aligned)), Ok(Execution::Packed));
        check(int(32), correction, Ok(Execution::Packed));
    }

    #[test]
    fn layers_behind_one_norm_are_scaled_together_and_old_problems_are_not_new_ones() {
        let graph = tiny_graph();
        let blocks = Recipe::reference().block_shapes(&graph);
        let legality = Legality::new(&graph, &blocks);
        let mut settings = vec![LayerSettings::of(int(32)); graph.layers.len()];
        let awq = LayerChange::Rounding(Rounding::Awq(AwqOptions::default()));
        let of_block: Vec<usize> = (0..graph.layers.len()).filter(|&i| graph.layers[i].block == Some(0)).collect();
        assert!(legality.of_change(&settings, &of_block[..1], awq).unwrap_err().to_string().contains("q, k and v"));
        assert_eq!(legality.of_change(&settings, &of_block, awq), Ok(Some(Execution::Packed)));
        settings[of_block[0]].weights = WeightFormat::Q4k;
        assert!(legality.check(&settings, &of_block[..1]).is_err());
        let gptq = LayerChange::Rounding(Rounding::Gptq(GptqOptions::default()));
        assert!(legality.of_change(&settings, &of_block[..1], gptq).is_ok(), "the format was wrong before");
    }
}

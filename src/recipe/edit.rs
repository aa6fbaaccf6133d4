//! Edits by layer, written back as the shortest rules that say the same.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{LayerPath, LayerRole, ModelGraph};
use crate::recipe::{
    Activations, Correction, LayerSettings, LowRank, LowRankMethod, PartialSettings, Recipe, Rounding, Rule, Sparsity,
    Target, WeightFormat,
};

/// One change of a layer's settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LayerChange {
    /// Sets the format.
    Weights(WeightFormat),
    /// Sets the way of rounding.
    Rounding(Rounding),
    /// Sets how activations enter the product.
    Activations(Activations),
    /// Sets or removes pruning.
    Sparsity(Option<Sparsity>),
    /// Sets or removes low-rank factors.
    LowRank(Option<LowRank>),
    /// Sets or removes the term beside quantized weights.
    Correction(Option<Correction>),
    /// Leaves the layer as the checkpoint has it.
    Reset,
}

impl LayerChange {
    /// Makes the change; what has no effect on the format then is left out.
    pub(super) fn apply(self, settings: &mut LayerSettings) {
        match self {
            Self::Weights(weights) => settings.weights = weights,
            Self::Rounding(rounding) => settings.rounding = rounding,
            Self::Activations(activations) => settings.activations = activations,
            Self::Sparsity(sparsity) => settings.sparsity = sparsity,
            Self::LowRank(low_rank) => settings.low_rank = low_rank,
            Self::Correction(correction) => settings.correction = correction,
            Self::Reset => *settings = LayerSettings::default(),
        }
        *settings = settings.canonical();
    }
}

impl Recipe {
    /// This recipe with `change` made to `layers` and nothing else changed on this model.
    #[must_use]
    pub fn with_change(&self, graph: &ModelGraph, layers: &BTreeSet<LayerPath>, change: LayerChange) -> Self {
        let mut settings = self.settings(graph);
        for (layer, settings) in graph.layers.iter().zip(&mut settings) {
            if layers.contains(&layer.path) {
                change.apply(settings);
            }
        }
        let edited = Self::from_settings(&self.name, graph, &settings);
        Self { default: edited.default, rules: edited.rules, ..self.clone() }
    }

    /// The recipe that gives each layer of `graph` the settings at its position: a default for what most block layers
    /// have, then rules for whole roles and whole blocks that differ, then single paths.
    pub fn from_settings(name: &str, graph: &ModelGraph, settings: &[LayerSettings]) -> Self {
        let default = most_common(graph, settings);
        let mut current: Vec<LayerSettings> = graph
            .layers
            .iter()
            .map(|layer| if layer.block.is_some() { default } else { LayerSettings::default() })
            .collect();
        let mut rules = Vec::new();
        for role in LayerRole::ALL {
            let members = |layer: &crate::model::Layer| layer.role == role;
            push_uniform(graph, settings, &mut current, &mut rules, members, || Target::Role(role));
        }
        for block in 0..u16::try_from(graph.family.n_blocks()).unwrap_or(u16::MAX) {
            let members = |layer: &crate::model::Layer| layer.block == Some(block);
            push_uniform(graph, settings, &mut current, &mut rules, members, || Target::Blocks([block, block]));
        }
        for ((layer, wanted), current) in graph.layers.iter().zip(settings).zip(current) {
            if *wanted != current {
                rules.push(rule(Target::Path(layer.path.clone()), current, *wanted));
            }
        }
        Self { name: name.to_owned(), default: default.into(), rules, ..Self::reference() }
    }
}

/// The settings that most weights of the blocks have; ties go to the earlier layer.
fn most_common(graph: &ModelGraph, settings: &[LayerSettings]) -> LayerSettings {
    let mut votes: BTreeMap<String, (u64, LayerSettings)> = BTreeMap::new();
    for (layer, settings) in graph.layers.iter().zip(settings).filter(|(layer, _)| layer.block.is_some()) {
        votes.entry(format!("{settings:?}")).or_insert((0, *settings)).0 += layer.n_weights();
    }
    let best = votes.values().map(|(weight, _)| *weight).max().unwrap_or(0);
    let block_settings = graph.layers.iter().zip(settings).filter(|(layer, _)| layer.block.is_some());
    block_settings
        .map(|(_, settings)| *settings)
        .find(|settings| votes.get(&format!("{settings:?}")).is_some_and(|(weight, _)| *weight == best))
        .unwrap_or_default()
}

fn push_uniform(
    graph: &ModelGraph,
    settings: &[LayerSettings],
    current: &mut [LayerSettings],
    rules: &mut Vec<Rule>,
    is_member: impl Fn(&crate::model::Layer) -> bool,
    target: impl Fn() -> Target,
) {
    let members: Vec<usize> =
        graph.layers.iter().enumerate().filter(|(_, layer)| is_member(layer)).map(|(index, _)| index).collect();
    let Some(&first) = members.first() else { return };
    let uniform = members.iter().all(|&index| settings[index] == settings[first] && current[index] == current[first]);
    if uniform && current[first] != settings[first] {
        rules.push(rule(target(), current[first], settings[first]));
        for index in members {
            current[index] = settings[index];
        }
    }
}

/// The rule that turns `from` into `to`; what `to` lacks is undone by the value that says so.
fn rule(target: Target, from: LayerSettings, to: LayerSettings) -> Rule {
    let no_low_rank = LowRank::with_ratio(LowRankMethod::Whitened, 1.0);
    let no_correction = Correction { rank: 0, method: LowRankMethod::Whitened };
    let settings = PartialSettings {
        weights: (from.weights != to.weights).then_some(to.weights),
        rounding: (from.rounding != to.rounding).then_some(to.rounding),
        activations: (from.activations != to.activations).then_some(to.activations),
        sparsity: (from.sparsity != to.sparsity).then(|| to.sparsity.unwrap_or(Sparsity::magnitude(0.0))),
        low_rank: (from.low_rank != to.low_rank).then(|| to.low_rank.unwrap_or(no_low_rank)),
        correction: (from.correction != to.correction).then(|| to.correction.unwrap_or(no_correction)),
    };
    Rule::new(target, settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::tiny_graph;

    fn paths(graph: &ModelGraph, keep: impl Fn(&crate::model::Layer) -> bool) -> BTreeSet<LayerPath> {
        graph.layers.iter().filter(|layer| keep(layer)).map(|layer| layer.path.clone()).collect()
    }

    #[test]
    fn bulk_edits_become_short_rules() {
        let graph = tiny_graph();
        let blocks = paths(&graph, |layer| layer.block.is_some());
        let recipe = Recipe::reference().with_change(&graph, &blocks, LayerChange::Weights(WeightFormat::Q8_0));
        assert!(recipe.rules.is_empty() && recipe.default.weights == Some(WeightFormat::Q8_0));

        let down = paths(&graph, |layer| layer.role == LayerRole::DownProj);
        let recipe = recipe.with_change(&graph, &down, LayerChange::Weights(WeightFormat::Q4_0));
        assert_eq!(recipe.rules.len(), 1);
        assert_eq!(recipe.rules[0].target, Target::Role(LayerRole::DownProj));

        let one = paths(&graph, |layer| layer.path.0 == "model.layers.1.mlp.down_proj");
        let recipe = recipe.with_change(&graph, &one, LayerChange::Sparsity(Some(Sparsity::magnitude(0.3))));
        let settings = recipe.settings(&graph);
        assert_eq!(settings.last().unwrap().label(), "q4_0, 30.0 % sparse");
        let recipe = recipe.with_change(&graph, &one, LayerChange::Reset);
        assert!(recipe.settings(&graph).last().unwrap().is_reference());
    }

    #[test]
    fn settings_survive_being_written_as_rules() {
        let graph = tiny_graph();
        let mut settings = vec![LayerSettings::default(); graph.layers.len()];
        for (index, settings) in settings.iter_mut().enumerate() {
            settings.weights = WeightFormat::NAMED[index * 5 % WeightFormat::NAMED.len()];
            if index % 3 == 0 {
                settings.sparsity = Some(Sparsity::magnitude(0.1 * (index % 7 + 1) as f64));
            }
        }
        let recipe = Recipe::from_settings("x", &graph, &settings);
        assert_eq!(recipe.settings(&graph), settings);
        assert_eq!(Recipe::from_toml(&recipe.to_toml()).unwrap().settings(&graph), settings);
    }
}

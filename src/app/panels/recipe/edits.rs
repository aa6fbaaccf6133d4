//! Edits of the recipe's table as whole new recipes: one edit, one undo step. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{LayerPath, ModelGraph};
use crate::recipe::{LayerChange, LayerSettings, Recipe, WeightFormat};

/// Settings of layers that were switched off, to be given back when they are switched on.
pub(super) type Remembered = BTreeMap<LayerPath, LayerSettings>;

/// What a layer gets that is switched on and has no settings to go back to: small and fast on every device.
const FALLBACK: WeightFormat = WeightFormat::Q8_0;

/// The recipe with `change` made to the layers at these positions.
pub(super) fn changed(recipe: &Recipe, graph: &ModelGraph, layers: &[usize], change: LayerChange) -> Recipe {
    named_after(recipe, recipe.with_change(graph, &paths(graph, layers), change))
}

/// The recipe with these layers as the checkpoint has them, or back at what they were.
pub(super) fn toggled(
    recipe: &Recipe,
    graph: &ModelGraph,
    layers: &[usize],
    on: bool,
    remembered: &mut Remembered,
) -> Recipe {
    let mut settings = recipe.settings(graph);
    for &index in layers {
        let path = &graph.layers[index].path;
        if on {
            let fallback = LayerSettings::of(FALLBACK);
            settings[index] = remembered.get(path).copied().unwrap_or(fallback);
        } else {
            if !settings[index].is_reference() {
                remembered.insert(path.clone(), settings[index]);
            }
            settings[index] = LayerSettings::default();
        }
    }
    with_settings(recipe, graph, &settings)
}

/// The recipe that gives each layer of the graph the settings at its position; what holds for the whole model stays.
pub(in crate::app::panels) fn with_settings(recipe: &Recipe, graph: &ModelGraph, settings: &[LayerSettings]) -> Recipe {
    let edited = Recipe::from_settings(&recipe.name, graph, settings);
    named_after(recipe, Recipe { default: edited.default, rules: edited.rules, ..recipe.clone() })
}

/// The paths of the layers at these positions.
pub(super) fn paths(graph: &ModelGraph, layers: &[usize]) -> BTreeSet<LayerPath> {
    layers.iter().map(|&index| graph.layers[index].path.clone()).collect()
}

/// An edited recipe is not what its name said: `q8_0` becomes `q8_0, edited`.
pub(in crate::app::panels) fn named_after(before: &Recipe, mut after: Recipe) -> Recipe {
    const SUFFIX: &str = ", edited";
    if after.is_reference() {
        after.name = Recipe::reference().name;
    } else if before.name.is_empty() || before.name == Recipe::reference().name {
        "draft".clone_into(&mut after.name);
    } else if before.name != "draft" && !before.name.ends_with(SUFFIX) {
        after.name = format!("{}{SUFFIX}", before.name);
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::tiny_graph;
    use crate::recipe::{KvCacheSettings, KvFormat, Sparsity};

    #[test]
    fn switching_off_and_on_gives_the_settings_back() {
        let graph = tiny_graph();
        let recipe = Recipe::uniform("x", WeightFormat::Q4_0, Some(Sparsity::magnitude(0.3)));
        let mut remembered = Remembered::new();
        let off = toggled(&recipe, &graph, &[3, 5], false, &mut remembered);
        assert!(off.settings(&graph)[3].is_reference() && !off.settings(&graph)[4].is_reference());
        let on = toggled(&off, &graph, &[3, 5], true, &mut remembered);
        assert_eq!(on.settings(&graph), recipe.settings(&graph));
        let cached =
            Recipe { kv_cache: KvCacheSettings { keys: KvFormat::Q8_0, values: KvFormat::F16 }, ..recipe.clone() };
        let off = toggled(&cached, &graph, &[3], false, &mut remembered);
        assert_eq!(off.kv_cache, cached.kv_cache, "what holds for the whole model stays");
        let embedding = toggled(&recipe, &graph, &[0], true, &mut remembered);
        assert_eq!(embedding.settings(&graph)[0].weights, FALLBACK);
    }

    #[test]
    fn an_edited_recipe_says_so_once() {
        let graph = tiny_graph();
        let check = |name: &str, expected: &str| {
            let recipe = Recipe::uniform(name, WeightFormat::Q4_0, None);
            let pruned = LayerChange::Sparsity(Some(Sparsity::magnitude(0.5)));
            let edited = changed(&recipe, &graph, &[1], pruned);
            assert_eq!(edited.name, expected);
            assert_eq!(changed(&edited, &graph, &[2], pruned).name, expected);
        };
        check("4-bit", "4-bit, edited");
        check("reference", "draft");
        let back = changed(&Recipe::uniform("x", WeightFormat::Q4_0, None), &graph, &[1, 2], LayerChange::Reset);
        assert_eq!(back.name, "x, edited");
        let all: Vec<usize> = (0..graph.layers.len()).collect();
        assert_eq!(changed(&back, &graph, &all, LayerChange::Reset).name, "reference");
    }
}

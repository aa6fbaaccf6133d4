//! Where two recipes differ on a model, told by roles and blocks instead of layer by layer.

use std::collections::BTreeMap;

use crate::model::{LayerRole, ModelGraph};
use crate::recipe::LayerSettings;

const ATTENTION: [LayerRole; 4] = [LayerRole::QProj, LayerRole::KProj, LayerRole::VProj, LayerRole::OProj];
const MLP: [LayerRole; 3] = [LayerRole::GateProj, LayerRole::UpProj, LayerRole::DownProj];

/// Layers that change in the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsDifference {
    /// The layers: `down_proj ×6`, `q_proj, blocks 2 to 3`.
    pub layers: String,
    /// Settings on side A: `native`.
    pub from: String,
    /// Settings on side B: `q4_0, 30.0 % sparse`.
    pub to: String,
}

/// The layers of `graph` whose settings differ between `a` and `b` (one entry a layer, in the graph's order).
///
/// Layers of one role that change alike are one line; roles of a whole attention or MLP, or of all blocks, are joined when
/// each of their layers changes alike. Lines come in the order of execution.
pub fn settings_differences(graph: &ModelGraph, a: &[LayerSettings], b: &[LayerSettings]) -> Vec<SettingsDifference> {
    let mut changes: Vec<(String, String)> = Vec::new();
    let mut members: BTreeMap<(usize, LayerRole), Vec<Option<u16>>> = BTreeMap::new();
    for ((layer, from), to) in graph.layers.iter().zip(a).zip(b).filter(|((_, from), to)| from != to) {
        let change = (from.label(), to.label());
        let number = changes.iter().position(|known| *known == change).unwrap_or_else(|| {
            changes.push(change);
            changes.len() - 1
        });
        members.entry((number, layer.role)).or_default().push(layer.block);
    }
    let mut out = Vec::new();
    for (number, (from, to)) in changes.into_iter().enumerate() {
        let roles: BTreeMap<LayerRole, &Vec<Option<u16>>> = members
            .iter()
            .filter(|((change, _), _)| *change == number)
            .map(|((_, role), blocks)| (*role, blocks))
            .collect();
        for layers in names(graph, &roles) {
            out.push(SettingsDifference { layers, from: from.clone(), to: to.clone() });
        }
    }
    out
}

/// Names of the layers behind one change.
fn names(graph: &ModelGraph, roles: &BTreeMap<LayerRole, &Vec<Option<u16>>>) -> Vec<String> {
    let total = |role: LayerRole| graph.layers.iter().filter(|layer| layer.role == role).count();
    let is_whole = |role: &LayerRole| roles.get(role).is_some_and(|blocks| blocks.len() == total(*role));
    let joined = |group: &[LayerRole], name: &str| {
        let n: usize = group.iter().map(|role| total(*role)).sum();
        group.iter().all(is_whole).then(|| format!("{name} ×{n}"))
    };
    let all: Vec<LayerRole> = ATTENTION.into_iter().chain(MLP).collect();
    let mut covered: Vec<LayerRole> = Vec::new();
    let mut groups: Vec<(LayerRole, String)> = Vec::new();
    for (group, name) in [(&all[..], "all block layers"), (&ATTENTION[..], "attention"), (&MLP[..], "mlp")] {
        if !covered.contains(&group[0])
            && let Some(text) = joined(group, name)
        {
            covered.extend(group);
            groups.push((group[0], text));
        }
    }
    for (role, blocks) in roles.iter().filter(|(role, _)| !covered.contains(role)) {
        groups.push((*role, role_text(*role, blocks, is_whole(role))));
    }
    groups.sort_by_key(|(role, _)| *role);
    groups.into_iter().map(|(_, text)| text).collect()
}

fn role_text(role: LayerRole, blocks: &[Option<u16>], whole: bool) -> String {
    let numbers: Vec<u16> = blocks.iter().flatten().copied().collect();
    let name = role.name();
    if numbers.is_empty() {
        return name.to_owned();
    }
    if whole {
        return format!("{name} ×{}", numbers.len());
    }
    let runs: Vec<String> = numbers
        .chunk_by(|a, b| a + 1 == *b)
        .map(|run| match run {
            [one] => one.to_string(),
            [first, .., last] => format!("{first} to {last}"),
            [] => String::new(),
        })
        .collect();
    let noun = if numbers.len() == 1 { "block" } else { "blocks" };
    format!("{name}, {noun} {}", runs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::plots::fixtures;
    use crate::recipe::{Recipe, Rule, Sparsity, Target, WeightFormat};

    fn check(rules: &[(Target, WeightFormat)], default: WeightFormat, expected: &[&str]) {
        let graph = fixtures::graph();
        let mut recipe = Recipe::uniform("b", default, None);
        for (target, weights) in rules {
            let rule = Rule { target: target.clone(), weights: Some(*weights), sparsity: None, enabled: None };
            recipe.rules.push(rule);
        }
        let found = settings_differences(&graph, &Recipe::reference().settings(&graph), &recipe.settings(&graph));
        let found: Vec<String> = found.iter().map(|d| format!("{}: {} → {}", d.layers, d.from, d.to)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn layers_that_change_alike_are_one_line() {
        let native = WeightFormat::Native;
        let (q4, q8) = (WeightFormat::Q4_0, WeightFormat::Q8_0);
        check(&[], native, &[]);
        check(&[], q8, &["all block layers ×42: native → q8_0"]);
        check(&[(Target::Role(LayerRole::DownProj), q4)], native, &["down_proj ×6: native → q4_0"]);
        check(
            &[(Target::Role(LayerRole::DownProj), q4)],
            q8,
            &[
                "attention ×24: native → q8_0",
                "gate_proj ×6: native → q8_0",
                "up_proj ×6: native → q8_0",
                "down_proj ×6: native → q4_0",
            ],
        );
        check(&[(Target::Glob("model.layers.*.mlp.*".to_owned()), q4)], native, &["mlp ×18: native → q4_0"]);
        let some = Target::Glob("model.layers.[0135].mlp.up_proj".to_owned());
        check(&[(some, q4)], native, &["up_proj, blocks 0 to 1, 3, 5: native → q4_0"]);
        check(&[(Target::Role(LayerRole::Embedding), q8)], native, &["embedding: native → q8_0"]);
    }

    #[test]
    fn sparsity_counts_as_a_difference() {
        let graph = fixtures::graph();
        let a = Recipe::uniform("a", WeightFormat::Q8_0, None).settings(&graph);
        let b = Recipe::uniform("b", WeightFormat::Q8_0, Some(Sparsity::magnitude(0.3))).settings(&graph);
        let found = settings_differences(&graph, &a, &b);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].to, "q8_0, 30.0 % sparse");
    }
}

//! Where two recipes differ on a model, told by roles and blocks instead of layer by layer.

use std::collections::BTreeMap;

use crate::app::words::CompressionWords;
use crate::model::{LayerRole, ModelGraph};
use crate::recipe::{
    AttentionForm, AttentionSettings, BlockPart, LayerSettings, Recipe, Sharing, SharingMethod, Structure,
};

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

/// What differs between two recipes in what they say of the whole model.
pub fn whole_differences(a: &Recipe, b: &Recipe, words: &CompressionWords) -> Vec<SettingsDifference> {
    let sides = [a, b].map(|recipe| {
        let kv = recipe.kv_cache;
        [
            structure_label(&recipe.structure),
            recipe.sharing.iter().map(sharing_label).collect::<Vec<_>>().join(", "),
            if kv.is_default() {
                String::new()
            } else {
                format!("{} keys, {} values", kv.keys.name(), kv.values.name())
            },
            attention_label(&recipe.attention),
        ]
    });
    let [a, b] = &sides;
    let or_kept = |text: &String| if text.is_empty() { words.all_kept.to_owned() } else { text.clone() };
    a.iter()
        .zip(b)
        .zip(words.whole)
        .filter(|((a, b), _)| a != b)
        .map(|((a, b), name)| SettingsDifference { layers: name.to_owned(), from: or_kept(a), to: or_kept(b) })
        .collect()
}

fn structure_label(structure: &Structure) -> String {
    let mut parts = Vec::new();
    for (name, cut) in [("ffn", structure.ffn), ("heads", structure.heads)] {
        let cut = cut.filter(|cut| cut.fraction > 0.0);
        parts.extend(cut.map(|cut| format!("{name} −{}", crate::units::percent(cut.fraction).replace(".0 %", " %"))));
    }
    if let Some(cut) = structure.blocks.as_ref().filter(|cut| !cut.is_empty()) {
        let part = match cut.part {
            BlockPart::Block => "block",
            BlockPart::Attention => "attention of block",
            BlockPart::Mlp => "mlp of block",
        };
        let dropped: Vec<String> = cut.drop.iter().map(u16::to_string).collect();
        parts.push(if dropped.is_empty() {
            format!("{} × {part}", cut.count)
        } else {
            format!("{part} {}", dropped.join(", "))
        });
    }
    parts.join(", ")
}

fn sharing_label(sharing: &Sharing) -> String {
    let [first, last] = sharing.blocks;
    let method = match sharing.method {
        SharingMethod::Tie => "tied".to_owned(),
        SharingMethod::Basis => format!("basis {}", crate::units::percent(sharing.ratio.unwrap_or(1.0))),
    };
    format!("{} {first}–{last} {method}", sharing.role.name())
}

fn attention_label(attention: &AttentionSettings) -> String {
    let form = (attention.form == AttentionForm::Naive).then(|| "naive".to_owned());
    let window = attention.window.map(|window| match attention.sinks {
        0 => format!("window {window}"),
        sinks => format!("window {window} + {sinks}"),
    });
    form.into_iter().chain(window).collect::<Vec<_>>().join(", ")
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
    use crate::recipe::{PartialSettings, Recipe, Rule, Sparsity, Target, WeightFormat};

    fn check(rules: &[(Target, WeightFormat)], default: WeightFormat, expected: &[&str]) {
        let graph = fixtures::graph();
        let mut recipe = Recipe::uniform("b", default, None);
        for (target, weights) in rules {
            let rule =
                Rule::new(target.clone(), PartialSettings { weights: Some(*weights), ..PartialSettings::default() });
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
    fn the_whole_model_is_compared_as_well() {
        let preset = crate::recipe::presets().iter().find(|preset| preset.id == "full").unwrap().recipe();
        let found = whole_differences(&Recipe::reference(), &preset, &CompressionWords::EN);
        let found: Vec<String> = found.iter().map(|d| format!("{}: {} → {}", d.layers, d.from, d.to)).collect();
        let expected = [
            "structure: as the checkpoint → ffn −25 %, heads −34 %",
            "KV cache: as the checkpoint → q8_0 keys, q8_0 values",
        ];
        assert_eq!(found, expected);
        assert!(whole_differences(&preset, &preset, &CompressionWords::EN).is_empty());
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

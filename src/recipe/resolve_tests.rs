use super::*;
use crate::device::DeviceSpec;
use crate::model::fixtures::tiny_graph;
use crate::recipe::{Group, IntFormat, Sparsity, WeightFormat};

fn cpu() -> DeviceInfo {
    DeviceInfo { spec: DeviceSpec::Cpu { threads: 2 }, name: "test".to_owned(), memory_bytes: None, unavailable: None }
}

fn issues(toml: &str) -> Vec<String> {
    let recipe = Recipe::from_toml(&format!("format_version = 1\n{toml}")).unwrap();
    recipe.resolve(&tiny_graph(), &cpu()).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn the_default_covers_blocks_only_and_later_rules_win() {
    let graph = tiny_graph();
    let mut recipe = Recipe::uniform("x", WeightFormat::Q8_0, None);
    recipe.rules = vec![
        Rule { target: Target::Role(LayerRole::DownProj), weights: Some(WeightFormat::Q4_0), ..empty() },
        Rule { target: Target::Blocks([1, 1]), sparsity: Some(Sparsity::magnitude(0.5)), ..empty() },
        Rule { target: Target::Path("model.layers.0.mlp.down_proj".into()), enabled: Some(false), ..empty() },
    ];
    let plan = recipe.resolve(&graph, &cpu()).unwrap();
    let find = |path: &str| plan.layers.iter().find(|layer| layer.path.0 == path).unwrap().settings;
    assert!(find("model.embed_tokens").is_reference());
    assert!(find("model.layers.0.mlp.down_proj").is_reference());
    assert_eq!(find("model.layers.0.self_attn.q_proj").weights, WeightFormat::Q8_0);
    assert_eq!(find("model.layers.1.mlp.down_proj").weights, WeightFormat::Q4_0);
    assert_eq!(find("model.layers.1.mlp.down_proj").sparsity, Some(Sparsity::magnitude(0.5)));
}

fn empty() -> Rule {
    Rule::new(Target::Glob("*".to_owned()), PartialSettings::default())
}

#[test]
fn every_problem_is_reported_at_once() {
    let found = issues(
        "[default]\nweights = \"q4k\"\n\
         [[rule]]\ntarget = { path = \"model.layers.9.mlp.down_proj\" }\nweights = \"f16\"\n\
         [[rule]]\ntarget = { role = \"up_proj\" }\nsparsity = { method = \"magnitude\", fraction = 0.99 }\n\
         [[rule]]\ntarget = { role = \"q_proj\" }\nweights = { int = { bits = 9, group = \"row\" } }",
    );
    assert!(found.iter().any(|issue| issue.contains("rule 1") && issue.contains("matches no layer")), "{found:?}");
    assert!(found.iter().any(|issue| issue.contains("k_proj") && issue.contains("multiple of 256")), "{found:?}");
    assert!(found.iter().any(|issue| issue.contains("rule 2") && issue.contains("0.99")), "{found:?}");
    assert!(found.iter().any(|issue| issue.contains("q_proj") && issue.contains("not 9")), "{found:?}");
}

#[test]
fn values_that_no_layer_shows_are_reported_once() {
    let found = issues(
        "[default]\nsparsity = { method = \"magnitude\", fraction = -1.0 }\n\
         [[rule]]\ntarget = { path = \"absent\" }\nweights = { int = { bits = 1, group = 32 } }\n\
         sparsity = { method = \"magnitude\", fraction = nan }\n\
         [[rule]]\ntarget = { glob = \"[\" }\nsparsity = { method = \"magnitude\", fraction = 0.97 }\n\
         [[rule]]\ntarget = { glob = \"*\" }\nweights = { int = { bits = 9, group = \"row\" } }\n\
         sparsity = { method = \"magnitude\", fraction = 2.0 }\n\
         [[rule]]\ntarget = { glob = \"*\" }\nweights = \"q8_0\"\n\
         [[rule]]\ntarget = { path = \"absent\" }\nenabled = false\nweights = { int = { bits = 12, group = 32 } }\n",
    );
    let count = |words: &[&str]| found.iter().filter(|issue| words.iter().all(|word| issue.contains(word))).count();
    assert_eq!(count(&["rule 1: ", "not 1"]), 1, "{found:?}");
    assert_eq!(count(&["rule 1: ", "not NaN"]), 1, "{found:?}");
    assert_eq!(count(&["rule 2: ", "0.97"]), 1, "{found:?}");
    assert_eq!(count(&["rule 3: ", "not 9"]), 1, "settings that a later rule replaced: {found:?}");
    assert_eq!(count(&["a sparsity fraction", "not -1"]), 1, "the default: {found:?}");
    assert_eq!(count(&["not 2"]), tiny_graph().layers.len(), "every layer, and not the rule once more: {found:?}");
    assert_eq!(count(&["not 12"]), 0, "a rule that is switched off: {found:?}");
}

#[test]
fn a_device_without_products_refuses() {
    let mut device = cpu();
    device.spec = DeviceSpec::Cuda { ordinal: 0 };
    let issues = Recipe::reference().resolve(&tiny_graph(), &device).unwrap_err();
    assert_eq!(issues.len(), tiny_graph().layers.len());
}

#[test]
fn bits_per_weight_counts_scales_and_minimums() {
    let check = |format: WeightFormat, expected: f64| {
        let plan = Recipe::uniform("x", format, None).resolve(&tiny_graph(), &cpu()).unwrap();
        assert!((plan.bits_per_weight() - expected).abs() < 1e-12, "{}: {}", format.label(), plan.bits_per_weight());
    };
    check(WeightFormat::Native, 16.0);
    check(WeightFormat::Q8_0, 8.5);
    check(WeightFormat::Int(IntFormat { bits: 4, group: Group::Size(32), symmetric: false }), 4.0 + 20.0 / 32.0);
    check(WeightFormat::Int(IntFormat { bits: 4, group: Group::Size(32), symmetric: true }), 4.5);
}

#[test]
fn a_mask_is_never_smaller() {
    let graph = tiny_graph();
    let dense = Recipe::reference().resolve(&graph, &cpu()).unwrap();
    let masked = Recipe::uniform("x", WeightFormat::Native, Some(Sparsity::magnitude(0.9)));
    assert_eq!(masked.resolve(&graph, &cpu()).unwrap().weight_bytes(), dense.weight_bytes());
}

#[test]
fn simulated_formats_are_labelled() {
    let int = |bits| WeightFormat::Int(IntFormat { bits, group: Group::Row, symmetric: false });
    for (format, n_simulated) in
        [(int(3), 14), (int(4), 0), (int(8), 0), (WeightFormat::Q8_0, 0), (WeightFormat::Bf16, 0)]
    {
        let plan = Recipe::uniform("x", format, None).resolve(&tiny_graph(), &cpu()).unwrap();
        assert_eq!(plan.n_simulated(), n_simulated, "{}", format.label());
    }
}

use crate::model::LayerRole;
use crate::recipe::Rule;

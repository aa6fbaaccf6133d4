use super::*;
use crate::model::fixtures::tiny_graph;
use crate::recipe::{
    Execution, Group, IntFormat, KvFormat, Pattern, SparseStorage, Sparsity, SparsityMethod, SparsityScope,
    WeightFormat,
};

fn cpu() -> DeviceInfo {
    DeviceInfo::named(DeviceSpec::Cpu { threads: 2 }, "test")
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
fn a_card_refuses_what_it_has_no_kernels_for() {
    let mut device = cpu();
    device.spec = DeviceSpec::Cuda { ordinal: 0 };
    let mut recipe = Recipe::reference();
    assert!(recipe.resolve(&tiny_graph(), &device).is_ok());
    for format in KvFormat::ALL {
        recipe.kv_cache = KvCacheSettings { keys: format, values: format };
        assert!(recipe.resolve(&tiny_graph(), &device).is_ok(), "{}", format.name());
    }
    recipe.kv_cache.values = KvFormat::Q8_0;
    recipe.attention.form = AttentionForm::Naive;
    assert!(recipe.resolve(&tiny_graph(), &cpu()).is_ok());
    let issues = recipe.resolve(&tiny_graph(), &device).unwrap_err();
    let text: Vec<String> = issues.iter().map(ToString::to_string).collect();
    assert!(text.len() == 2 && text[0].contains("in one format") && text[1].contains("tiles"), "{text:?}");
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

/// A layer of 192 × 64 with `sparsity` and its zeros left out: bytes, and how it runs.
fn bitmask(weights: WeightFormat, sparsity: Sparsity) -> (u64, Execution) {
    let sparsity = Sparsity { storage: SparseStorage::Bitmask, ..sparsity };
    let plan = Recipe::uniform("x", weights, Some(sparsity)).resolve(&tiny_graph(), &cpu()).unwrap();
    let up = plan.layers.iter().find(|layer| layer.path.0 == "model.layers.1.mlp.up_proj").unwrap();
    assert!(plan.estimated.is_none());
    (up.packed_bytes, up.execution)
}

#[test]
fn a_bitmask_counts_values_bits_and_rows() {
    const INT8: WeightFormat = WeightFormat::Int(IntFormat { bits: 8, group: Group::Row, symmetric: true });
    let magnitude = |fraction, scope| Sparsity { scope, ..Sparsity::magnitude(fraction) };
    let rows = 192 * (64 / 8 + 4);
    let n = 192 * 64;
    for (weights, sparsity, expected) in [
        (WeightFormat::F16, magnitude(0.5, SparsityScope::Matrix), n + rows),
        (WeightFormat::Native, magnitude(0.5, SparsityScope::Matrix), n + rows),
        (WeightFormat::F16, magnitude(0.7, SparsityScope::Matrix), 2 * (n - 8601) + rows),
        (WeightFormat::F16, magnitude(0.7, SparsityScope::Row), 2 * (n - 192 * 44) + rows),
        (WeightFormat::F16, Sparsity::with_pattern(SparsityMethod::Magnitude, Pattern::TWO_OF_FOUR), n + rows),
        (INT8, magnitude(0.5, SparsityScope::Matrix), n / 2 + rows + 2 * 192),
    ] {
        assert_eq!(bitmask(weights, sparsity), (expected as u64, Execution::Packed), "{weights:?} {sparsity:?}");
    }
    let masked = Sparsity::magnitude(0.0);
    assert_eq!(bitmask(WeightFormat::Bf16, masked).0, 2 * n as u64, "nothing pruned is nothing to leave out");
}

#[test]
fn a_bitmask_that_cannot_be_says_what_to_choose() {
    let said = |weights: &str, more: &str| {
        let toml = format!(
            "[default]\nweights = {weights}\nsparsity = {{ method = \"magnitude\", fraction = 0.5, storage = \
             \"bitmask\" }}\n{more}"
        );
        let found = issues(&toml);
        assert_eq!(found.len(), 14, "{found:?}");
        found[0].clone()
    };
    for weights in [
        "\"f32\"",
        "\"bf16\"",
        "\"q8_0\"",
        "{ fp8 = \"row\" }",
        "{ int = { bits = 8, group = 32, symmetric = true } }",
        "{ int = { bits = 8, group = \"row\" } }",
        "{ int = { bits = 4, group = \"row\", symmetric = true } }",
    ] {
        let reason = said(weights, "");
        assert!(reason.contains("f16") && reason.contains("storage = \"masked\""), "{weights}: {reason}");
    }
    let int8 = "{ int = { bits = 8, group = \"row\", symmetric = true } }";
    let reason = said(int8, "correction = { rank = 4, method = \"svd\" }");
    assert!(reason.contains("leave out correction"), "{reason}");
    let owl = "[default]\nweights = \"f16\"\nsparsity = { method = \"wanda\", fraction = 0.5, allocation = \"owl\", \
               storage = \"bitmask\" }\n[calibration]\ndata = \"x.txt\"";
    let owl = Recipe::from_toml(&format!("format_version = 1\n{owl}")).unwrap();
    assert!(owl.resolve(&tiny_graph(), &cpu()).unwrap().estimated.is_some(), "fractions are found on the way");
}

#[test]
fn zeros_that_the_file_leaves_out_count_as_they_are() {
    let dense = tiny_graph();
    let mut sparse = dense.clone();
    let layer = sparse.layers.iter_mut().find(|layer| layer.role == LayerRole::UpProj).unwrap();
    layer.sparse = Some(StoredSparse { values: SparseValues::F16, n_values: 5000 });
    let plan = |recipe: &Recipe| recipe.resolve(&sparse, &cpu()).unwrap();
    let reference = plan(&Recipe::reference());
    assert_eq!(dense.stored_bytes() - sparse.stored_bytes(), 192 * 64 * 2 - (5000 * 2 + 192 * (8 + 4)));
    assert_eq!(reference.weight_bytes(), sparse.stored_bytes());
    assert_eq!(reference.n_simulated(), 0);
    let anew = plan(&Recipe::uniform("x", WeightFormat::F16, None));
    assert_eq!(anew.weight_bytes(), dense.stored_bytes());
    let tie = "format_version = 1\n[[sharing]]\nrole = \"up_proj\"\nblocks = [0, 1]\nmethod = \"tie\"\n";
    let tied = plan(&Recipe::from_toml(tie).unwrap());
    assert_eq!(tied.weight_bytes(), dense.stored_bytes() - 192 * 64 * 2, "a mean has no zeros of its own");
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

use crate::model::{LayerRole, SparseValues, StoredSparse};
use crate::recipe::Rule;

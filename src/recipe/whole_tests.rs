use crate::device::{DeviceInfo, DeviceSpec};
use crate::model::fixtures::tiny_graph;
use crate::model::{BlockShape, LayerRole};
use crate::recipe::{Plan, Recipe, RecipeIssue};

fn device() -> DeviceInfo {
    let spec = DeviceSpec::Cpu { threads: 2 };
    DeviceInfo::named(spec, "test")
}

fn resolve(toml: &str) -> Result<Plan, Vec<RecipeIssue>> {
    let recipe = Recipe::from_toml(&format!("format_version = 1\n{toml}")).unwrap();
    recipe.resolve(&tiny_graph(), &device())
}

/// The only problem of a recipe contains `expected`; with an empty `expected` there is none.
fn check(toml: &str, expected: &str) {
    match (resolve(toml), expected) {
        (Ok(_), "") => {}
        (Ok(_), _) => panic!("no problem: {toml}"),
        (Err(issues), expected) => {
            let texts: Vec<String> = issues.iter().map(ToString::to_string).collect();
            assert!(!expected.is_empty(), "{toml}: {texts:?}");
            assert!(texts.iter().all(|text| text.contains(expected)), "{toml}: {texts:?}");
        }
    }
}

const TEXT: &str = "[calibration]\ndata = \"x.jsonl\"\n";
const INT4: &str = "weights = { int = { bits = 4, group = 32 } }\n";

#[test]
fn methods_that_do_not_go_together_are_refused_in_words() {
    let default = |body: &str| format!("[default]\n{body}\n{TEXT}");
    check(&default(&format!("{INT4}rounding = \"gptq\"")), "");
    check(&default("rounding = \"gptq\""), "");
    check(&default("weights = \"q4_0\"\nrounding = \"hqq\""), "hqq");
    check(&default(&format!("{INT4}rounding = \"imatrix\"")), "imatrix");
    check(&default(&format!("{INT4}rounding = {{ method = \"gptq\", static_groups = false }}")), "static_groups");
    check(&default("weights = \"q8_0\"\nactivations = \"int8_dynamic\""), "int weights");
    check(&default(&format!("{INT4}rounding = \"hqq\"\nsparsity = {{ method = \"wanda\", fraction = 0.5 }}")), "hqq");
    check(&default("low_rank = { ratio = 0.5 }\nsparsity = { method = \"wanda\", fraction = 0.5 }"), "low_rank and");
    check(&default("low_rank = { ratio = 0.0 }"), "low_rank ratio");
    check(&default("sparsity = { method = \"sparsegpt\", fraction = 0.5, scope = \"row\" }"), "leave out scope");
    check(&default("sparsity = { method = \"wanda\", pattern = \"3:7\" }"), "pattern 3:7");
    check(&default(&format!("{INT4}rounding = {{ method = \"gptq\", damping = 2.0 }}")), "gptq damping");
    check(&format!("[[rule]]\ntarget = {{ role = \"embedding\" }}\n{INT4}rounding = \"gptq\"\n{TEXT}"), "embedding");
}

#[test]
fn calibrated_methods_need_a_text_and_the_others_do_not() {
    check(&format!("[default]\n{INT4}rounding = \"gptq\""), "calibration text");
    check("[structure.ffn]\nfraction = 0.5", "calibration text");
    check("[structure]\nupdate = \"none\"\n[structure.ffn]\nfraction = 0.5\nscore = \"weight_norm\"", "");
    check(&format!("[default]\n{INT4}rounding = \"hqq\""), "");
    check("[default]\nweights = \"q4_0\"\nrounding = { method = \"imatrix\", uniform = true }", "");
    check("[default]\nweights = \"native\"\nrounding = \"gptq\"", "");
    check("[default]\nlow_rank = { method = \"svd\", ratio = 0.5 }", "");
}

#[test]
fn layers_that_share_an_input_are_scaled_alike() {
    let q = format!("[[rule]]\ntarget = {{ role = \"q_proj\" }}\n{INT4}rounding = \"awq\"\n");
    check(&format!("{q}{TEXT}"), "norm that they share");
    let group = "[[rule]]\ntarget = { glob = \"*self_attn.[qkv]_proj\" }\n";
    check(&format!("{group}{INT4}rounding = \"awq\"\n{TEXT}"), "");
    let int8 = "weights = { int = { bits = 8, group = \"row\", symmetric = true } }\n";
    let smooth = "activations = { method = \"int8_dynamic\", smoothing = 0.5 }\n";
    check(&format!("[default]\n{int8}{smooth}{TEXT}"), "");
    check(&format!("[default]\n{int8}{smooth}rounding = \"awq\"\n{TEXT}"), "use one of them");
}

#[test]
fn structure_names_what_the_model_has() {
    let plain = "[structure]\nupdate = \"none\"\n";
    check(&format!("{plain}[structure.blocks]\ndrop = [2]"), "block 2");
    check(&format!("{plain}[structure.blocks]\ndrop = [0, 1]"), "keep at least one");
    check(&format!("{plain}[structure.ffn]\nfraction = 0.99\nscore = \"weight_norm\""), "structure.ffn.fraction");
    check(&format!("{plain}[structure.blocks]\ndrop = [1]\ncount = 1"), "not both");
    let ffn = |rest: &str| format!("{plain}[structure.ffn]\nscore = \"weight_norm\"\n{rest}");
    check(&ffn("fraction = 0.3\nblocks = [1, 0]"), "structure.ffn removes nothing");
    check(&ffn("fraction = 0.02"), "structure.ffn removes nothing");
    check(&ffn("fraction = 0.02\nalign = 1"), "");
    check("[kv_cache]\nkeys = \"q8_0\"", "");
    check(
        &format!("{plain}[structure.heads]\nfraction = 0.5\nscore = \"weight_norm\"\n[kv_cache]\nvalues = \"q4_0\""),
        "16",
    );
    check("[attention]\nsinks = 4", "attention.window");
    check("[calibration]\nwindows = 0", "calibration.windows");
    check("[calibration]\ncontext = 1", "calibration.context");
    check("[calibration]\ncontext = 65", "calibration.context");
    check("[calibration]\ncontext = 64\nwindows = 1", "");
    check("[attention]\nwindow = 8\nsinks = 4", "");
    check("[[sharing]]\nrole = \"up_proj\"\nblocks = [0, 1]\nmethod = \"tie\"", "");
    check("[[sharing]]\nrole = \"up_proj\"\nblocks = [0, 0]\nmethod = \"tie\"", "two blocks");
    check(&format!("[[sharing]]\nrole = \"up_proj\"\nblocks = [0, 1]\nmethod = \"basis\"\n{TEXT}"), "sharing ratio");
    let differ = "[[rule]]\ntarget = { blocks = [0, 0] }\nweights = \"q8_0\"\n";
    check(&format!("{differ}[[sharing]]\nrole = \"up_proj\"\nblocks = [0, 1]\nmethod = \"tie\""), "same settings");
}

#[test]
fn cut_widths_are_aligned_and_counted() {
    let plan =
        resolve("[structure]\nupdate = \"none\"\n[structure.ffn]\nfraction = 0.25\nscore = \"weight_norm\"").unwrap();
    let width = BlockShape { n_heads: 4, n_kv_heads: 2, intermediate_size: 160 };
    assert_eq!(plan.blocks, [width, width], "144 of 192 rounded up to a multiple of 32");
    let down = plan.layers.iter().find(|layer| layer.path.as_str().ends_with("down_proj")).unwrap();
    assert_eq!((down.shape, down.packed_bytes), (Some([64, 160]), 64 * 160 * 2));

    let plan = resolve("[structure]\nupdate = \"none\"\n[structure.blocks]\ndrop = [0]\npart = \"attention\"").unwrap();
    assert_eq!((plan.blocks[0].n_heads, plan.blocks[0].intermediate_size, plan.blocks[1].n_heads), (0, 192, 4));
    assert!(plan.layers[1].shape.is_none() && plan.layers[1].packed_bytes == 0);
    assert!(plan.estimated.is_none());

    let plan = resolve(&format!("[structure.blocks]\ncount = 1\n{TEXT}")).unwrap();
    assert!(plan.estimated.is_some() && plan.blocks[1].is_empty());
}

#[test]
fn what_is_shared_counts_once() {
    let whole = resolve("").unwrap().weight_bytes();
    let tied = resolve("[[sharing]]\nrole = \"up_proj\"\nblocks = [0, 1]\nmethod = \"tie\"").unwrap();
    assert_eq!(whole - tied.weight_bytes(), 192 * 64 * 2);
    let text = format!("[[sharing]]\nrole = \"up_proj\"\nblocks = [0, 1]\nmethod = \"basis\"\nratio = 0.5\n{TEXT}");
    let basis = resolve(&text).unwrap();
    let up: u64 = basis
        .layers
        .iter()
        .filter(|layer| layer.path.as_str().ends_with("up_proj"))
        .map(|layer| layer.packed_bytes)
        .sum();
    let dense = 2 * 2 * 192 * 64_u64;
    assert!(up <= dense / 2 && up > dense * 2 / 5, "{up} of {dense}");
}

#[test]
fn thin_factors_of_the_file_count_as_they_are() {
    let dense = tiny_graph();
    let mut thin = dense.clone();
    let layer = thin.layers.iter_mut().find(|layer| layer.role == LayerRole::UpProj).unwrap();
    layer.rank = Some(16);
    let bytes = |graph| Recipe::reference().resolve(graph, &device()).unwrap().weight_bytes();
    assert_eq!(bytes(&dense) - bytes(&thin), (192 * 64 - 16 * (192 + 64)) * 2);
    assert_eq!(bytes(&thin), thin.stored_bytes());
}

#[test]
fn widths_of_blocks_name_the_shapes_of_layers() {
    let graph = tiny_graph();
    let crate::model::ModelFamily::Llama(config) = &graph.family;
    for layer in graph.layers.iter().filter(|layer| layer.block.is_some()) {
        assert_eq!(config.block_shape(0).layer_shape(config, layer.role), Some(layer.shape), "{}", layer.path);
    }
    let narrow = BlockShape { n_heads: 2, n_kv_heads: 1, intermediate_size: 64 };
    let uniform = config.with_block_shapes(&[narrow, narrow, narrow]);
    assert_eq!((uniform.n_blocks, uniform.n_heads, uniform.block_shapes.len()), (3, 2, 0));
    let mixed = config.with_block_shapes(&[narrow, config.block_shape(0)]);
    assert_eq!((mixed.block_shape(0), mixed.block_shape(1).intermediate_size), (narrow, 192));
    let headless = BlockShape { n_heads: 0, n_kv_heads: 0, intermediate_size: 64 };
    assert_eq!(headless.layer_shape(config, LayerRole::OProj), None);
}

#[cfg(feature = "cuda")]
#[path = "stored_tests.rs"]
mod stored;

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::cache::VariantFile;
use crate::compress::structured::{features_of_units, highest, weight_norms};
use crate::device::DeviceInfo;
use crate::model::{LlamaConfig, ModelSource};
use crate::nn::toy::Toy;
use crate::nn::with_values;
use crate::recipe::Recipe;

const CPU: DeviceSpec = DeviceSpec::Cpu { threads: 2 };

/// Writes a toy as a folder of safetensors in f32.
fn write_toy(toy: &Toy, dir: &Path) {
    let LlamaConfig { hidden_size, intermediate_size, n_blocks, n_heads, n_kv_heads, vocab_size, max_context, .. } =
        toy.config;
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden_size,
        "intermediate_size": intermediate_size, "num_hidden_layers": n_blocks, "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads, "head_dim": toy.config.head_dim, "vocab_size": vocab_size,
        "max_position_embeddings": max_context, "rms_norm_eps": toy.config.rms_norm_eps, "rope_theta": toy.config.rope_theta,
        "hidden_act": "silu", "tie_word_embeddings": toy.config.tied_head, "bos_token_id": 1, "eos_token_id": 2,
        "attention_bias": toy.config.attention_bias, "mlp_bias": toy.config.mlp_bias, "torch_dtype": "float32",
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, values) in &toy.weights {
        let row_len = if name.contains("norm") || name.ends_with("bias") {
            None
        } else if name.contains("down_proj") {
            Some(values.len() / hidden_size)
        } else if name.contains("o_proj") {
            Some(n_heads * toy.config.head_dim)
        } else {
            Some(hidden_size)
        };
        let shape = row_len.map_or(vec![values.len()], |row_len| vec![values.len() / row_len, row_len]);
        let begin = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let entry = serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()] });
        header.insert(name.clone(), entry);
    }
    let header = serde_json::to_string(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    std::fs::write(dir.join("model.safetensors"), file).unwrap();
}

pub(super) fn open(toy: &Toy) -> ModelStore {
    let dir = tempfile::tempdir().unwrap();
    write_toy(toy, dir.path());
    let checkpoint = crate::checkpoint::open(&ModelSource::Safetensors { dir: dir.path().to_path_buf() }).unwrap();
    ModelStore::load(checkpoint, CPU, &|_, _| true).unwrap()
}

pub(super) fn store() -> ModelStore {
    open(&Toy::new(|_| ()))
}

/// Windows of tokens that look arbitrary; 512 in all.
pub(super) fn text() -> CalibrationText {
    let token = |i: u32| i.wrapping_mul(2_654_435_761).rotate_left(9) % 128;
    let windows = (0..16).map(|window| (0..32).map(|at| token(window * 32 + at)).collect()).collect();
    CalibrationText::new("text".to_owned(), windows, 16, 16)
}

pub(super) fn plan(store: &ModelStore, recipe: &str) -> Plan {
    let recipe = format!("format_version = 1\n{recipe}");
    let recipe = if recipe.contains("[calibration]") { recipe } else { format!("{recipe}\n[calibration]\n") };
    let recipe = recipe.replace("[calibration]\n", "[calibration]\ndata = \"text.jsonl\"\n");
    let recipe = Recipe::from_toml(&recipe).unwrap();
    let device = DeviceInfo::named(CPU, "");
    recipe.resolve(store.checkpoint().graph(), &device).unwrap_or_else(|issues| panic!("{issues:?}"))
}

pub(super) fn build(store: &mut ModelStore, recipe: &str) -> Variant {
    let plan = plan(store, recipe);
    store.build(&plan, Some(&text()), &()).unwrap()
}

pub(super) fn logits(model: &Llama) -> Vec<f32> {
    let tokens = [1, 5, 99, 0, 127, 42, 42, 7, 64];
    let hidden = model.run_all(&model.embed(&tokens).unwrap(), None).unwrap();
    let mut logits = Vec::new();
    with_values(&model.final_norm(&hidden).unwrap(), |normed| model.head(normed, &mut logits)).unwrap().unwrap();
    logits
}

pub(super) fn difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

pub(super) const GPTQ: &str = "[default]\nweights = { int = { bits = 4, group = 32 } }\nrounding = \"gptq\"";

#[test]
fn recipes_that_take_nothing_away_leave_the_logits_unchanged() {
    let twins = Toy::new(|_| ());
    let mut twins = twins;
    for name in ["mlp.up_proj", "self_attn.v_proj"] {
        let first = twins.weights[&format!("model.layers.0.{name}.weight")].clone();
        twins.weights.insert(format!("model.layers.1.{name}.weight"), first);
    }
    for toy in [
        twins.clone(),
        Toy::new(|config| (config.n_kv_heads, config.attention_bias, config.mlp_bias) = (4, true, true)),
    ] {
        let mut store = open(&toy);
        let expected = logits(&store.reference().clone());
        let tie = "[[sharing]]\nrole = \"up_proj\"\nblocks = [0, 1]\nmethod = \"tie\"";
        let recipes = [
            "[default]\nweights = \"f32\"",
            "[default]\nsparsity = { method = \"wanda\", fraction = 0.0 }",
            "[default]\nsparsity = { method = \"sparsegpt\", fraction = 1e-9 }",
            "[default]\nlow_rank = { method = \"whitened\", energy = 1.0 }",
            "[default]\nlow_rank = { method = \"svd\", energy = 1.0 }\n[calibration]\npolicy = \"dense\"",
            "[structure.ffn]\nfraction = 0.0",
            "[structure.heads]\nfraction = 0.0",
            if toy.config.n_kv_heads == 2 { tie } else { "" },
        ];
        for recipe in recipes {
            let variant = build(&mut store, recipe);
            let worst = difference(&logits(&variant.model), &expected);
            assert!(worst <= 1e-4, "{recipe}: {worst}");
        }
    }
}

#[test]
fn scales_move_without_changing_the_model() {
    // Eight bits after scaling are as near as eight bits without: scales that did not move would be far off.
    for n_kv_heads in [2, 4] {
        let toy =
            Toy::new(|config| (config.n_kv_heads, config.attention_bias, config.mlp_bias) = (n_kv_heads, true, true));
        let mut store = open(&toy);
        let expected = logits(&store.reference().clone());
        let int8 = "[default]\nweights = { int = { bits = 8, group = 32 } }";
        let plain = difference(&logits(&build(&mut store, int8).model), &expected);
        let awq = build(&mut store, &format!("{int8}\nrounding = {{ method = \"awq\", clip = false }}"));
        let found = difference(&logits(&awq.model), &expected);
        assert!(found > 0.0 && found < 3.0 * plain, "{found} against {plain}");
        let unscaled = awq.layers.iter().filter(|layer| layer.notes.iter().any(|note| note.contains("awq"))).count();
        assert_eq!(unscaled, if n_kv_heads == 2 { 2 } else { 0 }, "o_proj under grouped queries");
        let smooth = "[default]\nweights = { int = { bits = 8, group = 32 } }\n\
                      activations = { method = \"int8_dynamic\", smoothing = 0.5 }";
        let smooth = difference(&logits(&build(&mut store, smooth).model), &expected);
        assert!(smooth < 20.0 * plain, "{smooth} against {plain}");
    }
}

#[test]
fn what_was_kept_is_bit_for_bit_what_would_be_made() {
    let dir = tempfile::tempdir().unwrap();
    let files = || Some(Store::open(dir.path(), 1 << 30).unwrap());
    for recipe in [
        GPTQ,
        "[default]\nweights = { int = { bits = 4, group = 32 } }\nrounding = \"awq\"",
        "[structure.ffn]\nfraction = 0.3\n[default]\nlow_rank = { ratio = 0.5 }",
    ] {
        let alone = logits(&build(&mut store(), recipe).model);
        let cold = build(&mut store().with_files(files()), recipe);
        assert_eq!(cold.compressed_layers(), 14, "{recipe}");
        assert_eq!(logits(&cold.model), alone, "{recipe}");
        let warm = build(&mut store().with_files(files()), recipe);
        assert_eq!((warm.compressed_layers(), warm.calibrated.unwrap().read_blocks), (0, 0), "{recipe}");
        assert_eq!(logits(&warm.model), alone, "{recipe}");
        let told = |variant: &Variant| -> Vec<(Option<f64>, u64, Vec<String>)> {
            let layers = variant.layers.iter();
            layers.map(|layer| (layer.output_error, layer.packed_bytes, layer.notes.clone())).collect()
        };
        assert_eq!(told(&warm), told(&cold));
        // Damage: every entry loses its end.
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        }
        let rebuilt = build(&mut store().with_files(files()), recipe);
        assert_eq!((rebuilt.compressed_layers(), logits(&rebuilt.model)), (14, alone), "{recipe}");
    }
}

#[test]
fn only_what_changed_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let files = || Some(Store::open(dir.path(), 1 << 30).unwrap());
    build(&mut store().with_files(files()), GPTQ);
    let changed = format!("{GPTQ}\n[[rule]]\ntarget = {{ path = \"model.layers.1.mlp.up_proj\" }}\nweights = \"q8_0\"");
    let variant = build(&mut store().with_files(files()), &changed);
    assert_eq!(variant.compressed_layers(), 1);
    assert_eq!(
        variant.calibrated.unwrap(),
        Calibrated { secs: variant.calibrated.unwrap().secs, cached_blocks: 1, read_blocks: 0 }
    );
}

#[test]
fn policies_differ_and_memory_holds_both() {
    let mut store = store();
    let sequential = build(&mut store, GPTQ);
    let dense = build(&mut store, &format!("{GPTQ}\n[calibration]\npolicy = \"dense\""));
    let block = |variant: &Variant, from: usize| -> Vec<Option<f64>> {
        variant.layers[from..from + 7].iter().map(|layer| layer.output_error).collect()
    };
    assert_eq!(block(&sequential, 0), block(&dense, 0), "nothing lies before the first block");
    assert!(block(&sequential, 7).iter().zip(block(&dense, 7)).any(|(a, b)| *a != b));
    let again = build(&mut store, GPTQ);
    assert_eq!((again.compressed_layers(), logits(&again.model)), (0, logits(&sequential.model)));
}

pub(super) struct Until(pub(super) AtomicU32, pub(super) u32);

impl Watch for Until {
    fn calibrating(&self, _done: u32, _total: u32) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed) < self.1
    }

    fn compressing(&self, _done: u32, _total: u32) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed) < self.1
    }

    fn made(&self, _layer: &MadeLayer) {}
}

#[test]
fn a_cancelled_build_leaves_nothing_broken() {
    let plan = plan(&store(), GPTQ);
    let whole = Until(AtomicU32::new(0), u32::MAX);
    let expected = logits(&store().build(&plan, Some(&text()), &whole).unwrap().model);
    let steps = whole.0.into_inner();
    for step in [0, 1, steps / 3, steps / 2, steps - 1] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = store().with_files(Some(Store::open(dir.path(), 1 << 30).unwrap()));
        let refused = store.build(&plan, Some(&text()), &Until(AtomicU32::new(0), step)).unwrap_err();
        assert!(matches!(refused, RuntimeError::Cancelled), "{refused}");
        assert_eq!(logits(&store.build(&plan, Some(&text()), &()).unwrap().model), expected);
    }
}

#[test]
fn a_calibrated_recipe_without_a_text_is_refused_in_words() {
    let mut store = store();
    for recipe in [
        GPTQ,
        "[structure.ffn]\nfraction = 0.5",
        "[default]\nsparsity = { method = \"magnitude\", fraction = 0.5, allocation = \"owl\" }",
    ] {
        let plan = plan(&store, recipe);
        let error = store.build(&plan, None, &()).unwrap_err().to_string();
        assert!(error.contains("calibration text"), "{recipe}: {error}");
    }
}

/// Zeroes columns of a layer.
fn zero_columns(toy: &mut Toy, name: &str, row_len: usize, kept: &[usize]) {
    let weights = toy.weights.get_mut(&format!("{name}.weight")).unwrap();
    for (index, weight) in weights.iter_mut().enumerate() {
        if !kept.contains(&(index % row_len)) {
            *weight = 0.0;
        }
    }
}

#[test]
fn removed_channels_and_heads_give_what_their_masks_give() {
    let toy = Toy::new(|config| (config.attention_bias, config.mlp_bias) = (true, true));
    let mut store = open(&toy);
    let recipe = "[structure]\nupdate = \"none\"\n[structure.ffn]\nfraction = 0.5\nscore = \"weight_norm\"\n\
                  [structure.heads]\nfraction = 0.5\nscore = \"weight_norm\"";
    let variant = build(&mut store, recipe);
    let mut masked = toy.clone();
    for block in 0..2 {
        let of = |name: &str| toy.weights[&format!("model.layers.{block}.{name}.weight")].as_slice();
        let channels = weight_norms(&[of("mlp.gate_proj"), of("mlp.up_proj")], of("mlp.down_proj"), 64, 192);
        let qkv = [of("self_attn.q_proj"), of("self_attn.k_proj"), of("self_attn.v_proj")];
        let groups = weight_norms(&qkv, of("self_attn.o_proj"), 64, 2);
        let heads = features_of_units(&highest(&groups, 1), 32);
        zero_columns(&mut masked, &format!("model.layers.{block}.mlp.down_proj"), 192, &highest(&channels, 96));
        zero_columns(&mut masked, &format!("model.layers.{block}.self_attn.o_proj"), 64, &heads);
    }
    let expected = logits(open(&masked).reference());
    let worst = difference(&logits(&variant.model), &expected);
    assert!(worst <= 1e-4, "{worst}");
    assert!(variant.weight_bytes < store.checkpoint().graph().stored_bytes() * 2 / 3);
    let held = |model: &Llama| model.layers().map(|layer| layer.held_bytes()).sum::<u64>();
    assert!(held(&variant.model) < held(store.reference()));
}

#[test]
fn every_score_cuts_and_the_update_is_nearer_to_what_the_block_made() {
    let mut store = store();
    let after_first = |model: &Llama| -> Vec<f32> {
        let state = |window: &Vec<u32>| model.run_blocks(0..1, &model.embed(window).unwrap(), None, None).unwrap();
        text().tokens.iter().flat_map(|window| state(window).flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
    };
    let expected = after_first(store.reference());
    for score in ["weight_norm", "activation_norm", "taylor"] {
        let error = |store: &mut ModelStore, update: &str| {
            let cut = format!("fraction = 0.3\nblocks = [0, 0]\nscore = \"{score}\"");
            let recipe = format!("[structure]\nupdate = \"{update}\"\n[structure.ffn]\n{cut}");
            let found = after_first(&build(store, &recipe).model);
            found.iter().zip(&expected).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
        };
        let (none, updated) = (error(&mut store, "none"), error(&mut store, "least_squares"));
        assert!(updated > 0.0 && updated < none, "{score}: {updated} against {none}");
        let heads = format!("[structure.heads]\nfraction = 0.5\nscore = \"{score}\"");
        let narrow = build(&mut store, &heads);
        assert!(narrow.model.parts().blocks.iter().all(|block| block.shape().n_kv_heads == 1), "{score}");
        assert!(logits(&narrow.model).iter().all(|logit| logit.is_finite()), "{score}");
    }
}

#[test]
fn dropped_blocks_and_parts_are_gone() {
    let toy = Toy::new(|_| ());
    let mut store = open(&toy);
    for (part, names) in [("block", &["self_attn.o_proj", "mlp.down_proj"][..]), ("mlp", &["mlp.down_proj"])] {
        let variant = build(&mut store, &format!("[structure.blocks]\ndrop = [1]\npart = \"{part}\""));
        let mut masked = toy.clone();
        for name in names {
            masked.weights.get_mut(&format!("model.layers.1.{name}.weight")).unwrap().fill(0.0);
        }
        assert!(difference(&logits(&variant.model), &logits(open(&masked).reference())) <= 1e-5, "{part}");
        let prefix = if part == "block" { "model.layers.1." } else { "model.layers.1.mlp" };
        let gone: usize = toy.weights.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, x)| x.len()).sum();
        let norm = if part == "block" { 0 } else { 64 };
        let expected = store.checkpoint().graph().stored_bytes() - 4 * (gone + norm) as u64;
        assert_eq!(variant.weight_bytes, expected, "{part}");
    }
}

#[test]
fn a_block_that_does_nothing_is_the_one_that_goes() {
    let mut toy = Toy::new(|config| config.n_blocks = 3);
    for name in ["self_attn.o_proj", "mlp.down_proj"] {
        toy.weights.get_mut(&format!("model.layers.1.{name}.weight")).unwrap().fill(0.0);
    }
    let store = open(&toy);
    for score in ["block_influence", "measured_kl"] {
        for part in ["block", "attention", "mlp"] {
            let plan = plan(&store, &format!("[structure.blocks]\ncount = 1\nscore = \"{score}\"\npart = \"{part}\""));
            assert_eq!(store.choose_blocks(&plan, &text(), &()).unwrap(), [1], "{score} {part}");
        }
    }
}

#[test]
fn shared_tensors_count_once_and_a_file_says_with_whom() {
    let mut store = store();
    let up = 192 * 64;
    let tie = "[[sharing]]\nrole = \"up_proj\"\nblocks = [0, 1]\nmethod = \"tie\"";
    let basis = "[[sharing]]\nrole = \"up_proj\"\nblocks = [0, 1]\nmethod = \"basis\"\nratio = 0.5";
    let whole = store.checkpoint().graph().stored_bytes();
    let tied = build(&mut store, tie);
    assert_eq!(tied.weight_bytes, whole - up * 4);
    let reference = store.reference().layers().map(|layer| layer.held_bytes()).sum::<u64>();
    assert_eq!(tied.held_bytes(), reference - up * 4);
    let tied_q8 = build(&mut store, &format!("{tie}\n[default]\nweights = \"q8_0\""));
    assert_eq!(tied_q8.compressed_layers(), 13);
    let shared = build(&mut store, basis);
    let rank = crate::recipe::basis_rank([192, 64], 2, 0.5) as u64;
    assert_eq!(shared.weight_bytes, whole - 2 * up * 4 + rank * (2 * 192 + 64) * 4);
    let dir = tempfile::tempdir().unwrap();
    for (recipe, variant) in [(tie, tied), (basis, shared)] {
        let out = dir.path().join("variant");
        let plan = plan(&store, recipe);
        store.make(&plan, Some(&text()), &(), &out).unwrap();
        let file = VariantFile::open(&out).unwrap();
        let [first, second] = ["model.layers.0.mlp.up_proj".into(), "model.layers.1.mlp.up_proj".into()];
        assert_eq!(file.layer(&second).unwrap().shared_with, Some(first));
        for layer in variant.model.layers() {
            let weights = file.weights(layer.path()).unwrap().unwrap().dequantize();
            assert!(difference(&weights, &layer.dequantize().unwrap()) <= 1e-5, "{}", layer.path());
        }
        assert!(file.vector("model.layers.1.input_layernorm.weight").unwrap().is_some());
    }
}

#[test]
fn a_made_file_holds_the_scaled_norms_and_weights() {
    let mut store = store();
    let recipe = "[default]\nweights = { int = { bits = 4, group = 32 } }\nrounding = \"awq\"";
    let variant = build(&mut store, recipe);
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("variant");
    let plan = plan(&store, recipe);
    store.make(&plan, Some(&text()), &(), &out).unwrap();
    let file = VariantFile::open(&out).unwrap();
    let block = &variant.model.parts().blocks[1];
    let norm: Vec<f32> = block.mlp.as_ref().unwrap().norm.to_vec1().unwrap();
    assert_eq!(file.vector("model.layers.1.post_attention_layernorm.weight").unwrap().unwrap(), norm);
    for layer in variant.model.layers() {
        let weights = file.weights(layer.path()).unwrap().unwrap().dequantize();
        assert_eq!(weights, layer.dequantize().unwrap(), "{}", layer.path());
    }
}

#[test]
fn fractions_and_ranks_are_spread_over_layers() {
    let mut store = store();
    let owl = "[default]\nsparsity = { method = \"wanda\", fraction = 0.5, allocation = \"owl\" }";
    let variant = build(&mut store, owl);
    let (mut zeros, mut all, mut shares) = (0, 0, Vec::new());
    for block in &variant.model.parts().blocks {
        let weights: Vec<f32> = block.layers().flat_map(|layer| layer.dequantize().unwrap()).collect();
        let n = weights.iter().filter(|weight| **weight == 0.0).count();
        shares.push(n as f64 / weights.len() as f64);
        (zeros, all) = (zeros + n, all + weights.len());
    }
    // A row of 64 cannot be cut to the last weight: at most one weight a row is missing.
    let rows = 1.0 / 64.0;
    assert!((zeros as f64 / all as f64 - 0.5).abs() < rows, "{shares:?}");
    assert!((shares[0] - shares[1]).abs() > 0.0, "{shares:?}");
    let budget =
        "[default]\nlow_rank = { method = \"whitened\", error_budget = 0.1 }\n[calibration]\npolicy = \"dense\"";
    let errors = build(&mut store, budget).layers.into_iter().filter_map(|layer| layer.output_error);
    let (n, sum) = errors.fold((0.0, 0.0), |(n, sum), error| (n + 1.0, sum + error));
    assert!(sum / n <= 0.1 + 1e-6, "{}", sum / n);
}

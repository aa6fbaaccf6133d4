//! What a worker made, written and read back: widths, factors, shared tensors.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use trimtab::cache::{VariantFile, VariantLayer, VariantWriter};
use trimtab::checkpoint::Checkpoint;
use trimtab::compress::{ActivationGrid, LowRankMatrix, PackedWeights};
use trimtab::export::{self, Existing, ExportError, ExportSummary, Weights};
use trimtab::model::{BlockShape, Layer, LayerPath, LayerRole, LlamaConfig, RopeOrder, StoredFormat};
use trimtab::recipe::LayerSettings;

use crate::checkpoint::builders::{config, folder, open, safetensors, tensors_of};

/// Three blocks of the tiny model.
pub(super) fn three_blocks(root: &Path) -> Checkpoint {
    let dir = root.join("tiny");
    fs::create_dir(&dir).unwrap();
    let tokenizer = serde_json::json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null, "decoder": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
    });
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let mut config = config();
    config["num_hidden_layers"] = 3.into();
    open(&folder(&dir, &config, &safetensors(&tensors_of(3), StoredFormat::F16))).unwrap()
}

/// Values that tell one tensor from another; halves hold them.
pub(super) fn values(name: &str, len: usize) -> Vec<f32> {
    let seed = name.bytes().fold(7_usize, |seed, byte| (seed * 31 + usize::from(byte)) % 65_521);
    (0..len).map(|index| ((index * 7919 + seed) % 509) as f32 / 512.0 - 0.5).collect()
}

fn plain(path: &LayerPath, shape: [usize; 2]) -> VariantLayer {
    VariantLayer {
        path: path.clone(),
        shape,
        settings: LayerSettings::default(),
        activations: ActivationGrid::Float,
        shared_with: None,
    }
}

/// A variant with these widths, every layer made by `make` from its entry in the file.
pub(super) fn variant(
    model: &Checkpoint,
    path: &Path,
    shapes: &[BlockShape],
    make: impl Fn(&Layer, VariantLayer) -> (VariantLayer, PackedWeights),
) -> VariantFile {
    let config = model.config().with_block_shapes(shapes);
    let mut writer = VariantWriter::create(path, config.clone()).unwrap();
    for layer in &model.graph().layers {
        let shape = match layer.block {
            None => Some(layer.shape),
            Some(block) => config.block_shape(usize::from(block)).layer_shape(&config, layer.role),
        };
        let Some(shape) = shape else { continue };
        let (entry, weights) = make(layer, plain(&layer.path, shape));
        writer.layer(entry, &weights, None).unwrap();
    }
    let norms = |block| {
        ["input_layernorm", "post_attention_layernorm"].map(|norm| format!("model.layers.{block}.{norm}.weight"))
    };
    let norms = (0..shapes.len()).flat_map(norms).chain(["model.norm.weight".to_owned()]);
    for name in norms.filter(|name| model.entry(name).is_some()) {
        writer.vector(&name, &values(&name, config.hidden_size)).unwrap();
    }
    writer.finish(vec!["made for a test".to_owned()]).unwrap();
    VariantFile::open(path).unwrap()
}

fn dense(_: &Layer, entry: VariantLayer) -> (VariantLayer, PackedWeights) {
    let values = values(entry.path.as_str(), entry.shape[0] * entry.shape[1]);
    (entry, PackedWeights::F32(values))
}

pub(super) fn to_folder(model: &Checkpoint, weights: Weights<'_>, out: &Path) -> Result<ExportSummary, ExportError> {
    export::safetensors::write(model, weights, None, out, Existing::Refuse, &mut |_, _| ControlFlow::Continue(()))
}

pub(super) fn to_gguf(model: &Checkpoint, weights: Weights<'_>, out: &Path) -> Result<ExportSummary, ExportError> {
    export::gguf::write(model, weights, out, Existing::Refuse, &mut |_, _| ControlFlow::Continue(()))
}

pub(super) fn json(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap()
}

fn shape(n_heads: usize, n_kv_heads: usize, intermediate_size: usize) -> BlockShape {
    BlockShape { n_heads, n_kv_heads, intermediate_size }
}

/// The blocks that are left, under the numbers that they had.
fn left(shapes: &[BlockShape]) -> Vec<(usize, BlockShape)> {
    shapes.iter().copied().enumerate().filter(|(_, shape)| !shape.is_empty()).collect()
}

/// Every layer of `copy` has the widths and values of the block that it was.
fn check_layers(copy: &Checkpoint, shapes: &[BlockShape]) {
    let left = left(shapes);
    let config = copy.config();
    assert_eq!(config.n_blocks, left.len());
    for (number, (was, shape)) in left.iter().enumerate() {
        assert_eq!(config.block_shape(number), *shape, "block {number}");
        for role in LayerRole::ALL {
            let is_it = |layer: &&Layer| layer.role == role && layer.block == u16::try_from(number).ok();
            let found = copy.graph().layers.iter().find(is_it);
            let expected = shape.layer_shape(config, role);
            assert_eq!(found.map(|layer| layer.shape), expected, "block {number} {role:?}");
            // Rows of queries and keys are in another order in GGUF.
            let is_turned = matches!(role, LayerRole::QProj | LayerRole::KProj);
            if let Some(layer) = found.filter(|_| !is_turned || config.rope_order == RopeOrder::Halves) {
                let read = copy.read_f32(&format!("{}.weight", layer.path)).unwrap().unwrap();
                let was = layer.path.as_str().replace(&format!("layers.{number}."), &format!("layers.{was}."));
                assert!(read == values(&was, read.len()), "{}", layer.path);
            }
        }
        for (norm, width) in [("input_layernorm", shape.n_heads), ("post_attention_layernorm", shape.intermediate_size)]
        {
            let name = |block: usize| format!("model.layers.{block}.{norm}.weight");
            let expected = (width > 0).then(|| values(&name(*was), config.hidden_size));
            assert_eq!(copy.read_f32(&name(number)).unwrap(), expected, "{norm} of block {number}");
        }
    }
}

#[test]
fn widths_come_back_in_every_layout_that_has_words_for_them() {
    let full = shape(4, 2, 64);
    // Widths, architecture in config.json, whether GGUF takes them.
    let cases: [(&str, [BlockShape; 3], &str, bool); 7] = [
        ("nothing", [full; 3], "LlamaForCausalLM", true),
        ("uniform", [shape(2, 1, 32); 3], "LlamaForCausalLM", true),
        ("dropped", [full, shape(0, 0, 0), full], "LlamaForCausalLM", true),
        ("narrow and dropped", [shape(0, 0, 0), shape(2, 1, 32), shape(2, 1, 32)], "LlamaForCausalLM", true),
        ("heads that do not divide", [shape(3, 1, 64); 3], "MistralForCausalLM", true),
        ("uneven", [full, shape(2, 1, 32), shape(4, 2, 48)], "TrimtabLlamaForCausalLM", false),
        ("parts", [shape(0, 0, 64), shape(4, 2, 0), full], "TrimtabLlamaForCausalLM", false),
    ];
    for (name, shapes, architecture, has_gguf) in cases {
        let root = tempfile::tempdir().unwrap();
        let model = three_blocks(root.path());
        let file = variant(&model, &root.path().join("variant"), &shapes, dense);
        let out = root.path().join("folder");
        let summary =
            to_folder(&model, Weights::Variant(&file), &out).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(summary.notes.contains(&"made for a test".to_owned()), "{:?}", summary.notes);
        let copy = open(&out).unwrap();
        check_layers(&copy, &shapes);
        assert_eq!(copy.graph().layers[1].stored, StoredFormat::F16, "{name}: halves hold the values");
        let config = json(&out);
        assert_eq!(config["architectures"][0], architecture, "{name}");
        let is_own = architecture == "TrimtabLlamaForCausalLM";
        assert_eq!(!config["trimtab"].is_null(), is_own, "{name}");
        assert_eq!(summary.notes.iter().any(|note| note.contains("transformers does not load")), is_own, "{name}");
        if !is_own {
            assert_eq!(config["num_hidden_layers"], left(&shapes).len(), "{name}");
            let first = left(&shapes)[0].1;
            for (key, expected) in [
                ("num_attention_heads", first.n_heads),
                ("num_key_value_heads", first.n_kv_heads),
                ("intermediate_size", first.intermediate_size),
            ] {
                assert_eq!(config[key], expected, "{name} {key}");
            }
        }
        // What was read is written and read again.
        let again = root.path().join("again");
        to_folder(&copy, Weights::Settings(&vec![LayerSettings::default(); copy.graph().layers.len()]), &again)
            .unwrap();
        let again = open(&again).unwrap();
        check_layers(&again, &shapes);
        assert_eq!((again.config(), again.graph().layers.len()), (copy.config(), copy.graph().layers.len()), "{name}");

        let gguf = to_gguf(&model, Weights::Variant(&file), &root.path().join("x.gguf"));
        if has_gguf {
            let path: PathBuf = gguf.unwrap_or_else(|error| panic!("{name}: {error}")).path;
            check_layers(&open(&path).unwrap(), &shapes);
        } else {
            let message = gguf.unwrap_err().to_string();
            assert!(message.contains("GGUF has blocks of one width only"), "{name}: {message}");
            assert!(!root.path().join("x.gguf").exists());
        }
    }
}

fn halves(name: &str, len: usize) -> PackedWeights {
    PackedWeights::F16(values(name, len).into_iter().map(half::f16::from_f32).collect())
}

/// Every `up_proj` in two factors of rank 3.
fn factored(layer: &Layer, entry: VariantLayer) -> (VariantLayer, PackedWeights) {
    if layer.role != LayerRole::UpProj {
        return dense(layer, entry);
    }
    let [rows, row_len] = entry.shape;
    let path = entry.path.as_str();
    let up = halves(&format!("{path}.up"), rows * 3);
    let down = halves(&format!("{path}.down"), 3 * row_len);
    let factors = LowRankMatrix { up: Box::new(up), down: Arc::new(down), shape: [rows, 3, row_len] };
    (entry, PackedWeights::LowRank(factors))
}

#[test]
fn factors_come_back_and_run_as_two_products() {
    let root = tempfile::tempdir().unwrap();
    let model = three_blocks(root.path());
    let full = [shape(4, 2, 64); 3];
    let file = variant(&model, &root.path().join("variant"), &full, factored);
    let out = root.path().join("folder");
    to_folder(&model, Weights::Variant(&file), &out).unwrap();
    assert_eq!(json(&out)["trimtab"]["low_rank"]["model.layers.2.mlp.up_proj"], 3);
    let copy = open(&out).unwrap();
    let path = LayerPath("model.layers.2.mlp.up_proj".to_owned());
    let layer = copy.graph().layer(&path).unwrap();
    assert_eq!((layer.rank, layer.stored, layer.n_weights()), (Some(3), StoredFormat::F16, 3 * (64 + 32)));
    assert_eq!(copy.entry("model.layers.2.mlp.up_proj.weight"), None);
    let up = copy.read_f32("model.layers.2.mlp.up_proj.up.weight").unwrap().unwrap();
    assert_eq!(up, values("model.layers.2.mlp.up_proj.up", 64 * 3));
    assert!(copy.entries().iter().all(|entry| copy.is_used(entry)));
    let file_bytes: u64 = copy.entries().iter().map(|entry| entry.len).sum();
    assert_eq!(copy.graph().stored_bytes(), file_bytes);

    // The product of the factors, as one matrix, gives the same logits.
    let whole = variant(&model, &root.path().join("whole"), &full, |layer, entry| {
        let (entry, weights) = factored(layer, entry);
        (entry, PackedWeights::F32(weights.dequantize()))
    });
    let dense_out = root.path().join("dense");
    to_folder(&model, Weights::Variant(&whole), &dense_out).unwrap();
    let (low, high) = (logits(&out), logits(&dense_out));
    let worst = low.iter().zip(&high).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let largest = high.iter().map(|logit| logit.abs()).fold(0.0, f32::max);
    assert!(worst < 1e-4 * largest.max(1.0) && largest > 0.1, "{worst} of {largest}");

    let refused = to_gguf(&model, Weights::Variant(&file), &root.path().join("x.gguf")).unwrap_err().to_string();
    assert!(refused.contains("no low-rank factors") && refused.contains("model.layers.0.mlp.up_proj"), "{refused}");
    // Compressed again, the layer is one matrix, and plain words are enough.
    let mut settings = vec![LayerSettings::default(); copy.graph().layers.len()];
    for (layer, settings) in copy.graph().layers.iter().zip(&mut settings).filter(|(layer, _)| layer.rank.is_some()) {
        assert_eq!(layer.role, LayerRole::UpProj);
        *settings = LayerSettings::of(trimtab::recipe::WeightFormat::F32);
    }
    let plain = root.path().join("plain");
    to_folder(&copy, Weights::Settings(&settings), &plain).unwrap();
    assert_eq!(json(&plain)["architectures"][0], "LlamaForCausalLM");
    let product = open(&plain).unwrap().read_f32("model.layers.2.mlp.up_proj.weight").unwrap().unwrap();
    assert_eq!(product, file.weights(&path).unwrap().unwrap().dequantize());
}

/// Logits after four tokens.
pub(super) fn logits(folder: &Path) -> Vec<f32> {
    let store = trimtab::runtime::ModelStore::load(
        open(folder).unwrap(),
        trimtab::device::DeviceSpec::Cpu { threads: 1 },
        &|_, _| true,
    );
    logits_of(store.unwrap().reference())
}

pub(super) fn logits_of(model: &trimtab::nn::Llama) -> Vec<f32> {
    let hidden =
        model.run_blocks(0..model.config().n_blocks, &model.embed(&[1, 5, 9, 30]).unwrap(), None, None).unwrap();
    let mut logits = Vec::new();
    trimtab::nn::with_values(&model.final_norm(&hidden).unwrap(), |normed| model.head(normed, &mut logits))
        .unwrap()
        .unwrap();
    logits
}

#[test]
fn shared_tensors_are_written_once_and_read_by_both() {
    let root = tempfile::tempdir().unwrap();
    let model = three_blocks(root.path());
    let full = [shape(4, 2, 64); 3];
    let owner = |name: &str| LayerPath(format!("model.layers.0.mlp.{name}"));
    let basis = Arc::new(halves("basis", 2 * 32));
    let file = variant(&model, &root.path().join("variant"), &full, |layer, mut entry| match layer.role {
        LayerRole::DownProj => {
            entry.shared_with = (layer.block != Some(0)).then(|| owner("down_proj"));
            let weights = PackedWeights::F32(values("tied", entry.shape[0] * entry.shape[1]));
            (entry, weights)
        }
        LayerRole::GateProj => {
            entry.shared_with = (layer.block != Some(0)).then(|| owner("gate_proj"));
            let up = Box::new(halves(entry.path.as_str(), 64 * 2));
            (entry, PackedWeights::LowRank(LowRankMatrix { up, down: Arc::clone(&basis), shape: [64, 2, 32] }))
        }
        _ => dense(layer, entry),
    });
    let out = root.path().join("folder");
    to_folder(&model, Weights::Variant(&file), &out).unwrap();
    let own = &json(&out)["trimtab"];
    assert_eq!(own["shared"]["model.layers.2.mlp.down_proj"], "model.layers.0.mlp.down_proj");
    let copy = open(&out).unwrap();
    let named = |part: &str| copy.entries().iter().filter(|entry| entry.name.ends_with(part)).count();
    assert_eq!((named("down_proj.weight"), named("gate_proj.up.weight"), named("gate_proj.down.weight")), (1, 3, 1));
    for block in 0..3 {
        let read = |part: &str| copy.read_f32(&format!("model.layers.{block}.mlp.{part}.weight")).unwrap().unwrap();
        assert_eq!(read("down_proj"), values("tied", 64 * 32));
        assert_eq!(read("gate_proj.down"), values("basis", 2 * 32));
        assert_eq!(read("gate_proj.up"), values(&format!("model.layers.{block}.mlp.gate_proj"), 64 * 2));
    }
    let file_bytes: u64 = copy.entries().iter().map(|entry| entry.len).sum();
    assert_eq!(copy.graph().stored_bytes(), file_bytes, "what is shared counts once");
    let stored: u64 = copy.graph().layers.iter().map(Layer::n_weights).sum();
    assert_eq!(copy.graph().n_parameters(), stored + copy.graph().other_weights);
    assert!(logits(&out).iter().all(|logit| logit.is_finite()));
    // A block that goes takes its name with it, and a chain keeps its end.
    let again = root.path().join("again");
    let native = vec![LayerSettings::default(); copy.graph().layers.len()];
    to_folder(&copy, Weights::Settings(&native), &again).unwrap();
    assert_eq!(json(&again)["trimtab"], *own);
    assert!(logits(&again) == logits(&out));
    // With the owner compressed, the others have what it had.
    let mut settings = native;
    let first = copy.graph().layers.iter().position(|layer| layer.path == owner("down_proj")).unwrap();
    settings[first] = LayerSettings::of(trimtab::recipe::WeightFormat::Bf16);
    let alone = root.path().join("alone");
    to_folder(&copy, Weights::Settings(&settings), &alone).unwrap();
    let alone = open(&alone).unwrap();
    let down = |block: usize| alone.entry(&format!("model.layers.{block}.mlp.down_proj.weight")).unwrap().format;
    assert_eq!((down(0), down(1)), (StoredFormat::Bf16, copy.graph().layers[first].stored));
}

#[test]
fn blocks_of_a_gguf_model_go_too() {
    let root = tempfile::tempdir().unwrap();
    let model = three_blocks(root.path());
    let native = vec![LayerSettings::default(); model.graph().layers.len()];
    let path = root.path().join("tiny.gguf");
    to_gguf(&model, Weights::Settings(&native), &path).unwrap();
    let source = open(&path).unwrap();
    let shapes = [shape(2, 1, 32), shape(0, 0, 0), shape(2, 1, 32)];
    let file = variant(&source, &root.path().join("variant"), &shapes, dense);
    let cut = to_gguf(&source, Weights::Variant(&file), &root.path().join("cut.gguf")).unwrap().path;
    let cut = open(&cut).unwrap();
    let expected =
        LlamaConfig { n_blocks: 2, n_heads: 2, n_kv_heads: 1, intermediate_size: 32, ..source.config().clone() };
    assert_eq!(cut.config(), &expected);
    check_layers(&cut, &shapes);
    let folder = root.path().join("folder");
    to_folder(&source, Weights::Variant(&file), &folder).unwrap();
    assert_eq!(open(&folder).unwrap().config(), &LlamaConfig { rope_order: RopeOrder::Halves, ..expected });
}

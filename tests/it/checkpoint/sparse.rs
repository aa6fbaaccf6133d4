//! Layers whose zeros are left out: written, read back, run; what lies about them is refused by its place.

use std::fs;
use std::path::{Path, PathBuf};

use half::f16;
use serde_json::{Value, json};
use trimtab::cache::{VariantFile, VariantLayer};
use trimtab::checkpoint::Checkpoint;
use trimtab::compress::{Job, PackedWeights, compress};
use trimtab::device::{DeviceInfo, DeviceSpec};
use trimtab::export::Weights;
use trimtab::model::{BlockShape, Layer, LayerPath, LayerRole, SparseValues, StoredFormat, StoredSparse};
use trimtab::recipe::{
    Execution, Group, IntFormat, LayerSettings, Recipe, SparseStorage, Sparsity, WeightFormat, settings_bits,
};
use trimtab::runtime::ModelStore;

use crate::checkpoint::builders::{open, safetensors_file};
use crate::checkpoint::compressed_tensors::to_compressed_tensors;
use crate::checkpoint::variants::{json, logits, logits_of, three_blocks, to_folder, to_gguf, values, variant};

const INT8: WeightFormat = WeightFormat::Int(IntFormat { bits: 8, group: Group::Row, symmetric: true });

fn settings(weights: WeightFormat) -> LayerSettings {
    let sparsity = Sparsity { storage: SparseStorage::Bitmask, ..Sparsity::magnitude(0.6) };
    LayerSettings { sparsity: Some(sparsity), ..LayerSettings::of(weights) }
}

/// Layers of the blocks pruned, MLPs in f16 and attention in int8, or all in f16; the embedding stays.
fn pruned(all_halves: bool) -> impl Fn(&Layer, VariantLayer) -> (VariantLayer, PackedWeights) {
    move |layer, mut entry| {
        let dense = values(entry.path.as_str(), entry.shape[0] * entry.shape[1]);
        if layer.block.is_none() {
            return (entry, PackedWeights::F16(dense.iter().map(|value| f16::from_f32(*value)).collect()));
        }
        let is_mlp = matches!(layer.role, LayerRole::GateProj | LayerRole::UpProj | LayerRole::DownProj);
        entry.settings = settings(if is_mlp || all_halves { WeightFormat::F16 } else { INT8 });
        let job = Job {
            dense: &dense,
            shape: entry.shape,
            settings: &entry.settings,
            native: StoredFormat::F16,
            moments: None,
        };
        let weights = compress(&job).unwrap().weights;
        (entry, weights)
    }
}

fn full() -> [BlockShape; 3] {
    [BlockShape { n_heads: 4, n_kv_heads: 2, intermediate_size: 64 }; 3]
}

fn native(model: &Checkpoint) -> Vec<LayerSettings> {
    vec![LayerSettings::default(); model.graph().layers.len()]
}

/// A model, its pruned variant, and the folder that the variant was written to.
fn exported(root: &Path, all_halves: bool) -> (Checkpoint, VariantFile, PathBuf) {
    let model = three_blocks(root);
    let file = variant(&model, &root.join("variant"), &full(), pruned(all_halves));
    let out = root.join("folder");
    let summary = to_folder(&model, Weights::Variant(&file), &out).unwrap();
    assert!(summary.notes[0].contains("sparse layers under the key \"trimtab\""), "{:?}", summary.notes);
    assert!(!summary.notes.iter().any(|note| note.contains("not smaller")), "{:?}", summary.notes);
    (model, file, out)
}

#[test]
fn zeros_stay_out_of_the_folder_and_its_numbers_are_the_variant_s() {
    let root = tempfile::tempdir().unwrap();
    let (model, file, out) = exported(root.path(), false);
    let copy = open(&out).unwrap();
    assert_eq!(json(&out)["trimtab"]["sparse"]["model.layers.2.mlp.up_proj"], "f16");
    assert_eq!(json(&out)["trimtab"]["sparse"]["model.layers.2.self_attn.q_proj"], "int8");
    let mut packed = 0;
    for (layer, was) in copy.graph().layers.iter().zip(&model.graph().layers) {
        let weights = file.weights(&layer.path).unwrap().unwrap();
        packed += weights.packed_bytes();
        let PackedWeights::Sparse(matrix) = &weights else {
            assert!(layer.sparse.is_none() && layer.block.is_none());
            continue;
        };
        let n_values = matrix.n_values() as u64;
        assert_eq!(layer.sparse, Some(StoredSparse { values: matrix.kind(), n_values }), "{}", layer.path);
        let planned = settings_bits(layer.shape, &settings_of(&file, &layer.path), was.stored).unwrap();
        assert_eq!(weights.packed_bytes() * 8, planned, "{}: as the recipe promised", layer.path);
        assert_eq!((layer.n_weights(), layer.stored), (was.n_weights(), matrix.kind().dense()));
        let parts = copy.read_sparse(layer).unwrap().unwrap();
        assert_eq!(parts.bitmask, matrix.bitmask());
    }
    let norms = copy.graph().other_bytes;
    assert_eq!(copy.graph().stored_bytes(), packed + norms);
    let header = fs::read(out.join("model.safetensors")).unwrap();
    let header_len = u64::from_le_bytes(header[..8].try_into().unwrap()) + 8;
    assert_eq!(header.len() as u64 - header_len, packed + norms, "the file has what is counted");
    assert!(copy.refused().is_empty() && copy.entries().iter().all(|entry| copy.is_used(entry)));

    // The same weights as dense values give the same logits.
    let whole = variant(&model, &root.path().join("whole"), &full(), |layer, entry| {
        let (entry, weights) = pruned(false)(layer, entry);
        (
            VariantLayer { settings: LayerSettings::of(WeightFormat::F32), ..entry },
            PackedWeights::F32(weights.dequantize()),
        )
    });
    let dense_out = root.path().join("dense");
    to_folder(&model, Weights::Variant(&whole), &dense_out).unwrap();
    assert_eq!(reference(&copy), reference(&open(&dense_out).unwrap()), "the numbers of every layer, bit for bit");
    let (low, high) = (logits(&out), logits(&dense_out));
    let worst = low.iter().zip(&high).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let largest = high.iter().map(|logit| logit.abs()).fold(0.0, f32::max);
    assert!(worst < 1e-3 * largest.max(1.0) && largest > 0.1, "{worst} of {largest}");

    // What was read is written and read again.
    let again = root.path().join("again");
    to_folder(&copy, Weights::Settings(&native(&copy)), &again).unwrap();
    assert_eq!(json(&again)["trimtab"], json(&out)["trimtab"]);
    assert_eq!(fs::read(again.join("model.safetensors")).unwrap(), header);
    assert!(logits(&again) == logits(&out));
}

fn settings_of(file: &VariantFile, path: &LayerPath) -> LayerSettings {
    file.layer(path).unwrap().settings
}

/// Made from a recipe and run, then exported, opened and run.
#[test]
fn a_made_variant_gives_its_logits_again() {
    let root = tempfile::tempdir().unwrap();
    let recipe = "format_version = 1\n[default]\nweights = \"native\"\nsparsity = { method = \"magnitude\", fraction = 0.5, \
                  storage = \"bitmask\" }\n[[rule]]\ntarget = { glob = \"*.self_attn.*\" }\nweights = { int = { bits = 8, \
                  group = \"row\", symmetric = true } }\n[[rule]]\ntarget = { role = \"down_proj\" }\nsparsity = { method = \
                  \"magnitude\", pattern = \"2:4\", storage = \"bitmask\" }\n";
    let spec = DeviceSpec::Cpu { threads: 1 };
    let device = DeviceInfo::named(spec, "");
    let model = three_blocks(root.path());
    let plan = Recipe::from_toml(recipe).unwrap().resolve(model.graph(), &device).unwrap();
    assert!(plan.layers.iter().skip(1).all(|layer| layer.execution == Execution::Packed));
    let mut store = ModelStore::load(model, spec, &|_, _| true).unwrap();
    let made = root.path().join("variant");
    let variant = store.make(&plan, None, &(), &made).unwrap();
    assert_eq!(variant.weight_bytes, plan.weight_bytes(), "the recipe's promise");
    let out = root.path().join("folder");
    let file = VariantFile::open(&made).unwrap();
    to_folder(store.checkpoint(), Weights::Variant(&file), &out).unwrap();
    let copy = open(&out).unwrap();
    assert_eq!(copy.graph().stored_bytes(), variant.weight_bytes, "what the file has is what was counted");
    assert!(logits(&out) == logits_of(&variant.model));
    // Left as they are, the layers go into a variant's file and out of it again without their zeros.
    let plan = Recipe::reference().resolve(copy.graph(), &device).unwrap();
    assert_eq!(plan.weight_bytes(), variant.weight_bytes);
    let mut store = ModelStore::load(copy, spec, &|_, _| true).unwrap();
    let again = root.path().join("variant again");
    store.make(&plan, None, &(), &again).unwrap();
    let file = VariantFile::open(&again).unwrap();
    let out_again = root.path().join("again");
    to_folder(store.checkpoint(), Weights::Variant(&file), &out_again).unwrap();
    let bytes = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
    assert!(bytes(&out_again) == bytes(&out));
}

/// The values of every layer as the program loads them.
fn reference(checkpoint: &Checkpoint) -> Vec<Vec<f32>> {
    let copy = open(checkpoint.source().path()).unwrap();
    let store = ModelStore::load(copy, DeviceSpec::Cpu { threads: 1 }, &|_, _| true).unwrap();
    store.reference().layers().map(|layer| layer.dequantize().unwrap()).collect()
}

#[test]
fn other_layouts_write_the_zeros_and_say_so() {
    let root = tempfile::tempdir().unwrap();
    let (model, file, out) = exported(root.path(), true);
    let copy = open(&out).unwrap();
    let dense = |checkpoint: &Checkpoint, path: &LayerPath| checkpoint.read_f32(&format!("{path}.weight")).unwrap();
    let gguf = root.path().join("x.gguf");
    let note = "21 sparse layers are written with their zeros; the file is not smaller for them";
    for (source, weights) in [(&model, Weights::Variant(&file)), (&copy, Weights::Settings(&native(&copy)))] {
        let summary = to_gguf(source, weights, &gguf).unwrap();
        assert!(summary.notes.iter().any(|found| found == note), "{:?}", summary.notes);
        let written = open(&gguf).unwrap();
        let path = LayerPath("model.layers.1.mlp.up_proj".to_owned());
        assert_eq!(dense(&written, &path), Some(file.weights(&path).unwrap().unwrap().dequantize()));
        assert_eq!(written.graph().layer(&path).unwrap().stored, StoredFormat::F16);
        fs::remove_file(&gguf).unwrap();
    }
    // A dense format for everything is what was asked for.
    let f32 = root.path().join("f32");
    let progress = &mut |_, _| std::ops::ControlFlow::Continue(());
    let summary = trimtab::export::safetensors::write(
        &copy,
        Weights::Settings(&native(&copy)),
        Some(StoredFormat::F32),
        &f32,
        trimtab::export::Existing::Refuse,
        progress,
    );
    assert!(summary.unwrap().notes.iter().any(|found| found == note));
    assert_eq!(json(&f32)["architectures"][0], "LlamaForCausalLM");

    // Integer codes keep their grid where the layout has one.
    let other = root.path().join("other");
    fs::create_dir(&other).unwrap();
    let (model, file, out) = exported(&other, false);
    let refused = to_gguf(&model, Weights::Variant(&file), &gguf).unwrap_err().to_string();
    assert!(refused.contains("no uniform integer grids") && refused.contains("q_proj"), "{refused}");
    for (name, source, weights) in [
        ("variant", &model, Weights::Variant(&file)),
        ("copy", &open(&out).unwrap(), Weights::Settings(&native(&model))),
    ] {
        let folder = other.join(name).with_extension("ct");
        let summary = to_compressed_tensors(source, weights, &folder).unwrap();
        assert!(summary.notes.iter().any(|found| found == note), "{:?}", summary.notes);
        assert!(json(&folder)["quantization_config"].is_object() && json(&folder)["trimtab"].is_null());
    }
    let bytes = |name: &str| fs::read(other.join(name).join("model.safetensors")).unwrap();
    assert!(bytes("variant.ct") == bytes("copy.ct"));
}

#[test]
fn rows_of_a_gguf_model_are_turned_with_their_bits() {
    let root = tempfile::tempdir().unwrap();
    let model = three_blocks(root.path());
    let gguf = root.path().join("model.gguf");
    to_gguf(&model, Weights::Settings(&native(&model)), &gguf).unwrap();
    let turned = open(&gguf).unwrap();
    let file = variant(&turned, &root.path().join("variant"), &full(), pruned(false));
    let [sparse, dense] = ["sparse", "dense"].map(|name| root.path().join(name));
    to_folder(&turned, Weights::Variant(&file), &sparse).unwrap();
    let whole = variant(&turned, &root.path().join("whole"), &full(), |layer, entry| {
        let (entry, weights) = pruned(false)(layer, entry);
        (
            VariantLayer { settings: LayerSettings::of(WeightFormat::F32), ..entry },
            PackedWeights::F32(weights.dequantize()),
        )
    });
    to_folder(&turned, Weights::Variant(&whole), &dense).unwrap();
    assert_eq!(reference(&open(&sparse).unwrap()), reference(&open(&dense).unwrap()));
}

#[test]
fn a_sparse_tensor_can_be_shared() {
    let root = tempfile::tempdir().unwrap();
    let model = three_blocks(root.path());
    let owner = LayerPath("model.layers.0.mlp.down_proj".to_owned());
    let file = variant(&model, &root.path().join("variant"), &full(), |layer, mut entry| {
        if layer.role != LayerRole::DownProj {
            return pruned(true)(layer, entry);
        }
        let path = std::mem::replace(&mut entry.path, owner.clone());
        let (made, weights) = pruned(true)(layer, entry);
        let shared_with = (path != owner).then(|| owner.clone());
        (VariantLayer { path, shared_with, ..made }, weights)
    });
    let out = root.path().join("folder");
    to_folder(&model, Weights::Variant(&file), &out).unwrap();
    let copy = open(&out).unwrap();
    let down: Vec<&Layer> = copy.graph().layers.iter().filter(|layer| layer.role == LayerRole::DownProj).collect();
    assert_eq!(down[0].sparse, down[2].sparse);
    assert_eq!((down[1].shared_with.as_ref(), down[1].n_weights()), (Some(&owner), 0));
    assert_eq!(copy.read_sparse(down[0]).unwrap(), copy.read_sparse(down[2]).unwrap());
    let file_bytes = fs::metadata(out.join("model.safetensors")).unwrap().len();
    assert!(copy.graph().stored_bytes() < file_bytes);
    let again = root.path().join("again");
    to_folder(&copy, Weights::Settings(&native(&copy)), &again).unwrap();
    assert!(logits(&again) == logits(&out));
}

/// A safetensors file with one tensor's entry or bytes changed.
fn changed(bytes: &[u8], name: &str, change: &dyn Fn(&mut Value, &mut [u8])) -> Vec<u8> {
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
    let mut data = bytes[8 + header_len..].to_vec();
    let at = |header: &Value, end: usize| header[name]["data_offsets"][end].as_u64().unwrap() as usize;
    let range = at(&header, 0)..at(&header, 1);
    change(&mut header[name], &mut data[range]);
    safetensors_file(&header.to_string(), &data)
}

#[test]
fn parts_that_lie_are_refused_by_their_place() {
    type Change = fn(&mut Value, &mut [u8]);
    let root = tempfile::tempdir().unwrap();
    let (_, _, out) = exported(root.path(), false);
    let whole = fs::read(out.join("model.safetensors")).unwrap();
    let (q, up) = ("model.layers.1.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight");
    let cases: [(&str, &str, Change, &str); 11] = [
        (up, "bitmask", |_, bytes| bytes[5] ^= 1, "counts another number of values"),
        (up, "row_starts", |_, bytes| bytes[4] ^= 1, "row 1 begins at value"),
        (up, "row_starts", |_, bytes| bytes[..4].fill(0xff), "row 0 begins at value 4294967295"),
        (up, "values", |_, bytes| bytes[2..4].copy_from_slice(&f16::NAN.to_le_bytes()), "number 1 is not finite"),
        (q, "scales", |_, bytes| bytes[4..6].copy_from_slice(&f16::INFINITY.to_le_bytes()), "number 2 is not positive"),
        (q, "scales", |_, bytes| bytes[..2].fill(0), "number 0 is not positive"),
        (up, "bitmask", |entry, _| entry["shape"] = json!([32, 8]), "up_proj.weight.bitmask"),
        (up, "row_starts", |entry, _| entry["shape"] = json!([32, 2]), "up_proj.weight.row_starts"),
        (up, "bitmask", |entry, _| entry["dtype"] = json!("I8"), "up_proj.weight.bitmask: dtype I8"),
        (q, "values", |entry, _| entry["dtype"] = json!("U8"), "q_proj.weight.values"),
        (q, "scales", |entry, _| entry["dtype"] = json!("BF16"), "not bf16"),
    ];
    for (layer, part, change, expected) in cases {
        let name = format!("{layer}.{part}");
        fs::write(out.join("model.safetensors"), changed(&whole, &name, &change)).unwrap();
        let message = match open(&out) {
            Err(error) => error.to_string(),
            Ok(copy) => {
                let path = LayerPath(layer.trim_end_matches(".weight").to_owned());
                let error = copy.read_sparse(copy.graph().layer(&path).unwrap()).unwrap_err().to_string();
                assert!(error.contains(&name) && error.contains("at byte"), "{error}");
                error
            }
        };
        assert!(message.contains(expected), "{name}: {message}");
    }
}

#[test]
fn what_the_key_says_of_sparse_layers_must_fit_the_files() {
    let root = tempfile::tempdir().unwrap();
    let (_, _, out) = exported(root.path(), false);
    let config = json(&out);
    let with = |change: &dyn Fn(&mut Value)| {
        let mut config = config.clone();
        change(&mut config["trimtab"]);
        fs::write(out.join("config.json"), config.to_string()).unwrap();
        open(&out).map(drop).unwrap_err().to_string()
    };
    let up = "model.layers.1.mlp.up_proj";
    let check = |found: String, part: &str| assert!(found.contains(part), "{found}");
    check(with(&|own| own["sparse"][up] = json!("int8")), "up_proj.weight.scales");
    check(with(&|own| own["sparse"][up] = json!("int4")), "int4");
    check(with(&|own| own["sparse"]["model.layers.9.mlp.up_proj"] = json!("f16")), "is no layer of the model");
    check(with(&|own| own["low_rank"] = json!({up: 3})), "or has factors");
    check(with(&|own| drop(own["sparse"].as_object_mut().unwrap().remove(up))), "up_proj.weight");
    check(
        with(&|own| own["shared"] = json!({up: "model.layers.0.mlp.up_proj"})),
        "up_proj.weight is in the files, too",
    );
    assert_eq!(SparseValues::F16.name(), "sparse f16");
}

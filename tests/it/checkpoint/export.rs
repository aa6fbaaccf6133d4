use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use trimtab::checkpoint::Checkpoint;
use trimtab::compress::{Job, compress};
use trimtab::export::{self, Existing, ExportError, ExportSummary, Weights};
use trimtab::model::{GgmlType, LayerRole, RopeOrder, StoredFormat};
use trimtab::recipe::{Group, IntFormat, LayerSettings, Sparsity, WeightFormat};

use crate::checkpoint::builders::{Gguf, config, folder, open, safetensors, tensors};

fn demo() -> Checkpoint {
    open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/stories15M")).unwrap()
}

fn tiny(root: &Path) -> PathBuf {
    let dir = root.join("tiny");
    fs::create_dir(&dir).unwrap();
    let tokenizer = serde_json::json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null, "decoder": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
    });
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    folder(&dir, &config(), &safetensors(&tensors(), StoredFormat::F16))
}

fn native(model: &Checkpoint) -> Vec<LayerSettings> {
    vec![LayerSettings::default(); model.graph().layers.len()]
}

fn weights(format: WeightFormat) -> LayerSettings {
    LayerSettings::of(format)
}

fn to_gguf(model: &Checkpoint, settings: &[LayerSettings], out: &Path) -> Result<ExportSummary, ExportError> {
    export::gguf::write(
        model,
        Weights::Settings(settings),
        out,
        Existing::Refuse,
        &mut |_, _| ControlFlow::Continue(()),
    )
}

fn to_folder(
    model: &Checkpoint,
    dtype: Option<StoredFormat>,
    out: &Path,
    existing: Existing,
) -> Result<ExportSummary, ExportError> {
    export::safetensors::write(model, Weights::Settings(&native(model)), dtype, out, existing, &mut |_, _| {
        ControlFlow::Continue(())
    })
}

fn listing(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_gguf_holds_the_same_model_and_words() {
    let root = tempfile::tempdir().unwrap();
    let (model, out) = (demo(), root.path().join("stories.gguf"));
    let summary = to_gguf(&model, &native(&model), &out).unwrap();
    assert_eq!(summary.bytes, fs::metadata(&out).unwrap().len());
    assert!(summary.notes.is_empty());
    assert_eq!(listing(root.path()), ["stories.gguf"]);
    let copy = open(&out).unwrap();
    assert_eq!(copy.config().rope_order, RopeOrder::Interleaved);
    assert_eq!(copy.config().eos_tokens, [2]);
    let mut expected = model.config().clone();
    expected.rope_order = RopeOrder::Interleaved;
    assert_eq!(copy.config(), &expected);
    assert_eq!(copy.graph().layers, model.graph().layers);

    let name = "model.layers.3.mlp.up_proj.weight";
    let bytes = |model: &Checkpoint, name: &str| model.read(model.entry(name).unwrap()).unwrap();
    assert_eq!(bytes(&copy, name), bytes(&model, name));
    // Head 1 of six, width 48: pair 5 is rows 5 and 29 of the head there, rows 10 and 11 here.
    let name = "model.layers.3.self_attn.k_proj.weight";
    let (there, here) = (bytes(&model, name), bytes(&copy, name));
    let row = |bytes: &[u8], row: usize| bytes[row * 576..(row + 1) * 576].to_vec();
    assert_eq!(row(&here, 48 + 10), row(&there, 48 + 5));
    assert_eq!(row(&here, 48 + 11), row(&there, 48 + 24 + 5));

    let (original, rebuilt) = (model.tokenizer().unwrap(), copy.tokenizer().unwrap());
    let stories = include_str!("../../../assets/demo/search.jsonl");
    for line in stories.lines().take(50) {
        let story: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = story["text"].as_str().unwrap();
        assert_eq!(copy.encode(&rebuilt, text).unwrap(), model.encode(&original, text).unwrap());
    }
}

#[test]
fn the_way_to_gguf_and_back_changes_no_byte() {
    let root = tempfile::tempdir().unwrap();
    let (model, out) = (demo(), root.path().join("stories.gguf"));
    to_gguf(&model, &native(&model), &out).unwrap();
    let middle = open(&out).unwrap();
    let back = root.path().join("back");
    to_folder(&middle, Some(StoredFormat::F16), &back, Existing::Refuse).unwrap();
    let back = open(&back).unwrap();
    assert_eq!(back.config(), model.config());
    for entry in model.entries() {
        let found = back.entry(&entry.name).unwrap();
        assert_eq!(found.format, StoredFormat::F16);
        assert!(back.read(found).unwrap() == model.read(entry).unwrap(), "{}", entry.name);
    }
    let (a, b) = (model.tokenizer().unwrap(), back.tokenizer().unwrap());
    assert_eq!(
        model.encode(&a, "One day, Lily met a shoggoth").unwrap(),
        back.encode(&b, "One day, Lily met a shoggoth").unwrap()
    );
}

#[test]
fn every_layer_gets_its_own_type() {
    let root = tempfile::tempdir().unwrap();
    let (model, out) = (demo(), root.path().join("mixed.gguf"));
    let mut settings = native(&model);
    for (layer, settings) in model.graph().layers.iter().zip(&mut settings) {
        settings.weights = match layer.role {
            LayerRole::Embedding => WeightFormat::Q8_0,
            LayerRole::DownProj => WeightFormat::Q4k,
            LayerRole::QProj => WeightFormat::Q4_0,
            LayerRole::UpProj => WeightFormat::Bf16,
            _ => WeightFormat::Native,
        };
        if layer.role == LayerRole::GateProj {
            settings.sparsity = Some(Sparsity::magnitude(0.5));
        }
    }
    to_gguf(&model, &settings, &out).unwrap();
    let copy = open(&out).unwrap();
    for layer in &copy.graph().layers {
        let expected = match layer.role {
            LayerRole::Embedding => StoredFormat::Ggml(GgmlType::Q8_0),
            LayerRole::DownProj => StoredFormat::Ggml(GgmlType::Q4k),
            LayerRole::QProj => StoredFormat::Ggml(GgmlType::Q4_0),
            LayerRole::UpProj => StoredFormat::Bf16,
            _ => StoredFormat::F16,
        };
        assert_eq!(layer.stored, expected, "{}", layer.path);
    }
    let gate = copy.read_f32("model.layers.0.mlp.gate_proj.weight").unwrap().unwrap();
    assert!(gate.iter().filter(|weight| **weight == 0.0).count() >= gate.len() / 2);
}

#[test]
fn a_folder_says_what_it_dequantized() {
    let root = tempfile::tempdir().unwrap();
    let model = open(&tiny(root.path())).unwrap();
    let mut settings = native(&model);
    settings[1] = weights(WeightFormat::Int(IntFormat { bits: 4, group: Group::Size(32), symmetric: false }));
    settings[2] = weights(WeightFormat::Q8_0);
    settings[3] = weights(WeightFormat::F32);
    let out = root.path().join("copy");
    let run = |dtype, out: &Path| {
        export::safetensors::write(&model, Weights::Settings(&settings), dtype, out, Existing::Refuse, &mut |_, _| {
            ControlFlow::Continue(())
        })
    };
    let summary = run(None, &out).unwrap();
    let exact = "written as f32 with exactly the values that were measured; the folder is not smaller";
    assert_eq!(summary.notes, [format!("2 packed layers are {exact}")]);
    assert_eq!(listing(&out), ["config.json", "model.safetensors", "tokenizer.json"]);
    let copy = open(&out).unwrap();
    let stored = |layer: usize| copy.graph().layers[layer].stored;
    assert_eq!(
        (stored(0), stored(1), stored(2), stored(3)),
        (StoredFormat::F16, StoredFormat::F32, StoredFormat::F32, StoredFormat::F32)
    );
    let first = copy.read_f32("model.layers.0.self_attn.q_proj.weight").unwrap().unwrap();
    let mut values: Vec<u32> = first[..32].iter().map(|value| value.to_bits()).collect();
    values.sort_unstable();
    values.dedup();
    assert!(values.len() <= 16, "a group of 4-bit codes has {} values", values.len());
    let dense = model.read_f32("model.layers.0.self_attn.q_proj.weight").unwrap().unwrap();
    let measured = compress(&Job {
        dense: &dense,
        shape: model.graph().layers[1].shape,
        settings: &settings[1],
        native: StoredFormat::F16,
        moments: None,
    })
    .unwrap()
    .weights;
    assert!(first == measured.dequantize(), "what is written is what is measured");
    let bf16 = root.path().join("bf16");
    let rounded = run(Some(StoredFormat::Bf16), &bf16).unwrap();
    assert!(rounded.notes[0].contains("bf16, which rounds"), "{:?}", rounded.notes);
    assert!(open(&bf16).unwrap().entries().iter().all(|entry| entry.format == StoredFormat::Bf16));
    let config: serde_json::Value = serde_json::from_slice(&fs::read(bf16.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["torch_dtype"], "bfloat16");

    let refused = to_gguf(&model, &settings, &root.path().join("x.gguf")).unwrap_err().to_string();
    assert!(refused.contains("model.layers.0.self_attn.q_proj") && refused.contains("q8_0"), "{refused}");
    assert_eq!(listing(root.path()), ["bf16", "copy", "tiny"]);
}

#[test]
fn a_gguf_source_becomes_a_folder() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("tiny.gguf");
    fs::write(&path, Gguf::tiny(StoredFormat::Ggml(GgmlType::Q8_0)).bytes()).unwrap();
    let model = open(&path).unwrap();
    let out = root.path().join("folder");
    let summary = to_folder(&model, None, &out, Existing::Refuse).unwrap();
    assert!(summary.notes[0].starts_with("8 packed layers are written as f32 with exactly"), "{:?}", summary.notes);
    let copy = open(&out).unwrap();
    let mut expected = model.config().clone();
    expected.rope_order = RopeOrder::Halves;
    assert_eq!(copy.config(), &expected);
    // And once more as GGUF: packed layers are copied byte for byte.
    let again = root.path().join("again.gguf");
    to_gguf(&model, &native(&model), &again).unwrap();
    let again = open(&again).unwrap();
    for entry in model.entries() {
        let found = again.entries().iter().find(|found| found.name == entry.name).unwrap();
        assert_eq!(again.read(found).unwrap(), model.read(entry).unwrap(), "{}", entry.name);
    }
}

#[test]
fn the_source_is_never_the_target() {
    let root = tempfile::tempdir().unwrap();
    let dir = tiny(root.path());
    let hashes =
        || ["config.json", "model.safetensors", "tokenizer.json"].map(|name| fs::read(dir.join(name)).unwrap());
    let before = hashes();
    let model = open(&dir).unwrap();
    let (link, hard, words) = (root.path().join("link"), root.path().join("hard.gguf"), root.path().join("words.gguf"));
    symlink(&dir, &link).unwrap();
    fs::hard_link(dir.join("model.safetensors"), &hard).unwrap();
    fs::hard_link(dir.join("tokenizer.json"), &words).unwrap();
    let over_folder =
        [dir.clone(), link.clone(), root.path().to_owned(), root.path().join("tiny/../tiny"), link.join("inside")];
    for target in over_folder {
        for existing in [Existing::Refuse, Existing::Replace] {
            let error = to_folder(&model, None, &target, existing).unwrap_err();
            assert!(matches!(error, ExportError::OverSource { .. }), "{target:?}: {error}");
        }
    }
    let inside = ["model.safetensors", "config.json", "tokenizer.json", "../tiny/config.json", "new.gguf"];
    let targets = inside.iter().flat_map(|name| [dir.join(name), link.join(name)]).chain([hard, words]);
    for target in targets {
        let mut progress = |_, _| ControlFlow::Continue(());
        let error =
            export::gguf::write(&model, Weights::Settings(&native(&model)), &target, Existing::Replace, &mut progress)
                .unwrap_err();
        assert!(matches!(error, ExportError::OverSource { .. }), "{target:?}: {error}");
    }
    assert!(hashes() == before);
    assert_eq!(listing(&dir), ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(listing(root.path()), ["hard.gguf", "link", "tiny", "words.gguf"]);
}

#[test]
fn only_an_exported_model_is_replaced() {
    let root = tempfile::tempdir().unwrap();
    let model = open(&tiny(root.path())).unwrap();
    let out = root.path().join("out");
    to_folder(&model, None, &out, Existing::Refuse).unwrap();
    let message = |existing| to_folder(&model, Some(StoredFormat::F32), &out, existing).unwrap_err().to_string();
    assert!(message(Existing::Refuse).contains("exists already"));
    to_folder(&model, Some(StoredFormat::F32), &out, Existing::Replace).unwrap();
    assert_eq!(open(&out).unwrap().graph().layers[0].stored, StoredFormat::F32);
    fs::write(out.join("notes.txt"), "mine").unwrap();
    assert!(message(Existing::Replace).contains("notes.txt"));
    assert_eq!(fs::read(out.join("notes.txt")).unwrap(), b"mine");
    let absent = root.path().join("absent/out");
    assert!(to_folder(&model, None, &absent, Existing::Refuse).is_err());
    assert_eq!(listing(root.path()), ["out", "tiny"]);
}

#[test]
fn a_cancelled_or_failed_export_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let model = open(&tiny(root.path())).unwrap();
    let settings = native(&model);
    for stop_at in 0..=11 {
        let mut calls = 0;
        let mut progress = |done: u64, total: u64| {
            assert!(done <= total);
            calls += 1;
            if calls > stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let out = root.path().join("out");
        let gguf = export::gguf::write(&model, Weights::Settings(&settings), &out, Existing::Refuse, &mut progress);
        assert!(matches!(gguf, Err(ExportError::Cancelled)));
        calls = 0;
        let mut progress = |_, _| {
            calls += 1;
            if calls > stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let folder = export::safetensors::write(
            &model,
            Weights::Settings(&settings),
            None,
            &out,
            Existing::Refuse,
            &mut progress,
        );
        assert!(matches!(folder, Err(ExportError::Cancelled)));
        assert_eq!(listing(root.path()), ["tiny"]);
    }
    // The source is cut while the export runs: the layers before have been written by then.
    let weights = root.path().join("tiny/model.safetensors");
    let mut progress = |done: u64, _| {
        if done > 0 {
            fs::OpenOptions::new().write(true).open(&weights).unwrap().set_len(600).unwrap();
        }
        ControlFlow::Continue(())
    };
    let error = export::gguf::write(
        &model,
        Weights::Settings(&settings),
        &root.path().join("out"),
        Existing::Refuse,
        &mut progress,
    )
    .unwrap_err();
    assert!(error.to_string().contains("file changed while being read"), "{error}");
    assert_eq!(listing(root.path()), ["tiny"]);
}

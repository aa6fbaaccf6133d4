//! Models are opened, hostile ones refused with a reason.

#![expect(clippy::unwrap_used, reason = "a helper that fails ends the test")]

pub(crate) mod builders;
mod compressed_tensors;
mod export;
mod folders;
mod gguf;
mod own;
mod safetensors;
mod sparse;
mod variants;

use std::path::Path;

use trimtab::checkpoint;
use trimtab::model::{LayerRole, ModelFamily, ModelSource, RopeOrder, StoredFormat};

use builders::{open, weight};

#[test]
fn the_embedded_model_opens() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/stories15M");
    for path in [dir.clone(), dir.join("config.json"), dir.join("model.safetensors")] {
        assert_eq!(checkpoint::detect(&path).unwrap(), ModelSource::Safetensors { dir: dir.clone() });
    }
    let model = open(&dir).unwrap();
    let graph = model.graph();
    assert_eq!(graph.layers.iter().filter(|layer| layer.block.is_some()).count(), 42);
    assert_eq!(graph.layers[0].role, LayerRole::Embedding);
    assert_eq!(graph.layers.len(), 43);
    assert_eq!(graph.n_parameters(), 15_191_712);
    assert_eq!(graph.stored_bytes(), 2 * 15_191_712);
    assert_eq!(graph.fingerprint, open(&dir).unwrap().graph().fingerprint);
    assert_eq!(graph.fingerprint.0.len(), 32);
    let ModelFamily::Llama(config) = &graph.family;
    assert!(config.tied_head && config.rope_order == RopeOrder::Halves && config.bos_token == Some(1));
    assert!(model.refused().is_empty());
    assert_eq!(model.entries().len(), 56);
    assert!(model.entries().iter().all(|entry| model.is_used(entry)));
    assert_eq!(model.entry("model.layers.5.mlp.down_proj.weight").unwrap().shape, [288, 768]);
    assert_eq!(model.read_f32("model.norm.weight").unwrap().unwrap().len(), 288);
    assert_eq!(model.read_f32("lm_head.weight").unwrap(), None);

    let tokenizer = model.tokenizer().unwrap();
    let ids = model.encode(&tokenizer, "Once upon a time").unwrap();
    assert_eq!(ids, [1, 9038, 2501, 263, 931]);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "Once upon a time");
}

#[test]
fn weights_are_widened_exactly() {
    for format in [StoredFormat::F32, StoredFormat::F16, StoredFormat::Bf16] {
        let root = tempfile::tempdir().unwrap();
        let weights = builders::safetensors(&builders::tensors(), format);
        let model = open(&builders::folder(root.path(), &builders::config(), &weights)).unwrap();
        let read = model.read_f32("model.layers.0.mlp.down_proj.weight").unwrap().unwrap();
        let expected = |index| match format {
            StoredFormat::F16 => half::f16::from_f32(weight(index)).to_f32(),
            StoredFormat::Bf16 => half::bf16::from_f32(weight(index)).to_f32(),
            _ => weight(index),
        };
        assert!(read.iter().enumerate().all(|(index, &value)| value == expected(index)), "{}", format.name());
        assert_eq!(model.graph().layers[1].stored, format);
    }
}

#[test]
fn other_things_are_not_models() {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = root.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let cases = [
        (write("a.gguf", b""), "empty"),
        (write("b.gguf", b"GGU"), "damaged"),
        (write("c.pth", b"PK\x03\x04rest"), "pickle"),
        (write("d.txt", b"hello"), "not a Hugging Face folder"),
        (write("e.safetensors", b"\x08\0\0\0\0\0\0\0{}"), "config.json"),
        (root.path().to_owned(), "config.json"),
        (root.path().join("absent"), "No such file"),
        (Path::new("/dev/null").to_owned(), "regular file"),
    ];
    for (path, expected) in cases {
        let message = checkpoint::detect(&path).unwrap_err().to_string();
        assert!(message.contains(expected), "{path:?}: {message}");
    }
    // Known by its content, not by its name.
    let renamed = write("model.bin", &builders::Gguf::tiny(StoredFormat::F16).bytes());
    assert_eq!(checkpoint::detect(&renamed).unwrap(), ModelSource::Gguf { file: renamed });
}

#[test]
fn a_file_that_changes_is_not_read_on() {
    let root = tempfile::tempdir().unwrap();
    let weights = builders::safetensors(&builders::tensors(), StoredFormat::F32);
    let dir = builders::folder(root.path(), &builders::config(), &weights);
    let path = dir.join("model.safetensors");
    let read = |model: &checkpoint::Checkpoint| model.read_f32("model.norm.weight").map_err(|error| error.to_string());

    let model = open(&dir).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(read(&model).is_ok(), "a deleted file is still whole");

    std::fs::write(&path, &weights).unwrap();
    let model = open(&dir).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    assert!(read(&model).unwrap_err().starts_with("file changed while being read"));
}

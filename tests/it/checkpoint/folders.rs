use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;
use trimtab::model::StoredFormat;

use crate::checkpoint::builders::{config, open, safetensors, tensors};

/// A folder with two shards and an index that names them as given.
fn sharded(root: &Path, first: &str, second: &str) {
    let all = tensors();
    let (left, right) = all.split_at(5);
    fs::write(root.join("config.json"), config().to_string()).unwrap();
    fs::write(root.join("model-1.safetensors"), safetensors(left, StoredFormat::F16)).unwrap();
    fs::write(root.join("model-2.safetensors"), safetensors(right, StoredFormat::F16)).unwrap();
    let map: serde_json::Map<_, _> = left
        .iter()
        .map(|(name, _)| (name.clone(), json!(first)))
        .chain(right.iter().map(|(name, _)| (name.clone(), json!(second))))
        .collect();
    fs::write(root.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
}

#[test]
fn shards_are_one_model() {
    let root = tempfile::tempdir().unwrap();
    sharded(root.path(), "model-1.safetensors", "model-2.safetensors");
    let whole = tempfile::tempdir().unwrap();
    crate::checkpoint::builders::folder(whole.path(), &config(), &safetensors(&tensors(), StoredFormat::F16));
    let (sharded, whole) = (open(root.path()).unwrap(), open(whole.path()).unwrap());
    assert_eq!(sharded.graph().layers, whole.graph().layers);
    assert_eq!(sharded.graph().fingerprint, whole.graph().fingerprint);
    let name = "model.layers.0.mlp.up_proj.weight";
    assert_eq!(sharded.entry(name).unwrap().file, 1);
    assert_eq!(sharded.read_f32(name).unwrap(), whole.read_f32(name).unwrap());
}

#[test]
fn an_index_leads_nowhere_else() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("model-1.safetensors");
    fs::write(&secret, safetensors(&tensors()[..5], StoredFormat::F16)).unwrap();
    let absolute = secret.to_str().unwrap().to_owned();
    let long = "x".repeat(300);
    let names =
        ["../model-1.safetensors", &absolute, "a/b", "a\\b", ".", "..", "", "x\0y", &long, "absent.safetensors"];
    for name in names {
        let root = tempfile::tempdir().unwrap();
        sharded(root.path(), name, "model-2.safetensors");
        assert!(open(root.path()).is_err(), "{name:?} was accepted");
    }
    let root = tempfile::tempdir().unwrap();
    let refusal = |prepare: &dyn Fn(&Path)| {
        sharded(root.path(), "shard", "model-2.safetensors");
        prepare(&root.path().join("shard"));
        let message = open(root.path()).map(|_| ()).unwrap_err().to_string();
        let shard = root.path().join("shard");
        if shard.is_dir() {
            fs::remove_dir(shard).unwrap();
        } else {
            fs::remove_file(shard).unwrap();
        }
        message
    };
    assert!(refusal(&|shard| symlink(&secret, shard).unwrap()).contains("a link to"));
    assert!(refusal(&|shard| symlink("model-1.safetensors", shard).unwrap()).contains("a link to"));
    assert!(refusal(&|shard| symlink("../../blobs/../x", shard).unwrap()).contains("a link to"));
    assert!(refusal(&|shard| fs::create_dir(shard).unwrap()).contains("regular file"));
    let fifo = |shard: &Path| {
        rustix::fs::mkfifoat(rustix::fs::CWD, shard, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    };
    assert!(refusal(&fifo).contains("regular file"));
}

#[test]
fn the_layout_of_the_model_cache_is_known() {
    let root = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (root.path().join("blobs"), root.path().join("snapshots/abc"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(blobs.join("c0"), config().to_string()).unwrap();
    fs::write(blobs.join("w0"), safetensors(&tensors(), StoredFormat::F16)).unwrap();
    symlink("../../blobs/c0", snapshot.join("config.json")).unwrap();
    symlink("../../blobs/w0", snapshot.join("model.safetensors")).unwrap();
    assert_eq!(open(&snapshot).unwrap().graph().layers.len(), 8);
    // A blob that is itself a link leads out.
    let outside = tempfile::tempdir().unwrap();
    fs::rename(blobs.join("w0"), outside.path().join("w0")).unwrap();
    symlink(outside.path().join("w0"), blobs.join("w0")).unwrap();
    assert!(open(&snapshot).is_err());
}

#[test]
fn an_index_and_its_shards_agree() {
    let root = tempfile::tempdir().unwrap();
    let index = root.path().join("model.safetensors.index.json");
    let message = || open(root.path()).map(|_| ()).unwrap_err().to_string();
    sharded(root.path(), "model-1.safetensors", "model-1.safetensors");
    assert!(message().contains("is not in shard"));
    sharded(root.path(), "model-1.safetensors", "model-2.safetensors");
    fs::write(root.path().join("model-2.safetensors"), safetensors(&tensors(), StoredFormat::F16)).unwrap();
    assert!(message().contains("another shard"));
    fs::write(&index, r#"{"weight_map": {"a": "x", "a": "y"}}"#).unwrap();
    assert!(message().contains("stands twice"));
    fs::write(&index, "[".repeat(1_000_000)).unwrap();
    assert!(message().contains("weight_map"));
    fs::write(&index, " ".repeat((16 << 20) + 1)).unwrap();
    assert!(message().contains("configuration or index"));
    fs::remove_file(&index).unwrap();
    assert!(message().contains("neither model.safetensors nor"));
}

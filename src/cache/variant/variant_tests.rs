use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::compress::{LowRankMatrix, PackedWeights, round_to_nearest, serial};
use crate::model::{ModelFamily, fixtures::tiny_graph};
use crate::recipe::{Group, IntFormat, WeightFormat};

const SHAPE: [usize; 2] = [6, 64];

fn config() -> LlamaConfig {
    let ModelFamily::Llama(config) = tiny_graph().family;
    config
}

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect()
}

fn layer(path: &str, shared_with: Option<&str>) -> VariantLayer {
    VariantLayer {
        path: path.into(),
        shape: SHAPE,
        settings: LayerSettings::of(WeightFormat::Q4_0),
        activations: ActivationGrid::Int8Static { scale: 0.1 },
        shared_with: shared_with.map(LayerPath::from),
    }
}

/// A matrix, its twin, a pair with a shared basis and a corrected one, each of another content.
fn layers() -> Vec<(VariantLayer, PackedWeights)> {
    let dense = values(6 * 64);
    let format = IntFormat { bits: 3, group: Group::Size(32), symmetric: false };
    let int = PackedWeights::Int(round_to_nearest(&dense, 64, format).unwrap());
    let down = Arc::new(PackedWeights::F32(values(2 * 64)));
    let factors = |sign: f32| LowRankMatrix {
        up: Box::new(PackedWeights::F32(values(12).iter().map(|value| value * sign).collect())),
        down: Arc::clone(&down),
        shape: [6, 2, 64],
    };
    vec![
        (layer("a", None), int.clone()),
        (layer("b", Some("a")), int.clone()),
        (layer("c", None), PackedWeights::LowRank(factors(1.0))),
        (layer("d", Some("c")), PackedWeights::LowRank(factors(-1.0))),
        (layer("e", None), PackedWeights::Corrected { base: Box::new(int), term: factors(2.0) }),
    ]
}

fn write(path: &Path) -> u64 {
    let mut writer = VariantWriter::create(path, config()).unwrap();
    for (layer, weights) in layers() {
        let bias = (layer.path.0 == "c").then(|| values(6));
        writer.layer(layer, &weights, bias.as_deref()).unwrap();
    }
    writer.vector("model.norm.weight", &[0.1, -2.0]).unwrap();
    writer.finish(vec!["a note".to_owned()]).unwrap()
}

#[test]
fn a_variant_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made/x.variant");
    let len = write(&path);
    assert_eq!(fs::metadata(&path).unwrap().len(), len);
    let file = VariantFile::open(&path).unwrap();
    assert_eq!((file.config(), file.file_bytes(), file.notes()), (&config(), len, &["a note".to_owned()][..]));
    let expected = layers();
    assert_eq!(file.layers().cloned().collect::<Vec<_>>(), expected.iter().map(|x| x.0.clone()).collect::<Vec<_>>());
    for (layer, weights) in expected {
        assert_eq!(file.layer(&layer.path), Some(&layer));
        assert_eq!(file.weights(&layer.path).unwrap(), Some(weights));
        let bias = (layer.path.0 == "c").then(|| values(6));
        assert_eq!(file.bias(&layer.path).unwrap(), bias);
    }
    assert_eq!(file.vector("model.norm.weight").unwrap(), Some(vec![0.1, -2.0]));
    assert_eq!(file.vector_names().collect::<Vec<_>>(), ["model.norm.weight"]);
    assert!(file.weights(&"none".into()).unwrap().is_none() && file.vector("none").unwrap().is_none());
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn shared_tensors_take_their_bytes_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    write(&path);
    let bytes = fs::read(&path).unwrap();
    let count = |weights: &PackedWeights| {
        let needle = serial::encode_weights(weights);
        bytes.windows(needle.len()).filter(|window| *window == needle).count()
    };
    assert_eq!((count(&layers()[0].1), count(&PackedWeights::F32(values(128)))), (1, 1));
}

#[test]
fn unfinished_files_leave_nothing_and_paths_are_taken_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let (first, weights) = layers().remove(0);
    {
        let mut writer = VariantWriter::create(&path, config()).unwrap();
        writer.layer(first.clone(), &weights, None).unwrap();
        assert!(writer.layer(first, &weights, None).unwrap_err().to_string().contains("twice"));
        assert!(writer.vector("a", &[1.0]).is_err());
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Cuts and changed bytes are found when the file is opened or when the tensor is read.
#[test]
fn damage_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    write(&path);
    let whole = fs::read(&path).unwrap();
    let read_all = || -> Result<(), VariantError> {
        let file = VariantFile::open(&path)?;
        let paths: Vec<LayerPath> = file.layers().map(|layer| layer.path.clone()).collect();
        for layer in paths {
            file.weights(&layer)?;
            file.bias(&layer)?;
        }
        file.vector("model.norm.weight").map(drop)
    };
    assert!(read_all().is_ok());
    for at in (0..whole.len()).step_by(13).chain(0..PRELUDE_LEN) {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        fs::write(&path, &changed).unwrap();
        assert!(read_all().is_err(), "byte {at}");
        fs::write(&path, &whole[..at]).unwrap();
        assert!(read_all().is_err(), "cut at {at}");
    }
}

/// A header whose checksum fits may lie all the same.
#[test]
fn headers_that_lie_are_refused() {
    type Change = fn(&mut Header);
    let cases: [(Change, &str); 7] = [
        (|header| header.layers[1].layer.path = "a".into(), "twice"),
        (|header| header.layers[0].layer.shape = [usize::MAX, 2], "shape"),
        (|header| header.layers[0].layer.shape = [0, 64], "shape"),
        (|header| header.layers[0].weights = StoredWeights::Whole(lying(0, 1)), "not in the file"),
        (|header| header.layers[0].weights = StoredWeights::Whole(lying(100, u64::MAX)), "not in the file"),
        (|header| header.layers[0].bias = Some(lying(100, u64::MAX)), "another bias"),
        (|header| header.config.block_shapes = vec![header.config.block_shape(0)], "widths of 1 blocks"),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    for (change, expected) in cases {
        let mut writer = VariantWriter::create(&path, config()).unwrap();
        for (layer, weights) in layers() {
            writer.layer(layer, &weights, None).unwrap();
        }
        writer.change(change);
        writer.finish(Vec::new()).unwrap();
        let error = VariantFile::open(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let mut writer = VariantWriter::create(&path, config()).unwrap();
    writer.layer(layers().remove(0).0, &layers()[0].1, None).unwrap();
    writer.change(|header| header.layers[0].layer.shape = [1 << 20, 1 << 20]);
    writer.finish(Vec::new()).unwrap();
    let file = VariantFile::open(&path).unwrap();
    assert!(file.weights(&"a".into()).unwrap_err().to_string().contains("layer a"));
}

fn lying(offset: u64, len: u64) -> Extent {
    Extent { offset, len, hash: [0; 32] }
}

use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;

use crate::checkpoint;
use crate::compress::CompressError;
use crate::export::model::OutModel;
use crate::export::rows::Rows;
use crate::export::tensors::{Content, Element, Job, Output, Target, tensor};
use crate::export::{ExportError, Weights, layers};
use crate::model::{GgmlType, ModelSource, RopeOrder, StoredFormat};
use crate::recipe::{LayerSettings, WeightFormat};

/// A file in memory.
struct Memory(Mutex<Vec<u8>>);

impl Output for Memory {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut file = self.0.lock().unwrap();
        let (begin, end) = (offset as usize, offset as usize + bytes.len());
        let len = file.len().max(end);
        file.resize(len, 0xee);
        file[begin..end].copy_from_slice(bytes);
        Ok(())
    }
}

#[test]
fn bands_are_the_rows_of_the_whole_layer_in_the_order_that_is_wanted() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/stories15M");
    let source = checkpoint::open(&ModelSource::Safetensors { dir }).unwrap();
    let graph = source.graph();
    for weights in [WeightFormat::Native, WeightFormat::Q8_0, WeightFormat::Q5_1] {
        let settings = vec![LayerSettings::of(weights); graph.layers.len()];
        let model = OutModel::new(&source, Weights::Settings(&settings)).unwrap();
        let mut tensors = Vec::new();
        for (index, layer) in model.layers.iter().enumerate().take(6) {
            let format = weights.ggml().map_or(layer.kind.dense(), StoredFormat::Ggml);
            let content = Content::Weights(index);
            let made = tensor(layer.path.to_string(), layer.shape.to_vec(), Element::Stored(format), content);
            tensors.push(made.unwrap());
        }
        let file = Memory(Mutex::new(Vec::new()));
        let (mut last, mut n_told) = (0, 0);
        let mut progress = |done, total| {
            assert!(last <= done && done <= total);
            (last, n_told) = (done, n_told + 1);
            ControlFlow::Continue(())
        };
        let target = Target { out: &file, path: Path::new("out"), begin: 64, alignment: 32 };
        Job::new(&model, RopeOrder::Interleaved, &mut progress).write(&target, &tensors).unwrap();
        assert!(n_told > tensors.len(), "bands are told one by one");
        let file = file.0.into_inner().unwrap();
        let mut begin = 64;
        for (index, tensor) in tensors.iter().enumerate() {
            let whole = layers::make(&source, &graph.layers[index], &settings[index]).unwrap();
            let whole = whole.into_bytes(&tensor.name, tensor.element.stored().unwrap()).unwrap();
            let (role, n_outputs) = (graph.layers[index].role, tensor.shape[0]);
            let whole = Rows { role, n_outputs, model: source.config() }.reorder(whole, RopeOrder::Interleaved);
            assert!(file[begin..begin + whole.len()] == whole, "{} {}", tensor.name, weights.label());
            begin = (begin + whole.len()).next_multiple_of(32);
        }
        assert_eq!(file.len(), begin);
    }
}

#[test]
fn what_a_band_cannot_judge_is_judged_as_a_whole_layer() {
    let root = tempfile::tempdir().unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/stories15M");
    for entry in std::fs::read_dir(&demo).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, root.path().join(from.file_name().unwrap())).unwrap();
    }
    let open = || checkpoint::open(&ModelSource::Safetensors { dir: root.path().to_owned() }).unwrap();
    let (before, name) = (open(), "model.layers.3.mlp.down_proj.weight");
    let entry = before.entry(name).unwrap();
    let index = 200_000;
    let size = StoredFormat::block_bytes(entry.format);
    // All bits of the exponent set: no number in any dense format.
    let bytes = vec![0xff; size];
    let file = std::fs::OpenOptions::new().write(true).open(before.files()[entry.file].path()).unwrap();
    FileExt::write_all_at(&file, &bytes, entry.offset + (index * size) as u64).unwrap();
    drop(file);
    let source = open();
    let settings = vec![LayerSettings::of(WeightFormat::Q8_0); source.graph().layers.len()];
    let model = OutModel::new(&source, Weights::Settings(&settings)).unwrap();
    let number = model.layers.iter().position(|layer| format!("{}.weight", layer.path) == name).unwrap();
    let element = Element::Stored(StoredFormat::Ggml(GgmlType::Q8_0));
    let shape = model.layers[number].shape.to_vec();
    let tensors = [tensor(name.to_owned(), shape, element, Content::Weights(number)).unwrap()];
    let file = Memory(Mutex::new(Vec::new()));
    let target = Target { out: &file, path: Path::new("out"), begin: 0, alignment: 32 };
    let mut progress = |_, _| ControlFlow::Continue(());
    let error = Job::new(&model, RopeOrder::Interleaved, &mut progress).write(&target, &tensors).unwrap_err();
    let ExportError::Compress { source: CompressError::NonFinite { index: found, .. }, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(found, index);
}

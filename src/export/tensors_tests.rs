use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::export::atomic::{Kind, Staging};
use crate::export::{Existing, Weights};
use crate::recipe::LayerSettings;

/// A disk with room for so many bytes.
struct Disk(AtomicUsize);

impl Output for Disk {
    fn write_all_at(&self, bytes: &[u8], _: u64) -> io::Result<()> {
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(bytes.len()));
        taken.map(drop).map_err(|_taken| io::ErrorKind::StorageFull.into())
    }
}

fn demo() -> Checkpoint {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/stories15M");
    checkpoint::open(&ModelSource::Safetensors { dir }).unwrap()
}

#[test]
fn a_full_disk_is_an_error_wherever_it_is_full() {
    let source = demo();
    let settings = vec![LayerSettings::default(); source.graph().layers.len()];
    let naming = Naming {
        name: &|canonical| Some(canonical.to_owned()),
        weights: &|index, layer| {
            let element = Element::Stored(layer.kind.dense());
            Ok(vec![tensor(layer.path.to_string(), layer.shape.to_vec(), element, Content::Weights(index))?])
        },
        vector_format: &|stored| stored,
        rope_order: RopeOrder::Halves,
    };
    let model = OutModel::new(&source, Weights::Settings(&settings)).unwrap();
    let tensors = naming.tensors(&model).unwrap();
    let total: u64 = tensors.iter().map(|tensor| tensor.len).sum();
    assert_eq!(total, source.graph().stored_bytes());
    let write = |room: usize| {
        let mut progress = |_, _| ControlFlow::Continue(());
        let progress: Progress<'_> = &mut progress;
        let mut job = Job::new(&model, RopeOrder::Halves, progress);
        let disk = Disk(AtomicUsize::new(room));
        job.write(&Target { out: &disk, path: Path::new("out"), begin: 0, alignment: 1 }, &tensors)
    };
    for room in [0, 1, 18_432_000, total as usize - 1] {
        let error = write(room).unwrap_err();
        assert!(matches!(error, ExportError::Io { action: "write", .. }), "{room}: {error}");
    }
    assert_eq!(write(total as usize).unwrap().len(), tensors.len());
}

#[test]
fn an_unfinished_sibling_is_removed_and_a_lack_of_room_is_seen_before() {
    let source = demo();
    let root = tempfile::tempdir().unwrap();
    let entries = || std::fs::read_dir(root.path()).unwrap().count();
    for kind in [Kind::File, Kind::Folder(&[])] {
        let target = root.path().join("out");
        let staging = Staging::create(&target, kind, Existing::Refuse, &source, 1000).unwrap();
        if kind != Kind::File {
            std::fs::write(staging.path().join("half"), [7; 100]).unwrap();
        }
        assert_eq!(entries(), 1);
        drop(staging);
        assert_eq!(entries(), 0);
        let error = Staging::create(&target, kind, Existing::Refuse, &source, u64::MAX).unwrap_err();
        assert!(matches!(error, ExportError::Space { .. }), "{error}");
        assert_eq!(entries(), 0);
    }
}

//! The child's side of looking into one layer: reads it, and tells each finding as soon as it is there.
//!
//! Holds one layer in f32 and what one method needs beside it; the rest of the model is read only to calibrate.

mod candidates;
mod inputs;
mod spectrum;
mod spread;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::compress::{SparseMatrix, dequantize_ggml};
use crate::model::{Layer, StoredFormat};
use crate::study::{Failure, FailureKind};
use crate::worker::heat_map::HeatMap;
use crate::worker::inspection::{Finding, InspectSpec};

/// Looks into the layer that `spec` names and tells what it finds, the quick things first; the last one is
/// [`Finding::Complete`].
///
/// # Errors
/// When the layer cannot be read, has weights that are not finite, or the heat map cannot be written.
pub fn inspect(spec: &InspectSpec, tell: &mut dyn FnMut(Finding)) -> Result<(), Failure> {
    let checkpoint = crate::checkpoint::open(&spec.source).map_err(unreadable)?;
    let graph = checkpoint.graph();
    let layer = graph.layers.iter().find(|layer| layer.path == spec.layer).ok_or_else(|| {
        Failure::new(FailureKind::Model, format!("{} has no layer {:?}", graph.name, spec.layer.as_str()))
    })?;
    let dense = read(&checkpoint, layer)?;
    tell(Finding::Weights(spread::spread(&dense)));
    if let Some(path) = &spec.map {
        let map = HeatMap::of(&dense, layer.shape);
        map.write(path).map_err(|error| {
            Failure::new(FailureKind::Data, format!("write the heat map: {error}: {}", path.display()))
        })?;
        tell(Finding::Map);
    }
    let moments = spec.calibration.as_ref().and_then(|calibration| {
        let mut progress = |done, total| tell(Finding::Calibrating { done, total });
        let moments = inputs::moments(spec, layer, calibration, &mut progress);
        tell(Finding::Inputs(moments.as_ref().map(inputs::ranges).map_err(Clone::clone)));
        moments.ok()
    });
    let (quick, slow) = candidates::list(moments.is_some());
    let total = quick.len() + slow.len();
    let attempt = |settings, tell: &mut dyn FnMut(Finding)| {
        let candidate = candidates::attempt(&dense, layer, settings, moments.as_ref());
        tell(Finding::Candidate { candidate, total });
    };
    for settings in quick {
        attempt(settings, tell);
    }
    tell(Finding::Spectrum(spectrum::spectrum(&dense, layer.shape)));
    for settings in slow {
        attempt(settings, tell);
    }
    tell(Finding::Complete);
    Ok(())
}

/// The weights of a layer, every one finite.
fn read(checkpoint: &Checkpoint, layer: &Layer) -> Result<Vec<f32>, Failure> {
    let name = format!("{}.weight", layer.path);
    let missing = || Failure::new(FailureKind::Model, format!("the files have no tensor {name:?}"));
    let dense = match layer.stored {
        _ if layer.sparse.is_some() => sparse(checkpoint, layer)?.dequantize(),
        StoredFormat::Ggml(format) => {
            let entry = checkpoint.entry(&name).ok_or_else(missing)?;
            let bytes = checkpoint.read(entry).map_err(unreadable)?;
            dequantize_ggml(format, &bytes)
                .map_err(|error| Failure::new(FailureKind::Model, format!("{}: {error}", layer.path)))?
        }
        _ => checkpoint.read_f32(&name).map_err(unreadable)?.ok_or_else(missing)?,
    };
    check_finite(&dense, layer)?;
    Ok(dense)
}

fn sparse(checkpoint: &Checkpoint, layer: &Layer) -> Result<SparseMatrix, Failure> {
    let missing = || Failure::new(FailureKind::Model, format!("the files have no parts of {}", layer.path));
    let parts = checkpoint.read_sparse(layer).map_err(unreadable)?;
    let (parts, stored) = parts.zip(layer.sparse).ok_or_else(missing)?;
    SparseMatrix::from_bytes(layer.shape, stored.values, &parts.values, &parts.scales, parts.bitmask)
        .map_err(|error| Failure::new(FailureKind::Model, format!("{}: {error}", layer.path)))
}

fn check_finite(dense: &[f32], layer: &Layer) -> Result<(), Failure> {
    let Some(index) = dense.iter().position(|weight| !weight.is_finite()) else { return Ok(()) };
    let row_len = layer.shape[1].max(1);
    let (row, column) = (index / row_len, index % row_len);
    let what = format!("{}: the weight in row {row}, column {column} is not finite", layer.path);
    Err(Failure::new(FailureKind::NonFinite, format!("{what}; the checkpoint is damaged or overflowed in training")))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn unreadable(error: CheckpointError) -> Failure {
    Failure::new(FailureKind::Model, error.to_string())
}

#[cfg(test)]
#[path = "inspect_tests.rs"]
mod tests;

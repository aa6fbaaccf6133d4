//! A Hugging Face folder whose quantized layers keep their codes: the layout of the compressed-tensors library.
//!
//! Source: `compressed_tensors` 0.20 (`compressors/pack_quantized`, `compressors/naive_quantized`, `quantization`).

mod config;
mod pack;

use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::own::OwnLayout;
use crate::compress::{ActivationGrid, PackedWeights, ZeroPoints};
use crate::export::expressible::{Asked, Expressible, Test, refusal};
use crate::export::folder::{self, Folder};
use crate::export::layers::Made;
use crate::export::model::{OutLayer, OutModel};
use crate::export::tensors::{Content, Element, Naming, OutTensor, tensor};
use crate::export::{Existing, ExportError, ExportSummary, Kind, ModelLayout, Progress, Weights};
use crate::model::{LayerRole, RopeOrder, StoredFormat};
use crate::recipe::{Fp8Scale, IntFormat};

/// Bits of the codes that every version of the library packs alike.
const BITS: [u8; 2] = [4, 8];

/// A part of a quantized layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Integer codes packed into words of 32 bits, along a row.
    Packed,
    /// Codes of 8 bits, one a byte.
    Codes,
    /// Scales.
    Scales,
    /// Zero points packed into words of 32 bits, along a column.
    PackedZeros,
    /// Zero points of 8 bits, one a byte.
    Zeros,
}

/// How the library runs a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scheme {
    /// Integer weights, inputs in floating point.
    Packed(IntFormat),
    /// Integer weights and inputs of 8 bits; with one scale for all inputs, or one a token.
    Int8(IntFormat, Inputs),
    /// FP8 weights, inputs in floating point.
    Fp8(Fp8Scale),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inputs {
    PerToken,
    Static,
}

/// The scheme of a layer; `None` for a dense one.
fn scheme(layer: &OutLayer) -> Option<Scheme> {
    match (layer.kind.with_zeros(), layer.activations) {
        (Kind::Int(format), ActivationGrid::Float) => Some(Scheme::Packed(format)),
        (Kind::Int(format), ActivationGrid::Int8PerToken) => Some(Scheme::Int8(format, Inputs::PerToken)),
        (Kind::Int(format), ActivationGrid::Int8Static { .. }) => Some(Scheme::Int8(format, Inputs::Static)),
        (Kind::Fp8(scale), _) => Some(Scheme::Fp8(scale)),
        _ => None,
    }
}

/// Writes the model as a folder at `out_dir` that transformers loads where compressed-tensors is installed.
///
/// Integer layers of 4 and 8 bits and FP8 layers keep their codes, scales and zero points; the others stay dense and are
/// named under `ignore`. Everything else that a recipe can ask for is refused: [`crate::export::expressible`] says so
/// before the work.
///
/// # Errors
/// [`ExportError`]; nothing is left behind then.
pub fn write(
    source: &Checkpoint,
    weights: Weights<'_>,
    out_dir: &Path,
    existing: Existing,
    progress: Progress<'_>,
) -> Result<ExportSummary, ExportError> {
    let model = OutModel::new(source, weights)?;
    let notes = model.judge(ModelLayout::CompressedTensors, None)?;
    check_row_order(&model)?;
    let naming = Naming {
        name: &|canonical| Some(canonical.to_owned()),
        weights: &layer_tensors,
        vector_format: &|stored| stored,
        rope_order: RopeOrder::Halves,
    };
    let quantization = Some(config::quantization_config(&model));
    let folder = Folder { tensors: naming.tensors(&model)?, own: OwnLayout::default(), quantization };
    folder::write(&model, &folder, (out_dir, existing), progress, notes)
}

/// FP8 squares lie over rows in the source's order, which is not the order that this layout needs.
fn check_row_order(model: &OutModel<'_>) -> Result<(), ExportError> {
    let is_turned = |layer: &&OutLayer| matches!(layer.role, LayerRole::QProj | LayerRole::KProj);
    let blocks = model.layers.iter().filter(is_turned).find(|layer| layer.kind == Kind::Fp8(Fp8Scale::Block));
    match blocks {
        Some(layer) if model.config.rope_order != RopeOrder::Halves => Err(ExportError::Unsupported(format!(
            "{}: FP8 blocks of a GGUF model's query and key rows do not fit Hugging Face's order of rows; use fp8 = \
             \"row\" for them",
            layer.path
        ))),
        _ => Ok(()),
    }
}

/// What the layout makes of these layers.
pub(super) fn judge(layers: &[Asked<'_>], found: &mut Expressible) {
    let is_int = |kind, bits: &dyn Fn(u8) -> bool| matches!(kind, Kind::Int(format) if bits(format.bits));
    let is_quantized = |layer: &Asked<'_>| matches!(layer.kind, Kind::Int(_) | Kind::Fp8(_));
    let refusals: [(Test<'_>, &str); 7] = [
        (
            &|layer| matches!(layer.kind, Kind::Stored(StoredFormat::Ggml(_))),
            "compressed-tensors has no GGML blocks; choose int of 4 or 8 bits, fp8 or a dense format for",
        ),
        (
            &|layer| is_int(layer.kind, &|bits| !BITS.contains(&bits)),
            "versions of compressed-tensors pack other widths than 4 and 8 bits differently; choose one of those for",
        ),
        (
            &|layer| matches!(layer.kind, Kind::IntFloatZeros(_)),
            "compressed-tensors has integer zero points only, and those of hqq lie between codes; choose another \
             rounding for",
        ),
        (&|layer| matches!(layer.kind, Kind::LowRank { .. }), "compressed-tensors has no low-rank factors:"),
        (
            &|layer| layer.kind == Kind::Corrected,
            "compressed-tensors has no low-rank terms; leave out the correction of",
        ),
        (
            &|layer| layer.has_int8_inputs && !is_int(layer.kind, &|bits| bits == 8),
            "inputs of 8 bits go with integer weights of 8 bits here; choose those for",
        ),
        (
            &|layer| layer.role == LayerRole::Embedding && is_quantized(layer),
            "transformers reads a dense embedding; choose a dense format for",
        ),
    ];
    for (is_refused, words) in refusals {
        found.refusals.extend(refusal(layers, words, is_refused));
    }
    if found.refusals.is_empty() && !layers.iter().any(is_quantized) {
        found.refusals.push("no layer has integer or FP8 weights; export as safetensors".to_owned());
    }
    let has_packed_zeros =
        |layer: &Asked<'_>| !layer.has_int8_inputs && matches!(layer.kind, Kind::Int(format) if !format.symmetric);
    if layers.iter().any(has_packed_zeros) {
        found.notes.push(
            "compressed-tensors 0.20 reads packed zero points, its own too, only where transformers is told \
             CompressedTensorsConfig(dequantize=True); versions 0.15 and 0.16 need no such word, nor do symmetric grids"
                .to_owned(),
        );
    }
    if layers.iter().any(|layer| layer.is_shared) {
        found
            .notes
            .push("this layout has no shared tensors: each layer gets a copy, so the folder is larger".to_owned());
    }
}

/// The tensors of a layer.
fn layer_tensors(index: usize, layer: &OutLayer) -> Result<Vec<OutTensor>, ExportError> {
    let [rows, row_len] = layer.shape;
    let part = |name: &str, shape: [usize; 2], element, part| {
        tensor(format!("{}.{name}", layer.path), shape.to_vec(), element, Content::Part(index, part))
    };
    let f16 = Element::Stored(StoredFormat::F16);
    let f32 = Element::Stored(StoredFormat::F32);
    let groups = |format: IntFormat| row_len / format.group.len(row_len);
    let words = |n: usize, bits: u8| (n * usize::from(bits)).div_ceil(32);
    Ok(match scheme(layer) {
        None => {
            let element = Element::Stored(layer.kind.dense());
            vec![tensor(format!("{}.weight", layer.path), layer.shape.to_vec(), element, Content::Weights(index))?]
        }
        Some(Scheme::Packed(format)) => {
            let mut tensors = vec![
                part("weight_packed", [rows, words(row_len, format.bits)], Element::I32, Part::Packed)?,
                part("weight_scale", [rows, groups(format)], f16, Part::Scales)?,
            ];
            if !format.symmetric {
                let shape = [words(rows, format.bits), groups(format)];
                tensors.push(part("weight_zero_point", shape, Element::I32, Part::PackedZeros)?);
            }
            let shape = layer.shape.iter().flat_map(|&dim| (dim as u64).to_le_bytes()).collect();
            let name = format!("{}.weight_shape", layer.path);
            tensors.push(tensor(name, vec![2], Element::I64, Content::Bytes(shape))?);
            tensors
        }
        Some(Scheme::Int8(format, _)) => {
            let mut tensors = vec![
                part("weight", layer.shape, Element::I8, Part::Codes)?,
                part("weight_scale", [rows, groups(format)], f16, Part::Scales)?,
            ];
            if !format.symmetric {
                tensors.push(part("weight_zero_point", [rows, groups(format)], Element::I8, Part::Zeros)?);
            }
            if let ActivationGrid::Int8Static { scale } = layer.activations {
                let name = format!("{}.input_scale", layer.path);
                tensors.push(tensor(name, vec![1], f32, Content::Bytes(scale.to_le_bytes().to_vec()))?);
            }
            tensors
        }
        Some(Scheme::Fp8(scale)) => {
            let name = format!("{}.weight_scale", layer.path);
            let shape = match scale {
                Fp8Scale::Tensor => vec![1],
                Fp8Scale::Row => vec![rows, 1],
                Fp8Scale::Block => vec![rows.div_ceil(Fp8Scale::BLOCK), row_len.div_ceil(Fp8Scale::BLOCK)],
            };
            vec![
                part("weight", layer.shape, Element::F8, Part::Codes)?,
                tensor(name, shape, f32, Content::Part(index, Part::Scales))?,
            ]
        }
    })
}

/// The bytes of a part; `reorder` brings whole rows into the layout's order.
pub(super) fn part_bytes(
    part: Part,
    made: &Made,
    layer: &OutLayer,
    reorder: &dyn Fn(Vec<u8>) -> Vec<u8>,
) -> Result<Vec<u8>, ExportError> {
    let unfit = || ExportError::Unsupported(format!("{} was not made as it was planned", layer.path));
    let Made::Packed(packed) = made else { return Err(unfit()) };
    let with_zeros = match packed {
        PackedWeights::Sparse(matrix) => matrix.to_int().map(PackedWeights::Int),
        _ => None,
    };
    let packed = with_zeros.as_ref().unwrap_or(packed);
    Ok(match (part, packed) {
        (Part::Packed, PackedWeights::Int(matrix)) => {
            pack::along_rows(&reorder(matrix.codes().to_vec()), matrix.row_len(), matrix.format().bits)
        }
        (Part::Codes, PackedWeights::Int(matrix)) => reorder(matrix.codes().iter().map(|code| code ^ 0x80).collect()),
        (Part::Codes, PackedWeights::Fp8(matrix)) => reorder(matrix.codes().to_vec()),
        (Part::Scales, PackedWeights::Int(matrix)) => {
            reorder(matrix.scales().iter().flat_map(|scale| scale.to_le_bytes()).collect())
        }
        (Part::Scales, PackedWeights::Fp8(matrix)) => {
            let scales = matrix.scales().iter().flat_map(|scale| scale.to_le_bytes()).collect();
            if matrix.scale() == Fp8Scale::Row { reorder(scales) } else { scales }
        }
        (Part::PackedZeros | Part::Zeros, PackedWeights::Int(matrix)) => {
            let ZeroPoints::Codes(zeros) = matrix.zeros() else { return Err(unfit()) };
            let zeros = reorder(zeros.clone());
            match part {
                Part::Zeros => zeros.iter().map(|zero| zero ^ 0x80).collect(),
                _ => pack::along_columns(&zeros, zeros.len() / layer.shape[0].max(1), matrix.format().bits),
            }
        }
        _ => return Err(unfit()),
    })
}

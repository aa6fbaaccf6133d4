//! GPTQ onto every format of few bits, and `SparseGPT` alone or together with it.
//!
//! Papers: Frantar et al., 2022, arXiv:2210.17323; Frantar and Alistarh, 2023, arXiv:2301.00774.

use half::f16;

use crate::compress::columns::{Columns, Mask, Target};
use crate::compress::fp8::{Place, quantize_fp8};
use crate::compress::ggml_blocks::{lines as lines_of_block, put_codes, run_len};
use crate::compress::hessian::{Factor, Hessian};
use crate::compress::imatrix::{importance, quantize_weighted};
use crate::compress::line::Line;
use crate::compress::packed::Fp8Matrix;
use crate::compress::round_to_nearest::{check_groups, grids};
use crate::compress::solver::Solver;
use crate::compress::{CompressError, IntMatrix, Moments, PackedWeights, ZeroPoints};
use crate::model::GgmlType;
use crate::recipe::{Fp8Scale, GptqOptions, IntFormat, Sparsity};

/// The damping of `SparseGPT` where no options of GPTQ say another.
const DAMPING: f64 = 0.01;
const NOT_POSITIVE_DEFINITE: CompressError =
    CompressError::Factorization("the Hessian of sparsegpt is not positive definite with any damping up to 1");

/// A grid that error feedback can round to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum GridFormat {
    Int(IntFormat),
    Ggml(GgmlType),
    Fp8(Fp8Scale),
}

/// Which weights are zero in the result.
#[derive(Debug, Clone, Copy)]
pub(super) enum Zeros<'a> {
    /// None but by rounding.
    None,
    /// Where (rows, `row_len`) this is false.
    Mask(&'a [bool]),
    /// Those that `SparseGPT` picks on the way.
    SparseGpt(Sparsity),
}

/// A layer for error feedback.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layer<'a> {
    /// (rows, `row_len`), finite.
    pub(super) dense: &'a [f32],
    pub(super) row_len: usize,
    pub(super) moments: &'a Moments,
    /// Does the heavy part.
    pub(super) solver: &'a dyn Solver,
}

/// Prunes with `SparseGPT` and updates the weights that stay, in f32.
///
/// Also returns what did not go as asked, in words.
///
/// # Errors
/// [`CompressError::Factorization`] when no damping up to 1 helps, [`CompressError::RowLength`] if a pattern does not
/// divide the row, and those of [`Moments::check`].
pub(super) fn sparsegpt(layer: &Layer<'_>, sparsity: Sparsity) -> Result<(Vec<f32>, Vec<String>), CompressError> {
    let hessian = Hessian::new(layer.moments, layer.row_len)?;
    let natural = (0..layer.row_len).collect();
    let factor = layer.solver.factor(&hessian, natural, DAMPING)?.ok_or(NOT_POSITIVE_DEFINITE)?;
    let mut columns = Columns::new(layer.dense, hessian.is_dead(), &factor);
    columns.mask = mask_of(sparsity, layer.row_len)?;
    layer.solver.run_columns(&mut columns)?;
    let notes = factor.note(DAMPING).into_iter().chain(dead_note(&hessian)).collect();
    Ok((columns.restored(), notes))
}

/// Rounds to `format` with error feedback.
///
/// Scales of GGML and FP8 formats, and of integer groups unless `static_groups` is off, are set from the dense weights
/// before the first column and then frozen. A Hessian that no damping up to 1 makes positive definite gives `None`: round
/// to nearest then. With [`Zeros::SparseGpt`] columns stay in their natural order.
///
/// Also returns what did not go as asked, in words.
///
/// # Errors
/// As [`sparsegpt`], and those of the format: a row that is not made of whole groups or blocks, scales beyond f16.
pub(super) fn gptq(
    layer: &Layer<'_>,
    format: GridFormat,
    options: GptqOptions,
    zeros: Zeros<'_>,
) -> Result<Option<(PackedWeights, Vec<String>)>, CompressError> {
    let is_sparsegpt = matches!(zeros, Zeros::SparseGpt(_));
    let hessian = Hessian::new(layer.moments, layer.row_len)?;
    let mut notes: Vec<String> = dead_note(&hessian).into_iter().collect();
    if is_sparsegpt && options.act_order {
        notes.push("sparsegpt takes columns in their natural order, so act_order was not used".to_owned());
    }
    let act_order = options.act_order && !is_sparsegpt;
    if act_order && !options.static_groups {
        return Err(CompressError::Unsupported("gptq with act_order needs static_groups"));
    }
    let order = if act_order { hessian.act_order() } else { (0..layer.row_len).collect() };
    let Some(factor) = layer.solver.factor(&hessian, order, options.damping)? else {
        return if is_sparsegpt { Err(NOT_POSITIVE_DEFINITE) } else { Ok(None) };
    };
    notes.extend(factor.note(options.damping));
    let grid = Frozen::new(layer, hessian.is_dead(), format, zeros)?;
    let mut columns = Columns::new(layer.dense, hessian.is_dead(), &factor);
    columns.block = usize::from(options.block);
    (columns.group, columns.lines) = (grid.group, grid.lines.clone());
    columns.target = match format {
        GridFormat::Int(format) if !options.static_groups => Target::Refitted(format),
        GridFormat::Int(_) | GridFormat::Ggml(_) => Target::Line,
        GridFormat::Fp8(_) => Target::Fp8,
    };
    match zeros {
        Zeros::None => {}
        Zeros::Mask(keep) => columns.keep = in_order(keep, &factor),
        Zeros::SparseGpt(sparsity) => columns.mask = mask_of(sparsity, layer.row_len)?,
    }
    layer.solver.run_columns(&mut columns)?;
    let restored = columns.restored();
    let lines = std::mem::take(&mut columns.lines);
    drop(columns);
    Ok(Some((grid.pack(&restored, &lines, format, layer.row_len), notes)))
}

/// What to tell about inputs that calibration never saw.
fn dead_note(hessian: &Hessian<'_>) -> Option<String> {
    let n_dead = hessian.is_dead().iter().filter(|dead| **dead).count();
    let n = hessian.is_dead().len();
    (n_dead > 0)
        .then(|| format!("{n_dead} of {n} inputs were zero in every calibrated token; their weights became zero"))
}

fn mask_of(sparsity: Sparsity, row_len: usize) -> Result<Mask, CompressError> {
    match sparsity.pattern {
        None => Ok(Mask::Fraction(sparsity.fraction)),
        Some(pattern) if row_len.is_multiple_of(usize::from(pattern.len)) => Ok(Mask::Pattern(pattern)),
        Some(pattern) => {
            let block_len = usize::from(pattern.len);
            Err(CompressError::RowLength { format: pattern.to_string(), row_len, block_len })
        }
    }
}

fn in_order(keep: &[bool], factor: &Factor) -> Vec<bool> {
    let rows = keep.chunks(factor.width());
    rows.flat_map(|row| factor.order.iter().map(|&input| row[input])).collect()
}

/// Scales that are set before the first column.
struct Frozen {
    /// Inputs that share a line.
    group: usize,
    /// Of each row's groups.
    lines: Vec<Line>,
    /// The blocks, or codes and scales, that the lines were read from.
    packed: PackedWeights,
}

impl Frozen {
    fn new(layer: &Layer<'_>, is_dead: &[bool], format: GridFormat, zeros: Zeros<'_>) -> Result<Self, CompressError> {
        let row_len = layer.row_len;
        let mut seen = layer.dense.to_vec();
        for row in seen.chunks_mut(row_len) {
            row.iter_mut().zip(is_dead).filter(|(_, dead)| **dead).for_each(|(weight, _)| *weight = 0.0);
        }
        if let Zeros::Mask(keep) = zeros {
            seen.iter_mut().zip(keep).filter(|(_, keep)| !**keep).for_each(|(weight, _)| *weight = 0.0);
        }
        Ok(match format {
            GridFormat::Int(format) => {
                let group = check_groups(row_len, format)?;
                let lines = grids(&seen, group, format)?.iter().map(|grid| grid.line()).collect();
                let zeros = ZeroPoints::Codes(Vec::new());
                let packed = IntMatrix { format, row_len, codes: Vec::new(), scales: Vec::new(), zeros };
                Self { group, lines, packed: PackedWeights::Int(packed) }
            }
            GridFormat::Ggml(format) => {
                let importance = importance(Some(layer.moments), row_len);
                let packed = quantize_weighted(&seen, row_len, format, &importance)?;
                let group = run_len(format);
                let mut lines = vec![Line::default(); seen.len() / group];
                if let PackedWeights::Ggml { bytes, .. } = &packed {
                    let blocks = bytes.chunks(format.block_bytes());
                    let of_blocks = lines.chunks_mut(format.block_len() / group);
                    blocks.zip(of_blocks).for_each(|(block, lines)| lines_of_block(format, block, lines));
                }
                Self { group, lines, packed }
            }
            GridFormat::Fp8(scale) => {
                let matrix = quantize_fp8(&seen, row_len, scale)?;
                let place = Place { scale, row_len };
                let (group, runs) = (place.run(), row_len.div_ceil(place.run()));
                let rows = seen.len() / row_len;
                let steps = (0..rows).flat_map(|row| (0..runs).map(move |run| place.of(row, run)));
                let lines = steps.map(|of| Line { step: matrix.scales[of], ..Line::default() }).collect();
                Self { group, lines, packed: PackedWeights::Fp8(matrix) }
            }
        })
    }

    /// Values on `lines` as codes beside the scales.
    fn pack(self, restored: &[f32], lines: &[Line], format: GridFormat, row_len: usize) -> PackedWeights {
        let groups = restored.chunks(row_len).flat_map(|row| row.chunks(self.group)).zip(lines);
        let on_lines = groups.clone().flat_map(|(weights, line)| weights.iter().map(|w| line.code(f64::from(*w))));
        match (format, self.packed) {
            (GridFormat::Ggml(format), PackedWeights::Ggml { mut bytes, .. }) => {
                let codes: Vec<u8> = on_lines.collect();
                let blocks = bytes.chunks_mut(format.block_bytes()).zip(codes.chunks(format.block_len()));
                blocks.for_each(|(block, codes)| put_codes(format, block, codes));
                PackedWeights::Ggml { format, bytes }
            }
            (_, PackedWeights::Fp8(Fp8Matrix { scale, row_len, scales, .. })) => {
                let codes = groups.flat_map(|(weights, line)| {
                    weights.iter().map(|weight| crate::compress::fp8::Fp8Code::nearest(weight / line.step).0)
                });
                PackedWeights::Fp8(Fp8Matrix { scale, row_len, codes: codes.collect(), scales })
            }
            (GridFormat::Int(format), _) => PackedWeights::Int(IntMatrix {
                format,
                row_len,
                codes: on_lines.collect(),
                scales: lines.iter().map(|line| f16::from_f32(line.step)).collect(),
                zeros: ZeroPoints::Codes(lines.iter().map(|line| line.bias).collect()),
            }),
            (_, packed) => packed,
        }
    }
}

#[cfg(test)]
#[path = "gptq_tests.rs"]
mod tests;

//! Columns in turn, the error of each fed back to those that follow: the loop of GPTQ and `SparseGPT`.
//!
//! Papers: Frantar et al., 2022, arXiv:2210.17323; Frantar and Alistarh, 2023, arXiv:2301.00774.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::compress::CompressError;
use crate::compress::fp8::Fp8Code;
use crate::compress::hessian::Factor;
use crate::compress::line::Line;
use crate::compress::round_to_nearest::IntGrid;
use crate::recipe::{IntFormat, Pattern};

/// Rows that one task works on: the same on every machine, so that results do not depend on the number of threads.
const BAND: usize = 32;
/// Columns whose weights compete in `SparseGPT`.
pub(crate) const MASK_COLUMNS: usize = 128;

/// Which weights become zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Mask {
    /// Those that [`Columns::keep`] already says.
    Given,
    /// This share of each run of 128 columns, all rows together, by w² / U²: the loss that is left after the update.
    Fraction(f64),
    /// So many of each run of inputs, row by row, by the same score. Columns are in their natural order.
    Pattern(Pattern),
}

/// What becomes of a kept weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target {
    /// It stays.
    Itself,
    /// The nearest value of its group's line.
    Line,
    /// As [`Self::Line`]; the line of a group is fitted when its first column is reached. Natural order.
    Refitted(IntFormat),
    /// The nearest FP8 code times the step of its group's line.
    Fp8,
}

/// The matrix on its way, columns in the factor's order.
#[derive(Debug)]
pub(crate) struct Columns<'a> {
    pub(crate) factor: &'a Factor,
    /// Columns whose updates are gathered before the rest of the matrix is touched.
    pub(crate) block: usize,
    pub(crate) mask: Mask,
    pub(crate) target: Target,
    /// Inputs in a group.
    pub(crate) group: usize,
    /// Lines of each row's groups, in the natural order of inputs.
    pub(crate) lines: Vec<Line>,
    /// (rows, width), columns in order: the weights, then what they became.
    pub(crate) work: Vec<f64>,
    /// (rows, width), columns in order: false where the weight becomes zero.
    pub(crate) keep: Vec<bool>,
}

/// Some rows of [`Columns`].
struct Band<'a> {
    work: &'a mut [f64],
    keep: &'a mut [bool],
    lines: &'a mut [Line],
}

/// A column of a row whose weights are updated up to the end of the block.
struct Cursor<'a> {
    factor: &'a Factor,
    row: &'a [f64],
    /// Of the block's columns before this one.
    errors: &'a [f64],
    column: usize,
    end: usize,
}

impl Cursor<'_> {
    /// The next weights as the errors of all columns before have left them, also beyond the block.
    fn window(&self, len: usize) -> Vec<f64> {
        let mut window = self.row[self.column..self.column + len].to_vec();
        let inside = (self.end - self.column).min(len);
        let first = self.column - self.errors.len();
        for (column, error) in (first..).zip(self.errors) {
            let row = &self.factor.row(column)[self.column + inside - column..];
            window[inside..].iter_mut().zip(row).for_each(|(weight, u)| *weight -= error * u);
        }
        window
    }
}

impl<'a> Columns<'a> {
    /// `dense` (rows, width) in the factor's order, nothing pruned, weights of dead inputs zero.
    pub(crate) fn new(dense: &[f32], is_dead: &[bool], factor: &'a Factor) -> Self {
        let width = factor.width();
        let mut work = vec![0.0; dense.len()];
        work.par_chunks_mut(width).zip(dense.par_chunks(width)).with_min_len(BAND).for_each(|(row, dense)| {
            for (weight, &input) in row.iter_mut().zip(&factor.order) {
                *weight = if is_dead[input] { 0.0 } else { f64::from(dense[input]) };
            }
        });
        let keep = vec![true; work.len()];
        let lines = vec![Line::default(); dense.len() / width];
        Self { factor, block: 128, mask: Mask::Given, target: Target::Itself, group: width, lines, work, keep }
    }

    /// Works through all columns.
    ///
    /// Returns `tr(ΔW H ΔWᵀ)` of the damped Hessian, as the sum of the squared errors that were fed back.
    ///
    /// # Errors
    /// [`CompressError::Range`] when a line that is fitted on the way exceeds f16, or weights leave the range of f32.
    pub(crate) fn run(&mut self) -> Result<f64, CompressError> {
        let width = self.factor.width();
        let block = self.block.clamp(1, width);
        let mut loss = 0.0;
        let mut first = 0;
        while first < width {
            let mut end = (first + block).min(width);
            if let Mask::Fraction(fraction) = self.mask {
                // A run's mask is chosen when every column before it is done.
                let run = first / MASK_COLUMNS * MASK_COLUMNS;
                end = end.min(run + MASK_COLUMNS);
                if first == run {
                    self.choose_mask(first..width.min(first + MASK_COLUMNS), fraction);
                }
            }
            loss += self.run_block(first..end)?;
            first = end;
        }
        self.check_range()?;
        Ok(loss)
    }

    /// Whether every weight fits f32.
    ///
    /// # Errors
    /// [`CompressError::Range`].
    pub(crate) fn check_range(&self) -> Result<(), CompressError> {
        if self.work.par_iter().any(|weight| !(*weight as f32).is_finite()) {
            return Err(CompressError::Range { format: "f32 after error feedback", largest: f32::INFINITY });
        }
        Ok(())
    }

    /// The result (rows, width) with inputs in their natural order.
    pub(crate) fn restored(&self) -> Vec<f32> {
        let width = self.factor.width();
        let mut restored = vec![0.0; self.work.len()];
        restored.par_chunks_mut(width).zip(self.work.par_chunks(width)).with_min_len(BAND).for_each(|(row, work)| {
            for (weight, &input) in work.iter().zip(&self.factor.order) {
                row[input] = *weight as f32;
            }
        });
        restored
    }

    fn run_block(&mut self, block: Range<usize>) -> Result<f64, CompressError> {
        let width = self.factor.width();
        let per_row = self.lines.len() / (self.work.len() / width);
        let (mut work, mut keep) = (std::mem::take(&mut self.work), std::mem::take(&mut self.keep));
        let mut lines = std::mem::take(&mut self.lines);
        let bands = work.par_chunks_mut(BAND * width).zip(keep.par_chunks_mut(BAND * width));
        let losses: Result<Vec<f64>, CompressError> = bands
            .zip(lines.par_chunks_mut(BAND * per_row))
            .map(|((work, keep), lines)| self.run_band(&mut Band { work, keep, lines }, block.clone()))
            .collect();
        (self.work, self.keep, self.lines) = (work, keep, lines);
        // In the order of the bands, whatever order they were done in.
        Ok(losses?.iter().sum())
    }

    fn run_band(&self, band: &mut Band<'_>, block: Range<usize>) -> Result<f64, CompressError> {
        let width = self.factor.width();
        let rows = band.work.len() / width;
        let per_row = band.lines.len() / rows;
        let mut errors = vec![0.0; rows * block.len()];
        let of_row = band.work.chunks_mut(width).zip(band.keep.chunks_mut(width));
        let of_row = of_row.zip(band.lines.chunks_mut(per_row)).zip(errors.chunks_mut(block.len()));
        for (((row, keep), lines), errors) in of_row {
            self.run_row(row, keep, lines, errors, block.clone())?;
        }
        let rest = width - block.end;
        if rest > 0 {
            let work = MatMut::from_row_major_slice_mut(band.work, rows, width).subcols_mut(block.end, rest);
            let errors = MatRef::from_row_major_slice(&errors, rows, block.len());
            let upper = MatRef::from_row_major_slice(&self.factor.upper, width, width);
            let upper = upper.submatrix(block.start, block.end, block.len(), rest);
            matmul(work, Accum::Add, errors, upper, -1.0, Par::Seq);
        }
        Ok(errors.iter().map(|error| error * error).sum())
    }

    fn run_row(
        &self,
        row: &mut [f64],
        keep: &mut [bool],
        lines: &mut [Line],
        errors: &mut [f64],
        block: Range<usize>,
    ) -> Result<(), CompressError> {
        for column in block.clone() {
            let place = column - block.start;
            let cursor = Cursor { factor: self.factor, row, errors: &errors[..place], column, end: block.end };
            if let Mask::Pattern(pattern) = self.mask
                && column.is_multiple_of(usize::from(pattern.len))
            {
                choose_of_run(&cursor, pattern, keep);
            }
            if let Target::Refitted(format) = self.target
                && column.is_multiple_of(self.group)
            {
                lines[column / self.group] = fitted(cursor.window(self.group), format)?;
            }
            let weight = row[column];
            let line = &lines[self.factor.order[column] / self.group];
            let target = match self.target {
                _ if !keep[column] => 0.0,
                Target::Itself => weight,
                Target::Line | Target::Refitted(_) => line.nearest(weight),
                Target::Fp8 => f64::from(Fp8Code::nearest((weight / f64::from(line.step)) as f32).value() * line.step),
            };
            let upper = self.factor.row(column);
            let error = (weight - target) / upper[0];
            row[column] = target;
            errors[place] = error;
            let ahead = row[column + 1..block.end].iter_mut().zip(&upper[1..]);
            ahead.for_each(|(weight, u)| *weight -= error * u);
        }
        Ok(())
    }

    /// Prunes the weights of `columns` whose loss is smallest, so that ⌊`fraction` · weights⌋ of all up to there are zero.
    fn choose_mask(&mut self, columns: Range<usize>, fraction: f64) {
        let (factor, width) = (self.factor, self.factor.width());
        let scores = (self.work.par_chunks(width).enumerate()).flat_map_iter(|(row, work)| {
            columns.clone().map(move |column| (score(factor, column, work[column]), row * width + column))
        });
        let mut scores: Vec<(u64, usize)> = scores.collect();
        let pruned = lowest(&mut scores, self.n_pruned(columns, fraction));
        for (_, place) in pruned {
            self.keep[*place] = false;
        }
    }

    /// Weights of `columns` that go, so that ⌊`fraction` · weights⌋ of all up to there are zero.
    pub(crate) fn n_pruned(&self, columns: Range<usize>, fraction: f64) -> usize {
        let rows = self.work.len() / self.factor.width();
        let count = |n_columns: usize| (rows as f64 * n_columns as f64 * fraction) as usize;
        count(columns.end) - count(columns.start)
    }
}

/// The `n` lowest scores, each with its place; of equal ones the earlier places.
pub(crate) fn lowest(scores: &mut [(u64, usize)], n: usize) -> &[(u64, usize)] {
    if n > 0 {
        scores.select_nth_unstable(n - 1);
    }
    &scores[..n]
}

/// The line of a group whose least and largest weight, or all of them, are in `window`.
///
/// # Errors
/// [`CompressError::Range`] if its step exceeds f16.
pub(crate) fn fitted(window: impl IntoIterator<Item = f64>, format: IntFormat) -> Result<Line, CompressError> {
    Ok(IntGrid::fit(window.into_iter(), format)?.line())
}

/// w² / U², as bits that order like the number.
fn score(factor: &Factor, column: usize, weight: f64) -> u64 {
    let score = weight / factor.row(column)[0];
    (score * score).to_bits()
}

fn choose_of_run(cursor: &Cursor<'_>, pattern: Pattern, keep: &mut [bool]) {
    let window = cursor.window(usize::from(pattern.len));
    let mut scores: Vec<(u64, usize)> =
        (cursor.column..).zip(window).map(|(column, weight)| (score(cursor.factor, column, weight), column)).collect();
    scores.sort_unstable();
    scores[..usize::from(pattern.zeros)].iter().for_each(|(_, column)| keep[*column] = false);
}

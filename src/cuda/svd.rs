//! Singular values on a card, by one-sided rotations of the shorter side's vectors, in f64.
//!
//! B (n, len) holds the rows of a wide matrix, or the columns of a tall one. Rotations R make its rows perpendicular; their
//! lengths are then the singular values, R has the vectors of one side and the rows have those of the other.
//!
//! Papers: Hestenes, 1958; Demmel and Veselić, 1992, for the accuracy.

use std::rc::Rc;

use faer::Mat;

use crate::compress::{CompressError, NO_CONVERGENCE, ThinSvd};
use crate::cuda::CudaError;
use crate::cuda::card::{Buffer, Card};
use crate::cuda::solver::launch;

/// Rows of a block; two blocks meet in one thread block.
const BLOCK_ROWS: usize = 16;
/// Two rows are perpendicular when the cosine between them is at most this.
const COSINE: f64 = 1e-14;
/// A row that is shorter than this share of all of them together is rounding error.
const NOISE: f64 = f64::EPSILON;
/// Sweeps over all pairs. Ten are usual, twenty where singular values span as many digits as f64 has.
const MOST_SWEEPS: usize = 80;
/// Rows that are uploaded at a time.
const ROWS_AT_A_TIME: usize = 16;

/// U, S and V.
///
/// # Errors
/// [`CompressError::Factorization`] when the sweeps do not suffice, [`CompressError::Device`].
pub(super) fn thin(card: &Rc<dyn Card>, matrix: &Mat<f64>) -> Result<ThinSvd, CompressError> {
    let rows = Rows::new(card, matrix)?;
    let turned = Buffer::zeroed(card, rows.padded * rows.padded * 8)?;
    let args = [turned.address(), rows.padded as u64];
    launch(card, "mark_diagonal", [rows.padded.div_ceil(256), 1], &args)?;
    rows.rotate(turned.address())?;
    let lengths = rows.lengths()?;
    let order = falling(&lengths);
    let turns = rows.vectors(turned.address(), [rows.padded, rows.n], &order, |_| 1.0)?;
    let own = rows.vectors(rows.buffer.address(), [rows.len, rows.len], &order, |row| lengths[row])?;
    let (u, v) = if rows.is_wide { (turns, own) } else { (own, turns) };
    Ok(ThinSvd { u, v, values: order.into_iter().map(|row| lengths[row]).collect() })
}

/// The singular values alone, falling.
///
/// # Errors
/// As [`thin`].
pub(super) fn values(card: &Rc<dyn Card>, matrix: &Mat<f64>) -> Result<Vec<f64>, CompressError> {
    let rows = Rows::new(card, matrix)?;
    rows.rotate(0)?;
    let lengths = rows.lengths()?;
    Ok(falling(&lengths).into_iter().map(|row| lengths[row]).collect())
}

/// Rows by falling length, equal ones in their own order.
fn falling(lengths: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by(|a, b| lengths[*b].total_cmp(&lengths[*a]));
    order
}

/// B on the card.
struct Rows<'a> {
    card: &'a Rc<dyn Card>,
    /// (`padded`, `len`), zeros behind the first `n` rows. Those never turn into others.
    buffer: Buffer,
    n: usize,
    padded: usize,
    len: usize,
    is_wide: bool,
    /// The squares of all numbers.
    square: f64,
}

impl<'a> Rows<'a> {
    fn new(card: &'a Rc<dyn Card>, matrix: &Mat<f64>) -> Result<Self, CompressError> {
        let is_wide = matrix.nrows() <= matrix.ncols();
        let (n, len) = if is_wide { (matrix.nrows(), matrix.ncols()) } else { (matrix.ncols(), matrix.nrows()) };
        let padded = n.next_multiple_of(2 * BLOCK_ROWS);
        let buffer = Buffer::zeroed(card, padded * len * 8)?;
        let mut square = 0.0;
        for first in (0..n).step_by(ROWS_AT_A_TIME) {
            let some = ROWS_AT_A_TIME.min(n - first);
            let part = if is_wide { matrix.subrows(first, some) } else { matrix.subcols(first, some).transpose() };
            let mut values = vec![0.0; some * len];
            for (place, column) in part.col_iter().enumerate() {
                column.iter().zip(values.iter_mut().skip(place).step_by(len)).for_each(|(from, to)| *to = *from);
            }
            square += values.iter().map(|value| value * value).sum::<f64>();
            card.upload(buffer.address() + (first * len * 8) as u64, bytemuck::cast_slice(&values))?;
        }
        if !square.is_finite() {
            return Err(NO_CONVERGENCE);
        }
        Ok(Self { card, buffer, n, padded, len, is_wide, square })
    }

    /// Rotates until all rows are perpendicular; `turned` is the address of what takes the same rotations, or 0.
    fn rotate(&self, turned: u64) -> Result<(), CompressError> {
        let blocks = self.padded / BLOCK_ROWS;
        let changed = Buffer::zeroed(self.card, 4)?;
        let [angle, floor] = [COSINE * COSINE, NOISE * NOISE * self.square].map(f64::to_bits);
        for _ in 0..MOST_SWEEPS {
            changed.write(&[0_u32])?;
            for round in 0..blocks - 1 {
                let sizes = [self.padded, blocks, round].map(|size| size as u64);
                let args =
                    [&[self.buffer.address(), self.len as u64, turned][..], &sizes, &[angle, floor, changed.address()]];
                launch(self.card, "rotate_rows", [blocks / 2, 1], &args.concat())?;
            }
            let mut has_changed = [0_u32];
            changed.read(&mut has_changed)?;
            if has_changed == [0] {
                return Ok(());
            }
        }
        Err(NO_CONVERGENCE)
    }

    fn lengths(&self) -> Result<Vec<f64>, CudaError> {
        let on_card = Buffer::zeroed(self.card, self.n * 8)?;
        let args = [self.buffer.address(), on_card.address(), self.len as u64];
        launch(self.card, "square_lengths", [self.n, 1], &args)?;
        let mut squares = vec![0.0_f64; self.n];
        on_card.read(&mut squares)?;
        Ok(squares.into_iter().map(f64::sqrt).collect())
    }

    /// The first `n` numbers of rows `stride` apart as columns, in `order`, each over its length; of no length as they are.
    fn vectors(
        &self,
        address: u64,
        [stride, n]: [usize; 2],
        order: &[usize],
        length: impl Fn(usize) -> f64,
    ) -> Result<Mat<f64>, CudaError> {
        let mut vectors = Mat::zeros(n, order.len());
        let mut values = vec![0.0_f64; n];
        for (row, column) in order.iter().zip(vectors.col_iter_mut()) {
            let from = address + (row * stride * 8) as u64;
            self.card.download(from, bytemuck::cast_slice_mut(&mut values))?;
            let over = Some(length(*row)).filter(|length| *length > 0.0).unwrap_or(1.0);
            column.iter_mut().zip(&values).for_each(|(to, value)| *to = value / over);
        }
        Ok(vectors)
    }
}

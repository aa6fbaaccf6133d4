//! The heavy linear algebra of compression on a card, in f64. Host arrays in, host arrays out: nothing stays on the card.

use std::ops::Range;
use std::rc::Rc;

use faer::Mat;

use crate::compress::{
    Columns, CompressError, Factor, Hessian, Host, Line, MASK_COLUMNS, Mask, Moments, Solver, Target, ThinSvd, fitted,
    is_sound, lowest, share, shares,
};
use crate::cuda::card::{Buffer, Card, Launch};
use crate::cuda::{CudaError, Device, svd};
use crate::recipe::{IntFormat, Pattern};

/// Threads of a block of every kernel here.
const THREADS: usize = 256;
/// Rows and columns of the tiles of a product, and of the blocks of a factor.
const SIDE: usize = 64;
/// Columns that a warp has at most.
const MOST_COLUMNS: usize = 128;
/// The most blocks of a grid in its second direction.
const MOST_ROWS: usize = 65_535;

impl Solver for Device {
    fn factor(&self, hessian: &Hessian<'_>, order: Vec<usize>, damping: f64) -> Result<Option<Factor>, CompressError> {
        if order.len() > MOST_ROWS {
            return Host.factor(hessian, order, damping);
        }
        let found = inverse_factor(self.card(), hessian, &order, damping)?;
        Ok(found.map(|(upper, damping)| Factor { upper, order, damping }))
    }

    fn run_columns(&self, columns: &mut Columns<'_>) -> Result<f64, CompressError> {
        if !takes(columns) {
            return Host.run_columns(columns);
        }
        let loss = Pass::new(self.card(), columns)?.run(columns)?;
        columns.check_range()?;
        Ok(loss)
    }

    fn output_error(&self, dense: &[f32], restored: &[f32], moments: &Moments) -> Result<Option<f64>, CompressError> {
        let [error, whole] = squares(self.card(), dense, restored, moments)?;
        Ok(share(error, whole))
    }

    fn thin_svd(&self, matrix: &Mat<f64>) -> Result<ThinSvd, CompressError> {
        svd::thin(self.card(), matrix)
    }

    fn singular_values(&self, matrix: &Mat<f64>) -> Result<Vec<f64>, CompressError> {
        svd::values(self.card(), matrix)
    }
}

impl From<CudaError> for CompressError {
    fn from(error: CudaError) -> Self {
        Self::Device(Box::new(error))
    }
}

/// Starts a kernel of this file or of `svd`.
pub(super) fn launch(card: &Rc<dyn Card>, kernel: &str, [x, y]: [usize; 2], args: &[u64]) -> Result<(), CudaError> {
    card.launch(Launch { kernel, grid: [x, y, 1], threads: THREADS as u32, args })
}

/// A matrix on the card: where it begins, and the numbers from row to row and from column to column.
#[derive(Debug, Clone, Copy)]
struct View {
    address: u64,
    strides: [usize; 2],
}

impl View {
    /// A row-major matrix, or a part of it from `row` and `column` on.
    fn of(buffer: &Buffer, width: usize, row: usize, column: usize) -> Self {
        Self { address: buffer.address() + 8 * (row * width + column) as u64, strides: [width, 1] }
    }

    fn transposed(self) -> Self {
        Self { strides: [self.strides[1], self.strides[0]], ..self }
    }
}

/// What a product may leave out.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Whole,
    /// Outputs above the diagonal's tiles.
    LowerOutputs,
    /// What the right factor has above its diagonal's tiles.
    LowerRight,
}

/// `to` (rows, columns) = `alpha` · left (rows, depth) · right (depth, columns) + `beta` · `to`.
#[derive(Debug, Clone, Copy)]
struct Product {
    left: View,
    right: View,
    to: View,
    /// Rows, columns, depth.
    size: [usize; 3],
    alpha: f64,
    beta: f64,
    shape: Shape,
}

impl Product {
    fn launch(&self, card: &Rc<dyn Card>) -> Result<(), CudaError> {
        let Self { left, right, to, size: [rows, columns, depth], alpha, beta, shape } = *self;
        let views = [left, right].map(|view| [view.address, view.strides[0] as u64, view.strides[1] as u64]);
        let rest = [to.address, to.strides[0] as u64, rows as u64, columns as u64, depth as u64];
        let numbers = [alpha.to_bits(), beta.to_bits(), shape as u64];
        let args: Vec<u64> = views.concat().into_iter().chain(rest).chain(numbers).collect();
        launch(card, "multiply", [columns.div_ceil(SIDE), rows.div_ceil(SIDE)], &args)
    }
}

/// U and the damping behind it: see [`Solver::factor`]. As the host does it: with rows and columns reversed H = L Lᵀ, and U is
/// L⁻¹ reversed again.
fn inverse_factor(
    card: &Rc<dyn Card>,
    hessian: &Hessian<'_>,
    order: &[usize],
    damping: f64,
) -> Result<Option<(Vec<f64>, f64)>, CudaError> {
    let width = order.len();
    let gram = Buffer::of(card, hessian.gram)?;
    let diagonal = Buffer::of(card, &hessian.diagonal)?;
    let reversed: Vec<u32> = order.iter().rev().map(|input| *input as u32).collect();
    let reversed = Buffer::of(card, &reversed)?;
    let matrix = Buffer::zeroed(card, width * width * 8)?;
    let failed = Buffer::zeroed(card, 4)?;
    let grid = [width.div_ceil(THREADS), width];
    let mut is_spent = false;
    for share in shares(damping) {
        if is_spent {
            gram.write(hessian.gram)?;
        }
        failed.write(&[0_u32])?;
        let [scale, ridge] = [hessian.scale, share * hessian.mean].map(f64::to_bits);
        let [from, to] = [&gram, &matrix].map(Buffer::address);
        let args = [from, diagonal.address(), reversed.address(), to, width as u64, scale, ridge];
        launch(card, "gather_damped", grid, &args)?;
        factor_lower(card, &matrix, width, &failed)?;
        let mut code = [0_u32];
        failed.read(&mut code)?;
        if code != [0] {
            continue;
        }
        invert_lower(card, &matrix, width)?;
        launch(card, "reverse_lower", grid, &[to, from, width as u64])?;
        let mut upper = vec![0.0; width * width];
        gram.read(&mut upper)?;
        if is_sound(&upper, width) {
            return Ok(Some((upper, share)));
        }
        is_spent = true;
    }
    Ok(None)
}

/// L of `matrix` = L Lᵀ below its diagonal blocks, which become their inverses; what is above is left as it was.
fn factor_lower(card: &Rc<dyn Card>, matrix: &Buffer, width: usize, failed: &Buffer) -> Result<(), CudaError> {
    for first in (0..width).step_by(SIDE) {
        let n = SIDE.min(width - first);
        let args = [matrix.address(), width as u64, first as u64, n as u64, failed.address()];
        launch(card, "factor_block", [1, 1], &args)?;
        let (next, rest) = (first + n, width - first - n);
        if rest == 0 {
            break;
        }
        let panel = View::of(matrix, width, next, first);
        let inverse = View::of(matrix, width, first, first).transposed();
        let (alpha, beta, shape) = (1.0, 0.0, Shape::Whole);
        Product { left: panel, right: inverse, to: panel, size: [rest, n, n], alpha, beta, shape }.launch(card)?;
        let to = View::of(matrix, width, next, next);
        let (alpha, beta, shape) = (-1.0, 1.0, Shape::LowerOutputs);
        Product { left: panel, right: panel.transposed(), to, size: [rest, rest, n], alpha, beta, shape }
            .launch(card)?;
    }
    Ok(())
}

/// L⁻¹ in the place of what [`factor_lower`] left, block row by block row.
fn invert_lower(card: &Rc<dyn Card>, matrix: &Buffer, width: usize) -> Result<(), CudaError> {
    let products = Buffer::zeroed(card, SIDE * width * 8)?;
    for first in (SIDE..width).step_by(SIDE) {
        let n = SIDE.min(width - first);
        let row = View::of(matrix, width, first, 0);
        let (above, between) = (View::of(matrix, width, 0, 0), View::of(&products, width, 0, 0));
        let size = [n, first, first];
        let (alpha, beta, shape) = (1.0, 0.0, Shape::LowerRight);
        Product { left: row, right: above, to: between, size, alpha, beta, shape }.launch(card)?;
        let (inverse, size) = (View::of(matrix, width, first, first), [n, first, n]);
        let (alpha, shape) = (-1.0, Shape::Whole);
        Product { left: inverse, right: between, to: row, size, alpha, beta, shape }.launch(card)?;
    }
    Ok(())
}

/// `tr(ΔW G ΔWᵀ)` and `tr(W G Wᵀ)`.
fn squares(card: &Rc<dyn Card>, dense: &[f32], restored: &[f32], moments: &Moments) -> Result<[f64; 2], CudaError> {
    let width = moments.n_inputs();
    let rows = dense.len() / width.max(1);
    if rows == 0 {
        return Ok([0.0; 2]);
    }
    let grid = [width.div_ceil(SIDE), rows.div_ceil(SIDE)];
    let gram = Buffer::of(card, moments.gram())?;
    let [dense, restored] = [Buffer::of(card, dense)?, Buffer::of(card, restored)?];
    let mut sums = vec![0.0; grid[0] * grid[1]];
    let on_card = Buffer::zeroed(card, sums.len() * 8)?;
    let mut of = |restored: u64| -> Result<f64, CudaError> {
        let [dense, gram, to] = [&dense, &gram, &on_card].map(Buffer::address);
        launch(card, "quadratic_form", grid, &[dense, restored, gram, to, rows as u64, width as u64])?;
        on_card.read(&mut sums)?;
        Ok(sums.iter().sum())
    };
    Ok([of(restored.address())?, of(0)?])
}

/// Whether blocks can end where every group, and every run of a pattern, ends.
fn takes(columns: &Columns<'_>) -> bool {
    match (columns.mask, columns.target) {
        (Mask::Pattern(Pattern { len, .. }), Target::Refitted(_)) => {
            usize::from(len) <= MOST_COLUMNS && columns.group.is_multiple_of(usize::from(len))
        }
        (Mask::Pattern(Pattern { len, .. }), _) => usize::from(len) <= MOST_COLUMNS,
        _ => true,
    }
}

/// The end of the block that begins at `first`: where weights must be as every column before has left them, a block begins.
fn end_of_block(columns: &Columns<'_>, first: usize) -> usize {
    let width = columns.factor.width();
    let behind = |step: usize| (first / step + 1) * step;
    let mut end = width.min(first + MOST_COLUMNS);
    if let Target::Refitted(_) = columns.target {
        end = end.min(behind(columns.group));
    }
    match columns.mask {
        Mask::Given => end,
        Mask::Fraction(_) => end.min(behind(MASK_COLUMNS)),
        Mask::Pattern(pattern) => first + (end - first) / usize::from(pattern.len) * usize::from(pattern.len),
    }
}

/// The matrix of [`Columns`] on the card.
struct Pass<'a> {
    card: &'a Rc<dyn Card>,
    rows: usize,
    width: usize,
    work: Buffer,
    upper: Buffer,
    errors: Buffer,
    losses: Buffer,
    /// (rows, `per_row`); where lines are fitted on the way, those of one group.
    lines: Buffer,
    per_row: usize,
    /// The line of each column.
    groups: Buffer,
    keep: Keep,
}

/// Which weights stay.
enum Keep {
    All,
    /// (rows, width).
    Given(Buffer),
    /// (rows, columns) of the run that begins at a column.
    OfRun(Buffer, Range<usize>),
}

impl<'a> Pass<'a> {
    fn new(card: &'a Rc<dyn Card>, columns: &Columns<'_>) -> Result<Self, CudaError> {
        let width = columns.factor.width();
        let rows = columns.work.len() / width;
        let is_refitted = matches!(columns.target, Target::Refitted(_));
        let per_row = if is_refitted { 1 } else { columns.lines.len() / rows };
        let of_column = |input: &usize| if is_refitted { 0 } else { (input / columns.group) as u32 };
        let groups: Vec<u32> = columns.factor.order.iter().map(of_column).collect();
        let lines: Vec<[u32; 4]> = columns.lines[..rows * per_row].iter().map(words).collect();
        let keep = match columns.mask {
            Mask::Given if columns.keep.contains(&false) => Keep::Given(Buffer::of(card, &columns.keep)?),
            Mask::Given | Mask::Pattern(_) => Keep::All,
            Mask::Fraction(_) => Keep::OfRun(Buffer::zeroed(card, rows * MASK_COLUMNS)?, 0..0),
        };
        Ok(Self {
            card,
            rows,
            width,
            work: Buffer::of(card, &columns.work)?,
            upper: Buffer::of(card, &columns.factor.upper)?,
            errors: Buffer::zeroed(card, rows * MOST_COLUMNS * 8)?,
            losses: Buffer::zeroed(card, rows * 8)?,
            lines: Buffer::of(card, &lines)?,
            per_row,
            groups: Buffer::of(card, &groups)?,
            keep,
        })
    }

    /// Works through all columns, and takes the result back; returns the sum of the squared errors.
    fn run(mut self, columns: &mut Columns<'_>) -> Result<f64, CompressError> {
        let mut first = 0;
        while first < self.width {
            if let Mask::Fraction(fraction) = columns.mask
                && first.is_multiple_of(MASK_COLUMNS)
            {
                self.choose_run(columns, first..self.width.min(first + MASK_COLUMNS), fraction)?;
            }
            if let Target::Refitted(format) = columns.target
                && first.is_multiple_of(columns.group)
            {
                self.fit_group(columns, first, format)?;
            }
            let end = end_of_block(columns, first);
            self.run_block(columns, first..end)?;
            first = end;
        }
        self.work.read(&mut columns.work)?;
        let mut losses = vec![0.0; self.rows];
        self.losses.read(&mut losses)?;
        Ok(losses.iter().sum())
    }

    fn run_block(&self, columns: &Columns<'_>, block: Range<usize>) -> Result<(), CudaError> {
        let (n, rest) = (block.len(), self.width - block.end);
        let (keep, keep_stride) = match &self.keep {
            Keep::All => (0, 0),
            Keep::Given(keep) => (keep.address() + block.start as u64, self.width),
            Keep::OfRun(keep, run) => (keep.address() + (block.start - run.start) as u64, run.len()),
        };
        let target = match columns.target {
            Target::Itself => 0,
            Target::Line | Target::Refitted(_) => 1,
            Target::Fp8 => 2,
        };
        let (zeros, run) = match columns.mask {
            Mask::Pattern(pattern) => (pattern.zeros, pattern.len),
            Mask::Given | Mask::Fraction(_) => (0, 1),
        };
        let buffers = [&self.work, &self.upper, &self.errors, &self.losses, &self.lines, &self.groups];
        let sizes = [keep_stride, self.rows, self.width, self.per_row, block.start, n];
        let mut args: Vec<u64> = buffers.map(Buffer::address).into();
        args.push(keep);
        args.extend(sizes.map(|size| size as u64));
        args.extend([target, u64::from(zeros), u64::from(run)]);
        launch(self.card, "feed_back", [self.rows.div_ceil(THREADS / 32), 1], &args)?;
        if rest == 0 {
            return Ok(());
        }
        let left = View::of(&self.errors, n, 0, 0);
        let right = View::of(&self.upper, self.width, block.start, block.end);
        let to = View::of(&self.work, self.width, 0, block.end);
        let (alpha, beta, shape) = (-1.0, 1.0, Shape::Whole);
        Product { left, right, to, size: [self.rows, rest, n], alpha, beta, shape }.launch(self.card)
    }

    /// Chooses the zeros of a run of columns: the scores of all rows compete, on the host.
    fn choose_run(&mut self, columns: &Columns<'_>, run: Range<usize>, fraction: f64) -> Result<(), CudaError> {
        let scores = Buffer::zeroed(self.card, self.rows * run.len() * 8)?;
        let [work, upper, to] = [&self.work, &self.upper, &scores].map(Buffer::address);
        let sizes = [self.width, run.start, run.len()].map(|size| size as u64);
        launch(self.card, "score_columns", [self.rows, 1], &[[work, upper, to], sizes].concat())?;
        let mut found = vec![0.0_f64; self.rows * run.len()];
        scores.read(&mut found)?;
        let mut keep = vec![1_u8; found.len()];
        let mut found: Vec<(u64, usize)> = found.into_iter().map(f64::to_bits).zip(0..).collect();
        let pruned = lowest(&mut found, columns.n_pruned(run.clone(), fraction));
        for (_, place) in pruned {
            keep[*place] = 0;
        }
        if let Keep::OfRun(buffer, of) = &mut self.keep {
            buffer.write(&keep)?;
            *of = run;
        }
        Ok(())
    }

    /// Fits the lines of the group that begins at `first` to the weights as they are now.
    fn fit_group(&self, columns: &mut Columns<'_>, first: usize, format: IntFormat) -> Result<(), CompressError> {
        let ranges = Buffer::zeroed(self.card, self.rows * 16)?;
        let sizes = [self.rows, self.width, first, columns.group].map(|size| size as u64);
        let args: Vec<u64> = [self.work.address(), ranges.address()].into_iter().chain(sizes).collect();
        launch(self.card, "range_of_columns", [self.rows.div_ceil(THREADS / 32), 1], &args)?;
        let mut found = vec![[0.0_f64; 2]; self.rows];
        ranges.read(&mut found)?;
        let lines = found.into_iter().map(|range| fitted(range, format)).collect::<Result<Vec<Line>, _>>()?;
        self.lines.write(&lines.iter().map(words).collect::<Vec<_>>())?;
        let (per_row, group) = (columns.lines.len() / self.rows, first / columns.group);
        let places = columns.lines.iter_mut().skip(group).step_by(per_row);
        places.zip(lines).for_each(|(place, line)| *place = line);
        Ok(())
    }
}

/// A line as kernels read it.
fn words(line: &Line) -> [u32; 4] {
    [line.step.to_bits(), line.min.to_bits(), u32::from_le_bytes([line.bias, line.low, line.high, 0]), 0]
}

//! Activations as products take them: rounded once for all products that share them.

use std::cell::Cell;
use std::rc::Rc;

use crate::compress::ActivationGrid;
use crate::cuda::CudaError;
use crate::cuda::card::{Buffer, Card, Launch};
use crate::cuda::matrix::FEW_ROWS;

/// Threads of the kernels.
const THREADS: u32 = 256;

/// Rows of activations in a card's memory, with room for their roundings. They must not change while it is used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Activations<'a> {
    /// (rows, inputs) f32.
    pub(super) values: u64,
    pub(super) rows: usize,
    rounding: &'a Rounding,
    number: u64,
}

/// Room for the roundings of activations, and what it holds.
#[derive(Debug)]
pub(super) struct Rounding {
    card: Rc<dyn Card>,
    /// (rows, inputs) i8, rows filled up to multiples of 16, and their scales.
    codes: Buffer,
    scales: Buffer,
    /// (rows, inputs) f32 on a grid.
    values: Buffer,
    /// (rows, inputs) of 16 bits, rows filled up to multiples of 8.
    narrow: Buffer,
    /// The largest magnitudes of rows.
    largest: Buffer,
    /// What takes the factor of the halves back, and what takes that of the weights back too.
    undo: Buffer,
    issued: Cell<u64>,
    held: Cell<[Held; 3]>,
}

/// What one of the buffers holds: the number of the activations, with the bits of their grid and their type.
type Held = Option<(u64, u64, Narrow)>;

/// Which of them.
#[derive(Debug, Clone, Copy)]
enum Place {
    Codes,
    Values,
    Narrow,
}

/// A type of 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Narrow {
    /// Under a factor.
    F16,
    Bf16,
}

/// Activations of 16 bits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Narrowed {
    /// (rows, width).
    pub(super) values: u64,
    pub(super) width: usize,
    /// The address of the inverse of their factor, and one where a product puts its own; of no meaning for bf16.
    pub(super) undo: u64,
    pub(super) alpha: u64,
}

impl Rounding {
    /// Room for rows of at most `width` inputs.
    pub(super) fn new(card: &Rc<dyn Card>, rows: usize, width: usize) -> Result<Self, CudaError> {
        let narrow = if rows > FEW_ROWS { rows * width.next_multiple_of(8) * 2 } else { 0 };
        Ok(Self {
            card: Rc::clone(card),
            codes: Buffer::zeroed(card, rows * width.next_multiple_of(16))?,
            scales: Buffer::floats(card, rows)?,
            values: Buffer::floats(card, rows * width)?,
            narrow: Buffer::zeroed(card, narrow)?,
            largest: Buffer::floats(card, rows)?,
            undo: Buffer::floats(card, 2)?,
            issued: Cell::new(0),
            held: Cell::default(),
        })
    }

    /// Activations (rows, inputs) that were just made.
    pub(super) fn of(&self, values: u64, rows: usize) -> Activations<'_> {
        self.issued.set(self.issued.get() + 1);
        Activations { values, rows, rounding: self, number: self.issued.get() }
    }

    /// Whether a buffer has to be filled with this; it counts as done.
    fn lacks(&self, place: Place, what: (u64, u64, Narrow)) -> bool {
        let mut held = self.held.get();
        let lacks = held[place as usize].replace(what) != Some(what);
        self.held.set(held);
        lacks
    }
}

impl Activations<'_> {
    /// Others, in the same room.
    pub(super) fn others(&self, values: u64) -> Self {
        self.rounding.of(values, self.rows)
    }

    /// Addresses of the 8-bit codes (rows, inputs filled up to 16) and of their scales.
    pub(super) fn codes(&self, inputs: usize, grid: ActivationGrid) -> Result<[u64; 2], CudaError> {
        let Rounding { codes, scales, .. } = self.rounding;
        if self.rounding.lacks(Place::Codes, (self.number, grid_bits(grid), Narrow::F16)) {
            self.round(inputs, grid, [codes.address(), scales.address(), 0])?;
        }
        Ok([codes.address(), scales.address()])
    }

    /// The address of the numbers (rows, inputs) f32 on the grid; of the activations where there is none.
    pub(super) fn on_grid(&self, inputs: usize, grid: ActivationGrid) -> Result<u64, CudaError> {
        if grid == ActivationGrid::Float {
            return Ok(self.values);
        }
        let values = self.rounding.values.address();
        if self.rounding.lacks(Place::Values, (self.number, grid_bits(grid), Narrow::F16)) {
            self.round(inputs, grid, [0, self.rounding.scales.address(), values])?;
            // The scales are no longer those of the codes.
            let mut held = self.rounding.held.get();
            held[Place::Codes as usize] = None;
            self.rounding.held.set(held);
        }
        Ok(values)
    }

    /// The numbers on the grid in 16 bits.
    pub(super) fn narrow(&self, inputs: usize, grid: ActivationGrid, to: Narrow) -> Result<Narrowed, CudaError> {
        let Rounding { narrow, largest, undo, .. } = self.rounding;
        let width = inputs.next_multiple_of(8);
        let x = self.on_grid(inputs, grid)?;
        if self.rounding.lacks(Place::Narrow, (self.number, grid_bits(grid), to)) {
            let (inputs, out) = (inputs as u64, narrow.address());
            match to {
                Narrow::F16 => {
                    self.launch("largest_rows", &[x, largest.address(), inputs])?;
                    let args = [x, largest.address(), out, undo.address(), inputs, width as u64];
                    self.launch("narrow_f16", &args)?;
                }
                Narrow::Bf16 => self.launch("narrow_bf16", &[x, out, inputs, width as u64])?,
            }
        }
        Ok(Narrowed { values: narrow.address(), width, undo: undo.address(), alpha: undo.float(1) })
    }

    fn round(&self, inputs: usize, grid: ActivationGrid, [codes, scales, values]: [u64; 3]) -> Result<(), CudaError> {
        let fixed = match grid {
            ActivationGrid::Int8Static { scale } => f64::from(scale),
            ActivationGrid::Float | ActivationGrid::Int8PerToken => 0.0,
        };
        self.launch("round_rows", &[self.values, codes, scales, values, inputs as u64, fixed.to_bits()])
    }

    fn launch(&self, kernel: &str, args: &[u64]) -> Result<(), CudaError> {
        self.rounding.card.launch(Launch { kernel, grid: [self.rows, 1, 1], threads: THREADS, args })
    }
}

/// A number that tells grids apart.
fn grid_bits(grid: ActivationGrid) -> u64 {
    match grid {
        ActivationGrid::Float => 0,
        ActivationGrid::Int8PerToken => 1,
        ActivationGrid::Int8Static { scale } => 2 | u64::from(scale.to_bits()) << 32,
    }
}

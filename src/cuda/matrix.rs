//! A packed matrix on a card, and its products.

use std::rc::Rc;

use crate::compress::{ActivationGrid, PackedWeights};
use crate::cuda::CudaError;
use crate::cuda::card::{Buffer, Card, Launch};
use crate::cuda::layout::Layout;
use crate::recipe::Execution;

/// Threads of a block of a product, and the outputs that it makes.
const THREADS: u32 = 128;
const OUTPUTS: usize = 4;
/// Rows that a product of several takes at once.
const ROWS: usize = 8;

/// y = x Wᵀ over weights (outputs, inputs) in a card's memory.
#[derive(Debug)]
pub(super) struct Matrix {
    card: Rc<dyn Card>,
    shape: [usize; 2],
    format: &'static str,
    takes_tokens: bool,
    is_expanded: bool,
    codes: Buffer,
    scales: Option<Buffer>,
    zeros: Option<Buffer>,
    stride: usize,
    group: usize,
    /// Names of the kernels for one row, for several, and for rows by number.
    kernels: [String; 3],
}

/// Rows of activations in a card's memory, with room for their roundings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Activations<'a> {
    /// (rows, inputs) f32.
    pub(super) values: u64,
    pub(super) rows: usize,
    pub(super) rounding: &'a Rounding,
}

/// Room for the roundings of activations.
#[derive(Debug)]
pub(super) struct Rounding {
    codes: Buffer,
    scales: Buffer,
    values: Buffer,
}

impl Rounding {
    /// Room for rows of at most `width` inputs.
    pub(super) fn new(card: &Rc<dyn Card>, rows: usize, width: usize) -> Result<Self, CudaError> {
        Ok(Self {
            codes: Buffer::zeroed(card, rows * width.next_multiple_of(16))?,
            scales: Buffer::floats(card, rows)?,
            values: Buffer::floats(card, rows * width)?,
        })
    }
}

/// What a product adds to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Onto {
    /// Nothing: the output is written.
    Nothing,
    /// What the output holds.
    Output,
}

impl Matrix {
    /// Copies packed weights of this shape to the card.
    pub(super) fn new(
        card: &Rc<dyn Card>,
        packed: &PackedWeights,
        shape: [usize; 2],
        execution: Execution,
        activations: ActivationGrid,
    ) -> Result<Self, CudaError> {
        let layout = Layout::new(packed, shape, execution, activations);
        let Layout { format, takes_tokens, is_expanded, codes, scales, zeros, stride, group } = layout;
        let optional = |values: &[f32]| match values {
            [] => Ok(None),
            values => Buffer::of(card, values).map(Some),
        };
        let kernels = [format!("product_{format}_1"), format!("product_{format}_8"), format!("gather_{format}")];
        Ok(Self {
            card: Rc::clone(card),
            shape,
            format,
            takes_tokens,
            is_expanded,
            codes: Buffer::of(card, &codes)?,
            scales: optional(&scales)?,
            zeros: optional(&zeros)?,
            stride,
            group,
            kernels,
        })
    }

    pub(super) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Bytes on the card.
    pub(super) fn held_bytes(&self) -> u64 {
        let optional = |buffer: &Option<Buffer>| buffer.as_ref().map_or(0, Buffer::bytes);
        (self.codes.bytes() + optional(&self.scales) + optional(&self.zeros)) as u64
    }

    /// Whether the product itself takes 8-bit activations.
    pub(super) fn takes_tokens(&self) -> bool {
        self.takes_tokens
    }

    /// Name of the product for tables: `trimtab q8_0 (cuda)`.
    pub(super) fn label(&self) -> String {
        let name = if self.takes_tokens { "int8 × int8" } else { self.format };
        let expanded = if self.is_expanded { " with zeros written out" } else { "" };
        format!("trimtab {name}{expanded} (cuda)")
    }

    /// y (rows, outputs) = x Wᵀ + bias, x rounded to `grid` first; `bias` is an address or 0.
    pub(super) fn multiply(
        &self,
        x: Activations<'_>,
        grid: ActivationGrid,
        y: u64,
        bias: u64,
        onto: Onto,
    ) -> Result<(), CudaError> {
        let values = if grid == ActivationGrid::Float { x.values } else { self.round(x, grid)? };
        let [outputs, inputs] = self.shape;
        let (kernel, blocks) =
            if x.rows == 1 { (&self.kernels[0], 1) } else { (&self.kernels[1], x.rows.div_ceil(ROWS)) };
        let grid = [outputs.div_ceil(OUTPUTS), blocks, 1];
        if self.takes_tokens {
            debug_assert_eq!(onto, Onto::Nothing, "corrections are products of their own");
            let Rounding { codes, scales, .. } = x.rounding;
            let args = [
                self.codes.address(),
                address(self.scales.as_ref()),
                inputs as u64,
                codes.address(),
                scales.address(),
                y,
                bias,
                x.rows as u64,
                outputs as u64,
            ];
            return self.card.launch(Launch { kernel, grid, threads: THREADS, args: &args });
        }
        let [codes, scales, zeros, stride, group, width] = self.matrix_args();
        let adds = u64::from(onto == Onto::Output);
        let args = [codes, scales, zeros, stride, group, width, values, y, bias, x.rows as u64, outputs as u64, adds];
        self.card.launch(Launch { kernel, grid, threads: THREADS, args: &args })
    }

    /// Rounds rows: to codes where the product takes them, else to numbers on the grid, whose address is returned.
    fn round(&self, x: Activations<'_>, grid: ActivationGrid) -> Result<u64, CudaError> {
        let Rounding { codes, scales, values } = x.rounding;
        let fixed = match grid {
            ActivationGrid::Int8Static { scale } => f64::from(scale),
            ActivationGrid::Float | ActivationGrid::Int8PerToken => 0.0,
        };
        let (codes, values) = if self.takes_tokens { (codes.address(), 0) } else { (0, values.address()) };
        let args = [x.values, codes, scales.address(), values, self.shape[1] as u64, fixed.to_bits()];
        self.card.launch(Launch { kernel: "round_rows", grid: [x.rows, 1, 1], threads: 256, args: &args })?;
        Ok(values)
    }

    /// hidden (ids, inputs) = the rows that `ids` (n u32) number.
    pub(super) fn gather(&self, ids: u64, n: usize, hidden: u64) -> Result<(), CudaError> {
        let [codes, scales, zeros, stride, group, width] = self.matrix_args();
        let args = [codes, scales, zeros, stride, group, width, ids, hidden];
        let kernel = &self.kernels[2];
        self.card.launch(Launch { kernel, grid: [n, 1, 1], threads: THREADS, args: &args })
    }

    fn matrix_args(&self) -> [u64; 6] {
        let [codes, scales, zeros] = [Some(&self.codes), self.scales.as_ref(), self.zeros.as_ref()].map(address);
        [codes, scales, zeros, self.stride as u64, self.group as u64, self.shape[1] as u64]
    }
}

/// Where a buffer begins; 0 where there is none.
pub(super) fn address(buffer: Option<&Buffer>) -> u64 {
    buffer.map_or(0, Buffer::address)
}

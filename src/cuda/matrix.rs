//! A packed matrix on a card, and its products.

use std::rc::Rc;

use crate::compress::{ActivationGrid, PackedWeights};
use crate::cuda::CudaError;
use crate::cuda::card::{Buffer, Card, GemmType, Launch};
use crate::cuda::gemm::{Many, Written};
use crate::cuda::layout::Layout;
use crate::cuda::rounding::Activations;
use crate::cuda::upload::PIECE_BYTES;
use crate::recipe::Execution;

/// Threads of a block of a product, and the outputs that it makes.
const THREADS: u32 = 128;
const OUTPUTS: usize = 4;
/// Rows that a kernel of ours takes at once, reading the weights once; more go to cuBLASLt where it is there.
///
/// At nine rows ours reads the weights twice and makes 16 products of each. Where weights must be written out as halves
/// first, 59 million of four bits move 270 MB, 0.07 ms at 4 TB/s: what ours needs for 11 rows at 10 T products a second.
pub(super) const FEW_ROWS: usize = 8;

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
    /// What takes many rows; `None` where the kernels take them in groups.
    many: Option<Many>,
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
    /// Copies packed weights of this shape to the card; `place` is where they may be written out.
    pub(super) fn new(
        card: &Rc<dyn Card>,
        place: &Rc<Written>,
        packed: &PackedWeights,
        shape: [usize; 2],
        execution: Execution,
        activations: ActivationGrid,
    ) -> Result<Self, CudaError> {
        let (layout, packed) = Layout::new(packed, shape, execution, activations);
        let (rows, packed) = (layout.rows, packed.bytes());
        let codes = Buffer::zeroed(card, rows.bytes())?;
        if rows.are_same() {
            codes.write(packed)?;
        } else {
            let most = (PIECE_BYTES / rows.stride.max(rows.packed).max(1)).clamp(1, rows.n.max(1));
            let mut laid = vec![0; most * rows.stride];
            for (part, packed) in packed.chunks(most * rows.packed.max(1)).enumerate() {
                let laid = &mut laid[..packed.len() / rows.packed * rows.stride];
                rows.lay(packed, laid);
                codes.write_at(part * most * rows.stride, laid)?;
            }
        }
        Self::with(card, place, shape, layout, codes)
    }

    /// A matrix whose codes are on the card, or will be before it multiplies.
    pub(super) fn with(
        card: &Rc<dyn Card>,
        place: &Rc<Written>,
        shape: [usize; 2],
        layout: Layout,
        codes: Buffer,
    ) -> Result<Self, CudaError> {
        let Layout { format, takes_tokens, is_expanded, rows, scales, zeros, group } = layout;
        let optional = |values: &[f32]| match values {
            [] => Ok(None),
            values => Buffer::of(card, values).map(Some),
        };
        let kernels = [format!("product_{format}_1"), format!("product_{format}_8"), format!("gather_{format}")];
        let mut matrix = Self {
            card: Rc::clone(card),
            shape,
            format,
            takes_tokens,
            is_expanded,
            codes,
            scales: optional(&scales)?,
            zeros: optional(&zeros)?,
            stride: rows.stride,
            group,
            kernels,
            many: None,
        };
        matrix.many = Many::new(card, &matrix, place)?;
        Ok(matrix)
    }

    pub(super) fn card(&self) -> &Rc<dyn Card> {
        &self.card
    }

    /// The format in names of kernels.
    pub(super) fn format(&self) -> &'static str {
        self.format
    }

    /// Bytes from row to row.
    pub(super) fn stride(&self) -> usize {
        self.stride
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

    /// What the library multiplies so many rows in; `None` where our kernels do.
    pub(super) fn library_type(&self, rows: usize) -> Option<GemmType> {
        self.many.as_ref().filter(|many| rows > many.above()).map(Many::numbers)
    }

    /// Name of the product for tables: `trimtab q8_0 (cuda)`, `trimtab q8_0 (cuda, prompts by cuBLASLt f16)`.
    pub(super) fn label(&self) -> String {
        let name = if self.takes_tokens { "int8 × int8" } else { self.format };
        let expanded = if self.is_expanded { " with zeros written out" } else { "" };
        let prompts = match &self.many {
            Some(many) => format!(", prompts by cuBLASLt {}", many.numbers().name()),
            None => String::new(),
        };
        format!("trimtab {name}{expanded} (cuda{prompts})")
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
        if let Some(many) = self.many.as_ref().filter(|many| x.rows > many.above())
            && many.takes(self, x.rows)?
        {
            return many.multiply(self, x, grid, [y, bias], onto);
        }
        let [outputs, inputs] = self.shape;
        let (kernel, blocks) =
            if x.rows == 1 { (&self.kernels[0], 1) } else { (&self.kernels[1], x.rows.div_ceil(FEW_ROWS)) };
        let blocks = [outputs.div_ceil(OUTPUTS), blocks, 1];
        let launch = |args: &[u64]| self.card.launch(Launch { kernel, grid: blocks, threads: THREADS, args });
        let (rows, n_outputs) = (x.rows as u64, outputs as u64);
        let [codes, scales, zeros, stride, group, width] = self.args();
        if self.takes_tokens {
            debug_assert_eq!(onto, Onto::Nothing, "corrections are products of their own");
            let [x_codes, x_scales] = x.codes(inputs, grid)?;
            return launch(&[codes, scales, width, x_codes, x_scales, y, bias, rows, n_outputs]);
        }
        let values = x.on_grid(inputs, grid)?;
        let adds = u64::from(onto == Onto::Output);
        launch(&[codes, scales, zeros, stride, group, width, values, y, bias, rows, n_outputs, adds])
    }

    /// hidden (ids, inputs) = the rows that `ids` (n u32) number.
    pub(super) fn gather(&self, ids: u64, n: usize, hidden: u64) -> Result<(), CudaError> {
        let [codes, scales, zeros, stride, group, width] = self.args();
        let args = [codes, scales, zeros, stride, group, width, ids, hidden];
        let kernel = &self.kernels[2];
        self.card.launch(Launch { kernel, grid: [n, 1, 1], threads: THREADS, args: &args })
    }

    /// What every kernel that reads the weights begins with.
    pub(super) fn args(&self) -> [u64; 6] {
        let [codes, scales, zeros] = [Some(&self.codes), self.scales.as_ref(), self.zeros.as_ref()].map(address);
        [codes, scales, zeros, self.stride as u64, self.group as u64, self.shape[1] as u64]
    }
}

/// Where a buffer begins; 0 where there is none.
pub(super) fn address(buffer: Option<&Buffer>) -> u64 {
    buffer.map_or(0, Buffer::address)
}

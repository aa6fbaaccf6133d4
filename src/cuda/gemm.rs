//! Products of many rows, by cuBLASLt: weights that it reads as they are, or written out as halves before.

use std::cell::{Ref, RefCell};
use std::rc::Rc;

use crate::compress::ActivationGrid;
use crate::cuda::CudaError;
use crate::cuda::card::{Buffer, Card, Gemm, GemmType, Launch};
use crate::cuda::matrix::{FEW_ROWS, Matrix, Onto};
use crate::cuda::rounding::{Activations, Narrow};

/// Threads of the kernels around a product, and of those that read weights.
const THREADS: usize = 256;
const WEIGHT_THREADS: u32 = 128;
/// Memory for weights that are written out; larger matrices go in slices.
const WRITTEN_BYTES: usize = 128 << 20;
/// Outputs of a slice are a multiple of this.
const SLICE: usize = 64;
/// Rows above which the library has products of integers, and what the outputs must be a multiple of.
const INTEGER_ROWS: usize = 16;
const INTEGER_OUTPUTS: usize = 8;

/// Where weights are written out: one place for all matrices of a card, as products follow each other.
#[derive(Debug, Default)]
pub(super) struct Written(RefCell<Option<Buffer>>);

impl Written {
    /// Makes room for so many bytes.
    fn reserve(&self, card: &Rc<dyn Card>, bytes: usize) -> Result<(), CudaError> {
        let mut place = self.0.borrow_mut();
        if place.as_ref().is_none_or(|buffer| buffer.bytes() < bytes) {
            *place = None;
            *place = Some(Buffer::zeroed(card, bytes)?);
        }
        Ok(())
    }

    fn address(&self) -> u64 {
        Ref::map(self.0.borrow(), |place| place.as_ref().expect("matrices that are written out have made room"))
            .address()
    }
}

/// How the products of many rows of a matrix run.
#[derive(Debug)]
pub(super) struct Many {
    weights: Weights,
    /// Inputs of a row of weights as the library sees it, filled up with zeros.
    width: usize,
    /// Rows above which it runs.
    above: usize,
}

#[derive(Debug)]
enum Weights {
    /// As they are; with the numbers from row to row.
    Direct(GemmType, usize),
    /// Written out as halves by a kernel, under a factor that lies on the card.
    Written { kernel: String, slice: usize, factor: Buffer, place: Rc<Written> },
}

impl Many {
    /// `None` where the card has no library, or the library no product, for this matrix.
    pub(super) fn new(card: &Rc<dyn Card>, matrix: &Matrix, place: &Rc<Written>) -> Result<Option<Self>, CudaError> {
        let [outputs, inputs] = matrix.shape();
        let stride = matrix.stride();
        let (numbers, width, above) = match matrix.format() {
            "tokens" if !outputs.is_multiple_of(INTEGER_OUTPUTS) => return Ok(None),
            "tokens" => (GemmType::Int8, stride, INTEGER_ROWS),
            "f32" => (GemmType::F32, inputs, FEW_ROWS),
            "bf16" => (GemmType::Bf16, inputs.next_multiple_of(8), FEW_ROWS),
            _ => (GemmType::F16, inputs.next_multiple_of(8), FEW_ROWS),
        };
        let is_written = !matches!(matrix.format(), "tokens" | "f32" | "bf16" | "f16");
        let slice = if is_written { slice_of(outputs, width) } else { outputs };
        let row_width = if is_written { width } else { stride / numbers.bytes() };
        // Any count of rows stands for all, and any alpha: what decides is types, widths and alignment.
        let probe = Gemm {
            numbers,
            shape: [above + 1, slice, width],
            strides: [row_width, if numbers == GemmType::F32 { inputs } else { width }, outputs],
            alpha: u64::from(numbers == GemmType::F16),
            ..Gemm::default()
        };
        if !card.has_gemm(&probe)? {
            return Ok(None);
        }
        if !is_written {
            return Ok(Some(Self { weights: Weights::Direct(numbers, row_width), width, above }));
        }
        place.reserve(card, slice * width * 2)?;
        let (format, largest, factor) = (matrix.format(), Buffer::floats(card, outputs)?, Buffer::floats(card, 1)?);
        let [codes, scales, zeros, stride, group, inputs] = matrix.args();
        let args = [codes, scales, zeros, stride, group, inputs, largest.address()];
        let kernel = format!("largest_{format}");
        card.launch(Launch { kernel: &kernel, grid: [outputs, 1, 1], threads: WEIGHT_THREADS, args: &args })?;
        let args = [largest.address(), outputs as u64, factor.address()];
        card.launch(Launch { kernel: "factor_of_rows", grid: [1, 1, 1], threads: THREADS as u32, args: &args })?;
        let kernel = format!("write_out_{format}");
        let weights = Weights::Written { kernel, slice, factor, place: Rc::clone(place) };
        Ok(Some(Self { weights, width, above }))
    }

    /// Rows above which it runs.
    pub(super) fn above(&self) -> usize {
        self.above
    }

    /// The type of both factors.
    pub(super) fn numbers(&self) -> GemmType {
        match self.weights {
            Weights::Direct(numbers, _) => numbers,
            Weights::Written { .. } => GemmType::F16,
        }
    }

    /// Whether the library has every product of so many rows: what it has may depend on their number.
    pub(super) fn takes(&self, matrix: &Matrix, rows: usize) -> Result<bool, CudaError> {
        let ([outputs, inputs], numbers) = (matrix.shape(), self.numbers());
        let (slice, weight_stride) = match &self.weights {
            Weights::Direct(_, stride) => (outputs, *stride),
            Weights::Written { slice, .. } => (*slice, self.width),
        };
        let x_stride = if numbers == GemmType::F32 { inputs } else { self.width };
        for n in [slice.min(outputs), outputs % slice].into_iter().filter(|n| *n > 0) {
            let (shape, strides) = ([rows, n, self.width], [weight_stride, x_stride, outputs]);
            let alpha = u64::from(numbers == GemmType::F16);
            if !matrix.card().has_gemm(&Gemm { numbers, shape, strides, alpha, ..Gemm::default() })? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// y (rows, outputs) = x Wᵀ + bias, x rounded to `grid` first; `bias` is an address or 0.
    pub(super) fn multiply(
        &self,
        matrix: &Matrix,
        x: Activations<'_>,
        grid: ActivationGrid,
        [y, bias]: [u64; 2],
        onto: Onto,
    ) -> Result<(), CudaError> {
        let [outputs, inputs] = matrix.shape();
        let card = matrix.card();
        let [codes, scales, ..] = matrix.args();
        let gemm = |numbers, weights, weight_stride, [x_at, x_stride]: [u64; 2]| Gemm {
            numbers,
            weights,
            x: x_at,
            y,
            shape: [x.rows, outputs, self.width],
            strides: [weight_stride, x_stride as usize, outputs],
            alpha: 0,
            adds: onto == Onto::Output || bias != 0,
        };
        let spread = [outputs.div_ceil(THREADS), x.rows, 1];
        let launch = |kernel, args: &[u64]| card.launch(Launch { kernel, grid: spread, threads: THREADS as u32, args });
        if let Weights::Direct(GemmType::Int8, stride) = self.weights {
            debug_assert_eq!(onto, Onto::Nothing, "corrections are products of their own");
            let [x_codes, x_scales] = x.codes(inputs, grid)?;
            let product = gemm(GemmType::Int8, codes, stride, [x_codes, self.width as u64]);
            card.gemm(&Gemm { adds: false, ..product })?;
            return launch("scale_sums", &[y, x_scales, scales, bias, outputs as u64]);
        }
        if bias != 0 {
            launch("spread_bias", &[y, bias, outputs as u64, u64::from(onto == Onto::Output)])?;
        }
        match &self.weights {
            Weights::Direct(GemmType::F32, stride) => {
                let values = x.on_grid(inputs, grid)?;
                card.gemm(&gemm(GemmType::F32, codes, *stride, [values, inputs as u64]))
            }
            Weights::Direct(GemmType::Bf16, stride) => {
                let x = x.narrow(inputs, grid, Narrow::Bf16)?;
                card.gemm(&gemm(GemmType::Bf16, codes, *stride, [x.values, x.width as u64]))
            }
            Weights::Direct(numbers, stride) => {
                let x = x.narrow(inputs, grid, Narrow::F16)?;
                card.gemm(&Gemm { alpha: x.undo, ..gemm(*numbers, codes, *stride, [x.values, x.width as u64]) })
            }
            Weights::Written { kernel, slice, factor, place } => {
                let halves = x.narrow(inputs, grid, Narrow::F16)?;
                let at = place.address();
                for first in (0..outputs).step_by(*slice) {
                    let n = (*slice).min(outputs - first);
                    let [codes, scales, zeros, stride, group, inputs] = matrix.args();
                    let args = [
                        codes,
                        scales,
                        zeros,
                        stride,
                        group,
                        inputs,
                        first as u64,
                        factor.address(),
                        halves.undo,
                        at,
                        self.width as u64,
                        halves.alpha,
                    ];
                    card.launch(Launch { kernel, grid: [n, 1, 1], threads: WEIGHT_THREADS, args: &args })?;
                    let whole = gemm(GemmType::F16, at, self.width, [halves.values, halves.width as u64]);
                    let shape = [x.rows, n, self.width];
                    card.gemm(&Gemm { y: y + first as u64 * 4, shape, alpha: halves.alpha, ..whole })?;
                }
                Ok(())
            }
        }
    }
}

/// Outputs whose weights are written out at once.
fn slice_of(outputs: usize, width: usize) -> usize {
    let most = (WRITTEN_BYTES / (2 * width.max(1)) / SLICE * SLICE).max(SLICE);
    outputs.min(most)
}

//! Products, shared between threads and compiled for sets of instructions.

#![expect(clippy::inline_always, reason = "the instructions of the caller are used only where it is inlined")]

use super::super::activations::Activations;
use super::super::block_type::BlockType;
use super::super::isa::Isa;
use super::super::pool::{Parts, Share, share_out_if};
use super::Blocks;
use super::format::{Format, Q2k, Q3k, Q4_0, Q4_1, Q4k, Q5_0, Q5_1, Q5k, Q6k, Q8_0};
use super::kernel::{self, Panel};
use super::lanes::{Lanes, OUTPUTS, Portable};
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::rounding::{self, BlockRounding, RoundedTile, Starts, TILE};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// Products of a weight and an input that are worth a second thread.
const LARGE: usize = 1 << 17;

/// A product on its way.
pub(super) struct Job<'a> {
    weights: &'a Blocks,
    x: &'a BlockRounding,
    /// `(n_rows, n_outputs)`
    y: Parts<'a, f32>,
}

pub(super) fn multiply(weights: &Blocks, x: &mut Activations, y: &mut [f32], isa: Isa) {
    let n_rows = x.n_rows();
    assert_eq!(x.n_inputs(), weights.n_inputs, "inputs of the weights");
    assert_eq!(y.len(), n_rows * weights.n_outputs, "an output for each row and each row of weights");
    if weights.n_inputs == 0 {
        return y.fill(0.0);
    }
    let shape = weights.shape();
    let x = x.in_blocks(isa);
    if shape.has_min() {
        x.make_offsets(shape.is_fine);
    } else {
        x.make_starts(Starts { bias: shape.bias, is_fine: shape.is_fine });
    }
    let job = Job { weights, x, y: Parts::new(y) };
    share_out_if(n_rows * weights.n_outputs * weights.n_inputs > LARGE, |share| run_kind(&job, share, isa));
}

fn run_kind(job: &Job<'_>, share: Share, isa: Isa) {
    match job.weights.kind {
        BlockType::Q4_0 => run_on::<Q4_0>(job, share, isa),
        BlockType::Q4_1 => run_on::<Q4_1>(job, share, isa),
        BlockType::Q5_0 => run_on::<Q5_0>(job, share, isa),
        BlockType::Q5_1 => run_on::<Q5_1>(job, share, isa),
        BlockType::Q8_0 => run_on::<Q8_0>(job, share, isa),
        BlockType::Q2k => run_on::<Q2k>(job, share, isa),
        BlockType::Q3k => run_on::<Q3k>(job, share, isa),
        BlockType::Q4k => run_on::<Q4k>(job, share, isa),
        BlockType::Q5k => run_on::<Q5k>(job, share, isa),
        BlockType::Q6k => run_on::<Q6k>(job, share, isa),
    }
}

/// Invariant: this processor has `isa`.
fn run_on<F: Format>(job: &Job<'_>, share: Share, isa: Isa) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has the instructions.
        Isa::Avx512Vnni => unsafe { avx512::run_vnni::<F>(job, share) },
        #[cfg(target_arch = "x86_64")]
        // The signs of 8-bit codes cost more over 512 bits than the width saves.
        // SAFETY: as above.
        Isa::Avx512 if F::SHAPE.low < 8 => unsafe { avx512::run::<F>(job, share) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2Vnni => unsafe { avx2::run_vnni::<F>(job, share) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 | Isa::Avx512 => unsafe { avx2::run::<F>(job, share) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the processor has the instructions.
        Isa::Neon => unsafe { neon::run::<F>(job, share) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::NeonDotprod => unsafe { neon::run_dotprod::<F>(job, share) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::NeonI8mm => unsafe { neon::run_i8mm::<F>(job, share) },
        _ => run::<Portable, F>(Portable, job, share),
    }
}

/// Rounds the rows of a tile.
///
/// Invariant: this processor has `isa`.
pub(super) fn round(values: &[f32], n_inputs: usize, tile: RoundedTile<'_>, isa: Isa) {
    #[cfg(target_arch = "x86_64")]
    if matches!(isa, Isa::Avx512 | Isa::Avx512Vnni) {
        // SAFETY: the processor has the instructions.
        return unsafe { avx512::round(values, n_inputs, tile) };
    }
    let _ = isa;
    rounding::round_tile(values, n_inputs, tile, rounding::round_unit);
}

/// A share of the product: panel after panel, and tile after tile of rows within.
#[inline(always)]
pub(super) fn run<L: Lanes, F: Format>(lanes: L, job: &Job<'_>, share: Share) {
    let n_tiles = job.x.n_rows().div_ceil(TILE);
    let blocks = job.weights.n_blocks();
    let (panel_lines, panel_steps) = (blocks * F::SHAPE.block_lines(), blocks * F::SHAPE.n_steps);
    for item in share.of(job.weights.n_panels() * n_tiles, 1) {
        let (panel, tile) = (item / n_tiles, item % n_tiles);
        let weights = Panel {
            lines: &job.weights.lines[panel * panel_lines..][..panel_lines],
            steps: &job.weights.steps[panel * panel_steps..][..panel_steps],
        };
        let rows = tile * TILE..job.x.n_rows().min((tile + 1) * TILE);
        let mut row = rows.start;
        while row < rows.end {
            row += match rows.end - row {
                8.. if L::MAX_ROWS >= 8 => rows_of::<L, F, 8>(lanes, job, weights, (panel, row)),
                4.. => rows_of::<L, F, 4>(lanes, job, weights, (panel, row)),
                2.. => rows_of::<L, F, 2>(lanes, job, weights, (panel, row)),
                _ => rows_of::<L, F, 1>(lanes, job, weights, (panel, row)),
            };
        }
    }
}

/// Products of a panel and `R` rows; returns `R`.
#[inline(always)]
fn rows_of<L: Lanes, F: Format, const R: usize>(
    lanes: L,
    job: &Job<'_>,
    weights: Panel<'_>,
    (panel, row): (usize, usize),
) -> usize {
    let mut sums = [[0.0; OUTPUTS]; R];
    kernel::multiply::<L, F, R>(lanes, weights, job.x.tile(row / TILE, row % TILE), row == 0, &mut sums);
    let n_outputs = job.weights.n_outputs;
    let outputs = OUTPUTS.min(n_outputs - panel * OUTPUTS);
    for (index, sums) in sums.iter().enumerate() {
        let start = (row + index) * n_outputs + panel * OUTPUTS;
        // SAFETY: a panel's outputs of a row are written by the one share that has the panel and the row's tile.
        unsafe { job.y.range(start..start + outputs) }.copy_from_slice(&sums[..outputs]);
    }
    R
}

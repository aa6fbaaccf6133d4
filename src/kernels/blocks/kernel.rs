//! The loop over a panel of 16 outputs and a few rows of inputs.

#![expect(clippy::inline_always, reason = "the instructions of the caller are used only where it is inlined")]

use half::f16;

use super::super::block_type::BlockType;
use super::Line;
use super::format::{Format, Groups};
use super::lanes::{Lanes, OUTPUTS};
use super::rounding::Tile;

/// Bytes from a line to the one that is asked for with it. Found by measurement: with less, or with none, products that
/// read weights from memory lose up to half of the bandwidth.
const AHEAD: usize = 8192;

/// The weights of 16 outputs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Panel<'a> {
    /// Scales and codes, block after block.
    pub(super) lines: &'a [Line],
    /// Steps, block after block.
    pub(super) steps: &'a [[f16; OUTPUTS]],
}

/// Products of a panel with `R` rows; `is_first` if no other rows have read the panel.
///
/// Every output is one chain of float operations in the order of inputs, so neither the set of instructions nor the rows
/// beside it change its bits: for each unit the integer sums, converted, times the weights' scales, times the inputs'
/// scale, added with one rounding; then the minimums times the sum of inputs.
#[inline(always)]
pub(super) fn multiply<L: Lanes, F: Format, const R: usize>(
    lanes: L,
    panel: Panel<'_>,
    tile: Tile<'_>,
    is_first: bool,
    into: &mut [[f32; OUTPUTS]; R],
) {
    for part in 0..L::PARTS {
        let mut sums = [lanes.float(0.0); R];
        let mut groups = Groups::NONE;
        let mut place = 0;
        let blocks = panel.lines.chunks_exact(F::SHAPE.block_lines()).zip(panel.steps.chunks_exact(F::SHAPE.n_steps));
        for (lines, steps) in blocks {
            let (scale_lines, code_lines) = lines.split_at(F::SHAPE.scale_lines());
            if is_first {
                ask_for(lanes, scale_lines);
                lanes.prefetch(steps.as_ptr().cast::<u8>().wrapping_add(AHEAD / 8));
            }
            groups.read::<F>(scale_lines);
            let group_lines = if F::KIND == BlockType::Q6k { scale_lines } else { &groups.scales };
            let step = lanes.halves(&steps[0], part);
            let mut min_step = step;
            if F::SHAPE.has_min() {
                min_step = lanes.halves(&steps[1], part);
                if F::SHAPE.scale_bytes > 0 {
                    min_step = lanes.mul(min_step, lanes.float(-1.0));
                }
            }
            for unit in 0..F::SHAPE.n_units {
                let lines = &code_lines[unit * F::SHAPE.unit_lines()..][..F::SHAPE.unit_lines()];
                if is_first {
                    ask_for(lanes, lines);
                }
                let weights = unpack::<L, F>(lanes, lines, part);
                let scales = group_scales::<L, F>(lanes, step, group_lines, unit, part);
                let mins = group_scales::<L, F>(lanes, min_step, &groups.mins, unit, part);
                add_unit::<L, F, R>(lanes, weights, (scales, mins), tile.at(place), &mut sums);
                place += tile.stride;
            }
        }
        for (sum, into) in sums.into_iter().zip(into.iter_mut()) {
            lanes.store(sum, into, part);
        }
    }
}

/// Asks for what lies ahead of `lines`: the lines of the next panels follow those of this one.
#[inline(always)]
fn ask_for<L: Lanes>(lanes: L, lines: &[Line]) {
    for line in lines {
        lanes.prefetch(line.0.as_ptr().wrapping_add(AHEAD));
    }
}

/// What the codes of a unit's two halves are multiplied with.
#[inline(always)]
fn group_scales<L: Lanes, F: Format>(
    lanes: L,
    step: L::Floats,
    groups: &[Line],
    unit: usize,
    part: usize,
) -> [L::Floats; 2] {
    let group = |index: usize| &groups[index / 4].0.as_chunks().0[index % 4];
    if F::SHAPE.scale_bytes == 0 {
        [step; 2]
    } else if F::SHAPE.is_fine {
        let (first, second) = (group(2 * unit), group(2 * unit + 1));
        [lanes.mul(step, lanes.small(first, part)), lanes.mul(step, lanes.small(second, part))]
    } else {
        [lanes.mul(step, lanes.small(group(unit), part)); 2]
    }
}

/// Applies an operation to operands written out: closures would not be inlined into functions with more instructions.
macro_rules! each {
    ($lanes:ident.field($mask:expr, $to:expr): $(($bytes:expr, $from:expr)),*) => {
        [$($lanes.field($bytes, $from, $mask, $to)),*]
    };
    ($lanes:ident.or: $a:ident, $b:ident, $($place:expr),*) => {
        [$($lanes.or($a[$place], $b[$place])),*]
    };
}

/// The codes of a unit, 4 inputs at a time.
#[inline(always)]
fn unpack<L: Lanes, F: Format>(lanes: L, lines: &[Line], part: usize) -> [L::Bytes; 8] {
    let line = |index: usize| lanes.bytes(&lines[index].0, part);
    let codes = match F::SHAPE.low {
        8 => [line(0), line(1), line(2), line(3), line(4), line(5), line(6), line(7)],
        4 => {
            let (a, b, c, d) = (line(0), line(1), line(2), line(3));
            each!(lanes.field(15, 0): (a, 0), (b, 0), (c, 0), (d, 0), (a, 4), (b, 4), (c, 4), (d, 4))
        }
        _ => {
            let (a, b) = (line(0), line(1));
            each!(lanes.field(3, 0): (a, 0), (a, 2), (a, 4), (a, 6), (b, 0), (b, 2), (b, 4), (b, 6))
        }
    };
    let (low, place) = (F::SHAPE.low, F::SHAPE.low as u32);
    let high = match F::SHAPE.high {
        0 => return codes,
        1 => {
            let a = line(low);
            each!(lanes.field(1, place): (a, 0), (a, 1), (a, 2), (a, 3), (a, 4), (a, 5), (a, 6), (a, 7))
        }
        _ => {
            let (a, b) = (line(low), line(low + 1));
            each!(lanes.field(3, place): (a, 0), (a, 2), (a, 4), (a, 6), (b, 0), (b, 2), (b, 4), (b, 6))
        }
    };
    each!(lanes.or: codes, high, 0, 1, 2, 3, 4, 5, 6, 7)
}

/// Adds a unit's products to the sums of `R` rows.
#[inline(always)]
fn add_unit<L: Lanes, F: Format, const R: usize>(
    lanes: L,
    weights: [L::Bytes; 8],
    (scales, mins): ([L::Floats; 2], [L::Floats; 2]),
    tile: Tile<'_>,
    sums: &mut [L::Floats; R],
) {
    let [a, b, c, d, e, f, g, h] = weights;
    let codes = tile.codes.first_chunk::<R>().expect("rows of the tile");
    let x_scales = tile.scales.first_chunk::<R>().expect("rows of the tile");
    let has_start = F::SHAPE.bias != 0 && !(F::SHAPE.low == 8 && L::CENTERS);
    let starts = if has_start { tile.starts.first_chunk::<R>().expect("rows of the tile") } else { &[[0; 2]; R] };
    let offsets =
        if F::SHAPE.has_min() { tile.offsets.first_chunk::<R>().expect("rows of the tile") } else { &[[0.0; 2]; R] };
    for row in 0..R {
        let quads = codes[row].as_chunks::<4>().0;
        let dot = |sum, weights, quad: usize| match F::SHAPE.low {
            8 => lanes.dot::<true>(sum, weights, quads[quad]),
            _ => lanes.dot::<false>(sum, weights, quads[quad]),
        };
        let first = dot(dot(dot(dot(lanes.int(starts[row][0]), a, 0), b, 1), c, 2), d, 3);
        let products = if F::SHAPE.is_fine {
            let second = dot(dot(dot(dot(lanes.int(starts[row][1]), e, 4), f, 5), g, 6), h, 7);
            let products = lanes.mul(lanes.floats(first), scales[0]);
            lanes.fma(lanes.floats(second), scales[1], products)
        } else {
            let both = dot(dot(dot(dot(first, e, 4), f, 5), g, 6), h, 7);
            lanes.mul(lanes.floats(both), scales[0])
        };
        let mut sum = lanes.fma(products, lanes.float(x_scales[row]), sums[row]);
        if F::SHAPE.has_min() {
            sum = lanes.fma(mins[0], lanes.float(offsets[row][0]), sum);
            if F::SHAPE.is_fine {
                sum = lanes.fma(mins[1], lanes.float(offsets[row][1]), sum);
            }
        }
        sums[row] = sum;
    }
}

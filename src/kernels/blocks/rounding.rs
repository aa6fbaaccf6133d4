//! Inputs rounded to 8 bits in blocks of 32.

#![expect(clippy::inline_always, reason = "the instructions of the caller are used only where it is inlined")]

use super::super::isa::Isa;
use super::super::pool::{Parts, share_out_if};
use super::run;

/// Inputs that share a scale.
pub(super) const UNIT: usize = 32;
/// Rows whose codes lie side by side.
pub(super) const TILE: usize = 8;
/// Values that are worth a second thread.
const LARGE: usize = 1 << 13;
/// Adding it rounds a float below 2^22 to a whole number, half to even, whose low bits are those of the sum.
const ROUNDER: f32 = 12_582_912.0;
/// A unit whose largest magnitude is below it is zeros: the reciprocal of its scale would not be finite.
const SMALLEST: f32 = 1e-36;

/// Rows of values as `scale * code`, code in -127..=127, scale the largest magnitude of a unit of 32 values / 127.
///
/// Rows lie in tiles of 8, the last one smaller: a tile is unit after unit, a unit is row after row. So a product
/// walks through memory once, whatever the number of rows. A row's last unit is padded with zeros. A unit with a value
/// that is not finite has the scale NaN.
#[derive(Debug, Default, Clone)]
pub(in super::super) struct BlockRounding {
    is_made: bool,
    n_rows: usize,
    n_units: usize,
    codes: Vec<[i8; UNIT]>,
    scales: Vec<f32>,
    /// Sums of the codes of either half.
    sums: Vec<[i32; 2]>,
    starts: Vec<[i32; 2]>,
    starts_of: Option<Starts>,
    offsets: Vec<[f32; 2]>,
    offsets_of: Option<bool>,
}

/// What the integer sums of a product start with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Starts {
    /// Subtracted from each weight's code.
    pub(super) bias: i32,
    /// Whether each half of a unit has a sum of its own.
    pub(super) is_fine: bool,
}

/// Some rows of one tile, unit after unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile<'a> {
    /// Rows of the whole tile: the step from one unit to the next.
    pub(super) stride: usize,
    pub(super) codes: &'a [[i8; UNIT]],
    pub(super) scales: &'a [f32],
    pub(super) starts: &'a [[i32; 2]],
    pub(super) offsets: &'a [[f32; 2]],
}

impl BlockRounding {
    pub(in super::super) fn forget(&mut self) {
        self.is_made = false;
        self.starts_of = None;
        self.offsets_of = None;
    }

    /// Rounds `values` `(n_rows, n_inputs)`, unless that is done.
    pub(in super::super) fn make(&mut self, values: &[f32], n_rows: usize, n_inputs: usize, isa: Isa) {
        if self.is_made {
            return;
        }
        self.is_made = true;
        (self.n_rows, self.n_units) = (n_rows, n_inputs.div_ceil(UNIT));
        let n = n_rows * self.n_units;
        if n == 0 {
            return;
        }
        grow(&mut self.codes, n, [0; UNIT]);
        grow(&mut self.scales, n, 0.0);
        grow(&mut self.sums, n, [0; 2]);
        let tile_places = TILE * self.n_units;
        let (codes, scales, sums) =
            (Parts::new(&mut self.codes[..n]), Parts::new(&mut self.scales[..n]), Parts::new(&mut self.sums[..n]));
        share_out_if(values.len() > LARGE, |share| {
            for tile in share.of(n_rows.div_ceil(TILE), 1) {
                let places = tile * tile_places..n.min((tile + 1) * tile_places);
                // SAFETY: a tile's places are its own, and a tile is in one share.
                let (codes, scales, sums) =
                    unsafe { (codes.range(places.clone()), scales.range(places.clone()), sums.range(places)) };
                let values = &values[tile * TILE * n_inputs..n_rows.min((tile + 1) * TILE) * n_inputs];
                run::round(values, n_inputs, RoundedTile { codes, scales, sums }, isa);
            }
        });
    }

    /// Makes what the integer sums start with: minus the bias times the sum of codes.
    pub(super) fn make_starts(&mut self, starts: Starts) {
        if self.starts_of == Some(starts) {
            return;
        }
        self.starts_of = Some(starts);
        let n = self.n_rows * self.n_units;
        grow(&mut self.starts, n, [0; 2]);
        for (start, sums) in self.starts[..n].iter_mut().zip(&self.sums[..n]) {
            *start = if starts.is_fine { *sums } else { [sums[0] + sums[1], 0] }.map(|sum| -starts.bias * sum);
        }
    }

    /// Makes the sums of rounded values that minimums are multiplied with, of halves of units if `is_fine`.
    pub(super) fn make_offsets(&mut self, is_fine: bool) {
        if self.offsets_of == Some(is_fine) {
            return;
        }
        self.offsets_of = Some(is_fine);
        let n = self.n_rows * self.n_units;
        grow(&mut self.offsets, n, [0.0; 2]);
        for ((offset, sums), scale) in self.offsets[..n].iter_mut().zip(&self.sums[..n]).zip(&self.scales[..n]) {
            *offset = if is_fine { *sums } else { [sums[0] + sums[1], 0] }.map(|sum| sum as f32 * scale);
        }
    }

    /// The rows of tile `index` from row `first` of it on.
    pub(super) fn tile(&self, index: usize, first: usize) -> Tile<'_> {
        let n = self.n_rows * self.n_units;
        let stride = (self.n_rows - index * TILE).min(TILE);
        let start = index * TILE * self.n_units;
        let places = start + first..(start + stride * self.n_units).min(n);
        Tile {
            stride,
            codes: &self.codes[places.clone()],
            scales: &self.scales[places.clone()],
            starts: self.starts.get(places.clone()).unwrap_or(&[]),
            offsets: self.offsets.get(places).unwrap_or(&[]),
        }
    }

    pub(super) fn n_rows(&self) -> usize {
        self.n_rows
    }
}

impl Tile<'_> {
    /// From `place` on.
    #[inline(always)]
    pub(super) fn at(self, place: usize) -> Self {
        Self {
            stride: self.stride,
            codes: &self.codes[place..],
            scales: &self.scales[place..],
            starts: self.starts.get(place..).unwrap_or(&[]),
            offsets: self.offsets.get(place..).unwrap_or(&[]),
        }
    }
}

fn grow<T: Clone>(values: &mut Vec<T>, n: usize, value: T) {
    if values.len() < n {
        values.resize(n, value);
    }
}

/// The places of a tile's rounding.
#[derive(Debug)]
pub(super) struct RoundedTile<'a> {
    codes: &'a mut [[i8; UNIT]],
    scales: &'a mut [f32],
    sums: &'a mut [[i32; 2]],
}

/// Codes, scale and sums of the halves' codes.
pub(super) type RoundedUnit = ([i8; UNIT], f32, [i32; 2]);

/// Rounds the rows of a tile, a unit at a time.
#[inline(always)]
pub(super) fn round_tile(
    values: &[f32],
    n_inputs: usize,
    tile: RoundedTile<'_>,
    round_unit: impl Fn(&[f32; UNIT]) -> RoundedUnit,
) {
    let RoundedTile { codes, scales, sums } = tile;
    let stride = values.len() / n_inputs;
    for (row, values) in values.chunks_exact(n_inputs).enumerate() {
        let (units, rest) = values.as_chunks::<UNIT>();
        let places = (row..).step_by(stride);
        for (unit, place) in units.iter().zip(places) {
            (codes[place], scales[place], sums[place]) = round_unit(unit);
        }
        if !rest.is_empty() {
            let place = units.len() * stride + row;
            let mut unit = [0.0; UNIT];
            unit[..rest.len()].copy_from_slice(rest);
            (codes[place], scales[place], sums[place]) = round_unit(&unit);
        }
    }
}

/// The scale of a unit, and what its values are multiplied with to be codes. `largest`: the bits of its largest
/// magnitude.
#[inline(always)]
pub(super) fn scale(largest: u32) -> (f32, f32) {
    let largest = f32::from_bits(largest);
    if !largest.is_finite() {
        (f32::NAN, 0.0)
    } else if largest < SMALLEST {
        (0.0, 0.0)
    } else {
        (largest / 127.0, 127.0 / largest)
    }
}

/// Rounds a unit. The codes of one that is not finite mean nothing.
#[inline(always)]
pub(super) fn round_unit(values: &[f32; UNIT]) -> RoundedUnit {
    // Magnitudes compare like their bits, and those of NaN are the largest.
    let mut largest = [0; 8];
    for values in values.as_chunks::<8>().0 {
        for (largest, value) in largest.iter_mut().zip(values) {
            *largest = value.abs().to_bits().max(*largest);
        }
    }
    let (scale, inverse) = scale(largest.into_iter().fold(0, u32::max));
    let codes = values.map(|value| (value * inverse + ROUNDER).to_bits().cast_signed() as i8);
    // Sums of unsigned bytes are one instruction.
    let sum = |half: &[i8]| half.iter().map(|code| i32::from(code.cast_unsigned() ^ 128)).sum::<i32>() - 16 * 128;
    (codes, scale, [sum(&codes[..UNIT / 2]), sum(&codes[UNIT / 2..])])
}

//! Who computes what, and in which order: threads, blocks that stay in a cache, tiles that stay in registers.

use std::cell::RefCell;
use std::ops::Range;

use super::format::{Format, Pair, Wide};
use super::simd::{LANES, Line, ROWS, Simd};
use super::tile::{Operands, Tile, Widen};
use crate::kernels::pool::{Parts, Share, share_out_if};

/// Multiply-adds from which a product is shared: some two hand-overs' time.
const SHARED: usize = 1 << 15;
/// Rows that share one pass over packed weights: they leave registers for what makes numbers of the weights.
const DIRECT_ROWS: usize = 4;
/// Rows up to which packed weights become numbers in registers, at every pass; for more rows a block's do so once.
const MOST_DIRECT_ROWS: usize = 12;
/// Inputs times panels of one block: its weights (64 KiB as numbers) stay in the second-level cache while rows pass.
const BLOCK: usize = 1024;
/// Rows of one block: their sums (up to 96 KiB) stay in the second-level cache.
const BLOCK_ROWS: usize = 384;

/// What a thread keeps for its next product.
struct Scratch {
    /// (rows, panels).
    sums: Vec<Line>,
    /// (panels, pairs of inputs).
    wide: Vec<Pair<f32>>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { sums: Vec::new(), wide: Vec::new() }) };
}

/// A product y = x Wᵀ.
#[derive(Clone, Copy)]
struct Product<'a, S, F> {
    simd: S,
    format: F,
    x: &'a [f32],
    n_inputs: usize,
    n_outputs: usize,
    y: &'a Parts<'a, f32>,
}

/// y = x Wᵀ: `shape` is outputs and inputs, neither of them 0; the lengths fit.
pub(super) fn multiply<S: Simd, F: Format>(simd: S, format: F, shape: [usize; 2], x: &[f32], y: &mut [f32]) {
    let [n_outputs, n_inputs] = shape;
    let (n_rows, n_panels) = (y.len() / n_outputs, n_outputs.div_ceil(LANES));
    let product = Product { simd, format, x, n_inputs, n_outputs, y: &Parts::new(y) };
    share_out_if(n_rows * n_outputs * n_inputs >= SHARED, |share| {
        let (panels, rows) = region(share, n_panels, n_rows);
        if rows.is_empty() {
            return;
        }
        if rows.len() <= most_rows::<F>() {
            product.few_rows(panels, rows);
        } else {
            SCRATCH.with_borrow_mut(|scratch| product.many_rows(panels, rows, scratch));
        }
    });
}

/// Rows that share a pass at most.
const fn most_rows<F: Format>() -> usize {
    if F::IS_WIDE { ROWS } else { DIRECT_ROWS }
}

/// The panels and rows of a share: by panels, and by rows too where that is more even. A thread gets the same panels
/// whenever the rows are as many.
fn region(share: Share, n_panels: usize, n_rows: usize) -> (Range<usize>, Range<usize>) {
    let longest = |by_rows: usize| n_panels.div_ceil(share.count / by_rows) * n_rows.div_ceil(by_rows);
    let most = share.count.min(n_rows.div_ceil(ROWS)).max(1);
    let by_rows = (1..=most).min_by_key(|by_rows| longest(*by_rows)).unwrap_or(1);
    let by_panels = share.count / by_rows;
    if share.index >= by_panels * by_rows {
        return (0..0, 0..0);
    }
    let panels = Share { index: share.index % by_panels, count: by_panels }.of(n_panels, 1);
    let rows = Share { index: share.index / by_panels, count: by_rows }.of(n_rows, 1);
    (panels, rows)
}

/// `range` in as few parts of at most `most` as possible, of even lengths.
fn even_parts(range: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = range.len().div_ceil(most);
    (0..count).map(move |index| {
        let part = Share { index, count }.of(range.len(), 1);
        range.start + part.start..range.start + part.end
    })
}

impl<S: Simd, F: Format> Product<'_, S, F> {
    /// Every weight is read once, and becomes a number in registers.
    fn few_rows(&self, panels: Range<usize>, rows: Range<usize>) {
        let mut sums = [Line([0.0; LANES]); ROWS * 4];
        for panels in even_parts(panels, S::PANELS[rows.len() - 1]) {
            let sums = &mut sums[..rows.len() * panels.len()];
            let operands = self.operands(panels.start, &rows, 0..self.n_inputs);
            by_rows(self.simd, &operands, [rows.len(), panels.len()], sums, false);
            self.write(&panels, &rows, sums);
        }
    }

    /// Weights of a block become numbers once, and then all rows pass.
    fn many_rows(&self, panels: Range<usize>, rows: Range<usize>, scratch: &mut Scratch) {
        let is_direct = F::IS_WIDE || rows.len() <= MOST_DIRECT_ROWS;
        let tile_rows = if is_direct { most_rows::<F>() } else { ROWS };
        for rows in even_parts(rows, BLOCK_ROWS) {
            for panels in even_parts(panels.clone(), S::PANELS[tile_rows - 1]) {
                let sums = lines(&mut scratch.sums, rows.len() * panels.len(), Line([0.0; LANES]));
                let depth = BLOCK / panels.len() / 32 * 32;
                for first in (0..self.n_inputs).step_by(depth) {
                    let inputs = first..self.n_inputs.min(first + depth);
                    let wide = if is_direct { &mut [] } else { self.widen(&panels, &inputs, &mut scratch.wide) };
                    let next = self.after(&panels, &inputs);
                    let n_tiles = rows.len().div_ceil(tile_rows);
                    for (tile, part) in even_parts(rows.clone(), tile_rows).enumerate() {
                        self.fetch(&next, Share { index: tile, count: n_tiles });
                        let operands = self.operands(panels.start, &part, inputs.clone());
                        let sums = &mut sums[(part.start - rows.start) * panels.len()..][..part.len() * panels.len()];
                        let size = [part.len(), panels.len()];
                        if is_direct {
                            by_rows(self.simd, &operands, size, sums, first > 0);
                        } else {
                            by_rows(self.simd, &operands.with_copy(wide), size, sums, first > 0);
                        }
                    }
                }
                self.write(&panels, &rows, sums);
            }
        }
    }

    /// The panels and inputs of the block behind one: further inputs, or else the first of the next panels.
    fn after(&self, panels: &Range<usize>, inputs: &Range<usize>) -> (Range<usize>, Range<usize>) {
        if inputs.end < self.n_inputs {
            return (panels.clone(), inputs.end..self.n_inputs.min(inputs.end + inputs.len()));
        }
        let end = self.n_outputs.div_ceil(LANES).min(panels.end + panels.len());
        (panels.end..end, 0..inputs.len())
    }

    /// Asks for a share of the weights of a block while another one is multiplied: it comes from memory meanwhile.
    fn fetch(&self, (panels, inputs): &(Range<usize>, Range<usize>), share: Share) {
        let n_pairs = inputs.len().div_ceil(2);
        let Range { mut start, end } = share.of(panels.len() * n_pairs, 1);
        while start < end {
            let (panel, pair) = (start / n_pairs, start % n_pairs);
            let len = (end - start).min(n_pairs - pair);
            let strip = (panels.start + panel) * self.n_inputs.div_ceil(2) + inputs.start / 2;
            let pairs = self.format.pairs().get(strip + pair..).unwrap_or_default();
            pairs.iter().take(len).for_each(|pair| self.simd.fetch(pair));
            start += len;
        }
    }

    /// The weights of a block as numbers.
    fn widen<'a>(
        &self,
        panels: &Range<usize>,
        inputs: &Range<usize>,
        wide: &'a mut Vec<Pair<f32>>,
    ) -> &'a mut [Pair<f32>] {
        let wide = lines(wide, panels.len() * inputs.len().div_ceil(2), Pair([[0.0; LANES]; 2]));
        self.simd.run(Widen { operands: self.operands(panels.start, &(0..0), inputs.clone()), wide });
        wide
    }

    fn operands(&self, panel: usize, rows: &Range<usize>, inputs: Range<usize>) -> Operands<'_, F> {
        Operands {
            format: self.format,
            x: &self.x[rows.start * self.n_inputs..rows.end * self.n_inputs],
            n_inputs: self.n_inputs,
            panel,
            first: inputs.start,
            depth: inputs.len(),
            panel_pairs: self.n_inputs.div_ceil(2),
            skipped: 0,
        }
    }

    /// Copies sums (rows, panels) to the outputs.
    fn write(&self, panels: &Range<usize>, rows: &Range<usize>, sums: &[Line]) {
        let outputs = panels.start * LANES..self.n_outputs.min(panels.end * LANES);
        for (row, sums) in rows.clone().zip(sums.chunks(panels.len())) {
            let start = row * self.n_outputs;
            // SAFETY: shares have different rows or different panels, and a share writes one place at a time.
            let y = unsafe { self.y.range(start + outputs.start..start + outputs.end) };
            let (whole, rest) = y.as_chunks_mut::<LANES>();
            for (y, sums) in whole.iter_mut().zip(sums) {
                *y = sums.0;
            }
            if let Some(sums) = sums.get(whole.len()) {
                rest.copy_from_slice(&sums.0[..rest.len()]);
            }
        }
    }
}

/// The first `len` of `kept`, which grows where it has to.
fn lines<T: Copy>(kept: &mut Vec<T>, len: usize, zero: T) -> &mut [T] {
    if kept.len() < len {
        kept.resize(len, zero);
    }
    &mut kept[..len]
}

/// The tile of `size` rows and panels.
fn by_rows<S: Simd, F: Format>(
    simd: S,
    operands: &Operands<'_, F>,
    size: [usize; 2],
    sums: &mut [Line],
    is_added: bool,
) {
    match size[0] {
        1 => by_panels::<S, F, 1>(simd, operands, size[1], sums, is_added),
        2 => by_panels::<S, F, 2>(simd, operands, size[1], sums, is_added),
        3 => by_panels::<S, F, 3>(simd, operands, size[1], sums, is_added),
        4 => by_panels::<S, F, 4>(simd, operands, size[1], sums, is_added),
        5 => by_panels::<S, F, 5>(simd, operands, size[1], sums, is_added),
        _ => by_panels::<S, F, 6>(simd, operands, size[1], sums, is_added),
    }
}

fn by_panels<S: Simd, F: Format, const R: usize>(
    simd: S,
    operands: &Operands<'_, F>,
    panels: usize,
    sums: &mut [Line],
    is_added: bool,
) {
    match panels {
        1 => tile::<S, F, R, 1>(simd, operands, sums, is_added),
        2 => tile::<S, F, R, 2>(simd, operands, sums, is_added),
        3 => tile::<S, F, R, 3>(simd, operands, sums, is_added),
        4 => tile::<S, F, R, 4>(simd, operands, sums, is_added),
        5 => tile::<S, F, R, 5>(simd, operands, sums, is_added),
        _ => tile::<S, F, R, 6>(simd, operands, sums, is_added),
    }
}

/// Tiles that no product asks for are not compiled.
fn tile<S: Simd, F: Format, const R: usize, const N: usize>(
    simd: S,
    operands: &Operands<'_, F>,
    sums: &mut [Line],
    is_added: bool,
) {
    if const { N <= S::PANELS[R - 1] && R <= most_rows::<F>() } {
        simd.run(Tile::<F, R, N> { operands, sums, is_added });
    } else {
        unreachable!("products ask for tiles that fit the registers");
    }
}

impl<F: Format> Operands<'_, F> {
    /// The same product with a copy of the panels' weights over these inputs.
    fn with_copy<'a>(&'a self, wide: &'a [Pair<f32>]) -> Operands<'a, Wide<'a>> {
        let Self { x, n_inputs, first, depth, .. } = *self;
        let format = Wide(wide);
        Operands { format, x, n_inputs, panel: 0, first, depth, panel_pairs: depth.div_ceil(2), skipped: first / 2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_cover_everything_once() {
        for (count, n_panels, n_rows) in
            [(1, 5, 7), (2, 3, 512), (2, 18, 64), (2, 1, 1), (3, 2, 13), (64, 18, 512), (64, 9, 1), (7, 1, 100)]
        {
            let mut times = vec![0; n_panels * n_rows];
            for index in 0..count {
                let (panels, rows) = region(Share { index, count }, n_panels, n_rows);
                for row in rows {
                    panels.clone().for_each(|panel| times[row * n_panels + panel] += 1);
                }
            }
            assert!(times.iter().all(|times| *times == 1), "{count} {n_panels} {n_rows}");
        }
    }

    #[test]
    fn parts_are_even() {
        let parts: Vec<_> = even_parts(3..12, 4).collect();
        assert_eq!(parts, [3..6, 6..9, 9..12]);
        assert_eq!(even_parts(3..3, 4).count(), 0);
    }
}

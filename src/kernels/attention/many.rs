//! Several queries at once: keys and values of a tile are packed into panels for many rows.

use std::ops::Range;

use rayon::prelude::*;

use crate::kernels::Rows;
use crate::kernels::attention::{HeadShape, KEYS, PANEL, ROWS, TASK, Work, scale_by, soften, with_room};
use crate::kernels::panels::{Place, product};

/// Rows (queries × the heads that share their keys) that a packed tile serves.
const TASK_ROWS: usize = 128;

/// Queries of one task.
fn task_queries(heads: HeadShape) -> usize {
    (TASK_ROWS / heads.group()).max(1)
}

/// Lengths of the parts of a task's scratch: queries, maxima, panels of keys and of values, a row as read.
fn lengths(heads: HeadShape, n_rows: usize) -> [usize; 5] {
    let head_dim = heads.head_dim;
    let values = KEYS * head_dim.next_multiple_of(PANEL);
    [n_rows * head_dim, n_rows, KEYS * head_dim, values, Rows::scratch_len(head_dim)]
}

pub(super) fn scratch_bytes(heads: HeadShape, seq: usize, threads: usize) -> usize {
    let n_rows = task_queries(heads).min(seq) * heads.group();
    let runs = seq * heads.n_heads * heads.head_dim;
    threads * (4 * (lengths(heads, n_rows).iter().sum::<usize>() + ROWS * KEYS) + 8 * n_rows) + 4 * runs
}

/// Keys and values of one head in panels.
struct Tile<'a> {
    /// [`PANEL`] keys side by side, features outermost.
    keys: &'a [f32],
    /// [`PANEL`] features side by side, keys outermost.
    values: &'a [f32],
    range: Range<usize>,
}

/// Rows of a task: a query of each head of the group, then the next query.
struct RowsOfTask<'a> {
    queries: &'a [f32],
    /// Largest score of each row so far.
    maxima: &'a mut [f32],
    /// Sum of each row's weights so far.
    sums: &'a mut [f64],
    /// Weighted values so far.
    mixed: &'a mut [f32],
    /// Of the first row, in rows of the text: the row's position times the group's heads.
    first: usize,
}

impl Work<'_> {
    /// Tasks of some queries and one key-value head. Each writes a run of its own, put in order at the end.
    pub(super) fn many(&self, mixed: &mut [f32]) {
        let HeadShape { n_heads, n_kv_heads, head_dim } = self.heads;
        let (width, run) = (n_heads * head_dim, self.heads.group() * head_dim);
        let seq = mixed.len() / width;
        let share = task_queries(self.heads);
        let mut runs = vec![0.0; mixed.len()];
        let n_whole = seq / share * n_kv_heads;
        let (whole, rest) = runs.split_at_mut(n_whole * share * run);
        let whole = whole.par_chunks_mut(share * run).enumerate();
        let rest = rest.par_chunks_mut((seq % share * run).max(1)).enumerate();
        // The last queries see most: they go first, so that no thread ends long after the others.
        rest.map(|(number, runs)| (n_whole + number, runs))
            .chain(whole.rev())
            .with_max_len(1)
            .for_each(|(number, runs)| self.task(number % n_kv_heads, number / n_kv_heads * share, runs));
        for (mixed, runs) in mixed.chunks_mut(share * width).zip(runs.chunks(share * width)) {
            let queries = mixed.len() / width;
            for (query, mixed) in mixed.chunks_mut(width).enumerate() {
                for (head, mixed) in mixed.chunks_mut(run).enumerate() {
                    mixed.copy_from_slice(&runs[(head * queries + query) * run..][..run]);
                }
            }
        }
    }

    /// The queries from `first_query` on with one key-value head; `mixed`: (queries, group · `head_dim`), zeros.
    fn task(&self, kv_head: usize, first_query: usize, mixed: &mut [f32]) {
        let (head_dim, group) = (self.heads.head_dim, self.heads.group());
        let n_rows = mixed.len() / head_dim;
        let first = self.position + first_query;
        let last = first + n_rows / group - 1;
        let lengths = lengths(self.heads, n_rows);
        let mut sums = vec![0.0_f64; n_rows];
        with_room(&TASK, lengths.iter().sum(), |scratch| {
            let (queries, scratch) = scratch.split_at_mut(lengths[0]);
            let (maxima, scratch) = scratch.split_at_mut(lengths[1]);
            let (keys, scratch) = scratch.split_at_mut(lengths[2]);
            let (values, scratch) = scratch.split_at_mut(lengths[3]);
            for (query, queries) in queries.chunks_mut(group * head_dim).enumerate() {
                self.scaled(first_query + query, kv_head, queries);
            }
            maxima.fill(f32::NEG_INFINITY);
            for start in (0..=last).step_by(KEYS) {
                let range = start..(start + KEYS).min(last + 1);
                if self.sight.misses(first, last, &range) {
                    continue;
                }
                self.pack(kv_head, &range, [&mut *keys, &mut *values, &mut *scratch]);
                let tile = Tile { keys, values, range };
                let rows = queries.chunks(ROWS * head_dim).zip(mixed.chunks_mut(ROWS * head_dim));
                let states = maxima.chunks_mut(ROWS).zip(sums.chunks_mut(ROWS)).enumerate();
                for ((queries, mixed), (number, (maxima, sums))) in rows.zip(states) {
                    let rows = RowsOfTask { queries, maxima, sums, mixed, first: first * group + number * ROWS };
                    self.advance(&tile, rows);
                }
            }
        });
        for (mixed, sum) in mixed.chunks_mut(head_dim).zip(sums) {
            let scale = (1.0 / sum) as f32;
            scale_by(scale, mixed);
        }
    }

    fn pack(&self, kv_head: usize, range: &Range<usize>, [keys, values, scratch]: [&mut [f32]; 3]) {
        let head_dim = self.heads.head_dim;
        for (index, token) in range.clone().enumerate() {
            let panel = &mut keys[index / PANEL * PANEL * head_dim..][..PANEL * head_dim];
            let key = self.keys.read(self.place(token, kv_head), head_dim, scratch);
            for (slot, feature) in panel.as_chunks_mut::<PANEL>().0.iter_mut().zip(key) {
                slot[index % PANEL] = *feature;
            }
            let value = self.values.read(self.place(token, kv_head), head_dim, scratch);
            for (features, panel) in value.chunks(PANEL).zip(values.chunks_mut(KEYS * PANEL)) {
                panel[index * PANEL..][..features.len()].copy_from_slice(features);
            }
        }
    }

    /// Adds what the rows see of a tile.
    fn advance(&self, tile: &Tile<'_>, rows: RowsOfTask<'_>) {
        let (head_dim, group) = (self.heads.head_dim, self.heads.group());
        let n_rows = rows.maxima.len();
        let position = |row: usize| (rows.first + row) / group;
        let (first, last) = (position(0), position(n_rows - 1));
        if self.sight.misses(first, last, &tile.range) {
            return;
        }
        let visible = (last + 1 - tile.range.start).min(tile.range.len());
        let mut scores = [0.0_f32; ROWS * KEYS];
        let scores = &mut scores[..n_rows * KEYS];
        let panels = tile.keys.chunks_exact(head_dim * PANEL).take(visible.div_ceil(PANEL));
        for (number, panel) in panels.enumerate() {
            let place = Place { first: 0, column: number * PANEL, width: PANEL, n_inputs: head_dim, n_outputs: KEYS };
            product(panel.as_chunks().0, rows.queries, scores, &place, false);
        }
        let states = rows.maxima.iter_mut().zip(rows.sums).zip(rows.mixed.chunks_mut(head_dim));
        for (row, (scores, ((maximum, sum), mixed))) in scores.chunks_mut(KEYS).zip(states).enumerate() {
            let scores = &mut scores[..visible.next_multiple_of(PANEL)];
            self.sight.mask(scores, position(row), tile.range.start);
            let (factor, added) = soften(scores, maximum);
            *sum = *sum * f64::from(factor) + f64::from(added);
            if factor != 1.0 {
                scale_by(factor, mixed);
            }
        }
        for (number, panel) in tile.values.chunks_exact(KEYS * PANEL).enumerate() {
            let column = number * PANEL;
            let width = PANEL.min(head_dim - column);
            let place = Place { first: 0, column, width, n_inputs: KEYS, n_outputs: head_dim };
            product(&panel.as_chunks().0[..visible], scores, rows.mixed, &place, true);
        }
    }
}

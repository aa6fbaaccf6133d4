//! Several queries at once: keys and values of a tile are packed for many rows.

use std::ops::Range;

use crate::kernels::attention::tile::{KEYS, Lane, Scores, mix, scale, score, soften};
use crate::kernels::attention::{HeadShape, TASK, Work, with_room};
use crate::kernels::pool::{Parts, Share, share_out_if};
use crate::kernels::vector::{LANES, Lanes, Pair, Quad, Register, Wide, compiled_for};
use crate::kernels::{Isa, Rows};

/// Rows (queries × the heads that share their keys) that a packed tile serves: with their queries and sums they stay in
/// the second-level cache.
const TASK_ROWS: usize = 256;
/// Rows that pass over a tile together, with a register for the sums of each: as many as hide the latency of a
/// multiply-add and leave registers for the rest.
const WIDE_ROWS: usize = 12;
/// The same where a row takes two of sixteen registers.
const NARROW_ROWS: usize = 6;
/// Products of queries and keys from which two threads are faster than one.
const LARGE: usize = 1 << 19;

/// Queries of one task.
fn task_queries(heads: HeadShape) -> usize {
    (TASK_ROWS / heads.group()).max(1)
}

/// Registers that the features of a value take.
fn panels(heads: HeadShape) -> usize {
    heads.head_dim.div_ceil(LANES)
}

/// Values of the parts of a task's scratch: queries, sums, panels of keys and of values, maximum and sum of each row, a
/// row as read.
fn lengths(heads: HeadShape, n_rows: usize) -> [usize; 6] {
    let (head_dim, padded) = (heads.head_dim, panels(heads) * LANES);
    let n_rows = n_rows.next_multiple_of(WIDE_ROWS);
    [n_rows * head_dim, n_rows * padded, KEYS * head_dim, KEYS * padded, n_rows, Rows::scratch_len(head_dim)]
}

pub(super) fn scratch_bytes(heads: HeadShape, seq: usize, threads: usize) -> usize {
    let n_rows = task_queries(heads).min(seq) * heads.group();
    let sums = 8 * n_rows.next_multiple_of(WIDE_ROWS);
    threads * (4 * lengths(heads, n_rows).iter().sum::<usize>() + sums)
}

/// Some queries with one key-value head.
struct Task {
    kv_head: usize,
    queries: Range<usize>,
}

/// Rows of a task that pass together: a query of each head of the group, then the next query.
struct Block<'a, const R: usize> {
    queries: &'a [[f32; R]],
    /// Weighted values so far, 16 features outermost.
    mixed: &'a mut [[Lane; R]],
    /// Largest score of each row so far.
    maxima: &'a mut [f32; R],
    /// Sum of each row's weights so far.
    sums: &'a mut [f64; R],
    /// Position of each row in the text; rows that only fill the block up have the last.
    positions: [usize; R],
}

/// A tile of keys and values of one head.
struct Tile<'a> {
    /// Features outermost.
    keys: &'a [[Lane; KEYS / LANES]],
    /// 16 features outermost, then keys.
    values: &'a [[Lane; KEYS]],
    range: Range<usize>,
}

impl Work<'_> {
    /// Tasks of some queries and one key-value head, dealt to the threads before they start.
    pub(super) fn many(&self, isa: Isa, mixed: &mut [f32]) {
        let HeadShape { n_heads, n_kv_heads, head_dim } = self.heads;
        let seq = mixed.len() / (n_heads * head_dim);
        let per_task = task_queries(self.heads);
        let n_tasks = n_kv_heads * seq.div_ceil(per_task);
        let mixed = Parts::new(mixed);
        let work = seq.saturating_mul(self.position + seq).saturating_mul(n_heads * head_dim);
        share_out_if(work >= LARGE, |share| {
            // The last queries see most. They go first, back and forth over the threads, so that all end together.
            for number in (0..n_tasks).filter(|number| is_dealt(*number, share)) {
                let start = (seq - 1) / per_task * per_task - number / n_kv_heads * per_task;
                let task = Task { kv_head: number % n_kv_heads, queries: start..(start + per_task).min(seq) };
                let n_rows = task.queries.len() * self.heads.group();
                with_room(&TASK, lengths(self.heads, n_rows).iter().sum(), |scratch| {
                    compiled_for(
                        isa,
                        #[inline(always)]
                        || match isa {
                            Isa::Avx512 | Isa::Avx512Vnni => self.task::<Wide, WIDE_ROWS>(&task, scratch, &mixed),
                            Isa::Avx2 | Isa::Avx2Vnni => self.task::<Pair, NARROW_ROWS>(&task, scratch, &mixed),
                            Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => {
                                self.task::<Quad, NARROW_ROWS>(&task, scratch, &mixed);
                            }
                            Isa::Portable => self.task::<Lanes, NARROW_ROWS>(&task, scratch, &mixed),
                        },
                    );
                });
            }
        });
    }

    #[inline(always)]
    fn task<V: Register, const R: usize>(&self, task: &Task, scratch: &mut [f32], mixed: &Parts<'_, f32>) {
        let HeadShape { head_dim, n_heads, .. } = self.heads;
        let group = self.heads.group();
        let n_rows = task.queries.len() * group;
        let n_blocks = n_rows.div_ceil(R);
        let lengths = lengths(self.heads, n_rows);
        let mut sums = vec![[0.0_f64; R]; n_blocks];
        let (queries, scratch) = scratch.split_at_mut(lengths[0]);
        let (sums_of_values, scratch) = scratch.split_at_mut(lengths[1]);
        let (keys, scratch) = scratch.split_at_mut(lengths[2]);
        let (values, scratch) = scratch.split_at_mut(lengths[3]);
        let (maxima, scratch) = scratch.split_at_mut(lengths[4]);
        let queries = &mut queries.as_chunks_mut::<R>().0[..n_blocks * head_dim];
        let rows = sums_of_values.as_chunks_mut::<LANES>().0.as_chunks_mut::<R>().0;
        let rows = &mut rows[..n_blocks * panels(self.heads)];
        let maxima = &mut maxima.as_chunks_mut::<R>().0[..n_blocks];
        self.arrange(task, queries);
        rows.fill([[0.0; LANES]; R]);
        maxima.fill([f32::NEG_INFINITY; R]);
        let position = |row: usize| self.position + task.queries.start + (row / group).min(task.queries.len() - 1);
        let (first, last) = (position(0), position(n_rows - 1));
        for start in (0..=last).step_by(KEYS) {
            let range = start..(start + KEYS).min(last + 1);
            if self.sight.misses(first, last, &range) {
                continue;
            }
            self.pack(task.kv_head, &range, [&mut *keys, &mut *values, &mut *scratch]);
            let tile = Tile {
                keys: keys.as_chunks::<LANES>().0.as_chunks().0,
                values: values.as_chunks::<LANES>().0.as_chunks().0,
                range,
            };
            let blocks = queries.chunks_exact(head_dim).zip(rows.chunks_exact_mut(panels(self.heads)));
            let states = maxima.iter_mut().zip(&mut sums);
            for (number, ((queries, mixed), (maxima, sums))) in blocks.zip(states).enumerate() {
                let mut positions = [0; R];
                for (row, slot) in positions.iter_mut().enumerate() {
                    *slot = position(number * R + row);
                }
                self.advance::<V, R>(&tile, &mut Block { queries, mixed, maxima, sums, positions });
            }
        }
        for row in 0..n_rows {
            let (block, lane) = (row / R, row % R);
            let scale = (1.0 / sums[block][lane]) as f32;
            let head = task.kv_head * group + row % group;
            let place = ((task.queries.start + row / group) * n_heads + head) * head_dim;
            // SAFETY: a query's row of one head belongs to one task, and a task to one share.
            let mixed = unsafe { mixed.range(place..place + head_dim) };
            for (mixed, features) in mixed.chunks_mut(LANES).zip(&rows[block * panels(self.heads)..]) {
                for (mixed, feature) in mixed.iter_mut().zip(&features[lane]) {
                    *mixed = feature * scale;
                }
            }
        }
    }

    /// The task's queries scaled by 1 / √d in blocks of R rows, features outermost; rows that fill up are zero.
    #[inline(always)]
    fn arrange<const R: usize>(&self, task: &Task, queries: &mut [[f32; R]]) {
        let (head_dim, group) = (self.heads.head_dim, self.heads.group());
        queries.fill([0.0; R]);
        let scale = self.scale();
        for (number, query) in task.queries.clone().enumerate() {
            for (head, features) in self.query(query, task.kv_head).chunks_exact(head_dim).enumerate() {
                let row = number * group + head;
                for (slot, feature) in queries[row / R * head_dim..].iter_mut().zip(features) {
                    slot[row % R] = feature * scale;
                }
            }
        }
    }

    #[inline(always)]
    fn pack(&self, kv_head: usize, range: &Range<usize>, [keys, values, scratch]: [&mut [f32]; 3]) {
        let head_dim = self.heads.head_dim;
        let keys = keys.as_chunks_mut::<KEYS>().0;
        for (index, token) in range.clone().enumerate() {
            let key = self.keys.read(self.place(token, kv_head), head_dim, scratch);
            for (slots, feature) in keys.iter_mut().zip(key) {
                slots[index] = *feature;
            }
            let value = self.values.read(self.place(token, kv_head), head_dim, scratch);
            for (features, panel) in value.chunks(LANES).zip(values.chunks_exact_mut(KEYS * LANES)) {
                panel[index * LANES..][..features.len()].copy_from_slice(features);
            }
        }
    }

    /// Adds what the rows see of a tile.
    #[inline(always)]
    fn advance<V: Register, const R: usize>(&self, tile: &Tile<'_>, block: &mut Block<'_, R>) {
        let (first, last) = (block.positions[0], block.positions[R - 1]);
        if self.sight.misses(first, last, &tile.range) {
            return;
        }
        let visible = (last + 1 - tile.range.start).min(tile.range.len());
        let n_panels = visible.div_ceil(LANES);
        let mut scores: Scores<R> = [[[0.0; LANES]; KEYS / LANES]; R];
        score::<V, R>(block.queries, tile.keys, n_panels, &mut scores);
        let is_whole = self.sight.sees_all(first, last, &tile.range) && n_panels * LANES == visible;
        for row in 0..R {
            let scores = &mut scores[row][..n_panels];
            if !is_whole {
                self.sight.mask(scores.as_flattened_mut(), block.positions[row], tile.range.start);
            }
            let (factor, added) = soften::<V>(scores, &mut block.maxima[row]);
            block.sums[row] = block.sums[row] * f64::from(factor) + f64::from(added);
            if factor != 1.0 {
                for features in &mut *block.mixed {
                    scale::<V>(&mut features[row], factor);
                }
            }
        }
        for (values, mixed) in tile.values.iter().zip(&mut *block.mixed) {
            mix::<V, R>(&scores, values, visible, mixed);
        }
    }
}

/// Whether the share gets the task: shares take turns from the first to the last and back.
fn is_dealt(number: usize, share: Share) -> bool {
    let (round, place) = (number / share.count, number % share.count);
    share.index == if round.is_multiple_of(2) { place } else { share.count - 1 - place }
}

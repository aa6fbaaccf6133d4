//! A single query: every key and value is read once, so rows are used as they lie.

use std::ops::Range;

use half::f16;

use crate::kernels::attention::tile::{KEYS, Lane, soften};
use crate::kernels::attention::{CALL, HeadShape, TASK, Work, with_room};
use crate::kernels::pool::{Parts, share_out_if};
use crate::kernels::vector::{LANES, Lanes, Pair, Quad, Register, Wide, compiled_for, multiply_add};
use crate::kernels::{Isa, Rows};

/// Tokens of a part; a multiple of [`KEYS`].
const SPAN: usize = 8 * KEYS;
/// Products of a query's and a key's features below which one thread is faster than two: some 20 microseconds.
const LARGE: usize = 1 << 19;
/// Registers of one key or value that a loop keeps at a time.
const PANELS: usize = 4;

/// Values of a part: weighted values, then the maximum and the sum of each head.
fn part_len(heads: HeadShape) -> usize {
    heads.group() * (heads.head_dim + 2)
}

/// Lengths of the parts of a task's scratch: queries, scores, a tile of rows as read.
fn lengths(heads: HeadShape) -> [usize; 3] {
    let tile = KEYS * heads.head_dim + Rows::scratch_len(heads.head_dim);
    [heads.group() * heads.head_dim, heads.group() * KEYS, tile]
}

/// Parts first, then what a part needs while it is made.
pub(super) fn scratch_bytes(heads: HeadShape, tokens: usize, threads: usize) -> usize {
    let parts = heads.n_kv_heads * tokens.div_ceil(SPAN) * part_len(heads);
    4 * (parts + threads * lengths(heads).iter().sum::<usize>())
}

impl Work<'_> {
    /// Parts of one key-value head and a span of tokens, put together at the end.
    pub(super) fn one(&self, isa: Isa, mixed: &mut [f32]) {
        let HeadShape { n_heads, n_kv_heads, head_dim } = self.heads;
        let n_spans = (self.position + 1).div_ceil(SPAN);
        let part_len = part_len(self.heads);
        let run = self.heads.group() * head_dim;
        with_room(&CALL, n_kv_heads * n_spans * part_len, |values| {
            let parts = Parts::new(values);
            let is_large = (self.position + 1).saturating_mul(n_heads * head_dim) >= LARGE;
            share_out_if(is_large, |share| {
                let numbers = share.of(n_kv_heads * n_spans, 1);
                // SAFETY: the shares of a task do not overlap.
                let parts = unsafe { parts.range(numbers.start * part_len..numbers.end * part_len) };
                with_room(&TASK, lengths(self.heads).iter().sum(), |scratch| {
                    compiled_for(
                        isa,
                        #[inline(always)]
                        || match isa {
                            Isa::Avx512 | Isa::Avx512Vnni => self.parts::<Wide>(numbers, scratch, parts),
                            Isa::Avx2 | Isa::Avx2Vnni => self.parts::<Pair>(numbers, scratch, parts),
                            Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => self.parts::<Quad>(numbers, scratch, parts),
                            Isa::Portable => self.parts::<Lanes>(numbers, scratch, parts),
                        },
                    );
                });
            });
            for (mixed, parts) in mixed.chunks_mut(run).zip(values.chunks(n_spans * part_len)) {
                join(parts, part_len, head_dim, mixed);
            }
        });
    }

    #[inline(always)]
    fn parts<V: Register>(&self, numbers: Range<usize>, scratch: &mut [f32], parts: &mut [f32]) {
        let n_spans = (self.position + 1).div_ceil(SPAN);
        for (number, part) in numbers.zip(parts.chunks_exact_mut(part_len(self.heads))) {
            let start = number % n_spans * SPAN;
            self.part::<V>(number / n_spans, start..(start + SPAN).min(self.position + 1), scratch, part);
        }
    }

    #[inline(always)]
    fn part<V: Register>(&self, kv_head: usize, span: Range<usize>, scratch: &mut [f32], part: &mut [f32]) {
        let head_dim = self.heads.head_dim;
        let lengths = lengths(self.heads);
        let (mixed, states) = part.split_at_mut(lengths[0]);
        let states = states.as_chunks_mut::<2>().0;
        mixed.fill(0.0);
        states.fill([f32::NEG_INFINITY, 0.0]);
        let (queries, scratch) = scratch.split_at_mut(lengths[0]);
        let (scores, scratch) = scratch.split_at_mut(lengths[1]);
        let scores = scores.as_chunks_mut::<KEYS>().0;
        let scale = self.scale();
        for (scaled, query) in queries.iter_mut().zip(self.query(0, kv_head)) {
            *scaled = query * scale;
        }
        for start in span.clone().step_by(KEYS) {
            let range = start..(start + KEYS).min(span.end);
            if self.sight.misses(self.position, self.position, &range) {
                continue;
            }
            let keys = self.tile::<V>(&self.keys, kv_head, &range, scratch);
            for (scores, query) in scores.iter_mut().zip(queries.chunks_exact(head_dim)) {
                for (score, key) in scores.iter_mut().zip(keys.rows()) {
                    *score = dot::<V>(query, key);
                }
            }
            let is_whole = range.len() == KEYS && self.sight.sees_all(self.position, self.position, &range);
            let heads = scores.iter_mut().zip(&mut *states).zip(mixed.chunks_exact_mut(head_dim));
            for ((scores, [maximum, sum]), mixed) in heads {
                let scores = &mut scores[..range.len().next_multiple_of(LANES)];
                if !is_whole {
                    self.sight.mask(scores, self.position, range.start);
                }
                let (factor, added) = soften::<V>(scores.as_chunks_mut().0, maximum);
                *sum = *sum * factor + added;
                if factor != 1.0 {
                    for value in mixed.iter_mut() {
                        *value *= factor;
                    }
                }
            }
            let values = self.tile::<V>(&self.values, kv_head, &range, scratch);
            for (scores, mixed) in scores.iter().zip(mixed.chunks_exact_mut(head_dim)) {
                mix::<V>(scores, &values, mixed);
            }
        }
    }

    /// Rows of one head, lent where they are f32, otherwise in `scratch`.
    #[inline(always)]
    fn tile<'s, V: Register>(
        &'s self,
        rows: &'s Rows<'_>,
        kv_head: usize,
        range: &Range<usize>,
        scratch: &'s mut [f32],
    ) -> Tile<'s> {
        let head_dim = self.heads.head_dim;
        if let Rows::F32(values) = rows {
            let (start, end) = (self.place(range.start, kv_head), self.place(range.end - 1, kv_head) + head_dim);
            return Tile { values: &values[start..end], stride: self.place(1, 0), head_dim };
        }
        let (slots, spare) = scratch.split_at_mut(KEYS * head_dim);
        if let Rows::F16(values) = rows {
            for (token, slot) in range.clone().zip(slots.chunks_exact_mut(head_dim)) {
                widen::<V>(&values[self.place(token, kv_head)..][..head_dim], slot);
            }
            return Tile { values: &slots[..range.len() * head_dim], stride: head_dim, head_dim };
        }
        for (token, slot) in range.clone().zip(slots.chunks_exact_mut(head_dim)) {
            slot.copy_from_slice(rows.read(self.place(token, kv_head), head_dim, spare));
        }
        Tile { values: &slots[..range.len() * head_dim], stride: head_dim, head_dim }
    }
}

/// Keys or values of one head.
struct Tile<'a> {
    values: &'a [f32],
    /// From a row to the next.
    stride: usize,
    head_dim: usize,
}

impl<'a> Tile<'a> {
    #[inline(always)]
    fn rows(&self) -> impl Iterator<Item = &'a [f32]> {
        self.values.chunks(self.stride).map(|row| &row[..self.head_dim])
    }
}

#[inline(always)]
fn widen<V: Register>(halves: &[f16], values: &mut [f32]) {
    let ((halves, halves_rest), (values, values_rest)) = (halves.as_chunks(), values.as_chunks_mut());
    for (values, halves) in values.iter_mut().zip(halves) {
        V::of_halves(halves).write(values);
    }
    for (value, half) in values_rest.iter_mut().zip(halves_rest) {
        *value = half.to_f32();
    }
}

/// Adds the weighted rows to the features of one head.
#[inline(always)]
fn mix<V: Register>(weights: &[f32; KEYS], rows: &Tile<'_>, mixed: &mut [f32]) {
    let mut column = 0;
    for mixed in mixed.chunks_mut(PANELS * LANES) {
        let (panels, rest) = mixed.as_chunks_mut::<LANES>();
        match panels.len() {
            4 => mix_panels::<V, 4>(weights, rows, column, panels),
            3 => mix_panels::<V, 3>(weights, rows, column, panels),
            2 => mix_panels::<V, 2>(weights, rows, column, panels),
            1 => mix_panels::<V, 1>(weights, rows, column, panels),
            _ => {}
        }
        column += panels.len() * LANES;
        if !rest.is_empty() {
            for (weight, row) in weights.iter().zip(rows.rows()) {
                for (mixed, value) in rest.iter_mut().zip(&row[column..]) {
                    *mixed = multiply_add(*weight, *value, *mixed);
                }
            }
        }
    }
}

/// Rows take turns with two sets of sums: one alone would wait for each addition.
#[inline(always)]
fn mix_panels<V: Register, const N: usize>(weights: &[f32; KEYS], rows: &Tile<'_>, column: usize, mixed: &mut [Lane]) {
    let mut sums = [[V::splat(0.0); N]; 2];
    let mut rows = rows.rows();
    for pair in weights.as_chunks::<2>().0 {
        for (weight, sums) in pair.iter().zip(&mut sums) {
            let Some(row) = rows.next() else { break };
            let row = row[column..column + N * LANES].as_chunks::<LANES>().0;
            let mut panel = 0;
            while panel < N {
                sums[panel] = V::splat(*weight).multiply_add(V::of(&row[panel]), sums[panel]);
                panel += 1;
            }
        }
    }
    let [even, odd] = sums;
    for (mixed, (even, odd)) in mixed.iter_mut().zip(even.into_iter().zip(odd)) {
        V::of(mixed).add(even.add(odd)).write(mixed);
    }
}

#[inline(always)]
fn dot<V: Register>(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks(), b.as_chunks());
    let mut lanes = V::splat(0.0);
    for (a, b) in a.iter().zip(b) {
        lanes = V::of(a).multiply_add(V::of(b), lanes);
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.sum() + rest
}

/// Puts the parts of a group of heads together, under the largest of their maxima.
fn join(parts: &[f32], part_len: usize, head_dim: usize, mixed: &mut [f32]) {
    let run = mixed.len();
    for (head, mixed) in mixed.chunks_exact_mut(head_dim).enumerate() {
        let state = |part: &[f32]| (part[run + 2 * head], f64::from(part[run + 2 * head + 1]));
        let features = head * head_dim..(head + 1) * head_dim;
        if parts.len() == part_len {
            let scale = (1.0 / state(parts).1) as f32;
            mixed.iter_mut().zip(&parts[features]).for_each(|(mixed, value)| *mixed = value * scale);
            continue;
        }
        let states = parts.chunks(part_len).map(state);
        let maximum = states.clone().fold(f32::NEG_INFINITY, |max, (maximum, _)| max.max(maximum));
        let weight = |maximum_of_part: f32| f64::from(maximum_of_part - maximum).exp();
        let total: f64 = states.map(|(maximum, sum)| weight(maximum) * sum).sum();
        mixed.fill(0.0);
        for part in parts.chunks(part_len) {
            let scale = (weight(state(part).0) / total) as f32;
            for (mixed, value) in mixed.iter_mut().zip(&part[features.clone()]) {
                *mixed = multiply_add(scale, *value, *mixed);
            }
        }
    }
}

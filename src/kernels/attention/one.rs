//! A single query: every key and value is read once, so rows are used as they lie.

use std::ops::Range;

use rayon::prelude::*;

use crate::kernels::Rows;
use crate::kernels::attention::{CALL, HeadShape, KEYS, PANEL, TASK, Work, scale_by, soften, with_room};
use crate::kernels::panels::multiply_add;

/// Tokens of a share; a multiple of [`KEYS`].
const SPAN: usize = 8 * KEYS;
/// Products of a query's and a key's features below which one thread is faster than two.
const SMALL: usize = 1 << 18;

/// Values of a share: weighted values, then the maximum and the sum of each head.
fn share_len(heads: HeadShape) -> usize {
    heads.group() * (heads.head_dim + 2)
}

/// Lengths of the parts of a share's scratch: queries, scores, a row as read.
fn lengths(heads: HeadShape) -> [usize; 3] {
    [heads.group() * heads.head_dim, heads.group() * KEYS, Rows::scratch_len(heads.head_dim)]
}

/// Shares first, then what a share needs while it is made.
pub(super) fn scratch_bytes(heads: HeadShape, tokens: usize, threads: usize) -> usize {
    let shares = heads.n_kv_heads * tokens.div_ceil(SPAN) * share_len(heads);
    4 * (shares + threads * lengths(heads).iter().sum::<usize>())
}

impl Work<'_> {
    /// Shares of one key-value head and a span of tokens, put together at the end.
    pub(super) fn one(&self, mixed: &mut [f32]) {
        let HeadShape { n_heads, n_kv_heads, head_dim } = self.heads;
        let n_spans = (self.position + 1).div_ceil(SPAN);
        let share_len = share_len(self.heads);
        let run = self.heads.group() * head_dim;
        with_room(&CALL, n_kv_heads * n_spans * share_len, |shares| {
            let make = |(number, share): (usize, &mut [f32])| {
                let start = number % n_spans * SPAN;
                self.share(number / n_spans, start..(start + SPAN).min(self.position + 1), share);
            };
            if (self.position + 1) * n_heads * head_dim < SMALL {
                shares.chunks_mut(share_len).enumerate().for_each(make);
            } else {
                shares.par_chunks_mut(share_len).enumerate().for_each(make);
            }
            for (mixed, shares) in mixed.chunks_mut(run).zip(shares.chunks(n_spans * share_len)) {
                for (head, mixed) in mixed.chunks_mut(head_dim).enumerate() {
                    let state = |share: &[f32]| (share[run + 2 * head], f64::from(share[run + 2 * head + 1]));
                    let states = shares.chunks(share_len).map(state);
                    let maximum = states.clone().fold(f32::NEG_INFINITY, |max, (maximum, _)| max.max(maximum));
                    let weight = |maximum_of_share| f64::from(maximum_of_share - maximum).exp();
                    let total: f64 = states.map(|(maximum, sum)| weight(maximum) * sum).sum();
                    mixed.fill(0.0);
                    for share in shares.chunks(share_len) {
                        let scale = (weight(state(share).0) / total) as f32;
                        add(scale, &share[head * head_dim..][..head_dim], mixed);
                    }
                }
            }
        });
    }

    fn share(&self, kv_head: usize, span: Range<usize>, share: &mut [f32]) {
        let head_dim = self.heads.head_dim;
        let lengths = lengths(self.heads);
        let (mixed, states) = share.split_at_mut(lengths[0]);
        let states = states.as_chunks_mut::<2>().0;
        mixed.fill(0.0);
        states.fill([f32::NEG_INFINITY, 0.0]);
        with_room(&TASK, lengths.iter().sum(), |scratch| {
            let (queries, scratch) = scratch.split_at_mut(lengths[0]);
            let (scores, scratch) = scratch.split_at_mut(lengths[1]);
            self.scaled(0, kv_head, queries);
            for start in span.clone().step_by(KEYS) {
                let range = start..(start + KEYS).min(span.end);
                if self.sight.misses(self.position, self.position, &range) {
                    continue;
                }
                for (index, token) in range.clone().enumerate() {
                    let key = self.keys.read(self.place(token, kv_head), head_dim, scratch);
                    for (scores, query) in scores.chunks_mut(KEYS).zip(queries.chunks(head_dim)) {
                        scores[index] = dot(query, key);
                    }
                }
                let heads = scores.chunks_mut(KEYS).zip(&mut *states).zip(mixed.chunks_mut(head_dim));
                for ((scores, [maximum, sum]), mixed) in heads {
                    let scores = &mut scores[..range.len().next_multiple_of(PANEL)];
                    self.sight.mask(scores, self.position, range.start);
                    let (factor, added) = soften(scores, maximum);
                    *sum = *sum * factor + added;
                    scale_by(factor, mixed);
                }
                for (index, token) in range.enumerate() {
                    let value = self.values.read(self.place(token, kv_head), head_dim, scratch);
                    for (scores, mixed) in scores.chunks(KEYS).zip(mixed.chunks_mut(head_dim)) {
                        add(scores[index], value, mixed);
                    }
                }
            }
        });
    }
}

#[inline]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<PANEL>(), b.as_chunks::<PANEL>());
    let mut lanes = [0.0_f32; PANEL];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..PANEL {
            lanes[lane] = multiply_add(a[lane], b[lane], lanes[lane]);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

/// y += a · x.
#[inline]
fn add(a: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = multiply_add(a, *x, *y);
    }
}

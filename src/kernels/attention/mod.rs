//! Exact attention by tiles of keys with an online softmax: memory is linear in the context.

mod many;
mod one;

use std::cell::Cell;
use std::ops::Range;
use std::thread::LocalKey;

use crate::kernels::Rows;
use crate::kernels::divergence::exp;
use crate::kernels::panels::{PANEL, ROWS};

/// Keys whose scores exist at the same time; a multiple of [`PANEL`].
const KEYS: usize = 64;

/// The heads of an attention. Consecutive query heads share a key-value head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
}

impl HeadShape {
    /// Query heads that share a key-value head.
    fn group(self) -> usize {
        self.n_heads / self.n_kv_heads
    }
}

/// Which of the tokens before it a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sight {
    /// So many of the latest, its own included; all when absent.
    pub window: Option<usize>,
    /// And so many of the first tokens of the text.
    pub sinks: usize,
}

impl Sight {
    /// Whether the query at `position` sees the token `key`.
    pub fn sees(self, position: usize, key: usize) -> bool {
        key <= position && (key >= self.start(position) || key < self.sinks)
    }

    /// First token inside the window of the query at `position`.
    fn start(self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// Whether none of the queries from `first` to `last` sees one of `keys`.
    fn misses(self, first: usize, last: usize, keys: &Range<usize>) -> bool {
        keys.start > last || (keys.end <= self.start(first) && keys.start >= self.sinks)
    }

    /// Sets the scores of the keys from `first_key` on that the query at `position` does not see to −∞.
    fn mask(self, scores: &mut [f32], position: usize, first_key: usize) {
        let len = scores.len();
        let place = |key: usize| key.saturating_sub(first_key).min(len);
        let (sinks, start, end) = (place(self.sinks), place(self.start(position)), place(position + 1));
        if sinks < start {
            scores[sinks..start].fill(f32::NEG_INFINITY);
        }
        scores[end..].fill(f32::NEG_INFINITY);
    }
}

/// What every task of an attention reads.
#[derive(Clone, Copy)]
struct Work<'a> {
    queries: &'a [f32],
    keys: Rows<'a>,
    values: Rows<'a>,
    heads: HeadShape,
    sight: Sight,
    /// Tokens before the first query.
    position: usize,
}

/// Softmax(q kᵀ / √d) v of the last `seq` tokens of a text over all of it, on all threads.
///
/// - `queries`: (seq, `n_heads` · `head_dim`)
/// - `keys`, `values`: (tokens, `n_kv_heads` · `head_dim`), at least `seq` tokens
/// - `mixed`: (seq, `n_heads` · `head_dim`), overwritten
///
/// A query sees the tokens up to its own that `sight` shows it, at their positions in the text. Tiles of keys that no
/// query of a task sees are not read, so with a window time is linear in the tokens. Scores and sums of a tile are f32,
/// the sum over tiles is f64.
///
/// # Panics
/// If the lengths do not fit the heads, or a window has no token.
///
/// Paper: Dao et al., 2022, arXiv:2205.14135; online softmax: Milakov and Gimelshein, 2018, arXiv:1805.02867; window and
/// sinks: Xiao et al., 2023, arXiv:2309.17453.
pub fn attend(queries: &[f32], keys: Rows<'_>, values: Rows<'_>, heads: HeadShape, sight: Sight, mixed: &mut [f32]) {
    let HeadShape { n_heads, n_kv_heads, head_dim } = heads;
    assert!(n_heads > 0 && n_kv_heads > 0 && head_dim > 0 && n_heads.is_multiple_of(n_kv_heads), "whole groups");
    assert!(sight.window != Some(0), "a query sees its own token");
    let (width, kv_width) = (n_heads * head_dim, n_kv_heads * head_dim);
    assert!(queries.len().is_multiple_of(width) && mixed.len() == queries.len(), "whole rows of queries");
    let (seq, tokens) = (queries.len() / width, keys.n_values() / kv_width);
    assert!(keys.n_values() == values.n_values() && tokens >= seq, "a key and a value for each query");
    match seq {
        0 => {}
        1 => Work { queries, keys, values, heads, sight, position: tokens - 1 }.one(mixed),
        _ => Work { queries, keys, values, heads, sight, position: tokens - seq }.many(mixed),
    }
}

/// Bytes that [`attend`] holds at the same time on `threads` threads, beside its result, for `seq` queries of a text of
/// `tokens`.
pub fn attend_scratch_bytes(heads: HeadShape, seq: usize, tokens: usize, threads: usize) -> usize {
    if seq == 1 { one::scratch_bytes(heads, tokens, threads) } else { many::scratch_bytes(heads, seq, threads) }
}

impl Work<'_> {
    /// The queries of a group of heads, scaled by 1 / √d.
    fn scaled(&self, query: usize, kv_head: usize, scaled: &mut [f32]) {
        let HeadShape { n_heads, head_dim, .. } = self.heads;
        let scale = (1.0 / (head_dim as f64).sqrt()) as f32;
        let queries = &self.queries[query * n_heads * head_dim + kv_head * scaled.len()..][..scaled.len()];
        for (scaled, query) in scaled.iter_mut().zip(queries) {
            *scaled = query * scale;
        }
    }

    /// First value of the key (and value) of a token and head.
    fn place(&self, token: usize, kv_head: usize) -> usize {
        (token * self.heads.n_kv_heads + kv_head) * self.heads.head_dim
    }
}

/// Turns scores (whole panels of them) into exp(score − maximum) under the maximum so far, and returns the factor for
/// what was summed under the old one, and the sum of the new. Where no key was seen yet, weights are 0.
#[inline]
fn soften(scores: &mut [f32], maximum: &mut f32) -> (f32, f32) {
    let chunks = scores.as_chunks_mut::<PANEL>().0;
    let mut lanes = [*maximum; PANEL];
    for chunk in &*chunks {
        for lane in 0..PANEL {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    let largest = lanes.iter().fold(*maximum, |max, lane| max.max(*lane));
    if largest == f32::NEG_INFINITY {
        scores.fill(0.0);
        return (1.0, 0.0);
    }
    let factor = exp(*maximum - largest);
    *maximum = largest;
    let mut sums = [0.0_f32; PANEL];
    for chunk in chunks {
        for lane in 0..PANEL {
            chunk[lane] = exp(chunk[lane] - largest);
            sums[lane] += chunk[lane];
        }
    }
    (factor, sums.iter().sum())
}

/// Multiplies values in place.
fn scale_by(factor: f32, values: &mut [f32]) {
    for value in values {
        *value *= factor;
    }
}

/// Room that a thread keeps between calls, so that a step of a text allocates nothing here.
type Room = LocalKey<Cell<Vec<f32>>>;

thread_local! {
    /// Of a task.
    static TASK: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    /// Of a call, which waits for its tasks.
    static CALL: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Lends the first `len` values of a room; they are whatever its last use left.
fn with_room<T>(room: &'static Room, len: usize, run: impl FnOnce(&mut [f32]) -> T) -> T {
    let mut values = room.take();
    if values.len() < len {
        values.resize(len, 0.0);
    }
    let result = run(&mut values[..len]);
    room.set(values);
    result
}

#[cfg(test)]
mod tests;

//! Exact attention by tiles of keys with an online softmax: memory is linear in the context.

mod many;
mod one;
mod tile;

use std::cell::Cell;
use std::ops::Range;
use std::thread::LocalKey;

use crate::kernels::{Isa, Rows};

/// Rows (queries × the heads that share their keys) for which a packed tile does not pay: a few queries go one by one.
const FEW_ROWS: usize = 6;

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

    /// Tokens that the query at `position` sees, its own among them.
    pub fn n_seen(self, position: usize) -> usize {
        let start = self.start(position);
        position + 1 - start + self.sinks.min(start)
    }

    /// First token inside the window of the query at `position`.
    fn start(self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// Whether none of the queries from `first` to `last` sees one of `keys`.
    fn misses(self, first: usize, last: usize, keys: &Range<usize>) -> bool {
        keys.start > last || (keys.end <= self.start(first) && keys.start >= self.sinks)
    }

    /// Whether all of the queries from `first` to `last` see all of `keys`.
    fn sees_all(self, first: usize, last: usize, keys: &Range<usize>) -> bool {
        keys.end <= first + 1 && (keys.start >= self.start(last) || keys.end <= self.sinks)
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
    attend_on(Isa::current(), queries, [keys, values], heads, sight, mixed);
}

fn attend_on(
    isa: Isa,
    queries: &[f32],
    [keys, values]: [Rows<'_>; 2],
    heads: HeadShape,
    sight: Sight,
    mixed: &mut [f32],
) {
    let HeadShape { n_heads, n_kv_heads, head_dim } = heads;
    assert!(n_heads > 0 && n_kv_heads > 0 && head_dim > 0 && n_heads.is_multiple_of(n_kv_heads), "whole groups");
    assert!(sight.window != Some(0), "a query sees its own token");
    let (width, kv_width) = (n_heads * head_dim, n_kv_heads * head_dim);
    assert!(queries.len().is_multiple_of(width) && mixed.len() == queries.len(), "whole rows of queries");
    let (seq, tokens) = (queries.len() / width, keys.n_values() / kv_width);
    assert!(keys.n_values() == values.n_values() && tokens >= seq, "a key and a value for each query");
    let work = Work { queries, keys, values, heads, sight, position: tokens - seq };
    if seq * work.heads.group() > FEW_ROWS.max(work.heads.group()) {
        return work.many(isa, mixed);
    }
    for (number, (queries, mixed)) in queries.chunks_exact(width).zip(mixed.chunks_exact_mut(width)).enumerate() {
        Work { queries, position: work.position + number, ..work }.one(isa, mixed);
    }
}

/// Bytes that [`attend`] holds at the same time on `threads` threads, beside its result, for `seq` queries of a text of
/// `tokens`.
pub fn attend_scratch_bytes(heads: HeadShape, seq: usize, tokens: usize, threads: usize) -> usize {
    if seq * heads.group() > FEW_ROWS.max(heads.group()) {
        many::scratch_bytes(heads, seq, threads)
    } else {
        one::scratch_bytes(heads, tokens, threads)
    }
}

impl Work<'_> {
    /// 1 / √d.
    fn scale(&self) -> f32 {
        (1.0 / (self.heads.head_dim as f64).sqrt()) as f32
    }

    /// One query of the heads that share a key-value head.
    fn query(&self, query: usize, kv_head: usize) -> &[f32] {
        let HeadShape { n_heads, head_dim, .. } = self.heads;
        let run = self.heads.group() * head_dim;
        &self.queries[query * n_heads * head_dim + kv_head * run..][..run]
    }

    /// First value of the key (and value) of a token and head.
    fn place(&self, token: usize, kv_head: usize) -> usize {
        (token * self.heads.n_kv_heads + kv_head) * self.heads.head_dim
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

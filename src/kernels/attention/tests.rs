use half::f16;

use super::tile::KEYS;
use super::*;
use crate::kernels::pool::{set_threads, threads};
use crate::kernels::{quantize_q4_0, quantize_q8_0};

fn values(n: usize, seed: f32) -> Vec<f32> {
    (0..n).map(|i| ((i as f32 * 12.9898 + seed).sin() * 43_758.547).fract() * 2.0).collect()
}

/// Straight from the definition, in f64: all scores of a query at once.
fn oracle(queries: &[f32], keys: &[f32], values: &[f32], heads: HeadShape, sight: Sight) -> Vec<f64> {
    let HeadShape { n_heads, n_kv_heads, head_dim } = heads;
    let (seq, tokens) = (queries.len() / n_heads / head_dim, keys.len() / n_kv_heads / head_dim);
    let mut mixed = Vec::new();
    for (row, query) in queries.chunks(head_dim).enumerate() {
        let (position, head) = (tokens - seq + row / n_heads, row % n_heads / (n_heads / n_kv_heads));
        let place = |token: usize| (token * n_kv_heads + head) * head_dim;
        let seen: Vec<usize> = (0..tokens).filter(|key| sight.sees(position, *key)).collect();
        assert_eq!(seen.len(), sight.n_seen(position));
        let score = |key: &usize| {
            let products = query.iter().zip(&keys[place(*key)..]).map(|(q, k)| f64::from(*q) * f64::from(*k));
            products.sum::<f64>() / (head_dim as f64).sqrt()
        };
        let scores: Vec<f64> = seen.iter().map(score).collect();
        let max = scores.iter().fold(f64::MIN, |max, score| max.max(*score));
        let total: f64 = scores.iter().map(|score| (score - max).exp()).sum();
        for feature in 0..head_dim {
            let weighted = scores
                .iter()
                .zip(&seen)
                .map(|(score, key)| (score - max).exp() / total * f64::from(values[place(*key) + feature]));
            mixed.push(weighted.sum());
        }
    }
    mixed
}

struct Case {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    heads: HeadShape,
}

impl Case {
    fn new([n_heads, n_kv_heads, head_dim]: [usize; 3], seq: usize, tokens: usize) -> Self {
        let kv_len = tokens * n_kv_heads * head_dim;
        Self {
            queries: values(seq * n_heads * head_dim, 1.0),
            keys: values(kv_len, 2.0),
            values: values(kv_len, 3.0),
            heads: HeadShape { n_heads, n_kv_heads, head_dim },
        }
    }

    fn run(&self, sight: Sight) -> Vec<f32> {
        self.run_on(Isa::current(), sight)
    }

    fn run_on(&self, isa: Isa, sight: Sight) -> Vec<f32> {
        let mut mixed = vec![f32::NAN; self.queries.len()];
        let rows = [Rows::F32(&self.keys), Rows::F32(&self.values)];
        attend_on(isa, &self.queries, rows, self.heads, sight, &mut mixed);
        mixed
    }

    fn check(&self, sight: Sight) {
        let expected = oracle(&self.queries, &self.keys, &self.values, self.heads, sight);
        for isa in Isa::available() {
            let found = self.run_on(isa, sight);
            let worst = found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
            assert!(worst <= 1e-5, "{isa:?} {:?} {sight:?} {} values: {worst}", self.heads, self.queries.len());
        }
    }
}

/// Heads, queries, tokens: one head, grouped queries, odd lengths and widths, a text behind a cache, every edge of
/// a tile.
const CASES: [([usize; 3], usize, usize); 14] = [
    ([1, 1, 1], 1, 1),
    ([6, 6, 48], 5, 5),
    ([9, 3, 64], 70, 70),
    ([4, 2, 16], 3, 130),
    ([3, 1, 7], 64, 64),
    ([3, 1, 7], 65, 129),
    ([8, 2, 33], 127, 128),
    ([2, 2, 48], 257, 300),
    ([40, 1, 20], 9, 77),
    ([160, 1, 4], 5, 9),
    ([6, 6, 48], 1, 200),
    ([9, 3, 64], 1, 1100),
    ([5, 1, 19], 1, 513),
    ([2, 1, 130], 1, 64),
];

#[test]
fn tiles_agree_with_the_definition() {
    for (heads, seq, tokens) in CASES {
        Case::new(heads, seq, tokens).check(Sight::default());
    }
}

#[test]
fn windows_and_sinks_agree_with_the_definition() {
    for (heads, seq, tokens) in CASES {
        let case = Case::new(heads, seq, tokens);
        for (window, sinks) in [(1, 0), (1, 4), (17, 0), (64, 1), (100, 70)] {
            case.check(Sight { window: Some(window), sinks });
        }
        let whole = Sight { window: Some(tokens), sinks: 3 };
        assert_eq!(case.run(whole), case.run(Sight::default()), "a window over the whole text is no window");
    }
}

#[test]
fn what_no_query_of_a_task_sees_is_not_read() {
    for seq in [1, 4] {
        let sight = Sight { window: Some(50), sinks: 4 };
        let mut case = Case::new([4, 2, 16], seq, 1500);
        // Between the tile of the sinks and the tile where the first window starts.
        let expected = case.run(sight);
        case.keys[KEYS * 32..1408 * 32].fill(f32::NAN);
        case.values[KEYS * 32..1408 * 32].fill(f32::NAN);
        assert_eq!(case.run(sight), expected);
    }
}

#[test]
fn a_query_does_not_depend_on_those_beside_it() {
    let case = Case::new([9, 3, 64], 100, 230);
    for isa in Isa::available() {
        let together = case.run_on(isa, Sight::default());
        // The queries of 2, 3, 60 from `query` on: other blocks, other tasks.
        for (query, n) in [(0, 1), (0, 2), (41, 3), (42, 1), (40, 60), (99, 1)] {
            let tokens = 130 + query + n;
            let alone = Case {
                queries: case.queries[query * 576..][..n * 576].to_vec(),
                keys: case.keys[..tokens * 192].to_vec(),
                values: case.values[..tokens * 192].to_vec(),
                heads: case.heads,
            };
            let (alone, together) = (alone.run_on(isa, Sight::default()), &together[query * 576..][..n * 576]);
            if n * 3 > FEW_ROWS {
                assert_eq!(alone, together, "{isa:?} {query}");
            }
            // A score of a query alone is summed in another order: some ulp of scores of 8.
            let worst = alone.iter().zip(together).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 2e-6, "{isa:?} {query}: {worst}");
        }
    }
}

#[test]
fn threads_do_not_change_the_bits() {
    for (heads, seq, tokens) in [([6, 6, 48], 100, 300), ([9, 3, 64], 300, 300), ([32, 8, 16], 1, 3000)] {
        let case = Case::new(heads, seq, tokens);
        let run = |threads: usize| {
            set_threads(threads);
            case.run(Sight::default())
        };
        let before = threads();
        let alone = run(1);
        for n in [2, 3] {
            assert_eq!(run(n), alone, "{n} threads");
        }
        set_threads(before);
    }
}

#[test]
fn packed_rows_give_what_their_values_give() {
    for seq in [1, 40] {
        let case = Case::new([6, 2, 48], seq, 150);
        let pack = |values: &[f32], format: usize| match format {
            0 => Owned::Halves(values.iter().map(|value| f16::from_f32(*value)).collect()),
            1 => {
                let mut bytes = vec![0; values.len() / 32 * 34];
                quantize_q8_0(values, &mut bytes);
                Owned::Q8(bytes)
            }
            _ => {
                let mut bytes = vec![0; values.len() / 32 * 18];
                quantize_q4_0(values, &mut bytes);
                Owned::Q4(bytes)
            }
        };
        for (keys, values) in [(0, 1), (1, 2), (2, 0)] {
            let (keys, values) = (pack(&case.keys, keys), pack(&case.values, values));
            let mut packed = vec![f32::NAN; case.queries.len()];
            attend(&case.queries, keys.rows(), values.rows(), case.heads, Sight::default(), &mut packed);
            let plain = Case { queries: case.queries.clone(), keys: keys.widened(), values: values.widened(), ..case };
            assert_eq!(packed, plain.run(Sight::default()));
        }
    }
}

enum Owned {
    Halves(Vec<f16>),
    Q8(Vec<u8>),
    Q4(Vec<u8>),
}

impl Owned {
    fn rows(&self) -> Rows<'_> {
        match self {
            Self::Halves(values) => Rows::F16(values),
            Self::Q8(bytes) => Rows::Q8_0(bytes),
            Self::Q4(bytes) => Rows::Q4_0(bytes),
        }
    }

    fn widened(&self) -> Vec<f32> {
        let len = self.rows().n_values();
        self.rows().read(0, len, &mut vec![0.0; Rows::scratch_len(len)]).to_vec()
    }
}

#[test]
fn large_scores_neither_overflow_nor_vanish() {
    for seq in [1, 70] {
        let mut case = Case::new([2, 1, 16], seq, 200);
        // Scores reach ±10⁴; the largest comes in the last tiles, so everything before is rescaled to nothing.
        case.keys.iter_mut().for_each(|value| *value *= 3e3);
        case.keys[190 * 16..191 * 16].copy_from_slice(&[3e4; 16]);
        let expected = oracle(&case.queries, &case.keys, &case.values, case.heads, Sight::default());
        for (found, expected) in case.run(Sight::default()).iter().zip(expected) {
            // One f32 ulp of a score of 10⁵ is 0.008: the weight of the second largest key may err by as much.
            assert!((f64::from(*found) - expected).abs() < 0.02, "{found} {expected}");
        }
    }
}

#[test]
fn non_finite_numbers_reach_the_result() {
    for seq in [1, 70] {
        for bad in [f32::NAN, f32::INFINITY] {
            let poisons: [fn(&mut Case) -> &mut Vec<f32>; 3] =
                [|case| &mut case.queries, |case| &mut case.keys, |case| &mut case.values];
            for poison in poisons {
                let mut case = Case::new([2, 1, 16], seq, 90);
                poison(&mut case)[3] = bad;
                assert!(case.run(Sight::default()).iter().any(|value| !value.is_finite()), "{bad} {seq}");
            }
        }
    }
}

#[test]
fn scratch_is_linear_in_the_context() {
    let heads = HeadShape { n_heads: 9, n_kv_heads: 3, head_dim: 64 };
    for seq in [1, 4096] {
        let bytes = |tokens: usize| attend_scratch_bytes(heads, seq.min(tokens), tokens, 2);
        assert!(bytes(8192) <= 2 * bytes(4096) && bytes(8192) < 9 * 4096 * 8192, "{}", bytes(8192));
    }
}

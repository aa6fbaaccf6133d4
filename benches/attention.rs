//! Tiled attention against the naive form at growing contexts: time, and the bytes that exist at the same time beside
//! queries, keys, values and the result.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use trimtab::kernels::{HeadShape, attend_scratch_bytes};
use trimtab::nn::Attending;
use trimtab::recipe::{AttentionForm, AttentionSettings, KvCacheSettings, KvFormat};

/// Heads like those of stories15M, and grouped ones of a model 576 wide.
const SHAPES: [(&str, HeadShape); 2] = [
    ("6 heads of 48", HeadShape { n_heads: 6, n_kv_heads: 6, head_dim: 48 }),
    ("9 heads of 64 over 3", HeadShape { n_heads: 9, n_kv_heads: 3, head_dim: 64 }),
];

const CONTEXTS: [usize; 4] = [256, 1024, 4096, 8192];

fn values(rows: usize, width: usize, seed: f32) -> Vec<f32> {
    (0..rows * width).map(|i| ((i as f32 * 12.9898 + seed).sin() * 43_758.547).fract() * 2.0).collect()
}

/// The mask, and the scores of the heads that share a key before and after the softmax; the naive form copies queries,
/// keys and values by heads too.
fn naive_bytes(heads: HeadShape, tokens: usize) -> usize {
    let HeadShape { n_heads, n_kv_heads, head_dim } = heads;
    let scores = n_heads / n_kv_heads * tokens * tokens;
    4 * (tokens * tokens + 2 * scores + tokens * (2 * n_heads + 2 * n_kv_heads) * head_dim)
}

/// A whole text at once; a context's elements are its tokens.
fn contexts(criterion: &mut Criterion) {
    let tiled = AttentionSettings::default();
    let naive = AttentionSettings { form: AttentionForm::Naive, ..tiled };
    let window = AttentionSettings { window: Some(1024), sinks: 4, ..tiled };
    let exact = KvCacheSettings::default();
    let packed = KvCacheSettings { keys: KvFormat::Q8_0, values: KvFormat::Q4_0 };
    for (name, heads) in SHAPES {
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10).sampling_mode(SamplingMode::Flat);
        group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
        for tokens in CONTEXTS {
            let (width, kv_width) = (heads.n_heads * heads.head_dim, heads.n_kv_heads * heads.head_dim);
            let (query, key, value) =
                (values(tokens, width, 1.0), values(tokens, kv_width, 2.0), values(tokens, kv_width, 3.0));
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            let tiled_bytes = attend_scratch_bytes(heads, tokens, tokens, threads);
            println!("{name}, {tokens} tokens: tiled {tiled_bytes} B, naive {} B", naive_bytes(heads, tokens));
            group.throughput(Throughput::Elements(tokens as u64));
            for (form, settings, kv_cache) in [
                ("tiled", tiled, exact),
                ("naive", naive, exact),
                ("tiled, q8_0 keys, q4_0 values", tiled, packed),
                ("tiled, window 1024 + 4", window, exact),
            ] {
                let attending = Attending { heads, settings, kv_cache };
                let mut mixed = vec![0.0; query.len()];
                group.bench_function(BenchmarkId::new(form, tokens), |bencher| {
                    bencher.iter(|| black_box(attending.mix([&query, &key, &value], None, &mut mixed)));
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, contexts);
criterion_main!(benches);

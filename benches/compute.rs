//! Speed of the loops that a trial spends its time in, at the embedded model's own shapes.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use trimtab::compress::{Job, compress, keep_mask};
use trimtab::kernels::{Panels, divergence};
use trimtab::model::StoredFormat;
use trimtab::recipe::{Group, IntFormat, LayerSettings, Sparsity, WeightFormat};

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i as f32 * 12.9898).sin() * 43_758.547).fract() * 0.1).collect()
}

/// One thread; elements are multiply-adds.
fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("f32 product, one thread");
    for (rows, n_outputs, n_inputs) in [(1, 32_000, 288), (64, 32_000, 288), (256, 768, 288), (256, 288, 768)] {
        let panels = Panels::pack(&values(n_outputs * n_inputs), n_outputs, n_inputs);
        let x = values(rows * n_inputs);
        let mut y = vec![0.0; rows * n_outputs];
        group.throughput(Throughput::Elements((rows * n_outputs * n_inputs) as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{rows}x{n_inputs}x{n_outputs}")), |bencher| {
            bencher.iter(|| if rows == 1 { panels.multiply_row(&x, 0, &mut y) } else { panels.multiply(&x, &mut y) });
        });
    }
    group.finish();
}

fn scoring(criterion: &mut Criterion) {
    let (reference, variant) = (values(32_000), values(32_001));
    let mut group = criterion.benchmark_group("divergence of one position");
    group.throughput(Throughput::Elements(32_000));
    group.bench_function("32,000 logits", |bencher| bencher.iter(|| divergence(&reference, &variant[1..], 7)));
    group.finish();
}

/// All threads; bytes are those of the f32 input.
fn packing(criterion: &mut Criterion) {
    let (rows, row_len) = (2048, 2048);
    let weights = values(rows * row_len);
    let mut group = criterion.benchmark_group("compress 2048x2048");
    group.throughput(Throughput::Bytes((weights.len() * 4) as u64));
    group.sample_size(10);
    let int4 = WeightFormat::Int(IntFormat { bits: 4, group: Group::Size(32), symmetric: false });
    for format in [WeightFormat::Q8_0, WeightFormat::Q4_0, WeightFormat::Q4k, WeightFormat::Q6k, int4] {
        let settings = LayerSettings::of(format);
        group.bench_function(format.label(), |bencher| {
            let shape = [rows, row_len];
            let job = Job { dense: &weights, shape, settings: &settings, native: StoredFormat::F16, moments: None };
            bencher.iter(|| compress(&job));
        });
    }
    group.bench_function("magnitude 50 %", |bencher| {
        bencher.iter(|| keep_mask(&weights, row_len, &Sparsity::magnitude(0.5), None));
    });
    group.finish();
}

criterion_group!(benches, products, scoring, packing);
criterion_main!(benches);

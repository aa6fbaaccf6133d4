//! Speed of the loops that a trial spends its time in, at the embedded model's own shapes.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::f16;
use trimtab::compress::{Job, compress, keep_mask};
use trimtab::kernels::{Activations, BlockType, Blocks, Floats, SparseHalf, divergence, quantize};
use trimtab::model::StoredFormat;
use trimtab::recipe::{Group, IntFormat, LayerSettings, Sparsity, WeightFormat};

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i as f32 * 12.9898).sin() * 43_758.547).fract() * 0.1).collect()
}

/// All threads; elements are multiply-adds.
fn products(criterion: &mut Criterion) {
    for (rows, n_outputs, n_inputs) in [(1, 32_000, 288), (1, 2048, 2048), (256, 768, 288), (256, 2048, 2048)] {
        let mut group = criterion.benchmark_group(format!("{rows}x{n_inputs}x{n_outputs}"));
        group.throughput(Throughput::Elements((rows * n_outputs * n_inputs) as u64));
        let weights = values(n_outputs * n_inputs);
        let (mut x, mut y) = (Activations::default(), vec![0.0; rows * n_outputs]);
        x.start(rows, n_inputs).copy_from_slice(&values(rows * n_inputs));
        let floats = Floats::f32(&weights, n_outputs, n_inputs);
        group.bench_function("f32", |bencher| bencher.iter(|| floats.multiply(x.values(), &mut y)));
        let half: Vec<f16> = weights.iter().map(|weight| f16::from_f32(*weight)).collect();
        let floats = Floats::f16(&half, n_outputs, n_inputs);
        group.bench_function("f16", |bencher| bencher.iter(|| floats.multiply(x.values(), &mut y)));
        for kind in BlockType::ALL {
            if n_inputs % kind.block_len() != 0 {
                continue;
            }
            let mut bytes = vec![0; weights.len() / kind.block_len() * kind.block_bytes()];
            quantize(kind, &weights, n_inputs, &mut bytes);
            let blocks = Blocks::pack(kind, &bytes, n_outputs, n_inputs);
            group.bench_function(BenchmarkId::from_parameter(kind.name()), |bencher| {
                bencher.iter(|| blocks.multiply(&mut x, &mut y));
            });
        }
        group.finish();
    }
}

/// One row with f16 weights of which more and more are left out: from where it wins over the dense product depends on
/// which memory the matrix lies in.
fn pruned(criterion: &mut Criterion) {
    for (n_outputs, n_inputs) in [(768, 288), (2048, 2048), (8192, 4096)] {
        let mut group = criterion.benchmark_group(format!("pruned f16 {n_inputs}x{n_outputs}"));
        group.throughput(Throughput::Elements((n_outputs * n_inputs) as u64));
        let (x, mut y) = (values(n_inputs), vec![0.0; n_outputs]);
        let dense: Vec<f16> = values(n_outputs * n_inputs).into_iter().map(f16::from_f32).collect();
        let floats = Floats::f16(&dense, n_outputs, n_inputs);
        group.bench_function("dense", |bencher| bencher.iter(|| floats.multiply(&x, &mut y)));
        for percent in [30, 50, 70, 90] {
            let is_kept = |index: usize| (index * 7919) % 10_007 * 100 >= percent * 10_007;
            let zeros = |(index, weight): (usize, &f16)| if is_kept(index) { *weight } else { f16::ZERO };
            let kept: Vec<f16> = dense.iter().enumerate().map(zeros).collect();
            let sparse = SparseHalf::pack(&kept, n_outputs, n_inputs);
            group.bench_function(format!("{percent} % left out"), |bencher| {
                bencher.iter(|| sparse.multiply(&x, &mut y));
            });
        }
        group.finish();
    }
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

criterion_group!(benches, products, pruned, scoring, packing);
criterion_main!(benches);

use candle_core::Device;

use super::*;
use crate::compress::round_to_nearest;
use crate::kernels::Isa;
use crate::nn::toy::noise;
use crate::recipe::{Group, IntFormat};

const SHAPE: [usize; 2] = [24, 64];

fn values(seed: usize, n: usize) -> Vec<f32> {
    (0..n).map(|i| noise(seed, i, 1.0)).collect()
}

fn parts(packed: PackedWeights) -> LinearParts {
    let (path, execution) = (LayerPath("layer".to_owned()), Execution::Packed);
    LinearParts { path, packed, shape: SHAPE, execution, bias: None, activations: ActivationGrid::Float }
}

fn linear(packed: PackedWeights) -> Linear {
    Linear::new(parts(packed)).unwrap()
}

fn factors(rank: usize, down: Arc<PackedWeights>) -> LowRankMatrix {
    let up = PackedWeights::F32(values(1, SHAPE[0] * rank));
    LowRankMatrix { up: Box::new(up), down, shape: [SHAPE[0], rank, SHAPE[1]] }
}

fn down(rank: usize) -> Arc<PackedWeights> {
    Arc::new(PackedWeights::F32(values(2, rank * SHAPE[1])))
}

fn inputs(rows: usize) -> Vec<f32> {
    values(3, rows * SHAPE[1])
}

fn forward(layer: &Linear, x: &[f32]) -> Vec<f32> {
    let (mut inputs, mut y) = (Inputs::default(), Vec::new());
    inputs.start(x.len() / SHAPE[1], SHAPE[1]).copy_from_slice(x);
    layer.multiply(&mut inputs, &mut y, &mut Scratch::default()).unwrap();
    y
}

fn assert_near(found: &[f32], expected: &[f32], tolerance: f32, name: &str) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "{name}: {worst}");
}

#[test]
fn every_form_multiplies_by_what_it_dequantizes_to() {
    let dense = values(4, SHAPE[0] * SHAPE[1]);
    let int = IntFormat { bits: 4, group: Group::Size(32), symmetric: false };
    let int = PackedWeights::Int(round_to_nearest(&dense, SHAPE[1], int).unwrap());
    let corrected = PackedWeights::Corrected { base: Box::new(int.clone()), term: factors(5, down(5)) };
    for (name, packed) in [
        ("f32", PackedWeights::F32(dense)),
        ("int", int),
        ("low rank", PackedWeights::LowRank(factors(7, down(7)))),
        ("corrected", corrected),
    ] {
        let expected = packed.dequantize();
        let plain = linear(PackedWeights::F32(expected.clone()));
        let layer = linear(packed);
        assert_near(&layer.dequantize().unwrap(), &expected, 1e-5, name);
        for rows in [1, 9] {
            let (found, expected) = (forward(&layer, &inputs(rows)), forward(&plain, &inputs(rows)));
            assert_near(&found, &expected, 3e-5, name);
        }
        let rows: Vec<f32> = [3, 23, 3].iter().flat_map(|row| expected[row * 64..][..64].to_vec()).collect();
        let mut found = vec![f32::NAN; 3 * 64];
        layer.rows(&[3, 23, 3], &mut found).unwrap();
        assert_near(&found, &rows, 1e-5, name);
    }
}

#[test]
fn low_rank_at_full_rank_is_the_dense_layer() {
    let dense = values(5, SHAPE[0] * SHAPE[1]);
    let identity: Vec<f32> = (0..64 * 64).map(|i| f32::from(u8::from(i % 65 == 0))).collect();
    let (up, down) = (Box::new(PackedWeights::F32(dense.clone())), Arc::new(PackedWeights::F32(identity)));
    let layer = linear(PackedWeights::LowRank(LowRankMatrix { up, down, shape: [24, 64, 64] }));
    let plain = linear(PackedWeights::F32(dense));
    let x = inputs(5);
    assert_near(&forward(&layer, &x), &forward(&plain, &x), 1e-6, "full rank");
    assert_eq!(layer.held_bytes(), (32 * 64 + 64 * 64) * 4, "both factors, in panels of 16 outputs");
}

#[test]
fn a_shared_factor_is_held_once() {
    let (common, mut shared) = (down(8), SharedFactors::default());
    let mut make = |down: &Arc<PackedWeights>| {
        let packed = PackedWeights::LowRank(factors(8, down.clone()));
        Linear::sharing(parts(packed), &mut shared).unwrap()
    };
    let (a, b, other) = (make(&common), make(&common), make(&down(8)));
    let ids = |layer: &Linear| layer.parts().map(|(id, _)| id).collect::<Vec<_>>();
    let is_common = |x: &Linear, y: &Linear| ids(x).iter().filter(|id| ids(y).contains(id)).count();
    assert_eq!((is_common(&a, &b), is_common(&a, &other)), (1, 0));
    // A worker for cards makes the panels when the processor first multiplies.
    assert_eq!(forward(&a, &inputs(2)), forward(&b, &inputs(2)));
    let bytes: std::collections::BTreeMap<usize, u64> = a.parts().chain(b.parts()).collect();
    let [down, up] = [16 * 64 * 4, 32 * 8 * 4];
    assert_eq!((bytes.values().sum::<u64>(), a.held_bytes()), (down + 2 * up, down + up));
}

#[test]
fn a_tied_layer_holds_nothing_of_its_own() {
    let layer = linear(PackedWeights::F32(values(6, SHAPE[0] * SHAPE[1])));
    let bias = Tensor::full(2.0_f32, SHAPE[0], &Device::Cpu).unwrap();
    let tied = layer.tied(LayerPath("other".to_owned()), Some(bias));
    assert_eq!(tied.parts().collect::<Vec<_>>(), layer.parts().collect::<Vec<_>>());
    assert_eq!(tied.path().as_str(), "other");
    let (x, y) = (inputs(3), forward(&layer, &inputs(3)));
    assert_near(&forward(&tied, &x), &y.iter().map(|y| y + 2.0).collect::<Vec<_>>(), 0.0, "tied");
}

/// A product's name on this machine.
fn named(name: &str) -> String {
    format!("trimtab {name} ({})", Isa::current().name())
}

#[test]
fn rounded_activations_enter_the_product_and_its_name() {
    let dense = PackedWeights::F32(values(7, SHAPE[0] * SHAPE[1]));
    let int = |bits| {
        let int = IntFormat { bits, group: Group::Row, symmetric: true };
        PackedWeights::Int(round_to_nearest(&dense.dequantize(), SHAPE[1], int).unwrap())
    };
    let x = inputs(3);
    for (grid, name) in
        [(ActivationGrid::Int8PerToken, "int8 dynamic"), (ActivationGrid::Int8Static { scale: 0.01 }, "int8 static")]
    {
        for (packed, product) in [
            (dense.clone(), format!("simulated {name}, {}", named("f32"))),
            (int(3), format!("simulated {name}, {}", named("f32"))),
            (int(4), format!("{name}, {}", named("int4 × int8"))),
            (int(8), format!("{name}, {}", named("int8 × int8"))),
        ] {
            let plain = linear(PackedWeights::F32(packed.dequantize()));
            let layer = Linear::new(LinearParts { activations: grid, ..parts(packed) }).unwrap();
            let mut rounded = Inputs::default();
            rounded.start(3, SHAPE[1]).copy_from_slice(&x);
            let expected = forward(&plain, rounded.rounded(grid));
            assert_near(&forward(&layer, &x), &expected, 2e-5, &product);
            assert_ne!(expected, forward(&plain, &x));
            assert_eq!(layer.product(), product);
        }
    }
}

#[test]
fn products_are_named() {
    let halves = |n: usize| PackedWeights::F16(vec![half::f16::ONE; n]);
    let term = |up, down| LowRankMatrix { up: Box::new(up), down: Arc::new(down), shape: [24, 2, 64] };
    let f32s = |n| PackedWeights::F32(values(8, n));
    let corrected = |term| PackedWeights::Corrected { base: Box::new(f32s(24 * 64)), term };
    let [single, half] = ["f32", "f16"].map(named);
    for (packed, name) in [
        (f32s(24 * 64), single.clone()),
        (halves(24 * 64), half.clone()),
        (PackedWeights::LowRank(term(halves(48), halves(128))), format!("low rank {half}")),
        (PackedWeights::LowRank(term(f32s(48), halves(128))), format!("low rank {half}, {single}")),
        (corrected(term(f32s(48), f32s(128))), format!("{single} + low rank {single}")),
    ] {
        assert_eq!(linear(packed).product(), name);
    }
}

#[test]
fn factors_of_another_shape_are_refused() {
    let mut packed = factors(4, down(4));
    packed.shape = [24, 4, 63];
    assert!(matches!(Linear::new(parts(PackedWeights::LowRank(packed))), Err(NnError::Shape(_))));
    let empty = LinearParts { shape: [0, 64], ..parts(PackedWeights::F32(Vec::new())) };
    assert!(matches!(Linear::new(empty), Err(NnError::Shape(_))));
}

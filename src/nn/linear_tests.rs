use super::*;
use crate::compress::round_to_nearest;
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
    Linear::new(parts(packed), &Device::Cpu).unwrap()
}

fn factors(rank: usize, down: Arc<PackedWeights>) -> LowRankMatrix {
    let up = PackedWeights::F32(values(1, SHAPE[0] * rank));
    LowRankMatrix { up: Box::new(up), down, shape: [SHAPE[0], rank, SHAPE[1]] }
}

fn down(rank: usize) -> Arc<PackedWeights> {
    Arc::new(PackedWeights::F32(values(2, rank * SHAPE[1])))
}

fn inputs(rows: usize) -> Tensor {
    Tensor::from_vec(values(3, rows * SHAPE[1]), (rows, SHAPE[1]), &Device::Cpu).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
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
            let (found, expected) = (layer.forward(&inputs(rows)).unwrap(), plain.forward(&inputs(rows)).unwrap());
            assert_near(&numbers(&found), &numbers(&expected), 3e-5, name);
        }
        let ids = Tensor::new(&[3_u32, 23, 3], &Device::Cpu).unwrap();
        let rows: Vec<f32> = [3, 23, 3].iter().flat_map(|row| expected[row * 64..][..64].to_vec()).collect();
        assert_near(&numbers(&layer.rows(&ids).unwrap()), &rows, 1e-5, name);
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
    assert_near(&numbers(&layer.forward(&x).unwrap()), &numbers(&plain.forward(&x).unwrap()), 1e-6, "full rank");
    assert_eq!(layer.held_bytes(), (32 * 64 + 64 * 64) * 4, "both factors, in panels of 16 outputs");
}

#[test]
fn a_shared_factor_is_held_once() {
    let (common, mut shared) = (down(8), SharedFactors::default());
    let mut make = |down: &Arc<PackedWeights>| {
        let packed = PackedWeights::LowRank(factors(8, down.clone()));
        Linear::sharing(parts(packed), &mut shared, &Device::Cpu).unwrap()
    };
    let (a, b, other) = (make(&common), make(&common), make(&down(8)));
    let ids = |layer: &Linear| layer.parts().map(|(id, _)| id).collect::<Vec<_>>();
    let is_common = |x: &Linear, y: &Linear| ids(x).iter().filter(|id| ids(y).contains(id)).count();
    assert_eq!((is_common(&a, &b), is_common(&a, &other)), (1, 0));
    let bytes: std::collections::BTreeMap<usize, u64> = a.parts().chain(b.parts()).collect();
    let [down, up] = [16 * 64 * 4, 32 * 8 * 4];
    assert_eq!(bytes.values().sum::<u64>(), down + 2 * up);
    assert_eq!(
        (a.held_bytes(), numbers(&a.forward(&inputs(2)).unwrap())),
        (down + up, numbers(&b.forward(&inputs(2)).unwrap()))
    );
}

#[test]
fn a_tied_layer_holds_nothing_of_its_own() {
    let layer = linear(PackedWeights::F32(values(6, SHAPE[0] * SHAPE[1])));
    let bias = Tensor::full(2.0_f32, SHAPE[0], &Device::Cpu).unwrap();
    let tied = layer.tied(LayerPath("other".to_owned()), Some(bias));
    assert_eq!(tied.parts().collect::<Vec<_>>(), layer.parts().collect::<Vec<_>>());
    assert_eq!(tied.path().as_str(), "other");
    let (x, y) = (inputs(3), numbers(&layer.forward(&inputs(3)).unwrap()));
    assert_near(&numbers(&tied.forward(&x).unwrap()), &y.iter().map(|y| y + 2.0).collect::<Vec<_>>(), 0.0, "tied");
}

#[test]
fn activations_are_rounded_to_their_grid() {
    let x =
        Tensor::new(&[[1.0_f32, -0.5, 0.25, 0.003], [0.0; 4], [f32::INFINITY, 1.0, 2.0, 3.0]], &Device::Cpu).unwrap();
    let dynamic: Vec<Vec<f32>> = round_activations(&x, ActivationGrid::Int8PerToken).unwrap().to_vec2().unwrap();
    // The positive end saturates at 127; 63.75 steps are 64, 31.9 are 32, 0.38 are none.
    assert_near(&dynamic[0], &[127.0 / 127.5, -64.0 / 127.5, 32.0 / 127.5, 0.0], 1e-7, "per token");
    assert_eq!(dynamic[1], [0.0; 4]);
    assert!(dynamic[2].iter().any(|value| !value.is_finite()), "what is not finite shows: {:?}", dynamic[2]);
    let grid = ActivationGrid::Int8Static { scale: 0.005 };
    let fixed: Vec<Vec<f32>> = round_activations(&x, grid).unwrap().to_vec2().unwrap();
    assert_near(&fixed[0], &[0.635, -0.5, 0.25, 0.005], 1e-7, "static");
    assert!(
        round_activations(&Tensor::new(&[[f32::NAN]], &Device::Cpu).unwrap(), grid).unwrap().to_vec2::<f32>().unwrap()
            [0][0]
            .is_nan()
    );
}

#[test]
fn rounded_activations_enter_the_product_and_its_name() {
    let dense = PackedWeights::F32(values(7, SHAPE[0] * SHAPE[1]));
    let plain = linear(dense.clone());
    let x = inputs(3);
    for (grid, name) in [
        (ActivationGrid::Int8PerToken, "simulated int8 dynamic, trimtab f32"),
        (ActivationGrid::Int8Static { scale: 0.01 }, "simulated int8 static, trimtab f32"),
    ] {
        let layer = Linear::new(LinearParts { activations: grid, ..parts(dense.clone()) }, &Device::Cpu).unwrap();
        let expected = plain.forward(&round_activations(&x, grid).unwrap()).unwrap();
        assert_eq!(numbers(&layer.forward(&x).unwrap()), numbers(&expected));
        assert_ne!(numbers(&expected), numbers(&plain.forward(&x).unwrap()));
        assert_eq!(layer.product(), name);
    }
}

#[test]
fn products_are_named() {
    let halves = |n: usize| PackedWeights::F16(vec![half::f16::ONE; n]);
    let term = |up, down| LowRankMatrix { up: Box::new(up), down: Arc::new(down), shape: [24, 2, 64] };
    let f32s = |n| PackedWeights::F32(values(8, n));
    let corrected = |term| PackedWeights::Corrected { base: Box::new(f32s(24 * 64)), term };
    for (packed, name) in [
        (f32s(24 * 64), "trimtab f32"),
        (halves(24 * 64), "candle f16"),
        (PackedWeights::LowRank(term(halves(48), halves(128))), "low rank candle f16"),
        (PackedWeights::LowRank(term(f32s(48), halves(128))), "low rank candle f16, trimtab f32"),
        (corrected(term(f32s(48), f32s(128))), "trimtab f32 + low rank trimtab f32"),
    ] {
        assert_eq!(linear(packed).product(), name);
    }
}

#[test]
fn factors_of_another_shape_are_refused() {
    let mut packed = factors(4, down(4));
    packed.shape = [24, 4, 63];
    assert!(matches!(Linear::new(parts(PackedWeights::LowRank(packed)), &Device::Cpu), Err(NnError::Shape(_))));
    let empty = LinearParts { shape: [0, 64], ..parts(PackedWeights::F32(Vec::new())) };
    assert!(matches!(Linear::new(empty, &Device::Cpu), Err(NnError::Shape(_))));
}

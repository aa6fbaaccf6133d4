use super::*;
use crate::compress::round_to_nearest;
use crate::recipe::IntFormat;

const ROWS: usize = 3;
const ROW_LEN: usize = 256;
const SHAPE: [usize; 2] = [ROWS, ROW_LEN];

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect()
}

fn fp8(scale: Fp8Scale) -> PackedWeights {
    let codes = (0..ROWS * ROW_LEN).map(|i| (i * 7 % 127) as u8).collect();
    PackedWeights::Fp8(Fp8Matrix { scale, row_len: ROW_LEN, codes, scales: vec![0.5; scale.count(ROWS, ROW_LEN)] })
}

fn factors(down: &Arc<PackedWeights>) -> LowRankMatrix {
    let up = Box::new(PackedWeights::F16(values(ROWS * 2).into_iter().map(f16::from_f32).collect()));
    LowRankMatrix { up, down: Arc::clone(down), shape: [ROWS, 2, ROW_LEN] }
}

/// One of each kind.
fn kinds() -> Vec<PackedWeights> {
    let dense = values(ROWS * ROW_LEN);
    let mut kinds = vec![
        PackedWeights::F32(dense.clone()),
        PackedWeights::F16(dense.iter().map(|value| f16::from_f32(*value)).collect()),
        PackedWeights::Bf16(dense.iter().map(|value| bf16::from_f32(*value)).collect()),
    ];
    for format in GgmlType::ALL {
        kinds.push(crate::compress::quantize_ggml(&dense, ROW_LEN, format).unwrap());
    }
    kinds.extend(Fp8Scale::ALL.map(fp8));
    for bits in IntFormat::BITS {
        for (group, symmetric) in [(Group::Row, false), (Group::Size(64), true)] {
            kinds.push(PackedWeights::Int(
                round_to_nearest(&dense, ROW_LEN, IntFormat { bits, group, symmetric }).unwrap(),
            ));
        }
    }
    if let Some(PackedWeights::Int(matrix)) = kinds.last().cloned() {
        let zeros = ZeroPoints::Floats(vec![f16::from_f32(2.25); matrix.scales.len()]);
        kinds.push(PackedWeights::Int(IntMatrix { zeros, ..matrix }));
    }
    let mut pruned = dense.clone();
    pruned.iter_mut().enumerate().filter(|(at, _)| at % 3 > 0).for_each(|(_, value)| *value = 0.0);
    let halves: Vec<f16> = pruned.iter().map(|value| f16::from_f32(*value)).collect();
    kinds.push(PackedWeights::Sparse(SparseMatrix::of_halves(&halves, SHAPE).unwrap()));
    let int8 = round_to_nearest(&pruned, ROW_LEN, IntFormat { bits: 8, group: Group::Row, symmetric: true }).unwrap();
    kinds.push(PackedWeights::Sparse(SparseMatrix::of_int(&int8).unwrap()));
    let down = Arc::new(kinds[0].clone());
    let down = match down.as_ref() {
        PackedWeights::F32(values) => Arc::new(PackedWeights::F32(values[..2 * ROW_LEN].to_vec())),
        _ => down,
    };
    kinds.push(PackedWeights::LowRank(factors(&down)));
    kinds.push(PackedWeights::Corrected { base: Box::new(fp8(Fp8Scale::Row)), term: factors(&down) });
    kinds
}

fn layer(weights: PackedWeights) -> Compressed {
    Compressed { weights, activations: ActivationGrid::Float, output_error: None, notes: Vec::new() }
}

#[test]
fn every_kind_comes_back() {
    for weights in kinds() {
        assert_eq!(decode_weights(&encode_weights(&weights), SHAPE).unwrap(), weights);
    }
    let layers = [
        Compressed { activations: ActivationGrid::Int8PerToken, output_error: Some(0.25), ..layer(fp8(Fp8Scale::Row)) },
        Compressed {
            activations: ActivationGrid::Int8Static { scale: 0.5 },
            notes: vec!["damping 0.1 — raised".to_owned(), String::new()],
            ..layer(fp8(Fp8Scale::Tensor))
        },
    ];
    let bytes = encode(&[&layers[0], &layers[1]]);
    assert_eq!(decode(&bytes, &[SHAPE, SHAPE]).unwrap(), layers);
    assert!(decode(&bytes, &[SHAPE]).is_err());
    assert!(decode(&bytes, &[SHAPE, [ROWS + 1, ROW_LEN]]).is_err());
}

#[test]
fn packed_codes_take_the_bytes_that_they_are_counted_with() {
    for weights in kinds() {
        // Where the rows of a sparse matrix begin is found again from its bits.
        let found_again = if matches!(weights, PackedWeights::Sparse(_)) { 4 * ROWS as u64 } else { 0 };
        let extra = encode_weights(&weights).len() as u64 + found_again - weights.packed_bytes();
        // Symmetric and 4-bit zero points are a byte each; the rest is counts and tags.
        assert!(extra < 110, "{extra} bytes more than {weights:?}");
    }
}

#[test]
fn shared_factors_are_stored_once_and_shared_again() {
    let down = Arc::new(PackedWeights::F32(values(2 * ROW_LEN)));
    let layers: Vec<Compressed> = (0..3).map(|_| layer(PackedWeights::LowRank(factors(&down)))).collect();
    let bytes = encode(&layers.iter().collect::<Vec<_>>());
    assert!(bytes.len() < 2 * ROW_LEN * 4 + 3 * (ROWS * 2 * 2 + 100), "{}", bytes.len());
    let read = decode(&bytes, &[SHAPE; 3]).unwrap();
    assert_eq!(read, layers);
    let downs: Vec<_> = read
        .iter()
        .map(|layer| match &layer.weights {
            PackedWeights::LowRank(factors) => Arc::as_ptr(&factors.down),
            _ => panic!("low rank in, low rank out"),
        })
        .collect();
    assert!(downs.windows(2).all(|pair| pair[0] == pair[1]));
}

/// Every cut and every changed byte gives an error or a list that can be dequantized; nothing panics.
#[test]
fn damaged_bytes_are_refused_or_harmless() {
    for weights in kinds() {
        let n_values = weights.dequantize().len();
        let whole = encode(&[&layer(weights)]);
        for len in (0..whole.len()).step_by(97).chain(whole.len() - 40..whole.len()) {
            assert!(decode(&whole[..len], &[SHAPE]).is_err(), "{len} of {}", whole.len());
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert!(decode(&longer, &[SHAPE]).is_err());
        let mut changed = whole.clone();
        for at in (0..64.min(whole.len())).chain((64..whole.len()).step_by(211)) {
            for bit in [1, 0x80, 0xff] {
                changed[at] ^= bit;
                if let Ok(read) = decode(&changed, &[SHAPE]) {
                    assert_eq!(read[0].weights.dequantize().len(), n_values);
                }
                changed[at] = whole[at];
            }
        }
    }
}

#[test]
fn lengths_that_lie_allocate_nothing() {
    let mut bytes = encode(&[&layer(PackedWeights::F32(values(ROWS * ROW_LEN)))]);
    bytes[9..17].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(decode(&bytes, &[SHAPE]).is_err());
    for shape in [[usize::MAX, 2], [usize::MAX, 1], [0, 4], [1 << 40, 1 << 10]] {
        for tag in 0..9 {
            let mut bytes = vec![tag, 0, 0, 0, 0, 0];
            bytes.extend_from_slice(&[0xff; 64]);
            assert!(decode_weights(&bytes, shape).is_err(), "{shape:?}");
        }
    }
}

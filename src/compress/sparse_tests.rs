use super::*;
use crate::compress::{PackedWeights, round_to_nearest};

/// Weights of which about two in three are zero.
fn weights(n: usize) -> Vec<f32> {
    let value = |index: usize| ((index * 7919 + 13) % 251) as f32 / 256.0 - 0.5;
    (0..n).map(|index| if index % 3 == 1 || index % 7 == 2 { value(index) } else { 0.0 }).collect()
}

fn halves(n: usize) -> Vec<f16> {
    weights(n).into_iter().map(f16::from_f32).collect()
}

fn check(matrix: &SparseMatrix, dense: &[f32]) {
    assert_eq!(matrix.dequantize(), dense);
    assert_eq!(matrix.n_values(), dense.iter().filter(|weight| **weight != 0.0).count());
    let [rows, row_len] = matrix.shape();
    let starts: Vec<u32> =
        (0..rows).map(|row| dense[..row * row_len].iter().filter(|weight| **weight != 0.0).count() as u32).collect();
    assert_eq!(matrix.row_starts(), starts);
    let read = SparseMatrix::from_parts(matrix.shape(), matrix.values().clone(), matrix.bitmask().to_vec()).unwrap();
    assert_eq!(read, *matrix);
}

#[test]
fn zeros_are_left_out_and_come_back() {
    for shape @ [rows, row_len] in [[1, 1], [3, 7], [4, 8], [5, 9], [2, 64], [3, 100]] {
        let n = rows * row_len;
        let half = SparseMatrix::of_halves(&halves(n), shape).unwrap();
        check(&half, &halves(n).iter().map(|weight| weight.to_f32()).collect::<Vec<f32>>());
        assert_eq!(half.halves().unwrap(), halves(n));
        assert_eq!(half.packed_bytes(), (half.n_values() * 2 + rows * (row_len.div_ceil(8) + 4)) as u64);
        let int = round_to_nearest(&weights(n), row_len, INT8).unwrap();
        let sparse = SparseMatrix::of_int(&int).unwrap();
        check(&sparse, &PackedWeights::Int(int.clone()).dequantize());
        assert_eq!(sparse.to_int().unwrap(), int);
        assert_eq!(sparse.packed_bytes(), (sparse.n_values() + rows * (row_len.div_ceil(8) + 6)) as u64);
        assert!(sparse.halves().is_none() && half.codes().is_none() && half.to_int().is_none());
    }
}

#[test]
fn bits_are_the_lowest_first() {
    let dense: Vec<f16> = [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 3.0, 0.0, 0.0, 0.0].map(f16::from_f32).to_vec();
    let matrix = SparseMatrix::of_halves(&dense, [1, 12]).unwrap();
    assert_eq!(matrix.bitmask(), [0b1000_0010, 0b1]);
    assert_eq!(*matrix.values(), StoredValues::F16([1.0, 2.0, 3.0].map(f16::from_f32).to_vec()));
}

#[test]
fn rows_change_places_with_their_values_and_scales() {
    let order = [2, 0, 1];
    let moved = |dense: &[f32]| order.iter().flat_map(|row| dense[row * 9..][..9].to_vec()).collect::<Vec<f32>>();
    let half = SparseMatrix::of_halves(&halves(27), [3, 9]).unwrap();
    check(&half.with_rows(&order), &moved(&half.dequantize()));
    let int = SparseMatrix::of_int(&round_to_nearest(&weights(27), 9, INT8).unwrap()).unwrap();
    check(&int.with_rows(&order), &moved(&int.dequantize()));
}

#[test]
fn a_matrix_of_zeros_has_no_values() {
    let matrix = SparseMatrix::of_halves(&[f16::ZERO, f16::NEG_ZERO], [2, 1]).unwrap();
    assert_eq!((matrix.n_values(), matrix.row_starts(), matrix.dequantize()), (0, vec![0, 0], vec![0.0; 2]));
}

#[test]
fn other_grids_and_parts_that_lie_are_refused() {
    for format in [
        IntFormat { bits: 4, ..INT8 },
        IntFormat { symmetric: false, ..INT8 },
        IntFormat { group: Group::Size(32), ..INT8 },
    ] {
        let matrix = round_to_nearest(&weights(64), 64, format).unwrap();
        assert!(SparseMatrix::of_int(&matrix).unwrap_err().to_string().contains("symmetric int"), "{format:?}");
    }
    assert!(SparseMatrix::of_halves(&halves(6), [2, 4]).is_err());
    let refused = |values: StoredValues, bitmask: &[u8], part: &str| {
        let error = SparseMatrix::from_parts([2, 4], values, bitmask.to_vec()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    let one = f16::ONE;
    refused(StoredValues::F16(vec![one; 3]), &[0b11, 0b11], "another number");
    refused(StoredValues::F16(vec![one; 3]), &[0b11, 0b1_0000], "beyond its rows");
    refused(StoredValues::F16(vec![one; 3]), &[0b11], "another shape");
    refused(StoredValues::F16(vec![one, f16::INFINITY]), &[1, 1], "not finite");
    let int = |scales: Vec<f16>| StoredValues::Int8 { codes: vec![1, -128], scales };
    refused(int(vec![one]), &[1, 1], "scale");
    refused(int(vec![one, f16::NAN]), &[1, 1], "scale");
    refused(int(vec![one, f16::ZERO]), &[1, 1], "scale");
}

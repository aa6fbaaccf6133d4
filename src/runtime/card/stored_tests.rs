//! The check of every weight.

use half::{bf16, f16};

use super::*;

#[test]
fn the_first_weight_that_is_not_finite_is_found() {
    let n = 3 * CHECKED + 5;
    let largest = [f32::MAX, f32::MIN, f32::MIN_POSITIVE / 2.0, -0.0];
    let finite = |i: usize| largest[i % 4];
    for place in [0, 1, CHECKED - 1, CHECKED, 2 * CHECKED + 7, n - 1] {
        for broken in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            // A second one behind it is not told.
            let value = |i: usize| if i == place || i == place + 2 { broken } else { finite(i) };
            let bytes: Vec<u8> = (0..n).flat_map(|i| value(i).to_le_bytes()).collect();
            assert_eq!(first_broken(StoredFormat::F32, &bytes), Some(place));
            let half = |i: usize| if i == place { f16::from_f32(broken) } else { f16::from_f32(finite(i).signum()) };
            let bytes: Vec<u8> = (0..n).flat_map(|i| half(i).to_le_bytes()).collect();
            assert_eq!(first_broken(StoredFormat::F16, &bytes), Some(place));
            let brain = |i: usize| if i == place { bf16::from_f32(broken) } else { bf16::MAX };
            let bytes: Vec<u8> = (0..n).flat_map(|i| brain(i).to_le_bytes()).collect();
            assert_eq!(first_broken(StoredFormat::Bf16, &bytes), Some(place));
        }
    }
    let bytes: Vec<u8> = (0..n).flat_map(|i| finite(i).to_le_bytes()).collect();
    assert_eq!(first_broken(StoredFormat::F32, &bytes), None);
    let bytes: Vec<u8> = (0..n).flat_map(|_| f16::MAX.to_le_bytes()).collect();
    assert_eq!(first_broken(StoredFormat::F16, &bytes), None);
}

//! Moments as bytes, to keep them between runs.

use crate::compress::moments::n_lower;
use crate::compress::{MomentParts, Moments};

impl Moments {
    /// These finished moments as bytes: sizes, then the lower half of `XᵀX`, sums, largest magnitudes and the sample.
    pub fn to_bytes(&self) -> Vec<u8> {
        let width = self.n_inputs;
        let mut bytes = Vec::with_capacity(24 + width * (width + 1) * 4 + width * 12 + self.sample.len() * 4);
        for size in [width as u64, self.n_tokens, self.sample.len() as u64] {
            bytes.extend_from_slice(&size.to_le_bytes());
        }
        let lower = (0..width).flat_map(|row| &self.gram[row * width..=row * width + row]);
        lower.chain(&self.sum_abs).for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
        self.max_abs.iter().chain(&self.sample).for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
        bytes
    }

    /// Moments of `n_inputs` features from [`Self::to_bytes`]; `None` when the bytes are not those.
    pub fn from_bytes(bytes: &[u8], n_inputs: usize) -> Option<Self> {
        let (sizes, rest) = bytes.split_at_checked(24)?;
        let size = |at: usize| u64::from_le_bytes(sizes.as_chunks::<8>().0[at]);
        let n_sample = usize::try_from(size(2)).ok()?;
        if size(0) != n_inputs as u64 {
            return None;
        }
        let n_lower = n_lower(n_inputs)?;
        let (wide, narrow) = rest.split_at_checked(n_lower.checked_add(n_inputs)?.checked_mul(8)?)?;
        let (mut lower, mut max_abs) = (doubles(wide), singles(narrow));
        if max_abs.len().checked_sub(n_inputs)? != n_sample || lower.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let (sum_abs, sample) = (lower.split_off(n_lower), max_abs.split_off(n_inputs));
        Self::from_parts(n_inputs, MomentParts { n_tokens: size(1), lower, sum_abs, max_abs, sample })
    }
}

fn doubles(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks::<8>().0.iter().map(|chunk| f64::from_le_bytes(*chunk)).collect()
}

fn singles(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::SAMPLE_TOKENS;

    #[test]
    fn moments_come_back_bit_for_bit_or_not_at_all() {
        let x: Vec<f32> = (0..7 * 5).map(|i| ((i * 37 % 101) as f32 - 50.0) / 16.0).collect();
        let mut moments = Moments::new(5);
        moments.observe(&x, 3);
        let moments = moments.finish();
        let bytes = moments.to_bytes();
        assert_eq!(Moments::from_bytes(&bytes, 5), Some(moments));
        assert_eq!(Moments::from_bytes(&bytes, 4), None);
        assert_eq!(Moments::from_bytes(&bytes[..bytes.len() - 4], 5), None);
        assert_eq!(Moments::from_bytes(&bytes[..20], 5), None);
        let parts = |n_lower, n_sample| {
            let (lower, sum_abs, max_abs) = (vec![1.0; n_lower], vec![1.0; 2], vec![1.0; 2]);
            MomentParts { n_tokens: 1, lower, sum_abs, max_abs, sample: vec![1.0; n_sample] }
        };
        assert_eq!(Moments::from_parts(2, parts(3, 4)).unwrap().gram(), [1.0; 4]);
        let refused = [parts(4, 4), parts(3, 3), parts(3, 2 * SAMPLE_TOKENS + 2)];
        assert!(refused.into_iter().all(|parts| Moments::from_parts(2, parts).is_none()));
        let mut broken = bytes;
        broken[24..32].copy_from_slice(&f64::NAN.to_le_bytes());
        assert_eq!(Moments::from_bytes(&broken, 5), None);
    }
}

//! Moments as bytes, to keep them between runs.

use crate::compress::{Moments, SAMPLE_TOKENS};

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
        let width = n_inputs;
        let n_lower = width.checked_mul(width + 1)? / 2;
        if size(0) != width as u64 || n_sample > SAMPLE_TOKENS * width {
            return None;
        }
        let (wide, narrow) = rest.split_at_checked(n_lower.checked_add(width)?.checked_mul(8)?)?;
        let (mut wide, narrow) = (doubles(wide), singles(narrow));
        if narrow.len() != width + n_sample || wide.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let sum_abs = wide.split_off(n_lower);
        let mut gram = vec![0.0; width * width];
        let mut lower = wide.into_iter();
        for row in 0..width {
            for column in 0..=row {
                let value = lower.next()?;
                gram[row * width + column] = value;
                gram[column * width + row] = value;
            }
        }
        let (max_abs, sample) = narrow.split_at(width);
        let (max_abs, sample) = (max_abs.to_vec(), sample.to_vec());
        Some(Self { n_inputs, n_tokens: size(1), gram, sum_abs, max_abs, sample })
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
        let mut broken = bytes;
        broken[24..32].copy_from_slice(&f64::NAN.to_le_bytes());
        assert_eq!(Moments::from_bytes(&broken, 5), None);
    }
}

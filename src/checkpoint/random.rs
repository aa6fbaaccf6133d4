//! Weights that nobody trained: bytes of tensors that are made as they are read, the same ones every time.

use half::{bf16, f16};

use crate::model::StoredFormat;

/// Elements that share one draw of 64 bits.
const DRAWN: usize = 4;

/// The same weights on every machine.
const SEED: u64 = 2_026;

/// Tensors one behind the other, in the place of a file. Products take the same time as with trained weights of the shape.
#[derive(Debug, Default)]
pub(super) struct RandomWeights {
    tensors: Vec<RandomTensor>,
    len: u64,
}

#[derive(Debug, Clone, Copy)]
struct RandomTensor {
    /// Its first byte and the one behind it.
    extent: [u64; 2],
    format: StoredFormat,
    values: Values,
    seed: u64,
}

/// What a tensor is filled with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Values {
    /// Ones: the weight of a norm.
    Ones,
    /// Uniform numbers with this standard deviation around zero.
    Uniform(f32),
}

impl RandomWeights {
    /// Adds a tensor of `n` elements of a dense format; returns its first byte and its length.
    pub(super) fn push(&mut self, format: StoredFormat, n: u64, values: Values) -> (u64, u64) {
        let (offset, len) = (self.len, n * format.block_bytes() as u64);
        self.len += len;
        let seed = (SEED << 32) + self.tensors.len() as u64;
        self.tensors.push(RandomTensor { extent: [offset, self.len], format, values, seed });
        (offset, len)
    }

    /// Bytes of all tensors.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Writes the bytes from `offset` on, all of which must lie within [`Self::len`].
    pub(super) fn fill(&self, mut offset: u64, mut bytes: &mut [u8]) {
        let mut index = self.tensors.partition_point(|tensor| tensor.extent[1] <= offset);
        while !bytes.is_empty() {
            let tensor = &self.tensors[index];
            let n = usize::try_from(tensor.extent[1] - offset).map_or(bytes.len(), |rest| rest.min(bytes.len()));
            let (own, rest) = bytes.split_at_mut(n);
            tensor.fill(offset - tensor.extent[0], own);
            (bytes, offset, index) = (rest, offset + n as u64, index + 1);
        }
    }
}

impl RandomTensor {
    /// Writes its bytes from byte `begin` on.
    fn fill(&self, begin: u64, bytes: &mut [u8]) {
        match self.format {
            StoredFormat::F16 => self.fill_as(begin, bytes, |value| f16::from_f32(value).to_le_bytes()),
            StoredFormat::Bf16 => self.fill_as(begin, bytes, |value| bf16::from_f32(value).to_le_bytes()),
            StoredFormat::F32 | StoredFormat::Ggml(_) => self.fill_as(begin, bytes, f32::to_le_bytes),
        }
    }

    fn fill_as<const WIDTH: usize>(&self, begin: u64, mut bytes: &mut [u8], store: impl Fn(f32) -> [u8; WIDTH]) {
        let piece = (DRAWN * WIDTH) as u64;
        let mut draw = begin / piece;
        let before = (begin % piece) as usize;
        if before > 0 {
            let whole = self.draw(draw, &store);
            let n = bytes.len().min(DRAWN * WIDTH - before);
            let (head, rest) = bytes.split_at_mut(n);
            head.copy_from_slice(&whole.as_flattened()[before..before + n]);
            (bytes, draw) = (rest, draw + 1);
        }
        for piece in bytes.chunks_mut(DRAWN * WIDTH) {
            let whole = self.draw(draw, &store);
            piece.copy_from_slice(&whole.as_flattened()[..piece.len()]);
            draw += 1;
        }
    }

    /// The elements that share the draw so numbered.
    fn draw<const WIDTH: usize>(&self, number: u64, store: impl Fn(f32) -> [u8; WIDTH]) -> [[u8; WIDTH]; DRAWN] {
        let Values::Uniform(deviation) = self.values else { return [store(1.0); DRAWN] };
        let bits = splitmix64(self.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        // A uniform number in [-1, 1) has the variance 1/3.
        let scale = deviation * 3.0_f32.sqrt() / 32_768.0;
        std::array::from_fn(|part| store(scale * f32::from((bits >> (16 * part)) as i16)))
    }
}

/// The generator splitmix64: Steele, Lea and Flood, OOPSLA 2014.
fn splitmix64(state: u64) -> u64 {
    let mut mixed = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::widen;

    #[test]
    fn any_part_of_a_file_has_the_bytes_of_the_whole() {
        let mut weights = RandomWeights::default();
        let mut places = Vec::new();
        for format in [StoredFormat::Bf16, StoredFormat::F32, StoredFormat::F16] {
            places.push(weights.push(format, 37, Values::Uniform(0.5)));
            places.push(weights.push(format, 3, Values::Ones));
        }
        let mut whole = vec![0; weights.len() as usize];
        weights.fill(0, &mut whole);
        for begin in 0..whole.len() {
            for len in [0, 1, 2, 3, 7, 16, whole.len() - begin] {
                let end = (begin + len).min(whole.len());
                let mut part = vec![0; end - begin];
                weights.fill(begin as u64, &mut part);
                assert_eq!(part, whole[begin..end], "{begin} to {end}");
            }
        }
        assert_eq!(places.last(), Some(&(weights.len() - 6, 6)));
        assert_eq!(widen(StoredFormat::F16, &whole[whole.len() - 6..]), Some(vec![1.0; 3]));
    }

    #[test]
    fn values_have_their_mean_and_deviation_and_tensors_differ() {
        let mut weights = RandomWeights::default();
        let n = 100_000;
        let (first, second) = (weights.push(StoredFormat::F32, n, Values::Uniform(0.02)), n * 4);
        weights.push(StoredFormat::F32, n, Values::Uniform(0.02));
        let mut bytes = vec![0; first.1 as usize];
        weights.fill(0, &mut bytes);
        let values = widen(StoredFormat::F32, &bytes).unwrap();
        let mean = values.iter().sum::<f32>() / n as f32;
        let deviation = (values.iter().map(|value| value * value).sum::<f32>() / n as f32).sqrt();
        assert!(mean.abs() < 3e-4 && (deviation - 0.02).abs() < 2e-4, "{mean} {deviation}");
        let mut other = vec![0; bytes.len()];
        weights.fill(second, &mut other);
        assert_ne!(bytes, other);
    }
}

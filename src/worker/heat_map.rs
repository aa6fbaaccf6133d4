//! The magnitudes of a matrix as bytes, at every zoom: a picture that travels as a file.
//!
//! A byte is 0 for exactly zero, else 1 to 255 for [`DECADES`] decades of magnitude up to the largest one; smaller ones
//! are 1. Level 0 has the matrix, pooled so far that no side is longer than [`MAX_SIDE`]; each further level pools 2 × 2.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write as _};
use std::path::Path;

/// Decades of magnitude that the bytes tell apart.
pub const DECADES: f64 = 4.0;
/// The longest side of level 0.
pub const MAX_SIDE: usize = 4096;

const MAGIC: [u8; 8] = *b"TRIMMAP1";

/// How the weights under one byte become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooling {
    /// The largest magnitude: no outlier is lost.
    #[default]
    Max,
    /// The mean magnitude.
    Mean,
}

/// One zoom of a heat map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// Rows and columns of bytes.
    pub shape: [usize; 2],
    /// Row by row, pooled by the largest magnitude.
    pub max: Vec<u8>,
    /// Row by row, pooled by the mean magnitude.
    pub mean: Vec<u8>,
}

impl Level {
    /// The bytes of a way of pooling.
    pub fn bytes(&self, pooling: Pooling) -> &[u8] {
        match pooling {
            Pooling::Max => &self.max,
            Pooling::Mean => &self.mean,
        }
    }
}

/// The magnitudes of a matrix at every zoom.
#[derive(Debug, Clone, PartialEq)]
pub struct HeatMap {
    /// (`out_features`, `in_features`) of the matrix.
    pub shape: [usize; 2],
    /// Weights along a side under one byte of level 0: a power of two.
    pub factor: usize,
    /// The largest magnitude.
    pub largest: f64,
    /// From the finest to one byte.
    pub levels: Vec<Level>,
}

/// Sums over squares of weights.
struct Sums {
    shape: [usize; 2],
    max: Vec<f32>,
    sum: Vec<f64>,
}

impl HeatMap {
    /// The map of `weights` with `shape` (rows, columns), row-major and finite; no side is 0.
    pub fn of(weights: &[f32], shape: [usize; 2]) -> Self {
        let largest = weights.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
        let factor = first_factor(shape);
        let code = Code::new(largest);
        let mut levels = Vec::new();
        let mut sums = pooled(weights, shape, factor);
        if factor == 1 {
            let max: Vec<u8> = weights.iter().map(|weight| code.of(weight.abs())).collect();
            levels.push(Level { shape, mean: max.clone(), max });
            sums = pooled(weights, shape, 2);
        }
        let mut width = if factor == 1 { 2 } else { factor };
        while levels.last().is_none_or(|level| level.shape != [1, 1]) {
            levels.push(level(&sums, shape, width, &code));
            sums = halved(&sums);
            width *= 2;
        }
        Self { shape, factor, largest: f64::from(largest), levels }
    }

    /// The magnitude that a byte stands for; 0 for 0.
    pub fn magnitude(&self, byte: u8) -> f64 {
        if byte == 0 {
            return 0.0;
        }
        self.largest * 10_f64.powf((f64::from(byte) - 255.0) / 254.0 * DECADES)
    }

    /// Bytes in memory.
    pub fn held_bytes(&self) -> usize {
        self.levels.iter().map(|level| level.max.len() + level.mean.len()).sum()
    }

    /// Writes the map to `path`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut out = BufWriter::new(File::create(path)?);
        out.write_all(&MAGIC)?;
        for side in self.shape {
            out.write_all(&(side as u64).to_le_bytes())?;
        }
        out.write_all(&self.largest.to_le_bytes())?;
        for (number, level) in self.levels.iter().enumerate() {
            out.write_all(&level.max)?;
            // Under a byte of one weight both are the same.
            if number > 0 || self.factor > 1 {
                out.write_all(&level.mean)?;
            }
        }
        out.flush()
    }

    /// Reads a map of a matrix with `shape` from `path`.
    ///
    /// # Errors
    /// When the file cannot be read, or is not the map of such a matrix.
    pub fn read(path: &Path, shape: [usize; 2]) -> io::Result<Self> {
        let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("read the heat map: {what}"));
        let mut file = File::open(path)?;
        let mut head = [0_u8; 32];
        file.read_exact(&mut head)?;
        let word = |at: usize| head[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        if head[..8] != MAGIC || [word(8), word(16)] != shape.map(|side| side as u64) || shape.contains(&0) {
            return Err(damaged("it is of another matrix"));
        }
        let largest = f64::from_bits(word(24));
        if !largest.is_finite() || largest < 0.0 {
            return Err(damaged("its largest magnitude is not a number"));
        }
        let factor = first_factor(shape);
        let (mut levels, mut width) = (Vec::new(), factor);
        loop {
            let level_shape = shape.map(|side| side.div_ceil(width));
            let mut plane = || -> io::Result<Vec<u8>> {
                // At most MAX_SIDE squared.
                let mut bytes = vec![0; level_shape[0] * level_shape[1]];
                file.read_exact(&mut bytes)?;
                Ok(bytes)
            };
            let max = plane()?;
            let mean = if width == 1 { max.clone() } else { plane()? };
            levels.push(Level { shape: level_shape, max, mean });
            if level_shape == [1, 1] {
                break;
            }
            width *= 2;
        }
        Ok(Self { shape, factor, largest, levels })
    }
}

fn first_factor(shape: [usize; 2]) -> usize {
    let longest = shape[0].max(shape[1]);
    longest.div_ceil(MAX_SIDE).next_power_of_two()
}

/// Magnitudes as bytes.
struct Code {
    largest: f64,
}

impl Code {
    fn new(largest: f32) -> Self {
        Self { largest: f64::from(largest) }
    }

    fn of(&self, magnitude: f32) -> u8 {
        self.of_wide(f64::from(magnitude))
    }

    fn of_wide(&self, magnitude: f64) -> u8 {
        if magnitude == 0.0 {
            return 0;
        }
        let below = (magnitude / self.largest).log10() / DECADES;
        (255.0 + 254.0 * below).round().clamp(1.0, 255.0) as u8
    }
}

/// Sums over squares of `width` × `width` weights.
fn pooled(weights: &[f32], shape: [usize; 2], width: usize) -> Sums {
    let [rows, row_len] = shape;
    let pooled = [rows.div_ceil(width), row_len.div_ceil(width)];
    let mut sums = Sums { shape: pooled, max: vec![0.0; pooled[0] * pooled[1]], sum: vec![0.0; pooled[0] * pooled[1]] };
    for (row, values) in weights.chunks(row_len).enumerate() {
        let at = row / width * pooled[1];
        for (column, run) in values.chunks(width).enumerate() {
            for value in run {
                let magnitude = value.abs();
                sums.max[at + column] = sums.max[at + column].max(magnitude);
                sums.sum[at + column] += f64::from(magnitude);
            }
        }
    }
    sums
}

fn halved(sums: &Sums) -> Sums {
    let [rows, columns] = sums.shape;
    let half = [rows.div_ceil(2), columns.div_ceil(2)];
    let mut halved = Sums { shape: half, max: vec![0.0; half[0] * half[1]], sum: vec![0.0; half[0] * half[1]] };
    for row in 0..rows {
        for column in 0..columns {
            let (from, to) = (row * columns + column, row / 2 * half[1] + column / 2);
            halved.max[to] = halved.max[to].max(sums.max[from]);
            halved.sum[to] += sums.sum[from];
        }
    }
    halved
}

/// The bytes of sums over squares of `width`; those at the edges hold fewer weights.
fn level(sums: &Sums, shape: [usize; 2], width: usize, code: &Code) -> Level {
    let [rows, columns] = sums.shape;
    let held = |at: usize, side: usize| ((at + 1) * width).min(side) - at * width;
    let mut mean = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        for column in 0..columns {
            let n = held(row, shape[0]) * held(column, shape[1]);
            mean.push(code.of_wide(sums.sum[row * columns + column] / n as f64));
        }
    }
    Level { shape: sums.shape, max: sums.max.iter().map(|max| code.of(*max)).collect(), mean }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect()
    }

    #[test]
    fn every_level_pools_exactly_the_weights_under_it() {
        for shape in [[1, 1], [5, 7], [8, 8], [3, 17]] {
            let dense = weights(shape[0] * shape[1]);
            let map = HeatMap::of(&dense, shape);
            assert_eq!(map.levels.last().unwrap().shape, [1, 1]);
            let code = Code { largest: map.largest };
            for (number, level) in map.levels.iter().enumerate() {
                let width = 1 << number;
                for row in 0..level.shape[0] {
                    for column in 0..level.shape[1] {
                        let under: Vec<f64> = (row * width..((row + 1) * width).min(shape[0]))
                            .flat_map(|r| (column * width..((column + 1) * width).min(shape[1])).map(move |c| (r, c)))
                            .map(|(r, c)| f64::from(dense[r * shape[1] + c].abs()))
                            .collect();
                        let at = row * level.shape[1] + column;
                        let max = under.iter().copied().fold(0.0, f64::max);
                        let mean = under.iter().sum::<f64>() / under.len() as f64;
                        assert_eq!(level.max[at], code.of_wide(max), "{shape:?} level {number}");
                        assert_eq!(level.mean[at], code.of_wide(mean), "{shape:?} level {number}");
                    }
                }
            }
        }
    }

    #[test]
    fn long_sides_begin_pooled_and_keep_their_outlier() {
        let shape = [2, MAX_SIDE + 2];
        let mut dense = vec![0.01; shape[0] * shape[1]];
        dense[MAX_SIDE + 1] = -3.0;
        let map = HeatMap::of(&dense, shape);
        assert_eq!((map.factor, map.levels[0].shape), (2, [1, MAX_SIDE / 2 + 1]));
        assert_eq!(map.levels[0].max.last(), Some(&255));
        assert!(map.levels.iter().all(|level| level.max.iter().max() == Some(&255)));
        assert!((map.magnitude(map.levels[0].max[0]) / 0.01 - 1.0).abs() < 0.02);
    }

    #[test]
    fn zero_is_told_from_small() {
        let map = HeatMap::of(&[0.0, 1e-30, -1.0, 0.1], [2, 2]);
        assert_eq!(map.levels[0].max, [0, 1, 255, 192]);
        assert_eq!((map.magnitude(0), map.magnitude(255)), (0.0, 1.0));
        let zeros = HeatMap::of(&[0.0; 6], [2, 3]);
        assert!(zeros.levels.iter().all(|level| level.max.iter().chain(&level.mean).all(|byte| *byte == 0)));
    }

    #[test]
    fn a_file_comes_back_or_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.map");
        for shape in [[5, 7], [1, MAX_SIDE + 5]] {
            let map = HeatMap::of(&weights(shape[0] * shape[1]), shape);
            map.write(&path).unwrap();
            assert_eq!(HeatMap::read(&path, shape).unwrap(), map);
        }
        assert!(HeatMap::read(&path, [5, 7]).is_err(), "of another matrix");
        let whole = std::fs::read(&path).unwrap();
        for len in [0, 31, 40, whole.len() - 1] {
            std::fs::write(&path, &whole[..len]).unwrap();
            assert!(HeatMap::read(&path, [1, MAX_SIDE + 5]).is_err(), "{len} bytes");
        }
    }
}

//! Rotary position embedding.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use candle_core::{Device, Tensor};

use crate::kernels::{RotaryOrder, rotate};
use crate::model::{LlamaConfig, RopeOrder, RopeScaling};
use crate::nn::NnError;

/// The frequencies of every pair, and the angles of the positions seen so far: a table over the whole context would
/// cost memory by what a file declares, not by what is used.
///
/// Paper: Su et al., 2021, arXiv:2104.09864.
#[derive(Debug)]
pub struct Rotary {
    /// Radians a token, one per pair.
    frequencies: Vec<f64>,
    order: RopeOrder,
    max_context: usize,
    table: RwLock<Table>,
}

/// Cosines and sines (positions, `head_dim` / 2) from position 0.
#[derive(Debug, Default)]
struct Table {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// Cosines and sines (seq, `head_dim` / 2) of consecutive positions.
#[derive(Debug)]
pub(super) struct Angles<'a> {
    table: RwLockReadGuard<'a, Table>,
    rotary: &'a Rotary,
    position: usize,
    seq: usize,
}

impl Rotary {
    /// The frequencies of a configuration. `factors`, one a pair, divide them: a GGUF file's `rope_freqs`.
    pub fn new(config: &LlamaConfig, factors: Option<&[f32]>) -> Self {
        let frequencies = frequencies(config, factors);
        Self { frequencies, order: config.rope_order, max_context: config.max_context, table: RwLock::default() }
    }

    /// The angles of `seq` tokens of which the first is at `position`, computed in f64.
    ///
    /// # Errors
    /// [`NnError::Context`] when the positions exceed the context.
    pub(super) fn angles(&self, position: usize, seq: usize) -> Result<Angles<'_>, NnError> {
        let end = position + seq;
        if end > self.max_context {
            return Err(NnError::Context { needed: end, context: self.max_context });
        }
        let mut table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        if table.cos.len() < end * self.frequencies.len() {
            drop(table);
            // Some positions ahead, so that a text token by token seldom comes here.
            self.extend(end.next_multiple_of(AHEAD));
            table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        }
        Ok(Angles { table, rotary: self, position, seq })
    }

    /// Cosines and sines (`n_tokens`, `head_dim` / 2) of the first positions.
    ///
    /// # Errors
    /// [`NnError::Context`] when the positions exceed the context.
    #[cfg(feature = "cuda")]
    pub fn table(&self, n_tokens: usize) -> Result<(Vec<f32>, Vec<f32>), NnError> {
        let angles = self.angles(0, n_tokens)?;
        Ok((angles.cos().to_vec(), angles.sin().to_vec()))
    }

    /// Makes the table reach to position `end`.
    fn extend(&self, end: usize) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let known = table.cos.len() / self.frequencies.len().max(1);
        for position in known..end {
            for frequency in &self.frequencies {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                table.cos.push(cos as f32);
                table.sin.push(sin as f32);
            }
        }
    }
}

/// Positions by which the table grows.
const AHEAD: usize = 256;

impl Angles<'_> {
    fn pairs(&self) -> usize {
        self.rotary.frequencies.len()
    }

    fn cos(&self) -> &[f32] {
        &self.table.cos[self.position * self.pairs()..][..self.seq * self.pairs()]
    }

    fn sin(&self) -> &[f32] {
        &self.table.sin[self.position * self.pairs()..][..self.seq * self.pairs()]
    }

    /// Rotates the heads of x (seq, heads · `head_dim`) in place.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub(super) fn rotate(&self, x: &mut [f32]) -> Result<(), NnError> {
        let head_dim = 2 * self.pairs();
        if head_dim == 0 || !x.len().is_multiple_of(self.seq.max(1) * head_dim) {
            return Err(NnError::Shape(format!("angles of {} × {} for {} values", self.seq, self.pairs(), x.len())));
        }
        let order = match self.rotary.order {
            RopeOrder::Halves => RotaryOrder::Halves,
            RopeOrder::Interleaved => RotaryOrder::Interleaved,
        };
        rotate(x, self.cos(), self.sin(), head_dim, order);
        Ok(())
    }

    /// The same by operations that carry gradients: x (heads, seq, `head_dim`).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub(super) fn rotate_plainly(&self, x: &Tensor) -> Result<Tensor, NnError> {
        let table = |values: &[f32]| Tensor::from_slice(values, (self.seq, self.pairs()), &Device::Cpu);
        let (cos, sin) = (table(self.cos())?, table(self.sin())?);
        let x = x.unsqueeze(0)?;
        let rotated = match self.rotary.order {
            RopeOrder::Halves => candle_nn::rotary_emb::rope_slow(&x, &cos, &sin)?,
            RopeOrder::Interleaved => candle_nn::rotary_emb::rope_i_slow(&x, &cos, &sin)?,
        };
        Ok(rotated.squeeze(0)?)
    }
}

/// Radians a token, one per pair.
fn frequencies(config: &LlamaConfig, factors: Option<&[f32]>) -> Vec<f64> {
    (0..config.head_dim / 2)
        .map(|pair| {
            let frequency = config.rope_theta.powf(-2.0 * pair as f64 / config.head_dim as f64);
            match (factors.and_then(|factors| factors.get(pair)), config.rope_scaling) {
                (Some(factor), _) => frequency / f64::from(*factor),
                (None, Some(scaling)) => scale(frequency, scaling),
                (None, None) => frequency,
            }
        })
        .collect()
}

/// Source: the `llama3` and `linear` rules of Hugging Face's `modeling_rope_utils.py`.
fn scale(frequency: f64, scaling: RopeScaling) -> f64 {
    match scaling {
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let context = original_context as f64;
            let wavelength = 2.0 * std::f64::consts::PI / frequency;
            if wavelength < context / high_freq_factor {
                frequency
            } else if wavelength > context / low_freq_factor {
                frequency / factor
            } else {
                let smooth = (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ModelFamily, fixtures::tiny_graph};

    fn config() -> LlamaConfig {
        let ModelFamily::Llama(config) = tiny_graph().family;
        config
    }

    /// Rotates one head by the definition.
    fn oracle(x: &[f32], position: usize, config: &LlamaConfig) -> Vec<f32> {
        let half = config.head_dim / 2;
        let mut y = x.to_vec();
        for pair in 0..half {
            let angle = position as f64 * config.rope_theta.powf(-2.0 * pair as f64 / config.head_dim as f64);
            let (a, b) = match config.rope_order {
                RopeOrder::Halves => (pair, pair + half),
                RopeOrder::Interleaved => (2 * pair, 2 * pair + 1),
            };
            let (sin, cos) = angle.sin_cos();
            y[a] = (f64::from(x[a]) * cos - f64::from(x[b]) * sin) as f32;
            y[b] = (f64::from(x[b]) * cos + f64::from(x[a]) * sin) as f32;
        }
        y
    }

    #[test]
    fn both_orders_follow_the_definition() {
        for order in [RopeOrder::Halves, RopeOrder::Interleaved] {
            let config = LlamaConfig { rope_order: order, ..config() };
            let rotary = Rotary::new(&config, None);
            let angles = rotary.angles(37, 2).unwrap();
            // Two tokens of two heads.
            let x: Vec<f32> = (0..64).map(|i| (i as f32).cos()).collect();
            let tensor = Tensor::from_slice(&x, (2, 32), &Device::Cpu).unwrap();
            let plain = tensor.reshape((2, 2, 16)).unwrap().transpose(0, 1).unwrap();
            let plain = angles.rotate_plainly(&plain).unwrap().transpose(0, 1).unwrap();
            let plain: Vec<f32> = plain.flatten_all().unwrap().to_vec1().unwrap();
            let mut found = x.clone();
            angles.rotate(&mut found).unwrap();
            let heads = x.chunks(16).enumerate();
            let expected = heads.flat_map(|(head, x)| oracle(x, 37 + head / 2, &config));
            for ((found, plain), expected) in found.iter().zip(plain).zip(expected) {
                assert!((found - expected).abs() < 1e-6 && (plain - expected).abs() < 1e-6, "{order:?}");
            }
        }
    }

    #[test]
    fn llama3_scaling_keeps_high_and_divides_low_frequencies() {
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
        assert_eq!(scale(1.0, scaling), 1.0);
        assert_eq!(scale(1e-5, scaling), 1e-5 / 8.0);
        // Hand-computed: wavelength 4096 gives smooth = 1/3.
        let frequency = 2.0 * std::f64::consts::PI / 4096.0;
        assert!((scale(frequency, scaling) / frequency - (2.0 / 3.0 / 8.0 + 1.0 / 3.0)).abs() < 1e-12);
    }

    #[test]
    fn positions_beyond_the_context_are_refused() {
        let rotary = Rotary::new(&config(), None);
        assert!(rotary.angles(62, 2).is_ok());
        let refused = rotary.angles(63, 2);
        assert!(matches!(refused, Err(NnError::Context { needed: 65, context: 64 })));
    }
}

//! Rotary position embedding.

use candle_core::{Device, Tensor};

use crate::model::{LlamaConfig, RopeOrder, RopeScaling};
use crate::nn::NnError;

/// The frequencies of every pair. Angles are computed for the positions of a pass: a table over the whole context would
/// cost memory by what a file declares, not by what is used.
///
/// Paper: Su et al., 2021, arXiv:2104.09864.
#[derive(Debug)]
pub struct Rotary {
    /// Radians a token, one per pair.
    frequencies: Vec<f64>,
    order: RopeOrder,
    max_context: usize,
}

/// Cosines and sines (seq, `head_dim` / 2) of consecutive positions.
#[derive(Debug)]
pub struct Angles {
    cos: Tensor,
    sin: Tensor,
    order: RopeOrder,
}

impl Rotary {
    /// The frequencies of a configuration. `factors`, one a pair, divide them: a GGUF file's `rope_freqs`.
    pub fn new(config: &LlamaConfig, factors: Option<&[f32]>) -> Self {
        let frequencies = frequencies(config, factors);
        Self { frequencies, order: config.rope_order, max_context: config.max_context }
    }

    /// The angles of `seq` tokens of which the first is at `position`, computed in f64.
    ///
    /// # Errors
    /// [`NnError::Context`] when the positions exceed the context.
    pub fn angles(&self, position: usize, seq: usize, device: &Device) -> Result<Angles, NnError> {
        if position + seq > self.max_context {
            return Err(NnError::Context { needed: position + seq, context: self.max_context });
        }
        let positions = position..position + seq;
        let angles = positions.flat_map(|at| self.frequencies.iter().map(move |frequency| at as f64 * frequency));
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip();
        let shape = (seq, self.frequencies.len());
        let (cos, sin) = (Tensor::from_vec(cos, shape, device)?, Tensor::from_vec(sin, shape, device)?);
        Ok(Angles { cos, sin, order: self.order })
    }
}

impl Angles {
    /// Rotates x (`n_heads`, seq, `head_dim`), contiguous.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn rotate(&self, x: &Tensor) -> Result<Tensor, NnError> {
        let (n_heads, seq, head_dim) = x.dims3()?;
        let x = x.reshape((1, n_heads, seq, head_dim))?;
        let rotated = match self.order {
            RopeOrder::Halves => candle_nn::rotary_emb::rope(&x, &self.cos, &self.sin)?,
            RopeOrder::Interleaved => candle_nn::rotary_emb::rope_i(&x, &self.cos, &self.sin)?,
        };
        Ok(rotated.reshape((n_heads, seq, head_dim))?)
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
            let angles = Rotary::new(&config, None).angles(37, 1, &Device::Cpu).unwrap();
            let x: Vec<f32> = (0..16).map(|i| (i as f32).cos()).collect();
            let rotated = angles.rotate(&Tensor::from_slice(&x, (1, 1, 16), &Device::Cpu).unwrap()).unwrap();
            let found: Vec<f32> = rotated.flatten_all().unwrap().to_vec1().unwrap();
            for (found, expected) in found.iter().zip(oracle(&x, 37, &config)) {
                assert!((found - expected).abs() < 1e-6, "{order:?}");
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
        assert!(rotary.angles(62, 2, &Device::Cpu).is_ok());
        let refused = rotary.angles(63, 2, &Device::Cpu);
        assert!(matches!(refused, Err(NnError::Context { needed: 65, context: 64 })));
    }
}

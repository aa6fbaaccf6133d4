//! Rotary position embedding.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;
use rayon::prelude::*;

use crate::model::{LlamaConfig, RopeOrder, RopeScaling};
use crate::nn::{NnError, with_values};

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
    /// Of the last pass: the windows of a text, and the blocks of a window, all start at 0.
    last: Mutex<Option<Arc<Angles>>>,
}

/// Cosines and sines (seq, `head_dim` / 2) of consecutive positions.
#[derive(Debug)]
pub(super) struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
    pairs: usize,
    position: usize,
    order: RopeOrder,
}

impl Rotary {
    /// The frequencies of a configuration. `factors`, one a pair, divide them: a GGUF file's `rope_freqs`.
    pub fn new(config: &LlamaConfig, factors: Option<&[f32]>) -> Self {
        let frequencies = frequencies(config, factors);
        Self { frequencies, order: config.rope_order, max_context: config.max_context, last: Mutex::new(None) }
    }

    /// The angles of `seq` tokens of which the first is at `position`, computed in f64.
    ///
    /// # Errors
    /// [`NnError::Context`] when the positions exceed the context.
    pub(super) fn angles(&self, position: usize, seq: usize) -> Result<Arc<Angles>, NnError> {
        if position + seq > self.max_context {
            return Err(NnError::Context { needed: position + seq, context: self.max_context });
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(angles) = last.as_ref().filter(|angles| angles.position == position && angles.len() == seq) {
            return Ok(angles.clone());
        }
        let positions = position..position + seq;
        let angles = positions.flat_map(|at| self.frequencies.iter().map(move |frequency| at as f64 * frequency));
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip();
        let angles = Arc::new(Angles { cos, sin, pairs: self.frequencies.len(), position, order: self.order });
        *last = Some(angles.clone());
        Ok(angles)
    }
}

impl Angles {
    fn len(&self) -> usize {
        self.cos.len() / self.pairs.max(1)
    }

    /// Rotates the heads of x (seq, heads · `head_dim`).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub(super) fn rotate(&self, x: &Tensor) -> Result<Tensor, NnError> {
        let (seq, width) = x.dims2()?;
        if seq != self.len() || !width.is_multiple_of(2 * self.pairs) {
            return Err(NnError::Shape(format!("angles of {} × {} for {seq} × {width}", self.len(), self.pairs)));
        }
        let mut rotated = with_values(x, <[f32]>::to_vec)?;
        let rows = rotated.par_chunks_mut(width.max(1)).with_min_len(MIN_ROWS);
        rows.zip(self.cos.par_chunks(self.pairs)).zip(self.sin.par_chunks(self.pairs)).for_each(|((row, cos), sin)| {
            for head in row.chunks_exact_mut(2 * self.pairs) {
                match self.order {
                    RopeOrder::Halves => {
                        let (a, b) = head.split_at_mut(self.pairs);
                        turn(a.iter_mut().zip(b), cos, sin);
                    }
                    RopeOrder::Interleaved => {
                        turn(head.as_chunks_mut().0.iter_mut().map(|[a, b]| (a, b)), cos, sin);
                    }
                }
            }
        });
        Ok(Tensor::from_vec(rotated, (seq, width), x.device())?)
    }

    /// The same by operations that carry gradients: x (heads, seq, `head_dim`).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub(super) fn rotate_plainly(&self, x: &Tensor) -> Result<Tensor, NnError> {
        let table = |values: &[f32]| Tensor::from_slice(values, (self.len(), self.pairs), x.device());
        let (cos, sin) = (table(&self.cos)?, table(&self.sin)?);
        let x = x.unsqueeze(0)?;
        let rotated = match self.order {
            RopeOrder::Halves => candle_nn::rotary_emb::rope_slow(&x, &cos, &sin)?,
            RopeOrder::Interleaved => candle_nn::rotary_emb::rope_i_slow(&x, &cos, &sin)?,
        };
        Ok(rotated.squeeze(0)?)
    }
}

/// Rows that a thread rotates alone.
const MIN_ROWS: usize = 32;

fn turn<'a>(pairs: impl Iterator<Item = (&'a mut f32, &'a mut f32)>, cos: &[f32], sin: &[f32]) {
    for ((a, b), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
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
    use candle_core::Device;

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
            let angles = Rotary::new(&config, None).angles(37, 2).unwrap();
            // Two tokens of two heads.
            let x: Vec<f32> = (0..64).map(|i| (i as f32).cos()).collect();
            let tensor = Tensor::from_slice(&x, (2, 32), &Device::Cpu).unwrap();
            let plain = tensor.reshape((2, 2, 16)).unwrap().transpose(0, 1).unwrap();
            let plain = angles.rotate_plainly(&plain).unwrap().transpose(0, 1).unwrap();
            let plain: Vec<f32> = plain.flatten_all().unwrap().to_vec1().unwrap();
            let found: Vec<f32> = angles.rotate(&tensor).unwrap().flatten_all().unwrap().to_vec1().unwrap();
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

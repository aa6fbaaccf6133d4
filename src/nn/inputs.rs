//! The inputs of products, with the roundings that products ask for.

use crate::compress::ActivationGrid;
use crate::kernels::{Activations, TokenGrid, Tokens};

/// Rows of inputs. Each rounding is made once, however many products ask for it; buffers are kept.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    rows: Activations,
    tokens: Tokens,
    /// The grid that `tokens` holds.
    made: Option<TokenGrid>,
    /// Values on a grid whose product is simulated.
    simulated: Vec<f32>,
}

impl Inputs {
    /// Lends rows (`n_rows`, `n_inputs`) for writing; what they hold is whatever their last use left.
    pub(super) fn start(&mut self, n_rows: usize, n_inputs: usize) -> &mut [f32] {
        self.made = None;
        self.rows.start(n_rows, n_inputs)
    }

    /// As they came.
    pub(super) fn values(&self) -> &[f32] {
        self.rows.values()
    }

    pub(super) fn n_rows(&self) -> usize {
        self.rows.n_rows()
    }

    pub(super) fn n_inputs(&self) -> usize {
        self.rows.n_inputs()
    }

    /// For products that round to blocks.
    pub(super) fn rows(&mut self) -> &mut Activations {
        &mut self.rows
    }

    /// Rounded to 8 bits.
    pub(super) fn tokens(&mut self, grid: ActivationGrid) -> &Tokens {
        let grid = match grid {
            ActivationGrid::Int8Static { scale } => TokenGrid::Static { scale },
            ActivationGrid::Float | ActivationGrid::Int8PerToken => TokenGrid::Dynamic,
        };
        if self.made != Some(grid) {
            self.tokens.round(self.rows.values(), self.rows.n_inputs(), grid);
            self.made = Some(grid);
        }
        &self.tokens
    }

    /// As f32 values on the grid.
    pub(super) fn rounded(&mut self, grid: ActivationGrid) -> &[f32] {
        if grid == ActivationGrid::Float {
            return self.rows.values();
        }
        self.simulated.clear();
        self.simulated.extend_from_slice(self.rows.values());
        for token in self.simulated.chunks_mut(self.rows.n_inputs().max(1)) {
            round_token(token, grid);
        }
        &self.simulated
    }
}

/// Rounds one token to a symmetric grid of 8 bits, halves to even. A token of zeros stays one; what is not finite stays
/// so.
fn round_token(token: &mut [f32], grid: ActivationGrid) {
    const CODES: std::ops::RangeInclusive<f32> = -128.0..=127.0;
    // The symmetric grid of 255 steps that the weights have too, and compressed-tensors.
    const HALF_RANGE: f32 = 127.5;
    let scale = match grid {
        ActivationGrid::Float => return,
        ActivationGrid::Int8PerToken => token.iter().fold(0.0_f32, |max, value| max.max(value.abs())) / HALF_RANGE,
        ActivationGrid::Int8Static { scale } => scale,
    };
    if scale > 0.0 {
        for value in token {
            *value = (*value / scale).round_ties_even().clamp(*CODES.start(), *CODES.end()) * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(x: &[f32], n_inputs: usize, grid: ActivationGrid) -> Vec<f32> {
        let mut inputs = Inputs::default();
        inputs.start(x.len() / n_inputs, n_inputs).copy_from_slice(x);
        inputs.rounded(grid).to_vec()
    }

    #[test]
    fn activations_are_rounded_to_their_grid() {
        let near = |found: &[f32], expected: [f32; 4]| {
            assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-7), "{found:?}");
        };
        let x = [1.0, -0.5, 0.25, 0.003, 0.0, 0.0, 0.0, 0.0, f32::INFINITY, 1.0, 2.0, 3.0];
        let dynamic = rounded(&x, 4, ActivationGrid::Int8PerToken);
        // The positive end saturates at 127; 63.75 steps are 64, 31.9 are 32, 0.38 are none.
        near(&dynamic[..4], [127.0 / 127.5, -64.0 / 127.5, 32.0 / 127.5, 0.0]);
        near(&dynamic[4..8], [0.0; 4]);
        assert!(dynamic[8..].iter().any(|value| !value.is_finite()), "what is not finite shows: {dynamic:?}");
        let grid = ActivationGrid::Int8Static { scale: 0.005 };
        near(&rounded(&x, 4, grid)[..4], [0.635, -0.5, 0.25, 0.005]);
        assert!(rounded(&[f32::NAN], 1, grid)[0].is_nan());
    }

    #[test]
    fn roundings_are_made_anew_for_other_values_and_grids() {
        let mut inputs = Inputs::default();
        inputs.start(1, 2).copy_from_slice(&[1.0, 2.0]);
        let first = inputs.tokens(ActivationGrid::Int8PerToken).clone();
        assert_ne!(format!("{first:?}"), format!("{:?}", inputs.tokens(ActivationGrid::Int8Static { scale: 0.1 })));
        inputs.start(1, 2).copy_from_slice(&[2.0, 1.0]);
        assert_ne!(format!("{first:?}"), format!("{:?}", inputs.tokens(ActivationGrid::Int8PerToken)));
    }
}

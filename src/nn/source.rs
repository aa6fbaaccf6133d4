//! What products were made from, for those that run elsewhere. Held in workers for cards only, where the host's own form
//! is made when the host multiplies.

use std::sync::Arc;

use crate::compress::{ActivationGrid, PackedWeights};
use crate::recipe::Execution;

/// What a product was made from. Cloning shares the weights.
#[derive(Debug, Clone)]
pub struct MatrixSource {
    /// The weights. Products that share a matrix share them.
    pub packed: Arc<PackedWeights>,
    /// (`out_features`, `in_features`).
    pub shape: [usize; 2],
    /// How the product runs.
    pub execution: Execution,
    /// How inputs enter it.
    pub activations: ActivationGrid,
}

/// What the products of a layer were made from: W = base + up · down, of which one may be missing.
#[derive(Debug, Clone)]
pub struct LinearSources {
    /// The whole matrix.
    pub base: Option<MatrixSource>,
    /// `down` and `up`.
    pub factors: Option<[MatrixSource; 2]>,
}

impl MatrixSource {
    pub(super) fn new(
        packed: PackedWeights,
        shape: [usize; 2],
        execution: Execution,
        activations: ActivationGrid,
    ) -> Self {
        Self { packed: Arc::new(packed), shape, execution, activations }
    }
}

//! The model that is open.

use std::sync::Arc;

use crate::model::{ModelGraph, ModelSource};

/// How the model stands.
#[derive(Debug, Clone)]
pub enum ModelState {
    /// None was asked for.
    Closed,
    /// Its headers are being read.
    Opening(ModelSource),
    /// Its headers were read.
    Open(Arc<OpenModel>),
    /// It cannot be opened.
    Refused {
        /// The model.
        source: ModelSource,
        /// What is wrong, where, and what to do next.
        message: String,
    },
}

/// A model whose headers were read.
#[derive(Debug, Clone)]
pub struct OpenModel {
    /// Where it lies.
    pub source: ModelSource,
    /// Its layers.
    pub graph: ModelGraph,
    /// Tensors that cannot be used, each with the reason; shown, never dropped.
    pub refused: Vec<(String, String)>,
}

/// Reads the headers of a model. The text of an error says what is wrong, where, and what to do next.
pub(super) fn open_model(source: ModelSource) -> Result<OpenModel, String> {
    let checkpoint = crate::checkpoint::open(&source).map_err(|error| error.to_string())?;
    let refused = checkpoint.refused().iter().map(|tensor| (tensor.name.clone(), tensor.reason.clone())).collect();
    Ok(OpenModel { source, graph: checkpoint.graph().clone(), refused })
}

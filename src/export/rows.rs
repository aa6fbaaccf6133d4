//! The order of query and key rows: Hugging Face pairs the halves of a head, GGUF's Llama pairs neighbors.

use crate::model::{LayerRole, LlamaConfig, RopeOrder};

/// The rows of a layer, or of its bias.
pub(super) struct Rows<'a> {
    pub(super) role: LayerRole,
    pub(super) n_outputs: usize,
    /// The model's row order and width of heads.
    pub(super) model: &'a LlamaConfig,
}

impl Rows<'_> {
    /// For each row in the order `wanted`, which row of the model it is; empty where they stay as they are.
    pub(super) fn order(&self, wanted: RopeOrder) -> Vec<usize> {
        if !self.is_turned(wanted) {
            return Vec::new();
        }
        (0..self.n_outputs).map(|row| self.source(row, wanted)).collect()
    }

    fn is_turned(&self, wanted: RopeOrder) -> bool {
        matches!(self.role, LayerRole::QProj | LayerRole::KProj) && self.model.rope_order != wanted
    }

    /// The row of the model that is row `row` in the order `wanted`.
    fn source(&self, row: usize, wanted: RopeOrder) -> usize {
        let head_dim = self.model.head_dim;
        let (head, within, half) = (row / head_dim, row % head_dim, head_dim / 2);
        let from = match wanted {
            RopeOrder::Interleaved => within % 2 * half + within / 2,
            RopeOrder::Halves => within % half * 2 + within / half,
        };
        head * head_dim + from
    }

    /// Brings the rows of a query or key tensor from the model's order into `wanted`; others stay as they are.
    ///
    /// - `bytes`: whole rows of equal size; a bias has rows of one element
    pub(super) fn reorder(&self, bytes: Vec<u8>, wanted: RopeOrder) -> Vec<u8> {
        if !self.is_turned(wanted) {
            return bytes;
        }
        let row_len = bytes.len() / self.n_outputs;
        let mut out = Vec::with_capacity(bytes.len());
        for row in 0..self.n_outputs {
            let begin = self.source(row, wanted) * row_len;
            out.extend_from_slice(&bytes[begin..begin + row_len]);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelFamily;
    use crate::model::fixtures::tiny_graph;

    fn rows_of(role: LayerRole, model: &LlamaConfig) -> Rows<'_> {
        Rows { role, n_outputs: 8, model }
    }

    #[test]
    fn rows_go_to_neighbors_and_back() {
        let ModelFamily::Llama(mut config) = tiny_graph().family;
        config.head_dim = 4;
        let rows: Vec<u8> = (0..8).flat_map(|row| [row, row + 100]).collect();
        let there = rows_of(LayerRole::QProj, &config).reorder(rows.clone(), RopeOrder::Interleaved);
        let first: Vec<u8> = there.iter().step_by(2).copied().collect();
        assert_eq!(first, [0, 2, 1, 3, 4, 6, 5, 7]);
        config.rope_order = RopeOrder::Interleaved;
        assert_eq!(rows_of(LayerRole::QProj, &config).reorder(there, RopeOrder::Halves), rows);
        assert_eq!(rows_of(LayerRole::VProj, &config).reorder(rows.clone(), RopeOrder::Halves), rows);
    }
}

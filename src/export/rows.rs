//! The order of query and key rows: Hugging Face pairs the halves of a head, GGUF's Llama pairs neighbors.

use crate::model::{LayerRole, LlamaConfig, RopeOrder};

/// Brings the rows of a query or key tensor from the model's order into `wanted`; others stay as they are.
///
/// - `bytes`: whole rows of equal size, as many as the layer has outputs; a bias has rows of one element
pub(super) fn reorder(bytes: Vec<u8>, role: LayerRole, config: &LlamaConfig, wanted: RopeOrder) -> Vec<u8> {
    let n_heads = match role {
        LayerRole::QProj => config.n_heads,
        LayerRole::KProj => config.n_kv_heads,
        _ => return bytes,
    };
    if config.rope_order == wanted {
        return bytes;
    }
    let n_rows = n_heads * config.head_dim;
    let row_len = bytes.len() / n_rows;
    let mut out = Vec::with_capacity(bytes.len());
    for row in 0..n_rows {
        let (head, within) = (row / config.head_dim, row % config.head_dim);
        let half = config.head_dim / 2;
        let from = match wanted {
            RopeOrder::Interleaved => within % 2 * half + within / 2,
            RopeOrder::Halves => within % half * 2 + within / half,
        };
        let begin = (head * config.head_dim + from) * row_len;
        out.extend_from_slice(&bytes[begin..begin + row_len]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelFamily;
    use crate::model::fixtures::tiny_graph;

    #[test]
    fn rows_go_to_neighbors_and_back() {
        let ModelFamily::Llama(mut config) = tiny_graph().family;
        config.head_dim = 4;
        config.n_heads = 2;
        let rows: Vec<u8> = (0..8).flat_map(|row| [row, row + 100]).collect();
        let there = reorder(rows.clone(), LayerRole::QProj, &config, RopeOrder::Interleaved);
        let first: Vec<u8> = there.iter().step_by(2).copied().collect();
        assert_eq!(first, [0, 2, 1, 3, 4, 6, 5, 7]);
        config.rope_order = RopeOrder::Interleaved;
        assert_eq!(reorder(there, LayerRole::QProj, &config, RopeOrder::Halves), rows);
        assert_eq!(reorder(rows.clone(), LayerRole::VProj, &config, RopeOrder::Halves), rows);
    }
}

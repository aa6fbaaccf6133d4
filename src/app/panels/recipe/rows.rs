//! The rows of the recipe's table: what each shows and which layers it speaks for. Pure.

use std::collections::BTreeSet;

use crate::device::DeviceSpec;
use crate::model::{Layer, ModelGraph, StoredFormat};
use crate::recipe::{Execution, LayerSettings, Problem, Sparsity, WeightFormat, weight_bits};

/// A value that several layers share, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shared<T> {
    /// All have it.
    Same(T),
    /// They differ.
    Mixed,
}

impl<T: Copy + PartialEq> Shared<T> {
    fn of(mut values: impl Iterator<Item = T>) -> Option<Self> {
        let first = values.next()?;
        Some(if values.all(|value| value == first) { Self::Same(first) } else { Self::Mixed })
    }

    /// The value, if all have it.
    pub(super) fn same(self) -> Option<T> {
        match self {
            Self::Same(value) => Some(value),
            Self::Mixed => None,
        }
    }
}

/// What a row stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RowKind {
    /// The header of a block.
    Block(u16),
    /// One layer, by its position in the graph.
    Layer(usize),
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// What it stands for.
    pub kind: RowKind,
    /// Positions of its layers in the graph.
    pub layers: Vec<usize>,
    /// Format of the weights.
    pub weights: Shared<WeightFormat>,
    /// Sparsity in per cent; 0 without pruning.
    pub percent: Shared<f64>,
    /// Whether anything differs from the checkpoint.
    pub on: Shared<bool>,
    /// Bytes as packed; `None` when a layer's format does not fit its rows.
    pub bytes: Option<u64>,
    /// Bits a weight.
    pub bits: Option<f64>,
}

impl Row {
    /// The row of these layers.
    pub(super) fn new(
        kind: RowKind,
        graph: &ModelGraph,
        settings: &[LayerSettings],
        layers: Vec<usize>,
    ) -> Option<Self> {
        let of = |index: &usize| settings[*index];
        let weights = Shared::of(layers.iter().map(|index| of(index).weights))?;
        let percent = Shared::of(layers.iter().map(|index| percent(of(index))))?;
        let on = Shared::of(layers.iter().map(|index| !of(index).is_reference()))?;
        let bits: Option<u64> =
            layers.iter().map(|&index| weight_bits(&graph.layers[index], settings[index].weights)).sum();
        let n_weights: u64 = layers.iter().map(|&index| graph.layers[index].n_weights()).sum();
        Some(Self {
            kind,
            weights,
            percent,
            on,
            bytes: bits.map(|bits| bits.div_ceil(8)),
            bits: bits.map(|bits| bits as f64 / n_weights.max(1) as f64),
            layers,
        })
    }
}

/// Sparsity in per cent.
pub(super) fn percent(settings: LayerSettings) -> f64 {
    settings.sparsity.map_or(0.0, |sparsity: Sparsity| sparsity.fraction * 100.0)
}

/// The rows in the order of execution: layers of a block behind its header unless it is closed. A filter opens every
/// block that holds a match and hides the rest.
pub(super) fn rows(graph: &ModelGraph, settings: &[LayerSettings], closed: &BTreeSet<u16>, filter: &str) -> Vec<Row> {
    let needles: Vec<String> = filter.split_whitespace().map(str::to_lowercase).collect();
    let matches = |index: usize| {
        let layer = &graph.layers[index];
        let text = format!("{} {} {}", layer.path, layer.role.name(), settings[index].label()).to_lowercase();
        needles.iter().all(|needle| text.contains(needle.as_str()))
    };
    let mut rows = Vec::new();
    let mut index = 0;
    while index < graph.layers.len() {
        let block = graph.layers[index].block;
        let start = index;
        while index < graph.layers.len() && graph.layers[index].block == block {
            index += 1;
        }
        let shown: Vec<usize> = (start..index).filter(|&index| matches(index)).collect();
        if let (Some(block), false) = (block, shown.is_empty()) {
            rows.extend(Row::new(RowKind::Block(block), graph, settings, shown.clone()));
            if closed.contains(&block) && needles.is_empty() {
                continue;
            }
        }
        rows.extend(
            shown.into_iter().filter_map(|index| Row::new(RowKind::Layer(index), graph, settings, vec![index])),
        );
    }
    rows
}

/// Whether `format` can be given to all of `layers` on `device`, and how it runs.
///
/// # Errors
/// The first reason why not, as a sentence.
pub(super) fn legality<'a>(
    layers: impl Iterator<Item = &'a Layer>,
    device: DeviceSpec,
    format: WeightFormat,
    pruned: bool,
) -> Result<Option<Execution>, String> {
    let mut found = None;
    for layer in layers {
        let problem = if weight_bits(layer, format).is_none() {
            let row_len = layer.shape[1];
            let block_len = match format {
                WeightFormat::Int(int) => int.group.len(row_len),
                other => other.ggml().map_or(1, crate::model::GgmlType::block_len),
            };
            Some(Problem::RowLength { format, row_len, block_len })
        } else if pruned && format == WeightFormat::Native && matches!(layer.stored, StoredFormat::Ggml(_)) {
            Some(Problem::PackedSparsity(layer.stored))
        } else if let Some(execution) = Execution::of(device, format, layer.stored) {
            found = found.or(Some(execution));
            None
        } else {
            Some(Problem::NoProduct { format, device: device.label() })
        };
        if let Some(problem) = problem {
            return Err(format!("{}: {problem}", layer.path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::tiny_graph;
    use crate::recipe::{Group, IntFormat, Recipe};

    const CPU: DeviceSpec = DeviceSpec::Cpu { threads: 1 };

    fn settings(recipe: &Recipe) -> (ModelGraph, Vec<LayerSettings>) {
        let graph = tiny_graph();
        let settings = recipe.settings(&graph);
        (graph, settings)
    }

    #[test]
    fn blocks_come_before_their_layers_and_close() {
        let (graph, settings) = settings(&Recipe::reference());
        let check = |closed: &[u16], filter: &str, expected: usize| {
            let rows = rows(&graph, &settings, &closed.iter().copied().collect(), filter);
            assert_eq!(rows.len(), expected, "closed {closed:?}, filter {filter:?}");
        };
        check(&[], "", 1 + 2 * 8);
        check(&[0], "", 1 + 1 + 8);
        check(&[0, 1], "", 3);
        check(&[0, 1], "down", 4);
        check(&[], "mlp 1.", 1 + 3);
        check(&[], "EMBED", 1);
        check(&[], "nothing like it", 0);
    }

    #[test]
    fn a_block_row_tells_what_its_layers_share() {
        let recipe = Recipe::uniform("x", WeightFormat::Q8_0, None);
        let (graph, mut settings) = settings(&recipe);
        settings[3].sparsity = Some(Sparsity::magnitude(0.3));
        let rows = rows(&graph, &settings, &BTreeSet::new(), "");
        let block = &rows[1];
        assert_eq!((block.kind, block.layers.len()), (RowKind::Block(0), 7));
        assert_eq!(block.weights, Shared::Same(WeightFormat::Q8_0));
        assert_eq!(block.percent, Shared::Mixed);
        assert_eq!(block.on, Shared::Same(true));
        assert_eq!(block.bits, Some(8.5));
        assert_eq!(rows[0].bits, Some(16.0));
    }

    #[test]
    fn an_illegal_choice_says_why() {
        let graph = tiny_graph();
        let check = |format, pruned, expected: Result<Execution, &str>| {
            let found = legality(graph.layers.iter(), CPU, format, pruned);
            match expected {
                Ok(execution) => assert_eq!(found, Ok(Some(execution))),
                Err(text) => assert!(found.as_ref().is_err_and(|reason| reason.contains(text)), "{found:?}"),
            }
        };
        let int = |size| WeightFormat::Int(IntFormat { bits: 4, group: Group::Size(size), symmetric: true });
        check(WeightFormat::Q8_0, false, Ok(Execution::Packed));
        check(WeightFormat::Native, true, Ok(Execution::Widened));
        check(int(64), false, Ok(Execution::Simulated));
        check(int(128), false, Err("multiple of 128"));
        check(WeightFormat::Q4k, false, Err("multiple of 256"));
        let cuda = legality(graph.layers.iter(), DeviceSpec::Cuda { ordinal: 0 }, WeightFormat::Q8_0, false);
        assert!(cuda.is_err_and(|reason| reason.contains("CUDA 0 has no product")));
    }
}

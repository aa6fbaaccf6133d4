//! The rows of the recipe's table: what each shows and which layers it speaks for. Pure.

use std::collections::BTreeSet;

use crate::app::context::Draft;
use crate::app::widgets::share_strip::Shares;
use crate::model::ModelGraph;
use crate::recipe::{Activations, Correction, LayerSettings, LowRank, Rounding, Sparsity, WeightFormat, layer_bits};

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

/// The methods of one or more layers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Methods {
    pub rounding: Shared<Rounding>,
    pub activations: Shared<Activations>,
    pub sparsity: Shared<Option<Sparsity>>,
    pub low_rank: Shared<Option<LowRank>>,
    pub correction: Shared<Option<Correction>>,
}

impl Methods {
    fn of(settings: &[LayerSettings], layers: &[usize]) -> Option<Self> {
        let each = || layers.iter().map(|&index| &settings[index]);
        Some(Self {
            rounding: Shared::of(each().map(|settings| settings.rounding))?,
            activations: Shared::of(each().map(|settings| settings.activations))?,
            sparsity: Shared::of(each().map(|settings| settings.sparsity))?,
            low_rank: Shared::of(each().map(|settings| settings.low_rank))?,
            correction: Shared::of(each().map(|settings| settings.correction))?,
        })
    }

    /// Short text for the table: `gptq · 30 % wanda`; empty without methods, `None` where layers differ.
    pub(super) fn label(&self) -> Option<String> {
        let mut parts = Vec::new();
        match self.rounding.same()? {
            Rounding::Nearest => {}
            rounding => parts.push(rounding.name().to_owned()),
        }
        match self.activations.same()? {
            Activations::Float => {}
            activations => {
                let smooth = if activations.smoothing().is_some() { " smooth" } else { "" };
                parts.push(format!("{}{smooth}", activations.name().replace("int8_", "a8 ")));
            }
        }
        parts.extend(self.sparsity.same()?.map(|sparsity| sparsity_label(&sparsity)));
        parts.extend(self.low_rank.same()?.map(|low_rank| low_rank.label().replace(".0 %", " %")));
        parts.extend(self.correction.same()?.map(|correction| format!("+rank {}", correction.rank)));
        Some(parts.join(" · "))
    }
}

fn sparsity_label(sparsity: &Sparsity) -> String {
    sparsity.label().replace(".0 %", " %").replace(" sparse ", " ")
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
    /// The methods.
    pub methods: Methods,
    /// Whether anything differs from the checkpoint.
    pub on: Shared<bool>,
    /// Shape after structural pruning, of a single layer.
    pub shape: Option<[usize; 2]>,
    /// What becomes of the checkpoint's weights.
    pub shares: Shares,
    /// Bytes as packed; `None` when a layer's format does not fit its rows.
    pub bytes: Option<u64>,
    /// Bits for each weight that the structure leaves.
    pub bits: Option<f64>,
}

/// What rows are made from: the recipe being edited, and the bytes of each layer.
pub(super) struct Layers<'a> {
    graph: &'a ModelGraph,
    draft: &'a Draft,
    packed: Vec<Option<u64>>,
}

impl<'a> Layers<'a> {
    /// The layers of `graph` under the recipe of `draft`, which is resolved for it.
    pub(super) fn new(graph: &'a ModelGraph, draft: &'a Draft) -> Self {
        let packed = match &draft.plan {
            Some(Ok(plan)) => plan.layers.iter().map(|layer| Some(layer.packed_bytes)).collect(),
            // Something else is wrong: what fits is shown all the same.
            _ => graph.layers.iter().zip(&draft.settings).zip(&draft.shapes).map(alone).collect(),
        };
        Self { graph, draft, packed }
    }

    /// The row of these layers; `None` of none.
    pub(super) fn row(&self, kind: RowKind, layers: Vec<usize>) -> Option<Row> {
        let settings = &self.draft.settings;
        let n_weights = |shape: [usize; 2]| shape[0] as u64 * shape[1] as u64;
        let (mut all, mut left, mut zeros) = (0_u64, 0_u64, 0.0);
        for &index in &layers {
            let stays = self.draft.shapes[index].map_or(0, n_weights);
            all += self.graph.layers[index].n_weights();
            left += stays;
            zeros += settings[index].sparsity.map_or(0.0, |sparsity| sparsity.fraction) * stays as f64;
        }
        let bytes: Option<u64> = layers.iter().map(|&index| self.packed[index]).sum();
        let of_all = |n: f64| n / all.max(1) as f64;
        Some(Row {
            kind,
            weights: Shared::of(layers.iter().map(|&index| settings[index].weights))?,
            methods: Methods::of(settings, &layers)?,
            on: Shared::of(layers.iter().map(|&index| !settings[index].is_reference()))?,
            shape: if let [index] = layers[..] { self.draft.shapes[index] } else { None },
            shares: Shares { cut: of_all((all - left) as f64), masked: of_all(zeros) },
            bytes,
            bits: bytes.filter(|_| left > 0).map(|bytes| bytes as f64 * 8.0 / left as f64),
            layers,
        })
    }

    /// The rows in the order of execution: layers of a block behind its header unless it is closed. A filter opens every
    /// block that holds a match and hides the rest.
    pub(super) fn rows(&self, closed: &BTreeSet<u16>, filter: &str) -> Vec<Row> {
        let needles: Vec<String> = filter.split_whitespace().map(str::to_lowercase).collect();
        let matches = |index: usize| {
            let layer = &self.graph.layers[index];
            let label = self.draft.settings[index].label();
            let text = format!("{} {} {label}", layer.path, layer.role.name()).to_lowercase();
            needles.iter().all(|needle| text.contains(needle.as_str()))
        };
        let all = &self.graph.layers;
        let mut rows = Vec::new();
        let mut index = 0;
        while index < all.len() {
            let block = all[index].block;
            let start = index;
            while index < all.len() && all[index].block == block {
                index += 1;
            }
            let shown: Vec<usize> = (start..index).filter(|&index| matches(index)).collect();
            if let (Some(block), false) = (block, shown.is_empty()) {
                rows.extend(self.row(RowKind::Block(block), shown.clone()));
                if closed.contains(&block) && needles.is_empty() {
                    continue;
                }
            }
            rows.extend(shown.into_iter().filter_map(|index| self.row(RowKind::Layer(index), vec![index])));
        }
        rows
    }
}

/// Bytes of a layer by itself.
fn alone(((layer, settings), shape): ((&crate::model::Layer, &LayerSettings), &Option<[usize; 2]>)) -> Option<u64> {
    let Some(shape) = shape else { return Some(0) };
    layer_bits(layer, *shape, settings).map(|bits| bits.div_ceil(8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::editor::{Editor, Gesture};
    use crate::device::{DeviceInfo, DeviceSpec};
    use crate::model::fixtures::tiny_graph;
    use crate::recipe::{LayerChange, Recipe, Structure, WidthCut};

    fn with_rows(recipe: Recipe, check: impl Fn(&ModelGraph, &Layers<'_>)) {
        let graph = tiny_graph();
        let spec = DeviceSpec::Cpu { threads: 1 };
        let device = DeviceInfo::named(spec, "cpu");
        let mut editor = Editor::default();
        editor.set(recipe, Gesture::Whole);
        editor.resolve(Some(&graph), &device, std::path::Path::new("text.jsonl"));
        check(&graph, &Layers::new(&graph, editor.draft()));
    }

    #[test]
    fn blocks_come_before_their_layers_and_close() {
        with_rows(Recipe::reference(), |_, layers| {
            let check = |closed: &[u16], filter: &str, expected: usize| {
                let rows = layers.rows(&closed.iter().copied().collect(), filter);
                assert_eq!(rows.len(), expected, "closed {closed:?}, filter {filter:?}");
            };
            check(&[], "", 1 + 2 * 8);
            check(&[0], "", 1 + 1 + 8);
            check(&[0, 1], "", 3);
            check(&[0, 1], "down", 4);
            check(&[], "mlp 1.", 1 + 3);
            check(&[], "EMBED", 1);
            check(&[], "nothing like it", 0);
        });
    }

    #[test]
    fn a_block_row_tells_what_its_layers_share() {
        let graph = tiny_graph();
        let recipe = Recipe::uniform("x", WeightFormat::Q8_0, None);
        let one = [graph.layers[3].path.clone()].into();
        let recipe = recipe.with_change(&graph, &one, LayerChange::Sparsity(Some(Sparsity::magnitude(0.3))));
        with_rows(recipe, |_, layers| {
            let rows = layers.rows(&BTreeSet::new(), "");
            let block = &rows[1];
            assert_eq!((block.kind, block.layers.len()), (RowKind::Block(0), 7));
            assert_eq!(block.weights, Shared::Same(WeightFormat::Q8_0));
            assert_eq!((block.methods.sparsity, block.methods.label()), (Shared::Mixed, None));
            assert_eq!(block.on, Shared::Same(true));
            assert_eq!(block.bits, Some(8.5), "zeros stay in place");
            assert_eq!(rows[0].bits, Some(16.0));
            assert_eq!(rows[4].methods.label().as_deref(), Some("30 % sparse"));
            assert_eq!(rows[4].shares, Shares { cut: 0.0, masked: 0.3 });
        });
    }

    #[test]
    fn removed_channels_are_gone_from_shapes_and_bytes() {
        let ffn =
            WidthCut { fraction: 0.5, score: crate::recipe::ChannelScore::default(), blocks: None, align: Some(1) };
        let structure = Structure { ffn: Some(ffn), ..Structure::default() };
        with_rows(Recipe { structure, ..Recipe::reference() }, |graph, layers| {
            let rows = layers.rows(&BTreeSet::new(), "");
            let down = rows.iter().rfind(|row| row.shape.is_some()).unwrap();
            let [hidden, inner] = graph.layers[down.layers[0]].shape;
            assert_eq!(down.shape, Some([hidden, inner / 2]));
            assert_eq!(down.shares, Shares { cut: 0.5, masked: 0.0 });
            assert_eq!(down.bytes, Some((hidden * inner) as u64), "f16, half of the columns");
        });
    }
}

//! The formats that are compared, and the recipes that make them.

use anyhow::bail;
use serde::Serialize;
use trimtab::model::ModelGraph;
use trimtab::recipe::{
    Activations, DynamicOptions, Group, IntFormat, PartialSettings, Recipe, Rule, Target, WeightFormat,
};

/// What the weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// One format in one file that both engines read.
    InFile(WeightFormat),
    /// 8-bit codes with a scale a row, activations in 8 bits: no GGUF file holds it, so ours runs it as a recipe and the
    /// other engine runs [`WeightFormat::Q8_0`].
    RowInt8,
}

impl Format {
    /// Every one, in the order of the tables.
    pub(crate) const ALL: [Self; 14] = [
        Self::InFile(WeightFormat::F32),
        Self::InFile(WeightFormat::F16),
        Self::InFile(WeightFormat::Bf16),
        Self::InFile(WeightFormat::Q8_0),
        Self::RowInt8,
        Self::InFile(WeightFormat::Q4_0),
        Self::InFile(WeightFormat::Q4_1),
        Self::InFile(WeightFormat::Q5_0),
        Self::InFile(WeightFormat::Q5_1),
        Self::InFile(WeightFormat::Q2k),
        Self::InFile(WeightFormat::Q3k),
        Self::InFile(WeightFormat::Q4k),
        Self::InFile(WeightFormat::Q5k),
        Self::InFile(WeightFormat::Q6k),
    ];

    /// The format of this name.
    pub(crate) fn parse(name: &str) -> anyhow::Result<Self> {
        let Some(format) = Self::ALL.into_iter().find(|format| format.name() == name) else {
            bail!("not one of {}", Self::ALL.map(Self::name).join(", "));
        };
        Ok(format)
    }

    /// The name in arguments and file names.
    pub(crate) fn name(self) -> String {
        match self {
            Self::InFile(format) => format.label(),
            Self::RowInt8 => "row-int8".to_owned(),
        }
    }

    /// The format of the file that the other engine runs.
    pub(crate) const fn in_file(self) -> WeightFormat {
        match self {
            Self::InFile(format) => format,
            Self::RowInt8 => WeightFormat::Q8_0,
        }
    }

    /// What ours makes of that file before it runs it: nothing, unless no file holds the format.
    pub(crate) fn recipe(self, graph: &ModelGraph) -> Recipe {
        match self {
            Self::InFile(_) => Recipe::reference(),
            Self::RowInt8 => {
                let int8 = IntFormat { bits: 8, group: Group::Row, symmetric: true };
                let activations = Activations::Int8Dynamic(DynamicOptions::default());
                let settings = PartialSettings {
                    weights: Some(WeightFormat::Int(int8)),
                    activations: Some(activations),
                    ..PartialSettings::default()
                };
                everywhere("row-int8", settings, graph)
            }
        }
    }
}

/// A format of whole superblocks, where rows are not made of them: the next finer one of short blocks, as llama-quantize
/// does it. Where that takes a type that this program has not (for 2 and 3 bits), it is 4 bits.
pub(crate) const fn fallback(format: WeightFormat) -> WeightFormat {
    match format {
        WeightFormat::Q2k | WeightFormat::Q3k => WeightFormat::Q4_0,
        WeightFormat::Q4k => WeightFormat::Q5_0,
        WeightFormat::Q5k => WeightFormat::Q5_1,
        WeightFormat::Q6k => WeightFormat::Q8_0,
        other => other,
    }
}

/// `format` for every layer of a model, embedding and head included.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct WholeModel {
    /// Makes it.
    pub(crate) recipe: Recipe,
    /// How many weights of a hundred have another format, and which: rows that are not whole blocks.
    pub(crate) fallback: Option<(f64, String)>,
}

impl WholeModel {
    /// The recipe for a model of this graph.
    pub(crate) fn new(format: WeightFormat, graph: &ModelGraph) -> Self {
        let settings = |weights| PartialSettings { weights: Some(weights), ..PartialSettings::default() };
        let mut recipe = everywhere(&format.label(), settings(format), graph);
        let block_len = format.ggml().map_or(1, |ggml| ggml.block_len());
        let mut n_other = 0;
        for layer in graph.layers.iter().filter(|layer| !layer.shape[1].is_multiple_of(block_len)) {
            let role = Target::Role(layer.role);
            n_other += layer.n_weights();
            if !recipe.rules.iter().any(|rule| rule.target == role && rule.weights != Some(format)) {
                recipe.rules.push(Rule::new(role, settings(fallback(format))));
            }
        }
        let n_weights: u64 = graph.layers.iter().map(|layer| layer.n_weights()).sum();
        let share = 100.0 * n_other as f64 / n_weights as f64;
        Self { recipe, fallback: (n_other > 0).then(|| (share, fallback(format).label())) }
    }
}

/// `settings` for every layer: what a recipe says by default does not hold for embedding and head.
fn everywhere(name: &str, settings: PartialSettings, graph: &ModelGraph) -> Recipe {
    let outside = graph.layers.iter().filter(|layer| layer.block.is_none());
    let rules = outside.map(|layer| Rule::new(Target::Role(layer.role), settings)).collect();
    Recipe { name: name.to_owned(), default: settings, rules, ..Recipe::reference() }
}

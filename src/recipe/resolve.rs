//! From a loose recipe to a checked plan.

use std::fmt;

use globset::{GlobBuilder, GlobMatcher};

use crate::device::DeviceInfo;
use crate::model::{Layer, LayerPath, ModelGraph, StoredFormat};
use crate::recipe::plan::counts_for_bits;
use crate::recipe::{
    Execution, IntFormat, LayerPlan, LayerSettings, Plan, Recipe, Sparsity, Target, WeightFormat, weight_bits,
};

/// One reason why a recipe cannot run on a model and device.
#[derive(Debug, Clone, PartialEq)]
pub struct RecipeIssue {
    /// The layer that it concerns, if it is about one.
    pub layer: Option<LayerPath>,
    /// The rule that it concerns, counted from 1; `None` for the default.
    pub rule: Option<usize>,
    /// What is wrong.
    pub problem: Problem,
}

/// What can be wrong with a recipe.
#[derive(Debug, Clone, PartialEq)]
pub enum Problem {
    /// The recipe was written for another version of the schema.
    Version(u32),
    /// No layer of the model matches.
    MatchesNothing(Target),
    /// The glob cannot be read.
    BadGlob(String, String),
    /// A row is not made of whole blocks or groups.
    RowLength {
        /// The format.
        format: WeightFormat,
        /// Elements of a row.
        row_len: usize,
        /// Elements of a block or group.
        block_len: usize,
    },
    /// Outside 2 to 8.
    Bits(u8),
    /// Outside 0 to 0.95, or not a number.
    Fraction(f64),
    /// The device has no product for the format and cannot simulate it.
    NoProduct {
        /// The format.
        format: WeightFormat,
        /// The device's label.
        device: String,
    },
    /// Pruning a layer that stays packed as the checkpoint stores it.
    PackedSparsity(StoredFormat),
    /// Pruning in a format in which zeros would come back as small weights.
    NoExactZero(WeightFormat),
}

impl fmt::Display for RecipeIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.layer, self.rule) {
            (Some(layer), Some(rule)) => write!(f, "{layer} (rule {rule}): {}", self.problem),
            (Some(layer), None) => write!(f, "{layer}: {}", self.problem),
            (None, Some(rule)) => write!(f, "rule {rule}: {}", self.problem),
            (None, None) => write!(f, "{}", self.problem),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(found) => {
                write!(f, "format_version {found} is not {}, the one that this version reads", super::FORMAT_VERSION)
            }
            Self::MatchesNothing(target) => write!(f, "{target} matches no layer of this model"),
            Self::BadGlob(glob, reason) => write!(f, "glob {glob:?} cannot be read: {reason}"),
            Self::RowLength { format, row_len, block_len } => write!(
                f,
                "{} needs rows of a multiple of {block_len}, this layer's have {row_len}; choose another format or group",
                format.label()
            ),
            Self::Bits(bits) => write!(f, "int has 2 to 8 bits, not {bits}"),
            Self::Fraction(fraction) => {
                write!(f, "a sparsity fraction lies between 0 and {}, not {fraction}", Sparsity::MAX_FRACTION)
            }
            Self::NoProduct { format, device } => write!(f, "{device} has no product for {}", format.label()),
            Self::NoExactZero(format) => write!(
                f,
                "{} has no exact zero, so pruned weights would come back; use q8_0, q6k, q5_0, q4_0, q3k, int or a float",
                format.label()
            ),
            Self::PackedSparsity(stored) => write!(
                f,
                "weights stored as {} cannot be pruned in place; name a weight format for this layer",
                stored.name()
            ),
        }
    }
}

enum Matcher {
    Path(LayerPath),
    Glob(GlobMatcher),
    Role(crate::model::LayerRole),
    Blocks([u16; 2]),
}

impl Matcher {
    fn new(target: &Target) -> Result<Self, Problem> {
        Ok(match target {
            Target::Path(path) => Self::Path(path.clone()),
            Target::Role(role) => Self::Role(*role),
            Target::Blocks(range) => Self::Blocks(*range),
            Target::Glob(glob) => {
                let parsed = GlobBuilder::new(glob).literal_separator(false).build();
                let parsed = parsed.map_err(|error| Problem::BadGlob(glob.clone(), error.kind().to_string()))?;
                Self::Glob(parsed.compile_matcher())
            }
        })
    }

    fn matches(&self, layer: &Layer) -> bool {
        match self {
            Self::Path(path) => path == &layer.path,
            Self::Glob(glob) => glob.is_match(&layer.path.0),
            Self::Role(role) => *role == layer.role,
            Self::Blocks([first, last]) => layer.block.is_some_and(|block| (*first..=*last).contains(&block)),
        }
    }
}

/// The settings of one layer with the rules that they came from (counted from 1).
#[derive(Clone, Copy, Default)]
struct Traced {
    settings: LayerSettings,
    weights_rule: Option<usize>,
    sparsity_rule: Option<usize>,
}

impl Recipe {
    /// Checks this recipe against a model and a device.
    ///
    /// # Errors
    /// Every problem at once, each with the layer or rule that it concerns.
    pub fn resolve(&self, graph: &ModelGraph, device: &DeviceInfo) -> Result<Plan, Vec<RecipeIssue>> {
        let mut issues = Vec::new();
        if self.format_version != super::FORMAT_VERSION {
            issues.push(RecipeIssue { layer: None, rule: None, problem: Problem::Version(self.format_version) });
        }
        let traced = self.trace(graph, &mut issues);
        let mut layers = Vec::with_capacity(graph.layers.len());
        let (mut block_weights, mut block_bits) = (0, 0);
        for (index, (layer, traced)) in graph.layers.iter().zip(traced).enumerate() {
            let Some(plan) = check_layer(layer, traced, device, &mut issues) else { continue };
            if counts_for_bits(graph, index, &traced.settings) {
                block_weights += layer.n_weights();
                block_bits += weight_bits(layer, traced.settings.weights).unwrap_or(0);
            }
            layers.push(plan);
        }
        self.check_unseen(&mut issues);
        if !issues.is_empty() {
            return Err(issues);
        }
        Ok(Plan {
            model: graph.fingerprint.clone(),
            device: device.spec,
            layers,
            other_bytes: graph.other_bytes,
            block_weights: block_weights.max(1),
            block_bits,
        })
    }

    /// The settings of every layer in the graph's order, legal or not: what an editor shows.
    pub fn settings(&self, graph: &ModelGraph) -> Vec<LayerSettings> {
        self.trace(graph, &mut Vec::new()).into_iter().map(|traced| traced.settings).collect()
    }

    /// Values that are wrong on any model, of rules whose layers did not show them: those that match nothing, or whose
    /// settings a later rule replaced.
    fn check_unseen(&self, issues: &mut Vec<RecipeIssue>) {
        let default = (None, self.default.weights, self.default.sparsity);
        let used = self.rules.iter().enumerate().filter(|(_, rule)| rule.enabled != Some(false));
        let rules = used.map(|(index, rule)| (Some(index + 1), rule.weights, rule.sparsity));
        for (rule, weights, sparsity) in std::iter::once(default).chain(rules) {
            let bits = weights.and_then(bad_bits);
            for problem in bits.into_iter().chain(sparsity.and_then(bad_fraction)) {
                let same = |issue: &RecipeIssue| {
                    issue.rule == rule && std::mem::discriminant(&issue.problem) == std::mem::discriminant(&problem)
                };
                if !issues.iter().any(same) {
                    issues.push(RecipeIssue { layer: None, rule, problem });
                }
            }
        }
    }

    fn trace(&self, graph: &ModelGraph, issues: &mut Vec<RecipeIssue>) -> Vec<Traced> {
        let mut traced: Vec<Traced> = graph
            .layers
            .iter()
            .map(|layer| {
                let mut start = Traced::default();
                if layer.block.is_some() {
                    start.settings.weights = self.default.weights.unwrap_or_default();
                    start.settings.sparsity = self.default.sparsity;
                }
                start
            })
            .collect();
        for (number, rule) in self.rules.iter().enumerate().map(|(index, rule)| (index + 1, rule)) {
            let matcher = match Matcher::new(&rule.target) {
                Ok(matcher) => matcher,
                Err(problem) => {
                    issues.push(RecipeIssue { layer: None, rule: Some(number), problem });
                    continue;
                }
            };
            let mut matched = false;
            for (layer, traced) in graph.layers.iter().zip(&mut traced).filter(|(layer, _)| matcher.matches(layer)) {
                debug_assert!(!layer.path.0.is_empty(), "layers have paths");
                matched = true;
                if let Some(weights) = rule.weights {
                    traced.settings.weights = weights;
                    traced.weights_rule = Some(number);
                }
                if let Some(sparsity) = rule.sparsity {
                    traced.settings.sparsity = Some(sparsity);
                    traced.sparsity_rule = Some(number);
                }
                if rule.enabled == Some(false) {
                    *traced = Traced::default();
                }
            }
            if !matched {
                let problem = Problem::MatchesNothing(rule.target.clone());
                issues.push(RecipeIssue { layer: None, rule: Some(number), problem });
            }
        }
        for traced in &mut traced {
            traced.settings.sparsity = traced.settings.sparsity.filter(|sparsity| sparsity.fraction != 0.0);
        }
        traced
    }
}

fn bad_bits(weights: WeightFormat) -> Option<Problem> {
    match weights {
        WeightFormat::Int(IntFormat { bits, .. }) if !IntFormat::BITS.contains(&bits) => Some(Problem::Bits(bits)),
        _ => None,
    }
}

fn bad_fraction(sparsity: Sparsity) -> Option<Problem> {
    let fraction = sparsity.fraction;
    (!(0.0..=Sparsity::MAX_FRACTION).contains(&fraction)).then_some(Problem::Fraction(fraction))
}

fn check_layer(layer: &Layer, traced: Traced, device: &DeviceInfo, issues: &mut Vec<RecipeIssue>) -> Option<LayerPlan> {
    let LayerSettings { weights, sparsity } = traced.settings;
    let before = issues.len();
    let mut push = |rule: Option<usize>, problem: Problem| {
        issues.push(RecipeIssue { layer: Some(layer.path.clone()), rule, problem });
    };
    if let Some(problem) = bad_bits(weights) {
        push(traced.weights_rule, problem);
    }
    let bits = weight_bits(layer, weights);
    if bits.is_none() {
        let row_len = layer.shape[1];
        let block_len = match weights {
            WeightFormat::Int(int) => int.group.len(row_len),
            other => other.ggml().map_or(1, crate::model::GgmlType::block_len),
        };
        push(traced.weights_rule, Problem::RowLength { format: weights, row_len, block_len });
    }
    if let Some(sparsity) = sparsity {
        if let Some(problem) = bad_fraction(sparsity) {
            push(traced.sparsity_rule, problem);
        }
        if weights == WeightFormat::Native && matches!(layer.stored, StoredFormat::Ggml(_)) {
            push(traced.sparsity_rule, Problem::PackedSparsity(layer.stored));
        }
        if !weights.has_exact_zero() {
            push(traced.sparsity_rule, Problem::NoExactZero(weights));
        }
    }
    let execution = Execution::of(device.spec, weights, layer.stored);
    if execution.is_none() {
        push(traced.weights_rule, Problem::NoProduct { format: weights, device: device.spec.label() });
    }
    if issues.len() > before {
        return None;
    }
    Some(LayerPlan {
        path: layer.path.clone(),
        settings: traced.settings,
        execution: execution?,
        packed_bytes: bits?.div_ceil(8),
    })
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;

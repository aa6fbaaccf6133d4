//! From a loose recipe to a checked plan.

use globset::{GlobBuilder, GlobMatcher};

use crate::device::{DeviceInfo, DeviceSpec};
use crate::model::{Layer, LayerPath, ModelGraph};
use crate::recipe::plan::counts_for_bits;
use crate::recipe::{
    AttentionForm, KvCacheSettings, LayerSettings, PartialSettings, Plan, Problem, Recipe, RecipeIssue, Target,
    layer_checks, whole,
};

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

/// The settings of one layer with the last rules (counted from 1) that touched them.
#[derive(Clone, Copy, Default)]
pub(super) struct Traced {
    pub(super) settings: LayerSettings,
    pub(super) weights_rule: Option<usize>,
    pub(super) sparsity_rule: Option<usize>,
    /// Of rounding, activations, low rank and correction.
    pub(super) method_rule: Option<usize>,
}

impl Traced {
    fn apply(&mut self, partial: &PartialSettings, rule: Option<usize>) {
        let settings = &mut self.settings;
        if let Some(weights) = partial.weights {
            settings.weights = weights;
            self.weights_rule = rule;
        }
        if let Some(sparsity) = partial.sparsity {
            settings.sparsity = Some(sparsity);
            self.sparsity_rule = rule;
        }
        let methods = partial.rounding.is_some() || partial.activations.is_some();
        if methods || partial.low_rank.is_some() || partial.correction.is_some() {
            self.method_rule = rule;
        }
        settings.rounding = partial.rounding.unwrap_or(settings.rounding);
        settings.activations = partial.activations.unwrap_or(settings.activations);
        settings.low_rank = partial.low_rank.or(settings.low_rank);
        settings.correction = partial.correction.or(settings.correction);
    }
}

impl Recipe {
    /// Checks this recipe against a model and a device.
    ///
    /// # Errors
    /// Every problem at once, each with the layer or rule that it concerns.
    pub fn resolve(&self, graph: &ModelGraph, device: &DeviceInfo) -> Result<Plan, Vec<RecipeIssue>> {
        let mut issues = Vec::new();
        if self.format_version != super::FORMAT_VERSION {
            issues.push(RecipeIssue::of_recipe(Problem::Version(self.format_version)));
        }
        let traced = self.trace(graph, &mut issues);
        let (blocks, mut estimated) = whole::check(self, graph, &traced, &mut issues);
        self.check_device(device.spec, &mut issues);
        let mut layers = Vec::with_capacity(graph.layers.len());
        let (mut block_weights, mut block_bits) = (0, 0);
        for (index, (layer, traced)) in graph.layers.iter().zip(traced).enumerate() {
            let shape = whole::shape_after(graph, &blocks, layer);
            let Some(mut plan) = layer_checks::check(layer, shape, traced, &mut issues) else { continue };
            if let Some([rows, row_len]) = plan.shape {
                let (bits, note) = whole::shared_bits(self, graph, layer, &plan, [rows, row_len]);
                plan.packed_bytes = bits.div_ceil(8);
                estimated = estimated.or(note);
                if counts_for_bits(graph, index, &plan.settings) {
                    block_weights += (rows * row_len) as u64;
                    block_bits += bits;
                }
            }
            layers.push(plan);
        }
        self.check_unseen(&mut issues);
        let plan = Plan {
            model: graph.fingerprint.clone(),
            device: device.spec,
            layers,
            blocks,
            estimated,
            structure: self.structure.clone(),
            sharing: self.sharing.clone(),
            kv_cache: self.kv_cache,
            attention: self.attention,
            calibration: self.calibration.clone(),
            other_bytes: graph.other_bytes,
            block_weights: block_weights.max(1),
            block_bits,
        };
        if plan.needs_calibration() && plan.calibration.data.is_none() {
            issues.push(RecipeIssue::of_recipe(Problem::NoCalibration));
        }
        if issues.is_empty() { Ok(plan) } else { Err(issues) }
    }

    /// The settings of every layer in the graph's order, legal or not: what an editor shows.
    pub fn settings(&self, graph: &ModelGraph) -> Vec<LayerSettings> {
        self.trace(graph, &mut Vec::new()).into_iter().map(|traced| traced.settings).collect()
    }

    /// What a card has no kernels for.
    fn check_device(&self, device: DeviceSpec, issues: &mut Vec<RecipeIssue>) {
        if !matches!(device, DeviceSpec::Cuda { .. }) {
            return;
        }
        let KvCacheSettings { keys, values } = self.kv_cache;
        if keys != values {
            let reason = "a card keeps keys and values in one format; choose the same for both, or the CPU";
            issues.push(RecipeIssue::of_recipe(Problem::Conflict(reason)));
        }
        if self.attention.form == AttentionForm::Naive {
            let reason = "a card computes attention in tiles only; choose the tiled form, or the CPU";
            issues.push(RecipeIssue::of_recipe(Problem::Conflict(reason)));
        }
    }

    /// Values that are wrong on any model, of rules whose layers did not show them: those that match nothing, or whose
    /// settings a later rule replaced.
    fn check_unseen(&self, issues: &mut Vec<RecipeIssue>) {
        let used = self.rules.iter().enumerate().filter(|(_, rule)| rule.enabled != Some(false));
        let rules = used.map(|(index, rule)| (Some(index + 1), rule.settings()));
        for (rule, settings) in std::iter::once((None, self.default)).chain(rules) {
            for problem in layer_checks::bad_values(&settings) {
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
        let start = |layer: &Layer| {
            let mut start = Traced::default();
            if layer.block.is_some() {
                start.apply(&self.default, None);
            }
            start
        };
        let mut traced: Vec<Traced> = graph.layers.iter().map(start).collect();
        for (number, rule) in self.rules.iter().enumerate().map(|(index, rule)| (index + 1, rule)) {
            let matcher = match Matcher::new(&rule.target) {
                Ok(matcher) => matcher,
                Err(problem) => {
                    issues.push(RecipeIssue { layer: None, rule: Some(number), problem });
                    continue;
                }
            };
            let mut matched = false;
            for (_, traced) in graph.layers.iter().zip(&mut traced).filter(|(layer, _)| matcher.matches(layer)) {
                matched = true;
                traced.apply(&rule.settings(), Some(number));
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
            traced.settings = traced.settings.canonical();
        }
        traced
    }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;

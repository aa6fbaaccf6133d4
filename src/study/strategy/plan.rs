//! The recipes of a study, in order.

use std::collections::BTreeSet;

use crate::recipe::{PartialSettings, Recipe, Rule, Target};
use crate::study::{Axis, StrategySpec, StudySpec, TrialId, TrialSpec};

/// Most recipes of one study: a larger grid is cut off here.
pub(super) const MAX_PLANNED: usize = 10_000;

/// Every recipe that the study may try, in order and without the reference: a plan with its cost can be shown before it
/// runs. A progressive study may stop earlier.
///
/// A recipe that changes nothing, or says the same as an earlier one, is left out.
pub fn planned_recipes(spec: &StudySpec) -> Vec<Recipe> {
    let recipes: Box<dyn Iterator<Item = Recipe>> = match &spec.strategy {
        StrategySpec::List { recipes } => Box::new(recipes.iter().cloned()),
        StrategySpec::Grid { base, axes } => Box::new(grid(base, axes)),
        StrategySpec::Progressive { base, rungs } => Box::new(ladder(base, rungs)),
    };
    let mut seen = BTreeSet::new();
    recipes
        .take(MAX_PLANNED)
        .filter(|recipe| !recipe.is_reference() && seen.insert(trial(spec, TrialId(0), recipe.clone()).key()))
        .collect()
}

/// A trial of the study.
pub(super) fn trial(spec: &StudySpec, id: TrialId, recipe: Recipe) -> TrialSpec {
    TrialSpec { id, recipe, device: spec.device, workload: spec.workload.clone(), seed: spec.seed }
}

/// Every combination, the last axis fastest.
fn grid<'a>(base: &'a Recipe, axes: &'a [Axis]) -> impl Iterator<Item = Recipe> + 'a {
    let n = axes.iter().fold(1_usize, |n, axis| n.saturating_mul(axis.settings.len()));
    (0..n).map(move |number| {
        let mut rest = number;
        let mut chosen: Vec<PartialSettings> = Vec::with_capacity(axes.len());
        for axis in axes.iter().rev() {
            chosen.push(axis.settings[rest % axis.settings.len()]);
            rest /= axis.settings.len();
        }
        let mut steps = Steps::over(base);
        for (axis, settings) in axes.iter().zip(chosen.into_iter().rev()) {
            steps.lay(axis.target.as_ref(), settings);
        }
        steps.recipe()
    })
}

/// Each rung over the one before it.
fn ladder<'a>(base: &'a Recipe, rungs: &'a [Axis]) -> impl Iterator<Item = Recipe> + 'a {
    let steps =
        rungs.iter().flat_map(|rung| rung.settings.iter().map(move |settings| (rung.target.as_ref(), *settings)));
    steps.scan(Steps::over(base), |laid, (target, settings)| {
        laid.lay(target, settings);
        Some(laid.recipe())
    })
}

/// A base recipe with settings laid over it, and what they are in words.
struct Steps {
    recipe: Recipe,
    parts: Vec<(Option<Target>, PartialSettings)>,
}

impl Steps {
    fn over(base: &Recipe) -> Self {
        Self { recipe: base.clone(), parts: Vec::new() }
    }

    /// Lays settings over `target`; over the recipe's default when there is none.
    fn lay(&mut self, target: Option<&Target>, settings: PartialSettings) {
        match target {
            None => merge(&mut self.recipe.default, settings),
            Some(target) => self.recipe.rules.push(Rule::new(target.clone(), settings)),
        }
        match self.parts.iter_mut().find(|(laid, _)| laid.as_ref() == target) {
            Some((_, laid)) => merge(laid, settings),
            None => self.parts.push((target.cloned(), settings)),
        }
    }

    fn recipe(&self) -> Recipe {
        let base = (!self.recipe_base_is_plain()).then(|| self.recipe.name.clone());
        let parts = self.parts.iter().map(|(target, settings)| words(target.as_ref(), *settings));
        let name = base.into_iter().chain(parts).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
        Recipe { name, ..self.recipe.clone() }
    }

    /// Whether the base adds nothing that its name should say.
    fn recipe_base_is_plain(&self) -> bool {
        self.recipe.name == Recipe::reference().name
    }
}

fn merge(into: &mut PartialSettings, over: PartialSettings) {
    into.weights = over.weights.or(into.weights);
    into.rounding = over.rounding.or(into.rounding);
    into.activations = over.activations.or(into.activations);
    into.sparsity = over.sparsity.or(into.sparsity);
    into.low_rank = over.low_rank.or(into.low_rank);
    into.correction = over.correction.or(into.correction);
}

/// `q4_0 down_proj`, `30 % sparse`; empty when nothing is set.
fn words(target: Option<&Target>, settings: PartialSettings) -> String {
    let weights = settings.weights.map(|weights| weights.label());
    let sparsity = settings.sparsity.map(|sparsity| match sparsity.fraction {
        0.0 => "dense".to_owned(),
        _ => sparsity.label().replace(".0 %", " %"),
    });
    let rounding = settings.rounding.map(|rounding| rounding.name().to_owned());
    let activations = settings.activations.map(|activations| activations.name().to_owned());
    let low_rank = settings.low_rank.map(|low_rank| low_rank.label().replace(".0 %", " %"));
    let correction = settings.correction.map(|correction| format!("correction rank {}", correction.rank));
    let what = [weights, rounding, activations, sparsity, low_rank, correction]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" and ");
    let whom = match target {
        _ if what.is_empty() => None,
        None => None,
        Some(Target::Path(path)) => Some(path.0.clone()),
        Some(Target::Glob(glob)) => Some(glob.clone()),
        Some(Target::Role(role)) => Some(role.name().to_owned()),
        Some(Target::Blocks([first, last])) if first == last => Some(format!("block {first}")),
        Some(Target::Blocks([first, last])) => Some(format!("blocks {first} to {last}")),
    };
    whom.map_or_else(|| what.clone(), |whom| format!("{what} {whom}"))
}

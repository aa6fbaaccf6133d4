//! Recipes one after the other; a ladder stops where the quality no longer holds.

use std::collections::BTreeMap;

use crate::recipe::Recipe;
use crate::study::strategy::Strategy;
use crate::study::strategy::plan::{planned_recipes, trial};
use crate::study::{Outcome, StrategySpec, Study, StudySpec, Trial, TrialId, TrialSpec, TrialState};

/// The reference, then the planned recipes in order.
pub(super) struct Ordered {
    spec: StudySpec,
    recipes: Vec<Recipe>,
    is_ladder: bool,
    /// What was asked for, with the study's generation then: the same study is answered the same.
    asked: BTreeMap<String, u64>,
}

/// How a recipe stands in a study.
enum Standing<'a> {
    /// To be tried, under this number.
    Open(TrialId),
    /// Ended.
    Done(&'a Trial),
    /// Failed for good.
    Failed,
    /// Failed in this run in a way that the next run tries again.
    Later,
    /// Being tried on another device.
    Running,
}

impl Ordered {
    pub(super) fn new(spec: &StudySpec) -> Self {
        Self {
            spec: spec.clone(),
            recipes: planned_recipes(spec),
            is_ladder: matches!(spec.strategy, StrategySpec::Progressive { .. }),
            asked: BTreeMap::new(),
        }
    }

    /// The reference is always trial 0; a trial that is tried again keeps its number.
    fn standing<'a>(&self, study: &'a Study, key: &str, known: &BTreeMap<String, TrialId>) -> Standing<'a> {
        let Some((id, found)) = known.get(key).and_then(|id| study.trials.get_key_value(id)) else {
            return Standing::Open(study.next_id());
        };
        match &found.state {
            TrialState::Finished { outcome: Outcome::Done(_), .. } => return Standing::Done(found),
            TrialState::Finished { outcome: Outcome::Failed(failure), .. } if !failure.kind.is_retried_on_resume() => {
                return Standing::Failed;
            }
            TrialState::Finished { .. } | TrialState::Running => {}
        }
        let tried_in_this_run = self.asked.get(key).is_some_and(|generation| *generation != study.generation);
        match found.state {
            _ if !tried_in_this_run => Standing::Open(*id),
            TrialState::Running => Standing::Running,
            TrialState::Finished { .. } => Standing::Later,
        }
    }

    /// What a trial tries, on whichever device of the study: of this run, or of the one that began it.
    fn key(&self, study: &Study, trial: &TrialSpec) -> String {
        let began = study.header.iter().flat_map(|header| &header.spec.also_on);
        let is_ours = self.spec.also_on.iter().chain(began).any(|device| *device == trial.device);
        let device = if is_ours { self.spec.device } else { trial.device };
        TrialSpec { device, ..trial.clone() }.key()
    }

    /// Whether the ladder ends with this rung.
    fn is_last_rung(&self, rung: &Trial) -> bool {
        let quality = rung.measurements().and_then(|measurements| measurements.quality.as_ref());
        self.is_ladder && quality.is_some_and(|quality| self.spec.limits.exceeded_by(quality).is_some())
    }
}

impl Strategy for Ordered {
    fn ask(&mut self, study: &Study) -> Option<TrialSpec> {
        // Of two trials with one key the later counts: it is the one that was tried again.
        let known = study.trials.iter().map(|(id, trial)| (self.key(study, &trial.spec), *id)).collect();
        let reference = Recipe::reference();
        for (position, recipe) in std::iter::once(&reference).chain(&self.recipes).enumerate() {
            let mut wanted = trial(&self.spec, TrialId(0), recipe.clone());
            let key = wanted.key();
            let is_needed = position == 0 || self.is_ladder;
            match self.standing(study, &key, &known) {
                Standing::Open(id) => {
                    wanted.id = if position == 0 { TrialId(0) } else { id };
                    self.asked.insert(key, study.generation);
                    return Some(wanted);
                }
                Standing::Done(rung) if position > 0 && self.is_last_rung(rung) => return None,
                Standing::Failed | Standing::Later if is_needed => return None,
                // The next rung depends on this one.
                Standing::Running if self.is_ladder => return None,
                Standing::Done(_) | Standing::Failed | Standing::Later | Standing::Running => {}
            }
        }
        None
    }
}

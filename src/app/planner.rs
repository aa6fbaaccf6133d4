//! What Run would do, recomputed when something it depends on has changed.

use crate::app::context::{Draft, SweepPlan};
use crate::app::sweep::SweepSettings;
use crate::device::DeviceInfo;
use crate::model::{Fingerprint, ModelSource};
use crate::session::OpenModel;
use crate::study::{Study, TrialState, planned_recipes, predicted_peak_bytes};

/// What the plan was computed from.
#[derive(Debug, Clone, PartialEq)]
struct Key {
    model: Fingerprint,
    source: ModelSource,
    device: DeviceInfo,
    sweep: SweepSettings,
    draft: u64,
    study: u64,
}

/// The plan with what it was computed from.
#[derive(Debug, Default)]
pub(super) struct Planner {
    key: Option<Key>,
    plan: SweepPlan,
}

impl Planner {
    /// What Run would do, as of the last update.
    pub(super) fn plan(&self) -> &SweepPlan {
        &self.plan
    }

    /// Brings the plan up to date; does nothing when it is.
    pub(super) fn update(
        &mut self,
        model: Option<&OpenModel>,
        device: &DeviceInfo,
        sweep: &SweepSettings,
        draft: &Draft,
        study: &Study,
    ) {
        let key = model.map(|model| Key {
            model: model.graph.fingerprint.clone(),
            source: model.source.clone(),
            device: device.clone(),
            sweep: sweep.clone(),
            draft: draft.generation,
            study: study.generation,
        });
        if key == self.key {
            return;
        }
        self.plan = model.map(|model| plan(model, device, sweep, draft, study)).unwrap_or_default();
        self.key = key;
    }
}

fn plan(model: &OpenModel, device: &DeviceInfo, sweep: &SweepSettings, draft: &Draft, study: &Study) -> SweepPlan {
    let Ok(strategy) = sweep.strategy(&draft.recipe) else { return SweepPlan::default() };
    let spec = sweep.spec(strategy, model.source.clone(), device.spec);
    let mut recipes = planned_recipes(&spec);
    if let Some(most) = sweep.budget.trials {
        recipes.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    }
    let (mut refused, mut peak) = (Vec::new(), None::<(u64, String)>);
    for recipe in &recipes {
        match recipe.resolve(&model.graph, device) {
            Err(issues) => {
                refused.extend(issues.first().map(|issue| (recipe.name.clone(), issue.to_string())));
            }
            Ok(plan) => {
                let bytes = predicted_peak_bytes(&plan, &model.graph, &spec.workload, None);
                if peak.as_ref().is_none_or(|(most, _)| bytes > *most) {
                    peak = Some((bytes, recipe.name.clone()));
                }
            }
        }
    }
    let n_running = recipes.len() - refused.len() + 1;
    let mean = mean_secs(study, &spec);
    let estimated = mean.map(|mean| {
        let all = mean * n_running as f64;
        sweep.budget.secs.map_or(all, |most| all.min(most))
    });
    let recipes = recipes.into_iter().map(|recipe| recipe.name).collect();
    SweepPlan { recipes, refused, peak, estimated_secs: estimated }
}

/// Mean wall time of the finished trials of the same model, device and workload in the study shown.
fn mean_secs(study: &Study, spec: &crate::study::StudySpec) -> Option<f64> {
    let header = study.header.as_ref().filter(|header| header.spec.model == spec.model)?;
    let same = header.spec.workload == spec.workload && header.spec.device == spec.device;
    let finished = study.trials.values().filter_map(|trial| match &trial.state {
        TrialState::Finished { elapsed_secs, .. } if trial.measurements().is_some() => Some(*elapsed_secs),
        _ => None,
    });
    let elapsed: Vec<f64> = if same { finished.collect() } else { Vec::new() };
    (!elapsed.is_empty()).then(|| elapsed.iter().sum::<f64>() / elapsed.len() as f64)
}

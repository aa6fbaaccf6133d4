//! The trade-off of two objectives: which trials have a point, which form the front, which are missing and why.

use std::collections::BTreeSet;

use egui_plot::PlotPoint;

use crate::app::plots::scale::{AxisScale, interval};
use crate::study::{Measurements, Objective, Outcome, Study, Trial, TrialId, TrialState, pareto_front};

/// Points drawn at most; of more, every k-th beaten one is drawn.
pub const MAX_POINTS: usize = 20_000;

/// A trial on the plot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// The trial.
    pub id: TrialId,
    /// Where, in positions of both scales.
    pub at: PlotPoint,
    /// Layers are simulated: the mark is hollow.
    pub simulated: bool,
}

/// A trade-off plot without its paint.
#[derive(Debug, Clone, PartialEq)]
pub struct TradeOff {
    /// The horizontal scale.
    pub x: AxisScale,
    /// The vertical scale.
    pub y: AxisScale,
    /// Drawn trials that are not on the front, by rising number.
    pub beaten: Vec<Point>,
    /// The places of those whose layers all run as their format says.
    pub filled: Vec<PlotPoint>,
    /// The places of those with simulated layers.
    pub hollow: Vec<PlotPoint>,
    /// The front, by rising x.
    pub front: Vec<Point>,
    /// Short recipe names beside the front.
    pub labels: Vec<String>,
    /// The front's corners: from each point along x, then down to the next.
    pub steps: Vec<PlotPoint>,
    /// The reference, if it has both values.
    pub reference: Option<PlotPoint>,
    /// Trials that ended early.
    pub failed: Vec<TrialId>,
    /// Finished trials whose layers are simulated, so that a chosen axis is not theirs.
    pub n_simulated_off: usize,
    /// Finished trials whose weights are masked and nothing else: not faster, so not on an axis of speed or memory.
    pub n_masked_off: usize,
    /// Finished trials without a chosen value because it was not measured.
    pub n_unmeasured: usize,
    /// Beaten trials that are not drawn because there are more than [`MAX_POINTS`].
    pub n_thinned: usize,
    /// Whether any drawn trial is simulated.
    pub has_simulated: bool,
    /// Objectives that no finished trial has a value of, each with the reason that a trial tells, if any.
    pub missing: Vec<(Objective, Option<String>)>,
}

impl TradeOff {
    /// The plot of `study` over two objectives.
    pub fn new(study: &Study, x: Objective, y: Objective) -> Self {
        let mut found: Vec<(TrialId, f64, f64, bool)> = Vec::new();
        let (mut failed, mut n_simulated_off, mut n_masked_off, mut n_unmeasured) = (Vec::new(), 0, 0, 0);
        for (id, trial) in &study.trials {
            match &trial.state {
                TrialState::Running => {}
                TrialState::Finished { outcome: Outcome::Failed(_), .. } => failed.push(*id),
                TrialState::Finished { outcome: Outcome::Done(measurements), .. } => {
                    let simulated = measurements.simulated_layers > 0;
                    let is_known = was_measured(x, measurements) && was_measured(y, measurements);
                    match (trial.value(x), trial.value(y)) {
                        (Some(x), Some(y)) => found.push((*id, x, y, simulated)),
                        _ if is_known && trial.spec.recipe.is_masked_only() => n_masked_off += 1,
                        _ if is_known && simulated => n_simulated_off += 1,
                        _ => n_unmeasured += 1,
                    }
                }
            }
        }
        let x = AxisScale::fit(x, found.iter().map(|point| point.1));
        let y = AxisScale::fit(y, found.iter().map(|point| point.2));
        let points: Vec<Point> = found
            .iter()
            .map(|&(id, px, py, simulated)| Point { id, at: PlotPoint::new(x.position(px), y.position(py)), simulated })
            .collect();
        let front_ids = pareto_front(study, x.objective, y.objective);
        let front: Vec<Point> = front_ids
            .iter()
            .filter_map(|id| points.binary_search_by_key(id, |point| point.id).ok().map(|index| points[index]))
            .collect();
        let on_front: BTreeSet<TrialId> = front_ids.into_iter().collect();
        let labels = front.iter().map(|point| short_name(study, point.id)).collect();
        let reference = points.first().filter(|point| point.id == TrialId(0)).map(|point| point.at);
        let beaten: Vec<Point> = points.iter().filter(|point| !on_front.contains(&point.id)).copied().collect();
        let (beaten, n_thinned) = thin(beaten);
        let places = |simulated: bool| beaten.iter().filter(|p| p.simulated == simulated).map(|p| p.at).collect();
        Self {
            steps: steps(&front),
            missing: missing(study),
            has_simulated: points.iter().any(|point| point.simulated),
            filled: places(false),
            hollow: places(true),
            x,
            y,
            beaten,
            front,
            labels,
            reference,
            failed,
            n_simulated_off,
            n_masked_off,
            n_unmeasured,
            n_thinned,
        }
    }

    /// The drawn trials, front last.
    pub fn drawn(&self) -> impl Iterator<Item = &Point> {
        self.beaten.iter().chain(&self.front)
    }

    /// Where a finished trial lies, drawn or thinned out; `None` when a value is missing.
    pub fn position(&self, study: &Study, id: TrialId) -> Option<PlotPoint> {
        let trial = study.trials.get(&id)?;
        let x = self.x.position(trial.value(self.x.objective)?);
        Some(PlotPoint::new(x, self.y.position(trial.value(self.y.objective)?)))
    }

    /// The whiskers of a trial: ends of the horizontal and of the vertical interval, where there are any.
    pub fn whiskers(&self, study: &Study, id: TrialId) -> Vec<[PlotPoint; 2]> {
        let Some(measurements) = study.trials.get(&id).and_then(|trial| trial.measurements()) else {
            return Vec::new();
        };
        let Some(at) = self.position(study, id) else { return Vec::new() };
        let horizontal = interval(self.x.objective, measurements)
            .map(|ends| ends.map(|end| PlotPoint::new(self.x.position(end), at.y)));
        let vertical = interval(self.y.objective, measurements)
            .map(|ends| ends.map(|end| PlotPoint::new(at.x, self.y.position(end))));
        horizontal.into_iter().chain(vertical).collect()
    }

    /// The plotted values, one trial a line, in the objectives' own units (nats, fractions, seconds, bytes).
    pub fn csv(&self, study: &Study) -> String {
        let mut out = format!("trial,recipe,{:?},{:?},simulated,on_front\n", self.x.objective, self.y.objective);
        let on_front: BTreeSet<TrialId> = self.front.iter().map(|point| point.id).collect();
        for (id, trial) in &study.trials {
            let Some(measurements) = trial.measurements() else { continue };
            let (Some(x), Some(y)) = (trial.value(self.x.objective), trial.value(self.y.objective)) else { continue };
            let name = trial.spec.recipe.name.replace('"', "\"\"");
            let simulated = measurements.simulated_layers > 0;
            let line = [
                id.0.to_string(),
                format!("\"{name}\""),
                x.to_string(),
                y.to_string(),
                simulated.to_string(),
                on_front.contains(id).to_string(),
            ];
            out.push_str(&line.join(","));
            out.push('\n');
        }
        out
    }
}

/// What no trial has; nothing is missing where no trial has ended.
fn missing(study: &Study) -> Vec<(Objective, Option<String>)> {
    let ended = || study.trials.values().filter_map(Trial::measurements);
    let is_missing = |objective: &Objective| ended().all(|found| !was_measured(*objective, found));
    let absent = Objective::ALL.into_iter().filter(|objective| ended().next().is_some() && is_missing(objective));
    absent
        .map(|objective| {
            let told = ended().find_map(|found| found.conditions.no_energy.clone());
            (objective, told.filter(|_| objective == Objective::DecodeEnergy))
        })
        .collect()
}

/// Whether the trial's record has the number at all, its own or not.
fn was_measured(objective: Objective, measurements: &Measurements) -> bool {
    match objective {
        Objective::Kl | Objective::PerplexityIncrease => measurements.quality.is_some(),
        Objective::DecodeLatency | Objective::PrefillLatency => measurements.speed.is_some(),
        Objective::WeightBytes => true,
        Objective::PeakMemory => measurements.memory.peak_bytes().is_some(),
        Objective::DecodeEnergy => {
            measurements.energy.as_ref().is_some_and(|energy| energy.decode_joules_per_token.is_some())
        }
    }
}

fn thin(beaten: Vec<Point>) -> (Vec<Point>, usize) {
    let stride = beaten.len().div_ceil(MAX_POINTS).max(1);
    let n = beaten.len();
    let kept: Vec<Point> = beaten.into_iter().step_by(stride).collect();
    let n_thinned = n - kept.len();
    (kept, n_thinned)
}

fn steps(front: &[Point]) -> Vec<PlotPoint> {
    let mut steps = Vec::with_capacity(2 * front.len());
    for (index, point) in front.iter().enumerate() {
        if let Some(before) = index.checked_sub(1).map(|index| front[index]) {
            steps.push(PlotPoint::new(point.at.x, before.at.y));
        }
        steps.push(point.at);
    }
    steps
}

/// The recipe's name, cut to what fits beside a point.
fn short_name(study: &Study, id: TrialId) -> String {
    const MOST: usize = 22;
    let Some(trial) = study.trials.get(&id) else { return id.to_string() };
    let name = trial.spec.recipe.name.trim();
    if name.is_empty() {
        id.to_string()
    } else if name.chars().count() > MOST {
        name.chars().take(MOST - 1).chain(['…']).collect()
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::plots::fixtures;

    #[test]
    fn simulated_trials_are_counted_off_the_axes_of_speed_and_kept_on_those_of_quality() {
        let study = fixtures::study(17);
        let speed = TradeOff::new(&study, Objective::DecodeLatency, Objective::Kl);
        // Trials 3, 4, 11 and 12 are simulated; 5 and 13 are masked and nothing else; 6 and 15 fail.
        assert_eq!((speed.n_simulated_off, speed.n_masked_off, speed.n_unmeasured), (4, 2, 0));
        assert_eq!(speed.failed, [TrialId(6), TrialId(15)]);
        assert_eq!(speed.drawn().count(), 17 - 4 - 2 - 2);
        assert!(!speed.has_simulated);
        let bytes = TradeOff::new(&study, Objective::WeightBytes, Objective::Kl);
        assert_eq!((bytes.n_simulated_off, bytes.drawn().count()), (0, 15));
        assert!(bytes.has_simulated);
    }

    #[test]
    fn the_front_goes_down_in_steps() {
        let study = fixtures::study(17);
        let plot = TradeOff::new(&study, Objective::WeightBytes, Objective::Kl);
        assert_eq!(plot.steps.len(), 2 * plot.front.len() - 1);
        for pair in plot.steps.windows(2) {
            assert!(pair[0].x == pair[1].x || pair[0].y == pair[1].y, "only right angles");
            assert!(pair[0].x <= pair[1].x && pair[0].y >= pair[1].y, "right, then down");
        }
        let kl = |at: &Point| at.at.y;
        for beaten in &plot.beaten {
            assert!(plot.front.iter().any(|point| point.at.x <= beaten.at.x && kl(point) <= kl(beaten)));
        }
        assert_eq!(plot.labels.len(), plot.front.len());
        assert_eq!(plot.reference, plot.position(&study, TrialId(0)));
    }

    #[test]
    fn an_empty_study_and_one_point_have_no_surprises() {
        let empty = TradeOff::new(&Study::default(), Objective::Kl, Objective::WeightBytes);
        assert_eq!((empty.drawn().count(), empty.steps.len(), empty.reference), (0, 0, None));
        let one = TradeOff::new(&fixtures::study(1), Objective::Kl, Objective::WeightBytes);
        assert_eq!((one.front.len(), one.steps.len()), (1, 1));
    }

    #[test]
    fn what_no_trial_has_is_told_with_its_reason() {
        let missing = |study: &Study| TradeOff::new(study, Objective::Kl, Objective::WeightBytes).missing;
        assert_eq!(missing(&Study::default()), []);
        let mut study = fixtures::study(4);
        assert_eq!(missing(&study), []);
        let mut change = |change: &dyn Fn(TrialId, &mut Measurements)| {
            for (id, trial) in &mut study.trials {
                if let TrialState::Finished { outcome: Outcome::Done(measured), .. } = &mut trial.state {
                    change(*id, measured);
                }
            }
            missing(&study)
        };
        assert_eq!(change(&|_, measured| measured.energy = None), [(Objective::DecodeEnergy, None)]);
        let reason = || Some("only root may read it".to_owned());
        let told = change(&|id, measured| measured.conditions.no_energy = reason().filter(|_| id == TrialId(2)));
        assert_eq!(told, [(Objective::DecodeEnergy, reason())]);
        let speed = change(&|_, measured| measured.speed = None);
        assert_eq!(speed[..2], [(Objective::DecodeLatency, None), (Objective::PrefillLatency, None)]);
    }

    impl TradeOff {
        fn is_drawn(&self, id: u32) -> bool {
            self.drawn().any(|point| point.id.0 == id)
        }
    }

    #[test]
    fn many_points_are_thinned_and_the_front_is_not() {
        let study = fixtures::study(30_000);
        let plot = TradeOff::new(&study, Objective::WeightBytes, Objective::Kl);
        assert!(plot.beaten.len() <= MAX_POINTS && plot.n_thinned > 0);
        assert_eq!(plot.front.len(), pareto_front(&study, Objective::WeightBytes, Objective::Kl).len());
        let hidden = plot.beaten.windows(2).map(|pair| pair[0].id.0 + 1).find(|id| id % 9 != 6 && !plot.is_drawn(*id));
        let thinned = TrialId(hidden.unwrap());
        assert!(plot.position(&study, thinned).is_some(), "a selected trial is found even when thinned out");
    }

    #[test]
    fn csv_has_raw_values_and_quotes_names() {
        let study = fixtures::study(3);
        let csv = TradeOff::new(&study, Objective::DecodeLatency, Objective::Kl).csv(&study);
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[0], "trial,recipe,DecodeLatency,Kl,simulated,on_front");
        assert_eq!(lines.len(), 4);
        assert!(lines[1].starts_with("0,\"reference\",0.00"), "{}", lines[1]);
    }
}

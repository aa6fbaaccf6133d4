//! The order and the text of the table of trials.

use std::cmp::Ordering;

use crate::app::plots::metrics::Metric;
use crate::study::{Caution, Outcome, Study, Trial, TrialId, TrialState};

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Number of the trial.
    Number,
    /// Name of the recipe.
    Recipe,
    /// A number.
    Metric(Metric),
    /// What the reader must know.
    Cautions,
    /// How the trial stands.
    State,
}

impl Column {
    /// Every column, from left to right.
    pub const ALL: [Self; 13] = [
        Self::Number,
        Self::Recipe,
        Self::Metric(Metric::Perplexity),
        Self::Metric(Metric::Kl),
        Self::Metric(Metric::Top1),
        Self::Metric(Metric::Prefill),
        Self::Metric(Metric::Decode),
        Self::Metric(Metric::Bytes),
        Self::Metric(Metric::Bits),
        Self::Metric(Metric::Peak),
        Self::Metric(Metric::Energy),
        Self::Cautions,
        Self::State,
    ];
}

/// The columns of a study's table: that of energy only where a trial has it, which few machines tell.
pub fn columns(study: &Study) -> Vec<Column> {
    let has_energy = || study.trials.values().filter_map(Trial::measurements).any(|found| found.energy.is_some());
    Column::ALL.into_iter().filter(|column| *column != Column::Metric(Metric::Energy) || has_energy()).collect()
}

/// The column that orders the table, and which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort {
    /// The column.
    pub column: Column,
    /// Largest first.
    pub descending: bool,
}

impl Default for Sort {
    fn default() -> Self {
        Self { column: Column::Number, descending: false }
    }
}

impl Sort {
    /// The order after a click on the header of `column`: the other way round, or that column from its smallest.
    #[must_use]
    pub fn after_click(self, column: Column) -> Self {
        Self { column, descending: self.column == column && !self.descending }
    }
}

/// What a row is ordered by; a missing value comes last whichever way.
enum Key {
    Number(f64),
    Text(String),
    Missing,
}

/// The trials that match `filter`, in the order of `sort`; equal ones by rising number.
///
/// The filter is looked for in number, recipe name, state, failure and cautions, without regard to case; several words
/// must all be found.
pub fn order(study: &Study, sort: Sort, filter: &str) -> Vec<TrialId> {
    let words: Vec<String> = filter.split_whitespace().map(str::to_lowercase).collect();
    let matching = study.trials.iter().filter(|(_, trial)| matches(trial, &words));
    if sort.column == Column::Number {
        let mut ids: Vec<TrialId> = matching.map(|(id, _)| *id).collect();
        if sort.descending {
            ids.reverse();
        }
        return ids;
    }
    let mut keyed: Vec<(Key, TrialId)> = matching.map(|(id, trial)| (key(trial, sort.column), *id)).collect();
    keyed.sort_by(|(a, id_a), (b, id_b)| compare(a, b, sort.descending).then(id_a.cmp(id_b)));
    keyed.into_iter().map(|(_, id)| id).collect()
}

fn compare(a: &Key, b: &Key, descending: bool) -> Ordering {
    let forward = match (a, b) {
        (Key::Number(a), Key::Number(b)) => a.total_cmp(b),
        (Key::Text(a), Key::Text(b)) => a.cmp(b),
        (Key::Missing, Key::Missing) => Ordering::Equal,
        (Key::Missing, _) => return Ordering::Greater,
        (_, Key::Missing) => return Ordering::Less,
        (Key::Number(_), Key::Text(_)) => Ordering::Less,
        (Key::Text(_), Key::Number(_)) => Ordering::Greater,
    };
    if descending { forward.reverse() } else { forward }
}

fn key(trial: &Trial, column: Column) -> Key {
    match column {
        Column::Number => Key::Number(f64::from(trial.spec.id.0)),
        Column::Recipe => Key::Text(trial.spec.recipe.name.to_lowercase()),
        Column::Metric(metric) => {
            trial.measurements().and_then(|measurements| metric.value(measurements)).map_or(Key::Missing, Key::Number)
        }
        Column::Cautions if trial.cautions().is_empty() => Key::Missing,
        Column::Cautions => Key::Text(caution_names(trial)),
        Column::State => Key::Text(state_name(trial).to_owned()),
    }
}

fn matches(trial: &Trial, words: &[String]) -> bool {
    if words.is_empty() {
        return true;
    }
    let mut text = format!("{} {} {} ", trial.spec.id, trial.spec.recipe.name, state_name(trial));
    if let TrialState::Finished { outcome: Outcome::Failed(failure), .. } = &trial.state {
        text.push_str(&failure.message);
    }
    text.push_str(&caution_names(trial));
    let text = text.to_lowercase();
    words.iter().all(|word| text.contains(word.as_str()))
}

/// Short name of how a trial stands; a failure by its class.
pub fn state_name(trial: &Trial) -> &'static str {
    match &trial.state {
        TrialState::Running => "running",
        TrialState::Finished { outcome: Outcome::Done(_), .. } => "done",
        TrialState::Finished { outcome: Outcome::Failed(failure), .. } => failure.kind.label(),
    }
}

/// Short names of a trial's cautions, joined by commas.
pub fn caution_names(trial: &Trial) -> String {
    let names: Vec<&str> = trial.cautions().iter().map(caution_name).collect();
    names.join(", ")
}

fn caution_name(caution: &Caution) -> &'static str {
    match caution {
        Caution::Simulated { .. } => "simulated",
        Caution::Masked { .. } => "masked",
        Caution::Widened { .. } => "widened",
        Caution::Disturbed { .. } => "disturbed",
        Caution::PartOfSplit { .. } => "part of split",
        Caution::LostLiveSamples { .. } => "lost samples",
        Caution::ThinCalibration { .. } => "thin calibration",
        Caution::ShortCalibration { .. } => "short calibration",
        Caution::CalibratedOnScored => "calibrated on this text",
        Caution::Noted { .. } => "see notes",
        Caution::SlowLowRank { .. } => "slow low rank",
        Caution::FarFromBandwidth { .. } => "far from bandwidth",
        Caution::FreshWorker => "fresh worker",
    }
}

/// Raw values of one trial, separated by tabs: number, recipe, every metric in its unit, cautions, state.
pub fn raw_row(trial: &Trial) -> String {
    let mut fields = vec![trial.spec.id.0.to_string(), trial.spec.recipe.name.replace(['\t', '\n'], " ")];
    for metric in Metric::ALL {
        let value = trial.measurements().and_then(|measurements| metric.value(measurements));
        fields.push(value.map(|value| value.to_string()).unwrap_or_default());
    }
    fields.push(caution_names(trial));
    fields.push(state_name(trial).to_owned());
    fields.join("\t")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::plots::fixtures;
    use crate::study::StudyEvent;

    fn ids(study: &Study, column: Column, descending: bool, filter: &str) -> Vec<u32> {
        order(study, Sort { column, descending }, filter).into_iter().map(|id| id.0).collect()
    }

    #[test]
    fn missing_values_come_last_both_ways_and_ties_keep_their_order() {
        // 3 and 4 are simulated, 6 failed; all of them lack a speed.
        let study = fixtures::study(9);
        let decode = Column::Metric(Metric::Decode);
        for descending in [false, true] {
            let found = ids(&study, decode, descending, "");
            assert_eq!(found[6..], [3, 4, 6], "descending: {descending}");
            assert_eq!(found.len(), 9);
        }
        let forward = ids(&study, decode, false, "");
        let back = ids(&study, decode, true, "");
        assert_eq!(forward[..6].iter().rev().copied().collect::<Vec<_>>(), back[..6]);

        let bits = Column::Metric(Metric::Bits);
        assert_eq!(ids(&study, bits, false, ""), [2, 4, 7, 8, 1, 0, 3, 5, 6]);
        assert_eq!(ids(&study, bits, true, ""), [0, 3, 5, 1, 8, 7, 4, 2, 6], "ties still rise");
    }

    #[test]
    fn the_filter_looks_at_names_states_and_cautions() {
        let study = fixtures::study(12);
        for (filter, expected) in [
            ("q8", vec![1, 8, 9]),
            ("Q8 mlp", vec![8]),
            ("memory", vec![6]),
            ("simulated", vec![3, 4, 11]),
            ("#10", vec![10]),
            ("nothing like this", vec![]),
        ] {
            assert_eq!(ids(&study, Column::Number, false, filter), expected, "{filter}");
        }
    }

    #[test]
    fn every_column_sorts_every_state() {
        let mut study = fixtures::running(9);
        study.apply(&StudyEvent::TrialStarted { spec: Box::new(fixtures::spec(40)) });
        for column in Column::ALL {
            for descending in [false, true] {
                assert_eq!(ids(&study, column, descending, "").len(), 11, "{column:?}");
            }
        }
        assert_eq!(ids(&study, Column::State, false, "")[8..], [6, 9, 40]);
    }

    #[test]
    fn a_second_click_turns_the_order_round() {
        let sort = Sort::default().after_click(Column::Recipe);
        assert_eq!((sort.column, sort.descending), (Column::Recipe, false));
        assert!(sort.after_click(Column::Recipe).descending);
    }

    #[test]
    fn a_copied_row_has_raw_values() {
        let study = fixtures::study(7);
        let failed = raw_row(&study.trials[&TrialId(6)]);
        assert_eq!(failed, "6\tq6k\t\t\t\t\t\t\t\t\t\t\tout of memory");
        let done = raw_row(&study.trials[&TrialId(1)]);
        let fields: Vec<&str> = done.split('\t').collect();
        assert_eq!(fields.len(), Column::ALL.len());
        assert_eq!(fields[8], "8.5");
    }
}

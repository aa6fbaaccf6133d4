//! How an objective lies along an axis: unit, linear or logarithmic, ticks.

use egui_plot::{GridInput, GridMark};

use crate::study::{Measurements, Objective};
use crate::units::significant;

/// Largest over smallest positive value from which an axis is logarithmic.
const LOG_FROM: f64 = 40.0;

/// What one axis shows and how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AxisScale {
    /// The quantity.
    pub objective: Objective,
    /// On a logarithmic axis: the position, as a power of ten, where values that are not positive lie.
    pub floor: Option<f64>,
}

impl AxisScale {
    /// Logarithmic when the positive values span a factor of 40 or more, and no value is clearly below zero.
    pub fn fit(objective: Objective, values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high, mut negative) = (f64::INFINITY, 0.0_f64, 0.0_f64);
        for value in values.map(|value| value * factor(objective)) {
            if value > 0.0 {
                low = low.min(value);
                high = high.max(value);
            }
            negative = negative.min(value);
        }
        let is_log = high / low >= LOG_FROM && -negative < high / LOG_FROM;
        Self { objective, floor: is_log.then(|| (low.log10() - 0.5).floor()) }
    }

    /// Where `value` (in the objective's own unit) lies along the axis.
    pub fn position(&self, value: f64) -> f64 {
        let value = value * factor(self.objective);
        match self.floor {
            None => value,
            Some(floor) if value > 0.0 => value.log10().max(floor),
            Some(floor) => floor,
        }
    }

    /// The text of a tick at `position`.
    pub fn tick(&self, position: f64) -> String {
        match self.floor {
            None => trim_zeros(significant((position * 1e9).round() / 1e9, 4)),
            Some(floor) if position <= floor => "≤ 0".to_owned(),
            Some(_) => {
                let value = 10_f64.powf(position);
                if value >= 1000.0 { significant(value, 3) } else { significant(value, 1) }
            }
        }
    }

    /// Grid marks: 1, 2 and 5 of each power of ten and the floor on a logarithmic axis, round steps otherwise.
    pub fn marks(&self, input: &GridInput) -> Vec<GridMark> {
        let (first, last) = input.bounds;
        match self.floor {
            None => linear_marks(input),
            Some(floor) => log_marks(floor, first, last),
        }
    }
}

/// `10.00` is `10` on an axis.
fn trim_zeros(text: String) -> String {
    if text.contains('.') && !text.contains('e') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// Marks at multiples of 1, 2 or 5 times a power of ten, at most about six of them and far enough apart to be labelled.
pub fn linear_marks(input: &GridInput) -> Vec<GridMark> {
    let (first, last) = input.bounds;
    let span = last - first;
    if !span.is_finite() || span <= 0.0 {
        return Vec::new();
    }
    // The base step is the least distance of grid lines; labels need three times as much.
    let rough = (span / 6.0).max(3.0 * input.base_step_size);
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|step| *step >= rough).unwrap_or(rough);
    let start = (first / step).ceil() as i64;
    let end = ((last / step).floor() as i64).min(start + 60);
    (start..=end).map(|n| GridMark { value: n as f64 * step, step_size: step }).collect()
}

/// Marks of decimal logarithms between two of them: 1, 2 and 5 of each power of ten where there is room, and the `floor`,
/// where values lie that have no logarithm.
pub fn log_marks(floor: f64, first: f64, last: f64) -> Vec<GridMark> {
    let decades = (first.max(-300.0).floor() as i32)..=(last.min(300.0).ceil() as i32);
    let many = last - first > 2.5;
    let mut marks = Vec::new();
    if floor >= first && floor <= last {
        marks.push(GridMark { value: floor, step_size: 1.0 });
    }
    for decade in decades {
        for (multiple, step_size) in [(1.0_f64, 1.0), (2.0, 0.4), (5.0, 0.4)] {
            let value = f64::from(decade) + multiple.log10();
            if value > floor && value >= first && value <= last && (multiple == 1.0 || !many) {
                marks.push(GridMark { value, step_size });
            }
        }
    }
    marks
}

/// From the objective's own unit to the axis' unit: nats, per cent, milliseconds, mebibytes, millijoules.
pub fn factor(objective: Objective) -> f64 {
    match objective {
        Objective::Kl => 1.0,
        Objective::PerplexityIncrease => 100.0,
        Objective::DecodeLatency | Objective::PrefillLatency | Objective::DecodeEnergy => 1e3,
        Objective::WeightBytes | Objective::PeakMemory => 1.0 / f64::from(1 << 20),
    }
}

/// The 95 % interval of an objective, for the objectives that have one.
pub fn interval(objective: Objective, measurements: &Measurements) -> Option<[f64; 2]> {
    objective.value(measurements)?;
    let speed = measurements.speed.as_ref();
    match objective {
        Objective::Kl => Some(measurements.quality.as_ref()?.kl_mean.ci95),
        Objective::PerplexityIncrease => {
            Some(measurements.quality.as_ref()?.log_perplexity_difference.ci95.map(f64::exp_m1))
        }
        Objective::DecodeLatency => Some(speed?.decode.latency_secs.ci95),
        Objective::PrefillLatency => Some(speed?.prefill.latency_secs.ci95),
        Objective::DecodeEnergy => Some(measurements.energy.as_ref()?.decode_joules_per_token?.ci95),
        Objective::WeightBytes | Objective::PeakMemory => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_range_is_logarithmic_with_a_floor_for_zero() {
        let scale = AxisScale::fit(Objective::Kl, [0.0, 0.0003, 0.02, 1.2].into_iter());
        let floor = scale.floor.unwrap();
        assert_eq!(floor, -5.0);
        assert_eq!(scale.position(0.0), floor);
        assert_eq!(scale.position(0.1), -1.0);
        assert_eq!(scale.tick(floor), "≤ 0");
        assert_eq!(scale.tick(-1.0), "0.1");
        let marks = scale.marks(&GridInput { bounds: (-5.1, 0.1), base_step_size: 0.1 });
        let values: Vec<f64> = marks.iter().map(|mark| mark.value).collect();
        assert_eq!(values, [-5.0, -4.0, -3.0, -2.0, -1.0, 0.0]);
    }

    #[test]
    fn a_narrow_or_negative_range_is_linear() {
        for values in [vec![], vec![0.0], vec![1.0, 20.0], vec![-1.0, 0.001, 2.0]] {
            assert_eq!(AxisScale::fit(Objective::Kl, values.into_iter()).floor, None);
        }
        let scale = AxisScale::fit(Objective::WeightBytes, [9e6, 30e6].into_iter());
        assert!((scale.position(f64::from(1 << 20)) - 1.0).abs() < 1e-12);
        let marks = scale.marks(&GridInput { bounds: (8.0, 31.0), base_step_size: 0.1 });
        assert_eq!(marks.first().unwrap().value, 10.0);
        for (position, expected) in [(10.0, "10"), (0.5, "0.5"), (0.0, "0"), (100.0, "100")] {
            assert_eq!(scale.tick(position), expected);
        }
    }
}

//! A series small enough for the space of a word.

use egui_plot::PlotPoint;

/// Points in 0..1 along the time and up the range; empty with fewer than two readings.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sparkline {
    /// By rising x.
    pub points: Vec<PlotPoint>,
}

/// The mean reading of each of `columns` stretches of time, from the lowest to the highest; absent readings leave a stretch
/// out.
///
/// A range below 2 % of the highest reading lies flat in the middle: noise must not look like a swing.
pub fn sparkline(readings: impl Iterator<Item = (f64, Option<f64>)>, columns: usize) -> Sparkline {
    let readings: Vec<(f64, f64)> = readings.filter_map(|(at, value)| Some((at, value?))).collect();
    let (Some(first), Some(last)) = (readings.first(), readings.last()) else { return Sparkline::default() };
    let span = last.0 - first.0;
    if span <= 0.0 || columns == 0 {
        return Sparkline::default();
    }
    let column_of = |at: f64| (((at - first.0) / span * columns as f64) as usize).min(columns - 1);
    let means: Vec<(f64, f64)> = readings
        .chunk_by(|a, b| column_of(a.0) == column_of(b.0))
        .map(|run| {
            let mean = run.iter().map(|reading| reading.1).sum::<f64>() / run.len() as f64;
            ((column_of(run[0].0) as f64 + 0.5) / columns as f64, mean)
        })
        .collect();
    let low = means.iter().map(|mean| mean.1).fold(f64::INFINITY, f64::min);
    let high = means.iter().map(|mean| mean.1).fold(f64::NEG_INFINITY, f64::max);
    let range = high - low;
    let flat = range <= 0.02 * high.abs();
    let up = |value: f64| if flat { 0.5 } else { (value - low) / range };
    Sparkline { points: means.iter().map(|(at, value)| PlotPoint::new(*at, up(*value))).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_fill_the_range_and_absent_ones_are_left_out() {
        let line = sparkline((0..600).map(|at| (f64::from(at), (at % 2 == 0).then(|| f64::from(at)))), 60);
        assert_eq!(line.points.len(), 60);
        assert_eq!((line.points[0].y, line.points[59].y), (0.0, 1.0));
        assert!(line.points.windows(2).all(|pair| pair[0].x < pair[1].x && pair[0].y < pair[1].y));
    }

    #[test]
    fn noise_lies_flat_and_nothing_gives_nothing() {
        let flat = sparkline((0..100).map(|at| (f64::from(at), Some(100.0 + f64::from(at % 2)))), 20);
        assert!(flat.points.iter().all(|point| point.y == 0.5));
        assert_eq!(sparkline(std::iter::empty(), 20), Sparkline::default());
        assert_eq!(sparkline([(1.0, Some(3.0))].into_iter(), 20), Sparkline::default());
        assert_eq!(sparkline((0..9).map(|at| (f64::from(at), None)), 20), Sparkline::default());
    }
}

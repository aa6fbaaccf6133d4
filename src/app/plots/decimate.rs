//! Fewer points with the same picture.

use egui_plot::PlotPoint;

/// Series up to this length are drawn as they are.
pub const RAW_LIMIT: usize = 4_000;

/// The lowest and the highest point of each of `columns` pixel columns.
///
/// `points` rise in x. They keep their order, the first and the last one stay, and series up to [`RAW_LIMIT`] stay whole.
/// Every value of the result is one of the input: an outlier is never smoothed away.
pub fn min_max(points: Vec<PlotPoint>, columns: usize) -> Vec<PlotPoint> {
    let (Some(first), Some(last)) = (points.first().copied(), points.last().copied()) else { return points };
    let span = last.x - first.x;
    if points.len() <= RAW_LIMIT || columns == 0 || span <= 0.0 {
        return points;
    }
    let column_of = |x: f64| (((x - first.x) / span * columns as f64) as usize).min(columns - 1);
    let mut out = Vec::with_capacity(2 * columns + 2);
    out.push(first);
    for column in points.chunk_by(|a, b| column_of(a.x) == column_of(b.x)) {
        let (mut low, mut high) = (0, 0);
        for (index, point) in column.iter().enumerate() {
            if point.y < column[low].y {
                low = index;
            }
            if point.y > column[high].y {
                high = index;
            }
        }
        out.push(column[low.min(high)]);
        if low != high {
            out.push(column[low.max(high)]);
        }
    }
    out.push(last);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_and_ends_survive() {
        let mut points: Vec<PlotPoint> = (0..50_000).map(|i| PlotPoint::new(i, f64::from(i % 7))).collect();
        points[31_337].y = 1000.0;
        points[31_338].y = -1000.0;
        let out = min_max(points.clone(), 300);
        assert!(out.len() <= 602, "{}", out.len());
        assert!(out.iter().any(|p| p.y == 1000.0) && out.iter().any(|p| p.y == -1000.0));
        assert_eq!((out[0], out[out.len() - 1]), (points[0], points[49_999]));
        assert!(out.windows(2).all(|pair| pair[0].x <= pair[1].x), "order is kept");
    }

    #[test]
    fn short_and_degenerate_series_stay() {
        for points in [vec![], vec![PlotPoint::new(0, 1)], vec![PlotPoint::new(3, 1); 5000]] {
            assert_eq!(min_max(points.clone(), 100), points);
        }
        let points: Vec<PlotPoint> = (0..4000).map(|i| PlotPoint::new(i, i)).collect();
        assert_eq!(min_max(points.clone(), 10).len(), 4000);
    }
}

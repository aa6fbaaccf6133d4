//! A profile as it is drawn: rows, bars and points, without paint.

use std::cmp::Ordering;

use egui_plot::PlotPoint;

use crate::measure::roofline::{self, Bottleneck, Effort, Roof};
use crate::model::{Operation, OperationGroup};
use crate::study::{Ceilings, PassProfile};

/// Decades beyond the points that the roofline plot shows.
const MARGIN: f64 = 0.6;

/// A column of the table of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// The operation, in the order of execution.
    Operation,
    /// Its time over all blocks, and its share.
    Time,
    /// Operations a second.
    Flops,
    /// Bytes a second.
    Bytes,
    /// Share of its ceiling.
    Ceiling,
    /// What it is bound by.
    Bound,
}

impl Column {
    /// Every column, from left to right.
    pub const ALL: [Self; 6] = [Self::Operation, Self::Time, Self::Flops, Self::Bytes, Self::Ceiling, Self::Bound];
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
        Self { column: Column::Operation, descending: false }
    }
}

impl Sort {
    /// The order after a click on the header of `column`: the other way round, or that column; numbers begin with the
    /// largest.
    #[must_use]
    pub fn after_click(self, column: Column) -> Self {
        let is_number = !matches!(column, Column::Operation | Column::Bound);
        Self { column, descending: if self.column == column { !self.descending } else { is_number } }
    }
}

/// A point of the roofline plot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// The operation, over all blocks.
    pub operation: Operation,
    /// Decimal logarithms of operations a byte and operations a second.
    pub at: PlotPoint,
    /// Its effort.
    pub effort: Effort,
}

/// A ceiling of the roofline plot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoofLine {
    /// What it is.
    pub roof: Roof,
    /// Its ends, as decimal logarithms.
    pub ends: [PlotPoint; 2],
}

/// One bar: a block, or what lies outside of the blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// The block.
    pub block: Option<u16>,
    /// Seconds by part, in the order of the parts.
    pub parts: Vec<(OperationGroup, f64)>,
}

impl Bar {
    /// All of its time, in seconds.
    pub fn secs(&self) -> f64 {
        self.parts.iter().map(|(_, secs)| secs).sum()
    }
}

/// One pass of a profile, ready to be drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct PassView {
    /// All of it.
    pub total: Effort,
    /// Each operation over all blocks, in the order asked for.
    pub rows: Vec<(Operation, Effort)>,
    /// Each part.
    pub groups: Vec<(OperationGroup, Effort)>,
    /// The blocks in order, what lies outside of them last.
    pub bars: Vec<Bar>,
    /// Operations that compute anything.
    pub points: Vec<Point>,
    /// The ceilings, as far as the plot shows them.
    pub roofs: Vec<RoofLine>,
    /// What limits the pass.
    pub bottleneck: Option<Bottleneck>,
}

impl PassView {
    /// The pass with its rows in this order.
    pub fn new(pass: &PassProfile, ceilings: &Ceilings, sort: Sort) -> Self {
        let by_operation = roofline::by_operation(pass, ceilings);
        let points: Vec<Point> =
            by_operation.iter().filter_map(|(operation, effort)| point(*operation, effort)).collect();
        let mut rows = by_operation;
        rows.sort_by(|a, b| compare(a, b, sort));
        let parts = roofline::by_block(pass, ceilings);
        let bar = |row: &[((Option<u16>, OperationGroup), Effort)]| Bar {
            block: row[0].0.0,
            parts: row.iter().map(|((_, group), effort)| (*group, effort.secs)).collect(),
        };
        let mut bars: Vec<Bar> = parts.chunk_by(|a, b| a.0.0 == b.0.0).map(bar).collect();
        bars.sort_by_key(|bar| (bar.block.is_none(), bar.block));
        Self {
            total: roofline::total(pass, ceilings),
            rows,
            groups: roofline::by_group(pass, ceilings),
            bars,
            roofs: roof_lines(&points, ceilings),
            points,
            bottleneck: roofline::bottleneck(pass, ceilings),
        }
    }

    /// The time of the longest bar, in seconds; above 0.
    pub fn longest(&self) -> f64 {
        self.bars.iter().map(Bar::secs).fold(f64::MIN_POSITIVE, f64::max)
    }
}

fn point(operation: Operation, effort: &Effort) -> Option<Point> {
    let (intensity, rate) = (effort.intensity()?, effort.flops_per_second()?);
    let at = PlotPoint::new(intensity.log10(), rate.log10());
    (at.x.is_finite() && at.y.is_finite()).then_some(Point { operation, at, effort: *effort })
}

fn compare(a: &(Operation, Effort), b: &(Operation, Effort), sort: Sort) -> Ordering {
    let number = |of: fn(&Effort) -> Option<f64>| of(&a.1).unwrap_or(0.0).total_cmp(&of(&b.1).unwrap_or(0.0));
    let order = match sort.column {
        Column::Operation => a.0.cmp(&b.0),
        Column::Time => a.1.secs.total_cmp(&b.1.secs),
        Column::Flops => number(Effort::flops_per_second),
        Column::Bytes => number(Effort::bytes_per_second),
        Column::Ceiling => number(Effort::ceiling_share),
        Column::Bound => a.1.bound().cmp(&b.1.bound()),
    };
    if sort.descending { order.reverse() } else { order }.then(a.0.cmp(&b.0))
}

/// The ceilings over the intensities of the points: memories up to the highest arithmetic, arithmetic from the fastest
/// memory on.
fn roof_lines(points: &[Point], ceilings: &Ceilings) -> Vec<RoofLine> {
    let roofs = roofline::roofs(ceilings);
    let xs = points.iter().map(|point| point.at.x);
    let (low, high) = xs.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    if low > high {
        return Vec::new();
    }
    let is_memory = |roof: &Roof| matches!(roof, Roof::Read(..));
    let top = |memory: bool| {
        roofs.iter().filter(|roof| is_memory(roof) == memory).map(|roof| roof.at(1.0)).fold(0.0, f64::max).log10()
    };
    let (fastest, peak) = (top(true), top(false));
    // As far to the right as the slowest memory meets the peak, so that every ridge is in view.
    let slowest = roofs.iter().filter(|roof| is_memory(roof)).map(|roof| roof.at(1.0).log10());
    let ridge = slowest.fold(fastest, f64::min);
    let (low, high) = (low - MARGIN, high.max(peak - ridge) + MARGIN);
    let line = |roof: Roof| {
        let height = roof.at(1.0).log10();
        let ends = if is_memory(&roof) {
            let end = (peak - height).max(low);
            [PlotPoint::new(low, height + low), PlotPoint::new(end, height + end)]
        } else {
            let begin = (height - fastest).clamp(low, high);
            [PlotPoint::new(begin, height), PlotPoint::new(high, height)]
        };
        RoofLine { roof, ends }
    };
    let is_drawn = |line: &RoofLine| line.ends.iter().all(|end| end.x.is_finite() && end.y.is_finite());
    roofs.into_iter().map(line).filter(is_drawn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Arithmetic;
    use crate::study::{MemoryLevel, OperationProfile, PassKind, ReadCeiling};

    fn pass() -> (PassProfile, Ceilings) {
        let operation = |block, operation, nanos, flops| OperationProfile {
            block,
            operation,
            nanos,
            span_nanos: [0, nanos],
            flops,
            streamed_bytes: 1000,
            activation_bytes: 0,
            arithmetic: Arithmetic::Float,
            product: None,
        };
        let operations = vec![
            operation(None, Operation::Embedding, 10, 0),
            operation(Some(0), Operation::Query, 100, 1_000),
            operation(Some(0), Operation::Down, 300, 100_000),
            operation(Some(1), Operation::Query, 50, 1_000),
            operation(None, Operation::Head, 90, 2_000),
        ];
        let read =
            ReadCeiling { memory: MemoryLevel::Main, capacity_bytes: None, buffer_bytes: 1, bytes_per_second: 10e9 };
        let ceilings = Ceilings {
            reads: vec![read],
            float_flops: 1e12,
            int8_ops: None,
            hand_over_secs: 1e-6,
            threads: 1,
            instructions: String::new(),
            tensor_flops: None,
            tensor_int8_ops: None,
            card: None,
        };
        let kind = PassKind::Prefill { tokens: 2 };
        let pass = PassProfile {
            kind,
            repetitions: 2,
            profiled_nanos: 550,
            plain_nanos: 540,
            card_nanos: None,
            overhead: None,
            operations,
        };
        (pass, ceilings)
    }

    #[test]
    fn rows_are_sorted_and_bars_are_whole() {
        use Operation::{Down, Embedding, Head, Query};

        let (pass, ceilings) = pass();
        let order = |sort: Sort| {
            let view = PassView::new(&pass, &ceilings, sort);
            view.rows.iter().map(|(operation, _)| *operation).collect::<Vec<_>>()
        };
        assert_eq!(order(Sort::default()), [Embedding, Query, Down, Head]);
        let by_time = Sort::default().after_click(Column::Time);
        assert_eq!(order(by_time), [Down, Query, Head, Embedding]);
        assert_eq!(order(by_time.after_click(Column::Time)), [Embedding, Head, Query, Down]);
        let view = PassView::new(&pass, &ceilings, by_time);
        let bars: Vec<(Option<u16>, f64)> =
            view.bars.iter().map(|bar| (bar.block, (bar.secs() * 1e9).round())).collect();
        assert_eq!(bars, [(Some(0), 400.0), (Some(1), 50.0), (None, 100.0)]);
        assert!((view.longest() - 400e-9).abs() < 1e-15);
    }

    #[test]
    fn roofs_meet_and_points_without_work_are_left_out() {
        let (pass, ceilings) = pass();
        let view = PassView::new(&pass, &ceilings, Sort::default());
        assert_eq!(view.points.len(), 3, "an embedding computes nothing");
        let [memory, compute] = &view.roofs[..] else { panic!("two roofs: {:?}", view.roofs) };
        let (ridge, flat) = (memory.ends[1], compute.ends);
        // 1e12 over 1e10 is an intensity of 100.
        assert!((ridge.x - 2.0).abs() < 1e-9 && (ridge.y - 12.0).abs() < 1e-9, "{ridge:?}");
        assert!((flat[0].x - 2.0).abs() < 1e-9 && (flat[1].y - 12.0).abs() < 1e-9 && flat[1].x > 2.0, "{flat:?}");
        let down = view.points.iter().find(|point| point.operation == Operation::Down).unwrap();
        assert!((down.at.x - 2.0).abs() < 1e-9 && down.at.y < 12.0);
    }
}

//! Horizontal bars with whiskers.

use crate::export::report::svg::{Scale, Svg, shorten};

const WIDTH: f64 = 760.0;
const ROW: f64 = 24.0;
/// Room for the names on the left, and for the numbers on the right.
const LABELS: f64 = 230.0;
const NUMBERS: f64 = 250.0;

/// One bar.
pub(super) struct Bar {
    /// The trial.
    pub(super) label: String,
    /// Its length.
    pub(super) value: f64,
    /// Its whiskers.
    pub(super) ci95: Option<[f64; 2]>,
    /// The number in words, with its interval.
    pub(super) text: String,
    /// Whether the number is the variant's own; otherwise the bar is hollow.
    pub(super) is_own: bool,
    /// Whether it is the reference.
    pub(super) is_reference: bool,
}

/// Bars from 0, one a row, or `None` without any.
pub(super) fn bars(label: &str, bars: &[Bar]) -> Option<String> {
    if bars.is_empty() {
        return None;
    }
    let ends = bars.iter().map(|bar| bar.ci95.map_or(bar.value, |[_, high]| high.max(bar.value)));
    let high = ends.fold(0.0, f64::max);
    let scale = Scale::Linear { low: 0.0, high: if high > 0.0 { high * 1.02 } else { 1.0 } };
    let room = WIDTH - LABELS - NUMBERS;
    let x = |value: f64| LABELS + room * scale.place(value).clamp(0.0, 1.0);
    let mut svg = Svg::new(WIDTH, ROW * bars.len() as f64 + 8.0, label);
    for (position, bar) in bars.iter().enumerate() {
        let top = ROW * position as f64 + 4.0;
        let middle = top + ROW / 2.0;
        let class = match (bar.is_reference, bar.is_own) {
            (_, false) => "bar hollow",
            (true, true) => "bar reference",
            (false, true) => "bar",
        };
        svg.text("label", [LABELS - 8.0, middle + 4.0], "end", &shorten(&bar.label, 32));
        svg.rect(class, [LABELS, top + 4.0], [x(bar.value) - LABELS, ROW - 8.0]);
        if let Some([low, high]) = bar.ci95 {
            svg.line("whisker", [x(low), middle], [x(high), middle]);
            for end in [low, high] {
                svg.line("whisker", [x(end), middle - 5.0], [x(end), middle + 5.0]);
            }
        }
        svg.text("number", [WIDTH - NUMBERS + 8.0, middle + 4.0], "start", &bar.text);
    }
    svg.line("axis", [LABELS, 0.0], [LABELS, svg.height()]);
    Some(svg.finish())
}

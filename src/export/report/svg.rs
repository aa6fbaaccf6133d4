//! Axes and text of the report's plots. Colors and strokes are the style sheet's; coordinates are in CSS pixels.

use std::fmt::Write as _;

/// Text that is safe between tags and in attributes. Characters that XML forbids are left out.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(letter),
            _ if letter.is_control() => {}
            _ => out.push(letter),
        }
    }
    out
}

/// Appends text to markup.
pub(super) fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes any text");
}

/// The first `limit` characters of `text`, with `…` where something was cut.
pub(super) fn shorten(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(limit.saturating_sub(1)).collect();
    out.push('…');
    out
}

/// How values become positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// Evenly between two values.
    Linear {
        /// At the start.
        low: f64,
        /// At the end; above `low`.
        high: f64,
    },
    /// Evenly in the logarithm between two positive values, after a first tenth that is kept for 0 and below.
    Log {
        /// Above the first tenth.
        low: f64,
        /// At the end; above `low`.
        high: f64,
    },
}

/// The share of a logarithmic axis that is kept for 0.
const ZERO_SHARE: f64 = 0.1;

impl Scale {
    /// A scale for these values: logarithmic where positive ones span more than a factor of 30.
    pub(super) fn around(values: impl Iterator<Item = f64> + Clone) -> Self {
        let low = values.clone().fold(f64::INFINITY, f64::min);
        let high = values.clone().fold(f64::NEG_INFINITY, f64::max);
        let positive = values.filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
        if positive.is_finite() && high > 30.0 * positive {
            return Self::Log { low: positive / 1.5, high: high * 1.5 };
        }
        if !low.is_finite() {
            return Self::Linear { low: 0.0, high: 1.0 };
        }
        let margin = if high > low { (high - low) * 0.08 } else { high.abs().max(1e-9) * 0.1 };
        let start = if low >= 0.0 { (low - margin).max(0.0) } else { low - margin };
        Self::Linear { low: start, high: high + margin }
    }

    /// The place of `value`, 0 at the start of the axis and 1 at its end.
    pub(super) fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear { low, high } => (value - low) / (high - low),
            Self::Log { .. } if value <= 0.0 => ZERO_SHARE / 2.0,
            Self::Log { low, high } => {
                let share = (value.max(low) / low).ln() / (high / low).ln();
                ZERO_SHARE + (1.0 - ZERO_SHARE) * share
            }
        }
    }

    /// Round values on the axis, about `wanted` of them.
    pub(super) fn ticks(self, wanted: usize) -> Vec<f64> {
        match self {
            Self::Linear { low, high } => {
                let step = round_step((high - low) / wanted.max(1) as f64);
                let first = (low / step).ceil() as i64;
                let last = (high / step).floor() as i64;
                (first..=last).map(|position| position as f64 * step).collect()
            }
            Self::Log { low, high } => {
                let decades = (low.log10().ceil() as i32)..=(high.log10().floor() as i32);
                let mut ticks = vec![0.0];
                ticks.extend(decades.map(|power| 10_f64.powi(power)));
                ticks
            }
        }
    }
}

/// The smallest of 1, 2, 5, 10, … times a power of ten that is at least `rough`.
fn round_step(rough: f64) -> f64 {
    let power = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough * 0.999).unwrap_or(rough)
}

/// A picture under construction.
pub(super) struct Svg {
    body: String,
    width: f64,
    height: f64,
}

impl Svg {
    /// An empty picture; `label` is what a screen reader says.
    pub(super) fn new(width: f64, height: f64, label: &str) -> Self {
        let body = format!(
            "<svg role=\"img\" viewBox=\"0 0 {width} {height}\" style=\"max-width:{width}px\" aria-label=\"{}\">\n",
            escape(label)
        );
        Self { body, width, height }
    }

    /// Its width.
    pub(super) fn width(&self) -> f64 {
        self.width
    }

    /// Its height.
    pub(super) fn height(&self) -> f64 {
        self.height
    }

    /// A line between two points.
    pub(super) fn line(&mut self, class: &str, from: [f64; 2], to: [f64; 2]) {
        let [x1, y1, x2, y2] = [from[0], from[1], to[0], to[1]].map(coordinate);
        self.push(format_args!("<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>"));
    }

    /// A rectangle by its corner and size.
    pub(super) fn rect(&mut self, class: &str, corner: [f64; 2], size: [f64; 2]) {
        let [x, y, width, height] = [corner[0], corner[1], size[0].max(0.0), size[1].max(0.0)].map(coordinate);
        self.push(format_args!("<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"/>"));
    }

    /// A path of straight lines.
    pub(super) fn polyline(&mut self, class: &str, points: &[[f64; 2]]) {
        let points: Vec<String> =
            points.iter().map(|[x, y]| format!("{},{}", coordinate(*x), coordinate(*y))).collect();
        self.push(format_args!("<polyline class=\"{class}\" points=\"{}\"/>", points.join(" ")));
    }

    /// A point: round when `measured`, a diamond otherwise, with a text that shows when it is pointed at.
    pub(super) fn point(&mut self, class: &str, at: [f64; 2], measured: bool, title: &str) {
        let [x, y] = at.map(coordinate);
        let title = escape(title);
        if measured {
            self.push(format_args!(
                "<circle class=\"{class}\" cx=\"{x}\" cy=\"{y}\" r=\"5\"><title>{title}</title></circle>"
            ));
        } else {
            self.push(format_args!(
                "<path class=\"{class}\" d=\"M{x} {y} m0 -6 l6 6 l-6 6 l-6 -6 z\"><title>{title}</title></path>"
            ));
        }
    }

    /// Text whose `anchor` (`start`, `middle`, `end`) is at a point.
    pub(super) fn text(&mut self, class: &str, at: [f64; 2], anchor: &str, text: &str) {
        let [x, y] = at.map(coordinate);
        let text = escape(text);
        self.push(format_args!("<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>"));
    }

    /// The finished picture.
    pub(super) fn finish(mut self) -> String {
        self.body.push_str("</svg>\n");
        self.body
    }

    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        writeln!(self.body, "{element}").expect("a string takes any text");
    }
}

/// A coordinate to a tenth of a pixel. Not for people.
fn coordinate(value: f64) -> String {
    let tenths = (value * 10.0).round() / 10.0;
    format!("{tenths}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_text_is_inert() {
        let cases = [
            ("a < b & c > d", "a &lt; b &amp; c &gt; d"),
            ("\"><script>'", "&quot;&gt;&lt;script&gt;&#39;"),
            ("bell\u{7} nul\0 line\n", "bell nul line\n"),
        ];
        for (text, expected) in cases {
            assert_eq!(escape(text), expected);
        }
        assert_eq!(shorten("quantized", 5), "quan…");
    }

    #[test]
    fn scales_keep_order_and_their_ends() {
        let cases: [&[f64]; 5] = [&[1.0, 2.0, 3.0], &[0.0, 1e-5, 3.0], &[5.0], &[-1.0, 1.0], &[]];
        for values in cases {
            let scale = Scale::around(values.iter().copied());
            let places: Vec<f64> = values.iter().map(|value| scale.place(*value)).collect();
            assert!(places.iter().all(|place| (0.0..=1.0).contains(place)), "{values:?} at {places:?}");
            assert!(places.windows(2).all(|pair| pair[0] < pair[1]), "{values:?} at {places:?}");
            for tick in scale.ticks(5) {
                assert!((-1e-9..=1.0 + 1e-9).contains(&scale.place(tick)), "{values:?}: {tick}");
            }
        }
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(Scale::Linear { low: 0.0, high: 10.0 }.ticks(5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(Scale::Log { low: 0.005, high: 20.0 }.ticks(5), [0.0, 0.01, 0.1, 1.0, 10.0]);
    }
}

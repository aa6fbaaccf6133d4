//! How a variant was made: the text that calibrated it, and what its layers lost.

use crate::study::{CompressionReport, LayerReport};
use crate::units;

/// Layers named with their error at most.
const MAX_LAYERS: usize = 12;

/// What is told of a variant's making, by name.
pub(super) fn facts(report: &CompressionReport) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(calibration) = &report.calibration {
        let mut text = format!(
            "{} ({}): {} tokens, {} of {} windows of {}, inputs {}",
            calibration.text,
            calibration.hash,
            units::count(calibration.tokens()),
            calibration.windows,
            calibration.available,
            calibration.context,
            calibration.policy.name(),
        );
        if !calibration.thin_layers.is_empty() {
            let paths: Vec<&str> = calibration.thin_layers.iter().map(|path| path.as_str()).collect();
            text.push_str("; fewer tokens than input features in ");
            text.push_str(&paths.join(", "));
        }
        facts.push(("Calibrated on", text));
    }
    if let Some(mean) = report.mean_output_error() {
        let mut known: Vec<(f64, &LayerReport)> =
            report.layers.iter().filter_map(|layer| Some((layer.output_error?, layer))).collect();
        known.sort_by(|a, b| b.0.total_cmp(&a.0));
        let worst = known.iter().take(MAX_LAYERS);
        let worst: Vec<String> =
            worst.map(|(error, layer)| format!("{} {}", layer.path, units::significant(*error, 3))).collect();
        let mean = units::significant(mean, 3);
        facts.push(("Output error", format!("mean {mean} over {} layers; largest: {}", known.len(), worst.join(", "))));
    }
    let of_layers = report.layers.iter().flat_map(|layer| {
        let path = &layer.path;
        layer.notes.iter().map(move |note| format!("{path}: {note}"))
    });
    let notes: Vec<String> = report.notes.iter().cloned().chain(of_layers).collect();
    if !notes.is_empty() {
        facts.push(("Notes", notes.join("; ")));
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_errors_are_named_and_every_note() {
        let layer = |path: &str, output_error, note: &str| LayerReport {
            path: path.into(),
            output_error,
            secs: 0.1,
            from_database: false,
            packed_bytes: 1,
            notes: if note.is_empty() { Vec::new() } else { vec![note.to_owned()] },
        };
        let layers = vec![layer("a", Some(0.25), ""), layer("b", Some(0.75), "damping raised"), layer("c", None, "")];
        let report = CompressionReport {
            calibration: None,
            layers,
            peak_rss_bytes: None,
            notes: vec!["block 3 goes".to_owned()],
        };
        let expected = [
            ("Output error", "mean 0.500 over 2 layers; largest: b 0.750, a 0.250".to_owned()),
            ("Notes", "block 3 goes; b: damping raised".to_owned()),
        ];
        assert_eq!(facts(&report), expected);
        assert!(facts(&CompressionReport::default()).is_empty());
    }
}

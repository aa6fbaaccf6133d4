//! How a variant was made, for people: what calibrated it, and what each layer lost.

use crate::cli::table::{Column, numbers, table, words};
use crate::study::{CompressionReport, LayerReport, Measurements};
use crate::units;

const COLUMNS: [Column; 5] =
    [words("layer"), numbers("output error"), numbers("bytes"), numbers("time"), words("notes")];

/// The lines that stand under the numbers of a trial; none where every layer is the checkpoint's own.
pub(super) fn lines(measurements: &Measurements) -> Vec<(&'static str, String)> {
    measurements.compression.as_ref().map_or_else(Vec::new, |report| report_lines(report, measurements.compress_secs))
}

fn report_lines(report: &CompressionReport, compress_secs: f64) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some(calibration) = &report.calibration {
        let blocks = match (calibration.cached_blocks, calibration.read_blocks) {
            (0, 0) => "not read: every layer was in the layer database".to_owned(),
            (cached, 0) => format!("{cached} blocks known from an earlier run"),
            (0, _) => format!("took {}", units::duration(calibration.secs)),
            (cached, _) => {
                format!("{cached} blocks known from an earlier run, took {}", units::duration(calibration.secs))
            }
        };
        lines.push((
            "calibration",
            format!(
                "{}: {} of {} windows of {} tokens ({}), {} inputs, {blocks}",
                calibration.text,
                calibration.windows,
                calibration.available,
                calibration.context,
                units::count(calibration.tokens()),
                calibration.policy.name(),
            ),
        ));
    }
    if !report.layers.is_empty() {
        lines.push(("compression", summary(report, compress_secs)));
    }
    lines.extend(report.notes.iter().map(|note| ("note", note.clone())));
    lines
}

fn summary(report: &CompressionReport, secs: f64) -> String {
    let n = report.layers.len();
    let mut parts = vec![format!("{n} layers in {}", units::duration(secs))];
    if report.n_from_database() > 0 {
        parts.push(format!("{} from the layer database", report.n_from_database()));
    }
    parts.extend(report.mean_output_error().map(|error| {
        let worst = report.layers.iter().filter_map(|layer| Some((layer.output_error?, layer)));
        let worst = worst.max_by(|(a, _), (b, _)| a.total_cmp(b));
        let worst = worst.map_or_else(String::new, |(error, layer)| {
            format!(", worst {} in {}", units::significant(error, 3), layer.path)
        });
        format!("output error {} on average{worst}", units::significant(error, 3))
    }));
    parts.extend(report.peak_rss_bytes.map(|peak| format!("peak memory {}", units::bytes(peak))));
    if report.n_noted() > 0 {
        parts.push(format!("{} with notes (--layers shows them)", report.n_noted()));
    }
    parts.join(", ")
}

/// Every layer that was made, one row each; `None` where every layer is the checkpoint's own.
pub(super) fn layers(measurements: &Measurements) -> Option<String> {
    let report = measurements.compression.as_ref().filter(|report| !report.layers.is_empty())?;
    Some(table(&COLUMNS, report.layers.iter().map(row)))
}

fn row(layer: &LayerReport) -> Vec<String> {
    let mut notes = layer.notes.clone();
    if layer.from_database {
        notes.insert(0, "from the layer database".to_owned());
    }
    vec![
        layer.path.to_string(),
        layer.output_error.map_or_else(String::new, |error| units::significant(error, 3)),
        units::bytes(layer.packed_bytes),
        units::duration(layer.secs),
        notes.join("; "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Policy;
    use crate::study::CalibrationReport;

    fn layer(path: &str, output_error: Option<f64>) -> LayerReport {
        LayerReport {
            path: path.into(),
            output_error,
            secs: 0.5,
            from_database: output_error.is_none(),
            packed_bytes: 2048,
            notes: Vec::new(),
        }
    }

    #[test]
    fn the_summary_names_the_worst_layer_and_where_the_rest_came_from() {
        let report = CompressionReport {
            layers: vec![layer("a", Some(0.25)), layer("b", Some(0.75)), layer("c", None)],
            ..CompressionReport::default()
        };
        let text = summary(&report, 2.0);
        assert!(text.contains("3 layers") && text.contains("1 from the layer database"), "{text}");
        assert!(text.contains("0.500 on average, worst 0.750 in b"), "{text}");
        assert!(row(&report.layers[2])[4].contains("database"));
    }

    #[test]
    fn tokens_and_policy_are_said() {
        let calibration = CalibrationReport {
            text: "stories".to_owned(),
            hash: "00".to_owned(),
            windows: 128,
            available: 197,
            context: 256,
            policy: Policy::Sequential,
            cached_blocks: 0,
            read_blocks: 6,
            thin_layers: Vec::new(),
            secs: 12.0,
        };
        let report = CompressionReport { calibration: Some(calibration), ..CompressionReport::default() };
        let lines = report_lines(&report, 0.0);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].1.starts_with("stories: 128 of 197 windows of 256 tokens (32,768), sequential"), "{lines:?}");
    }
}

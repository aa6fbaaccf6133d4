//! How a variant was made, in lines: the text that calibrated it, what its layers lost, what did not go as asked. Pure.

use crate::app::words::CompressionWords;
use crate::study::{CompressionReport, LayerReport};
use crate::units::{count, duration, significant};

/// Layers named at most, and notes.
const MAX_LAYERS: usize = 8;
const MAX_NOTES: usize = 6;

/// How a variant was made.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Making {
    /// Text, tokens and policy of the calibration; layers, mean error, time.
    pub lines: Vec<String>,
    /// The layers with the largest output errors: short path, error, and its share of the largest.
    pub worst: Vec<(String, String, f32)>,
    /// What did not go as asked, the layer before it.
    pub notes: Vec<String>,
}

impl Making {
    /// What is told of `report`.
    pub fn new(report: &CompressionReport, words: &CompressionWords) -> Self {
        let mut lines = Vec::new();
        if let Some(calibration) = &report.calibration {
            let tokens = (words.tokens)(&count(calibration.tokens()), calibration.windows, calibration.context);
            lines.push(format!("{} · {tokens} · {}", calibration.text, calibration.policy.name()));
            if !calibration.thin_layers.is_empty() {
                lines.push((words.thin)(calibration.thin_layers.len()));
            }
        }
        let layers = &report.layers;
        if !layers.is_empty() {
            let secs: f64 = layers.iter().filter(|layer| !layer.from_database).map(|layer| layer.secs).sum();
            let mut parts = vec![(words.layers)(layers.len())];
            parts.extend(report.mean_output_error().map(|error| (words.mean_error)(&significant(error, 3))));
            match report.n_from_database() {
                0 => {}
                n => parts.push((words.from_database)(n)),
            }
            parts.push(duration(secs + report.calibration.as_ref().map_or(0.0, |calibration| calibration.secs)));
            lines.push(parts.join(" · "));
        }
        Self { lines, worst: worst(layers), notes: notes(report, words) }
    }
}

fn worst(layers: &[LayerReport]) -> Vec<(String, String, f32)> {
    let mut known: Vec<(f64, &LayerReport)> =
        layers.iter().filter_map(|layer| Some((layer.output_error?, layer))).collect();
    known.sort_by(|a, b| b.0.total_cmp(&a.0));
    let most = known.first().map_or(1.0, |(error, _)| error.max(f64::MIN_POSITIVE));
    let line = |(error, layer): &(f64, &LayerReport)| (short(layer), significant(*error, 3), (error / most) as f32);
    known.iter().take(MAX_LAYERS).map(line).collect()
}

/// `3.down_proj`: the block and the layer's own name.
fn short(layer: &LayerReport) -> String {
    let path = layer.path.as_str();
    let mut block = path.split('.').filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    let name = path.rsplit('.').next().unwrap_or(path);
    block.next().map_or_else(|| name.to_owned(), |block| format!("{block}.{name}"))
}

fn notes(report: &CompressionReport, words: &CompressionWords) -> Vec<String> {
    let of_layers = report.layers.iter().flat_map(|layer| {
        let name = short(layer);
        layer.notes.iter().map(move |note| format!("{name}: {note}"))
    });
    let all: Vec<String> = report.notes.iter().cloned().chain(of_layers).collect();
    let more = all.len().saturating_sub(MAX_NOTES);
    let mut shown: Vec<String> = all.into_iter().take(MAX_NOTES).collect();
    if more > 0 {
        shown.push((words.more)(more));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Policy;
    use crate::study::CalibrationReport;

    fn layer(path: &str, output_error: Option<f64>, note: Option<&str>) -> LayerReport {
        LayerReport {
            path: path.into(),
            output_error,
            secs: 0.5,
            from_database: false,
            packed_bytes: 10,
            notes: note.map(str::to_owned).into_iter().collect(),
        }
    }

    #[test]
    fn the_worst_layers_come_first_and_every_note_is_counted() {
        let calibration = CalibrationReport {
            text: "calibration".to_owned(),
            hash: "00".to_owned(),
            windows: 128,
            available: 200,
            context: 256,
            policy: Policy::Sequential,
            cached_blocks: 0,
            read_blocks: 2,
            thin_layers: vec!["model.layers.0.mlp.down_proj".into()],
            secs: 2.0,
        };
        let mut layers = vec![
            layer("model.layers.0.mlp.down_proj", Some(0.01), Some("damping raised to 0.1")),
            layer("model.layers.1.self_attn.q_proj", Some(0.04), None),
            layer("model.embed_tokens", None, None),
        ];
        layers.extend((0..9).map(|_| layer("model.layers.1.mlp.up_proj", None, Some("x"))));
        let report = CompressionReport {
            calibration: Some(calibration),
            layers,
            peak_rss_bytes: None,
            notes: vec!["block 2 goes".to_owned()],
        };
        let made = Making::new(&report, &CompressionWords::EN);
        assert!(made.lines[0].contains("32,768") && made.lines[0].contains("sequential"), "{:?}", made.lines);
        assert!(made.lines[2].contains("0.0250"), "the mean over layers that have one: {:?}", made.lines);
        let names: Vec<&str> = made.worst.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["1.q_proj", "0.down_proj"]);
        assert_eq!(made.worst[1].2, 0.25);
        assert_eq!((made.notes[0].as_str(), made.notes.len()), ("block 2 goes", MAX_NOTES + 1));
        assert!(made.notes[1].starts_with("0.down_proj: damping") && made.notes[MAX_NOTES].contains('5'));
    }
}

//! `trimtab inspect --layer`: one layer from near, through a worker, as the window shows it.

use std::time::Duration;

use anyhow::{bail, ensure};
use serde_json::{Value, json};

use crate::checkpoint::Checkpoint;
use crate::cli::args::InspectArgs;
use crate::cli::out::Out;
use crate::cli::table::{Column, numbers, table, words};
use crate::cli::{Verdict, open};
use crate::model::Layer;
use crate::recipe::{Calibration, Policy};
use crate::units::{bytes, count, duration, percent, significant};
use crate::worker::host::WorkerConfig;
use crate::worker::inspection::{Finding, InspectSpec, LayerView, Spectrum};
use crate::worker::inspector::LayerInspector;

/// Between two looks for findings.
const PATIENCE: Duration = Duration::from_millis(500);
/// Shares of the energy whose ranks are named.
const SHARES: [f64; 3] = [0.9, 0.95, 0.99];

const COLUMNS: [Column; 6] = [
    words("setting"),
    numbers("bytes"),
    numbers("weight error"),
    numbers("output error"),
    numbers("time"),
    words("remarks"),
];

pub(super) fn run(checkpoint: &Checkpoint, path: &str, args: &InspectArgs, out: &mut Out) -> anyhow::Result<Verdict> {
    let Some(layer) = checkpoint.graph().layers.iter().find(|layer| layer.path.as_str() == path) else {
        bail!("the model has no layer {path:?}; `trimtab inspect` without --layer lists them");
    };
    let calibration = args.calibration.clone().map(|data| Calibration {
        data: Some(data),
        windows: args.calibration_windows,
        context: None,
        policy: Policy::Dense,
    });
    let spec = InspectSpec { source: checkpoint.source().clone(), layer: layer.path.clone(), calibration, map: None };
    let config = WorkerConfig::new(spec.source.clone(), open::cpu(None))?;
    let view = found(LayerInspector::start(&config, spec))?;
    if args.json {
        out.json(&json_of(layer, &view)?)?;
    } else {
        out.data(&text_of(layer, &view))?;
    }
    Ok(Verdict::Done)
}

/// Everything that the worker finds out.
fn found(worker: Result<LayerInspector, crate::study::Failure>) -> anyhow::Result<LayerView> {
    let told = |failure: crate::study::Failure| anyhow::anyhow!("{}: {}", failure.kind.label(), failure.message);
    let mut worker = worker.map_err(told)?;
    let mut view = LayerView::default();
    loop {
        match worker.next(PATIENCE).map_err(told)? {
            None => {}
            Some(Finding::Complete) => break,
            Some(finding) => view.apply(finding),
        }
    }
    ensure!(view.weights.is_some(), "the worker ended without a finding");
    Ok(view)
}

fn json_of(layer: &Layer, view: &LayerView) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(view)?;
    if let Value::Object(fields) = &mut value {
        fields.insert("path".to_owned(), json!(layer.path));
        fields.insert("shape".to_owned(), json!(layer.shape));
        fields.insert("dtype".to_owned(), json!(layer.stored_name()));
        if let Some(Ok(spectrum)) = &view.spectrum {
            let ranks: serde_json::Map<String, Value> =
                SHARES.iter().map(|share| (share.to_string(), json!(spectrum.rank_for(*share)))).collect();
            fields.insert("rank_for_energy".to_owned(), Value::Object(ranks));
        }
    }
    Ok(value)
}

fn text_of(layer: &Layer, view: &LayerView) -> String {
    let [rows, row_len] = layer.shape;
    let mut lines = vec![format!("{}: {rows} × {row_len}, {}", layer.path, layer.stored_name())];
    if let Some(weights) = &view.weights {
        let [mean, sd, min, max] = [weights.mean, weights.sd, weights.min, weights.max].map(|it| significant(it, 4));
        let (n, zeros) = (count(weights.n), percent(weights.zero_share()));
        lines.push(format!("weights: {n}, mean {mean}, sd {sd}, min {min}, max {max}, zeros {zeros}"));
    }
    match &view.inputs {
        Some(Ok(inputs)) => {
            let largest = inputs.max_abs.iter().copied().fold(0.0, f64::max);
            let mean = inputs.mean_abs.iter().sum::<f64>() / inputs.mean_abs.len().max(1) as f64;
            let (largest, mean) = (significant(largest, 4), significant(mean, 4));
            let (channels, tokens) = (count(inputs.max_abs.len() as u64), count(inputs.n_tokens));
            lines.push(format!("inputs: {channels} channels over {tokens} tokens, largest {largest}, mean {mean}"));
        }
        Some(Err(reason)) => lines.push(format!("inputs: not known: {reason}")),
        None => {}
    }
    match &view.spectrum {
        Some(Ok(spectrum)) => lines.push(spectrum_line(spectrum)),
        Some(Err(reason)) => lines.push(format!("singular values: none: {reason}")),
        None => {}
    }
    lines.push("settings, each measured on this layer alone:".to_owned());
    lines.push(table(&COLUMNS, view.candidates.iter().map(candidate_row)));
    lines.join("\n")
}

fn spectrum_line(spectrum: &Spectrum) -> String {
    let values = &spectrum.singular_values;
    let end = |value: Option<&f64>| value.map_or_else(String::new, |value| significant(*value, 4));
    let ranks = SHARES.map(|share| format!("rank {} for {}", spectrum.rank_for(share), percent(share)));
    let (first, last) = (end(values.first()), end(values.last()));
    format!("singular values: {}, {first} to {last}; of the energy {}", values.len(), ranks.join(", "))
}

fn candidate_row(candidate: &crate::worker::inspection::Candidate) -> Vec<String> {
    let label = candidate.settings.label();
    match &candidate.result {
        Ok(found) => vec![
            label,
            bytes(found.packed_bytes),
            significant(found.weight_error, 3),
            found.output_error.map_or_else(String::new, |error| significant(error, 3)),
            duration(found.secs),
            found.notes.join("; "),
        ],
        Err(reason) => {
            let none = String::new();
            vec![label, none.clone(), none.clone(), none.clone(), none, format!("not available: {reason}")]
        }
    }
}

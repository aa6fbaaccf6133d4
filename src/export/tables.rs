//! All trials of a study as CSV and as JSON Lines, for programs: raw values, nothing rounded, failures as rows.

use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::study::{Conditions, Estimate, Measurements, Outcome, PhaseSpeed, Ratio, Study, Trial, TrialId, TrialState};

/// Every trial as one row of CSV (RFC 4180, a header row, lines end with CRLF).
///
/// Times are in seconds, sizes in bytes, KL in nats; a column with an interval is followed by its lower and upper 95 %
/// bound. What was not measured is an empty cell, and so are the bounds of a single sample. Text that a spreadsheet would run as a formula gets a leading
/// apostrophe.
pub fn csv(study: &Study) -> String {
    let mut out = String::new();
    let header = Row::of(TrialId(0), None);
    push_line(&mut out, header.0.iter().map(|(name, _)| name.as_str()));
    for (id, trial) in &study.trials {
        push_line(&mut out, Row::of(*id, Some(trial)).0.iter().map(|(_, cell)| cell.as_str()));
    }
    out
}

/// Every trial as one JSON object a line: what was tried and what came of it, with every sample and window.
pub fn json_lines(study: &Study) -> String {
    let mut out = String::new();
    for record in records(study) {
        out.push_str(&record.to_string());
        out.push('\n');
    }
    out
}

/// Every trial as one JSON object: what was tried and what came of it, with every sample and window.
pub fn records(study: &Study) -> Vec<Value> {
    let header = study.header.as_deref();
    study
        .trials
        .iter()
        .map(|(id, trial)| {
            let (outcome, elapsed_secs, memory_curve) = match &trial.state {
                TrialState::Running => (None, None, &[][..]),
                TrialState::Finished { outcome, elapsed_secs, memory_curve, .. } => {
                    (Some(outcome), Some(*elapsed_secs), &memory_curve[..])
                }
            };
            json!({
                "study": header.map(|header| header.spec.name.as_str()),
                "model": header.map(|header| header.graph.name.as_str()),
                "fingerprint": header.map(|header| &header.graph.fingerprint),
                "trial": id,
                "key": trial.spec.key(),
                "spec": trial.spec,
                "status": status(trial),
                "outcome": outcome,
                "cautions": trial.cautions(),
                "caution_texts": trial.cautions().iter().map(ToString::to_string).collect::<Vec<_>>(),
                "elapsed_secs": elapsed_secs,
                "memory_curve": memory_curve,
            })
        })
        .collect()
}

/// Writes `bytes` to `path` so that a reader finds the old file or the whole new one, whatever happens meanwhile.
///
/// # Errors
/// When the folder cannot be written or the disk is full; nothing is left behind then.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    // A report is for others to read; the temporary file is for its owner alone.
    file.as_file().set_permissions(Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

/// How a trial stands, in one word for programs.
fn status(trial: &Trial) -> &'static str {
    match &trial.state {
        TrialState::Running => "running",
        TrialState::Finished { outcome: Outcome::Done(_), .. } => "done",
        TrialState::Finished { outcome: Outcome::Failed(_), .. } => "failed",
    }
}

/// One row: column names with their cells, the same columns whatever the trial.
struct Row(Vec<(String, String)>);

impl Row {
    fn of(id: TrialId, trial: Option<&Trial>) -> Self {
        let mut row = Self(Vec::with_capacity(96));
        let measurements = trial.and_then(Trial::measurements);
        row.number("trial", Some(id.0));
        row.text("name", trial.map(|trial| trial.spec.recipe.name.clone()));
        row.text("status", trial.map(|trial| status(trial).to_owned()));
        row.failure(trial);
        row.quality(measurements);
        row.speed(measurements);
        row.memory(measurements);
        row.energy(measurements);
        let (cautions, elapsed) = match trial.map(|trial| &trial.state) {
            Some(TrialState::Finished { cautions, elapsed_secs, .. }) => (&cautions[..], Some(*elapsed_secs)),
            _ => (&[][..], None),
        };
        let cautions: Vec<String> = cautions.iter().map(ToString::to_string).collect();
        row.text("cautions", Some(cautions.join("; ")));
        row.number("elapsed_secs", elapsed);
        row.conditions(measurements.map(|measurements| &measurements.conditions));
        row.text("device", trial.map(|trial| trial.spec.device.label()));
        row.number("seed", trial.map(|trial| trial.spec.seed));
        row.text("key", trial.map(|trial| trial.spec.key()));
        row.text("recipe_toml", trial.map(|trial| trial.spec.recipe.to_toml()));
        row
    }

    fn failure(&mut self, trial: Option<&Trial>) {
        let failure = trial.and_then(|trial| match &trial.state {
            TrialState::Finished { outcome: Outcome::Failed(failure), .. } => Some(failure),
            _ => None,
        });
        self.text("failure", failure.map(|failure| failure.kind.label().to_owned()));
        self.text("failure_message", failure.map(|failure| failure.message.clone()));
    }

    fn quality(&mut self, measurements: Option<&Measurements>) {
        let quality = measurements.and_then(|measurements| measurements.quality.as_ref());
        self.text("protocol", quality.map(|quality| quality.protocol.clone()));
        self.text("split", quality.map(|quality| quality.split.clone()));
        self.number("windows", quality.map(|quality| quality.windows.len()));
        self.number("tokens", quality.map(|quality| quality.tokens));
        self.estimate("perplexity", quality.map(|quality| &quality.perplexity));
        self.number("reference_perplexity", quality.map(|quality| quality.reference_perplexity));
        self.estimate("log_perplexity_difference", quality.map(|quality| &quality.log_perplexity_difference));
        self.estimate("kl_mean", quality.map(|quality| &quality.kl_mean));
        self.number("kl_median", quality.map(|quality| quality.kl_median));
        self.number("kl_p99", quality.map(|quality| quality.kl_p99));
        self.number("kl_max", quality.map(|quality| quality.kl_max));
        self.estimate("top1_agreement", quality.map(|quality| &quality.top1_agreement));
        let dequantized = measurements.and_then(|measurements| measurements.dequantized_quality.as_ref());
        self.estimate("dequantized_perplexity", dequantized.map(|quality| &quality.perplexity));
        self.estimate("dequantized_kl_mean", dequantized.map(|quality| &quality.kl_mean));
        self.estimate("dequantized_top1_agreement", dequantized.map(|quality| &quality.top1_agreement));
    }

    fn speed(&mut self, measurements: Option<&Measurements>) {
        let speed = measurements.and_then(|measurements| measurements.speed.as_ref());
        self.number("prompt_tokens", speed.map(|speed| speed.prompt_tokens));
        self.number("decode_tokens", speed.map(|speed| speed.decode_tokens));
        self.phase("prefill", speed.map(|speed| &speed.prefill));
        self.phase("decode", speed.map(|speed| &speed.decode));
        // What a card's measured ceilings say of a decoded token; none on a processor.
        let limits = speed.and_then(|speed| Some((speed.limits?, speed.decode.latency_secs.value)));
        self.number("decode_bytes_per_token", limits.map(|(limits, _)| limits.bytes_per_token));
        self.number("decode_ceiling_bytes_per_second", limits.map(|(limits, _)| limits.bytes_per_second));
        self.number("decode_bandwidth_share", limits.map(|(limits, secs)| limits.bandwidth_share(secs)));
        self.number("decode_launches_per_token", limits.map(|(limits, _)| limits.launches_per_token));
        self.number("decode_launch_share", limits.map(|(limits, secs)| limits.launches_secs() / secs));
        // Speed and resident memory of a simulated variant are those of f32: the column says so beside them.
        self.number("simulated_layers", measurements.map(|measurements| measurements.simulated_layers));
        let products = measurements.map(|measurements| {
            let products: Vec<String> =
                measurements.products.iter().map(|(product, layers)| format!("{product}: {layers}")).collect();
            products.join("; ")
        });
        self.text("products", products);
    }

    fn phase(&mut self, phase: &str, speed: Option<&PhaseSpeed>) {
        self.estimate(&format!("{phase}_tokens_per_second"), speed.map(|speed| &speed.tokens_per_second));
        self.estimate(&format!("{phase}_latency_secs"), speed.map(|speed| &speed.latency_secs));
        self.number(&format!("{phase}_p50_secs"), speed.map(|speed| speed.p50_secs));
        self.number(&format!("{phase}_p90_secs"), speed.map(|speed| speed.p90_secs));
        self.number(&format!("{phase}_p99_secs"), speed.and_then(|speed| speed.p99_secs));
        let ratio = speed.and_then(|speed| speed.ratio);
        self.bounds(&format!("{phase}_ratio"), ratio.map(|Ratio { value, ci95, .. }| (value, Some(ci95))));
        self.number(&format!("{phase}_ratio_resolved"), ratio.map(|ratio| ratio.is_resolved()));
    }

    fn memory(&mut self, measurements: Option<&Measurements>) {
        let memory = measurements.map(|measurements| &measurements.memory);
        self.number("weight_bytes", memory.map(|memory| memory.weight_bytes));
        self.number("held_bytes", memory.map(|memory| memory.held_bytes));
        self.number("peak_rss_bytes", memory.and_then(|memory| memory.peak_rss_bytes));
        self.number("predicted_peak_bytes", memory.and_then(|memory| memory.predicted_peak_bytes));
        self.number("peak_gpu_bytes", memory.and_then(|memory| memory.peak_gpu_bytes));
        self.number("bits_per_weight", measurements.map(|measurements| measurements.bits_per_weight));
        self.number("compressed_layers", measurements.map(|measurements| measurements.compressed_layers));
        self.number("compress_secs", measurements.map(|measurements| measurements.compress_secs));
    }

    /// Joules: of one token, and of the whole trial, the reference beside it included.
    fn energy(&mut self, measurements: Option<&Measurements>) {
        let energy = measurements.and_then(|measurements| measurements.energy.as_ref());
        self.text("energy_source", energy.map(|energy| energy.source.to_string()));
        self.estimate("prefill_joules_per_token", energy.and_then(|energy| energy.prefill_joules_per_token).as_ref());
        self.estimate("decode_joules_per_token", energy.and_then(|energy| energy.decode_joules_per_token).as_ref());
        self.number("trial_joules", energy.map(|energy| energy.trial_joules));
        self.number("energy_refresh_secs", energy.map(|energy| energy.refresh_secs));
        self.text("no_energy", measurements.and_then(|measurements| measurements.conditions.no_energy.clone()));
    }

    fn conditions(&mut self, conditions: Option<&Conditions>) {
        self.text("cpu_model", conditions.and_then(|conditions| conditions.cpu_model.clone()));
        self.number("threads", conditions.map(|conditions| conditions.threads));
        self.number("load_1min", conditions.and_then(|conditions| conditions.load_1min));
        self.number("frequency_mhz", conditions.and_then(|conditions| conditions.frequency_mhz));
        self.number("temperature_celsius", conditions.and_then(|conditions| conditions.temperature_celsius));
        let busy = conditions.map(|conditions| {
            let busy: Vec<String> =
                conditions.busy_processes.iter().map(|(name, cores)| format!("{name}: {cores} cores")).collect();
            busy.join("; ")
        });
        self.text("busy_processes", busy);
        self.number("repeated_sections", conditions.map(|conditions| conditions.repeated_sections));
        self.text("build", conditions.map(|conditions| conditions.build.clone()));
    }

    fn estimate(&mut self, name: &str, estimate: Option<&Estimate>) {
        self.bounds(name, estimate.map(|estimate| (estimate.value, estimate.interval())));
    }

    fn bounds(&mut self, name: &str, value: Option<(f64, Option<[f64; 2]>)>) {
        let ci95 = value.and_then(|(_, ci95)| ci95);
        self.number(name, value.map(|(value, _)| value));
        self.number(&format!("{name}_ci95_low"), ci95.map(|[low, _]| low));
        self.number(&format!("{name}_ci95_high"), ci95.map(|[_, high]| high));
    }

    fn number(&mut self, name: &str, value: Option<impl ToString>) {
        self.0.push((name.to_owned(), value.map(|value| value.to_string()).unwrap_or_default()));
    }

    fn text(&mut self, name: &str, value: Option<String>) {
        let mut value = value.unwrap_or_default();
        if value.starts_with(['=', '+', '-', '@', '\t', '\r']) {
            value.insert(0, '\'');
        }
        self.0.push((name.to_owned(), value));
    }
}

/// Adds a line of cells, in quotes where they need them.
pub(super) fn push_line<'a>(out: &mut String, cells: impl Iterator<Item = &'a str>) {
    for (position, cell) in cells.enumerate() {
        if position > 0 {
            out.push(',');
        }
        if cell.contains([',', '"', '\n', '\r']) {
            out.push('"');
            out.push_str(&cell.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(cell);
        }
    }
    out.push_str("\r\n");
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;

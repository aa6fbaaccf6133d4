//! Every trial as a row, then each with its conditions, products, cautions and recipe.

use crate::export::report::making;
use crate::export::report::svg::{escape, push};
use crate::study::{
    DecodeLimits, Energy, Estimate, Measurements, Objective, Outcome, PhaseSpeed, Study, Trial, TrialId, TrialState,
    pareto_front,
};
use crate::units;

const COLUMNS: [&str; 13] = [
    "Trial",
    "Recipe",
    "Bits a weight",
    "Weights",
    "Perplexity",
    "Mean KL (nats)",
    "Same top-1",
    "Protocol, split",
    "Decode (tok/s)",
    "Decode ratio",
    "Prefill (tok/s)",
    "Peak memory",
    "Cautions",
];

/// The table of all trials.
pub(super) fn table(study: &Study) -> String {
    if study.trials.is_empty() {
        return "<section>\n<h2>Trials</h2>\n<p>None yet.</p>\n</section>\n".to_owned();
    }
    let front = pareto_front(study, Objective::WeightBytes, Objective::Kl);
    let mut out = String::from("<section>\n<h2>Trials</h2>\n<p class=\"note\">");
    out.push_str(
        "Shaded rows are on the front of KL against bytes. ± is half a 95 % interval. ≈ marks simulated numbers.",
    );
    out.push_str("</p>\n<div class=\"scroll\"><table>\n<thead><tr>");
    for (position, column) in COLUMNS.iter().enumerate() {
        let class = if is_words(position) { " class=\"words\"" } else { "" };
        push(&mut out, format_args!("<th scope=\"col\"{class}>{column}</th>"));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for (id, trial) in &study.trials {
        row(&mut out, *id, trial, front.contains(id));
    }
    out.push_str("</tbody>\n</table></div>\n</section>\n");
    out
}

fn is_words(column: usize) -> bool {
    matches!(column, 1 | 7 | 12)
}

fn row(out: &mut String, id: TrialId, trial: &Trial, is_best: bool) {
    let (class, cells) = match &trial.state {
        TrialState::Running => ("", text_cells(id, trial, "unfinished")),
        TrialState::Finished { outcome: Outcome::Failed(failure), .. } => {
            ("failed", text_cells(id, trial, &format!("failed: {}", failure.kind.label())))
        }
        TrialState::Finished { outcome: Outcome::Done(measurements), .. } => {
            (if is_best { "best" } else { "" }, number_cells(id, trial, measurements))
        }
    };
    push(out, format_args!("<tr class=\"{class}\">"));
    for (position, cell) in cells.iter().enumerate() {
        let class = match position {
            12 => " class=\"words long\"",
            _ if is_words(position) => " class=\"words\"",
            _ => "",
        };
        push(out, format_args!("<td{class}>{}</td>", escape(cell)));
    }
    out.push_str("</tr>\n");
}

fn text_cells(id: TrialId, trial: &Trial, state: &str) -> Vec<String> {
    let cautions = cautions(trial);
    let last = if cautions.is_empty() { state.to_owned() } else { format!("{state}; {cautions}") };
    let mut cells = vec![id.to_string(), trial.spec.recipe.name.clone()];
    cells.resize(COLUMNS.len() - 1, String::new());
    cells.push(last);
    cells
}

fn number_cells(id: TrialId, trial: &Trial, measurements: &Measurements) -> Vec<String> {
    let quality = measurements.quality.as_ref();
    let speed = measurements.speed.as_ref();
    let mark = if measurements.simulated_layers == 0 { "" } else { "≈ " };
    let rate = |phase: &PhaseSpeed| {
        format!("{mark}{}", units::interval(phase.tokens_per_second.value, phase.tokens_per_second.ci95))
    };
    let estimate = |value: &crate::study::Estimate| units::interval(value.value, value.ci95);
    let absent = String::new;
    vec![
        id.to_string(),
        trial.spec.recipe.name.clone(),
        units::significant(measurements.bits_per_weight, 3),
        units::bytes(measurements.memory.weight_bytes),
        quality.map_or_else(absent, |quality| estimate(&quality.perplexity)),
        quality.map_or_else(absent, |quality| estimate(&quality.kl_mean)),
        quality.map_or_else(absent, |quality| units::percent(quality.top1_agreement.value)),
        quality.map_or_else(absent, |quality| format!("{}, {}", quality.protocol, quality.split)),
        speed.map_or_else(absent, |speed| rate(&speed.decode)),
        speed.and_then(|speed| speed.decode.ratio).map_or_else(absent, |ratio| {
            if trial.spec.recipe.is_masked_only() {
                return "masked".to_owned();
            }
            let verdict = if ratio.is_resolved() { "" } else { " (not resolved)" };
            format!("{mark}{}{verdict}", units::ratio(ratio.value))
        }),
        speed.map_or_else(absent, |speed| rate(&speed.prefill)),
        measurements.memory.peak_bytes().map_or_else(absent, |bytes| format!("{mark}{}", units::bytes(bytes))),
        cautions(trial),
    ]
}

fn energy_text(energy: &Energy) -> String {
    let per_token = |name: &str, found: Option<Estimate>| {
        let text = found.map(|found| units::interval(1e3 * found.value, found.ci95.map(|end| 1e3 * end)));
        text.map(|text| format!("{text} mJ a token of {name}, ")).unwrap_or_default()
    };
    format!(
        "{}{}{} J in all ({})",
        per_token("decode", energy.decode_joules_per_token),
        per_token("prefill", energy.prefill_joules_per_token),
        units::significant(energy.trial_joules, 3),
        energy.source
    )
}

fn cautions(trial: &Trial) -> String {
    trial.cautions().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Every failure with its whole message.
pub(super) fn failures(study: &Study) -> String {
    let mut out = String::new();
    for (id, trial) in &study.trials {
        if let TrialState::Finished { outcome: Outcome::Failed(failure), .. } = &trial.state {
            push(
                &mut out,
                format_args!(
                    "<dt>{id} {}</dt><dd>{}: {}</dd>\n",
                    escape(&trial.spec.recipe.name),
                    failure.kind.label(),
                    escape(&failure.message)
                ),
            );
        }
    }
    if out.is_empty() { out } else { format!("<section>\n<h2>Failures</h2>\n<dl>\n{out}</dl>\n</section>\n") }
}

/// Each trial with what the table has no room for.
pub(super) fn details(study: &Study) -> String {
    if study.trials.is_empty() {
        return String::new();
    }
    let mut out = String::from("<section>\n<h2>Each trial</h2>\n");
    for (id, trial) in &study.trials {
        let recipe = &trial.spec.recipe;
        push(&mut out, format_args!("<details>\n<summary>{id} {}</summary>\n<dl>\n", escape(&recipe.name)));
        for (name, value) in facts(trial) {
            push(&mut out, format_args!("<dt>{name}</dt><dd>{}</dd>\n", escape(&value)));
        }
        push(&mut out, format_args!("</dl>\n<pre>{}</pre>\n", escape(&recipe.to_toml())));
        if let Some(text) = trial.measurements().and_then(|measurements| measurements.sample_text.as_deref()) {
            push(&mut out, format_args!("<p class=\"note\">Text sampled from it</p>\n<pre>{}</pre>\n", escape(text)));
        }
        out.push_str("</details>\n");
    }
    out.push_str("</section>\n");
    out
}

fn facts(trial: &Trial) -> Vec<(&'static str, String)> {
    let mut facts = vec![("Device", trial.spec.device.label()), ("Key", trial.spec.key())];
    if let TrialState::Finished { elapsed_secs, .. } = &trial.state {
        facts.push(("Took", units::duration(*elapsed_secs)));
    }
    if !trial.cautions().is_empty() {
        facts.push(("Cautions", cautions(trial)));
    }
    let Some(measurements) = trial.measurements() else { return facts };
    if let Some(quality) = &measurements.quality {
        facts.push((
            "KL",
            format!(
                "median {}, 99th percentile {}, largest {} nats over {} tokens",
                units::significant(quality.kl_median, 3),
                units::significant(quality.kl_p99, 3),
                units::significant(quality.kl_max, 3),
                units::count(quality.tokens)
            ),
        ));
    }
    if let Some(quality) = &measurements.dequantized_quality {
        facts.push((
            "Dequantized",
            format!(
                "perplexity {}, mean KL {} nats ({}, {}): the weights alone, activations in f32",
                units::interval(quality.perplexity.value, quality.perplexity.ci95),
                units::interval(quality.kl_mean.value, quality.kl_mean.ci95),
                quality.protocol,
                quality.split
            ),
        ));
    }
    if let Some(speed) = &measurements.speed {
        facts.push(("Prefill", latency(&speed.prefill, speed.prompt_tokens)));
        facts.push(("Decode", latency(&speed.decode, speed.decode_tokens)));
        facts.extend(speed.limits.map(|limits| ("Bandwidth", bandwidth(limits, speed.decode.latency_secs.value))));
    }
    let products: Vec<String> =
        measurements.products.iter().map(|(product, layers)| format!("{product} ({layers} layers)")).collect();
    facts.push(("What ran", products.join(", ")));
    facts.push(("Held to run", units::bytes(measurements.memory.held_bytes)));
    let memory = &measurements.memory;
    facts.extend(memory.predicted_peak_bytes.zip(memory.prediction_ratio()).map(|(predicted, ratio)| {
        let text = format!("{}, {} beside the measured one", units::bytes(predicted), units::change(ratio));
        ("Predicted peak", text)
    }));
    facts.extend(measurements.energy.as_ref().map(|energy| ("Energy", energy_text(energy))));
    facts.extend(measurements.memory.peak_gpu_bytes.map(|bytes| ("Peak GPU memory", units::bytes(bytes))));
    facts.push((
        "Compressed",
        format!("{} layers anew in {}", measurements.compressed_layers, units::duration(measurements.compress_secs)),
    ));
    facts.extend(measurements.compression.iter().flat_map(making::facts));
    facts.push(("Conditions", conditions(&measurements.conditions)));
    facts
}

fn latency(phase: &PhaseSpeed, tokens: u32) -> String {
    let mut text =
        format!("{tokens} tokens; median {}, p90 {}", units::duration(phase.p50_secs), units::duration(phase.p90_secs));
    text.extend(phase.p99_secs.map(|secs| format!(", p99 {}", units::duration(secs))));
    push(&mut text, format_args!("; {} samples", units::count(phase.samples_nanos.len() as u64)));
    text
}

/// How near decoding comes to the card's memory.
fn bandwidth(limits: DecodeLimits, token_secs: f64) -> String {
    format!(
        "a decoded token reads {} and reaches {} of the {} that were measured; {} launches take {} of its time",
        units::bytes(limits.bytes_per_token),
        units::percent(limits.bandwidth_share(token_secs)),
        units::per_second(limits.bytes_per_second, "B/s"),
        units::count(limits.launches_per_token),
        units::percent(limits.launches_secs() / token_secs),
    )
}

fn conditions(conditions: &crate::study::Conditions) -> String {
    let mut parts = Vec::new();
    parts.extend(conditions.cpu_model.clone());
    parts.push(format!("{} threads", conditions.threads));
    parts.extend(conditions.load_1min.map(|load| format!("load {}", units::significant(load, 2))));
    parts.extend(conditions.frequency_mhz.map(|mhz| format!("{} MHz", units::significant(mhz, 4))));
    parts.extend(conditions.temperature_celsius.map(|degrees| format!("{} °C", units::significant(degrees, 3))));
    for (name, cores) in &conditions.busy_processes {
        parts.push(format!("{name} on {} cores", units::significant(*cores, 2)));
    }
    parts.push(conditions.build.clone());
    parts.join(", ")
}

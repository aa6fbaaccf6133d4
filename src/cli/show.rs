//! `trimtab show`: a study as a table or as JSON.

use serde_json::{Value, json};

use crate::cli::args::ShowArgs;
use crate::cli::out::{Out, say};
use crate::cli::table::{Column, numbers, table, words};
use crate::cli::{Verdict, compression, open};
use crate::export::tables;
use crate::study::{Estimate, Measurements, Objective, Outcome, Study, Trial, TrialState, pareto_front};
use crate::units;

const COLUMNS: [Column; 10] = [
    numbers("trial"),
    words("recipe"),
    numbers("bits"),
    numbers("weights"),
    numbers("perplexity"),
    numbers("KL (nats)"),
    numbers("top-1"),
    numbers("decode tok/s"),
    numbers("prefill tok/s"),
    numbers("peak"),
];

pub(super) fn run(args: &ShowArgs, out: &mut Out) -> anyhow::Result<Verdict> {
    let (study, damage) = open::study(&args.study)?;
    for finding in &damage {
        say(&format!("damage set aside: {finding}"));
    }
    if args.json {
        out.json(&as_json(&study, &damage))?;
    } else {
        out.data(&as_text(&study))?;
        if args.layers {
            out.data(&layers(&study))?;
        }
    }
    Ok(Verdict::Done)
}

/// The layers of every trial that made some.
fn layers(study: &Study) -> String {
    let tables = study.trials.iter().filter_map(|(id, trial)| {
        let measurements = trial.measurements()?;
        let mut text = format!("\n{id} {}\n", trial.spec.recipe.name);
        for (name, line) in compression::lines(measurements) {
            text = format!("{text}{name:<11} {line}\n");
        }
        Some(text + &compression::layers(measurements)?)
    });
    let text = tables.collect::<Vec<_>>().join("\n");
    if text.is_empty() { "no trial of this study recorded how its layers were made".to_owned() } else { text }
}

/// The study for programs: its header, the front of KL against bytes, and every trial.
pub(super) fn as_json(study: &Study, damage: &[String]) -> Value {
    json!({
        "study": study.header,
        "ended": study.ended,
        "pareto_front": pareto_front(study, Objective::WeightBytes, Objective::Kl),
        "damage": damage,
        "trials": tables::records(study),
    })
}

/// The study for people: one row a trial.
pub(super) fn as_text(study: &Study) -> String {
    let mut text = study.header.as_deref().map_or_else(String::new, |header| {
        format!("{}: {} on {}\n", header.spec.name, header.graph.name, header.device.name)
    });
    text.push_str(&bases(study));
    let front = pareto_front(study, Objective::WeightBytes, Objective::Kl);
    let is_shared = study.header.as_ref().is_some_and(|header| !header.spec.also_on.is_empty());
    let rows = study.trials.iter().map(|(id, trial)| {
        let mark = if front.contains(id) { "*" } else { "" };
        row(format!("{id}{mark}"), trial, is_shared)
    });
    text.push_str(&table(&COLUMNS, rows));
    text.push_str("\n* on the front of KL against bytes   ± half a 95 % interval   ≈ simulated, not its own speed");
    text
}

/// What the quality numbers of this study were taken on, and what calibrated its variants.
fn bases(study: &Study) -> String {
    let mut bases: Vec<String> = study
        .trials
        .values()
        .filter_map(|trial| trial.measurements()?.quality.as_ref())
        .map(|quality| {
            format!("quality: {} on {}, {} windows\n", quality.protocol, quality.split, quality.windows.len())
        })
        .collect();
    bases.extend(study.trials.values().filter_map(|trial| {
        let calibration = trial.measurements()?.compression.as_ref()?.calibration.as_ref()?;
        let (text, windows, policy) = (&calibration.text, calibration.windows, calibration.policy.name());
        Some(format!("calibration: {windows} windows of {} tokens of {text}, {policy}\n", calibration.context))
    }));
    bases.sort();
    bases.dedup();
    bases.concat()
}

fn row(id: String, trial: &Trial, is_shared: bool) -> Vec<String> {
    let mut name = trial.spec.recipe.name.clone();
    if is_shared {
        name = format!("{name} · {}", trial.spec.device.label());
    }
    match &trial.state {
        TrialState::Running => vec![id, format!("{name} (unfinished)")],
        TrialState::Finished { outcome: Outcome::Failed(failure), .. } => {
            vec![id, format!("{name} (failed: {})", failure.kind.label())]
        }
        TrialState::Finished { outcome: Outcome::Done(measurements), .. } => number_cells(id, name, measurements),
    }
}

fn number_cells(id: String, name: String, measurements: &Measurements) -> Vec<String> {
    let mark = if measurements.simulated_layers == 0 { "" } else { "≈ " };
    let interval = |estimate: &Estimate| units::interval(estimate.value, estimate.ci95);
    let quality = measurements.quality.as_ref();
    let speed = measurements.speed.as_ref();
    let of_quality = |text: fn(&crate::study::Quality) -> String| quality.map_or_else(String::new, text);
    vec![
        id,
        name,
        units::significant(measurements.bits_per_weight, 3),
        units::bytes(measurements.memory.weight_bytes),
        of_quality(|quality| units::interval(quality.perplexity.value, quality.perplexity.ci95)),
        of_quality(|quality| units::interval(quality.kl_mean.value, quality.kl_mean.ci95)),
        of_quality(|quality| units::percent(quality.top1_agreement.value)),
        speed.map_or_else(String::new, |speed| format!("{mark}{}", interval(&speed.decode.tokens_per_second))),
        speed.map_or_else(String::new, |speed| format!("{mark}{}", interval(&speed.prefill.tokens_per_second))),
        measurements.memory.peak_bytes().map_or_else(String::new, |bytes| format!("{mark}{}", units::bytes(bytes))),
    ]
}

//! `trimtab bench`: speed and memory beside the reference.

use serde_json::{Value, json};

use crate::cli::args::BenchArgs;
use crate::cli::out::{Out, say};
use crate::cli::peers::{self, Peer};
use crate::cli::table::{Column, numbers, table, words};
use crate::cli::trial::{self, Ran, say_cautions};
use crate::cli::{Verdict, compression, open};
use crate::study::{DecodeLimits, Estimate, Measurements, PhaseSpeed, Speed, SpeedWorkload, Workload};
use crate::units;

const COLUMNS: [Column; 9] = [
    words("recipe"),
    numbers("bits"),
    numbers("weights"),
    numbers("prefill tok/s"),
    numbers("a prompt"),
    numbers("× reference"),
    numbers("decode tok/s"),
    numbers("a token"),
    numbers("× reference"),
];
/// Of the bandwidth that a card reached, in decoding: the last column where there is a card.
const BANDWIDTH: Column = numbers("of bandwidth");

pub(super) fn run(args: &BenchArgs, out: &mut Out) -> anyhow::Result<Verdict> {
    let speed = SpeedWorkload { prompt: args.prompt, decode: args.decode, repetitions: args.repetitions };
    let workload = Workload { speed: Some(speed), ..Workload::default() };
    let model = open::model_or_shape(&args.model)?;
    let peers = args.model.shape.as_deref().map_or_else(Vec::new, peers::of);
    let is_one = args.recipes.len() == 1 && peers.is_empty();
    let ran = trial::run_all(&model, &args.recipes, &args.run, &workload, |progress, ran| {
        if !is_one {
            progress.say(&told(ran));
        }
    })?;
    if args.json && is_one {
        ran.iter().try_for_each(|ran| out.json(&record(ran)))?;
    } else if args.json {
        let trials: Vec<Value> = ran.iter().map(record).collect();
        out.json(&json!({ "model": model.graph().name, "trials": trials, "peers": peers }))?;
    } else {
        print(&ran, &peers, args, out)?;
    }
    for ran in &ran {
        // Of several recipes it is said whose words follow.
        if !is_one && (ran.result.is_err() || !ran.cautions.is_empty()) {
            say(&format!("{}:", ran.recipe.name));
        }
        if let Err(failure) = &ran.result {
            say(&format!("failed: {}: {}", failure.kind.label(), failure.message));
        }
        say_cautions(&ran.cautions);
    }
    Ok(if ran.iter().all(|ran| ran.result.is_ok()) { Verdict::Done } else { Verdict::Missed })
}

/// The measurements with their speed, where there are both.
fn timed(ran: &Ran) -> Option<(&Measurements, &Speed)> {
    let measurements = ran.result.as_ref().ok()?;
    Some((measurements, measurements.speed.as_ref()?))
}

/// One of several trials that ended.
fn told(ran: &Ran) -> String {
    let outcome = match (timed(ran), &ran.result) {
        (Some((_, speed)), _) => {
            let [prefill, decode] = [&speed.prefill, &speed.decode].map(rate);
            format!("prefill {prefill}, decode {decode} tokens/s")
        }
        (None, Err(failure)) => format!("failed: {}", failure.kind.label()),
        (None, Ok(_)) => "no speed".to_owned(),
    };
    format!("{}: {outcome}", ran.recipe.name)
}

fn record(ran: &Ran) -> Value {
    match (timed(ran), &ran.result) {
        (Some((measurements, speed)), _) => as_json(ran, measurements, speed),
        (None, result) => json!({ "recipe": ran.recipe.name, "failure": result.as_ref().err() }),
    }
}

fn print(ran: &[Ran], peers: &[Peer], args: &BenchArgs, out: &mut Out) -> anyhow::Result<()> {
    if let ([ran], []) = (ran, peers) {
        if let Some((measurements, speed)) = timed(ran) {
            out.data(&as_text(ran, measurements, speed))?;
        }
    } else {
        let rows = ran.iter().map(row).chain(peers.iter().map(Peer::row));
        let is_on_card = ran.iter().filter_map(timed).any(|(_, speed)| speed.limits.is_some());
        let columns = [&COLUMNS[..], if is_on_card { &[BANDWIDTH] } else { &[] }].concat();
        out.data(&table(&columns, rows))?;
        for peer in peers {
            out.data(&peer.note())?;
        }
    }
    for (measurements, _) in ran.iter().filter_map(timed).filter(|_| args.layers) {
        if let Some(layers) = compression::layers(measurements) {
            out.data(&layers)?;
        }
    }
    Ok(())
}

/// One trial of several.
fn row(ran: &Ran) -> Vec<String> {
    let Some((measurements, speed)) = timed(ran) else { return vec![ran.recipe.name.clone(), "failed".to_owned()] };
    let simulated = if measurements.simulated_layers > 0 { " (simulated)" } else { "" };
    let ratio = |phase: &PhaseSpeed| phase.ratio.map_or_else(String::new, |ratio| units::ratio(ratio.value));
    let [prefill, decode] = [&speed.prefill, &speed.decode];
    let mut cells = vec![
        format!("{}{simulated}", ran.recipe.name),
        units::significant(measurements.bits_per_weight, 4),
        units::bytes(measurements.memory.weight_bytes),
        rate(prefill),
        units::duration(prefill.latency_secs.value),
        ratio(prefill),
        rate(decode),
        units::duration(decode.latency_secs.value),
        ratio(decode),
    ];
    let share = |limits: DecodeLimits| units::percent(limits.bandwidth_share(decode.latency_secs.value));
    cells.extend(speed.limits.map(share));
    cells
}

fn rate(phase: &PhaseSpeed) -> String {
    units::interval(phase.tokens_per_second.value, phase.tokens_per_second.ci95)
}

fn as_json(ran: &Ran, measurements: &Measurements, speed: &Speed) -> Value {
    json!({
        "recipe": ran.recipe.name,
        "prompt_tokens": speed.prompt_tokens,
        "decode_tokens": speed.decode_tokens,
        "prefill": phase_json(&speed.prefill),
        "decode": phase_json(&speed.decode),
        "decode_limits": speed.limits.map(|limits| limits_json(limits, speed.decode.latency_secs.value)),
        "weight_bytes": measurements.memory.weight_bytes,
        "held_bytes": measurements.memory.held_bytes,
        "peak_rss_bytes": measurements.memory.peak_rss_bytes,
        "predicted_peak_bytes": measurements.memory.predicted_peak_bytes,
        "peak_gpu_bytes": measurements.memory.peak_gpu_bytes,
        "energy": measurements.energy,
        "bits_per_weight": measurements.bits_per_weight,
        // How the speeds came about: on the format's own products, or on f32 products in their place.
        "speed_basis": if measurements.simulated_layers > 0 { "simulated" } else { "measured" },
        "simulated": measurements.simulated_layers > 0,
        "simulated_layers": measurements.simulated_layers,
        "products": measurements.products,
        "samples": {
            "prefill_nanos": speed.prefill.samples_nanos,
            "decode_nanos": speed.decode.samples_nanos,
            "reference_prefill_nanos": speed.prefill.reference_nanos,
            "reference_decode_nanos": speed.decode.reference_nanos,
        },
        "compress_secs": measurements.compress_secs,
        "compression": measurements.compression,
        "conditions": measurements.conditions,
        "cautions": ran.cautions.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn limits_json(limits: DecodeLimits, token_secs: f64) -> Value {
    json!({
        "bytes_per_token": limits.bytes_per_token,
        "memory": limits.memory.label(),
        "bytes_per_second": limits.bytes_per_second,
        "bandwidth_share": limits.bandwidth_share(token_secs),
        "launches_per_token": limits.launches_per_token,
        "launch_secs": limits.launch_secs,
        "launch_share": limits.launches_secs() / token_secs,
    })
}

fn limits_text(limits: DecodeLimits, token_secs: f64) -> String {
    format!(
        "decode reads {} a token: {} of the {} measured ({}); its {} launches of {} take {} of its time",
        units::bytes(limits.bytes_per_token),
        units::percent(limits.bandwidth_share(token_secs)),
        units::per_second(limits.bytes_per_second, "B/s"),
        limits.memory.label(),
        units::count(limits.launches_per_token),
        units::duration(limits.launch_secs),
        units::percent(limits.launches_secs() / token_secs),
    )
}

fn phase_json(phase: &PhaseSpeed) -> Value {
    json!({
        "tokens_per_second": { "median": phase.tokens_per_second.value, "ci95": phase.tokens_per_second.ci95 },
        "latency_secs": {
            "median": phase.latency_secs.value,
            "ci95": phase.latency_secs.ci95,
            "p50": phase.p50_secs,
            "p90": phase.p90_secs,
            "p99": phase.p99_secs,
        },
        "ratio_to_reference": phase.ratio.map(|ratio| json!({
            "value": ratio.value,
            "ci95": ratio.ci95,
            "resolved": ratio.is_resolved(),
        })),
    })
}

fn as_text(ran: &Ran, measurements: &Measurements, speed: &Speed) -> String {
    let memory = &measurements.memory;
    let host = memory.peak_rss_bytes.map_or_else(|| "not readable".to_owned(), units::bytes);
    let predicted = memory.predicted_peak_bytes.zip(memory.prediction_ratio());
    let predicted = predicted.map_or_else(String::new, |(predicted, ratio)| {
        format!(" (predicted {}, {})", units::bytes(predicted), units::change(ratio))
    });
    let peak = match memory.peak_gpu_bytes {
        None => format!("{host}{predicted}"),
        Some(card) => format!("{} of the card{predicted}, {host} of the host", units::bytes(card)),
    };
    let products: Vec<String> =
        measurements.products.iter().map(|(product, layers)| format!("{product} ({layers} layers)")).collect();
    let basis = match measurements.simulated_layers {
        0 => "measured on the products of the format".to_owned(),
        n => format!("simulated: {n} layers ran dequantized in f32, so this is not the format's own speed or memory"),
    };
    let mut lines = vec![
        ("recipe", ran.recipe.name.clone()),
        ("speed", basis),
        ("prefill", phase_text(&speed.prefill, speed.prompt_tokens, "prompt")),
        ("decode", phase_text(&speed.decode, speed.decode_tokens, "token")),
        (
            "bandwidth",
            speed.limits.map_or_else(String::new, |limits| limits_text(limits, speed.decode.latency_secs.value)),
        ),
        (
            "weights",
            format!(
                "{}, {} bits a weight",
                units::bytes(measurements.memory.weight_bytes),
                units::significant(measurements.bits_per_weight, 4)
            ),
        ),
        ("peak memory", peak),
        ("energy", energy_text(measurements)),
        ("what ran", products.join(", ")),
    ];
    lines.retain(|(_, value)| !value.is_empty());
    lines.extend(compression::lines(measurements));
    lines.into_iter().map(|(name, value)| format!("{name:<11} {value}")).collect::<Vec<_>>().join("\n")
}

fn energy_text(measurements: &Measurements) -> String {
    let Some(energy) = &measurements.energy else {
        let reason = measurements.conditions.no_energy.as_deref();
        return reason.map_or_else(|| "not read".to_owned(), |reason| format!("not read: {reason}"));
    };
    let per_token = |name: &str, found: Option<Estimate>| match found {
        Some(found) => {
            format!("{} mJ a token of {name}", units::interval(1e3 * found.value, found.ci95.map(|end| 1e3 * end)))
        }
        None => format!("{name} too short for the counter"),
    };
    format!(
        "{}, {}, {} J in all ({})",
        per_token("decode", energy.decode_joules_per_token),
        per_token("prefill", energy.prefill_joules_per_token),
        units::significant(energy.trial_joules, 3),
        energy.source,
    )
}

fn phase_text(phase: &PhaseSpeed, tokens: u32, unit: &str) -> String {
    let rate = rate(phase);
    let mut text = format!("{rate} tokens/s, {} a {unit} ({tokens} tokens", units::duration(phase.latency_secs.value));
    text.extend(phase.ratio.map(|ratio| {
        let verdict = if ratio.is_resolved() { "" } else { ", not resolved" };
        format!("; {} the reference{verdict}", units::ratio(ratio.value))
    }));
    text.push(')');
    text
}

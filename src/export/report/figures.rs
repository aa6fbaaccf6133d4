//! Which plots the report has, and what stands under each.

use crate::export::report::bars::{Bar, bars};
use crate::export::report::scatter::{axis_title, scatter};
use crate::export::report::svg::{escape, push};
use crate::study::{Estimate, Measurements, Objective, PhaseSpeed, Study, TrialId, pareto_front};
use crate::units;

/// The most bars a plot has; the table has every trial.
const MAX_BARS: usize = 40;

/// Every plot that the study has numbers for.
pub(super) fn figures(study: &Study) -> String {
    let mut out = String::new();
    let pairs = [
        (Objective::WeightBytes, Objective::Kl),
        (Objective::DecodeLatency, Objective::Kl),
        (Objective::WeightBytes, Objective::DecodeLatency),
    ];
    let plots: Vec<String> = pairs
        .into_iter()
        .filter_map(|(x, y)| {
            let plot = scatter(study, x, y)?;
            Some(format!("<h3>{} against {}</h3>\n{plot}", escape(axis_title(y)), escape(axis_title(x))))
        })
        .collect();
    let note = "Left and low is better. The dashed steps join the trials that no other one beats in both; the ring is \
                the reference. A diamond has simulated layers: its latency is not the format's, so it has none here.";
    section(&mut out, "Trade-off", note, &plots);

    let shown = shown(study);
    let cut = if shown.len() < n_done(study) {
        format!(
            " {} of {} trials are drawn: the Pareto front first, then the smallest KL.",
            units::count(shown.len() as u64),
            units::count(n_done(study) as u64)
        )
    } else {
        String::new()
    };
    section(
        &mut out,
        "Quality",
        &format!("{} Whiskers are 95 % intervals, clustered by window.{cut}", basis(study)),
        &quality(&shown),
    );
    let note = format!(
        "Medians with 95 % intervals, taken turn about with the reference. A hollow bar and ≈ are simulated: the speed of f32 \
         products, not of the format. A ratio whose interval holds 1 is not resolved.{cut}"
    );
    section(&mut out, "Speed", &note, &speed(&shown));
    let note =
        format!("Packed weights are what an exported file holds. Peak memory is the worker's, from the kernel.{cut}");
    section(&mut out, "Memory", &note, &memory(&shown));
    out
}

fn section(out: &mut String, title: &str, note: &str, plots: &[String]) {
    if plots.is_empty() {
        return;
    }
    push(out, format_args!("<section>\n<h2>{title}</h2>\n<p class=\"note\">{}</p>\n", escape(note.trim())));
    for plot in plots {
        out.push_str(plot);
    }
    out.push_str("</section>\n");
}

/// A trial that a bar is drawn for.
struct Shown<'a> {
    id: TrialId,
    label: String,
    measurements: &'a Measurements,
    /// Zeros in place are all that it changes: its speed and memory are the reference's, so they are not drawn again.
    is_masked: bool,
}

fn n_done(study: &Study) -> usize {
    study.trials.values().filter(|trial| trial.measurements().is_some()).count()
}

/// The trials that are drawn as bars, in the order of their numbers: all, or the front and then the smallest KL.
fn shown(study: &Study) -> Vec<Shown<'_>> {
    let front = pareto_front(study, Objective::WeightBytes, Objective::Kl);
    let mut done: Vec<Shown<'_>> = study
        .trials
        .iter()
        .filter_map(|(id, trial)| {
            let measurements = trial.measurements()?;
            let (label, recipe) = (format!("{id} {}", trial.spec.recipe.name), &trial.spec.recipe);
            Some(Shown { id: *id, label, measurements, is_masked: recipe.is_masked_only() })
        })
        .collect();
    let rank = |shown: &Shown<'_>| {
        let kl = Objective::Kl.value(shown.measurements).unwrap_or(f64::INFINITY);
        (shown.id.0 != 0, !front.contains(&shown.id), kl)
    };
    done.sort_by(|a, b| {
        let (a, b) = (rank(a), rank(b));
        (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2))
    });
    done.truncate(MAX_BARS);
    done.sort_by_key(|shown| shown.id);
    done
}

/// The protocol, split and window count behind the quality numbers; more than one is named.
fn basis(study: &Study) -> String {
    let mut bases: Vec<String> = study
        .trials
        .values()
        .filter_map(|trial| trial.measurements()?.quality.as_ref())
        .map(|quality| format!("{} on {}, {} windows", quality.protocol, quality.split, quality.windows.len()))
        .collect();
    bases.sort();
    bases.dedup();
    match &bases[..] {
        [] => String::new(),
        [one] => format!("Protocol {one}."),
        many => format!("Several protocols, not comparable with each other: {}.", many.join("; ")),
    }
}

fn quality(shown: &[Shown<'_>]) -> Vec<String> {
    let with_quality = || shown.iter().filter_map(|shown| Some((shown, shown.measurements.quality.as_ref()?)));
    let kl = with_quality().map(|(shown, quality)| bar(shown, quality.kl_mean, true, "")).collect::<Vec<_>>();
    let perplexity = with_quality()
        .map(|(shown, quality)| {
            let difference = quality.log_perplexity_difference.value;
            let beside =
                if shown.id.0 == 0 { String::new() } else { format!(" ({})", units::change(difference.exp())) };
            bar(shown, quality.perplexity, true, &beside)
        })
        .collect::<Vec<_>>();
    titled([("Mean KL to the reference (nats)", kl), ("Perplexity", perplexity)])
}

fn speed(shown: &[Shown<'_>]) -> Vec<String> {
    let phase = |of: fn(&Measurements) -> Option<&PhaseSpeed>| {
        shown
            .iter()
            .filter(|shown| !shown.is_masked)
            .filter_map(|shown| {
                let phase = of(shown.measurements)?;
                let beside = phase.ratio.map_or_else(String::new, |ratio| {
                    let verdict = if ratio.is_resolved() { "" } else { ", not resolved" };
                    format!(" ({}{verdict})", units::ratio(ratio.value))
                });
                Some(bar(shown, phase.tokens_per_second, shown.measurements.simulated_layers == 0, &beside))
            })
            .collect::<Vec<_>>()
    };
    titled([
        ("Decode (tokens a second)", phase(|measurements| Some(&measurements.speed.as_ref()?.decode))),
        ("Prefill (tokens a second)", phase(|measurements| Some(&measurements.speed.as_ref()?.prefill))),
    ])
}

fn memory(shown: &[Shown<'_>]) -> Vec<String> {
    let sized = |shown: &Shown<'_>, bytes: u64, is_own: bool, beside: &str| Bar {
        label: shown.label.clone(),
        value: bytes as f64,
        ci95: None,
        text: format!("{}{beside}", units::bytes(bytes)),
        is_own,
        is_reference: shown.id.0 == 0,
    };
    let packed = shown
        .iter()
        .map(|shown| {
            let bits = format!(", {} bits a weight", units::significant(shown.measurements.bits_per_weight, 3));
            sized(shown, shown.measurements.memory.weight_bytes, true, &bits)
        })
        .collect();
    let peak = shown
        .iter()
        .filter(|shown| !shown.is_masked)
        .filter_map(|shown| {
            let bytes = shown.measurements.memory.peak_bytes()?;
            Some(sized(shown, bytes, shown.measurements.simulated_layers == 0, ""))
        })
        .collect();
    titled([("Weights as packed", packed), ("Peak memory of the worker", peak)])
}

fn bar(shown: &Shown<'_>, estimate: Estimate, is_own: bool, beside: &str) -> Bar {
    let mark = if is_own { "" } else { "≈ " };
    Bar {
        label: shown.label.clone(),
        value: estimate.value,
        ci95: estimate.interval(),
        text: format!("{mark}{}{beside}", units::interval(estimate.value, estimate.ci95)),
        is_own,
        is_reference: shown.id.0 == 0,
    }
}

fn titled<const N: usize>(plots: [(&str, Vec<Bar>); N]) -> Vec<String> {
    plots.into_iter().filter_map(|(title, rows)| Some(format!("<h3>{title}</h3>\n{}", bars(title, &rows)?))).collect()
}

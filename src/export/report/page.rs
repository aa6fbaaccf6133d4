//! What stands above and below the numbers: the study in words, and how to read it.

use crate::device::DeviceInfo;
use crate::export::report::svg::{escape, push};
use crate::recipe::Recipe;
use crate::study::{EndReason, Limits, StrategySpec, Study, StudyHeader, StudySpec, TrialState, Workload};
use crate::units;

/// The title and what the study is.
pub(super) fn head(study: &Study) -> String {
    let Some(header) = study.header.as_deref() else {
        return "<h1>Study</h1>\n<p>The record has no header: model and settings are unknown.</p>\n".to_owned();
    };
    let StudyHeader { app_version, spec, graph, device, created_unix_secs, data_hash } = header;
    let mut rows = vec![
        (
            "Model",
            format!(
                "{} ({}, {} parameters, {} as stored)",
                graph.name,
                graph.family.name(),
                units::parameters(graph.n_parameters()),
                units::bytes(graph.stored_bytes())
            ),
        ),
        ("Fingerprint", graph.fingerprint.0.clone()),
        ("Device", devices(device, spec)),
        ("Measured", workload(&spec.workload)),
        ("Strategy", strategy(&spec.strategy)),
    ];
    rows.extend(data_hash.clone().map(|hash| ("Text fingerprint", hash)));
    rows.extend(limits(&spec.limits).map(|text| ("Limits", text)));
    rows.extend(budget(spec).map(|text| ("Budget", text)));
    rows.push(("Seed", spec.seed.to_string()));
    rows.push(("Made", format!("{} by Trimtab {app_version}", utc(*created_unix_secs))));
    rows.push(("Trials", trial_counts(study)));
    let mut out = format!("<h1>{}</h1>\n<dl>\n", escape(&spec.name));
    for (name, value) in rows {
        push(&mut out, format_args!("<dt>{name}</dt><dd>{}</dd>\n", escape(&value)));
    }
    out.push_str("</dl>\n");
    out
}

/// How each number is meant.
pub(super) fn reading_guide(study: &Study) -> String {
    let mut out = String::from("<section>\n<h2>How to read this</h2>\n<dl>\n");
    let mut rows = vec![
        (
            "± and whiskers",
            "Half of a 95 % confidence interval. Quality resamples windows, speed resamples repetitions.",
        ),
        (
            "Simulated",
            "The device has no product for the format. Quality and bytes are the format's own; speed and resident memory are those of f32 and are marked.",
        ),
        (
            "Masked",
            "Zeros are all that differs from the model, and zeros stay in place: a ratio of speeds would be the machine's.",
        ),
        ("Not resolved", "The interval of the ratio to the reference holds 1: no difference was shown."),
        ("Failed", "The trial ended early. That is a result: the row says why."),
        (
            "Bits a weight",
            "Over the linear layers of the blocks, scales and minimums included; embedding and head where a rule changes them.",
        ),
    ];
    if study
        .trials
        .values()
        .any(|trial| trial.measurements().is_some_and(|measurements| measurements.quality.is_some()))
    {
        rows.insert(0, ("gptq-N", "Each text begins with one BOS, all are joined and cut into windows of N tokens that do not overlap; every token but a window's first is scored. Numbers of other protocols are not comparable."));
        rows.insert(1, ("KL", "KL(reference ‖ variant) in nats, a mean over scored positions; the reference is this model as its files have it, on the same windows."));
    }
    for (name, value) in rows {
        push(&mut out, format_args!("<dt>{name}</dt><dd>{}</dd>\n", escape(value)));
    }
    out.push_str("</dl>\n</section>\n");
    out
}

fn workload(workload: &Workload) -> String {
    let mut parts = Vec::new();
    if let Some(quality) = &workload.quality {
        let name = quality.data.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let windows =
            quality.windows.map_or_else(|| "all".to_owned(), |n| format!("the first {}", units::count(n.into())));
        parts.push(format!("quality by {} on {name}, {windows} windows", quality.protocol.id(quality.context)));
    }
    if let Some(speed) = &workload.speed {
        parts.push(format!(
            "speed with a prompt of {} and {} decoded tokens, {} repetitions",
            speed.prompt, speed.decode, speed.repetitions
        ));
    }
    if let Some(sample) = &workload.sample {
        parts.push(format!("{} tokens of text after {:?}", sample.tokens, sample.prompt));
    }
    if parts.is_empty() { "bytes only".to_owned() } else { parts.join("; ") }
}

/// Where trials ran: the device as it was described, then those that shared the study.
fn devices(device: &DeviceInfo, spec: &StudySpec) -> String {
    let also: Vec<String> = spec.devices().into_iter().skip(1).map(|device| format!(", {}", device.label())).collect();
    format!("{} ({}){}", device.name, spec.device.label(), also.concat())
}

fn strategy(strategy: &StrategySpec) -> String {
    let over = |base: &Recipe| if base.name.is_empty() { String::new() } else { format!(" over {:?}", base.name) };
    match strategy {
        StrategySpec::List { recipes } => format!("{} recipes in order", recipes.len()),
        StrategySpec::Grid { base, axes } => format!("grid of {} axes{}", axes.len(), over(base)),
        StrategySpec::Progressive { base, rungs } => {
            format!("ladder of {} rungs{}", rungs.iter().map(|axis| axis.settings.len()).sum::<usize>(), over(base))
        }
    }
}

/// Limits in words; `None` without any.
fn limits(limits: &Limits) -> Option<String> {
    let mut parts = Vec::new();
    parts.extend(limits.max_kl.map(|limit| format!("mean KL up to {} nats", units::significant(limit, 3))));
    parts.extend(limits.max_perplexity_ratio.map(|limit| format!("perplexity up to {}", units::change(limit))));
    let text = format!("{}; missed when the upper 95 % bound crosses", parts.join(", "));
    (!parts.is_empty()).then_some(text)
}

fn budget(spec: &StudySpec) -> Option<String> {
    let mut parts = Vec::new();
    parts.extend(spec.budget.trials.map(|trials| format!("{trials} trials")));
    parts.extend(spec.budget.secs.map(units::duration));
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn trial_counts(study: &Study) -> String {
    let running = study.trials.values().filter(|trial| trial.state == TrialState::Running).count();
    let done = study.trials.values().filter(|trial| trial.measurements().is_some()).count();
    let failed = study.trials.len() - done - running;
    let mut text = format!("{done} done, {failed} failed");
    if running > 0 {
        push(&mut text, format_args!(", {running} unfinished"));
    }
    text.push_str(match &study.ended {
        None => "; not ended",
        Some(EndReason::Complete) => "; complete",
        Some(EndReason::TimeBudget) => "; the time budget was used up",
        Some(EndReason::TrialBudget) => "; the trial budget was used up",
        Some(EndReason::Stopped) => "; stopped by the user",
        Some(EndReason::Failing(_)) => "; stopped because trials kept failing",
    });
    if let Some(EndReason::Failing(reason)) = &study.ended {
        push(&mut text, format_args!(" ({reason})"));
    }
    text
}

/// A moment as `2026-11-20 06:05 UTC`.
///
/// Days become a date by Hinnant's `civil_from_days`: years that begin in March make the leap day the last one.
fn utc(unix_secs: u64) -> String {
    let days = unix_secs / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (unix_secs / 3600 % 24, unix_secs / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates_in_utc() {
        let cases = [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (951_868_799, "2000-02-29 23:59 UTC"),
            (1_795_152_300, "2026-11-20 05:25 UTC"),
        ];
        for (secs, expected) in cases {
            assert_eq!(utc(secs), expected);
        }
    }
}

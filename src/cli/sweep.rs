//! `trimtab sweep`: a study from a file, or the demo's.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::cli::args::SweepArgs;
use crate::cli::interrupt::stop_on_interrupt;
use crate::cli::out::{Out, quoted, say};
use crate::cli::progress::Progress;
use crate::cli::{Verdict, checks, open, report, show, spec};
use crate::recipe::Calibration;
use crate::session;
use crate::study::{
    EndReason, Outcome, Study, StudyEvent, StudyHeader, StudySpec, Trial, TrialId, TrialState, journal, planned_recipes,
};
use crate::units;
use crate::worker::Runner;
use crate::worker::host::{WorkerConfig, WorkerHandle};
use anyhow::{Context as _, bail};

pub(super) fn run(args: &SweepArgs, out: &mut Out) -> anyhow::Result<Verdict> {
    let out_path = args.out.as_deref().map(study_path);
    if let Some(path) = out_path.as_deref().filter(|path| args.out.as_deref() != Some(*path)) {
        say(&format!("a study ends in .{}: writing {}", journal::EXTENSION, quoted(path)));
    }
    let (spec, journal) = if let Some(path) = &args.spec {
        (spec::read(path, &args.calibration)?, out_path.context("--out names the study file")?)
    } else {
        let (mut spec, journal) = demo(out_path)?;
        spec::calibrate(&mut spec.strategy, &Calibration::default(), &args.calibration)?;
        (spec, journal)
    };
    let verdict = run_study(spec, &journal, args, out)?;
    say(&format!("study: {}", journal.display()));
    Ok(verdict)
}

/// `path` with the extension of studies: a report has the study's name with another extension, so it must have its own.
fn study_path(path: &Path) -> PathBuf {
    if path.extension().is_some_and(|extension| extension == journal::EXTENSION) {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(journal::EXTENSION);
    PathBuf::from(name)
}

/// The demo's study and where it goes: a new file in the demo's cache folder when no other is named.
fn demo(out: Option<PathBuf>) -> anyhow::Result<(StudySpec, PathBuf)> {
    let demo = session::demo().context("unpack the demo")?;
    let journal = out.unwrap_or_else(|| {
        let folder = demo.model.path().parent().unwrap_or(Path::new(""));
        folder.join(format!("demo-{}.{}", unix_secs(), journal::EXTENSION))
    });
    Ok((demo.spec, journal))
}

fn unix_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

fn run_study(spec: StudySpec, journal: &Path, args: &SweepArgs, out: &mut Out) -> anyhow::Result<Verdict> {
    if journal.exists() && !args.resume {
        bail!("{} exists; go on with it by --resume, or name another file", quoted(journal));
    }
    if !journal.exists() && args.resume {
        bail!("{} does not exist; leave out --resume to begin it", quoted(journal));
    }
    let graph = open::model(spec.model.path())?.graph().clone();
    checks::study(&spec, graph.family.max_context())?;
    let device = open::device(spec.device)?;
    for further in &spec.also_on {
        open::device(*further)?;
    }
    let recipes = planned_recipes(&spec);
    for recipe in &recipes {
        // A recipe that cannot run becomes a failed trial with the same words: the others are worth their time.
        if let Err(error) = open::check(recipe, &graph, &device) {
            say(&format!("caution: {error:#}"));
        }
    }
    let planned = u32::try_from(recipes.len()).unwrap_or(u32::MAX);
    let total = spec.budget.trials.map_or(planned, |most| most.min(planned)).saturating_add(1);
    let mut runners: Vec<Box<dyn Runner>> = Vec::new();
    for device in spec.devices() {
        runners.push(Box::new(WorkerHandle::new(WorkerConfig::new(spec.model.clone(), device)?)));
    }
    let header = StudyHeader {
        app_version: env!("CARGO_PKG_VERSION").to_owned(),
        spec,
        graph,
        device,
        created_unix_secs: unix_secs(),
        data_hash: None,
    };
    let mut progress = Progress::over_trials(total);
    let mut observe = |event: &StudyEvent, study: &Study| {
        progress.observe(event);
        if let StudyEvent::TrialFinished { trial, .. } = event
            && let Some(finished) = study.trials.get(trial)
        {
            progress.say(&line(*trial, finished));
        }
    };
    let stopping = stop_on_interrupt().context("listen for interrupts")?;
    let end = session::run_to_end(header, journal, args.resume, runners, stopping, &mut observe)?;
    let study = end.study;
    progress.finish();
    if args.json {
        out.json(&show::as_json(&study, &[]))?;
    } else {
        out.data(&show::as_text(&study))?;
    }
    report::beside(&study, journal)?;
    if let Some(reason) = end.unrecorded {
        bail!("the study's journal is not whole: {reason}");
    }
    Ok(verdict(&study))
}

/// A finished trial in one line.
fn line(id: TrialId, trial: &Trial) -> String {
    let name = &trial.spec.recipe.name;
    match &trial.state {
        TrialState::Running => format!("{id} {name}"),
        TrialState::Finished { outcome: Outcome::Failed(failure), .. } => {
            format!("{id} {name}: failed: {}: {}", failure.kind.label(), failure.message)
        }
        TrialState::Finished { outcome: Outcome::Done(measurements), elapsed_secs, .. } => {
            let mut parts = vec![units::bytes(measurements.memory.weight_bytes)];
            parts.extend(measurements.quality.as_ref().map(|quality| {
                format!("KL {} ({})", units::interval(quality.kl_mean.value, quality.kl_mean.ci95), quality.protocol)
            }));
            parts.extend(measurements.speed.as_ref().map(|speed| {
                let mark = if measurements.simulated_layers == 0 { "" } else { ", simulated" };
                let rate = &speed.decode.tokens_per_second;
                format!("decode {} tokens/s{mark}", units::interval(rate.value, rate.ci95))
            }));
            parts.push(format!("took {}", units::duration(*elapsed_secs)));
            format!("{id} {name}: {}", parts.join(", "))
        }
    }
}

/// Missed when a trial failed, or when limits are set and no variant kept them.
fn verdict(study: &Study) -> Verdict {
    let n_failed = study
        .trials
        .values()
        .filter(|trial| matches!(trial.state, TrialState::Finished { outcome: Outcome::Failed(_), .. }))
        .count();
    if n_failed > 0 {
        say(&format!("{n_failed} of {} trials failed", study.trials.len()));
    }
    let is_stopped = study.ended == Some(EndReason::Stopped);
    match &study.ended {
        Some(EndReason::Failing(reason)) => say(&format!("stopped: {reason}")),
        Some(EndReason::Stopped) => say("stopped before its end; go on with it by --resume"),
        _ => {}
    }
    let limits = study.header.as_ref().map(|header| header.spec.limits).unwrap_or_default();
    let has_limits = limits.max_kl.is_some() || limits.max_perplexity_ratio.is_some();
    let is_kept = study.trials.iter().any(|(id, trial)| {
        let quality = trial.measurements().and_then(|measurements| measurements.quality.as_ref());
        id.0 != 0 && quality.is_some_and(|quality| limits.exceeded_by(quality).is_none())
    });
    let is_missed = has_limits && !is_kept;
    if is_missed {
        say("no variant kept the limits");
    }
    if n_failed > 0 || is_missed || is_stopped { Verdict::Missed } else { Verdict::Done }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_study_has_its_own_extension() {
        for (given, expected) in [
            ("demo.study", "demo.study"),
            ("demo", "demo.study"),
            ("x/demo.html", "x/demo.html.study"),
            ("v1.2", "v1.2.study"),
            ("demo.study.html", "demo.study.html.study"),
        ] {
            assert_eq!(study_path(Path::new(given)), Path::new(expected));
        }
    }
}

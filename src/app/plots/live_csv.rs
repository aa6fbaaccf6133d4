//! The series behind the live plots, whole and in raw units, to be copied.

use crate::app::plots::live::Source;
use crate::study::{Arm, PhaseSpeed, Study, Trial, TrialState, WindowScore};

/// One of the three live plots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Series {
    /// Every timed sample, in nanoseconds.
    Latency,
    /// Resident memory of the worker, in bytes.
    Memory,
    /// Means of every scored window, in nats.
    Quality,
}

/// The series of one trial with a header line.
pub fn csv(study: &Study, source: Source, series: Series) -> String {
    let (header, lines) = match series {
        Series::Latency => ("phase,arm,sample,nanos", latency(study, source)),
        Series::Memory => ("millis,rss_bytes", memory(study, source)),
        Series::Quality => ("window,nll,reference_nll,kl,top1", quality(study, source)),
    };
    std::iter::once(header.to_owned()).chain(lines).map(|line| line + "\n").collect()
}

fn trial(study: &Study, source: Source) -> Option<&Trial> {
    study.trials.get(&source.trial())
}

fn latency(study: &Study, source: Source) -> Vec<String> {
    let line = |phase: &str, arm: &str, number: usize, nanos: u64| format!("{phase},{arm},{},{nanos}", number + 1);
    match source {
        Source::Running(_) => {
            let phases = [("prefill", &study.live.prefill_nanos), ("decode", &study.live.decode_nanos)];
            let arm = |arm: Arm| if arm == Arm::Variant { "variant" } else { "reference" };
            let lines = |(phase, samples): (&'static str, &Vec<(Arm, u64)>)| -> Vec<String> {
                samples.iter().enumerate().map(|(n, (of, nanos))| line(phase, arm(*of), n, *nanos)).collect()
            };
            phases.into_iter().flat_map(lines).collect()
        }
        Source::Recorded(_) => {
            let speed = trial(study, source).and_then(Trial::measurements).and_then(|found| found.speed.as_ref());
            let lines = |phase: &str, speed: &PhaseSpeed| -> Vec<String> {
                [("variant", &speed.samples_nanos), ("reference", &speed.reference_nanos)]
                    .into_iter()
                    .flat_map(|(arm, nanos)| nanos.iter().enumerate().map(move |(n, nanos)| (arm, n, *nanos)))
                    .map(|(arm, n, nanos)| line(phase, arm, n, nanos))
                    .collect()
            };
            speed
                .map(|speed| [lines("prefill", &speed.prefill), lines("decode", &speed.decode)].concat())
                .unwrap_or_default()
        }
    }
}

fn memory(study: &Study, source: Source) -> Vec<String> {
    let series: &[(u64, u64)] = match (source, trial(study, source).map(|trial| &trial.state)) {
        (Source::Running(_), _) => &study.live.memory,
        (Source::Recorded(_), Some(TrialState::Finished { memory_curve, .. })) => memory_curve,
        (Source::Recorded(_), _) => &[],
    };
    series.iter().map(|(millis, bytes)| format!("{millis},{bytes}")).collect()
}

fn quality(study: &Study, source: Source) -> Vec<String> {
    let windows: &[WindowScore] = match source {
        Source::Running(_) => &study.live.windows,
        Source::Recorded(_) => {
            let measured = trial(study, source).and_then(Trial::measurements);
            measured.and_then(|found| found.quality.as_ref()).map_or(&[], |quality| &quality.windows)
        }
    };
    let line = |(n, w): (usize, &WindowScore)| format!("{},{},{},{},{}", n + 1, w.nll, w.reference_nll, w.kl, w.top1);
    windows.iter().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::plots::fixtures;
    use crate::study::TrialId;

    #[test]
    fn every_sample_is_there_live_and_recorded() {
        let study = fixtures::running(2);
        let lines = |source, series| csv(&study, source, series).lines().count() - 1;
        let (running, recorded) = (Source::Running(TrialId(2)), Source::Recorded(TrialId(1)));
        assert_eq!(lines(running, Series::Latency), 2 * 240 + 2 * 8);
        assert_eq!(lines(running, Series::Memory), 60);
        assert_eq!(lines(running, Series::Quality), 24);
        assert_eq!(lines(recorded, Series::Latency), 2 * 320 + 2 * 16);
        assert_eq!(lines(recorded, Series::Memory), 64);
        assert_eq!(lines(recorded, Series::Quality), 24);
        assert_eq!(lines(Source::Recorded(TrialId(99)), Series::Latency), 0);
        assert!(csv(&study, recorded, Series::Latency).contains("\ndecode,variant,320,"));
    }
}

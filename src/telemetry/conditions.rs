//! The conditions under which a trial's numbers are taken.

use std::collections::BTreeMap;
use std::time::Instant;

use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

use crate::study::Conditions;
use crate::telemetry::host::Host;

/// Cores that another process must use to be named.
const BUSY_CORES: f64 = 0.1;

/// Shortest time over which use is told apart from the kernel's clock ticks of 10 ms.
const MIN_SECS: f64 = 0.2;

/// Most processes named.
const MAX_NAMED: usize = 8;

/// Watches the host between two moments.
///
/// A process that lives only between them is not seen: it is on neither list.
pub struct ConditionsProbe {
    started: Instant,
    before: BTreeMap<u32, ProcessTime>,
}

/// What a process had used at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProcessTime {
    pub(super) name: String,
    /// Tells two processes apart that had the same number.
    pub(super) start_time: u64,
    pub(super) cpu_millis: u64,
}

impl ConditionsProbe {
    /// Begins to watch. Costs a walk over the process table: call it outside timed sections.
    pub fn start() -> Self {
        Self { before: process_times(), started: Instant::now() }
    }

    /// The conditions since the start, for numbers that were taken with `threads` threads.
    pub fn finish(self, threads: u16) -> Conditions {
        let elapsed_secs = self.started.elapsed().as_secs_f64();
        let after = process_times();
        let host = Host::open();
        Conditions {
            cpu_model: host.cpu_model(),
            threads,
            load_1min: System::load_average().ok().map(|load| load.one).filter(|load| load.is_finite()),
            frequency_mhz: host.frequency_mhz(),
            temperature_celsius: host.temperature_celsius(),
            repeated_sections: 0,
            no_energy: None,
            busy_processes: busy_processes(&self.before, &after, elapsed_secs),
            build: format!("trimtab {} ({})", env!("CARGO_PKG_VERSION"), env!("TRIMTAB_SOURCES")),
        }
    }
}

/// CPU time of every process but this one and its parent: the window that waits for this worker is not a disturbance.
pub(super) fn process_times() -> BTreeMap<u32, ProcessTime> {
    let Ok(mut system) = System::new() else { return BTreeMap::new() };
    let what = ProcessRefreshKind::nothing().with_cpu().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
    let own = std::process::id();
    let parent = system.process(sysinfo::Pid::from_u32(own)).and_then(|process| process.parent());
    system
        .processes()
        .iter()
        .filter(|(pid, _)| pid.as_u32() != own && Some(**pid) != parent)
        .map(|(pid, process)| {
            let name = process.name().to_string_lossy().into_owned();
            let cpu_millis = process.accumulated_cpu_time();
            (pid.as_u32(), ProcessTime { name, start_time: process.start_time(), cpu_millis })
        })
        .collect()
}

/// The processes that used more than [`BUSY_CORES`], busiest first; empty when the time was too short to tell.
pub(super) fn busy_processes(
    before: &BTreeMap<u32, ProcessTime>,
    after: &BTreeMap<u32, ProcessTime>,
    elapsed_secs: f64,
) -> Vec<(String, f64)> {
    if elapsed_secs < MIN_SECS {
        return Vec::new();
    }
    let mut busy: Vec<(String, f64)> = after
        .iter()
        .map(|(pid, now)| {
            let earlier = before.get(pid).filter(|earlier| earlier.start_time == now.start_time);
            let used_millis = now.cpu_millis.saturating_sub(earlier.map_or(0, |earlier| earlier.cpu_millis));
            (now.name.clone(), used_millis as f64 / 1e3 / elapsed_secs)
        })
        .filter(|(_, cores)| *cores > BUSY_CORES)
        .collect();
    busy.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    busy.truncate(MAX_NAMED);
    busy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(name: &str, start_time: u64, cpu_millis: u64) -> ProcessTime {
        ProcessTime { name: name.to_owned(), start_time, cpu_millis }
    }

    #[test]
    fn busy_processes_are_those_that_used_a_tenth_of_a_core() {
        let before = BTreeMap::from([
            (1, time("init", 0, 9_000)),
            (2, time("video", 1, 100)),
            (3, time("old", 1, 5_000)),
            (4, time("idle", 1, 0)),
        ]);
        let after = BTreeMap::from([
            (1, time("init", 0, 9_000)),
            (2, time("video", 1, 1_600)),
            (3, time("new with an old number", 2, 400)),
            (4, time("idle", 1, 99)),
            (5, time("compiler", 3, 3_000)),
        ]);
        let found = busy_processes(&before, &after, 1.0);
        let expected = [("compiler", 3.0), ("video", 1.5), ("new with an old number", 0.4)];
        assert_eq!(found, expected.map(|(name, cores)| (name.to_owned(), cores)));
        assert_eq!(busy_processes(&before, &after, 0.1), []);
        assert_eq!(busy_processes(&after, &after, 1.0), []);
    }

    #[test]
    fn conditions_name_the_build_and_not_the_process_itself() {
        let conditions = ConditionsProbe::start().finish(3);
        assert_eq!(conditions.threads, 3);
        assert!(conditions.build.starts_with("trimtab "));
        assert!(!process_times().contains_key(&std::process::id()));
        assert!(conditions.load_1min.is_none_or(|load| load >= 0.0));
    }
}

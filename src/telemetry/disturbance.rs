//! What else happened on the machine while something was timed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::device::DeviceSpec;
use crate::study::Disturbance;
use crate::telemetry::ClockLimit;
use crate::telemetry::conditions::{ProcessTime, busy_processes, process_times};
use crate::telemetry::gpu::{GpuSource, ordinal_of};
use crate::telemetry::nvml::NvmlSource;

/// Where Linux counts how often heat slowed a core.
const CORES: &str = "/sys/devices/system/cpu";

/// Seconds that the machine must have slept to count: reading two clocks one after the other differs by less.
const MIN_SLEPT_SECS: f64 = 1.0;

/// Looks at the machine between timed sections.
pub struct DisturbanceProbe {
    threads: ThrottleCounts,
    gpu: Option<(Box<dyn GpuSource>, u32)>,
    last: Look,
}

/// The machine at one moment.
struct Look {
    at: Instant,
    /// Seconds since the system started, sleep included.
    uptime_secs: Option<f64>,
    processes: BTreeMap<u32, ProcessTime>,
    throttled: Option<u64>,
}

impl DisturbanceProbe {
    /// Begins to watch what a trial on `device` is disturbed by. Costs a walk over the process table.
    ///
    /// - `uuid`: the identity of a GPU
    pub fn start(device: DeviceSpec, uuid: Option<&str>) -> Self {
        let gpu = match device {
            DeviceSpec::Cpu { .. } => None,
            DeviceSpec::Cuda { .. } => NvmlSource::open().ok().and_then(|source| {
                let ordinal = ordinal_of(&source, uuid).ok()?;
                Some((Box::new(source) as Box<dyn GpuSource>, ordinal))
            }),
        };
        let threads = ThrottleCounts::open(Path::new(CORES));
        let last = Look::now(&threads);
        Self { threads, gpu, last }
    }

    /// What happened since the last look. Costs milliseconds: call it outside of timed sections.
    pub fn look(&mut self) -> Disturbance {
        let now = Look::now(&self.threads);
        let limits = self.gpu.as_ref().and_then(|(source, ordinal)| source.read(*ordinal).limits.ok());
        let limits = limits.map(ClockLimit::of_bits).unwrap_or_default();
        let last = std::mem::replace(&mut self.last, now);
        let mut found = between(&last, &self.last);
        found.is_throttled |= limits.into_iter().any(ClockLimit::is_throttling);
        found
    }
}

impl Look {
    fn now(threads: &ThrottleCounts) -> Self {
        let uptime = std::fs::read_to_string("/proc/uptime").ok();
        Self {
            processes: process_times(),
            throttled: threads.sum(),
            uptime_secs: uptime.as_deref().and_then(parse_uptime),
            at: Instant::now(),
        }
    }
}

/// The monotonic clock stands still while the machine sleeps, the uptime does not.
fn between(from: &Look, to: &Look) -> Disturbance {
    let secs = to.at.saturating_duration_since(from.at).as_secs_f64();
    let up = from.uptime_secs.zip(to.uptime_secs).map(|(from, to)| to - from);
    Disturbance {
        processes: busy_processes(&from.processes, &to.processes, up.unwrap_or(secs).max(secs)),
        is_throttled: from.throttled.zip(to.throttled).is_some_and(|(from, to)| to > from),
        has_slept: up.is_some_and(|up| up - secs > MIN_SLEPT_SECS),
    }
}

fn parse_uptime(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok().filter(|secs: &f64| secs.is_finite())
}

/// How often heat slowed each core; the files of Intel's processors, none elsewhere.
struct ThrottleCounts(Vec<PathBuf>);

impl ThrottleCounts {
    fn open(root: &Path) -> Self {
        let cores = std::fs::read_dir(root).into_iter().flatten().filter_map(Result::ok);
        let files = cores.map(|core| core.path().join("thermal_throttle/core_throttle_count"));
        Self(files.filter(|file| file.is_file()).collect())
    }

    /// `None` where no processor tells.
    fn sum(&self) -> Option<u64> {
        let counts = self.0.iter().map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok());
        counts.sum::<Option<u64>>().filter(|_| !self.0.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn look(at: Instant, uptime_secs: Option<f64>, cpu_millis: u64, throttled: Option<u64>) -> Look {
        let compiler = ProcessTime { name: "cc1".to_owned(), start_time: 3, cpu_millis };
        Look { at, uptime_secs, processes: BTreeMap::from([(7, compiler)]), throttled }
    }

    #[test]
    fn a_quiet_machine_has_nothing_to_tell() {
        let start = Instant::now();
        let end = start + Duration::from_secs(2);
        let quiet = between(&look(start, Some(100.0), 50, Some(4)), &look(end, Some(102.01), 240, Some(4)));
        assert!(quiet.is_quiet(), "{quiet:?}");
        let unknown = between(&look(start, None, 50, None), &look(end, None, 50, None));
        assert!(unknown.is_quiet(), "what is not told is no disturbance");
    }

    #[test]
    fn processes_heat_and_sleep_are_each_told() {
        let start = Instant::now();
        let end = start + Duration::from_secs(2);
        let from = look(start, Some(100.0), 50, Some(4));
        let busy = between(&from, &look(end, Some(102.0), 850, Some(4)));
        assert_eq!((busy.processes, busy.is_throttled, busy.has_slept), (vec![("cc1".to_owned(), 0.4)], false, false));
        let hot = between(&from, &look(end, Some(102.0), 50, Some(5)));
        assert!(hot.is_throttled && hot.processes.is_empty() && !hot.is_quiet());
        let slept = between(&from, &look(end, Some(103.5), 50, Some(4)));
        assert!(slept.has_slept && !slept.is_throttled && !slept.is_quiet());
        assert!(!between(&from, &look(end, Some(102.9), 50, Some(4))).has_slept);
    }

    #[test]
    fn throttling_is_counted_where_the_processor_tells() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(ThrottleCounts::open(root.path()).sum(), None);
        assert_eq!(ThrottleCounts::open(&root.path().join("absent")).sum(), None);
        for (core, count) in [("cpu0", 3), ("cpu1", 4)] {
            let folder = root.path().join(core).join("thermal_throttle");
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("core_throttle_count"), format!("{count}\n")).unwrap();
        }
        std::fs::create_dir(root.path().join("cpufreq")).unwrap();
        assert_eq!(ThrottleCounts::open(root.path()).sum(), Some(7));
    }

    #[test]
    fn the_uptime_is_the_first_number() {
        assert_eq!(parse_uptime("8123.45 16000.00\n"), Some(8123.45));
        assert_eq!(parse_uptime(""), None);
        assert_eq!(parse_uptime("many 1"), None);
    }
}

//! Counters of energy: those of the processor's packages (Linux powercap), which wrap, and those of GPUs, which begin anew
//! when a driver is loaded again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::device::DeviceSpec;
use crate::study::EnergySource;
use crate::telemetry::gpu::{GpuSource, ordinal_of};
use crate::telemetry::nvml::NvmlSource;

/// Where Linux shows the counters of the processor.
const POWERCAP: &str = "/sys/class/powercap";

/// More than a package takes, in watts: how long a counter may go unread before it may have wrapped twice.
const MAX_WATTS: f64 = 1_000.0;

/// How often [`EnergyMeter::touch`] reads.
const TOUCH_EVERY: Duration = Duration::from_secs(1);

/// What a counter has gained since its first reading.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Meter {
    /// The value after which the counter goes on at 0; `None` where it does not.
    range: Option<u64>,
    last: Option<u64>,
    gained: u64,
    has_restarted: bool,
}

impl Meter {
    /// A meter of a counter that goes on at 0 after `range`.
    fn wrapping(range: u64) -> Self {
        Self { range: Some(range), ..Self::default() }
    }

    /// Takes in a reading; gives what was gained since the first one, in the counter's unit.
    ///
    /// A counter that began anew adds nothing at that reading: what it counted unseen is not known.
    pub(super) fn push(&mut self, reading: u64) -> u64 {
        if let Some(last) = self.last.replace(reading) {
            let step = match self.range {
                _ if reading >= last => reading - last,
                Some(range) if last <= range => range - last + reading,
                _ => {
                    self.has_restarted = true;
                    0
                }
            };
            self.gained = self.gained.saturating_add(step);
        }
        self.gained
    }
}

/// The energy of one device since this was opened.
pub struct EnergyMeter {
    counters: Counters,
    read: Instant,
    /// A reading failed, or the counter cannot be followed any more.
    is_broken: bool,
}

enum Counters {
    Packages(Vec<Package>),
    Gpu { source: Box<dyn GpuSource + Send>, ordinal: u32, meter: Meter },
}

/// The counter of one package, in microjoules.
struct Package {
    file: File,
    meter: Meter,
}

impl EnergyMeter {
    /// Opens the counters of `device` and reads them once.
    ///
    /// - `uuid`: the identity of a GPU
    ///
    /// # Errors
    /// Why there is no energy to be read, in words.
    pub fn open(device: DeviceSpec, uuid: Option<&str>) -> Result<Self, String> {
        match device {
            DeviceSpec::Cpu { .. } => Self::of_packages(Path::new(POWERCAP)),
            DeviceSpec::Cuda { .. } => Self::of_gpu(Box::new(NvmlSource::open()?), uuid),
        }
    }

    /// The packages below `root`; cores, memory and the whole board are parts or sums of them and not counted again.
    fn of_packages(root: &Path) -> Result<Self, String> {
        let missing = |_| format!("this system has no counters of energy ({})", root.display());
        let mut zones: Vec<_> = std::fs::read_dir(root).map_err(missing)?.filter_map(Result::ok).collect();
        zones.sort_by_key(std::fs::DirEntry::file_name);
        let mut packages = Vec::new();
        for zone in zones.iter().map(std::fs::DirEntry::path) {
            let text = |name: &str| std::fs::read_to_string(zone.join(name));
            if !text("name").is_ok_and(|name| name.starts_with("package-")) {
                continue;
            }
            let path = zone.join("energy_uj");
            let refused = |error: io::Error| refusal(&path, &error);
            let range = text("max_energy_range_uj").map_err(refused)?;
            let range = range.trim().parse().map_err(|error| format!("the range of {}: {error}", path.display()))?;
            let mut package = Package { file: File::open(&path).map_err(refused)?, meter: Meter::wrapping(range) };
            package.read().map_err(refused)?;
            packages.push(package);
        }
        if packages.is_empty() {
            return Err(format!("the processor tells no energy ({} has no package)", root.display()));
        }
        Ok(Self::new(Counters::Packages(packages)))
    }

    fn of_gpu(source: Box<dyn GpuSource + Send>, uuid: Option<&str>) -> Result<Self, String> {
        let ordinal = ordinal_of(&*source, uuid)?;
        let mut meter = Meter::default();
        meter.push(source.energy_millijoules(ordinal).map_err(|refusal| format!("energy of the GPU: {refusal}"))?);
        Ok(Self::new(Counters::Gpu { source, ordinal, meter }))
    }

    fn new(counters: Counters) -> Self {
        Self { counters, read: Instant::now(), is_broken: false }
    }

    /// Where the joules come from.
    pub fn source(&self) -> EnergySource {
        match self.counters {
            Counters::Packages(_) => EnergySource::RaplPackage,
            Counters::Gpu { .. } => EnergySource::NvmlCounter,
        }
    }

    /// Time between two values of the counter, in seconds: about a millisecond for RAPL (Intel's Software Developer's Manual,
    /// volume 3B, section 16.10), a tenth of a second at most for NVML.
    pub fn refresh_secs(&self) -> f64 {
        match self.counters {
            Counters::Packages(_) => 0.001,
            Counters::Gpu { .. } => 0.1,
        }
    }

    /// Joules since this was opened; `None` from the first reading that failed or cannot be told. Allocates nothing for
    /// packages.
    pub fn joules(&mut self) -> Option<f64> {
        self.joules_at(Instant::now())
    }

    /// Reads now and then, so that no wrap of the counter goes unseen. Does nothing in the second after a reading.
    pub fn touch(&mut self) {
        if self.read.elapsed() >= TOUCH_EVERY {
            self.joules();
        }
    }

    fn joules_at(&mut self, now: Instant) -> Option<f64> {
        let unread_joules = MAX_WATTS * now.saturating_duration_since(self.read).as_secs_f64();
        self.read = now;
        let joules = match &mut self.counters {
            Counters::Packages(packages) => packages.iter_mut().try_fold(0.0, |sum, package| {
                let is_clear = package.meter.range.is_none_or(|range| unread_joules * 1e6 < range as f64);
                let gained = package.read().ok().filter(|_| is_clear && !package.meter.has_restarted)?;
                Some(sum + gained as f64 / 1e6)
            }),
            Counters::Gpu { source, ordinal, meter } => {
                let gained = source.energy_millijoules(*ordinal).ok().map(|reading| meter.push(reading));
                gained.filter(|_| !meter.has_restarted).map(|gained| gained as f64 / 1e3)
            }
        };
        self.is_broken |= joules.is_none();
        joules.filter(|_| !self.is_broken)
    }
}

impl Package {
    /// Microjoules since the first reading.
    fn read(&mut self) -> io::Result<u64> {
        let mut text = [0; 32];
        let len = self.file.read_at(&mut text, 0)?;
        let text = std::str::from_utf8(&text[..len]).ok().and_then(|text| text.trim().parse().ok());
        text.map(|reading| self.meter.push(reading)).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Why a counter cannot be read, and who can change it.
fn refusal(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!("only root may read {}", path.display()),
        _ => format!("{} cannot be read: {error}", path.display()),
    }
}

#[cfg(test)]
#[path = "energy_tests.rs"]
mod tests;

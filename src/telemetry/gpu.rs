//! What readings of GPUs mean: refusals with their reasons, a counter that may begin anew, processes of our own.

use std::collections::BTreeMap;

use crate::device::GpuDescription;
use crate::telemetry::energy::Meter;
use crate::telemetry::process::{Process, Processes};
use crate::telemetry::{ClockLimit, GpuDevice, GpuProcess, GpuReading, GpuSample, Refusal};

/// Where readings come from: NVML, or a recording. Devices are named by their position in the driver's list.
pub(super) trait GpuSource {
    /// GPUs that the driver names.
    fn n_devices(&self) -> Result<u32, Refusal>;
    /// What does not change from reading to reading.
    fn describe(&self, ordinal: u32) -> Described;
    /// One reading.
    fn read(&self, ordinal: u32) -> Reading;
    /// The counter of energy alone, since the driver was loaded.
    fn energy_millijoules(&self, ordinal: u32) -> Result<u64, Refusal>;
}

/// The position among a source's GPUs of the one with this identity: other programs count them in another order.
pub(super) fn ordinal_of(source: &dyn GpuSource, uuid: Option<&str>) -> Result<u32, String> {
    let uuid = uuid.ok_or("the GPU has no identity by which NVML's readings could be told to be its own")?;
    let n_devices = source.n_devices().map_err(|refusal| format!("NVML gives no readings: {refusal}"))?;
    let found = (0..n_devices).find(|ordinal| source.describe(*ordinal).uuid.is_ok_and(|found| found == uuid));
    found.ok_or_else(|| format!("NVML knows no {uuid}"))
}

/// What a source answers when asked what a GPU is.
#[derive(Debug, Clone)]
pub(super) struct Described {
    pub(super) name: Result<String, Refusal>,
    pub(super) uuid: Result<String, Refusal>,
    pub(super) driver: Result<String, Refusal>,
    /// Major and minor.
    pub(super) compute_capability: Result<(u32, u32), Refusal>,
    /// Whether the card is divided; refused by cards that cannot be.
    pub(super) mig: Result<bool, Refusal>,
}

/// What a source answers when asked for the quantities of one moment.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    /// Bytes used and in all.
    pub(super) memory: Result<(u64, u64), Refusal>,
    pub(super) utilization_percent: Result<u32, Refusal>,
    pub(super) sm_clock_mhz: Result<u32, Refusal>,
    pub(super) memory_clock_mhz: Result<u32, Refusal>,
    pub(super) power_milliwatts: Result<u32, Refusal>,
    /// Since the driver was loaded.
    pub(super) energy_millijoules: Result<u64, Refusal>,
    pub(super) temperature_celsius: Result<u32, Refusal>,
    /// NVML's bits of clock event reasons.
    pub(super) limits: Result<u64, Refusal>,
    /// Process ids with their bytes, where the driver tells them.
    pub(super) processes: Result<Vec<(u32, Option<u64>)>, Refusal>,
}

/// Every GPU of a source, with what was learned of each.
pub(super) struct Gpus {
    source: Box<dyn GpuSource>,
    watched: Vec<Watched>,
}

struct Watched {
    device: GpuDevice,
    energy: Meter,
}

impl Gpus {
    /// Asks what there is; says in words why there is nothing.
    pub(super) fn open(source: Box<dyn GpuSource>) -> Result<Self, String> {
        let n_devices = source.n_devices().map_err(|refusal| format!("NVML gives no readings: {refusal}"))?;
        if n_devices == 0 {
            return Err("the NVIDIA driver names no GPU".to_owned());
        }
        let watched = (0..n_devices).map(|ordinal| Watched::new(ordinal, source.describe(ordinal))).collect();
        Ok(Self { source, watched })
    }

    /// The GPUs as they are known by now: a refusal shows with the first reading that meets it.
    pub(super) fn devices(&self) -> Vec<GpuDevice> {
        self.watched.iter().map(|watched| watched.device.clone()).collect()
    }

    /// One reading of each GPU at `at_secs`. A lost one is not asked again: it answers nothing until the system begins
    /// anew.
    pub(super) fn read(&mut self, at_secs: f64, processes: &dyn Processes) -> Vec<GpuSample> {
        let each = (0..).zip(&mut self.watched).map(|(ordinal, watched)| {
            if watched.device.is_lost {
                return GpuSample { at_secs, ..GpuSample::default() };
            }
            watched.take(self.source.read(ordinal), at_secs, processes)
        });
        each.collect()
    }
}

impl Watched {
    fn new(ordinal: u32, described: Described) -> Self {
        let is_lost = described.name == Err(Refusal::Lost);
        let description = GpuDescription {
            uuid: described.uuid.ok(),
            driver: described.driver.ok(),
            compute_capability: described.compute_capability.ok(),
            mig: described.mig.ok(),
        };
        let device = GpuDevice {
            name: described.name.unwrap_or_else(|_| format!("GPU {ordinal}")),
            memory_total_bytes: None,
            description,
            refused: BTreeMap::new(),
            is_lost,
        };
        Self { device, energy: Meter::default() }
    }

    fn take(&mut self, reading: Reading, at_secs: f64, processes: &dyn Processes) -> GpuSample {
        let memory = self.granted(GpuReading::Memory, reading.memory);
        self.device.memory_total_bytes = memory.map(|(_, total)| total).or(self.device.memory_total_bytes);
        let energy = self.granted(GpuReading::Energy, reading.energy_millijoules);
        let listed = self.granted(GpuReading::Processes, reading.processes);
        let (own_memory_bytes, others) = split(listed.unwrap_or_default(), processes);
        let limits = self.granted(GpuReading::Limits, reading.limits);
        let sample = GpuSample {
            at_secs,
            utilization: self
                .granted(GpuReading::Utilization, reading.utilization_percent)
                .map(|percent| f64::from(percent.min(100)) / 100.0),
            memory_used_bytes: memory.map(|(used, _)| used),
            own_memory_bytes,
            power_watts: self.granted(GpuReading::Power, reading.power_milliwatts).map(|power| f64::from(power) / 1e3),
            energy_joules: energy.map(|counter| self.energy.push(counter) as f64 / 1e3),
            temperature_celsius: self.granted(GpuReading::Temperature, reading.temperature_celsius).map(f64::from),
            sm_clock_mhz: self.granted(GpuReading::SmClock, reading.sm_clock_mhz),
            memory_clock_mhz: self.granted(GpuReading::MemoryClock, reading.memory_clock_mhz),
            limits: limits.map(ClockLimit::of_bits).unwrap_or_default(),
            others,
        };
        // What was read before the loss is of a card that is gone.
        if self.device.is_lost { GpuSample { at_secs, ..GpuSample::default() } } else { sample }
    }

    /// The value, or nothing with its reason kept: once for each quantity.
    fn granted<T>(&mut self, what: GpuReading, answer: Result<T, Refusal>) -> Option<T> {
        match answer {
            Ok(value) => {
                self.device.refused.remove(&what);
                Some(value)
            }
            Err(Refusal::Lost) => {
                if !self.device.is_lost {
                    log::warn!("{} was lost: it has fallen off the bus or needs a reset", self.device.name);
                }
                self.device.is_lost = true;
                None
            }
            Err(refusal) => {
                let is_divided = refusal == Refusal::NotSupported && self.device.description.mig == Some(true);
                self.device.refused.insert(what, if is_divided { Refusal::Mig } else { refusal });
                None
            }
        }
    }
}

/// Memory of our own processes, where NVML tells it, and the processes of others.
///
/// Inside a container NVML names processes of the host: none is ours then, and the memory is the device's.
fn split(listed: Vec<(u32, Option<u64>)>, processes: &dyn Processes) -> (Option<u64>, Vec<GpuProcess>) {
    let mut own = None;
    let mut others = Vec::new();
    for (pid, memory_bytes) in listed {
        // Asked anew each time: a number may belong to another process by now.
        match processes.find(pid) {
            Some(Process { is_own: true, .. }) => own = memory_bytes.map(|bytes| own.unwrap_or(0) + bytes).or(own),
            found => others.push(GpuProcess { pid, name: found.map(|process| process.name), memory_bytes }),
        }
    }
    (own, others)
}

#[cfg(test)]
#[path = "gpu_tests.rs"]
mod tests;

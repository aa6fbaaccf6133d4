//! Readings of the host and its GPUs: a live series for the hardware panel, and the conditions of a trial.
//!
//! Imports `device` and, of `study`, what a trial records of its conditions, its energy and what disturbed it.
//!
//! **Invariants.** What cannot be read is absent, not zero. NVML and the sensors are read on the telemetry thread or by
//! [`ConditionsProbe`], never inside a timed section and never in a frame.

mod caches;
mod conditions;
mod disturbance;
mod energy;
mod gpu;
mod host;
mod limit;
pub mod memory;
mod nvml;
mod process;
mod sampler;

use std::collections::BTreeMap;
use std::fmt;

use crate::device::GpuDescription;

pub use caches::{Cache, caches};
pub use conditions::ConditionsProbe;
pub use disturbance::DisturbanceProbe;
pub use energy::EnergyMeter;
pub use limit::ClockLimit;
pub use sampler::Telemetry;

/// One reading. What cannot be read is absent, not zero.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HardwareSample {
    /// Seconds since telemetry started.
    pub at_secs: f64,
    /// Share of all cores in use, 0 to 1.
    pub cpu_fraction: Option<f64>,
    /// Memory of the host in use.
    pub memory_used_bytes: Option<u64>,
    /// Memory of the host.
    pub memory_total_bytes: Option<u64>,
    /// Mean clock over the cores, in MHz.
    pub frequency_mhz: Option<f64>,
    /// Hottest sensor of the processor, in °C.
    pub temperature_celsius: Option<f64>,
    /// Every GPU that NVML names, in its order, as [`TelemetrySnapshot::gpus`].
    pub gpus: Vec<GpuSample>,
}

/// One reading of one GPU.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GpuSample {
    /// Seconds since telemetry started: GPUs are read by a clock of their own.
    pub at_secs: f64,
    /// Share of time with a kernel running, 0 to 1.
    pub utilization: Option<f64>,
    /// Memory in use on the device, by all processes.
    pub memory_used_bytes: Option<u64>,
    /// Memory in use by this process and its workers; absent where NVML does not tell it of processes.
    pub own_memory_bytes: Option<u64>,
    /// Power, in watts.
    pub power_watts: Option<f64>,
    /// Energy since telemetry started, in joules, from the device's counter.
    pub energy_joules: Option<f64>,
    /// Temperature, in °C.
    pub temperature_celsius: Option<f64>,
    /// Clock of the multiprocessors, in MHz.
    pub sm_clock_mhz: Option<u32>,
    /// Clock of the memory, in MHz.
    pub memory_clock_mhz: Option<u32>,
    /// What keeps the clocks down.
    pub limits: Vec<ClockLimit>,
    /// Processes on the device that are not ours.
    pub others: Vec<GpuProcess>,
}

/// A process on a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuProcess {
    /// Its number, as the driver tells it.
    pub pid: u32,
    /// Its name; absent where the number means nothing here, as in a container.
    pub name: Option<String>,
    /// Its memory on the device.
    pub memory_bytes: Option<u64>,
}

/// A GPU with what is known of it by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuDevice {
    /// The maker's name.
    pub name: String,
    /// Memory of the device.
    pub memory_total_bytes: Option<u64>,
    /// Driver, compute capability, division, identity.
    pub description: GpuDescription,
    /// Readings that are not to be had, each with its reason.
    pub refused: BTreeMap<GpuReading, Refusal>,
    /// It fell off the bus or needs a reset: nothing more is read from it.
    pub is_lost: bool,
}

/// A quantity of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GpuReading {
    /// Memory used and in all.
    Memory,
    /// Share of time with a kernel running.
    Utilization,
    /// Clock of the multiprocessors.
    SmClock,
    /// Clock of the memory.
    MemoryClock,
    /// Power.
    Power,
    /// The counter of energy.
    Energy,
    /// Temperature.
    Temperature,
    /// What keeps the clocks down.
    Limits,
    /// Processes on the device.
    Processes,
}

/// Why a reading is not to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The card is divided (MIG): the driver tells this of no part.
    Mig,
    /// This device or driver has no such reading.
    NotSupported,
    /// This user may not read it.
    NoPermission,
    /// The device is gone.
    Lost,
    /// The driver's own words.
    Other(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mig => f.write_str("not available: MIG"),
            Self::NotSupported => f.write_str("not available: this device has no such reading"),
            Self::NoPermission => f.write_str("not available: this user may not read it"),
            Self::Lost => f.write_str("the GPU was lost"),
            Self::Other(words) => write!(f, "not available: {words}"),
        }
    }
}

/// The newest readings.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TelemetrySnapshot {
    /// The processor's name.
    pub cpu_model: Option<String>,
    /// Logical cores.
    pub n_cores: usize,
    /// Oldest first: ten readings a second over the newest minute, one a second over the nine minutes before it.
    pub history: Vec<HardwareSample>,
    /// Every GPU that NVML names, in its order.
    pub gpus: Vec<GpuDevice>,
    /// Why there is no GPU reading: `no NVIDIA driver (libnvidia-ml.so.1 not found)`.
    pub no_gpu: Option<String>,
}

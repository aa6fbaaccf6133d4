//! Readings of the host and its GPUs: a live series for the hardware panel, and the conditions of a trial.
//!
//! Imports `units` and `study::Conditions` only.
//!
//! **Invariants.** What cannot be read is absent, not zero. NVML and the sensors are read on the telemetry thread or by
//! [`ConditionsProbe`], never inside a timed section and never in a frame.

mod caches;
mod conditions;
mod gpu;
mod host;
pub mod memory;
mod sampler;

pub use caches::{Cache, caches};
pub use conditions::ConditionsProbe;
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
    /// Every GPU that NVML names.
    pub gpus: Vec<GpuSample>,
}

/// One reading of one GPU.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GpuSample {
    /// The maker's name.
    pub name: String,
    /// Share of time with a kernel running, 0 to 1.
    pub utilization: Option<f64>,
    /// Memory in use on the device.
    pub memory_used_bytes: Option<u64>,
    /// Memory of the device.
    pub memory_total_bytes: Option<u64>,
    /// Power, in watts.
    pub power_watts: Option<f64>,
    /// Temperature, in °C.
    pub temperature_celsius: Option<f64>,
    /// Clock of the multiprocessors, in MHz.
    pub sm_clock_mhz: Option<u32>,
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
    /// Why there is no GPU reading: `no NVIDIA driver (libnvidia-ml.so.1 not found)`.
    pub no_gpu: Option<String>,
}

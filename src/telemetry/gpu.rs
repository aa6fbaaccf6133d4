//! Readings of NVIDIA GPUs through NVML, which is loaded while the program runs: a machine without a driver has no GPU
//! readings and everything else.

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::error::NvmlError;

use crate::telemetry::GpuSample;

/// The driver's own name of the library; the name without a version comes with development packages only.
#[cfg(not(windows))]
const LIBRARY: &str = "libnvidia-ml.so.1";
#[cfg(windows)]
const LIBRARY: &str = "nvml.dll";

/// NVML with the number of GPUs that it names.
pub(super) struct Gpus {
    nvml: Nvml,
    n_devices: u32,
}

impl Gpus {
    /// Loads NVML, or says in words why there are no readings.
    pub(super) fn open() -> Result<Self, String> {
        let nvml = Nvml::builder().lib_path(LIBRARY.as_ref()).init().map_err(|error| reason(&error))?;
        match nvml.device_count() {
            Ok(0) => Err("the NVIDIA driver names no GPU".to_owned()),
            Ok(n_devices) => Ok(Self { nvml, n_devices }),
            Err(error) => Err(reason(&error)),
        }
    }

    /// One reading of each GPU. A reading that the driver refuses (MIG has no utilization) is absent.
    pub(super) fn sample(&self) -> Vec<GpuSample> {
        (0..self.n_devices).filter_map(|ordinal| self.sample_one(ordinal)).collect()
    }

    fn sample_one(&self, ordinal: u32) -> Option<GpuSample> {
        let device = self.nvml.device_by_index(ordinal).ok()?;
        let memory = device.memory_info().ok();
        Some(GpuSample {
            name: device.name().unwrap_or_else(|_| format!("GPU {ordinal}")),
            utilization: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu) / 100.0),
            memory_used_bytes: memory.as_ref().map(|memory| memory.used),
            memory_total_bytes: memory.as_ref().map(|memory| memory.total),
            power_watts: device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1e3),
            temperature_celsius: device.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
            sm_clock_mhz: device.clock_info(Clock::SM).ok(),
        })
    }
}

fn reason(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => {
            format!("no NVIDIA driver ({LIBRARY} not found)")
        }
        NvmlError::DriverNotLoaded => "the NVIDIA driver is not loaded".to_owned(),
        other => format!("NVML gives no readings: {other}"),
    }
}

//! NVML, which is loaded while the program runs: a machine without a driver has no GPU readings and everything else.

use std::collections::BTreeMap;

use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device, Nvml};

use crate::telemetry::Refusal;
use crate::telemetry::gpu::{Described, GpuSource, Reading};

/// The driver's own name of the library; the name without a version comes with development packages only.
#[cfg(not(windows))]
const LIBRARY: &str = "libnvidia-ml.so.1";
#[cfg(windows)]
const LIBRARY: &str = "nvml.dll";

/// NVML of the driver that is installed.
pub(super) struct NvmlSource(Nvml);

impl NvmlSource {
    /// Loads NVML, or says in words why there are no readings.
    pub(super) fn open() -> Result<Self, String> {
        Nvml::builder().lib_path(LIBRARY.as_ref()).init().map(Self).map_err(|error| reason(&error))
    }
}

impl GpuSource for NvmlSource {
    fn n_devices(&self) -> Result<u32, Refusal> {
        self.0.device_count().map_err(|error| refusal(&error))
    }

    fn describe(&self, ordinal: u32) -> Described {
        let device = self.0.device_by_index(ordinal);
        Described {
            name: ask(&device, Device::name),
            uuid: ask(&device, Device::uuid),
            driver: self.0.sys_driver_version().map_err(|error| refusal(&error)),
            compute_capability: ask(&device, |device| {
                let found = device.cuda_compute_capability()?;
                Ok((found.major.unsigned_abs(), found.minor.unsigned_abs()))
            }),
            mig: ask(&device, |device| Ok(device.mig_mode()?.current == 1)),
        }
    }

    fn read(&self, ordinal: u32) -> Reading {
        let device = self.0.device_by_index(ordinal);
        Reading {
            memory: ask(&device, |device| device.memory_info().map(|memory| (memory.used, memory.total))),
            utilization_percent: ask(&device, |device| Ok(device.utilization_rates()?.gpu)),
            sm_clock_mhz: ask(&device, |device| device.clock_info(Clock::SM)),
            memory_clock_mhz: ask(&device, |device| device.clock_info(Clock::Memory)),
            power_milliwatts: ask(&device, Device::power_usage),
            energy_millijoules: self.energy_millijoules(ordinal),
            temperature_celsius: ask(&device, |device| device.temperature(TemperatureSensor::Gpu)),
            limits: ask(&device, |device| Ok(device.current_throttle_reasons()?.bits())),
            processes: ask(&device, processes),
        }
    }

    fn energy_millijoules(&self, ordinal: u32) -> Result<u64, Refusal> {
        ask(&self.0.device_by_index(ordinal), Device::total_energy_consumption)
    }
}

fn ask<'a, T>(
    device: &Result<Device<'a>, NvmlError>,
    question: impl FnOnce(&Device<'a>) -> Result<T, NvmlError>,
) -> Result<T, Refusal> {
    device.as_ref().map_err(refusal).and_then(|device| question(device).map_err(|error| refusal(&error)))
}

/// Processes that compute and those that draw; one that does both is listed twice by NVML.
fn processes(device: &Device<'_>) -> Result<Vec<(u32, Option<u64>)>, NvmlError> {
    let compute = device.running_compute_processes()?;
    let graphics = device.running_graphics_processes().unwrap_or_default();
    let memory = |info: &ProcessInfo| match info.used_gpu_memory {
        UsedGpuMemory::Used(bytes) => Some(bytes),
        UsedGpuMemory::Unavailable => None,
    };
    let mut found = BTreeMap::new();
    for info in compute.iter().chain(&graphics) {
        let known = found.entry(info.pid).or_insert(None);
        *known = (*known).max(memory(info));
    }
    Ok(found.into_iter().collect())
}

fn refusal(error: &NvmlError) -> Refusal {
    match error {
        NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound => {
            Refusal::NotSupported
        }
        NvmlError::NoPermission => Refusal::NoPermission,
        NvmlError::GpuLost | NvmlError::ResetRequired => Refusal::Lost,
        other => Refusal::Other(other.to_string()),
    }
}

fn reason(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => {
            format!("no NVIDIA driver ({LIBRARY} not found)")
        }
        NvmlError::DriverNotLoaded => "the NVIDIA driver is not loaded".to_owned(),
        NvmlError::LibRmVersionMismatch => {
            "the NVIDIA driver was changed while it runs; start the system anew".to_owned()
        }
        other => format!("NVML gives no readings: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_is_missing_or_not_loaded_is_told_in_words() {
        let check = |error: NvmlError, expected: &str| assert!(reason(&error).contains(expected), "{}", reason(&error));
        check(NvmlError::LibraryNotFound, "no NVIDIA driver (");
        check(NvmlError::DriverNotLoaded, "the NVIDIA driver is not loaded");
        check(NvmlError::LibRmVersionMismatch, "start the system anew");
        check(NvmlError::NoPermission, "NVML gives no readings: the current user does not have permission");
    }

    #[test]
    fn errors_are_refusals_by_what_can_be_done() {
        assert_eq!(refusal(&NvmlError::NotSupported), Refusal::NotSupported);
        assert_eq!(refusal(&NvmlError::FailedToLoadSymbol("nvmlDeviceGetMigMode".to_owned())), Refusal::NotSupported);
        assert_eq!(refusal(&NvmlError::NoPermission), Refusal::NoPermission);
        assert_eq!(refusal(&NvmlError::GpuLost), Refusal::Lost);
        assert_eq!(refusal(&NvmlError::ResetRequired), Refusal::Lost);
        assert_eq!(refusal(&NvmlError::Timeout), Refusal::Other("the provided timeout was reached".to_owned()));
    }
}

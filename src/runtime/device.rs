//! The one place that opens a device.

use candle_core::Device;

use crate::device::DeviceSpec;
use crate::kernels::set_threads;
use crate::runtime::RuntimeError;

/// Opens the device that `spec` describes.
pub(super) fn open(spec: DeviceSpec) -> Result<Device, RuntimeError> {
    match spec {
        // Products take the count here; rayon's loops read it from the environment that the host sets for the worker.
        DeviceSpec::Cpu { threads } => {
            set_threads(usize::from(threads));
            Ok(Device::Cpu)
        }
        DeviceSpec::Cuda { .. } => {
            Err(RuntimeError::Device { device: spec.label(), reason: "this build has no CUDA worker; choose the CPU" })
        }
    }
}

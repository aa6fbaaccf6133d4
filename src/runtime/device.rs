//! The one place that opens a device.

use candle_core::Device;

use crate::device::{DeviceInfo, DeviceSpec};
use crate::kernels::set_threads;
use crate::runtime::RuntimeError;

/// The devices beside the processor that this program can open.
///
/// # Errors
/// When there is none, with what is missing.
#[cfg(feature = "cuda")]
pub fn devices() -> Result<Vec<DeviceInfo>, RuntimeError> {
    Ok(crate::cuda::devices()?)
}

/// The devices beside the processor that this program can open: none.
///
/// # Errors
/// Never in this build.
#[cfg(not(feature = "cuda"))]
#[expect(clippy::unnecessary_wraps, reason = "a build with cards may find none")]
pub fn devices() -> Result<Vec<DeviceInfo>, RuntimeError> {
    Ok(Vec::new())
}

/// The host's device, with the threads that `spec` gives it: what makes variants, wherever they run.
pub(super) fn open(spec: DeviceSpec) -> Device {
    match spec {
        // Products take the count here; rayon's loops read it from the environment that the host sets for the worker.
        DeviceSpec::Cpu { threads } => {
            set_threads(usize::from(threads));
        }
        // Variants for a card are made by the processor.
        DeviceSpec::Cuda { .. } => {
            if let DeviceSpec::Cpu { threads } = DeviceSpec::all_cores() {
                set_threads(usize::from(threads));
            }
        }
    }
    Device::Cpu
}

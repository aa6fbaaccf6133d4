//! What the driver says of this machine, without opening a card.

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUdevice, CUdevice_attribute};

use crate::cuda::CudaError;
use crate::cuda::card::Traits;
use crate::device::{DeviceInfo, DeviceSpec, GpuDescription};

/// The version of CUDA that the kernels are compiled for, as the driver counts it.
const NEEDED: i32 = 13_000;
/// The least compute capability that has code.
const LEAST: (i32, i32) = (8, 0);

/// Every card in the driver's order, with the reason where the kernels cannot run on it.
///
/// # Errors
/// When there is no driver, it is too old, or it has no card.
pub fn devices() -> Result<Vec<DeviceInfo>, CudaError> {
    start()?;
    let count = result::device::get_count()?;
    if count == 0 {
        return Err(CudaError::NoCard);
    }
    (0..u16::try_from(count).unwrap_or(u16::MAX)).map(describe).collect()
}

/// Starts the driver, or says what is missing.
pub(super) fn start() -> Result<(), CudaError> {
    // cudarc panics when it is asked for a library that is not there.
    // SAFETY: the driver's library is loaded and closed again; what its constructors do is what every CUDA program has.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaError::NoDriver);
    }
    let mut version = 0;
    // SAFETY: the function writes one number to the place that it is given.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    if version < NEEDED {
        return Err(CudaError::OldDriver { major: version / 1000, minor: version % 1000 / 10 });
    }
    result::init().map_err(CudaError::of_start)
}

/// Fails where the kernels have no code for a card.
pub(super) fn check(device: CUdevice) -> Result<(), CudaError> {
    let (major, minor) = capability(device)?;
    if (major, minor) < LEAST {
        return Err(CudaError::OldCard { name: result::device::get_name(device)?, major, minor });
    }
    Ok(())
}

fn describe(ordinal: u16) -> Result<DeviceInfo, CudaError> {
    let device = result::device::get(i32::from(ordinal))?;
    let name = result::device::get_name(device)?;
    let (major, minor) = capability(device)?;
    // SAFETY: the device was named by the driver.
    let memory_bytes = unsafe { result::device::total_mem(device) }? as u64;
    let unavailable = check(device).err().map(|error| error.to_string());
    let gpu = GpuDescription {
        uuid: result::device::get_uuid(device).ok().map(|uuid| identity(uuid.bytes.map(|byte| byte as u8))),
        compute_capability: u32::try_from(major).ok().zip(u32::try_from(minor).ok()),
        ..GpuDescription::default()
    };
    let spec = DeviceSpec::Cuda { ordinal };
    Ok(DeviceInfo { memory_bytes: Some(memory_bytes), unavailable, gpu: Some(gpu), ..DeviceInfo::named(spec, name) })
}

/// As telemetry and NVIDIA's tools write it: `GPU-8f0e…`.
fn identity(bytes: [u8; 16]) -> String {
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [0..4, 4..6, 6..8, 8..10, 10..16].map(|range| hex[range].concat());
    format!("GPU-{}", parts.join("-"))
}

fn capability(device: CUdevice) -> Result<(i32, i32), CudaError> {
    use CUdevice_attribute as A;
    let major = attribute(device, A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(device, A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok((major, minor))
}

/// What a card is.
pub(super) fn traits(device: CUdevice) -> Result<Traits, CudaError> {
    use CUdevice_attribute as A;
    let count = |name| Ok::<_, CudaError>(usize::try_from(attribute(device, name)?).unwrap_or(0));
    Ok(Traits {
        name: result::device::get_name(device)?,
        capability: capability(device)?,
        multiprocessors: count(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        cache_bytes: count(A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
    })
}

fn attribute(device: CUdevice, attribute: CUdevice_attribute) -> Result<i32, CudaError> {
    // SAFETY: the device was named by the driver.
    Ok(unsafe { result::device::get_attribute(device, attribute) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_written_as_other_tools_do() {
        let bytes = std::array::from_fn(|index| index as u8 * 16 + 1);
        assert_eq!(identity(bytes), "GPU-01112131-4151-6171-8191-a1b1c1d1e1f1");
    }
}

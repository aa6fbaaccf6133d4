//! The devices of this machine, as telemetry and the worker for NVIDIA cards tell them: none is opened.

use crate::device::{DeviceInfo, DeviceSpec};
use crate::telemetry::{GpuDevice, TelemetrySnapshot};
use crate::worker::cuda::CudaDevices;

/// Why nothing runs on a GPU that is gone.
const LOST: &str = "the GPU was lost: it has fallen off the bus or needs a reset";

/// The processor, then every GPU, with the reason where trials cannot run on it.
///
/// - `cuda`: what the worker for NVIDIA cards says; `None` while it was not asked
///
/// Without that worker's answer GPUs are those that the driver names to telemetry. A worker that is there and cannot be
/// used is told even where telemetry knows no GPU.
pub fn devices(snapshot: &TelemetrySnapshot, cuda: Option<&CudaDevices>) -> Vec<DeviceInfo> {
    let newest = snapshot.history.last();
    let cpu = DeviceInfo {
        memory_bytes: newest.and_then(|sample| sample.memory_total_bytes),
        ..DeviceInfo::named(DeviceSpec::all_cores(), snapshot.cpu_model.clone().unwrap_or_else(|| "CPU".to_owned()))
    };
    std::iter::once(cpu).chain(gpus(&snapshot.gpus, cuda)).collect()
}

/// GPUs as telemetry has `seen` them, unless the worker named its own: it may see others, in another order.
fn gpus(seen: &[GpuDevice], cuda: Option<&CudaDevices>) -> Vec<DeviceInfo> {
    let reason = match cuda {
        Some(CudaDevices::Found(devices)) => return devices.iter().map(|device| described(device, seen)).collect(),
        Some(CudaDevices::Unusable { reason }) if seen.is_empty() => {
            let unnamed = DeviceInfo::named(DeviceSpec::Cuda { ordinal: 0 }, "NVIDIA GPU");
            return vec![DeviceInfo { unavailable: Some(reason.clone()), ..unnamed }];
        }
        Some(CudaDevices::NotInstalled { reason } | CudaDevices::Unusable { reason }) => reason.as_str(),
        None => "the worker for NVIDIA cards has not answered yet",
    };
    let info = |(ordinal, gpu): (u16, &GpuDevice)| DeviceInfo {
        memory_bytes: gpu.memory_total_bytes,
        unavailable: Some(if gpu.is_lost { LOST } else { reason }.to_owned()),
        gpu: Some(gpu.description.clone()),
        ..DeviceInfo::named(DeviceSpec::Cuda { ordinal }, gpu.name.clone())
    };
    (0_u16..).zip(seen).map(info).collect()
}

/// A card of the worker's with what telemetry knows of the same one.
fn described(device: &DeviceInfo, seen: &[GpuDevice]) -> DeviceInfo {
    let mut device = device.clone();
    let uuid = device.gpu.as_ref().and_then(|gpu| gpu.uuid.as_ref());
    if let Some(gpu) = seen.iter().find(|gpu| uuid.is_some() && gpu.description.uuid.as_ref() == uuid) {
        device.gpu = Some(gpu.description.clone());
        if gpu.is_lost {
            device.unavailable = Some(LOST.to_owned());
        }
    }
    device
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::device::GpuDescription;

    fn gpu(uuid: &str, is_lost: bool) -> GpuDevice {
        let capability = Some((9, 0));
        GpuDevice {
            name: "H200".to_owned(),
            memory_total_bytes: Some(1 << 37),
            description: GpuDescription {
                uuid: Some(uuid.to_owned()),
                compute_capability: capability,
                ..Default::default()
            },
            refused: BTreeMap::new(),
            is_lost,
        }
    }

    fn reasons(gpus: Vec<DeviceInfo>) -> Vec<Option<String>> {
        gpus.into_iter().map(|gpu| gpu.unavailable).collect()
    }

    #[test]
    fn gpus_are_described_and_a_lost_one_says_so() {
        let snapshot = TelemetrySnapshot { gpus: vec![gpu("a", false), gpu("b", true)], ..Default::default() };
        let found = devices(&snapshot, None);
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].gpu.as_ref(), found[0].unavailable.as_ref()), (None, None));
        assert_eq!(found[1].spec, DeviceSpec::Cuda { ordinal: 0 });
        assert_eq!(found[1].gpu.as_ref().unwrap().label(), "compute capability 9.0, a");
        assert_eq!(found[1].memory_bytes, Some(1 << 37));
        assert!(found[1].unavailable.as_ref().unwrap().contains("not answered"));
        assert_eq!(found[2].unavailable.as_deref(), Some(LOST));
    }

    #[test]
    fn the_reason_is_the_worker_s_own() {
        let card = [gpu("a", false)];
        let missing = CudaDevices::NotInstalled { reason: "not found".to_owned() };
        let unusable = CudaDevices::Unusable { reason: "no driver".to_owned() };
        assert_eq!(reasons(gpus(&[], Some(&missing))), []);
        assert_eq!(reasons(gpus(&card, Some(&missing))), [Some("not found".to_owned())]);
        assert_eq!(reasons(gpus(&[], Some(&unusable))), [Some("no driver".to_owned())]);
        assert_eq!(reasons(gpus(&card, Some(&unusable))), [Some("no driver".to_owned())]);
    }

    #[test]
    fn a_card_of_the_worker_is_told_by_its_identity() {
        let named = |uuid: &str| DeviceInfo {
            gpu: Some(GpuDescription { uuid: Some(uuid.to_owned()), ..Default::default() }),
            ..DeviceInfo::named(DeviceSpec::Cuda { ordinal: 0 }, "NVIDIA H200")
        };
        let seen = [gpu("a", false), gpu("b", true)];
        let of = |uuid: &str| gpus(&seen, Some(&CudaDevices::Found(vec![named(uuid)]))).remove(0);
        assert_eq!((of("a").unavailable, of("a").gpu), (None, Some(seen[0].description.clone())));
        assert_eq!(of("b").unavailable.as_deref(), Some(LOST));
        assert_eq!(of("c"), named("c"), "telemetry does not know it");
    }
}

//! The devices of this machine, as telemetry and the worker for NVIDIA cards tell them: none is opened.

use crate::device::{DeviceInfo, DeviceSpec};
use crate::telemetry::TelemetrySnapshot;
use crate::worker::cuda::CudaDevices;

/// The processor, then every GPU, with the reason where trials cannot run on it.
///
/// - `cuda`: what the worker for NVIDIA cards says; `None` while it was not asked
///
/// Without that worker's answer GPUs are those that the driver names to telemetry. A worker that is there and cannot be
/// used is told even where telemetry knows no GPU.
pub fn devices(snapshot: &TelemetrySnapshot, cuda: Option<&CudaDevices>) -> Vec<DeviceInfo> {
    let newest = snapshot.history.last();
    let cpu = DeviceInfo {
        spec: DeviceSpec::all_cores(),
        name: snapshot.cpu_model.clone().unwrap_or_else(|| "CPU".to_owned()),
        memory_bytes: newest.and_then(|sample| sample.memory_total_bytes),
        unavailable: None,
    };
    let seen = newest.map_or(&[][..], |sample| &sample.gpus);
    let seen = seen.iter().map(|gpu| (gpu.name.clone(), gpu.memory_total_bytes));
    std::iter::once(cpu).chain(gpus(seen.collect(), cuda)).collect()
}

/// GPUs with names and bytes as `seen` by telemetry, unless the worker named its own.
fn gpus(mut seen: Vec<(String, Option<u64>)>, cuda: Option<&CudaDevices>) -> Vec<DeviceInfo> {
    let reason = match cuda {
        Some(CudaDevices::Found(devices)) => return devices.clone(),
        Some(CudaDevices::NotInstalled { reason }) => reason.as_str(),
        Some(CudaDevices::Unusable { reason }) => {
            if seen.is_empty() {
                seen.push(("NVIDIA GPU".to_owned(), None));
            }
            reason
        }
        None => "the worker for NVIDIA cards has not answered yet",
    };
    let info = |(ordinal, (name, memory_bytes))| DeviceInfo {
        spec: DeviceSpec::Cuda { ordinal },
        name,
        memory_bytes,
        unavailable: Some(reason.to_owned()),
    };
    (0_u16..).zip(seen).map(info).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_worker_s_own() {
        let card = || vec![("NVIDIA H200".to_owned(), Some(141 << 30))];
        let missing = CudaDevices::NotInstalled { reason: "not found".to_owned() };
        let unusable = CudaDevices::Unusable { reason: "no driver".to_owned() };
        let device = DeviceInfo {
            spec: DeviceSpec::Cuda { ordinal: 0 },
            name: "NVIDIA H200".to_owned(),
            memory_bytes: Some(140 << 30),
            unavailable: None,
        };
        let reasons = |gpus: Vec<DeviceInfo>| gpus.into_iter().map(|gpu| gpu.unavailable).collect::<Vec<_>>();
        assert_eq!(reasons(gpus(Vec::new(), Some(&missing))), []);
        assert_eq!(reasons(gpus(card(), Some(&missing))), [Some("not found".to_owned())]);
        assert_eq!(reasons(gpus(Vec::new(), Some(&unusable))), [Some("no driver".to_owned())]);
        assert_eq!(gpus(card(), Some(&CudaDevices::Found(vec![device.clone()]))), [device]);
        assert!(gpus(card(), None)[0].unavailable.is_some());
    }
}

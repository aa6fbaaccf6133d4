//! The devices of this machine, as telemetry sees them: none is opened.

use crate::device::{DeviceInfo, DeviceSpec};
use crate::telemetry::TelemetrySnapshot;

/// The processor, then every GPU that the driver names, with the reason where trials cannot run on it.
pub fn devices(snapshot: &TelemetrySnapshot) -> Vec<DeviceInfo> {
    let newest = snapshot.history.last();
    let cpu = DeviceInfo {
        spec: DeviceSpec::all_cores(),
        name: snapshot.cpu_model.clone().unwrap_or_else(|| "CPU".to_owned()),
        memory_bytes: newest.and_then(|sample| sample.memory_total_bytes),
        unavailable: None,
    };
    let gpus = newest.map_or(&[][..], |sample| &sample.gpus);
    let gpus = (0_u16..).zip(gpus).map(|(ordinal, gpu)| DeviceInfo {
        spec: DeviceSpec::Cuda { ordinal },
        name: gpu.name.clone(),
        memory_bytes: gpu.memory_total_bytes,
        unavailable: Some("this version runs trials on the processor only".to_owned()),
    });
    std::iter::once(cpu).chain(gpus).collect()
}

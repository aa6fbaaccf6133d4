//! The devices of this machine, as telemetry sees them: none is opened.

use crate::device::{DeviceInfo, DeviceSpec};
use crate::telemetry::{GpuDevice, TelemetrySnapshot};

/// Why nothing runs on a GPU that is gone.
const LOST: &str = "the GPU was lost: it has fallen off the bus or needs a reset";

/// Whether `known` still describes what the snapshot shows. Reads nothing: it is asked in every frame.
pub(super) fn is_current(known: &[DeviceInfo], snapshot: &TelemetrySnapshot) -> bool {
    let [cpu, gpus @ ..] = known else { return false };
    let is_same = |(device, gpu): (&DeviceInfo, &GpuDevice)| {
        let is_lost = device.unavailable.as_deref() == Some(LOST);
        is_lost == gpu.is_lost
            && device.memory_bytes == gpu.memory_total_bytes
            && device.gpu.as_ref() == Some(&gpu.description)
    };
    let is_read = cpu.memory_bytes.is_some() || snapshot.history.is_empty();
    is_read && gpus.len() == snapshot.gpus.len() && gpus.iter().zip(&snapshot.gpus).all(is_same)
}

/// The processor, then every GPU that the driver names, with the reason where trials cannot run on it.
pub fn devices(snapshot: &TelemetrySnapshot) -> Vec<DeviceInfo> {
    let newest = snapshot.history.last();
    let cpu = DeviceInfo {
        memory_bytes: newest.and_then(|sample| sample.memory_total_bytes),
        ..DeviceInfo::named(DeviceSpec::all_cores(), snapshot.cpu_model.clone().unwrap_or_else(|| "CPU".to_owned()))
    };
    let gpus = (0_u16..).zip(&snapshot.gpus).map(|(ordinal, gpu)| DeviceInfo {
        memory_bytes: gpu.memory_total_bytes,
        unavailable: Some(if gpu.is_lost {
            LOST.to_owned()
        } else {
            "this version runs trials on the processor only".to_owned()
        }),
        gpu: Some(gpu.description.clone()),
        ..DeviceInfo::named(DeviceSpec::Cuda { ordinal }, gpu.name.clone())
    });
    std::iter::once(cpu).chain(gpus).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::device::GpuDescription;
    use crate::telemetry::HardwareSample;

    #[test]
    fn gpus_are_described_and_a_lost_one_says_so() {
        let gpu = |is_lost| GpuDevice {
            name: "H200".to_owned(),
            memory_total_bytes: Some(1 << 37),
            description: GpuDescription { compute_capability: Some((9, 0)), ..GpuDescription::default() },
            refused: BTreeMap::new(),
            is_lost,
        };
        let snapshot = TelemetrySnapshot { gpus: vec![gpu(false), gpu(true)], ..TelemetrySnapshot::default() };
        let found = devices(&snapshot);
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].gpu.as_ref(), found[0].unavailable.as_ref()), (None, None));
        assert_eq!(found[1].spec, DeviceSpec::Cuda { ordinal: 0 });
        assert_eq!(found[1].gpu.as_ref().unwrap().label(), "compute capability 9.0");
        assert_eq!(found[1].memory_bytes, Some(1 << 37));
        assert!(found[2].unavailable.as_ref().unwrap().contains("lost"));
        assert!(is_current(&found, &snapshot));
        let lost = TelemetrySnapshot { gpus: vec![gpu(true), gpu(true)], ..TelemetrySnapshot::default() };
        assert!(!is_current(&found, &lost));
        assert!(!is_current(&found, &TelemetrySnapshot::default()), "the GPUs are gone from the list");
        assert!(!is_current(&found[..1], &snapshot) && !is_current(&[], &snapshot));
        let read = TelemetrySnapshot { history: vec![HardwareSample::default()], ..snapshot };
        assert!(!is_current(&found, &read), "the host's memory is not known yet");
    }
}

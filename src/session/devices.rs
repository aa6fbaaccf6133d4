//! The devices of this machine, as telemetry sees them: none is opened.

use crate::device::{DeviceInfo, DeviceSpec};
use crate::telemetry::TelemetrySnapshot;

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
            "the GPU was lost: it has fallen off the bus or needs a reset".to_owned()
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
    use crate::telemetry::GpuDevice;

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
    }
}

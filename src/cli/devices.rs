//! `trimtab devices`: what trials can run on.

use serde_json::json;

use crate::cli::args::DevicesArgs;
use crate::cli::out::Out;
use crate::cli::{Verdict, open};
use crate::device::DeviceSpec;
use crate::units;

pub(super) fn run(args: &DevicesArgs, out: &mut Out) -> anyhow::Result<Verdict> {
    let devices = open::devices();
    if args.json {
        let devices: Vec<_> = devices
            .iter()
            .map(|device| {
                let (kind, threads) = match device.spec {
                    DeviceSpec::Cpu { threads } => ("cpu", Some(threads)),
                    DeviceSpec::Cuda { .. } => ("cuda", None),
                };
                json!({
                    "kind": kind,
                    "threads": threads,
                    "spec": device.spec,
                    "name": device.name,
                    "memory_bytes": device.memory_bytes,
                    "unavailable": device.unavailable,
                    "gpu": device.gpu,
                })
            })
            .collect();
        out.json(&json!({ "devices": devices }))?;
        return Ok(Verdict::Done);
    }
    for device in devices {
        let memory = device.memory_bytes.map_or_else(String::new, |bytes| format!(", {}", units::bytes(bytes)));
        let gpu = device.gpu.map(|gpu| gpu.label()).filter(|label| !label.is_empty());
        let gpu = gpu.map_or_else(String::new, |label| format!(", {label}"));
        let state = device.unavailable.map_or_else(String::new, |reason| format!(" (not now: {reason})"));
        out.data(&format!("{}: {}{memory}{gpu}{state}", device.spec.label(), device.name))?;
    }
    Ok(Verdict::Done)
}

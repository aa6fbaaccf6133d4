//! `trimtab devices`: what trials can run on.

use std::process::ExitCode;

use serde_json::json;

use crate::cli::args::DevicesArgs;
use crate::cli::out::{Out, say};
use crate::cli::{Verdict, open};
use crate::device::{DeviceInfo, DeviceSpec, GpuDescription};
use crate::study::Failure;
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
        out.data(&line(&device))?;
    }
    Ok(Verdict::Done)
}

fn line(device: &DeviceInfo) -> String {
    let memory = device.memory_bytes.map_or_else(String::new, |bytes| format!(", {}", units::bytes(bytes)));
    let gpu = device.gpu.as_ref().map(GpuDescription::label).filter(|label| !label.is_empty());
    let gpu = gpu.map_or_else(String::new, |label| format!(", {label}"));
    let state = device.unavailable.as_ref().map_or_else(String::new, |reason| format!(" (not now: {reason})"));
    format!("{}: {}{memory}{gpu}{state}", device.spec.label(), device.name)
}

/// Says what a worker's program finds when it is started by hand.
pub fn say_devices(devices: Result<Vec<DeviceInfo>, Failure>) -> ExitCode {
    let found = match devices {
        Ok(found) => found,
        Err(failure) => {
            say(&format!("error: {}", failure.message));
            return ExitCode::from(2);
        }
    };
    let mut out = Out::new();
    let said = found.iter().try_for_each(|device| out.data(&line(device)));
    if said.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(2) }
}

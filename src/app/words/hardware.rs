//! Words of the hardware tile.

use crate::telemetry::{ClockLimit, Refusal};

/// Words of the hardware tile.
#[derive(Debug)]
#[expect(missing_docs, reason = "the English text is the documentation")]
pub struct HardwareWords {
    pub no_reading: &'static str,
    pub no_reading_hint: &'static str,
    pub cpu: &'static str,
    pub memory: &'static str,
    pub clock: &'static str,
    pub temperature: &'static str,
    pub gpu: &'static str,
    pub cores: fn(usize) -> String,
    pub of: fn(&str, &str) -> String,
    pub no_clock: &'static str,
    pub no_temperature: &'static str,
    pub no_cpu: &'static str,
    pub no_memory: &'static str,
    pub no_gpu: &'static str,
    pub gpu_name: fn(usize, &str) -> String,
    pub gpu_memory_of: fn(usize) -> String,
    pub gpu_power: fn(usize) -> String,
    pub gpu_sm_clock: fn(usize) -> String,
    pub gpu_memory_clock: fn(usize) -> String,
    pub gpu_temperature: fn(usize) -> String,
    pub own: fn(&str) -> String,
    pub limited: fn(&str) -> String,
    pub limit: fn(ClockLimit) -> &'static str,
    pub others: fn(usize) -> String,
    pub other: fn(u32, Option<&str>, Option<&str>) -> String,
    pub refused: fn(&Refusal) -> String,
    pub lost: &'static str,
    pub not_told: &'static str,
    pub last: fn(&str) -> String,
}

impl HardwareWords {
    /// English.
    pub const EN: Self = Self {
        no_reading: "No reading yet",
        no_reading_hint: "Processor, memory and GPU are read ten times a second once the window is open",
        cpu: "CPU",
        memory: "memory",
        clock: "clock",
        temperature: "temperature",
        gpu: "GPU",
        cores: |n| if n == 1 { "1 core".to_owned() } else { format!("{n} cores") },
        of: |used, total| format!("{used} of {total}"),
        no_clock: "this system does not tell the clock",
        no_temperature: "no readable sensor",
        no_cpu: "not readable here",
        no_memory: "not readable here",
        no_gpu: "no GPU was found",
        gpu_name: |number, name| format!("GPU {number} {name}"),
        gpu_memory_of: |number| format!("GPU memory {number}"),
        gpu_power: |number| format!("power {number}"),
        gpu_sm_clock: |number| format!("GPU {number} clock"),
        gpu_memory_clock: |number| format!("GPU {number} memory clock"),
        gpu_temperature: |number| format!("GPU {number} temperature"),
        own: |bytes| format!("ours {bytes}"),
        limited: |limits| format!("held down: {limits}"),
        limit: |limit| match limit {
            ClockLimit::Idle => "idle",
            ClockLimit::Setting => "clocks set by the user",
            ClockLimit::PowerCap => "power limit",
            ClockLimit::HardwareSlowdown => "slowed by the card",
            ClockLimit::SyncBoost => "held back by another GPU",
            ClockLimit::Thermal => "too hot",
            ClockLimit::HardwareThermal => "too hot, slowed by the card",
            ClockLimit::PowerBrake => "power brake",
            ClockLimit::Unknown => "another reason",
        },
        others: |n| if n == 1 { "1 other process".to_owned() } else { format!("{n} other processes") },
        other: |pid, name, memory| {
            let name = name.map_or_else(|| format!("process {pid}"), |name| format!("{name} ({pid})"));
            memory.map_or(name.clone(), |memory| format!("{name} {memory}"))
        },
        refused: |refusal| match refusal {
            Refusal::Mig => "not available: MIG".to_owned(),
            Refusal::NotSupported => "not available: this device has no such reading".to_owned(),
            Refusal::NoPermission => "not available: this user may not read it".to_owned(),
            Refusal::Lost => "the GPU was lost".to_owned(),
            Refusal::Other(words) => format!("not available: {words}"),
        },
        lost: "lost: it has fallen off the bus or needs a reset",
        not_told: "the driver does not tell",
        last: |span| format!("last {span}"),
    };
}

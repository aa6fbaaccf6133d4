//! What the figures were taken on.

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// Processor, cores, threads in use, instruction set and memory, in one line.
pub(crate) fn line(threads: u16) -> String {
    let what =
        RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()).with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(what).ok();
    let brand = system.as_ref().and_then(|system| Some(system.cpus().first()?.brand().trim().to_owned()));
    let brand = brand.filter(|brand| !brand.is_empty()).unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let n_cores = system.as_ref().map_or(0, |system| system.cpus().len());
    let gib = system.map(|system| format!(", {:.0} GiB", system.total_memory() as f64 / f64::from(1 << 30)));
    let cores = if n_cores == 1 { "core" } else { "cores" };
    let in_use = if threads == 1 { "thread" } else { "threads" };
    let memory = gib.unwrap_or_default();
    format!("{brand}, {n_cores} {cores}, {threads} {in_use}, {}{memory}", instruction_set())
}

/// The widest vector instructions of this processor.
#[cfg(target_arch = "x86_64")]
fn instruction_set() -> &'static str {
    if is_x86_feature_detected!("avx512vnni") {
        "AVX-512 VNNI"
    } else if is_x86_feature_detected!("avx512f") {
        "AVX-512"
    } else if is_x86_feature_detected!("avx2") {
        "AVX2"
    } else {
        "SSE2"
    }
}

/// The architecture: what it always has.
#[cfg(not(target_arch = "x86_64"))]
fn instruction_set() -> &'static str {
    std::env::consts::ARCH
}

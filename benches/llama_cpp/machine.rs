//! What the figures were taken on.

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
use trimtab::kernels::Isa;

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
    format!("{brand}, {n_cores} {cores}, {threads} {in_use}, {}{memory}", Isa::current().name())
}

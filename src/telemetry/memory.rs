//! Resident memory of processes, as the kernel counts it.
//!
//! From `/proc/PID/status`, whose figures are exact where those of `statm` lag by up to 64 pages a core. A reading costs
//! some ten microseconds: fifty a second do not disturb a measurement. Systems without `/proc` have no readings.

/// Resident memory of this process.
pub fn resident_bytes() -> Option<u64> {
    status_bytes("self", "VmRSS:")
}

/// The most that this process had resident since it began, or since [`reset_peak`].
pub fn peak_resident_bytes() -> Option<u64> {
    status_bytes("self", "VmHWM:")
}

/// Makes the present resident memory the peak of this process, so that a trial's peak is its own.
///
/// Returns whether the kernel did: where it does not, [`peak_resident_bytes`] is the peak since the process began.
pub fn reset_peak() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Resident memory of another process; `None` once it has ended.
pub fn resident_bytes_of(pid: u32) -> Option<u64> {
    status_bytes(&pid.to_string(), "VmRSS:")
}

/// Memory of the host that programs can have without others being swapped out.
pub fn available_bytes() -> Option<u64> {
    parse_status(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

fn status_bytes(process: &str, field: &str) -> Option<u64> {
    parse_status(&std::fs::read_to_string(format!("/proc/{process}/status")).ok()?, field)
}

fn parse_status(status: &str, field: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field))?.trim();
    value.strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_bytes() {
        let status = "Name:\tVmRSS: 1 kB\nVmHWM:\t    4096 kB\nVmRSS:\t    2048 kB\nRssAnon:\t 1 kB\n";
        let check = |field: &str, expected: Option<u64>| assert_eq!(parse_status(status, field), expected, "{field}");
        check("VmRSS:", Some(2 << 20));
        check("VmHWM:", Some(4 << 20));
        check("VmSwap:", None);
        let meminfo = "MemTotal:       8000000 kB\nMemAvailable:    3000000 kB\n";
        assert_eq!(parse_status(meminfo, "MemAvailable:"), Some(3_000_000 << 10));
        assert_eq!(parse_status("VmRSS:\t18446744073709551615 kB", "VmRSS:"), None);
        assert_eq!(parse_status("VmRSS:\tmany kB", "VmRSS:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_allocation_shows_and_the_peak_remembers_it() {
        let size: u64 = 64 << 20;
        let block = vec![1_u8; size as usize];
        assert!(resident_bytes().unwrap() >= size);
        assert!(resident_bytes_of(std::process::id()).unwrap() >= size);
        assert_eq!(block.iter().map(|byte| u64::from(*byte)).sum::<u64>(), size);
        drop(block);
        assert!(peak_resident_bytes().unwrap() >= size);
        assert_eq!(resident_bytes_of(u32::MAX), None);
    }
}

//! Which processes are ours.

/// A process that is there now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    /// The kernel's short name of it.
    pub(super) name: String,
    /// This process or a child of it.
    pub(super) is_own: bool,
}

/// The table of processes: the kernel's, or a recorded one.
pub(super) trait Processes {
    /// The process that has this number now.
    fn find(&self, pid: u32) -> Option<Process>;
}

/// The kernel's table, from `/proc`; empty on systems without it.
pub(super) struct Kernel;

impl Processes for Kernel {
    fn find(&self, pid: u32) -> Option<Process> {
        let own = std::process::id();
        let (name, parent) = parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        Some(Process { name, is_own: pid == own || parent == own })
    }
}

/// Name and parent. The name may hold spaces and parentheses: it ends at the last one.
fn parse_stat(stat: &str) -> Option<(String, u32)> {
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let parent = tail.split_whitespace().nth(1)?.parse().ok()?;
    Some((name, parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_parents_are_read_whatever_the_name_holds() {
        assert_eq!(parse_stat("7 (a b) (c) S 3 7 7 0"), Some(("a b) (c".to_owned(), 3)));
        assert_eq!(parse_stat("7 (sh) S"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_ours_and_the_first_is_not() {
        assert!(Kernel.find(std::process::id()).unwrap().is_own);
        assert!(Kernel.find(1).is_none_or(|process| !process.is_own));
        assert_eq!(Kernel.find(u32::MAX), None);
    }
}

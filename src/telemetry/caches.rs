//! The caches of the processor.

use std::fs;
use std::path::Path;

/// One cache, as the kernel describes that of the first core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cache {
    /// Its level: 1 is next to the core.
    pub level: u8,
    /// Bytes of one instance.
    pub bytes: u64,
    /// Logical cores that share an instance.
    pub n_sharing: u32,
}

impl Cache {
    /// Bytes that so many threads have together when each runs on a core of its own.
    pub fn bytes_of(self, threads: u16) -> u64 {
        self.bytes * u64::from(u32::from(threads).div_ceil(self.n_sharing.max(1)))
    }
}

/// The data caches from the nearest to the farthest; none where they cannot be read.
pub fn caches() -> Vec<Cache> {
    read(Path::new("/sys/devices/system/cpu/cpu0/cache"))
}

fn read(folder: &Path) -> Vec<Cache> {
    let mut caches: Vec<Cache> = (0..16).filter_map(|index| one(&folder.join(format!("index{index}")))).collect();
    caches.sort_by_key(|cache| cache.level);
    caches
}

fn one(folder: &Path) -> Option<Cache> {
    let word = |name: &str| fs::read_to_string(folder.join(name)).ok().map(|text| text.trim().to_owned());
    if word("type")? == "Instruction" {
        return None;
    }
    let n_sharing = word("shared_cpu_list").and_then(|list| n_cores(&list)).unwrap_or(1);
    Some(Cache { level: word("level")?.parse().ok()?, bytes: size(&word("size")?)?, n_sharing })
}

/// `2048K` in bytes.
fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The cores in `0-3,8,10-11`.
fn n_cores(list: &str) -> Option<u32> {
    let mut n = 0;
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        n += last.checked_sub(first)? + 1;
    }
    Some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let rows = [
            ("index0", "1", "Data", "48K", "0"),
            ("index1", "1", "Instruction", "32K", "0"),
            ("index2", "2", "Unified", "1M", "0,4"),
            ("index3", "3", "Unified", "32768K", "0-3,8,10-11"),
            ("index4", "4", "Unified", "many", "0"),
        ];
        for (name, level, kind, size, list) in rows {
            let folder = dir.path().join(name);
            fs::create_dir(&folder).unwrap();
            for (file, text) in [("level", level), ("type", kind), ("size", size), ("shared_cpu_list", list)] {
                fs::write(folder.join(file), format!("{text}\n")).unwrap();
            }
        }
        let found = read(dir.path());
        let cache = |level, bytes, n_sharing| Cache { level, bytes, n_sharing };
        assert_eq!(found, [cache(1, 48 << 10, 1), cache(2, 1 << 20, 2), cache(3, 32 << 20, 7)]);
        assert_eq!([1, 2, 3].map(|threads| found[1].bytes_of(threads)), [1 << 20, 1 << 20, 2 << 20]);
        assert_eq!(read(&dir.path().join("none")), []);
    }
}

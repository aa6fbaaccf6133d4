//! Where journals lie, and what they are called.

use std::path::{Path, PathBuf};

use crate::cache;
use crate::study::journal::EXTENSION;

/// The folder of recorded studies; `None` when the system names no place for the user's files.
pub(super) fn studies_dir() -> Option<PathBuf> {
    cache::user_dir("XDG_DATA_HOME", ".local/share").map(|dir| dir.join("studies"))
}

/// A journal in `dir` that does not exist yet: `NAME-2026-11-20-061530.study`.
pub(super) fn new_journal(dir: &Path, name: &str, unix_secs: u64) -> PathBuf {
    let stem = format!("{}-{}", file_name(name), utc(unix_secs));
    let numbered = (2..).map(|n: u32| format!("{stem}-{n}"));
    let free = std::iter::once(stem.clone()).chain(numbered).map(|stem| dir.join(format!("{stem}.{EXTENSION}")));
    free.into_iter().find(|path| !path.exists()).expect("numbers do not end")
}

/// `name` as a plain file name on any system.
fn file_name(name: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "-_".contains(c) { c } else { ' ' };
    let spaced: String = name.chars().map(plain).take(40).collect();
    let words: Vec<&str> = spaced.split_whitespace().collect();
    if words.is_empty() { "study".to_owned() } else { words.join("-") }
}

/// `2026-11-20-061530` in UTC. Days to date as in Howard Hinnant's `civil_from_days`.
fn utc(unix_secs: u64) -> String {
    let (days, secs) = (unix_secs / 86_400 + 719_468, unix_secs % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (secs / 3600, secs / 60 % 60, secs % 60);
    format!("{year:04}-{month:02}-{day:02}-{hour:02}{minute:02}{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let cases = [
            (0, "1970-01-01-000000"),
            (951_782_399, "2000-02-28-235959"),
            (951_782_400, "2000-02-29-000000"),
            (1_735_689_599, "2024-12-31-235959"),
            (1_795_155_330, "2026-11-20-061530"),
        ];
        for (secs, expected) in cases {
            assert_eq!(utc(secs), expected);
        }
    }

    #[test]
    fn names_become_plain_and_journals_are_new() {
        assert_eq!(file_name("int4 g32, 30 % sparse"), "int4-g32-30-sparse");
        assert_eq!(file_name("../../etc/passwd"), "etc-passwd");
        assert_eq!(file_name(" / "), "study");
        let dir = tempfile::tempdir().unwrap();
        let first = new_journal(dir.path(), "a b", 0);
        assert_eq!(first, dir.path().join("a-b-1970-01-01-000000.study"));
        std::fs::write(&first, "").unwrap();
        assert_eq!(new_journal(dir.path(), "a b", 0), dir.path().join("a-b-1970-01-01-000000-2.study"));
    }
}

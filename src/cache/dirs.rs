//! Where files of the user lie.

use std::ffi::OsString;
use std::path::PathBuf;

/// The folder of files that can be made again; `None` when the system names no place for the user's files.
pub fn default_dir() -> Option<PathBuf> {
    user_dir("XDG_CACHE_HOME", ".cache")
}

/// The folder of the store of compressed layers and calibrations, in [`default_dir`].
pub fn store_dir() -> Option<PathBuf> {
    default_dir().map(|dir| dir.join("store"))
}

/// The program's folder by the XDG rule: in the one that `variable` names when that is an absolute path, else in
/// `below_home` of the home folder.
pub fn user_dir(variable: &str, below_home: &str) -> Option<PathBuf> {
    rule(std::env::var_os(variable), std::env::var_os("HOME"), below_home)
}

fn rule(named: Option<OsString>, home: Option<OsString>, below_home: &str) -> Option<PathBuf> {
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    let base = named.and_then(absolute).or_else(|| Some(home.and_then(absolute)?.join(below_home)));
    base.map(|base| base.join("trimtab"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_follow_the_environment() {
        let check = |named: Option<&str>, home: Option<&str>, expected: Option<&str>| {
            let found = rule(named.map(OsString::from), home.map(OsString::from), ".cache");
            assert_eq!(found, expected.map(PathBuf::from), "{named:?} {home:?}");
        };
        check(Some("/c"), Some("/u"), Some("/c/trimtab"));
        check(Some("relative"), Some("/u"), Some("/u/.cache/trimtab"));
        check(Some(""), Some("/u"), Some("/u/.cache/trimtab"));
        check(None, None, None);
        check(None, Some(""), None);
    }
}

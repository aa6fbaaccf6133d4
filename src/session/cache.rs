//! What the store of compressed layers and calibrations takes up, and how it is cleared. Each on a thread of its own.

use std::path::{Path, PathBuf};

use crate::cache::{DEFAULT_BUDGET_BYTES, Store, store_dir};

/// What the store of compressed layers and calibrations takes up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheState {
    /// Its folder; `None` when the system names no place for it.
    pub dir: Option<PathBuf>,
    /// Bytes of its files when they were last counted; `None` before that.
    pub bytes: Option<u64>,
    /// They are being counted or cleared.
    pub busy: bool,
}

impl CacheState {
    /// A store that was not looked at yet.
    pub(super) fn new() -> Self {
        Self { dir: store_dir(), bytes: None, busy: false }
    }

    /// Whether there is something to clear and nobody is at it.
    pub fn can_clear(&self) -> bool {
        !self.busy && self.bytes.is_some_and(|bytes| bytes > 0)
    }
}

/// Bytes of the store in `dir`; an absent one takes none.
pub(super) fn size(dir: &Path) -> Result<u64, String> {
    if !dir.is_dir() {
        return Ok(0);
    }
    open(dir).map(|store| store.size())
}

/// Empties the store in `dir`; returns the bytes that are left of it.
pub(super) fn clear(dir: &Path) -> Result<u64, String> {
    if !dir.is_dir() {
        return Ok(0);
    }
    let store = open(dir)?;
    store.clear();
    Ok(store.size())
}

fn open(dir: &Path) -> Result<Store, String> {
    Store::open(dir, DEFAULT_BUDGET_BYTES).map_err(|error| format!("open the cache: {error}: {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Key;

    #[test]
    fn an_absent_store_takes_nothing_and_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent");
        assert_eq!((size(&absent), clear(&absent)), (Ok(0), Ok(0)));
        assert!(!absent.exists());
    }

    #[test]
    fn clearing_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        store.put(&Key::of(&[b"a"]), &[&[7; 1000]]).unwrap();
        assert!(size(dir.path()).unwrap() >= 1000);
        assert_eq!(clear(dir.path()), Ok(0));
        assert_eq!(store.get(&Key::of(&[b"a"])), None);
    }
}

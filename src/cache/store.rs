//! A folder of checksummed files under content keys, bounded in size.

use std::fs::{self, File, FileTimes};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::cache::Key;

/// The size that a store may have when nobody says otherwise.
pub const DEFAULT_BUDGET_BYTES: u64 = 4 << 30;

const MAGIC: &[u8; 8] = b"TRIMTAB1";
/// Magic, length of the content, BLAKE3 of key and content.
const HEADER_LEN: usize = 8 + 8 + 32;
const EXTENSION: &str = "entry";
const TEMPORARY: &str = ".trimtab-";
/// A temporary file this old was left behind by a process that died.
const ABANDONED: Duration = Duration::from_hours(24);

/// A folder of results that can be made again, each under the [`Key`] of what it was made from.
///
/// Several processes may share a folder: a file appears whole under its final name, and one that vanishes is absent. There
/// is no sync to the disk: what a power loss tears is found by its checksum.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
    budget_bytes: u64,
}

/// One of our files as the folder lists it.
struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
    is_temporary: bool,
}

impl Store {
    /// Opens the store in `dir`, made if absent, that holds up to `budget_bytes`.
    ///
    /// # Errors
    /// When the folder can neither be made nor listed.
    pub fn open(dir: &Path, budget_bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let store = Self { dir: dir.to_owned(), budget_bytes };
        let is_abandoned = |entry: &Entry| entry.is_temporary && entry.used.elapsed().is_ok_and(|age| age > ABANDONED);
        store.entries()?.iter().filter(|entry| is_abandoned(entry)).for_each(|entry| {
            remove(&entry.path);
        });
        store.make_room(None);
        Ok(store)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The most bytes that the store may hold.
    pub fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// What was put under `key`, if it is still there and whole. A damaged file is removed and counts as absent.
    pub fn get(&self, key: &Key) -> Option<Vec<u8>> {
        let path = self.path(key);
        match read(&path, key) {
            Ok(content) => Some(content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                log::warn!("a cached result is made anew: {error}: {}", path.display());
                if error.kind() == io::ErrorKind::InvalidData {
                    remove(&path);
                }
                None
            }
        }
    }

    /// Puts the concatenation of `parts` under `key`, in the place of what was there; the least recently used files go when
    /// the store is over its budget.
    ///
    /// # Errors
    /// When the folder cannot be written, the disk is full, or the content alone is larger than the budget. Nothing is left
    /// behind then, and the caller's work can go on without.
    pub fn put(&self, key: &Key, parts: &[&[u8]]) -> io::Result<()> {
        let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
        if len.saturating_add(HEADER_LEN as u64) > self.budget_bytes {
            let (len, budget) = (crate::units::bytes(len), crate::units::bytes(self.budget_bytes));
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("a result of {len} does not fit in a store of {budget}"),
            ));
        }
        let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(&self.dir)?;
        file.write_all(MAGIC)?;
        file.write_all(&len.to_le_bytes())?;
        file.write_all(&checksum(key, parts))?;
        for part in parts {
            file.write_all(part)?;
        }
        let path = self.path(key);
        file.persist(&path).map_err(|error| error.error)?;
        self.make_room(Some(&path));
        Ok(())
    }

    /// How many results it holds.
    pub fn n_entries(&self) -> usize {
        self.entries().map_or(0, |entries| entries.iter().filter(|entry| !entry.is_temporary).count())
    }

    /// Bytes of the store's files.
    pub fn size(&self) -> u64 {
        self.entries().map_or(0, |entries| entries.iter().map(|entry| entry.bytes).sum())
    }

    /// Removes the store's files, and no others; the bytes that this freed.
    pub fn clear(&self) -> u64 {
        let entries = self.entries().unwrap_or_default();
        entries.iter().filter(|entry| remove(&entry.path)).map(|entry| entry.bytes).sum()
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.dir.join(format!("{key}.{EXTENSION}"))
    }

    /// Removes what was used longest ago until the rest fits; `newest` stays.
    fn make_room(&self, newest: Option<&Path>) {
        let Ok(mut entries) = self.entries() else { return };
        let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
        if total <= self.budget_bytes {
            return;
        }
        // Names decide between equal times, so that two processes remove the same files.
        entries.sort_by(|a, b| (a.used, &a.path).cmp(&(b.used, &b.path)));
        let removable = entries.iter().filter(|entry| !entry.is_temporary && Some(entry.path.as_path()) != newest);
        for entry in removable {
            if total <= self.budget_bytes {
                break;
            }
            if remove(&entry.path) {
                total -= entry.bytes;
            }
        }
    }

    /// Our files: plain ones with our names.
    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for found in fs::read_dir(&self.dir)? {
            let found = found?;
            let name = found.file_name();
            let is_temporary = name.to_str().is_some_and(|name| name.starts_with(TEMPORARY));
            if !is_temporary && !name.to_str().is_some_and(is_entry_name) {
                continue;
            }
            // Gone since it was listed: another process removed it.
            let Ok(metadata) = found.metadata() else { continue };
            if metadata.is_file() {
                let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                entries.push(Entry { path: found.path(), bytes: metadata.len(), used, is_temporary });
            }
        }
        Ok(entries)
    }
}

/// Whether a file has the name of an entry: a key in hex and our extension.
fn is_entry_name(name: &str) -> bool {
    let Some((key, extension)) = name.split_once('.') else { return false };
    extension == EXTENSION && key.len() == 64 && key.bytes().all(|letter| matches!(letter, b'0'..=b'9' | b'a'..=b'f'))
}

fn checksum(key: &Key, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&key.0);
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// The content of a whole entry, which counts as used now. Damage is [`io::ErrorKind::InvalidData`].
fn read(path: &Path, key: &Key) -> io::Result<Vec<u8>> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a plain file"));
    }
    let mut header = [0; HEADER_LEN];
    file.read_exact(&mut header).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("shorter than its header"),
        _ => error,
    })?;
    let (magic, rest) = header.split_at(MAGIC.len());
    let (len, expected) = rest.split_at(8);
    let len = u64::from_le_bytes(len.try_into().expect("split at eight"));
    if magic != MAGIC {
        return Err(damaged("not an entry of this version"));
    }
    // Only a length that the file has is allocated.
    if len.checked_add(HEADER_LEN as u64) != Some(metadata.len()) {
        return Err(damaged("its length is not the one that it names"));
    }
    let mut content = Vec::with_capacity(len as usize);
    (&file).take(len).read_to_end(&mut content)?;
    if content.len() as u64 != len || checksum(key, &[&content]) != expected {
        return Err(damaged("its checksum does not fit"));
    }
    // A folder that cannot be written still serves; the entry only looks older than it is.
    if let Err(error) = file.set_times(FileTimes::new().set_modified(SystemTime::now())) {
        log::debug!("the time of a cached result stays: {error}: {}", path.display());
    }
    Ok(content)
}

/// Removes a file; whether it is gone by this call.
fn remove(path: &Path) -> bool {
    match fs::remove_file(path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            log::warn!("a cached result stays: {error}: {}", path.display());
            false
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;

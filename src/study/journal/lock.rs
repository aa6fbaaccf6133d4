//! The lock that makes one writer of many.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::Path;

use crate::study::journal::JournalError;
use crate::study::journal::writer::beside;

/// Most bytes read of what a holder wrote.
const MAX_HOLDER_BYTES: u64 = 256;

/// Locks the journal for as long as the returned file is open.
///
/// The kernel lets go when the holder ends, however it ends; no lock is ever broken by its age. The lock file stays: to
/// delete it would let two writers lock two files of one name.
pub(super) fn lock(journal: &Path) -> Result<File, JournalError> {
    let path = beside(journal, ".lock");
    let io = |source| JournalError::Io { action: "lock", source, path: journal.to_owned() };
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(JournalError::Locked { holder: holder(&mut file), path: journal.to_owned() });
        }
        Err(TryLockError::Error(source)) => return Err(JournalError::NoLocks { source, path: journal.to_owned() }),
    }
    let host = sysinfo::System::host_name().unwrap_or_else(|_| "this host".to_owned());
    let holder = format!("process {} on {host}\n", std::process::id());
    file.set_len(0).and_then(|()| file.write_all(holder.as_bytes())).map_err(io)?;
    Ok(file)
}

/// What the holder wrote about itself. It may be writing just now, or the system may keep it unreadable while locked.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let readable = file.take(MAX_HOLDER_BYTES).read_to_string(&mut text).is_ok();
    let text = text.trim();
    if readable && !text.is_empty() { text.to_owned() } else { "another process".to_owned() }
}

//! The journal: framed, checksummed, append-only; one writer with a lock; synced per finished trial.
//!
//! A study is one file `NAME.study` of lines, each a record, with `NAME.study.lock` beside it:
//!
//! ```text
//! <crc32c> <seq> <crc32c of the line before> <length> <json>\n      both checksums as 8 hex digits
//! ```
//!
//! The checksum covers everything behind it but the line's end; number and previous checksum make a chain, so records
//! that are lost, repeated or from another journal are told apart from whole ones. The first record has `"format"` as its
//! first field; a record of a later format has it too. Fields that this version does not know are ignored.
//!
//! The only part of `study` that does I/O. **Invariants.** A record is accepted only if it is, bit for bit, one that was
//! appended, and in the order of appending. Damage never blocks a study and is never deleted: a torn tail is copied to
//! `NAME.study.torn-<n>` before it is cut off, damage elsewhere stays in place and is copied to
//! `NAME.study.damaged-<offset>`. After a write or sync that failed nothing more is written.

mod line;
mod lock;
mod scan;
mod writer;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crate::study::{Study, StudyEvent};

pub use writer::JournalWriter;

/// Extension of a study's file: `NAME.study`, with `NAME.study.lock` beside it.
pub const EXTENSION: &str = "study";

/// The format that this version writes, and the latest that it reads.
pub const FORMAT: u32 = 1;

/// The longest line, in bytes: more is damage when read, and refused when appended.
pub const MAX_LINE_BYTES: usize = 64 << 20;

/// A journal that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// An operation on the file failed.
    #[error("{action} the journal: {source}: {path:?}")]
    Io {
        /// `open`, `append to`, `sync`, …
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
        /// The journal.
        path: PathBuf,
    },
    /// There is a journal already.
    #[error("create the journal: a study is there already; resume it or choose another name: {path:?}")]
    Exists {
        /// The journal.
        path: PathBuf,
    },
    /// Another writer has it.
    #[error(
        "open the journal for writing: it is in use by {holder}; stop that one, or only look at the study: {path:?}"
    )]
    Locked {
        /// Process and host, as the holder wrote them.
        holder: String,
        /// The journal.
        path: PathBuf,
    },
    /// The file system has no locks, so nothing keeps a second writer away.
    #[error("lock the journal: {source}; keep the study on a local disk: {path:?}")]
    NoLocks {
        /// The system's reason.
        source: std::io::Error,
        /// The journal.
        path: PathBuf,
    },
    /// Written by a later version.
    #[error(
        "open the journal: its format {found} is later than {FORMAT}; update Trimtab to use it, nothing was changed: {path:?}"
    )]
    Version {
        /// The format in the file.
        found: u32,
        /// The journal.
        path: PathBuf,
    },
    /// Some other file.
    #[error("open the journal: this is not a study, nothing was changed: {path:?}")]
    NotAJournal {
        /// The file.
        path: PathBuf,
    },
    /// The file at the journal's path is not the one that was opened, or someone else changed it.
    #[error(
        "append to the journal: it was deleted, replaced or changed by another program; save the study elsewhere: {path:?}"
    )]
    Replaced {
        /// The journal.
        path: PathBuf,
    },
    /// The event would not come back as it is; the journal is as before.
    #[error("append to the journal: the record would be unreadable: {reason}: {path:?}")]
    Unwritable {
        /// What is wrong with it.
        reason: String,
        /// The journal.
        path: PathBuf,
    },
    /// An earlier write failed: what lies on the disk is not known.
    #[error(
        "append to the journal: an earlier write failed and nothing is written since; save the study elsewhere: {path:?}"
    )]
    Dead {
        /// The journal.
        path: PathBuf,
    },
}

/// What opening a journal found.
#[derive(Debug, Default)]
pub struct Opened {
    /// Every intact event, in order.
    pub events: Vec<StudyEvent>,
    /// Damage that was set aside, in words; empty when there was none.
    pub damage: Vec<String>,
}

/// Reads a journal without locking or changing it. What a writer is appending meanwhile may look like a torn tail.
///
/// # Errors
/// When the file cannot be read, is no journal, or is of a later format.
pub fn read(path: &Path) -> Result<Opened, JournalError> {
    let file = File::open(path).map_err(|source| JournalError::Io { action: "open", source, path: path.to_owned() })?;
    let found = scan::scan(BufReader::new(file)).map_err(|error| error.at(path))?;
    let damage = found.damage_in_words();
    Ok(Opened { events: found.events, damage })
}

/// Reads a journal into a study, without locking or changing it.
///
/// # Errors
/// As [`read`].
pub fn read_study(path: &Path) -> Result<(Study, Vec<String>), JournalError> {
    let opened = read(path)?;
    Ok((Study::from_events(&opened.events), opened.damage))
}

#[cfg(test)]
mod tests;

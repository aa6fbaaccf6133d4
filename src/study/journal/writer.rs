//! The one writer.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::study::StudyEvent;
use crate::study::journal::line::encode;
use crate::study::journal::lock::lock;
use crate::study::journal::scan::{Scan, scan};
use crate::study::journal::{FORMAT, JournalError, MAX_LINE_BYTES, Opened};

/// The one writer of a journal. Holds the lock until it is dropped.
#[derive(Debug)]
pub struct JournalWriter {
    path: PathBuf,
    file: File,
    /// Locked while this is open.
    _lock: File,
    next_seq: u64,
    last_crc: u32,
    /// Bytes of the file as this writer left it.
    len: u64,
    /// The last record lacks its line end.
    unended: bool,
    /// A write or sync failed.
    dead: bool,
}

/// The first record says which format the file has.
#[derive(Serialize)]
struct First<'a> {
    format: u32,
    #[serde(flatten)]
    event: &'a StudyEvent,
}

impl JournalWriter {
    /// Starts a new journal.
    ///
    /// # Errors
    /// When the file exists, is locked by another process, or cannot be written.
    pub fn create(path: &Path) -> Result<Self, JournalError> {
        let lock = lock(path)?;
        let file = match OpenOptions::new().append(true).create_new(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(JournalError::Exists { path: path.to_owned() });
            }
            Err(source) => return Err(JournalError::Io { action: "create", source, path: path.to_owned() }),
        };
        sync_folder(path).map_err(|source| JournalError::Io { action: "sync", source, path: path.to_owned() })?;
        Ok(Self::at_end(path, file, lock, &Scan::default()))
    }

    /// Opens a journal to go on with it: reads every intact record, sets a torn tail aside, takes the lock.
    ///
    /// # Errors
    /// When another process holds the lock, the journal is of a later format, or the file is no journal or cannot be
    /// read or written.
    pub fn resume(path: &Path) -> Result<(Self, Opened), JournalError> {
        let io = |action| move |source| JournalError::Io { action, source, path: path.to_owned() };
        let file = OpenOptions::new().read(true).append(true).open(path).map_err(io("open"))?;
        let lock = lock(path)?;
        let mut found = scan(BufReader::new(&file)).map_err(|error| error.at(path))?;
        let mut damage = found.damage_in_words();
        damage.extend(set_aside(path, &file, &found).map_err(io("set aside the damage of"))?);
        found.len = found.torn_from.unwrap_or(found.len);
        let writer = Self::at_end(path, file, lock, &found);
        Ok((writer, Opened { events: found.events, damage }))
    }

    /// Appends an event if it is one that journals keep; a finished trial is on the disk when this returns.
    ///
    /// # Errors
    /// When the write or sync fails, or the file is no longer the one that was opened; the journal is not written again
    /// after that. [`JournalError::Unwritable`] leaves it as it was.
    pub fn append(&mut self, event: &StudyEvent) -> Result<(), JournalError> {
        if !event.is_journaled() {
            return Ok(());
        }
        if self.dead {
            return Err(JournalError::Dead { path: self.path.clone() });
        }
        let json = self.json(event).map_err(|reason| JournalError::Unwritable { reason, path: self.path.clone() })?;
        let (line, crc) = encode(self.next_seq, self.last_crc, &json);
        // Until the record is known to lie on the disk, nothing is known of the file's end.
        self.dead = true;
        if !self.is_same_file() {
            return Err(JournalError::Replaced { path: self.path.clone() });
        }
        let text = if self.unended { [b"\n", line.as_slice()].concat() } else { line };
        self.file.write_all(&text).map_err(|source| self.io("append to", source))?;
        if needs_sync(event) {
            self.file.sync_data().map_err(|source| self.io("sync", source))?;
        }
        self.next_seq += 1;
        self.last_crc = crc;
        self.len += text.len() as u64;
        self.unended = false;
        self.dead = false;
        Ok(())
    }

    fn at_end(path: &Path, file: File, lock: File, found: &Scan) -> Self {
        Self {
            path: path.to_owned(),
            file,
            _lock: lock,
            next_seq: found.next_seq,
            last_crc: found.last_crc,
            len: found.len,
            // Whatever follows the last record, a torn tail is cut off right behind it.
            unended: found.unended,
            dead: false,
        }
    }

    /// The event's JSON, known to come back as the same event: NaN, for one, would not.
    fn json(&self, event: &StudyEvent) -> Result<Vec<u8>, String> {
        let json = match self.next_seq {
            0 => serde_json::to_vec(&First { format: FORMAT, event }),
            _ => serde_json::to_vec(event),
        };
        let json = json.map_err(|error| error.to_string())?;
        if json.len() > MAX_LINE_BYTES {
            return Err(format!("it is longer than {}", crate::units::bytes(MAX_LINE_BYTES as u64)));
        }
        match serde_json::from_slice::<StudyEvent>(&json) {
            Ok(back) if back == *event => Ok(json),
            Ok(_) => Err("it would not come back as it is".to_owned()),
            Err(error) => Err(format!("a number is not finite, or {error}")),
        }
    }

    /// Whether the journal's path still leads to the file that is open, as this writer left it.
    fn is_same_file(&self) -> bool {
        match (std::fs::metadata(&self.path), self.file.metadata()) {
            (Ok(there), Ok(open)) => same_identity(&there, &open) && open.len() == self.len,
            _ => false,
        }
    }

    fn io(&self, action: &'static str, source: io::Error) -> JournalError {
        JournalError::Io { action, source, path: self.path.clone() }
    }
}

/// Whether the program waits for the disk before it goes on.
fn needs_sync(event: &StudyEvent) -> bool {
    !matches!(event, StudyEvent::TrialStarted { .. })
}

/// Copies all damage to files of its own, then cuts the torn tail off; says where the copies are.
fn set_aside(path: &Path, file: &File, found: &Scan) -> io::Result<Vec<String>> {
    let mut words = Vec::new();
    for range in &found.damaged {
        let aside = beside(path, &format!(".damaged-{}", range.start));
        if !aside.exists() {
            copy_range(path, range.clone(), &aside)?;
            words.push(format!("the damage is copied to {}", aside.display()));
        }
    }
    if let Some(start) = found.torn_from {
        let aside = (1..u32::MAX)
            .map(|n| beside(path, &format!(".torn-{n}")))
            .find(|aside| !aside.exists())
            .expect("a folder has fewer than 2^32 files of one name");
        copy_range(path, start..found.len, &aside)?;
        words.push(format!("the torn end is copied to {}", aside.display()));
        file.set_len(start)?;
        file.sync_data()?;
    }
    if !words.is_empty() {
        sync_folder(path)?;
    }
    Ok(words)
}

fn copy_range(journal: &Path, range: Range<u64>, to: &Path) -> io::Result<()> {
    let mut from = File::open(journal)?;
    from.seek(SeekFrom::Start(range.start))?;
    let mut copy = OpenOptions::new().write(true).create_new(true).open(to)?;
    io::copy(&mut from.take(range.end - range.start), &mut copy)?;
    copy.sync_all()
}

/// The file beside the journal whose name has `suffix` behind it.
pub(super) fn beside(journal: &Path, suffix: &str) -> PathBuf {
    let mut path = journal.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Makes a created or renamed file survive a power cut: on Unix its entry in the folder is data of the folder.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(unix)]
fn same_identity(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Without inode numbers the length has to do; such systems keep open files from being replaced.
#[cfg(not(unix))]
fn same_identity(a: &Metadata, b: &Metadata) -> bool {
    a.len() == b.len()
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;

//! Files that stay open while the model is: opened once, read by position, known by identity.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::checkpoint::CheckpointError;
use crate::checkpoint::limits::Limit;
use crate::checkpoint::random::RandomWeights;

/// What tells one file from another, and a changed file from itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    len: u64,
    modified: (i64, i64),
}

impl FileIdentity {
    fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        let modified = (meta.mtime(), meta.mtime_nsec());
        Ok(Self { dev: meta.dev(), ino: meta.ino(), len: meta.len(), modified })
    }
}

/// A regular file, open for reading, or the random weights of a shape in the place of one.
#[derive(Debug)]
pub(crate) struct SourceFile {
    content: Content,
    path: PathBuf,
    identity: FileIdentity,
}

#[derive(Debug)]
enum Content {
    File(File),
    Random(RandomWeights),
}

impl SourceFile {
    /// Opens a file that the user chose: links are followed.
    pub(super) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let fd = rustix::fs::openat(CWD, path, READ, Mode::empty());
        Self::from_fd(fd, path.to_owned())
    }

    fn from_fd(fd: rustix::io::Result<OwnedFd>, path: PathBuf) -> Result<Self, CheckpointError> {
        let opened = fd.map_err(io::Error::from).map(File::from);
        let file = opened.map_err(|source| CheckpointError::Io { action: "open", source, path: path.clone() })?;
        let meta =
            file.metadata().map_err(|source| CheckpointError::Io { action: "look at", source, path: path.clone() })?;
        if !meta.is_file() {
            return Err(CheckpointError::NotAModel { reason: "not a regular file".to_owned(), path });
        }
        let identity = FileIdentity::of(&file);
        let identity =
            identity.map_err(|source| CheckpointError::Io { action: "look at", source, path: path.clone() })?;
        Ok(Self { content: Content::File(file), path, identity })
    }

    /// Random weights under the path of their shape.
    pub(super) fn random(weights: RandomWeights, path: &Path) -> Self {
        let identity = FileIdentity { dev: 0, ino: 0, len: weights.len(), modified: (0, 0) };
        Self { content: Content::Random(weights), path: path.to_owned(), identity }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn identity(&self) -> FileIdentity {
        self.identity
    }

    pub(super) fn len(&self) -> u64 {
        self.identity.len
    }

    /// Fails when the open file is no longer what it was when it was opened.
    pub(super) fn check_unchanged(&self) -> Result<(), CheckpointError> {
        let Content::File(file) = &self.content else { return Ok(()) };
        let now = FileIdentity::of(file).map_err(|source| self.io("look at", source))?;
        if now == self.identity { Ok(()) } else { Err(CheckpointError::Changed { path: self.path.clone() }) }
    }

    /// The bytes of an extent; allocates only after the extent is known to lie within the file.
    pub(crate) fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, CheckpointError> {
        let size = self.size_within(offset, len)?;
        let mut bytes = Vec::new();
        if bytes.try_reserve_exact(size).is_err() {
            return Err(self.io("read", io::ErrorKind::OutOfMemory.into()));
        }
        let file = match &self.content {
            Content::File(file) => file,
            Content::Random(weights) => {
                bytes.resize(size, 0);
                weights.fill(offset, &mut bytes);
                return Ok(bytes);
            }
        };
        self.check_unchanged()?;
        // Into memory as it comes: a first pass of zeros takes as long as the reading.
        while bytes.len() < size {
            let place = offset + bytes.len() as u64;
            match rustix::io::pread(file, spare_capacity(&mut bytes), place) {
                Ok(0) => return Err(CheckpointError::Changed { path: self.path.clone() }),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(self.io("read", error.into())),
            }
        }
        // The system may have given more room than was asked for.
        bytes.truncate(size);
        self.check_unchanged()?;
        Ok(bytes)
    }

    /// [`Self::read`] into memory of the caller's.
    pub(crate) fn read_into(&self, offset: u64, bytes: &mut [u8]) -> Result<(), CheckpointError> {
        self.size_within(offset, bytes.len() as u64)?;
        let file = match &self.content {
            Content::File(file) => file,
            Content::Random(weights) => {
                weights.fill(offset, bytes);
                return Ok(());
            }
        };
        self.check_unchanged()?;
        match file.read_exact_at(bytes, offset) {
            Ok(()) => self.check_unchanged(),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(CheckpointError::Changed { path: self.path.clone() })
            }
            Err(error) => Err(self.io("read", error)),
        }
    }

    /// `len` as a size in memory, if the extent lies within the file.
    fn size_within(&self, offset: u64, len: u64) -> Result<usize, CheckpointError> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.identity.len);
        usize::try_from(len).ok().filter(|_| inside).ok_or_else(|| {
            let reason = format!("{len} bytes do not lie within a file of {} bytes", self.identity.len);
            self.header("an extent", offset, reason)
        })
    }

    /// The whole file, if `limit` allows.
    pub(super) fn read_all(&self, limit: &Limit) -> Result<Vec<u8>, CheckpointError> {
        limit.check(self.len()).map_err(|reason| self.header("the file", 0, reason))?;
        self.read(0, self.len())
    }

    pub(super) fn header(&self, field: impl Into<String>, offset: u64, reason: impl Into<String>) -> CheckpointError {
        CheckpointError::Header { field: field.into(), offset, reason: reason.into(), path: self.path.clone() }
    }

    pub(super) fn tensor(&self, tensor: &str, offset: u64, reason: impl Into<String>) -> CheckpointError {
        CheckpointError::Tensor { tensor: tensor.to_owned(), offset, reason: reason.into(), path: self.path.clone() }
    }

    fn io(&self, action: &'static str, source: io::Error) -> CheckpointError {
        CheckpointError::Io { action, source, path: self.path.clone() }
    }
}

// Without NONBLOCK, opening a FIFO would wait for its writer.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// A folder; its files are opened relative to it and never outside of it.
///
/// One exception: the model cache of the Hugging Face tools, where a file of a snapshot is a link to `../../blobs/NAME`.
#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty());
        let fd =
            fd.map_err(|error| CheckpointError::Io { action: "open", source: error.into(), path: path.to_owned() })?;
        Ok(Self { fd, path: path.to_owned() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file with this plain name; `None` when there is none.
    pub(super) fn open_file(&self, name: &str) -> Result<Option<SourceFile>, CheckpointError> {
        let path = self.path.join(name);
        check_plain(name).map_err(|reason| CheckpointError::NotAModel { reason, path: path.clone() })?;
        let io_error = |error: Errno| {
            let source = error.into();
            CheckpointError::Io { action: "open", source, path: path.clone() }
        };
        let kind = match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => FileType::from_raw_mode(stat.st_mode),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(io_error(error)),
        };
        let fd = match kind {
            FileType::RegularFile => rustix::fs::openat(&self.fd, name, READ | OFlags::NOFOLLOW, Mode::empty()),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&self.fd, name, Vec::new()).map_err(io_error)?;
                let blob = target.to_str().ok().and_then(|target| target.strip_prefix("../../blobs/"));
                let Some(blob) = blob.filter(|blob| check_plain(blob).is_ok()) else {
                    let reason = format!("a link to {target:?}, outside of the model's folder");
                    return Err(CheckpointError::NotAModel { reason, path });
                };
                let folder = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let blobs = rustix::fs::openat(&self.fd, "../../blobs", folder, Mode::empty()).map_err(io_error)?;
                rustix::fs::openat(&blobs, blob, READ | OFlags::NOFOLLOW, Mode::empty())
            }
            _ => return Err(CheckpointError::NotAModel { reason: "not a regular file".to_owned(), path }),
        };
        SourceFile::from_fd(fd, path).map(Some)
    }
}

/// The reason when `name` is not one plain path component.
pub(super) fn check_plain(name: &str) -> Result<(), String> {
    let plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0']);
    if plain { Ok(()) } else { Err(format!("{name:?} is not the name of a file in the model's folder")) }
}

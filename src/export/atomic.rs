//! A target appears complete or not at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::checkpoint::Checkpoint;
use crate::export::{Existing, ExportError};
use crate::model::ModelSource;

/// The kind of target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    /// A folder; one that exists may hold only files with these names.
    Folder(&'static [&'static str]),
}

/// A hidden sibling of the target. Removed when dropped before [`Staging::publish`].
#[derive(Debug)]
pub(super) struct Staging {
    path: PathBuf,
    target: PathBuf,
    kind: Kind,
    existing: Existing,
    published: bool,
}

impl Staging {
    /// Checks the target and makes its sibling: the target is no part of the source, does not exist (or may be replaced),
    /// and its disk has room for `need` bytes and 5 %.
    pub(super) fn create(
        target: &Path,
        kind: Kind,
        existing: Existing,
        source: &Checkpoint,
        need: u64,
    ) -> Result<Self, ExportError> {
        let refuse = |reason: &str| ExportError::Target { reason: reason.to_owned(), path: target.to_owned() };
        let name = target.file_name().ok_or_else(|| refuse("not the path of a file or folder"))?;
        let parent = match target.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return Err(refuse("not the path of a file or folder")),
        };
        let parent = parent.canonicalize().map_err(io_error("look at", parent))?;
        let target = parent.join(name);
        check_not_source(&target, source)?;
        check_target(&target, kind, existing)?;
        check_space(&parent, &target, need)?;
        for number in 0..1000_u32 {
            let mut hidden = OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".trimtab-{}-{number}", std::process::id()));
            let path = parent.join(hidden);
            let made = match kind {
                Kind::File => File::create_new(&path).map(drop),
                Kind::Folder(_) => fs::create_dir(&path),
            };
            match made {
                Ok(()) => return Ok(Self { path, target, kind, existing, published: false }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io_error("write", &path)(error)),
            }
        }
        Err(refuse("its folder is full of unfinished exports"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes the sibling to disk.
    fn sync(&self) -> Result<(), ExportError> {
        if let Kind::Folder(_) = self.kind {
            for entry in fs::read_dir(&self.path).map_err(io_error("flush", &self.path))? {
                let path = entry.map_err(io_error("flush", &self.path))?.path();
                sync(&path)?;
            }
        }
        sync(&self.path)
    }

    /// Flushes the sibling to disk while it is read back: what was written is in memory until then anyway.
    pub(super) fn sync_while(&self, read_back: impl FnOnce() -> Result<(), ExportError>) -> Result<(), ExportError> {
        thread::scope(|scope| {
            let flushing = thread::Builder::new().name("export-flush".to_owned());
            let flushing = flushing.spawn_scoped(scope, || self.sync());
            let flushing = flushing.map_err(io_error("start a thread for", &self.path))?;
            let is_right = read_back();
            flushing.join().expect("flushing does not panic")?;
            is_right
        })
    }

    /// Gives the sibling the target's name; gives the target and its bytes.
    pub(super) fn publish(mut self) -> Result<(PathBuf, u64), ExportError> {
        let bytes = self.bytes()?;
        let exchange = self.existing == Existing::Replace && self.kind != Kind::File && self.target.exists();
        match self.existing {
            Existing::Replace if self.kind == Kind::File => self.rename(RenameFlags::empty())?,
            // The sibling then holds the old folder, and is removed on drop.
            Existing::Replace if exchange => self.rename(RenameFlags::EXCHANGE)?,
            Existing::Replace | Existing::Refuse => self.rename(RenameFlags::NOREPLACE)?,
        }
        self.published = !exchange;
        sync(self.target.parent().unwrap_or(Path::new("/")))?;
        Ok((self.target.clone(), bytes))
    }

    fn rename(&self, flags: RenameFlags) -> Result<(), ExportError> {
        let renamed = renameat_with(CWD, &self.path, CWD, &self.target, flags);
        renamed.map_err(|error| io_error("rename to", &self.target)(error.into()))
    }

    fn bytes(&self) -> Result<u64, ExportError> {
        let size = |path: &Path| fs::metadata(path).map(|meta| meta.len()).map_err(io_error("look at", path));
        if self.kind == Kind::File {
            return size(&self.path);
        }
        let mut bytes = 0;
        for entry in fs::read_dir(&self.path).map_err(io_error("look at", &self.path))? {
            bytes += size(&entry.map_err(io_error("look at", &self.path))?.path())?;
        }
        Ok(bytes)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        let removed = match self.kind {
            Kind::File => fs::remove_file(&self.path),
            Kind::Folder(_) => fs::remove_dir_all(&self.path),
        };
        if let Err(error) = removed {
            log::warn!("remove the unfinished export {}: {error}", self.path.display());
        }
    }
}

fn sync(path: &Path) -> Result<(), ExportError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(io_error("flush", path))
}

pub(super) fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> ExportError {
    move |source| ExportError::Io { action, source, path: path.to_owned() }
}

/// Compares identities: a link, a hard link or another path to the source is the source. So is every file of a model's
/// folder (configuration and tokenizer are as dear as weights), every place inside it, and a folder that holds it.
fn check_not_source(target: &Path, source: &Checkpoint) -> Result<(), ExportError> {
    let over = || Err(ExportError::OverSource { path: target.to_owned() });
    let identity_of = |path: &Path| {
        let meta = fs::metadata(path).map_err(io_error("look at", path))?;
        Ok::<_, ExportError>((meta.dev(), meta.ino()))
    };
    let folder = match source.source() {
        ModelSource::Safetensors { dir } => Some(dir),
        ModelSource::Gguf { .. } | ModelSource::Shape { .. } => None,
    };
    if let Some(folder) = folder {
        let folder = identity_of(folder)?;
        for holder in target.ancestors().skip(1) {
            if identity_of(holder)? == folder {
                return over();
            }
        }
    }
    // A target that does not exist is no file of the source.
    let Ok(found) = identity_of(target) else { return Ok(()) };
    if source.files().iter().any(|file| found == (file.identity().dev, file.identity().ino)) {
        return over();
    }
    if let Some(folder) = folder {
        for entry in fs::read_dir(folder).map_err(io_error("look at", folder))? {
            // A link that leads nowhere has no identity.
            let meta = entry.and_then(|entry| fs::metadata(entry.path()));
            if meta.is_ok_and(|meta| found == (meta.dev(), meta.ino())) {
                return over();
            }
        }
    }
    let holders = source.files().iter().map(|file| file.path()).chain([source.source().path()]);
    for path in holders {
        let path = path.canonicalize().map_err(io_error("look at", path))?;
        for ancestor in path.ancestors() {
            if found == identity_of(ancestor)? {
                return over();
            }
        }
    }
    Ok(())
}

fn check_target(target: &Path, kind: Kind, existing: Existing) -> Result<(), ExportError> {
    let refuse = |reason: String| Err(ExportError::Target { reason, path: target.to_owned() });
    let Ok(meta) = fs::symlink_metadata(target) else { return Ok(()) };
    if existing == Existing::Refuse {
        return refuse("exists already".to_owned());
    }
    match kind {
        Kind::File if meta.is_file() => Ok(()),
        Kind::File => refuse("exists and is not a regular file".to_owned()),
        Kind::Folder(own) if meta.is_dir() => {
            for entry in fs::read_dir(target).map_err(io_error("look at", target))? {
                let name = entry.map_err(io_error("look at", target))?.file_name();
                if !own.iter().any(|own| name == *own) {
                    return refuse(format!(
                        "has {}, which is not of an exported model; choose another folder",
                        name.display()
                    ));
                }
            }
            Ok(())
        }
        Kind::Folder(_) => refuse("exists and is not a folder".to_owned()),
    }
}

fn check_space(parent: &Path, target: &Path, need: u64) -> Result<(), ExportError> {
    let stat = rustix::fs::statvfs(parent).map_err(|error| io_error("look at", parent)(error.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let need = need.saturating_add(need / 20);
    if need > free {
        return Err(ExportError::Space { need, free, path: target.to_owned() });
    }
    Ok(())
}

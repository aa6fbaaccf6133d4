//! The worker for NVIDIA cards, as its host sees it: where its program lies, and which devices it names.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::device::DeviceInfo;
use crate::worker::classify::{HostAction, Remains, classify};
use crate::worker::host::{Incoming, Worker};
use crate::worker::protocol::{BUILD, Report, Request};

/// Name of the program.
pub const PROGRAM: &str = "trimtab-worker-cuda";
/// Environment variable with the path of the program, before every other place.
pub const PROGRAM_VARIABLE: &str = "TRIMTAB_WORKER_CUDA";

/// How long the program may take to start and to name its devices: a driver may have to wake its cards.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is known of the devices of the worker for NVIDIA cards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CudaDevices {
    /// There is no such program.
    NotInstalled {
        /// Where it was looked for, and how to get it.
        reason: String,
    },
    /// The program cannot use a card here.
    Unusable {
        /// Why, in one line.
        reason: String,
    },
    /// Its devices.
    Found(Vec<DeviceInfo>),
}

/// The program: by [`PROGRAM_VARIABLE`], beside this one, or on `PATH`.
///
/// # Errors
/// When it is in none of these places.
pub fn program() -> io::Result<PathBuf> {
    let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(PROGRAM)));
    let named = env::var_os(PROGRAM_VARIABLE).map(PathBuf::from);
    find(named, beside.as_deref(), &env::var_os("PATH").unwrap_or_default())
}

fn find(named: Option<PathBuf>, beside: Option<&Path>, path: &OsStr) -> io::Result<PathBuf> {
    let not_found = |reason: String| io::Error::new(io::ErrorKind::NotFound, reason);
    if let Some(named) = named.filter(|named| !named.as_os_str().is_empty()) {
        let missing = || not_found(format!("{PROGRAM_VARIABLE} names no file: {}", named.display()));
        return if named.is_file() { Ok(named) } else { Err(missing()) };
    }
    let missing = || {
        let beside = beside.map_or_else(|| PROGRAM.to_owned(), |beside| beside.display().to_string());
        not_found(format!("{beside} was not found, nor {PROGRAM} on PATH; build it with scripts/build-cuda"))
    };
    // A relative folder of PATH would start what lies in the current one.
    let on_path = env::split_paths(path).filter(|folder| folder.is_absolute()).map(|folder| folder.join(PROGRAM));
    beside.map(Path::to_path_buf).into_iter().chain(on_path).find(|program| program.is_file()).ok_or_else(missing)
}

/// Starts the program to name its devices, and waits for it: some seconds at most, more where a driver hangs.
pub fn devices() -> CudaDevices {
    let program = match program() {
        Ok(program) => program,
        Err(error) => return CudaDevices::NotInstalled { reason: error.to_string() },
    };
    match Worker::start(&program, 1, &[]).map_err(|error| error.to_string()).and_then(ask) {
        Ok(devices) => CudaDevices::Found(devices),
        Err(reason) => CudaDevices::Unusable { reason: format!("{PROGRAM} does not start: {reason}") },
    }
}

fn ask(worker: Worker) -> Result<Vec<DeviceInfo>, String> {
    worker.ask(Request::Hello { build: BUILD.to_owned() });
    let until = Instant::now() + PATIENCE;
    let mut was_ready = false;
    let action = loop {
        match worker.incoming.recv_deadline(until) {
            Ok(Incoming::Report(Report::Heartbeat { .. })) => {}
            Ok(Incoming::Report(Report::Ready { build, .. })) if build == BUILD && !was_ready => {
                was_ready = true;
                worker.ask(Request::Devices);
            }
            Ok(Incoming::Report(Report::Devices(devices))) if was_ready => {
                worker.end(Duration::ZERO);
                return Ok(devices);
            }
            Ok(Incoming::Report(Report::Fault(failure))) => {
                worker.end(Duration::ZERO);
                return Err(failure.message);
            }
            Ok(Incoming::Report(_)) => break HostAction::Refused("a report that was not asked for".to_owned()),
            Ok(Incoming::Garbled(what)) => break HostAction::Refused(what),
            Ok(Incoming::Closed) => break HostAction::Nothing,
            Err(_) if Instant::now() < until => break HostAction::Nothing,
            Err(_) => {
                let allowed = crate::units::duration(PATIENCE.as_secs_f64());
                break HostAction::TimedOut(format!("no answer within {allowed}"));
            }
        }
    };
    // A program that ended by itself is writing its last words.
    let ended = worker.end(if action == HostAction::Nothing { Duration::from_secs(2) } else { Duration::ZERO });
    let remains = Remains {
        code: ended.code,
        signal: ended.signal,
        stderr: &ended.stderr,
        phase: None,
        rss_bytes: None,
        was_ready,
    };
    Err(classify(&remains, &action).message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_looked_for_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| {
            let folder = dir.path().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(PROGRAM), "").unwrap();
            folder.join(PROGRAM)
        };
        let (named, beside, on_path) = (place("named"), place("beside"), place("path"));
        let path = env::join_paths([dir.path().join("empty"), dir.path().join("path")]).unwrap();
        let absent = dir.path().join("absent");
        assert_eq!(find(Some(named.clone()), Some(&beside), &path).unwrap(), named);
        assert_eq!(find(Some(PathBuf::new()), Some(&beside), &path).unwrap(), beside);
        assert_eq!(find(None, Some(&absent), &path).unwrap(), on_path);
        let refused = find(None, Some(&absent), "".as_ref()).unwrap_err().to_string();
        assert!(refused.contains("absent was not found") && refused.contains("scripts/build-cuda"), "{refused}");
        let refused = find(Some(absent), Some(&beside), &path).unwrap_err().to_string();
        assert!(refused.starts_with("TRIMTAB_WORKER_CUDA names no file"), "{refused}");
    }
}

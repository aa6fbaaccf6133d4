//! The host's side of a worker process: start, pipes, end. The only file that starts processes.
//!
//! Threads of a worker: `worker-stdin` writes requests (a frozen child must not freeze its host), `worker-stdout` reads
//! reports, `worker-stderr` keeps the last 64 KiB. All end with the process.

use std::io::{BufReader, Read};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::worker::frame::{self, FrameError};
use crate::worker::protocol::{Report, Request};

pub use super::handle::{Deadlines, WorkerConfig, WorkerHandle};

/// Reports that wait for the host; beyond it live events are dropped and counted, the others wait in the pipe.
const CAPACITY: usize = 4096;
/// What is kept of standard error.
const STDERR_TAIL: usize = 64 << 10;
/// How long a killed process may take to disappear before a thread is left to wait for it.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// What comes from a worker.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A report.
    Report(Report),
    /// Something that is not the protocol; nothing is read after it.
    Garbled(String),
    /// The pipe ended.
    Closed,
}

/// How a worker ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// Exit code, if it exited.
    pub(super) code: Option<i32>,
    /// Signal, if one ended it.
    pub(super) signal: Option<i32>,
    /// The end of what it wrote on standard error.
    pub(super) stderr: String,
}

/// A running worker process.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    requests: Option<Sender<Request>>,
    /// What it says.
    pub(super) incoming: Receiver<Incoming>,
    stderr: Receiver<Vec<u8>>,
    lost: Arc<AtomicU64>,
}

impl Worker {
    /// Starts `exe worker` in a process group of its own, with `threads` for products and vector loops.
    pub(super) fn start(exe: &Path, threads: u16, env: &[(String, String)]) -> std::io::Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "the one place that starts processes")]
        let mut child = Command::new(exe)
            .arg("worker")
            .env("CANDLE_NUM_THREADS", threads.to_string())
            .env("RAYON_NUM_THREADS", threads.to_string())
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (requests, to_write) = bounded(16);
        let (to_host, incoming) = bounded(CAPACITY);
        let (to_tail, tail) = bounded(1);
        let lost = Arc::new(AtomicU64::new(0));
        let lost_here = Arc::clone(&lost);
        let worker = Self { child, requests: Some(requests), incoming, stderr: tail, lost };
        let stdin = stdin.expect("standard input is piped");
        let stdout = stdout.expect("standard output is piped");
        let stderr = stderr.expect("standard error is piped");
        let started = thread("worker-stdin", move || write_requests(stdin, &to_write))
            .and_then(|()| thread("worker-stdout", move || read_reports(stdout, &to_host, &lost_here)))
            .and_then(|()| {
                thread("worker-stderr", move || {
                    // Nobody may be waiting for it.
                    to_tail.try_send(read_tail(stderr)).unwrap_or_default();
                })
            });
        match started {
            Ok(()) => Ok(worker),
            Err(error) => {
                worker.end(Duration::ZERO);
                Err(error)
            }
        }
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a request. A worker that cannot take it is found out by its silence.
    pub(super) fn ask(&self, request: Request) {
        let sent = self.requests.as_ref().is_some_and(|requests| requests.try_send(request).is_ok());
        if !sent {
            log::debug!("worker {} takes no requests", self.pid());
        }
    }

    /// Live events dropped since the last call.
    pub(super) fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    /// Closes its standard input, gives it `patience` to end, then kills it and its children, and waits for it.
    pub(super) fn end(mut self, patience: Duration) -> Ended {
        self.requests = None;
        // Standard error ends with the process.
        let early = if patience.is_zero() { None } else { self.stderr.recv_timeout(patience).ok() };
        self.kill();
        let tail = early.or_else(|| self.stderr.recv_timeout(KILL_PATIENCE).ok());
        let status = if tail.is_some() { self.child.wait().ok() } else { self.child.try_wait().ok().flatten() };
        if status.is_none() {
            let mut child = self.child;
            let waiting = thread("worker-reaper", move || log_reaped(&child.wait()));
            log::error!("a worker does not end when killed; its device may be wedged ({waiting:?})");
        }
        Ended {
            code: status.and_then(|status| status.code()),
            signal: status.and_then(|status| status.signal()),
            stderr: String::from_utf8_lossy(&tail.unwrap_or_default()).into_owned(),
        }
    }

    fn kill(&mut self) {
        let group = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        // Both fail only when the process is gone, which is what is wanted.
        if let Some(group) = group {
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap_or_default();
        }
        self.child.kill().unwrap_or_default();
    }
}

fn log_reaped(status: &std::io::Result<ExitStatus>) {
    log::info!("the worker that would not end has ended: {status:?}");
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
}

fn write_requests(mut pipe: ChildStdin, requests: &Receiver<Request>) {
    for request in requests {
        if let Err(error) = frame::write(&mut pipe, &request) {
            log::debug!("a worker closed its standard input: {error}");
            return;
        }
    }
}

fn read_reports(pipe: ChildStdout, to_host: &Sender<Incoming>, lost: &AtomicU64) {
    let mut pipe = BufReader::new(pipe);
    loop {
        let incoming = match frame::read(&mut pipe) {
            Ok(Some(Report::Heartbeat { rss_bytes })) => {
                // Lossy on purpose: a full queue shows life enough.
                to_host.try_send(Incoming::Report(Report::Heartbeat { rss_bytes })).unwrap_or_default();
                continue;
            }
            Ok(Some(Report::Live(event))) => {
                if to_host.try_send(Incoming::Report(Report::Live(event))).is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
                continue;
            }
            Ok(Some(report)) => Incoming::Report(report),
            // A process that dies may tear its last frame: how it ended says more.
            Ok(None) | Err(FrameError::Truncated { .. } | FrameError::Io(_)) => Incoming::Closed,
            Err(error) => Incoming::Garbled(error.to_string()),
        };
        let is_last = !matches!(incoming, Incoming::Report(_));
        if to_host.send(incoming).is_err() || is_last {
            return;
        }
    }
}

fn read_tail(mut pipe: impl Read) -> Vec<u8> {
    let (mut tail, mut chunk) = (Vec::new(), vec![0; 8 << 10]);
    loop {
        match pipe.read(&mut chunk) {
            Ok(0) => return tail,
            Ok(n) => {
                tail.extend_from_slice(&chunk[..n]);
                tail.drain(..tail.len().saturating_sub(STDERR_TAIL));
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return tail,
        }
    }
}

/// Starts a process that outlives this one and holds its pipes, to test that a worker's host ends it too.
#[cfg(debug_assertions)]
pub(super) fn leave_child() -> std::io::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "the one place that starts processes")]
    let mut command = Command::new("sleep");
    command.arg("600").spawn().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_64_kib_are_kept() {
        let text: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        assert_eq!(read_tail(text.as_slice()), text[text.len() - STDERR_TAIL..]);
        assert_eq!(read_tail(&b"short"[..]), b"short");
    }
}

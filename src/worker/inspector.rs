//! A worker that looks into one layer and ends: the host's side.

use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;

use crate::study::{Failure, FailureKind};
use crate::worker::classify::{HostAction, Remains, classify};
use crate::worker::handle::host_threads;
use crate::worker::host::{Deadlines, Incoming, Worker, WorkerConfig};
use crate::worker::inspection::{Finding, InspectSpec};
use crate::worker::protocol::{BUILD, Report, Request};

/// A worker process at one layer. Dropping it ends the process at once.
#[derive(Debug)]
pub struct LayerInspector {
    worker: Option<Worker>,
    deadlines: Deadlines,
    spec: InspectSpec,
    was_ready: bool,
    rss_bytes: Option<u64>,
    last_heard: Instant,
    last_finding: Instant,
}

impl LayerInspector {
    /// Starts a worker that looks into the layer of `spec`.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn start(config: &WorkerConfig, spec: InspectSpec) -> Result<Self, Failure> {
        let not_started = |error: std::io::Error| {
            let exe = config.exe.display();
            let message = format!("start the worker: {error}: {exe}. Check that the program's file is still there");
            Failure::new(FailureKind::Spawn, message)
        };
        let worker = Worker::start(&config.exe, host_threads(config.device), &config.env).map_err(not_started)?;
        worker.ask(Request::Hello { build: BUILD.to_owned() });
        let now = Instant::now();
        Ok(Self {
            worker: Some(worker),
            deadlines: config.deadlines,
            spec,
            was_ready: false,
            rss_bytes: None,
            last_heard: now,
            last_finding: now,
        })
    }

    /// The next finding; `None` when nothing came within `timeout`. After [`Finding::Complete`] or a failure there is
    /// nothing more.
    ///
    /// # Errors
    /// Why the worker found no more.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Finding>, Failure> {
        let until = Instant::now() + timeout;
        loop {
            let Some(worker) = &self.worker else { return Ok(None) };
            let (due, what) = self.due();
            match worker.incoming.recv_deadline(due.min(until)) {
                Ok(Incoming::Report(report)) => {
                    self.last_heard = Instant::now();
                    if let Some(finding) = self.take_in(report)? {
                        return Ok(Some(finding));
                    }
                }
                Ok(Incoming::Garbled(what)) => return Err(self.fault(&HostAction::Refused(what))),
                Ok(Incoming::Closed) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.fault(&HostAction::Nothing));
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() >= due => {
                    return Err(self.fault(&HostAction::TimedOut(what)));
                }
                Err(RecvTimeoutError::Timeout) => return Ok(None),
            }
        }
    }

    fn take_in(&mut self, report: Report) -> Result<Option<Finding>, Failure> {
        match report {
            Report::Heartbeat { rss_bytes } => self.rss_bytes = rss_bytes,
            Report::Ready { build, .. } if build == BUILD && !self.was_ready => {
                self.was_ready = true;
                self.last_finding = Instant::now();
                if let Some(worker) = &self.worker {
                    worker.ask(Request::Inspect(Box::new(self.spec.clone())));
                }
            }
            Report::Inspected(finding) if self.was_ready => {
                self.last_finding = Instant::now();
                if *finding == Finding::Complete {
                    self.end(Duration::ZERO);
                }
                return Ok(Some(*finding));
            }
            Report::Fault(failure) => {
                self.end(Duration::ZERO);
                return Err(failure);
            }
            _ => return Err(self.fault(&HostAction::Refused("a report that was not asked for".to_owned()))),
        }
        Ok(None)
    }

    /// When something must be done about the silence of the worker, and why.
    fn due(&self) -> (Instant, String) {
        let secs = |allowed: Duration| crate::units::duration(allowed.as_secs_f64());
        let Deadlines { start, silence, first_step, .. } = self.deadlines;
        if !self.was_ready {
            return (self.last_finding + start, format!("the worker did not answer within {}", secs(start)));
        }
        let (silent, idle) = (self.last_heard + silence, self.last_finding + first_step);
        if silent < idle {
            (silent, format!("no sign of life for {}", secs(silence)))
        } else {
            (idle, format!("no progress for {}", secs(first_step)))
        }
    }

    fn fault(&mut self, action: &HostAction) -> Failure {
        // A worker that ended by itself is writing its last words.
        let patience = if *action == HostAction::Nothing { Duration::from_secs(2) } else { Duration::ZERO };
        let ended = self.worker.take().map(|worker| worker.end(patience)).unwrap_or_default();
        let remains = Remains {
            code: ended.code,
            signal: ended.signal,
            stderr: &ended.stderr,
            phase: None,
            rss_bytes: self.rss_bytes,
            was_ready: self.was_ready,
        };
        classify(&remains, action)
    }

    fn end(&mut self, patience: Duration) {
        if let Some(worker) = self.worker.take() {
            worker.end(patience);
        }
    }
}

impl Drop for LayerInspector {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

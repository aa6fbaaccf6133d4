//! A worker as a [`Runner`]: started when needed, watched, ended after a fault.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;

use crate::device::DeviceSpec;
use crate::model::ModelSource;
use crate::study::{Caution, Failure, FailureKind, Outcome, ProfileReport, ProfileWorkload, StudyEvent, TrialSpec};
use crate::worker::classify::{HostAction, Remains, classify};
use crate::worker::host::{Incoming, Worker};
use crate::worker::pace::{MemoryCurve, Pace};
use crate::worker::protocol::{BUILD, Report, Request, is_live};
use crate::worker::{Runner, cuda, note_lost_samples};

/// How long a worker may take for what.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// From the start of the process to its first report.
    pub start: Duration,
    /// Without any sign of life, heartbeats included.
    pub silence: Duration,
    /// Without progress while opening, loading, compressing, scoring the reference, and in the first step of a phase.
    pub first_step: Duration,
    /// Without progress in later steps, at least.
    pub step: Duration,
    /// Without progress in later steps, in multiples of the phase's median step.
    pub step_factor: u32,
    /// Between being told that the time is over and being killed.
    pub grace: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(30),
            silence: Duration::from_mins(1),
            first_step: Duration::from_mins(10),
            step: Duration::from_secs(30),
            step_factor: 20,
            grace: Duration::from_secs(2),
        }
    }
}

/// What a worker is started with.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// The program with the `worker` subcommand.
    pub exe: PathBuf,
    /// The model.
    pub source: ModelSource,
    /// Where trials run.
    pub device: DeviceSpec,
    /// How long it may take for what.
    pub deadlines: Deadlines,
    /// Further environment variables.
    pub env: Vec<(String, String)>,
}

impl WorkerConfig {
    /// The program of `device` as the worker: this one, or the one for NVIDIA cards.
    ///
    /// # Errors
    /// When it cannot be found.
    pub fn new(source: ModelSource, device: DeviceSpec) -> io::Result<Self> {
        let exe = program(device)?;
        Ok(Self { exe, source, device, deadlines: Deadlines::default(), env: Vec::new() })
    }
}

/// Runs trials in a child process. A healthy worker is kept for the next trial, one that saw a fault is not.
#[derive(Debug)]
pub struct WorkerHandle {
    config: WorkerConfig,
    worker: Option<(Worker, Stage)>,
    trial: Option<RunningTrial>,
    /// What the last profiling found.
    profile: Option<Box<ProfileReport>>,
    was_faulty: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// The first exchange is awaited.
    Starting,
    /// It is opening the model.
    Opening,
    /// It can run trials.
    Open,
}

/// What becomes of the variant.
#[derive(Debug)]
enum Asked {
    /// Everything in the trial's workload.
    Run,
    /// It is written to a file, and that is all.
    Make(PathBuf),
    /// Its passes are taken apart, and that is all.
    Profile(ProfileWorkload),
}

#[derive(Debug)]
struct RunningTrial {
    spec: Box<TrialSpec>,
    asked: Asked,
    began: Instant,
    last_heard: Instant,
    pace: Pace,
    curve: MemoryCurve,
    rss_bytes: Option<u64>,
    /// Why it is being ended, and when patience is over.
    ending: Option<(HostAction, Instant)>,
    not_started: Option<Failure>,
    is_on_fresh_worker: bool,
}

impl RunningTrial {
    fn request(&self) -> Request {
        let spec = self.spec.clone();
        match &self.asked {
            Asked::Run => Request::Run(spec),
            Asked::Make(out) => Request::Make { spec, out: out.clone() },
            Asked::Profile(workload) => Request::Profile { spec, workload: *workload },
        }
    }
}

impl WorkerHandle {
    /// A handle without a process: the first trial starts it.
    pub fn new(config: WorkerConfig) -> Self {
        Self { config, worker: None, trial: None, profile: None, was_faulty: false }
    }

    /// The worker's process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        self.worker.as_ref().map(|(worker, _)| worker.pid())
    }

    /// Hands over a recipe to make: the variant of `spec` is written to `out` as a variant file, and nothing is measured.
    /// Its events come from [`Runner::next_event`] as a trial's do, [`StudyEvent::TrialFinished`] the last.
    pub fn submit_make(&mut self, spec: &TrialSpec, out: &Path) {
        self.begin(spec, Asked::Make(out.to_path_buf()));
    }

    /// Hands over a recipe to profile: the passes of the variant of `spec` are taken apart, and nothing else is measured.
    /// Its events come from [`Runner::next_event`] as a trial's do; after [`StudyEvent::TrialFinished`] with a good
    /// outcome there is what [`Self::take_profile`] gives.
    pub fn submit_profile(&mut self, spec: &TrialSpec, workload: ProfileWorkload) {
        self.begin(spec, Asked::Profile(workload));
    }

    /// What the last profiling found, once.
    pub fn take_profile(&mut self) -> Option<Box<ProfileReport>> {
        self.profile.take()
    }

    fn begin(&mut self, spec: &TrialSpec, asked: Asked) {
        debug_assert!(self.trial.is_none(), "the trial before it must have finished");
        self.profile = None;
        let not_started = self.prepare(spec.device).err();
        let now = Instant::now();
        let trial = RunningTrial {
            spec: Box::new(spec.clone()),
            asked,
            began: now,
            last_heard: now,
            pace: Pace::new(now),
            curve: MemoryCurve::default(),
            rss_bytes: None,
            ending: None,
            not_started,
            is_on_fresh_worker: std::mem::take(&mut self.was_faulty),
        };
        if let Some((worker, Stage::Open)) = &self.worker {
            worker.ask(trial.request());
        }
        self.trial = Some(trial);
    }

    /// Makes sure that a healthy worker for `device` is there.
    fn prepare(&mut self, device: DeviceSpec) -> Result<(), Failure> {
        use DeviceSpec::{Cpu, Cuda};
        if let Some((worker, _)) = &self.worker {
            let is_silent =
                worker.incoming.try_iter().all(|said| matches!(said, Incoming::Report(Report::Heartbeat { .. })));
            self.was_faulty |= !is_silent;
            if !is_silent || device != self.config.device {
                self.retire(Duration::ZERO);
            }
        }
        let is_same_kind =
            matches!((device, self.config.device), (Cuda { .. }, Cuda { .. }) | (Cpu { .. }, Cpu { .. }));
        if !is_same_kind {
            let not_found = |error: io::Error| Failure::new(FailureKind::Spawn, error.to_string());
            self.config.exe = program(device).map_err(not_found)?;
        }
        self.config.device = device;
        if self.worker.is_some() {
            return Ok(());
        }
        let not_started = |error: io::Error| {
            let exe = self.config.exe.display();
            let message = format!("start the worker: {error}: {exe}. Check that the program's file is still there");
            Failure::new(FailureKind::Spawn, message)
        };
        let worker = Worker::start(&self.config.exe, host_threads(device), &self.config.env).map_err(not_started)?;
        worker.ask(Request::Hello { build: BUILD.to_owned() });
        self.worker = Some((worker, Stage::Starting));
        Ok(())
    }

    fn retire(&mut self, patience: Duration) -> Option<(super::host::Ended, Stage)> {
        self.worker.take().map(|(worker, stage)| (worker.end(patience), stage))
    }

    /// When something must be done about the silence of the worker, and why.
    fn due(&self, trial: &RunningTrial) -> (Instant, HostAction) {
        if let Some((action, at)) = &trial.ending {
            return (*at, action.clone());
        }
        let deadlines = &self.config.deadlines;
        let secs = |allowed: Duration| crate::units::duration(allowed.as_secs_f64());
        if let Some((_, Stage::Starting)) = self.worker {
            let what = format!("the worker did not answer within {} of its start", secs(deadlines.start));
            return (trial.began + deadlines.start, HostAction::TimedOut(what));
        }
        let silent = trial.last_heard + deadlines.silence;
        let (idle, allowed) = trial.pace.due(deadlines);
        if silent < idle {
            (silent, HostAction::TimedOut(format!("no sign of life for {}", secs(deadlines.silence))))
        } else {
            (idle, HostAction::TimedOut(format!("no progress for {}", secs(allowed))))
        }
    }

    /// Patience is over: asks once, then ends the worker.
    fn overdue(&mut self, action: HostAction) -> Option<StudyEvent> {
        let trial = self.trial.as_mut()?;
        let is_starting = matches!(self.worker, Some((_, Stage::Starting)));
        if trial.ending.is_some() || is_starting {
            return self.fault(&action);
        }
        trial.ending = Some((action, Instant::now() + self.config.deadlines.grace));
        if let Some((worker, _)) = &self.worker {
            worker.ask(Request::Cancel(trial.spec.id));
        }
        None
    }

    /// The worker ended or must end; the trial fails.
    fn fault(&mut self, action: &HostAction) -> Option<StudyEvent> {
        let lost = self.worker.as_ref().map_or(0, |(worker, _)| worker.take_lost());
        // A worker that ended by itself is writing its last words.
        let patience = if *action == HostAction::Nothing { Duration::from_secs(2) } else { Duration::ZERO };
        let (ended, stage) = self.retire(patience)?;
        self.was_faulty = true;
        let trial = self.trial.as_ref()?;
        let remains = Remains {
            code: ended.code,
            signal: ended.signal,
            stderr: &ended.stderr,
            phase: trial.pace.phase(),
            rss_bytes: trial.rss_bytes,
            was_ready: stage != Stage::Starting,
        };
        let failure = classify(&remains, action);
        self.finish(Outcome::Failed(failure), Vec::new(), lost)
    }

    fn finish(&mut self, outcome: Outcome, mut cautions: Vec<Caution>, lost: u64) -> Option<StudyEvent> {
        let trial = self.trial.take()?;
        note_lost_samples(&mut cautions, lost);
        if trial.is_on_fresh_worker {
            cautions.push(Caution::FreshWorker);
        }
        Some(StudyEvent::TrialFinished {
            trial: trial.spec.id,
            outcome,
            cautions,
            elapsed_secs: trial.began.elapsed().as_secs_f64(),
            memory_curve: trial.curve.into_points(),
        })
    }

    /// Takes in one report. Everything in it is checked: the worker may be broken.
    fn take_in(&mut self, report: Report) -> Option<StudyEvent> {
        let now = Instant::now();
        let (Some(trial), Some((worker, stage))) = (&mut self.trial, &mut self.worker) else { return None };
        trial.last_heard = now;
        match (report, &*stage) {
            (Report::Heartbeat { rss_bytes }, _) => {
                trial.rss_bytes = rss_bytes;
                None
            }
            (Report::Ready { build, .. }, Stage::Starting) if build == BUILD => {
                *stage = Stage::Opening;
                let threads = host_threads(self.config.device);
                worker.ask(Request::Open { source: self.config.source.clone(), threads });
                trial.pace.step(None, now);
                None
            }
            (Report::Opened, Stage::Opening) => {
                *stage = Stage::Open;
                worker.ask(trial.request());
                if trial.ending.is_some() {
                    worker.ask(Request::Cancel(trial.spec.id));
                }
                trial.pace = Pace::new(now);
                None
            }
            (Report::Live(event), Stage::Open) if is_live(&event) && event.trial() == Some(trial.spec.id) => {
                match &event {
                    StudyEvent::MemorySampled { at_millis, rss_bytes, .. } => {
                        trial.curve.push(*at_millis, *rss_bytes);
                        trial.rss_bytes = Some(*rss_bytes);
                    }
                    StudyEvent::Progress { phase, .. } => trial.pace.step(Some(*phase), now),
                    // Results come in a burst after their step: the time between them says nothing about steps.
                    _ => {}
                }
                Some(event)
            }
            (Report::Profiled { trial: id, profile }, Stage::Open) if id == trial.spec.id => {
                self.profile = Some(profile);
                None
            }
            (Report::Finished { trial: id, outcome, cautions }, Stage::Open) if id == trial.spec.id => {
                self.take_outcome(outcome, cautions)
            }
            (Report::Fault(failure), _) => self.take_outcome(Outcome::Failed(failure), Vec::new()),
            (report, stage) => {
                let what = format!("{} does not fit {stage:?}", report_name(&report));
                self.fault(&HostAction::Refused(what))
            }
        }
    }

    fn take_outcome(&mut self, outcome: Outcome, cautions: Vec<Caution>) -> Option<StudyEvent> {
        let is_late = matches!(self.trial.as_ref()?.ending, Some((HostAction::TimedOut(_), _)));
        if let (true, Some((action, _))) = (is_late, self.trial.as_mut()?.ending.take()) {
            return self.fault(&action);
        }
        let lost = self.worker.as_ref().map_or(0, |(worker, _)| worker.take_lost());
        if !leaves_worker_healthy(&outcome) {
            self.retire(self.config.deadlines.grace);
            self.was_faulty = true;
        }
        self.finish(outcome, cautions, lost)
    }
}

impl Runner for WorkerHandle {
    fn submit(&mut self, spec: &TrialSpec) {
        self.begin(spec, Asked::Run);
    }

    fn next_event(&mut self, timeout: Duration) -> Option<StudyEvent> {
        let until = Instant::now() + timeout;
        loop {
            let trial = self.trial.as_mut()?;
            if let Some(failure) = trial.not_started.take() {
                return self.finish(Outcome::Failed(failure), Vec::new(), 0);
            }
            let (due, action) = self.due(self.trial.as_ref()?);
            let (worker, _) = self.worker.as_ref()?;
            let event = match worker.incoming.recv_deadline(due.min(until)) {
                Ok(Incoming::Report(report)) => self.take_in(report),
                Ok(Incoming::Garbled(what)) => self.fault(&HostAction::Refused(what)),
                Ok(Incoming::Closed) | Err(RecvTimeoutError::Disconnected) => self.fault(&HostAction::Nothing),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= due => self.overdue(action),
                Err(RecvTimeoutError::Timeout) => return None,
            };
            if event.is_some() {
                return event;
            }
        }
    }

    fn cancel(&mut self, grace: Duration) {
        let Some(trial) = &mut self.trial else { return };
        // Asking again does not lengthen its patience.
        let until = Instant::now() + grace;
        let until = trial.ending.as_ref().map_or(until, |(_, before)| until.min(*before));
        trial.ending = Some((HostAction::Cancelled, until));
        if let Some((worker, _)) = &self.worker {
            worker.ask(Request::Cancel(trial.spec.id));
        }
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.retire(Duration::from_millis(500));
    }
}

/// Failures that say nothing about the worker or its device.
fn leaves_worker_healthy(outcome: &Outcome) -> bool {
    use FailureKind::{Cancelled, Data, NonFinite, Recipe};
    match outcome {
        Outcome::Done(_) => true,
        Outcome::Failed(failure) => matches!(failure.kind, Recipe | Data | NonFinite | Cancelled),
    }
}

fn program(device: DeviceSpec) -> io::Result<PathBuf> {
    match device {
        DeviceSpec::Cpu { .. } => std::env::current_exe(),
        DeviceSpec::Cuda { .. } => cuda::program(),
    }
}

/// Threads of the host that a variant on `device` may use.
pub(super) fn host_threads(device: DeviceSpec) -> u16 {
    match (device, DeviceSpec::all_cores()) {
        (DeviceSpec::Cpu { threads }, _) | (_, DeviceSpec::Cpu { threads }) => threads,
        (DeviceSpec::Cuda { .. }, DeviceSpec::Cuda { .. }) => 1,
    }
}

fn report_name(report: &Report) -> &'static str {
    match report {
        Report::Ready { .. } => "a greeting of another build",
        Report::Opened => "an opened model",
        Report::Live(_) => "a live event",
        Report::Heartbeat { .. } => "a heartbeat",
        Report::Profiled { .. } => "a profile",
        Report::Finished { .. } => "a finished trial",
        Report::Inspected(_) => "a finding about a layer",
        Report::Devices(_) => "a list of devices",
        Report::Fault(_) => "a fault",
    }
}

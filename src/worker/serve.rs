//! The child's side: requests in on standard input, reports out on what was standard output.
//!
//! The original standard output is kept privately and descriptor 1 points at standard error, so that whatever a library
//! prints cannot break the protocol. Thread `main` runs trials, `worker-stdin` reads requests, `worker-report` writes
//! reports ten times a second. End of standard input ends the process at once.

use std::fs::File;
use std::io::BufWriter;
#[cfg(debug_assertions)]
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::device::DeviceInfo;
use crate::model::ModelSource;
use crate::study::{
    Caution, Failure, FailureKind, Measurements, Outcome, ProfileReport, ProfileWorkload, StudyEvent, TrialId,
    TrialSpec,
};
use crate::telemetry::memory::resident_bytes;
use crate::worker::protocol::{self, BUILD, Report, Request};
use crate::worker::{frame, note_lost_samples};

/// How often reports are gathered and memory is read.
const TICK: Duration = Duration::from_millis(100);
/// How often the process says that it is alive.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Live events that wait for the next tick; more are dropped and counted.
const LIVE_CAPACITY: usize = 4096;

/// Runs trials of one model. A failure is a result; a panic ends the process and is reported by the host.
pub trait Executor {
    /// Runs one trial to its end, or ends early with [`FailureKind::Cancelled`] soon after [`Sink::is_cancelled`].
    ///
    /// # Errors
    /// Why the trial ended early.
    fn run(&mut self, spec: &TrialSpec, sink: &Sink) -> Result<(Measurements, Vec<Caution>), Failure>;

    /// Builds the variant of `spec` and writes it to `out` as a variant file; measures nothing but its
    /// bytes. Ends early as [`Self::run`] does.
    ///
    /// # Errors
    /// Why the variant was not made; `out` is then as it was.
    fn make(&mut self, spec: &TrialSpec, out: &Path, sink: &Sink) -> Result<(Measurements, Vec<Caution>), Failure>;

    /// Builds the variant of `spec` and takes its passes apart; measures nothing else but its bytes. Ends early as
    /// [`Self::run`] does.
    ///
    /// # Errors
    /// Why the variant was not made or the workload cannot be run.
    fn profile(
        &mut self,
        spec: &TrialSpec,
        workload: ProfileWorkload,
        sink: &Sink,
    ) -> Result<(Measurements, Vec<Caution>, ProfileReport), Failure>;
}

/// Where the running trial tells how it goes. Never blocks.
#[derive(Debug, Clone)]
pub struct Sink {
    trial: TrialId,
    live: Sender<StudyEvent>,
    lost: Arc<AtomicU64>,
    cancelled: Arc<AtomicU64>,
}

impl Sink {
    /// A sink for `trial` with the channel that its events come out of: at most `capacity` wait there.
    pub fn new(trial: TrialId, capacity: usize) -> (Self, Receiver<StudyEvent>) {
        let (live, events) = bounded(capacity);
        (Self { trial, live, lost: Arc::default(), cancelled: Arc::default() }, events)
    }

    /// Tells a live event; dropped and counted when too many wait or when a number in it is not finite.
    pub fn event(&self, event: StudyEvent) {
        debug_assert!(protocol::is_live(&event), "the host makes the events that journals keep");
        debug_assert!(event.trial() == Some(self.trial), "a sink is one trial's");
        if !protocol::is_finite(&event) || self.live.try_send(event).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the trial should end early.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) == cancel_mark(self.trial)
    }

    /// Asks the trial to end early.
    pub fn cancel(&self) {
        self.cancelled.store(cancel_mark(self.trial), Ordering::Relaxed);
    }
}

/// 0 stands for no trial.
fn cancel_mark(trial: TrialId) -> u64 {
    u64::from(trial.0) + 1
}

/// What the reporter writes besides live events.
pub(super) enum Outgoing {
    /// A trial begins: its clock starts.
    Began(TrialId),
    /// Written whole and in order.
    Report(Report),
    /// Bytes that are not the protocol, to test the host.
    #[cfg(debug_assertions)]
    Raw(Vec<u8>),
}

/// Serves requests until standard input ends. `make` opens the model, with the threads to use; `devices` names those
/// beside the processor.
///
/// The exit code is a failure when the worker could not go on; its last report says why.
pub fn serve(
    make: impl FnOnce(ModelSource, u16) -> Result<Box<dyn Executor>, Failure>,
    devices: fn() -> Result<Vec<DeviceInfo>, Failure>,
) -> ExitCode {
    let Ok(out) = claim_stdout() else { return ExitCode::from(3) };
    raise_oom_score();
    let cancelled = Arc::new(AtomicU64::new(0));
    let (live, live_events) = bounded(LIVE_CAPACITY);
    let (reports, outgoing) = bounded(64);
    let (to_main, requests) = bounded(16);
    let flag = Arc::clone(&cancelled);
    let reader =
        std::thread::Builder::new().name("worker-stdin".to_owned()).spawn(move || read_requests(&to_main, &flag));
    let reporter = std::thread::Builder::new()
        .name("worker-report".to_owned())
        .spawn(move || Reporter { out: BufWriter::new(out), trial: None, held: None }.run(&outgoing, &live_events));
    let (Ok(_), Ok(reporter)) = (reader, reporter) else { return ExitCode::from(3) };
    let sink = Sink { trial: TrialId(0), live, lost: Arc::default(), cancelled };
    let failure = answer(&requests, &reports, &sink, make, devices).err();
    let code = if failure.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    if let Some(failure) = failure {
        send(&reports, Outgoing::Report(Report::Fault(failure)));
    }
    drop(reports);
    if reporter.join().is_err() { ExitCode::FAILURE } else { code }
}

fn answer(
    requests: &Receiver<Request>,
    reports: &Sender<Outgoing>,
    sink: &Sink,
    make: impl FnOnce(ModelSource, u16) -> Result<Box<dyn Executor>, Failure>,
    devices: fn() -> Result<Vec<DeviceInfo>, Failure>,
) -> Result<(), Failure> {
    let mut make = Some(make);
    let mut executor = None;
    while let Ok(request) = requests.recv() {
        match request {
            Request::Hello { build } => send(reports, Outgoing::Report(greet(&build)?)),
            Request::Open { source, threads } => {
                let make = make.take().ok_or_else(|| Failure::new(FailureKind::Protocol, "a second model was sent"))?;
                executor = Some(opened(reports, || make(source, threads))?);
                send(reports, Outgoing::Report(Report::Opened));
            }
            Request::Run(spec) => {
                let executor = opened_before(&mut executor)?;
                send(reports, Outgoing::Began(spec.id));
                let report = finish(spec.id, sink, |sink| executor.run(&spec, sink));
                send(reports, Outgoing::Report(report));
            }
            Request::Make { spec, out } => {
                let executor = opened_before(&mut executor)?;
                send(reports, Outgoing::Began(spec.id));
                let report = finish(spec.id, sink, |sink| executor.make(&spec, &out, sink));
                send(reports, Outgoing::Report(report));
            }
            Request::Profile { spec, workload } => {
                let executor = opened_before(&mut executor)?;
                send(reports, Outgoing::Began(spec.id));
                let mut found = None;
                let report = finish(spec.id, sink, |sink| {
                    let (measurements, cautions, profile) = executor.profile(&spec, workload, sink)?;
                    found = Some(arriving(profile)?);
                    Ok((measurements, cautions))
                });
                if let Some(profile) = found {
                    let profiled = Report::Profiled { trial: spec.id, profile: Box::new(profile) };
                    send(reports, Outgoing::Report(profiled));
                }
                send(reports, Outgoing::Report(report));
            }
            Request::Inspect(spec) => {
                let mut tell = |finding| send(reports, Outgoing::Report(Report::Inspected(Box::new(finding))));
                crate::worker::inspect::inspect(&spec, &mut tell)?;
            }
            Request::Devices => send(reports, Outgoing::Report(Report::Devices(devices()?))),
            Request::Cancel(_) => {}
        }
    }
    Ok(())
}

fn opened_before(executor: &mut Option<Box<dyn Executor>>) -> Result<&mut Box<dyn Executor>, Failure> {
    executor.as_mut().ok_or_else(|| Failure::new(FailureKind::Protocol, "a trial came before its model"))
}

#[cfg(not(debug_assertions))]
fn opened(
    _reports: &Sender<Outgoing>,
    make: impl FnOnce() -> Result<Box<dyn Executor>, Failure>,
) -> Result<Box<dyn Executor>, Failure> {
    make()
}

/// In debug builds, `TRIMTAB_FAULT` puts an executor in place that fails as it says.
#[cfg(debug_assertions)]
fn opened(
    reports: &Sender<Outgoing>,
    make: impl FnOnce() -> Result<Box<dyn Executor>, Failure>,
) -> Result<Box<dyn Executor>, Failure> {
    match crate::worker::fault::FaultExecutor::from_env(reports) {
        Some(executor) => Ok(Box::new(executor)),
        None => make(),
    }
}

fn greet(build: &str) -> Result<Report, Failure> {
    if build != BUILD {
        let message = format!(
            "the worker is of another build than the program that started it ({BUILD}, not {build}); start the program \
             again if it was replaced while it ran, and build both from the same sources"
        );
        return Err(Failure::new(FailureKind::Spawn, message));
    }
    Ok(Report::Ready { build: BUILD.to_owned(), pid: std::process::id() })
}

/// Runs one trial and checks that its answer can travel.
fn finish(
    trial: TrialId,
    sink: &Sink,
    run: impl FnOnce(&Sink) -> Result<(Measurements, Vec<Caution>), Failure>,
) -> Report {
    let sink = Sink { trial, ..sink.clone() };
    let lost_before = sink.lost.load(Ordering::Relaxed);
    let (outcome, mut cautions) = match run(&sink) {
        Ok((measurements, cautions)) => (Outcome::Done(Box::new(measurements)), cautions),
        Err(failure) => (Outcome::Failed(failure), Vec::new()),
    };
    note_lost_samples(&mut cautions, sink.lost.load(Ordering::Relaxed) - lost_before);
    let (outcome, cautions) =
        arriving((outcome, cautions)).unwrap_or_else(|failure| (Outcome::Failed(failure), Vec::new()));
    Report::Finished { trial, outcome, cautions }
}

/// What arrives at the host as it is. JSON has no NaN, and an absent reading would take its place unseen.
fn arriving<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq>(value: T) -> Result<T, Failure> {
    let back = serde_json::to_vec(&value).and_then(|bytes| serde_json::from_slice::<T>(&bytes));
    if back.is_ok_and(|back| back == value) {
        return Ok(value);
    }
    let message = "a measured number is not finite: the variant's numbers are not usable. Try a milder recipe";
    Err(Failure::new(FailureKind::NonFinite, message))
}

fn send(reports: &Sender<Outgoing>, outgoing: Outgoing) {
    // The reporter ends only when its pipe is closed, which ends the process.
    if reports.send(outgoing).is_err() {
        log::debug!("the reporter has ended");
    }
}

#[expect(clippy::exit, reason = "the end of standard input is the order to end, whatever the trial is doing")]
fn read_requests(to_main: &Sender<Request>, cancelled: &AtomicU64) {
    let mut stdin = std::io::stdin().lock();
    loop {
        match frame::read(&mut stdin) {
            Ok(Some(Request::Cancel(trial))) => cancelled.store(cancel_mark(trial), Ordering::Relaxed),
            Ok(Some(request)) => {
                if matches!(request, Request::Run(_) | Request::Make { .. } | Request::Profile { .. }) {
                    // A cancel of an earlier trial with this number is not meant for it.
                    cancelled.store(0, Ordering::Relaxed);
                }
                if to_main.send(request).is_err() {
                    return;
                }
            }
            Ok(None) => std::process::exit(0),
            Err(_) => std::process::exit(3),
        }
    }
}

struct Reporter {
    out: BufWriter<File>,
    /// The trial whose beginning was read from the queue, and its clock.
    trial: Option<(TrialId, Instant)>,
    /// A live event of the trial after it.
    held: Option<StudyEvent>,
}

impl Reporter {
    fn run(mut self, outgoing: &Receiver<Outgoing>, live: &Receiver<StudyEvent>) {
        if self.report(outgoing, live).is_err() {
            std::process::exit(0);
        }
    }

    fn report(&mut self, outgoing: &Receiver<Outgoing>, live: &Receiver<StudyEvent>) -> Result<(), frame::FrameError> {
        let (mut next_tick, mut next_heartbeat) = (Instant::now(), Instant::now() + HEARTBEAT);
        loop {
            match outgoing.recv_deadline(next_tick) {
                Ok(message) => {
                    self.say(message, live)?;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            next_tick = now + TICK;
            self.forward(live)?;
            let rss_bytes = resident_bytes();
            self.sample(rss_bytes)?;
            if now >= next_heartbeat {
                next_heartbeat = now + HEARTBEAT;
                frame::write(&mut self.out, &Report::Heartbeat { rss_bytes })?;
            }
        }
    }

    fn sample(&mut self, rss_bytes: Option<u64>) -> Result<(), frame::FrameError> {
        let (Some((trial, began)), Some(rss_bytes)) = (self.trial, rss_bytes) else { return Ok(()) };
        let at_millis = began.elapsed().as_millis() as u64;
        frame::write(&mut self.out, &Report::Live(StudyEvent::MemorySampled { trial, at_millis, rss_bytes }))
    }

    fn say(&mut self, message: Outgoing, live: &Receiver<StudyEvent>) -> Result<(), frame::FrameError> {
        match message {
            Outgoing::Began(trial) => self.trial = Some((trial, Instant::now())),
            Outgoing::Report(report) => {
                if matches!(report, Report::Finished { .. }) {
                    self.forward(live)?;
                    // However short it was, a trial has a reading: that of its end.
                    self.sample(resident_bytes())?;
                    self.trial = None;
                }
                frame::write(&mut self.out, &report)?;
            }
            #[cfg(debug_assertions)]
            Outgoing::Raw(bytes) => {
                self.out.write_all(&bytes)?;
                self.out.flush()?;
            }
        }
        Ok(())
    }

    /// Writes what waits now; what comes meanwhile waits for the next tick.
    ///
    /// The queues are not ordered against each other: events of a trial whose beginning was not read yet wait for it.
    fn forward(&mut self, live: &Receiver<StudyEvent>) -> Result<(), frame::FrameError> {
        let Some((trial, _)) = self.trial else { return Ok(()) };
        for _ in 0..LIVE_CAPACITY {
            let Some(event) = self.held.take().or_else(|| live.try_recv().ok()) else { break };
            if event.trial() != Some(trial) {
                self.held = Some(event);
                break;
            }
            frame::write(&mut self.out, &Report::Live(event))?;
        }
        Ok(())
    }
}

/// Takes standard output for the protocol alone; what others print goes to standard error.
fn claim_stdout() -> std::io::Result<File> {
    let out = std::io::stdout().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdout(std::io::stderr())?;
    Ok(File::from(out))
}

/// Offers this process to the kernel's memory killer before the window.
fn raise_oom_score() {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "900") {
        log::debug!("the kernel may end the window before the worker when memory runs out: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::WindowScore;

    #[test]
    fn a_full_sink_drops_and_counts_and_never_blocks() {
        let (sink, events) = Sink::new(TrialId(3), 2);
        let score = WindowScore { nll: 1.0, reference_nll: 1.0, kl: 0.0, top1: 1.0 };
        for index in 0..5 {
            sink.event(StudyEvent::QualityWindow { trial: TrialId(3), index, score });
        }
        let bad = WindowScore { kl: f64::NAN, ..score };
        sink.event(StudyEvent::QualityWindow { trial: TrialId(3), index: 9, score: bad });
        assert_eq!(events.len(), 2);
        assert_eq!(sink.lost.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn a_cancel_reaches_its_own_trial_only() {
        let (sink, _events) = Sink::new(TrialId(3), 1);
        let next = Sink { trial: TrialId(4), ..sink.clone() };
        sink.cancel();
        assert!(sink.is_cancelled() && !next.is_cancelled());
    }

    #[test]
    fn another_build_is_refused() {
        assert_eq!(greet("0.0.0 1-1").unwrap_err().kind, FailureKind::Spawn);
        assert!(matches!(greet(BUILD), Ok(Report::Ready { .. })));
    }
}

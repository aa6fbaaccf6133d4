//! The profile that is shown: at most one worker process that makes it.
//!
//! The process is started and heard on thread `profiler`. It never runs beside a study or an inspection: timing shares no
//! core with them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::device::DeviceSpec;
use crate::recipe::Recipe;
use crate::session::Wake;
use crate::study::{Caution, Outcome, Phase, ProfileReport, ProfileWorkload, StudyEvent, TrialId, TrialSpec, Workload};
use crate::worker::Runner as _;
use crate::worker::host::{WorkerConfig, WorkerHandle};

/// How often the thread looks up from waiting.
const LOOK_UP: Duration = Duration::from_millis(50);
/// Updates that wait for the window; beyond it progress is dropped.
const CAPACITY: usize = 64;

/// What to profile.
#[derive(Debug, Clone, PartialEq)]
pub struct ProfileRequest {
    /// What becomes of the layers; it has a calibration text where it needs one.
    pub recipe: Recipe,
    /// Where it runs.
    pub device: DeviceSpec,
    /// Which passes.
    pub workload: ProfileWorkload,
}

/// How a profile stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProfileState {
    /// A worker is at it.
    Running,
    /// It is there.
    Done,
    /// The user ended it, or a study began.
    Cancelled,
    /// The worker made none, with the reason.
    Failed(String),
}

/// A profile as far as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Profiling {
    /// What was asked for.
    pub request: ProfileRequest,
    /// How it stands.
    pub state: ProfileState,
    /// The step that the worker is at, with units done and in all.
    pub progress: Option<(Phase, u32, u32)>,
    /// What was found.
    pub report: Option<Arc<ProfileReport>>,
    /// What the reader of its numbers must know.
    pub cautions: Vec<Caution>,
    /// Changes with every update: caches are keyed by it.
    pub generation: u64,
}

/// The profile of the open model. Invariant: it is of no other one, see [`Self::forget`].
#[derive(Debug, Default)]
pub(super) struct Profiler {
    shown: Option<Profiling>,
    running: Option<Running>,
    generation: u64,
}

#[derive(Debug)]
struct Running {
    updates: Receiver<Update>,
    cancelled: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Update {
    Progress(Phase, u32, u32),
    Over(Result<(Box<ProfileReport>, Vec<Caution>), String>),
}

impl Profiler {
    /// The profile that was asked for last.
    pub(super) fn shown(&self) -> Option<&Profiling> {
        self.shown.as_ref()
    }

    /// Whether a worker is at it.
    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Another model is opened: the profile was of the one before.
    pub(super) fn forget(&mut self) {
        *self = Self { generation: self.generation + 1, ..Self::default() };
    }

    /// Begins a profile in the place of the one shown.
    pub(super) fn begin(&mut self, request: ProfileRequest, config: io::Result<WorkerConfig>, wake: &Wake) {
        self.running = None;
        self.generation += 1;
        let state = match config.and_then(|config| self.start(request.clone(), config, wake)) {
            Ok(()) => ProfileState::Running,
            Err(error) => ProfileState::Failed(format!("start the worker: {error}")),
        };
        let (progress, report, cautions, generation) = (None, None, Vec::new(), self.generation);
        self.shown = Some(Profiling { request, state, progress, report, cautions, generation });
    }

    fn start(&mut self, request: ProfileRequest, config: WorkerConfig, wake: &Wake) -> io::Result<()> {
        let (to_window, updates) = bounded(CAPACITY);
        let cancelled = Arc::new(AtomicBool::new(false));
        let task = Task { config, request, updates: to_window, cancelled: Arc::clone(&cancelled) };
        let wake = Arc::clone(wake);
        std::thread::Builder::new().name("profiler".to_owned()).spawn(move || task.run(&wake))?;
        self.running = Some(Running { updates, cancelled });
        Ok(())
    }

    /// Ends the running profile.
    pub(super) fn cancel(&mut self) {
        if self.running.take().is_some()
            && let Some(shown) = &mut self.shown
        {
            self.generation += 1;
            (shown.state, shown.generation) = (ProfileState::Cancelled, self.generation);
        }
    }

    /// Takes in what the worker told. Returns whether anything happened.
    pub(super) fn poll(&mut self) -> bool {
        let Some(running) = &self.running else { return false };
        let updates: Vec<Update> = running.updates.try_iter().collect();
        let any = !updates.is_empty();
        for update in updates {
            self.take_in(update);
        }
        any
    }

    fn take_in(&mut self, update: Update) {
        let Some(shown) = &mut self.shown else { return };
        self.generation += 1;
        shown.generation = self.generation;
        match update {
            Update::Progress(phase, done, total) => shown.progress = Some((phase, done, total)),
            Update::Over(result) => {
                self.running = None;
                match result {
                    Ok((report, cautions)) => {
                        (shown.state, shown.cautions) = (ProfileState::Done, cautions);
                        shown.report = Some(Arc::from(report));
                    }
                    Err(reason) => shown.state = ProfileState::Failed(reason),
                }
            }
        }
    }
}

impl Drop for Running {
    /// The thread ends its worker within [`LOOK_UP`]; nothing in a frame waits for that.
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

/// What the thread is given.
struct Task {
    config: WorkerConfig,
    request: ProfileRequest,
    updates: Sender<Update>,
    cancelled: Arc<AtomicBool>,
}

impl Task {
    /// Ends with its worker, which is killed when the profile was cancelled.
    fn run(self, wake: &Wake) {
        let ProfileRequest { recipe, device, workload } = self.request;
        let id = TrialId(u32::from(recipe != Recipe::reference()));
        let spec = TrialSpec { id, recipe, device, workload: Workload::default(), seed: 0 };
        let mut worker = WorkerHandle::new(self.config);
        worker.submit_profile(&spec, workload);
        while !self.cancelled.load(Ordering::Relaxed) {
            match worker.next_event(LOOK_UP) {
                // A full channel only means that the window has not looked for a while.
                Some(StudyEvent::Progress { phase, done, total, .. })
                    if self.updates.try_send(Update::Progress(phase, done, total)).is_ok() =>
                {
                    wake();
                }
                Some(StudyEvent::TrialFinished { outcome, cautions, .. }) => {
                    let result = match (outcome, worker.take_profile()) {
                        (Outcome::Failed(failure), _) => Err(format!("{}: {}", failure.kind.label(), failure.message)),
                        (Outcome::Done(_), Some(report)) => Ok((report, cautions)),
                        (Outcome::Done(_), None) => Err("the worker reported no profile".to_owned()),
                    };
                    if self.updates.send(Update::Over(result)).is_ok() {
                        wake();
                    }
                    return;
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::{Ceilings, Conditions};

    fn request() -> ProfileRequest {
        let workload = ProfileWorkload { prompt: 4, context: 4, repetitions: 2 };
        ProfileRequest { recipe: Recipe::reference(), device: DeviceSpec::Cpu { threads: 1 }, workload }
    }

    fn started() -> (Profiler, Sender<Update>, Arc<AtomicBool>) {
        let mut profiler = Profiler::default();
        let no_worker = Err(io::Error::other("none in this test"));
        profiler.begin(request(), no_worker, &(Arc::new(|| {}) as Wake));
        assert!(matches!(&profiler.shown().unwrap().state, ProfileState::Failed(reason) if reason.contains("none")));
        let (updates, receiver) = bounded(4);
        let cancelled = Arc::new(AtomicBool::new(false));
        profiler.running = Some(Running { updates: receiver, cancelled: cancelled.clone() });
        (profiler, updates, cancelled)
    }

    #[test]
    fn a_profile_is_taken_in_and_the_worker_is_over_with_it() {
        let (mut profiler, updates, _) = started();
        let before = profiler.shown().unwrap().generation;
        updates.send(Update::Progress(Phase::Decode, 1, 4)).unwrap();
        assert!(profiler.poll() && profiler.is_running());
        assert_eq!(profiler.shown().unwrap().progress, Some((Phase::Decode, 1, 4)));
        let ceilings = Ceilings {
            reads: Vec::new(),
            float_flops: 1.0,
            int8_ops: None,
            hand_over_secs: 1e-6,
            threads: 1,
            instructions: String::new(),
            tensor_flops: None,
            tensor_int8_ops: None,
            card: None,
        };
        let report = ProfileReport { passes: Vec::new(), ceilings, conditions: Conditions::default() };
        updates.send(Update::Over(Ok((Box::new(report.clone()), vec![Caution::FreshWorker])))).unwrap();
        assert!(profiler.poll() && !profiler.is_running() && !profiler.poll());
        let shown = profiler.shown().unwrap();
        assert_eq!((&shown.state, shown.report.as_deref()), (&ProfileState::Done, Some(&report)));
        assert!(shown.generation > before && shown.cautions.len() == 1);
    }

    #[test]
    fn a_cancelled_profile_ends_its_thread_and_another_model_forgets_it() {
        let (mut profiler, _updates, cancelled) = started();
        profiler.cancel();
        assert!(cancelled.load(Ordering::Relaxed));
        assert_eq!(profiler.shown().unwrap().state, ProfileState::Cancelled);
        let generation = profiler.shown().unwrap().generation;
        profiler.forget();
        assert!(profiler.shown().is_none() && profiler.generation > generation);
    }
}

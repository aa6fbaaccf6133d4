//! The loop that drives a study: strategy, runner, journal.
//!
//! It serves the window (on thread `study-driver`, see [`crate::session::DriverHandle`]) and the command line (on its own
//! thread). A journaled event is written before anyone sees it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::Level;

use crate::device::DeviceSpec;
use crate::study::journal::{JournalError, JournalWriter};
use crate::study::{
    EndReason, Failure, FailureKind, Outcome, Strategy, Study, StudyEvent, StudyHeader, StudySpec, TrialId, TrialState,
    strategy,
};
use crate::worker::{Runner, note_lost_samples};

/// How often the driver looks up from a running trial.
const LOOK_UP: Duration = Duration::from_millis(50);
/// How long a trial may take to end when the study is stopped.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// So many failures of one kind in a row end a study: the next ones would fail as well.
const FAILING_STREAK: u32 = 5;

/// A study that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The journal cannot be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A study is already running.
    #[error("start the study: another one is running; stop it first")]
    Busy,
    /// No model is open.
    #[error("start the study: open a model first")]
    NoModel,
    /// The thread could not be started.
    #[error("start the study: {0}")]
    Thread(std::io::Error),
    /// The journal belongs to another study.
    #[error("resume the study: {0}")]
    Mismatch(String),
}

/// What a front end asks of a running study.
#[derive(Debug, Default)]
pub(super) struct Controls {
    /// No new trial starts.
    pub(super) paused: AtomicBool,
    /// The running trial and the study end.
    pub(super) stopping: Arc<AtomicBool>,
    /// The program ends: no grace.
    pub(super) hurried: AtomicBool,
    /// How long the study rested between trials because it was paused.
    pub(super) rested_nanos: AtomicU64,
}

impl Controls {
    pub(super) fn rested(&self) -> Duration {
        Duration::from_nanos(self.rested_nanos.load(Ordering::Relaxed))
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct RunEnd {
    /// The study, whole even where its journal is not.
    pub study: Study,
    /// Why its journal does not hold all of it; `None` when it does.
    pub unrecorded: Option<String>,
}

/// Runs a study on this thread until it ends, for the command line. `observe` sees every event; once `stopping` is set,
/// the running trials and the study end.
///
/// - `runners`: one for each of [`StudySpec::devices`], in their order
///
/// # Errors
/// When the journal cannot be opened, or is of another study.
pub fn run_to_end(
    header: StudyHeader,
    journal: &Path,
    resume: bool,
    runners: Vec<Box<dyn Runner>>,
    stopping: Arc<AtomicBool>,
    observe: &mut dyn FnMut(&StudyEvent, &Study),
) -> Result<RunEnd, StartError> {
    let mut driver = if resume {
        let (driver, damage) = Driver::resume(header, journal, runners)?;
        for line in damage {
            log::warn!("{line}");
        }
        driver
    } else {
        Driver::new(header, Study::default(), Some(JournalWriter::create(journal)?), runners)
    };
    driver.run(&Controls { stopping, ..Controls::default() }, &mut |told| {
        match told {
            Told::Event(event, study) => observe(event, study),
            Told::Notice(level, text) => log::log!(level, "{text}"),
        }
        true
    });
    Ok(RunEnd { study: driver.study, unrecorded: driver.unrecorded })
}

/// What is said when a journal cannot be written any more.
pub(super) fn unrecorded(error: &str) -> String {
    format!("{error}. The study goes on in memory: export its results before you close the program")
}

/// What the driver tells whoever runs it.
pub(super) enum Told<'a> {
    Event(&'a StudyEvent, &'a Study),
    Notice(Level, String),
}

/// Takes what is told; `false` when a live event had to be dropped.
pub(super) type Tell<'a> = &'a mut dyn FnMut(Told<'_>) -> bool;

/// A device of a study.
struct Lane {
    device: DeviceSpec,
    runner: Box<dyn Runner>,
    trial: Option<RunningTrial>,
}

/// A trial that runs on it.
#[derive(Debug, Default)]
struct RunningTrial {
    is_cancelled: bool,
    /// Live events that were not taken.
    lost: u64,
}

/// A study that is being run.
pub(super) struct Driver {
    header: StudyHeader,
    /// The authoritative study: the fold of what was journaled, and of live events.
    pub(super) study: Study,
    strategy: Box<dyn Strategy>,
    lanes: Vec<Lane>,
    journal: Option<JournalWriter>,
    unrecorded: Option<String>,
    left_over: LeftOver,
    began: Instant,
    streak: Option<(FailureKind, u32)>,
}

impl Driver {
    pub(super) fn new(
        mut header: StudyHeader,
        study: Study,
        journal: Option<JournalWriter>,
        runners: Vec<Box<dyn Runner>>,
    ) -> Self {
        let strategy = strategy(&header.spec);
        let lanes = header.spec.devices().into_iter().zip(runners);
        let lanes = lanes.map(|(device, runner)| Lane { device, runner, trial: None }).collect();
        header.data_hash = data_hash(&header.spec);
        let left_over = LeftOver::of(&study);
        let (unrecorded, began) = (None, Instant::now());
        Self { header, study, strategy, lanes, journal, unrecorded, left_over, began, streak: None }
    }

    /// Goes on with a journal. Also returns what is damaged in it, in words.
    pub(super) fn resume(
        header: StudyHeader,
        path: &Path,
        runners: Vec<Box<dyn Runner>>,
    ) -> Result<(Self, Vec<String>), StartError> {
        let (writer, opened) = JournalWriter::resume(path)?;
        let study = Study::from_events(&opened.events);
        let driver = Self::new(header, study, Some(writer), runners);
        let study = &driver.study;
        if let Some(recorded) = &study.header {
            check_same(recorded, &driver.header).map_err(StartError::Mismatch)?;
        } else if !study.trials.is_empty() {
            let what = format!("the journal does not say what it records; start a new one: {}", path.display());
            return Err(StartError::Mismatch(what));
        }
        Ok((driver, opened.damage))
    }

    /// Runs trials until there is a reason to end.
    pub(super) fn run(&mut self, controls: &Controls, tell: Tell<'_>) {
        let StudySpec { limits, budget, .. } = self.header.spec;
        match &self.study.header {
            None => {
                let header = Box::new(self.header.clone());
                self.emit(&StudyEvent::StudyCreated { header }, tell);
            }
            Some(recorded) if (recorded.spec.limits, recorded.spec.budget) != (limits, budget) => {
                self.emit(&StudyEvent::StudyResumed { limits, budget }, tell);
            }
            Some(_) => {}
        }
        for trial in self.interrupted() {
            let failure =
                Failure::new(FailureKind::Interrupted, "the program ended while the trial ran; it is run again");
            self.emit(&ended_early(trial, failure), tell);
        }
        let mut heard = false;
        let reason = loop {
            let is_paused = controls.paused.load(Ordering::Relaxed);
            if !is_paused {
                self.start_trials(controls, tell);
            }
            if self.lanes.iter().any(|lane| lane.trial.is_some()) {
                heard = self.attend(heard, controls, tell);
            } else if let Some(reason) = self.reason_to_end(controls) {
                break reason;
            } else if is_paused {
                let since = Instant::now();
                std::thread::park_timeout(LOOK_UP);
                controls.rested_nanos.fetch_add(since.elapsed().as_nanos() as u64, Ordering::Relaxed);
            } else {
                break self.nothing_left();
            }
        };
        self.emit(&StudyEvent::StudyEnded { reason }, tell);
    }

    /// Nothing is tried without a reference: that is no completion.
    fn nothing_left(&self) -> EndReason {
        match self.study.trials.get(&TrialId(0)).map(|reference| &reference.state) {
            Some(TrialState::Finished { outcome: Outcome::Failed(failure), .. }) => {
                EndReason::Failing(format!("the reference failed: {}", failure.message))
            }
            _ => EndReason::Complete,
        }
    }

    fn interrupted(&self) -> Vec<TrialId> {
        let trials = self.study.trials.iter();
        trials.filter(|(_, trial)| trial.state == TrialState::Running).map(|(id, _)| *id).collect()
    }

    /// The first that applies. Time counts from the start of this run without pauses, trials from the start of the study.
    fn reason_to_end(&self, controls: &Controls) -> Option<EndReason> {
        let budget = self.header.spec.budget;
        if controls.stopping.load(Ordering::Relaxed) {
            return Some(EndReason::Stopped);
        }
        if let Some((kind, n)) = self.streak
            && n >= FAILING_STREAK
        {
            return Some(EndReason::Failing(format!("{n} trials in a row failed: {}", kind.label())));
        }
        if budget
            .secs
            .is_some_and(|secs| (self.began.elapsed().saturating_sub(controls.rested())).as_secs_f64() >= secs)
        {
            return Some(EndReason::TimeBudget);
        }
        let n_running = self.lanes.iter().filter(|lane| lane.trial.is_some()).count() as u32;
        let done = (self.left_over.n_ended(&self.study) + n_running).saturating_sub(1);
        budget.trials.is_some_and(|trials| done >= trials).then_some(EndReason::TrialBudget)
    }

    /// Gives every device that has nothing to do a trial, while there is one.
    fn start_trials(&mut self, controls: &Controls, tell: Tell<'_>) {
        for lane in 0..self.lanes.len() {
            if self.lanes[lane].trial.is_some() {
                continue;
            }
            if self.reason_to_end(controls).is_some() {
                return;
            }
            let Some(mut spec) = self.strategy.ask(&self.study) else { return };
            spec.device = self.lanes[lane].device;
            self.emit(&StudyEvent::TrialStarted { spec: Box::new(spec.clone()) }, tell);
            let lane = &mut self.lanes[lane];
            lane.runner.submit(&spec);
            lane.trial = Some(RunningTrial::default());
        }
    }

    /// Takes in one event of each device that runs a trial; returns whether there was one.
    ///
    /// - `heard`: whether there was one the last time, so that nothing is waited for while others have much to tell
    fn attend(&mut self, heard: bool, controls: &Controls, tell: Tell<'_>) -> bool {
        let busy: Vec<usize> = (0..self.lanes.len()).filter(|lane| self.lanes[*lane].trial.is_some()).collect();
        let patience = if heard && busy.len() > 1 { Duration::ZERO } else { LOOK_UP / busy.len().max(1) as u32 };
        let mut heard = false;
        for index in busy {
            let lane = &mut self.lanes[index];
            let Some(trial) = &mut lane.trial else { continue };
            if !trial.is_cancelled && controls.stopping.load(Ordering::Relaxed) {
                let is_hurried = controls.hurried.load(Ordering::Relaxed);
                lane.runner.cancel(if is_hurried { Duration::ZERO } else { STOP_GRACE });
                trial.is_cancelled = true;
            }
            let Some(mut event) = lane.runner.next_event(patience) else { continue };
            heard = true;
            if let StudyEvent::TrialFinished { outcome, cautions, .. } = &mut event {
                note_lost_samples(cautions, trial.lost);
                lane.trial = None;
                self.count_failures(outcome);
                self.emit(&event, tell);
            } else if !self.emit(&event, tell)
                && let Some(trial) = &mut self.lanes[index].trial
            {
                trial.lost += 1;
            }
        }
        heard
    }

    fn count_failures(&mut self, outcome: &Outcome) {
        self.streak = match (outcome, self.streak) {
            // It says nothing about the trials after it.
            (Outcome::Failed(failure), streak) if failure.kind.is_of_recipe() => streak,
            (Outcome::Failed(failure), Some((kind, n))) if failure.kind == kind => Some((kind, n + 1)),
            (Outcome::Failed(failure), _) => Some((failure.kind, 1)),
            (Outcome::Done(_), _) => None,
        };
    }

    /// Journals, folds and tells an event, in this order. Returns whether it was taken.
    fn emit(&mut self, event: &StudyEvent, tell: Tell<'_>) -> bool {
        if let Some(journal) = &mut self.journal
            && let Err(error) = journal.append(event)
        {
            self.journal = None;
            self.unrecorded = Some(error.to_string());
            tell(Told::Notice(Level::Error, unrecorded(&error.to_string())));
        }
        self.left_over.apply(event);
        self.study.apply(event);
        tell(Told::Event(event, &self.study))
    }
}

/// Trials that the run before left to be tried again, and that this run has not begun.
#[derive(Debug, Default)]
pub(super) struct LeftOver(BTreeSet<TrialId>);

impl LeftOver {
    /// What is left over in a study that a run begins with.
    pub(super) fn of(study: &Study) -> Self {
        let is_left = |state: &TrialState| match state {
            TrialState::Finished { outcome: Outcome::Failed(failure), .. } => failure.kind.is_retried_on_resume(),
            TrialState::Finished { .. } => false,
            TrialState::Running => true,
        };
        Self(study.trials.iter().filter(|(_, trial)| is_left(&trial.state)).map(|(id, _)| *id).collect())
    }

    /// Takes in an event of this run.
    pub(super) fn apply(&mut self, event: &StudyEvent) {
        if let StudyEvent::TrialStarted { spec } = event {
            self.0.remove(&spec.id);
        }
    }

    /// Trials that ended and that this run does not begin again, the reference among them.
    pub(super) fn n_ended(&self, study: &Study) -> u32 {
        let ended =
            study.trials.iter().filter(|(id, trial)| trial.state != TrialState::Running && !self.0.contains(id));
        ended.count() as u32
    }
}

/// The beginning of the hash of the evaluation text; `None` without one, or where it cannot be read.
fn data_hash(spec: &StudySpec) -> Option<String> {
    let file = std::fs::File::open(&spec.workload.quality.as_ref()?.data).ok()?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).ok()?;
    Some(hasher.finalize().to_hex()[..32].to_owned())
}

/// Whether numbers of both may stand side by side; otherwise why not, and what to do.
fn check_same(recorded: &StudyHeader, asked: &StudyHeader) -> Result<(), String> {
    let (was, is) = (&recorded.spec, &asked.spec);
    let other = |what: &str| Err(format!("{what}; start a new study, or put it back as it was"));
    if recorded.graph.fingerprint != asked.graph.fingerprint {
        return other(&format!("its model {:?} is not the one that is open, or has changed", recorded.graph.name));
    }
    if was.workload != is.workload {
        return other("it measures another workload");
    }
    if let (Some(hash), Some(quality)) = (&recorded.data_hash, &is.workload.quality)
        && asked.data_hash.as_ref() != Some(hash)
    {
        let path = quality.data.display();
        return Err(match asked.data_hash {
            Some(_) => format!("the text changed since the study began: {path}; start a new study"),
            None => format!("the text cannot be read: {path}; put it back, or start a new study"),
        });
    }
    if was.device != is.device {
        return other(&format!("it runs on {}, not on {}", was.device.label(), is.device.label()));
    }
    if was.strategy != is.strategy || was.seed != is.seed {
        return other("it tries other recipes or has another seed");
    }
    Ok(())
}

fn ended_early(trial: TrialId, failure: Failure) -> StudyEvent {
    StudyEvent::TrialFinished {
        trial,
        outcome: Outcome::Failed(failure),
        cautions: Vec::new(),
        elapsed_secs: 0.0,
        memory_curve: Vec::new(),
    }
}

//! Studies from start to end: budgets, pause, stop, resume, failures in a row, and a program that is killed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use trimtab::device::{DeviceInfo, DeviceSpec};
use trimtab::model::ModelSource;
use trimtab::recipe::{Recipe, WeightFormat};
use trimtab::session::{ModelState, Session, StartError, run_to_end};
use trimtab::study::{
    Budget, Conditions, EndReason, Failure, FailureKind, Limits, Measurements, Memory, Outcome, Protocol,
    QualityWorkload, StrategySpec, Study, StudyEvent, StudyHeader, StudySpec, Trial, TrialId, TrialSpec, TrialState,
    Workload, journal,
};
use trimtab::worker::Runner;
use trimtab::worker::scripted::ScriptedRunner;

mod cards;
mod inspection;
mod resume;

/// Only for a broken program: every wait is for an event.
const PATIENCE: Duration = Duration::from_mins(1);
/// Recipes of the studies here; the reference comes on top.
const RECIPES: [WeightFormat; 5] =
    [WeightFormat::Q8_0, WeightFormat::Q4_0, WeightFormat::Q4_1, WeightFormat::Q5_0, WeightFormat::Bf16];

fn demo_model() -> ModelSource {
    ModelSource::Safetensors { dir: Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/stories15M") }
}

fn study_spec() -> StudySpec {
    let recipes = RECIPES.iter().map(|format| Recipe::uniform(&format.label(), *format, None)).collect();
    StudySpec {
        name: "test".to_owned(),
        model: demo_model(),
        device: DeviceSpec::Cpu { threads: 1 },
        also_on: Vec::new(),
        workload: Workload::default(),
        strategy: StrategySpec::List { recipes },
        limits: Limits::default(),
        budget: Budget::default(),
        seed: 7,
    }
}

fn measurements(id: TrialId) -> Measurements {
    Measurements {
        quality: None,
        dequantized_quality: None,
        speed: None,
        memory: Memory {
            weight_bytes: u64::from(id.0),
            held_bytes: 1,
            peak_rss_bytes: None,
            peak_gpu_bytes: None,
            predicted_peak_bytes: None,
        },
        energy: None,
        bits_per_weight: 8.5,
        simulated_layers: 0,
        products: BTreeMap::new(),
        compressed_layers: 0,
        compress_secs: 0.0,
        compression: None,
        sample_text: None,
        conditions: Conditions::default(),
    }
}

fn finished(trial: TrialId, outcome: Outcome) -> StudyEvent {
    StudyEvent::TrialFinished { trial, outcome, cautions: Vec::new(), elapsed_secs: 0.5, memory_curve: Vec::new() }
}

fn done(trial: TrialId) -> StudyEvent {
    finished(trial, Outcome::Done(Box::new(measurements(trial))))
}

fn failed(trial: TrialId, kind: FailureKind) -> StudyEvent {
    finished(trial, Outcome::Failed(Failure::new(kind, "on request")))
}

/// A runner that the test answers for: it says which trial was submitted, and waits to be told how it ends.
struct PuppetRunner {
    submitted: Sender<TrialSpec>,
    answers: Receiver<StudyEvent>,
    running: Option<TrialId>,
    is_cancelled: bool,
}

struct Strings {
    submitted: Receiver<TrialSpec>,
    answers: Sender<StudyEvent>,
}

fn puppet() -> (Box<PuppetRunner>, Strings) {
    let (to_test, submitted) = bounded(64);
    let (answers, from_test) = bounded(64);
    let runner = PuppetRunner { submitted: to_test, answers: from_test, running: None, is_cancelled: false };
    (Box::new(runner), Strings { submitted, answers })
}

impl Strings {
    fn submitted(&self) -> TrialSpec {
        self.submitted.recv_timeout(PATIENCE).expect("a trial is submitted")
    }

    fn answer(&self, event: StudyEvent) {
        self.answers.send(event).expect("the runner listens");
    }
}

impl Runner for PuppetRunner {
    fn submit(&mut self, spec: &TrialSpec) {
        self.running = Some(spec.id);
        // The test may have seen enough.
        self.submitted.try_send(spec.clone()).unwrap_or_default();
    }

    fn next_event(&mut self, timeout: Duration) -> Option<StudyEvent> {
        if std::mem::take(&mut self.is_cancelled) {
            return Some(failed(self.running?, FailureKind::Cancelled));
        }
        self.answers.recv_timeout(timeout).ok()
    }

    fn cancel(&mut self, _grace: Duration) {
        self.is_cancelled = true;
    }
}

/// Ends every trial at once, in the way that `end` says.
struct InstantRunner<F>(F, Option<TrialSpec>);

impl<F: FnMut(&TrialSpec) -> StudyEvent + Send> Runner for InstantRunner<F> {
    fn submit(&mut self, spec: &TrialSpec) {
        self.1 = Some(spec.clone());
    }

    fn next_event(&mut self, _timeout: Duration) -> Option<StudyEvent> {
        self.1.take().map(|spec| (self.0)(&spec))
    }

    fn cancel(&mut self, _grace: Duration) {}
}

fn header(spec: StudySpec) -> StudyHeader {
    let graph = trimtab::checkpoint::open(&spec.model).expect("the demo model opens").graph().clone();
    StudyHeader {
        app_version: "test".to_owned(),
        device: DeviceInfo::named(spec.device, "test"),
        graph,
        created_unix_secs: 0,
        data_hash: None,
        spec,
    }
}

fn run_instantly(
    spec: StudySpec,
    path: &Path,
    resume: bool,
    end: impl FnMut(&TrialSpec) -> StudyEvent + Send + 'static,
) -> Result<Study, StartError> {
    let runner = Box::new(InstantRunner(end, None));
    run_to_end(header(spec), path, resume, vec![runner], Arc::default(), &mut |_, _| {}).map(|end| end.study)
}

fn is_done(trial: &Trial) -> bool {
    trial.measurements().is_some()
}

/// Polls when woken until `holds`.
struct Window {
    session: Session,
    woken: Receiver<()>,
}

impl Window {
    fn open(dir: &Path) -> Self {
        let (wake, woken) = bounded(1);
        let wake: trimtab::session::Wake = Arc::new(move || wake.try_send(()).unwrap_or_default());
        let mut window = Self { session: Session::new(wake).with_studies_dir(dir.to_owned()), woken };
        window.session.open(demo_model());
        window.until("the model opens", |session| matches!(session.model(), ModelState::Open(_)));
        window
    }

    fn until(&mut self, what: &str, holds: impl Fn(&Session) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while self.session.poll(Duration::from_millis(4)).1 {}
            if holds(&self.session) {
                return;
            }
            let notices = self.session.take_notices();
            assert!(self.woken.recv_deadline(deadline).is_ok(), "{what}: {notices:?}");
        }
    }

    fn until_over(&mut self) -> Option<EndReason> {
        self.until("the study ends", |session| session.status().is_none());
        self.session.study().ended.clone()
    }
}

#[test]
fn a_study_runs_to_its_end_and_its_journal_tells_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut window = Window::open(dir.path());
    let (runner, strings) = puppet();
    assert!(window.session.status().is_none());
    window.session.start_with(study_spec(), None, vec![runner]).unwrap();
    let busy = window.session.start_with(study_spec(), None, vec![puppet().0]);
    assert!(matches!(busy, Err(StartError::Busy)));
    for n in 0..=RECIPES.len() as u32 {
        let spec = strings.submitted();
        assert_eq!(spec.id, TrialId(n), "trials run one at a time, in order");
        window.until("the trial is shown running", |session| {
            session.study().trials.get(&spec.id).is_some_and(|trial| trial.state == TrialState::Running)
        });
        strings.answer(StudyEvent::Progress { trial: spec.id, phase: trimtab::study::Phase::Load, done: 1, total: 2 });
        strings.answer(if n == 2 { failed(spec.id, FailureKind::OutOfMemory) } else { done(spec.id) });
    }
    assert_eq!(window.until_over(), Some(EndReason::Complete));
    let study = window.session.study();
    assert_eq!(study.trials.values().filter(|trial| is_done(trial)).count(), RECIPES.len());
    let path = window.session.journal().expect("it was recorded");
    assert!(path.starts_with(dir.path()) && path.file_name().unwrap().to_str().unwrap().starts_with("test-"));
    let (recorded, damage) = journal::read_study(path).unwrap();
    assert!(damage.is_empty());
    assert_eq!((&recorded.trials, &recorded.ended, &recorded.header), (&study.trials, &study.ended, &study.header));
}

#[test]
fn pause_starts_nothing_and_stop_keeps_what_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let mut window = Window::open(dir.path());
    let (runner, strings) = puppet();
    window.session.start_with(study_spec(), None, vec![runner]).unwrap();
    let first = strings.submitted();
    window.session.pause(true);
    strings.answer(done(first.id));
    window.until("the first trial ends", |session| session.status().is_some_and(|status| status.done == 1));
    let status = window.session.status().unwrap();
    assert!(status.paused && status.total == 6 && status.remaining_secs.is_some(), "{status:?}");
    assert!(strings.submitted.is_empty());
    window.session.pause(false);
    let second = strings.submitted();
    window.session.stop();
    assert_eq!(window.until_over(), Some(EndReason::Stopped));
    let (path, study) = (window.session.journal().unwrap().to_owned(), window.session.study().clone());
    assert!(is_done(&study.trials[&first.id]) && !is_done(&study.trials[&second.id]));

    // The stopped trial is tried again, the finished one is not.
    let keys_done = study.trials[&first.id].spec.key();
    let (runner, strings) = puppet();
    window.session.start_with(study_spec(), Some(path), vec![runner]).unwrap();
    let third = strings.submitted();
    assert_eq!(third.key(), second.key());
    assert_ne!(third.key(), keys_done);
    window.session.stop();
    assert_eq!(window.until_over(), Some(EndReason::Stopped));
}

#[test]
fn budgets_and_failures_in_a_row_end_a_study() {
    let dir = tempfile::tempdir().unwrap();
    // Trials from `first_failed` on panic.
    let check = |name: &str, budget: Budget, first_failed: u32, reason: &dyn Fn(&EndReason) -> bool, n: usize| {
        let path = dir.path().join(format!("{name}.study"));
        let spec = StudySpec { budget, ..study_spec() };
        let end = move |spec: &TrialSpec| {
            if spec.id.0 < first_failed { done(spec.id) } else { failed(spec.id, FailureKind::Panicked) }
        };
        let study = run_instantly(spec, &path, false, end).unwrap();
        assert!(study.ended.as_ref().is_some_and(reason), "{name}: {:?}", study.ended);
        assert_eq!(study.trials.len(), n, "{name}");
    };
    let none = Budget::default();
    check("complete", none, 9, &|reason| *reason == EndReason::Complete, 6);
    check("trials", Budget { trials: Some(2), secs: None }, 9, &|reason| *reason == EndReason::TrialBudget, 3);
    check("secs", Budget { trials: None, secs: Some(0.0) }, 9, &|reason| *reason == EndReason::TimeBudget, 0);
    let failing = |reason: &EndReason| matches!(reason, EndReason::Failing(text) if text.contains("worker panicked"));
    check("failing", none, 1, &failing, 6);
    let without_reference =
        |reason: &EndReason| matches!(reason, EndReason::Failing(text) if text.contains("reference"));
    check("without reference", none, 0, &without_reference, 1);

    // Recipes that cannot run say nothing about the next one.
    for kind in [FailureKind::Recipe, FailureKind::NonFinite] {
        let path = dir.path().join(format!("{kind:?}.study"));
        let spec = StudySpec { strategy: long_spec().strategy, ..study_spec() };
        let end =
            move |spec: &TrialSpec| if spec.id.0.is_multiple_of(10) { done(spec.id) } else { failed(spec.id, kind) };
        let study = run_instantly(spec, &path, false, end).unwrap();
        assert_eq!((study.ended, study.trials.len()), (Some(EndReason::Complete), 201));
    }
}

#[test]
fn pauses_do_not_use_up_the_time_budget() {
    const SECS: f64 = 3.0;
    let dir = tempfile::tempdir().unwrap();
    let mut window = Window::open(dir.path());
    let (runner, strings) = puppet();
    let spec = StudySpec { budget: Budget { trials: None, secs: Some(SECS) }, ..study_spec() };
    window.session.start_with(spec, None, vec![runner]).unwrap();
    let first = strings.submitted();
    window.session.pause(true);
    strings.answer(done(first.id));
    let early = strings.submitted.recv_timeout(Duration::from_secs_f64(SECS));
    assert!(early.is_err(), "a paused study starts nothing");
    window.session.pause(false);
    let second = strings.submitted();
    assert_ne!(second.id, first.id);
    assert!(window.session.status().is_some_and(|status| status.elapsed_secs < SECS));
    window.session.stop();
    assert_eq!(window.until_over(), Some(EndReason::Stopped));
}

#[test]
fn an_interrupted_run_ends_in_order_and_a_lost_journal_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.study");
    let (runner, _strings) = puppet();
    let stopping = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stopping);
    let end = run_to_end(header(study_spec()), &path, false, vec![runner], stopping, &mut |event, _| {
        if matches!(event, StudyEvent::TrialStarted { .. }) {
            seen.store(true, Ordering::Relaxed);
        }
    });
    let end = end.unwrap();
    assert_eq!((end.study.ended, end.unrecorded), (Some(EndReason::Stopped), None));
    assert_eq!(journal::read_study(&path).unwrap().0.ended, Some(EndReason::Stopped));

    let lost = dir.path().join("b.study");
    let runner = Box::new(InstantRunner(|spec: &TrialSpec| done(spec.id), None));
    let end = run_to_end(header(study_spec()), &lost, false, vec![runner], Arc::default(), &mut |event, _| {
        if event.trial() == Some(TrialId(2)) && lost.exists() {
            std::fs::remove_file(&lost).unwrap();
        }
    });
    let end = end.unwrap();
    assert_eq!(end.study.trials.len(), 6, "the study goes on");
    assert!(end.unrecorded.is_some_and(|why| why.contains("b.study")));
}

#[test]
fn a_recorded_study_replays_to_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.study");
    let end = |spec: &TrialSpec| if spec.id.0 == 3 { failed(spec.id, FailureKind::Recipe) } else { done(spec.id) };
    let first = run_instantly(study_spec(), &path, false, end).unwrap();
    let runner = ScriptedRunner::new(&journal::read(&path).unwrap().events);
    let other = dir.path().join("b.study");
    let again = run_to_end(header(study_spec()), &other, false, vec![Box::new(runner)], Arc::default(), &mut |_, _| {});
    assert_eq!(again.unwrap().study.trials, first.trials);

    let mut window = Window::open(dir.path());
    window.session.replay(path.clone());
    window.until("the study is shown", |session| session.journal() == Some(path.as_path()));
    assert_eq!(window.session.study().trials, first.trials);
    window.session.replay(dir.path().join("none.study"));
    let began = Instant::now();
    let mut notices = Vec::new();
    while notices.is_empty() && began.elapsed() < PATIENCE {
        window.woken.recv_timeout(PATIENCE).unwrap();
        window.session.poll(Duration::from_millis(4));
        notices = window.session.take_notices();
    }
    assert!(notices[0].1.contains("none.study"), "{notices:?}");
}

/// The environment variable that makes this test binary a program that writes a study.
const CHILD: &str = "TRIMTAB_TEST_WRITE_STUDY";

/// Does nothing unless [`CHILD`] names a journal: then it runs a study in it and says which trials are finished.
#[test]
fn write_a_study_when_asked() {
    use std::io::Write as _;
    let Some(path) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let resume = path.exists();
    let runner = Box::new(InstantRunner(|spec: &TrialSpec| done(spec.id), None));
    let mut out = std::io::stdout();
    run_to_end(header(long_spec()), &path, resume, vec![runner], Arc::default(), &mut |event, _| {
        if let StudyEvent::TrialFinished { trial, .. } = event {
            out.write_all(format!("finished {}\n", trial.0).as_bytes()).and_then(|()| out.flush()).unwrap();
        }
    })
    .unwrap();
}

/// Two hundred trials, each another recipe.
fn long_spec() -> StudySpec {
    let recipe = |n: u32| {
        let sparsity = trimtab::recipe::Sparsity::magnitude(f64::from(n + 1) / 400.0);
        Recipe::uniform(&n.to_string(), WeightFormat::Native, Some(sparsity))
    };
    StudySpec { strategy: StrategySpec::List { recipes: (0..200).map(recipe).collect() }, ..study_spec() }
}

#[expect(clippy::disallowed_methods, reason = "the program that is killed is this test binary")]
fn writing_child(path: &Path) -> Child {
    Command::new(std::env::current_exe().expect("a running program has a path"))
        .args(["--exact", "session::write_a_study_when_asked", "--nocapture", "--test-threads=1"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this program can be started")
}

#[test]
fn a_program_killed_while_it_writes_loses_no_finished_trial() {
    use std::io::{BufRead as _, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let mut path = dir.path().join("0.study");
    let mut told: Vec<u32> = Vec::new();
    let (mut state, mut n_killed) = (1_u64, 0);
    for round in 0..50_u32 {
        let mut child = writing_child(&path);
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // It goes on for a moment while the signal is under way, so the point within a record is random.
        let n_before_kill = (state >> 33) % 12;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let finished = |line: String| line.rsplit_once("finished ").and_then(|(_, id)| id.parse::<u32>().ok());
        told.extend(lines.by_ref().filter_map(finished).take(n_before_kill as usize));
        child.kill().unwrap();
        told.extend(lines.filter_map(finished));
        let is_complete = child.wait().unwrap().success();

        if path.exists() {
            let events = journal::read(&path).unwrap().events;
            let study = Study::from_events(&events);
            for id in &told {
                assert!(is_done(&study.trials[&TrialId(*id)]), "round {round}: trial {id} was told and is lost");
            }
            let mut keys: Vec<String> =
                study.trials.values().filter(|trial| is_done(trial)).map(|trial| trial.spec.key()).collect();
            let n_done = keys.len();
            keys.sort();
            keys.dedup();
            assert_eq!(keys.len(), n_done, "round {round}: a trial was repeated");
        }
        n_killed += u32::from(!is_complete);
        if is_complete {
            path = dir.path().join(format!("{}.study", round + 1));
            told.clear();
        }
    }
    assert!(n_killed >= 25, "only {n_killed} were killed in time");
    let study = run_instantly(long_spec(), &path, path.exists(), |spec| done(spec.id)).unwrap();
    assert_eq!(study.ended, Some(EndReason::Complete));
    assert_eq!(study.trials.values().filter(|trial| is_done(trial)).count(), 201);
}

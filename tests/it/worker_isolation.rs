//! A real worker process fails in every way; its host survives, names the failure, and the next trial runs.
//!
//! Faults are injected by `TRIMTAB_FAULT`, which only debug builds read.
#![cfg(debug_assertions)]

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use trimtab::device::DeviceSpec;
use trimtab::model::ModelSource;
use trimtab::recipe::Recipe;
use trimtab::study::{Caution, FailureKind, Outcome, Phase, StudyEvent, TrialId, TrialSpec, Workload};
use trimtab::worker::Runner as _;
use trimtab::worker::host::{Deadlines, WorkerConfig, WorkerHandle};

/// Processes and descriptors are counted: one test at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Every fault that ends the worker, with its class and what its message must contain.
const FAULTS: [(&str, FailureKind, &str); 13] = [
    ("panic", FailureKind::Panicked, "a fault on request in trial #0 (src/worker/fault.rs"),
    ("alloc", FailureKind::OutOfMemory, "no memory for another 1.00 TiB"),
    ("abort", FailureKind::Killed, "SIGABRT"),
    ("segv", FailureKind::Killed, "SIGSEGV"),
    ("kill", FailureKind::Killed, "ran out of memory"),
    ("exit0", FailureKind::Exited, "code 0 without a result"),
    ("hang", FailureKind::TimedOut, "no progress for 1.00 s while timing single tokens"),
    ("freeze", FailureKind::TimedOut, "no "),
    ("garbage", FailureKind::Protocol, "garbled"),
    ("oversize", FailureKind::Protocol, "16777217 bytes"),
    ("stray", FailureKind::Protocol, "a finished trial does not fit"),
    ("fork", FailureKind::Exited, "code 0"),
    ("oom", FailureKind::OutOfMemory, "no memory left"),
];

fn handle(fault: &str) -> WorkerHandle {
    let deadlines = Deadlines {
        silence: Duration::from_secs(4),
        step: Duration::from_secs(1),
        grace: Duration::from_millis(200),
        ..Deadlines::default()
    };
    WorkerHandle::new(WorkerConfig {
        exe: PathBuf::from(env!("CARGO_BIN_EXE_trimtab")),
        source: ModelSource::Safetensors { dir: PathBuf::from("unused") },
        device: DeviceSpec::Cpu { threads: 1 },
        deadlines,
        env: vec![("TRIMTAB_FAULT".to_owned(), fault.to_owned())],
    })
}

fn spec(id: u32) -> TrialSpec {
    TrialSpec {
        id: TrialId(id),
        recipe: Recipe::reference(),
        device: DeviceSpec::Cpu { threads: 1 },
        workload: Workload::default(),
        seed: 0,
    }
}

/// The end of the running trial; `observe` sees the events before it.
fn finished(
    handle: &mut WorkerHandle,
    mut observe: impl FnMut(&mut WorkerHandle, &StudyEvent),
) -> (Outcome, Vec<Caution>) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while Instant::now() < deadline {
        match handle.next_event(Duration::from_millis(50)) {
            Some(StudyEvent::TrialFinished { outcome, cautions, elapsed_secs, memory_curve, .. }) => {
                assert!(elapsed_secs.is_finite() && memory_curve.len() <= 256);
                assert!(handle.next_event(Duration::ZERO).is_none(), "a trial ends once");
                return (outcome, cautions);
            }
            Some(event) => observe(handle, &event),
            None => {}
        }
    }
    panic!("the trial did not end");
}

fn run(handle: &mut WorkerHandle, id: u32) -> (Outcome, Vec<Caution>) {
    handle.submit(&spec(id));
    finished(handle, |_, _| {})
}

fn assert_gone(pid: u32) {
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "worker {pid} is still there, or nobody waited for it");
}

fn n_pipes() -> usize {
    let links = std::fs::read_dir("/proc/self/fd")
        .expect("the kernel lists descriptors")
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.filter(|target| target.to_string_lossy().starts_with("pipe:")).count()
}

fn n_worker_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("the kernel lists threads").flatten();
    tasks
        .filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("worker-s")))
        .count()
}

/// Waits for threads that end just after their process; the bound is for a broken program only.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn every_fault_is_named_and_the_next_trial_runs_in_a_fresh_worker() {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let pipes = n_pipes();
    for (mode, kind, part) in FAULTS {
        let mut handle = handle(&format!("{mode}@0"));
        handle.submit(&spec(0));
        let pid = handle.pid().unwrap();
        let (outcome, cautions) = finished(&mut handle, |_, _| {});
        let Outcome::Failed(failure) = outcome else { panic!("{mode}: {outcome:?}") };
        assert_eq!(failure.kind, kind, "{mode}: {failure:?}");
        assert!(failure.message.contains(part), "{mode}: {:?} lacks {part:?}", failure.message);
        assert!(!cautions.contains(&Caution::FreshWorker), "{mode}");
        assert_eq!(handle.pid(), None, "{mode}: a worker that saw a fault is not kept");
        assert_gone(pid);

        let (outcome, cautions) = run(&mut handle, 1);
        assert!(matches!(outcome, Outcome::Done(_)), "after {mode}: {outcome:?}");
        assert!(cautions.contains(&Caution::FreshWorker), "after {mode}");
        let fresh = handle.pid().unwrap();
        let (outcome, cautions) = run(&mut handle, 2);
        assert!(matches!(outcome, Outcome::Done(_)) && cautions.is_empty(), "{mode}: {outcome:?} {cautions:?}");
        assert_eq!(handle.pid(), Some(fresh), "{mode}: a healthy worker is kept");
        drop(handle);
        assert_gone(fresh);
    }
    eventually("threads of ended workers go on", || n_worker_threads() == 0);
    // Other tests may hold a few pipes of their own; a leak here would hold three a worker.
    eventually("pipes of ended workers stay open", || n_pipes() <= pipes + FAULTS.len());
}

#[test]
fn a_worker_that_only_looks_bad_is_kept() {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut handle = handle("noise@0,nonfinite@1,flood@2");
    let (outcome, cautions) = run(&mut handle, 0);
    assert!(matches!(outcome, Outcome::Done(_)) && cautions.is_empty(), "{outcome:?} {cautions:?}");
    let pid = handle.pid();
    let (outcome, _) = run(&mut handle, 1);
    assert!(matches!(&outcome, Outcome::Failed(failure) if failure.kind == FailureKind::NonFinite), "{outcome:?}");
    let (outcome, cautions) = run(&mut handle, 2);
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    assert!(matches!(cautions[..], [Caution::LostLiveSamples { n }] if n > 100_000), "{cautions:?}");
    assert_eq!(handle.pid(), pid);
}

#[test]
fn a_cancel_keeps_a_worker_that_obeys_and_ends_one_that_does_not() {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut handle = handle("wait@0,hang@1");
    let cancel = |grace| {
        move |handle: &mut WorkerHandle, event: &StudyEvent| {
            if matches!(event, StudyEvent::Progress { phase: Phase::Decode, done: 1, .. }) {
                handle.cancel(grace);
            }
        }
    };
    handle.submit(&spec(0));
    let pid = handle.pid().unwrap();
    let (outcome, _) = finished(&mut handle, cancel(Duration::from_secs(20)));
    assert!(matches!(&outcome, Outcome::Failed(failure) if failure.kind == FailureKind::Cancelled), "{outcome:?}");
    assert_eq!(handle.pid(), Some(pid));

    handle.submit(&spec(1));
    let (outcome, _) = finished(&mut handle, cancel(Duration::from_millis(100)));
    assert!(matches!(&outcome, Outcome::Failed(failure) if failure.kind == FailureKind::Cancelled), "{outcome:?}");
    assert_eq!(handle.pid(), None);
    assert_gone(pid);
}

#[test]
fn a_program_that_is_no_worker_is_a_failed_trial() {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let cases = [("/nonexistent/trimtab", "start the worker"), ("/bin/true", "before it was ready")];
    for (exe, part) in cases {
        let mut config =
            WorkerConfig::new(ModelSource::Gguf { file: "unused".into() }, DeviceSpec::Cpu { threads: 1 }).unwrap();
        config.exe = exe.into();
        let mut handle = WorkerHandle::new(config);
        for id in 0..2 {
            let (outcome, _) = run(&mut handle, id);
            let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
            assert_eq!(failure.kind, FailureKind::Spawn);
            assert!(failure.message.contains(part), "{failure:?}");
        }
    }
}

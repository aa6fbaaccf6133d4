//! The worker for NVIDIA cards, built with the feature `cuda`: found, greeted as the same build, and refused in one line
//! where there is no driver. On a machine with a card the same tests see the card.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use trimtab::device::DeviceSpec;
use trimtab::model::ModelSource;
use trimtab::recipe::Recipe;
use trimtab::study::{FailureKind, Outcome, SpeedWorkload, StudyEvent, TrialId, TrialSpec, Workload};
use trimtab::worker::Runner as _;
use trimtab::worker::cuda::PROGRAM_VARIABLE;
use trimtab::worker::host::{Deadlines, WorkerConfig, WorkerHandle};

const WORKER: &str = env!("CARGO_BIN_EXE_trimtab-worker-cuda");
const NO_DRIVER: &str = "libcuda.so.1 was not found; install NVIDIA's driver, 580 or newer";

#[expect(clippy::disallowed_methods, reason = "the programs are what is tested")]
fn run(program: &str, worker: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).env(PROGRAM_VARIABLE, worker).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Whether the driver is here: told by the worker itself, which must then name a device or say in one line why not.
fn has_driver() -> bool {
    let output = run(WORKER, "", &[]);
    let said = text(&output.stderr);
    if output.status.success() {
        assert!(text(&output.stdout).starts_with("CUDA 0: "), "{output:?}");
    } else {
        assert!(output.status.code() == Some(2) && said.lines().count() == 1 && said.starts_with("error: "), "{said}");
    }
    !said.contains(NO_DRIVER)
}

#[test]
fn devices_are_listed_with_the_reason_where_trials_cannot_run() {
    let devices = |worker: &str| {
        let output = run(env!("CARGO_BIN_EXE_trimtab"), worker, &["devices"]);
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout).to_owned()
    };
    let listed = devices(WORKER);
    assert!(listed.starts_with("CPU, "), "{listed}");
    if has_driver() {
        assert!(listed.contains("\nCUDA 0: "), "{listed}");
    } else {
        assert!(listed.contains("\nCUDA 0: NVIDIA GPU (not now: trimtab-worker-cuda does not start: "), "{listed}");
        assert!(listed.contains(NO_DRIVER), "{listed}");
    }
    // A program that is something else.
    let listed = devices("/bin/true");
    assert!(listed.contains("trimtab-worker-cuda does not start: the worker ended with code 0"), "{listed}");
}

#[test]
fn a_command_that_asks_for_a_card_says_why_there_is_none() {
    if has_driver() {
        return;
    }
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/stories15M");
    let args = ["bench", model.to_str().unwrap(), "--recipe", "none", "--device", "cuda:0"];
    let output = run(env!("CARGO_BIN_EXE_trimtab"), WORKER, &args);
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains(NO_DRIVER), "{output:?}");
}

fn trial(env: Vec<(String, String)>) -> Outcome {
    let device = DeviceSpec::Cuda { ordinal: 0 };
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("assets/demo/stories15M");
    let source = ModelSource::Safetensors { dir };
    let config = WorkerConfig { exe: WORKER.into(), source, device, deadlines: Deadlines::default(), env };
    let mut handle = WorkerHandle::new(config);
    let speed = Some(SpeedWorkload { prompt: 8, decode: 4, repetitions: 2 });
    let workload = Workload { speed, ..Workload::default() };
    handle.submit(&TrialSpec { id: TrialId(0), recipe: Recipe::reference(), device, workload, seed: 0 });
    loop {
        if let Some(StudyEvent::TrialFinished { outcome, .. }) = handle.next_event(Duration::from_secs(30)) {
            return outcome;
        }
    }
}

#[test]
fn both_programs_are_one_build_and_a_trial_without_a_driver_fails_with_the_reason() {
    // The executor that measures nothing: what is tested is the greeting.
    let fault = vec![("TRIMTAB_FAULT".to_owned(), String::new())];
    assert!(matches!(trial(fault), Outcome::Done(_)));
    match trial(Vec::new()) {
        Outcome::Done(measured) => {
            assert!(has_driver() && measured.products.keys().all(|product| product.ends_with("(cuda)")));
        }
        Outcome::Failed(failure) => {
            assert!(!has_driver() && failure.kind == FailureKind::Spawn, "{failure:?}");
            assert!(failure.message.contains(NO_DRIVER), "{failure:?}");
        }
    }
}

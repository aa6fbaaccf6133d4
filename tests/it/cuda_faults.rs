//! Everything that can go wrong on a card, through the worker's program and its host: each fault is a result with its
//! class, its reason and its memory, the worker is replaced, and the next trial has the numbers that it always had.

use std::path::Path;
use std::time::Duration;

use trimtab::recipe::Recipe;
use trimtab::study::{Caution, FailureKind, Outcome, Phase, Quality, SampleWorkload, StudyEvent, TrialSpec, Workload};
use trimtab::worker::Runner as _;
use trimtab::worker::host::{Deadlines, WorkerHandle};

use crate::cuda_twin::{CARD, Finished, Toy, run, run_with, shipped};

/// A fault in the script's words, its class, and what its reason must contain.
type Fault = (&'static str, FailureKind, &'static str);

const ADDRESS: Fault = ("launch:60:700", FailureKind::Device, "the card stopped a kernel: illegal address (error 700)");
const MEMORY: Fault = ("allocate:45:2", FailureKind::OutOfMemory, "the card has no memory left for ");

const FAULTS: [Fault; 14] = [
    ADDRESS,
    MEMORY,
    ("allocate:1:2", FailureKind::OutOfMemory, "choose a smaller model"),
    ("load:1:2", FailureKind::OutOfMemory, "the card has no memory left; choose"),
    ("launch:1:719", FailureKind::Device, "the card stopped a kernel: launch failed (error 719)"),
    ("launch:61:716", FailureKind::Device, "misaligned address (error 716)"),
    ("launch:62:702", FailureKind::Device, "launch timeout (error 702)"),
    ("launch:63:710", FailureKind::Device, "assert (error 710)"),
    ("launch:64:214", FailureKind::Device, "the card was lost: ecc uncorrectable (error 214)"),
    ("launch:30:lost", FailureKind::Device, "the card was lost: unknown (error 999)"),
    ("copy:3:lost", FailureKind::Device, "the card was lost: unknown (error 999)"),
    ("copy:20:700", FailureKind::Device, "illegal address (error 700)"),
    ("init:1:803", FailureKind::Device, "the NVIDIA driver refused: system driver mismatch (error 803)"),
    ("load:1:46", FailureKind::Device, "the NVIDIA driver refused: device unavailable (error 46)"),
];

fn quality(finished: Finished) -> Quality {
    match finished.outcome {
        Outcome::Done(measurements) => measurements.quality.unwrap(),
        Outcome::Failed(failure) => panic!("{failure:?}"),
    }
}

fn assert_failed(finished: &Finished, kind: FailureKind, reason: &str, what: &str) {
    let Outcome::Failed(failure) = &finished.outcome else { panic!("{what}: {finished:?}") };
    assert!(failure.kind == kind && failure.message.contains(reason), "{what}: {failure:?}");
    assert!(!finished.memory.is_empty(), "{what}: its memory is known");
}

fn assert_gone(pid: u32) {
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "worker {pid} is still there, or nobody waited for it");
}

/// What trials of one recipe find where nothing goes wrong.
struct Study {
    toy: Toy,
    recipe: Recipe,
    expected: Quality,
}

impl Study {
    fn new() -> Self {
        Self::of(Toy::new(), shipped("q8_0"))
    }

    fn of(toy: Toy, recipe: Recipe) -> Self {
        let expected = quality(run(&mut toy.handle(""), &toy.quality(0, &recipe, CARD)));
        Self { toy, recipe, expected }
    }

    fn spec(&self, number: u32) -> TrialSpec {
        self.toy.quality(number, &self.recipe, CARD)
    }

    /// A script with one fault that only the first worker meets.
    fn once(&self, fault: &str) -> String {
        let file = self.toy.path().join("armed");
        std::fs::write(&file, "").unwrap();
        format!("fault={fault};once={}", file.display())
    }

    fn is_armed(&self) -> bool {
        self.toy.path().join("armed").exists()
    }

    /// The next trial runs in a new worker and finds what it would have found anyway.
    fn check_next(&self, handle: &mut WorkerHandle, number: u32, what: &str) {
        let next = run(handle, &self.spec(number));
        assert!(next.cautions.contains(&Caution::FreshWorker), "{what}: {:?}", next.cautions);
        assert_eq!(quality(next), self.expected, "{what}");
    }
}

#[test]
fn a_fault_is_a_result_and_the_next_trial_has_the_same_numbers() {
    let study = Study::new();
    for (fault, kind, reason) in FAULTS {
        let mut handle = study.toy.handle(&study.once(fault));
        let mut pid = None;
        let failed = run_with(&mut handle, &study.spec(0), |handle, _| pid = handle.pid());
        assert_failed(&failed, kind, reason, fault);
        assert!(!study.is_armed() && handle.pid().is_none(), "{fault}: a worker that saw a fault is not kept");
        pid.into_iter().for_each(assert_gone);
        study.check_next(&mut handle, 1, fault);
        let kept = handle.pid();
        assert_eq!(quality(run(&mut handle, &study.spec(2))), study.expected, "{fault}");
        assert!(kept.is_some() && handle.pid() == kept, "{fault}: a healthy worker is kept");
    }
}

#[test]
fn a_fault_while_a_layer_is_compressed_has_its_class() {
    let study = Study::new();
    // Nothing is calibrated: the first kernels are those of singular values.
    let plain = "format_version = 1\nname = \"plain\"\n[default]\nweights = \"native\"\n\
                 low_rank = { method = \"svd\", ratio = 0.7 }\n";
    let recipe = Recipe::from_toml(plain).unwrap();
    for (fault, kind, reason) in [
        (
            "launch:2:700",
            FailureKind::Device,
            "q_proj: compress: the card stopped a kernel: illegal address (error 700)",
        ),
        ("allocate:30:2", FailureKind::OutOfMemory, "v_proj: compress: the card has no memory left for "),
    ] {
        let mut handle = study.toy.handle(&study.once(fault));
        let spec = TrialSpec { recipe: recipe.clone(), ..study.spec(0) };
        assert_failed(&run(&mut handle, &spec), kind, reason, fault);
        study.check_next(&mut handle, 1, fault);
    }
}

#[test]
fn a_fault_in_a_recorded_step_is_a_result() {
    let study = Study::new();
    let sample = SampleWorkload { prompt: "ĀāĂ".to_owned(), tokens: 12, temperature: 0.0 };
    let workload = Workload { sample: Some(sample), ..Workload::default() };
    let spec = |number| TrialSpec { workload: workload.clone(), ..study.spec(number) };
    let text = |finished: Finished| match finished.outcome {
        Outcome::Done(measurements) => measurements.sample_text.unwrap(),
        Outcome::Failed(failure) => panic!("{failure:?}"),
    };
    let expected = text(run(&mut study.toy.handle(""), &spec(0)));
    // Well behind the prompt.
    let mut handle = study.toy.handle(&study.once("launch:150:700"));
    assert_failed(&run(&mut handle, &spec(0)), ADDRESS.1, ADDRESS.2, "a recorded step");
    assert_eq!(text(run(&mut handle, &spec(1))), expected);
}

#[test]
fn a_fault_while_a_card_calibrates_is_a_result() {
    let toy = Toy::new();
    let recipe = shipped("w8a8-smooth").calibrated_on(&toy.path().join("text.jsonl"));
    let study = Study::of(toy, recipe);
    for (fault, kind, reason) in [
        ("launch:30:700", FailureKind::Device, "illegal address (error 700)"),
        ("launch:40:lost", FailureKind::Device, "the card was lost: unknown (error 999)"),
    ] {
        // What was kept of the trial before would need no calibration.
        std::fs::remove_dir_all(study.toy.path().join("cache")).unwrap();
        let mut handle = study.toy.handle(&study.once(fault));
        let mut last = None;
        let failed = run_with(&mut handle, &study.spec(0), |_, event| {
            if let StudyEvent::Progress { phase, .. } = event {
                last = Some(*phase);
            }
        });
        assert_eq!(last, Some(Phase::Calibrate), "{fault}");
        assert_failed(&failed, kind, reason, fault);
        study.check_next(&mut handle, 1, fault);
    }
}

#[test]
fn faults_one_after_another_leave_nothing_behind() {
    let study = Study::new();
    for ((fault, kind, reason), times) in [(MEMORY, 50), (ADDRESS, 20)] {
        // Every worker meets it.
        let mut handle = study.toy.handle(&format!("fault={fault}"));
        for number in 0..times {
            let failed = run(&mut handle, &study.spec(number));
            assert_failed(&failed, kind, reason, fault);
            assert_eq!(failed.cautions.contains(&Caution::FreshWorker), number > 0, "{fault}");
        }
        drop(handle);
        assert_eq!(quality(run(&mut study.toy.handle(""), &study.spec(0))), study.expected, "{fault}");
    }
}

#[test]
fn a_card_that_is_too_small_is_out_of_memory_every_time() {
    let study = Study::new();
    let mut handle = study.toy.handle("memory=120000");
    for number in 0..2 {
        let failed = run(&mut handle, &study.spec(number));
        assert_failed(&failed, FailureKind::OutOfMemory, "the card has no memory left for ", "a small card");
    }
}

#[test]
fn a_kernel_that_hangs_ends_at_the_deadline_and_by_a_cancel() {
    let study = Study::new();
    let (first_step, grace) = (Duration::from_secs(3), Duration::from_millis(200));
    let deadlines = Deadlines { first_step, step: first_step, step_factor: 1, grace, ..Deadlines::default() };
    let mut handle = study.toy.handle_with(&study.once("launch:60:hang"), deadlines);
    let failed = run(&mut handle, &study.spec(0));
    assert_failed(&failed, FailureKind::TimedOut, "no progress for 3.00 s while scoring the variant", "a hang");
    assert!(handle.pid().is_none());
    study.check_next(&mut handle, 1, "a hang");

    let mut handle = study.toy.handle(&study.once("launch:60:hang"));
    let failed = run_with(&mut handle, &study.spec(0), |handle, event| {
        if matches!(event, StudyEvent::MemorySampled { .. }) && !study.is_armed() {
            handle.cancel(grace);
        }
    });
    assert_failed(&failed, FailureKind::Cancelled, "the worker was ended", "a cancelled hang");
    assert!(handle.pid().is_none());
    study.check_next(&mut handle, 1, "a cancelled hang");
}

#[test]
fn a_cancelled_trial_keeps_its_worker_and_the_card_as_they_were() {
    let study = Study::new();
    let mut handle = study.toy.handle("");
    for number in 0..3 {
        let cancelled = run_with(&mut handle, &study.spec(2 * number), |handle, event| {
            if matches!(event, StudyEvent::Progress { phase: Phase::Quality, .. }) {
                handle.cancel(Duration::from_secs(20));
            }
        });
        // A trial of so few steps may be over before it hears of it.
        if let Outcome::Failed(failure) = &cancelled.outcome {
            assert_eq!(failure.kind, FailureKind::Cancelled, "{failure:?}");
        }
        let pid = handle.pid();
        assert_eq!(quality(run(&mut handle, &study.spec(2 * number + 1))), study.expected);
        assert!(pid.is_some() && handle.pid() == pid);
    }
}

#[test]
fn the_peak_of_a_trial_is_its_own() {
    let study = Study::new();
    let peak = |finished: Finished| match finished.outcome {
        Outcome::Done(measurements) => measurements.memory.peak_gpu_bytes.unwrap(),
        Outcome::Failed(failure) => panic!("{failure:?}"),
    };
    let small = TrialSpec { recipe: Recipe::reference(), ..study.spec(1) };
    let alone = peak(run(&mut study.toy.handle(""), &small));
    let mut handle = study.toy.handle("");
    let large = peak(run(&mut handle, &study.spec(0)));
    assert!(large > alone, "a variant beside the reference takes more: {large} {alone}");
    assert_eq!(peak(run(&mut handle, &small)), alone);
}

#[test]
fn a_model_whose_files_are_damaged_is_a_result() {
    let toy = Toy::new();
    let path = toy.path().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let trial = |number, recipe: &str| toy.quality(number, &shipped(recipe), CARD);

    // The last weight of the last matrix, which the norm of the output follows.
    let (mut broken, place) = (whole.clone(), whole.len() - 32 * 4 - 4);
    broken[place..place + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, broken).unwrap();
    let failed = run(&mut toy.handle(""), &trial(0, "q8_0"));
    let reason = "weight 2047 of model.layers.1.mlp.down_proj.weight is not finite";
    assert_failed(&failed, FailureKind::Model, reason, "not a number");

    // A file that is cut off while the worker has it open.
    std::fs::write(&path, &whole).unwrap();
    let mut handle = toy.handle("");
    let mut loaded = Vec::new();
    let first = run_with(&mut handle, &trial(0, "q8_0"), |_, event| {
        if let StudyEvent::Progress { phase: Phase::Load, done, total, .. } = event {
            loaded.push((*done, *total));
        }
    });
    assert!(matches!(first.outcome, Outcome::Done(_)), "{first:?}");
    assert!(loaded.is_sorted() && loaded.iter().all(|(_, total)| *total == 15), "matrices: {loaded:?}");
    std::fs::File::options().write(true).open(&path).unwrap().set_len(whole.len() as u64 / 2).unwrap();
    let failed = run(&mut handle, &trial(1, "q4_0"));
    assert_failed(&failed, FailureKind::Model, "file changed while being read", "cut off");
}

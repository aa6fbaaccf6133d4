//! The journal as the rest of the program sees it.

use std::path::Path;
use std::time::Instant;

use trimtab::recipe::Recipe;
use trimtab::study::journal::{JournalError, JournalWriter, read, read_study};
use trimtab::study::{Failure, FailureKind, Outcome, StudyEvent, TrialId, TrialSpec, TrialState};

fn trial(id: u32) -> [StudyEvent; 2] {
    let device = trimtab::device::DeviceSpec::Cpu { threads: 1 };
    let workload = trimtab::study::Workload::default();
    let spec = TrialSpec { id: TrialId(id), recipe: Recipe::reference(), device, workload, seed: 0 };
    let outcome = Outcome::Failed(Failure::new(FailureKind::OutOfMemory, "no room"));
    let (cautions, memory_curve) = (vec![], vec![(0, 1)]);
    [
        StudyEvent::TrialStarted { spec: Box::new(spec) },
        StudyEvent::TrialFinished { trial: TrialId(id), outcome, cautions, elapsed_secs: 0.5, memory_curve },
    ]
}

#[test]
fn a_study_is_written_stopped_and_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.study");
    let mut writer = JournalWriter::create(&path).unwrap();
    for event in trial(0) {
        writer.append(&event).unwrap();
    }
    let [started, _] = trial(1);
    writer.append(&started).unwrap();
    // While it is written, others can read it and nobody else can write it.
    assert_eq!(read(&path).unwrap().events.len(), 3);
    assert!(matches!(JournalWriter::resume(&path), Err(JournalError::Locked { .. })));
    drop(writer);

    let (mut writer, opened) = JournalWriter::resume(&path).unwrap();
    assert_eq!(opened.events.len(), 3);
    let [_, finished] = trial(1);
    writer.append(&finished).unwrap();
    let (study, damage) = read_study(&path).unwrap();
    assert!(damage.is_empty());
    assert!(study.trials.values().all(|trial| matches!(trial.state, TrialState::Finished { .. })));
    assert_eq!(study.trials.len(), 2);
}

#[test]
fn what_is_missing_or_no_study_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let check = |path: &Path, expected: &str| {
        for message in [read(path).unwrap_err().to_string(), JournalWriter::resume(path).unwrap_err().to_string()] {
            assert!(message.contains(expected), "{message}");
        }
    };
    check(&folder.path().join("missing.study"), "open the journal: No such file");
    let text = folder.path().join("text.study");
    std::fs::write(&text, "a letter to a friend\n").unwrap();
    check(&text, "not a study");
    assert_eq!(std::fs::read_to_string(&text).unwrap(), "a letter to a friend\n");
    let message = JournalWriter::create(&folder.path().join("no/folder/a.study")).unwrap_err().to_string();
    assert!(message.contains("No such file"), "{message}");
}

/// 10,000 records, 2.2 MB, take 20 ms here; the limit is far from what any machine needs.
#[test]
fn ten_thousand_records_load_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.study");
    let mut writer = JournalWriter::create(&path).unwrap();
    for id in 0..10_000 {
        let [started, _] = trial(id);
        writer.append(&started).unwrap();
    }
    let began = Instant::now();
    let opened = read(&path).unwrap();
    let elapsed = began.elapsed();
    assert_eq!(opened.events.len(), 10_000);
    assert!(elapsed.as_secs() < 10, "{elapsed:?}");
}

//! A recorded study is the fold of its journal, whatever made the journal.

use std::path::{Path, PathBuf};

use trimtab::study::journal::{JournalWriter, read, read_study};
use trimtab::study::{EndReason, FailureKind, Outcome, Study, StudyEvent, TrialId, TrialState};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1.study")
}

/// The first journal of format 1 stays readable for ever: this file is never written again.
#[test]
fn the_recorded_study_is_the_fold_of_its_events() {
    let opened = read(&fixture()).unwrap();
    assert_eq!(opened.damage, [] as [&str; 0]);
    let (study, damage) = read_study(&fixture()).unwrap();
    assert!(damage.is_empty());
    assert_eq!(study, Study::from_events(&opened.events));

    let header = study.header.as_ref().unwrap();
    assert_eq!((header.spec.name.as_str(), header.graph.layers.len()), ("ladder of sparsity", 1));
    assert_eq!(study.trials.keys().map(|id| id.0).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(study.ended, Some(EndReason::Complete));
    assert!((study.reference().unwrap().quality.as_ref().unwrap().perplexity.value - 3.357).abs() < 1e-9);
    let sparse = study.trials[&TrialId(1)].measurements().unwrap();
    assert!(sparse.speed.as_ref().unwrap().decode.ratio.unwrap().is_resolved());
    assert_eq!(study.trials[&TrialId(1)].cautions().len(), 2);
    let TrialState::Finished { outcome: Outcome::Failed(failure), .. } = &study.trials[&TrialId(2)].state else {
        panic!("trial 2 was killed");
    };
    assert_eq!(failure.kind, FailureKind::Killed);
}

#[test]
fn every_recorded_event_round_trips() {
    let events = read(&fixture()).unwrap().events;
    for event in &events {
        let json = serde_json::to_string(event).unwrap();
        assert_eq!(&serde_json::from_str::<StudyEvent>(&json).unwrap(), event, "{json}");
    }
    // Written again, the file is the same to the byte: nothing in it depends on when or where it is written.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("again.study");
    let mut writer = JournalWriter::create(&path).unwrap();
    for event in &events {
        writer.append(event).unwrap();
    }
    assert_eq!(std::fs::read(path).unwrap(), std::fs::read(fixture()).unwrap());
}

#[test]
fn a_study_read_half_way_is_the_fold_of_that_half() {
    let events = read(&fixture()).unwrap().events;
    let mut live = Study::default();
    for (n, event) in events.iter().enumerate() {
        live.apply(event);
        assert_eq!(live, Study::from_events(&events[..=n]));
    }
}

//! Which studies go on, with what, and what is run again.

use super::*;

#[test]
fn failures_count_against_the_budget_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.study");
    let spec = |trials| StudySpec { budget: Budget { trials: Some(trials), secs: None }, ..study_spec() };
    let end = |kind| move |spec: &TrialSpec| if spec.id.0 == 1 { failed(spec.id, kind) } else { done(spec.id) };
    let study = run_instantly(spec(2), &path, false, end(FailureKind::Killed)).unwrap();
    assert_eq!((study.ended, study.trials.len()), (Some(EndReason::TrialBudget), 3));
    // The killed one is run again in place of nothing: one more fits a budget of three.
    let study = run_instantly(spec(3), &path, true, end(FailureKind::Killed)).unwrap();
    assert_eq!((study.ended, study.trials.len()), (Some(EndReason::TrialBudget), 4));
}

#[test]
fn a_killed_reference_does_not_end_a_study_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.study");
    let study = run_instantly(study_spec(), &path, false, |spec| failed(spec.id, FailureKind::Killed)).unwrap();
    assert_eq!(study.trials.len(), 1);
    let study = run_instantly(study_spec(), &path, true, |spec| done(spec.id)).unwrap();
    assert_eq!((study.ended, study.trials.len()), (Some(EndReason::Complete), 6));
}

#[test]
fn a_changed_text_is_another_study() {
    let dir = tempfile::tempdir().unwrap();
    let (path, data) = (dir.path().join("a.study"), dir.path().join("text.jsonl"));
    let quality =
        QualityWorkload { data: data.clone(), protocol: Protocol::Gptq, context: 8, windows: None, dequantized: false };
    let spec = StudySpec { workload: Workload { quality: Some(quality), ..Workload::default() }, ..study_spec() };
    std::fs::write(&data, "before").unwrap();
    let study = run_instantly(spec.clone(), &path, false, |spec| done(spec.id)).unwrap();
    assert_eq!(study.header.unwrap().data_hash.unwrap().len(), 32);
    let refused = |part: &str| {
        let found = run_instantly(spec.clone(), &path, true, |spec| done(spec.id));
        assert!(matches!(&found, Err(StartError::Mismatch(why)) if why.contains(part)), "{part}: {found:?}");
    };
    std::fs::write(&data, "after").unwrap();
    refused("the text changed since the study began");
    std::fs::remove_file(&data).unwrap();
    refused("the text cannot be read");
    std::fs::write(&data, "before").unwrap();
    run_instantly(spec.clone(), &path, true, |spec| done(spec.id)).unwrap();
}

#[test]
fn a_journal_of_another_study_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.study");
    let first = StudySpec { budget: Budget { trials: Some(1), secs: None }, ..study_spec() };
    run_instantly(first, &path, false, |spec| done(spec.id)).unwrap();
    let other_seed = StudySpec { seed: 8, ..study_spec() };
    let other_device = StudySpec { device: DeviceSpec::Cpu { threads: 2 }, ..study_spec() };
    for (spec, part) in [(other_seed, "seed"), (other_device, "CPU, 1 thread")] {
        let refused = run_instantly(spec, &path, true, |spec| done(spec.id));
        assert!(matches!(&refused, Err(StartError::Mismatch(why)) if why.contains(part)), "{refused:?}");
    }
    // A larger budget is the same study.
    let limits = Limits { max_kl: Some(0.5), max_perplexity_ratio: None };
    let study = run_instantly(StudySpec { limits, ..study_spec() }, &path, true, |spec| done(spec.id)).unwrap();
    assert_eq!(study.ended, Some(EndReason::Complete));
    assert_eq!(study.trials.len(), 6);
    // What it is judged by from now on is in the journal.
    let (recorded, _) = journal::read_study(&path).unwrap();
    let spec = &recorded.header.as_ref().unwrap().spec;
    assert_eq!((spec.limits, spec.budget), (limits, Budget::default()));
    assert_eq!((&recorded.trials, &recorded.ended), (&study.trials, &study.ended));
}

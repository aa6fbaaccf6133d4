//! One study on two cards at the same time.

use std::sync::Mutex;

use super::*;

fn cards() -> [DeviceSpec; 2] {
    [0, 1].map(|ordinal| DeviceSpec::Cuda { ordinal })
}

fn shared_spec() -> StudySpec {
    let cards = cards();
    StudySpec { device: cards[0], also_on: vec![cards[1], cards[0]], ..study_spec() }
}

#[test]
fn neither_card_waits_for_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut window = Window::open(dir.path());
    let ([one, two], cards) = ([puppet(), puppet()], cards());
    window.session.start_with(shared_spec(), None, vec![one.0, two.0]).unwrap();
    let (first, second) = (one.1.submitted(), two.1.submitted());
    assert_eq!((first.id, first.device), (TrialId(0), cards[0]));
    assert_eq!((second.id, second.device), (TrialId(1), cards[1]));
    two.1.answer(failed(second.id, FailureKind::OutOfMemory));
    let third = two.1.submitted();
    assert_eq!((third.id, third.device), (TrialId(2), cards[1]), "the first is still at its trial");
    one.1.answer(done(first.id));
    two.1.answer(done(third.id));
    let (fourth, fifth) = (one.1.submitted(), two.1.submitted());
    assert_eq!(fourth.id.0 + fifth.id.0, 3 + 4);
    assert_eq!([fourth.device, fifth.device], cards);
    window.session.stop();
    assert_eq!(window.until_over(), Some(EndReason::Stopped));
    let study = window.session.study();
    assert_eq!(study.trials.len(), 5);
    assert_eq!(study.trials[&TrialId(2)].spec.device, cards[1], "a result says where it was found");
}

#[test]
fn a_shared_study_goes_on_on_whichever_card_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shared.study");
    let seen = Arc::new(Mutex::new(Vec::new()));
    // The reference and two variants end, the fourth trial loses its card.
    let run = |resume: bool, budget: Budget, also_on: Vec<DeviceSpec>| {
        let runner = || {
            let seen = Arc::clone(&seen);
            let end = move |spec: &TrialSpec| {
                seen.lock().unwrap().push((spec.id, spec.device));
                if !resume && spec.id.0 == 3 { failed(spec.id, FailureKind::Panicked) } else { done(spec.id) }
            };
            Box::new(InstantRunner(end, None)) as Box<dyn Runner>
        };
        let header = header(StudySpec { budget, also_on, ..shared_spec() });
        let runners = header.spec.devices().iter().map(|_| runner()).collect();
        run_to_end(header, &path, resume, runners, Arc::default(), &mut |_, _| {}).unwrap().study
    };
    let study = run(false, Budget { trials: Some(3), secs: None }, shared_spec().also_on);
    assert_eq!(
        (study.ended, study.trials.len()),
        (Some(EndReason::TrialBudget), 4),
        "the budget counts running trials"
    );
    let before: Vec<_> = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(before.len(), 4);
    let study = run(true, Budget::default(), shared_spec().also_on);
    assert_eq!((study.ended, study.trials.len()), (Some(EndReason::Complete), 6));
    assert!(study.trials.values().all(is_done));
    let mut after: Vec<_> = seen.lock().unwrap().iter().map(|(id, _)| id.0).collect();
    after.sort_unstable();
    assert_eq!(after, [3, 4, 5], "what was finished on either card is not tried again");
    for card in cards() {
        assert!(seen.lock().unwrap().iter().any(|(_, device)| *device == card), "{card:?} worked");
    }
    seen.lock().unwrap().clear();
    let alone = run(true, Budget::default(), Vec::new());
    assert_eq!(alone.trials.len(), 6);
    assert!(seen.lock().unwrap().is_empty(), "one card alone has nothing left to try");
}

//! Inspections make way for studies.

use super::*;
use trimtab::session::{InspectRequest, InspectionState};

#[test]
fn an_inspection_waits_while_a_study_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut window = Window::open(dir.path());
    window.session = window.session.with_worker(PathBuf::from(env!("CARGO_BIN_EXE_trimtab")));
    let state = |session: &Session| session.inspection().map(|shown| shown.state.clone());
    let request = |layer: &str| InspectRequest { layer: layer.into(), calibration: None };
    window.session.inspect(request("model.embed_tokens"));
    window.until("it runs", |session| state(session) == Some(InspectionState::Running));
    let (runner, strings) = puppet();
    window.session.start_with(study_spec(), None, vec![runner]).unwrap();
    assert_eq!(state(&window.session), Some(InspectionState::Waiting), "the study comes first");
    let first = strings.submitted();
    window.session.inspect(request("model.layers.0.self_attn.q_proj"));
    strings.answer(done(first.id));
    window.until("a trial ends", |session| session.status().is_some_and(|status| status.done == 1));
    assert_eq!(state(&window.session), Some(InspectionState::Waiting));
    window.session.stop();
    assert_eq!(window.until_over(), Some(EndReason::Stopped));
    window.until("it is done after the study", |session| state(session) == Some(InspectionState::Done));
}

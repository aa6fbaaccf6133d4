//! The tile that takes forward passes apart: what it asks for, what it shows of a profile, and a real worker that makes
//! one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use egui::Theme;
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use trimtab::app::command::{Command, DialogKind, ExportKind};
use trimtab::app::layout::Tile;
use trimtab::device::DeviceSpec;
use trimtab::model::ModelSource;
use trimtab::recipe::Recipe;
use trimtab::session::{ModelState, ProfileRequest, ProfileState, RunStatus, Session};
use trimtab::study::{CardDescription, Phase, ProfileWorkload};

use crate::ui_fixture::World;

const TILE: [f32; 2] = [1100.0, 640.0];

fn alone(world: World) -> Harness<'static, World> {
    let mut harness = world.harness(TILE, Theme::Dark);
    for other in Tile::ALL.into_iter().filter(|other| *other != Tile::Profile) {
        assert!(harness.state_mut().view.apply(Command::ToggleTile(other)).is_none());
    }
    harness.run();
    harness
}

fn click(harness: &mut Harness<'_, World>, name: &str) {
    harness.get_by_label(name).click();
    harness.run();
}

#[test]
fn the_current_recipe_is_profiled_and_never_beside_a_study() {
    let mut harness = alone(World::with_model());
    assert!(harness.query_by_label_contains("No profile yet").is_some());
    click(&mut harness, "Run profile");
    let sent = harness.state().sent.last().cloned();
    let Some(Command::Profile(request)) = sent else { panic!("{sent:?}") };
    assert!(request.recipe.is_reference());
    // The model's context is 256 tokens: one of them is decoded.
    assert_eq!((request.workload.prompt, request.workload.context), (256, 255));
    let status =
        RunStatus { done: 0, total: 4, elapsed_secs: 1.0, remaining_secs: None, paused: false, stopping: false };
    harness.state_mut().status = Some(status);
    harness.run();
    assert!(harness.get_by_label("Run profile").accesskit_node().is_disabled());
    assert!(harness.query_by_label_contains("A study is running").is_some(), "and says why");
}

#[test]
fn a_profile_is_shown_sorted_copied_and_written() {
    let mut harness = alone(World::with_profile());
    for words in ["Roofline plot", "Time of each block: block 5", "of the time"] {
        assert!(harness.query_all_by_label_contains(words).next().is_some(), "{words}");
    }
    let top = |harness: &Harness<'_, World>, name: &str| harness.get_by_label(name).rect().top();
    assert!(top(&harness, "embedding") < top(&harness, "head"), "the order of execution");
    click(&mut harness, "Sort by time");
    assert!(top(&harness, "embedding") > top(&harness, "gate"), "the longest first");
    click(&mut harness, "Pass decode behind 255");
    click(&mut harness, "Copy CSV");
    let sent = harness.state().sent.last().cloned();
    assert!(matches!(&sent, Some(Command::Copy(text)) if text.starts_with("pass,tokens,block,")), "{sent:?}");
    click(&mut harness, "Trace…");
    let dialog = Command::Dialog(DialogKind::Export(ExportKind::ProfileTrace));
    assert_eq!(harness.state().sent.last(), Some(&dialog));
}

#[test]
fn a_card_s_profile_names_the_card_and_what_binds_it() {
    let mut world = World::with_profile();
    let report = world.profiling.as_mut().and_then(|shown| shown.report.as_mut()).map(Arc::make_mut).unwrap();
    let name = "NVIDIA H100".to_owned();
    report.ceilings.card = Some(CardDescription { name, multiprocessors: 132, recorded_launch_secs: 1e-6 });
    report.ceilings.instructions = "sm_90".to_owned();
    // A second a launch: no operation is long beside it. The card works for a quarter of the second pass.
    report.ceilings.hand_over_secs = 1.0;
    report.ceilings.float_flops = 1e18;
    report.ceilings.int8_ops = Some(1e18);
    report.ceilings.reads.iter_mut().for_each(|read| read.bytes_per_second = 1e18);
    report.passes[0].card_nanos = Some(report.passes[0].plain_nanos);
    report.passes[1].card_nanos = Some(report.passes[1].plain_nanos / 4);
    let mut harness = alone(world);
    let is_shown = |harness: &Harness<'_, World>, words: &str| {
        assert!(harness.query_all_by_label_contains(words).next().is_some(), "{words}");
    };
    is_shown(&harness, "NVIDIA H100, 132 multiprocessors, sm_90");
    is_shown(&harness, "Launches: 100 % of the time goes to operations too short for a launch of 1.00 s");
    click(&mut harness, "Pass decode behind 255");
    is_shown(&harness, "Host: the card is without work for 75.0 % of the time");
    is_shown(&harness, "host 75.0 %");
}

#[test]
fn a_running_profile_tells_its_step_and_is_cancelled() {
    let mut world = World::with_profile();
    if let Some(profiling) = &mut world.profiling {
        (profiling.state, profiling.report, profiling.progress) =
            (ProfileState::Running, None, Some((Phase::Decode, 3, 32)));
    }
    let mut harness = alone(world);
    assert!(harness.query_by_label_contains("3 of 32").is_some());
    assert!(harness.get_by_label("Run profile").accesskit_node().is_disabled());
    click(&mut harness, "Cancel");
    assert_eq!(harness.state().sent.last(), Some(&Command::CancelProfile));
}

#[test]
fn a_worker_profiles_the_open_model_and_another_model_forgets_it() {
    // Only for a broken program: every wait is for an event.
    const PATIENCE: Duration = Duration::from_mins(1);
    let (wake, woken) = bounded(1);
    let wake: trimtab::session::Wake = Arc::new(move || wake.try_send(()).unwrap_or_default());
    let mut session = Session::new(wake).with_worker(PathBuf::from(env!("CARGO_BIN_EXE_trimtab")));
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/stories15M");
    let source = ModelSource::Safetensors { dir };
    let until = |session: &mut Session, holds: &dyn Fn(&Session) -> bool| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while session.poll(Duration::from_millis(4)).1 {}
            if holds(session) {
                return;
            }
            assert!(woken.recv_deadline(deadline).is_ok(), "{:?}", session.profiling());
        }
    };
    let workload = ProfileWorkload { prompt: 4, context: 4, repetitions: 2 };
    let device = DeviceSpec::Cpu { threads: 1 };
    let request = ProfileRequest { recipe: Recipe::reference(), device, workload };
    session.profile(request.clone());
    assert!(session.profiling().is_none() && session.take_notices().len() == 1, "there is no model");
    session.open(source.clone());
    until(&mut session, &|session| matches!(session.model(), ModelState::Open(_)));
    session.profile(request.clone());
    let is_over = |session: &Session| session.profiling().is_some_and(|it| it.state != ProfileState::Running);
    until(&mut session, &is_over);
    let found = session.profiling().unwrap();
    assert_eq!(found.state, ProfileState::Done, "{found:?}");
    let report = found.report.as_ref().unwrap();
    assert_eq!((report.passes.len(), report.ceilings.threads), (2, 1));
    session.profile(request);
    session.cancel_profile();
    assert_eq!(session.profiling().unwrap().state, ProfileState::Cancelled);
    session.open(source);
    assert!(session.profiling().is_none());
}

//! Flows of the window by accessible name: what was clicked and what was asked for, not pixels.

use egui::accesskit::Role;
use egui::{Key, Modifiers, Theme};
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use trimtab::app::command::{Command, DialogKind, ExportKind};
use trimtab::app::layout::Tile;
use trimtab::app::sweep::SweepKind;
use trimtab::model::LayerRole;
use trimtab::recipe::{Recipe, WeightFormat, presets};
use trimtab::session::RunStatus;
use trimtab::study::StrategySpec;

use crate::ui_fixture::{World, census};

const SIZE: [f32; 2] = [1600.0, 1400.0];
const DOWN: &str = "model.layers.0.mlp.down_proj";

fn click(harness: &mut Harness<'_, World>, name: &str) {
    harness.get_by_label(name).click();
    harness.run();
}

fn choose(harness: &mut Harness<'_, World>, menu: &str, entry: &str) {
    click(harness, menu);
    click(harness, entry);
}

#[test]
fn a_format_is_set_for_a_role_undone_and_redone() {
    let mut harness = World::with_model().harness(SIZE, Theme::Dark);
    choose(&mut harness, "Select", "All down_proj");
    assert_eq!(harness.state().selection.layers.len(), 6);
    choose(&mut harness, "Weights of selection", "q4_0");
    let down = |layer: &trimtab::model::Layer| layer.role == LayerRole::DownProj;
    assert_eq!(census(harness.state(), down), [("q4_0".to_owned(), 6)].into());
    let others = census(harness.state(), |layer| !down(layer));
    assert_eq!(others, [("native".to_owned(), 37)].into());

    harness.key_press_modifiers(Modifiers::COMMAND, Key::Z);
    harness.run();
    assert_eq!(census(harness.state(), down), [("native".to_owned(), 6)].into(), "one bulk edit is one step");
    assert!(!harness.state().editor.can_undo());
    harness.key_press_modifiers(Modifiers::COMMAND | Modifiers::SHIFT, Key::Z);
    harness.run();
    assert_eq!(census(harness.state(), down), [("q4_0".to_owned(), 6)].into());
    click(&mut harness, "Undo");
    harness.key_press_modifiers(Modifiers::COMMAND, Key::Y);
    harness.run();
    assert_eq!(census(harness.state(), down), [("q4_0".to_owned(), 6)].into());
}

#[test]
fn one_cell_edits_one_layer_and_off_gives_it_back() {
    let mut harness = World::with_model().harness(SIZE, Theme::Light);
    choose(&mut harness, &format!("Weights of {DOWN}"), "q8_0");
    assert_eq!(harness.state().settings(DOWN).weights, WeightFormat::Q8_0);
    assert_eq!(census(harness.state(), |_| true).get("q8_0"), Some(&1));
    click(&mut harness, &format!("Compress {DOWN}"));
    assert!(harness.state().settings(DOWN).is_reference());
    click(&mut harness, &format!("Compress {DOWN}"));
    assert_eq!(harness.state().settings(DOWN).weights, WeightFormat::Q8_0);
}

#[test]
fn an_illegal_format_cannot_be_chosen() {
    let mut harness = World::with_model().harness(SIZE, Theme::Dark);
    click(&mut harness, "Weights of model.layers.0.self_attn.q_proj");
    let q4k = harness.get_by_label("q4k");
    assert!(q4k.accesskit_node().is_disabled(), "256 does not divide 288");
    q4k.click();
    harness.run();
    assert!(harness.state().editor.draft().recipe.is_reference());
}

#[test]
fn the_filter_narrows_the_table_and_the_selection() {
    let mut harness = World::with_model().harness(SIZE, Theme::Dark);
    harness.get_by_label("Filter layers").focus();
    harness.run();
    harness.get_by_label("Filter layers").type_text("3 o_proj");
    harness.run();
    assert!(harness.query_by_label("Weights of model.layers.3.self_attn.o_proj").is_some());
    assert!(harness.query_by_label(&format!("Weights of {DOWN}")).is_none());
    choose(&mut harness, "Select", "What the filter shows");
    assert_eq!(harness.state().selection.layers.len(), 1);
    harness.get_by_label("Filter layers").focus();
    harness.get_by_label("Filter layers").type_text(" nothing");
    harness.run();
    assert!(harness.query_by_label_contains("No layer matches").is_some());
}

#[test]
fn rows_are_selected_with_shift_and_ctrl() {
    let mut harness = World::with_model().harness(SIZE, Theme::Dark);
    let path = |name: &str| format!("model.layers.0.{name}");
    click(&mut harness, &path("self_attn.q_proj"));
    harness.get_by_label(&path("self_attn.o_proj")).click_modifiers(Modifiers::SHIFT);
    harness.run();
    assert_eq!(harness.state().selection.layers.len(), 4);
    harness.get_by_label(&path("self_attn.v_proj")).click_modifiers(Modifiers::COMMAND);
    harness.run();
    assert_eq!(harness.state().selection.layers.len(), 3);
    click(&mut harness, "block 1");
    assert_eq!(harness.state().selection.layers.len(), 7);
}

#[test]
fn a_preset_replaces_the_recipe_and_problems_are_listed() {
    let mut harness = World::with_model().harness(SIZE, Theme::Dark);
    let preset = presets().iter().find(|preset| preset.id == "q8_0").expect("shipped").recipe();
    click(&mut harness, "Presets");
    harness.get_by_role_and_label(Role::Button, &preset.name).click();
    harness.run();
    assert_eq!(harness.state().editor.draft().recipe, preset);
    let broken = Recipe::uniform("broken", WeightFormat::Q4k, None);
    harness.state_mut().editor.set(broken, trimtab::app::editor::Gesture::Whole);
    harness.run();
    assert!(harness.query_by_label_contains("problems keep this recipe from running").is_some());
    assert!(harness.query_all_by_label_contains("multiple of 256").count() > 1, "each with its layer");
}

#[test]
fn the_first_screen_offers_every_way_to_open() {
    let mut world = World::empty();
    world.recent = vec!["/models/before.gguf".into()];
    let mut harness = world.harness([1280.0, 720.0], Theme::Light);
    for name in ["Demo", "Open folder…", "Open GGUF…", "Open study…", "/models/before.gguf"] {
        click(&mut harness, name);
    }
    harness.get_by_label("Path").focus();
    harness.run();
    harness.get_by_label("Path").type_text("/models/typed");
    harness.run();
    click(&mut harness, "Open");
    let expected = [
        Command::OpenDemo,
        Command::Dialog(DialogKind::OpenFolder),
        Command::Dialog(DialogKind::OpenGguf),
        Command::Dialog(DialogKind::OpenStudy),
        Command::OpenPath("/models/before.gguf".into()),
        Command::OpenPath("/models/typed".into()),
    ];
    assert_eq!(harness.state().sent, expected);
}

#[test]
fn run_asks_for_what_the_form_says() {
    let mut harness = World::with_model().harness(SIZE, Theme::Dark);
    click(&mut harness, "Run");
    let Some(Command::Run(strategy)) = harness.state().sent.last().cloned() else { panic!("Run sends a strategy") };
    let StrategySpec::List { recipes } = *strategy else { panic!("presets are a list") };
    assert_eq!(recipes.len(), presets().len());

    harness.state_mut().sweep.kind = SweepKind::ThisRecipe;
    harness.run();
    let run = harness.get_by_label("Run");
    assert!(run.accesskit_node().is_disabled(), "the reference is measured anyway");
    harness.state_mut().sweep.kind = SweepKind::LadderSparsity;
    harness.run();
    harness.key_press(Key::F5);
    harness.run();
    let Some(Command::Run(strategy)) = harness.state().sent.last().cloned() else { panic!("F5 runs") };
    assert!(matches!(*strategy, StrategySpec::Progressive { ref rungs, .. } if rungs[0].settings.len() == 6));
}

#[test]
fn a_running_study_can_be_paused_and_stopped() {
    let mut world = World::with_model();
    let status =
        RunStatus { done: 3, total: 9, elapsed_secs: 12.0, remaining_secs: Some(24.0), paused: false, stopping: false };
    world.status = Some(status);
    let mut harness = world.harness(SIZE, Theme::Dark);
    assert!(harness.query_by_label("Run").is_none());
    click(&mut harness, "Pause");
    harness.state_mut().status = Some(RunStatus { paused: true, ..status });
    harness.run();
    click(&mut harness, "Resume");
    click(&mut harness, "Stop");
    assert_eq!(harness.state().sent, [Command::Pause(true), Command::Pause(false), Command::Stop]);
}

#[test]
fn the_palette_finds_and_gives_commands() {
    let mut harness = World::with_model().harness(SIZE, Theme::Dark);
    harness.key_press_modifiers(Modifiers::COMMAND, Key::P);
    harness.run();
    harness.get_by_label("Search commands").type_text("exp rec");
    harness.run();
    harness.key_press(Key::Enter);
    harness.run();
    let expected = Command::Dialog(DialogKind::Export(ExportKind::Recipe));
    assert_eq!(harness.state().sent.last(), Some(&expected));
    assert!(harness.query_by_label("Search commands").is_none(), "it closes");
    harness.key_press(Key::F1);
    harness.run();
    assert!(harness.query_by_label_contains("Pin selected trial to A").is_some());
    click(&mut harness, "Close");
}

#[test]
fn tiles_hide_and_come_back() {
    let mut harness = World::with_model().harness(SIZE, Theme::Dark);
    let is_shown = |harness: &Harness<'_, World>| harness.query_by_label("Filter layers").is_some();
    assert!(is_shown(&harness));
    harness.state_mut().view.apply(Command::ToggleTile(Tile::Recipe));
    harness.run();
    assert!(!is_shown(&harness));
    click(&mut harness, "View");
    click(&mut harness, "Reset layout");
    assert!(is_shown(&harness));
}

//! Flows of the window by accessible name: what was clicked and what was asked for, not pixels.

use egui::accesskit::Role;
use egui::{Key, Modifiers, Theme};
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use trimtab::app::command::{Command, DialogKind, ExportKind};
use trimtab::app::layout::Tile;
use trimtab::app::sweep::SweepKind;
use trimtab::device::DeviceSpec;
use trimtab::model::LayerRole;
use trimtab::recipe::{ChannelScore, Group, IntFormat, Recipe, WeightFormat, WidthCut, presets};
use trimtab::session::RunStatus;
use trimtab::study::StrategySpec;

use crate::ui_fixture::{World, census};

mod numbers;

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
fn a_method_is_chosen_for_a_selection_in_one_step() {
    let mut harness = World::with_model().harness(SIZE, Theme::Dark);
    choose(&mut harness, "Select", "All down_proj");
    choose(&mut harness, "Weights of selection", "q4_0");
    choose(&mut harness, "Methods of selection", "Rounding gptq");
    let down = |layer: &trimtab::model::Layer| layer.role == LayerRole::DownProj;
    assert_eq!(census(harness.state(), down), [("q4_0 gptq".to_owned(), 6)].into());
    assert!(matches!(harness.state().editor.draft().plan, Some(Ok(_))), "the text of the window is calibrated on");
    click(&mut harness, "Sparsity wanda");
    assert_eq!(census(harness.state(), down), [("q4_0 gptq, 30.0 % sparse wanda".to_owned(), 6)].into());
    click(&mut harness, "amount 2:4");
    assert_eq!(census(harness.state(), down), [("q4_0 gptq, 2:4 wanda".to_owned(), 6)].into());
    assert!(harness.query_by_label_contains("50.0 % zero").is_some(), "the mask is previewed at once");
    let plan = harness.state().editor.draft().plan.clone().expect("a model is open").expect("it resolves");
    click(&mut harness, "Sparsity none");
    let dense = harness.state().editor.draft().plan.clone().expect("a model is open").expect("it resolves");
    assert_eq!(plan.weight_bytes(), dense.weight_bytes(), "a mask is not smaller");
    harness.key_press_modifiers(Modifiers::COMMAND, Key::Z);
    harness.run();
    assert_eq!(census(harness.state(), down), [("q4_0 gptq, 2:4 wanda".to_owned(), 6)].into());
}

#[test]
fn an_impossible_combination_is_disabled_and_says_why() {
    let mut harness = World::with_model().harness(SIZE, Theme::Dark);
    choose(&mut harness, "Select", "All down_proj");
    click(&mut harness, "Methods of selection");
    let check = |harness: &mut Harness<'_, World>, name: &str, reason: &str| {
        let choice = harness.get_by_label(name);
        assert!(choice.accesskit_node().is_disabled(), "{name}");
        choice.hover();
        harness.run_steps(8);
        assert!(harness.query_by_label_contains(reason).is_some(), "{name}: {reason}");
    };
    check(&mut harness, "Rounding gptq", "quantized format first");
    check(&mut harness, "Activations int8_dynamic", "int8 activations need int weights");
    assert!(harness.state().editor.draft().recipe.is_reference());
    harness.key_press(Key::Escape);
    harness.run();
    choose(&mut harness, "Weights of selection", "q4_0");
    click(&mut harness, "Methods of selection");
    check(&mut harness, "Rounding hqq", "only int formats hold");
    click(&mut harness, "Sparsity magnitude");
    check(&mut harness, "storage bitmask", "is there for f16 and");
}

#[test]
fn zeros_are_left_out_where_the_format_can() {
    let mut harness = World::with_model().harness(SIZE, Theme::Dark);
    choose(&mut harness, "Select", "All down_proj");
    choose(&mut harness, "Methods of selection", "Sparsity magnitude");
    let bytes = |harness: &Harness<'_, World>| {
        harness.state().editor.draft().plan.clone().expect("a model is open").expect("it resolves").weight_bytes()
    };
    let masked = bytes(&harness);
    click(&mut harness, "storage bitmask");
    let down = |layer: &trimtab::model::Layer| layer.role == LayerRole::DownProj;
    assert_eq!(census(harness.state(), down), [("native, 30.0 % sparse bitmask".to_owned(), 6)].into());
    assert!(bytes(&harness) < masked, "zeros that are left out take no room");
    click(&mut harness, "amount 2:4");
    assert_eq!(census(harness.state(), down), [("native, 2:4 bitmask".to_owned(), 6)].into());
    click(&mut harness, "Sparsity magnitude");
    click(&mut harness, "storage masked");
    assert_eq!((census(harness.state(), down), bytes(&harness)), ([("native, 2:4".to_owned(), 6)].into(), masked));
}

fn show(harness: &mut Harness<'_, World>, tile: Tile) {
    // Hidden and shown again, a tile is the one in front.
    for _ in 0..2 {
        let rest = harness.state_mut().view.apply(Command::ToggleTile(tile));
        assert!(rest.is_none(), "the view applies it");
        harness.run();
    }
}

fn predicted(harness: &Harness<'_, World>) -> u64 {
    let plan = harness.state().editor.draft().plan.as_ref().expect("a model is open");
    plan.as_ref().expect("it resolves").weight_bytes()
}

#[test]
fn the_structure_is_previewed_while_a_slider_moves() {
    let mut harness = World::with_model().harness(SIZE, Theme::Light);
    show(&mut harness, Tile::Whole);
    let before = predicted(&harness);
    assert!(harness.query_by_label("Removed MLP channels").is_some());
    let mut recipe = Recipe::reference();
    recipe.structure.ffn =
        Some(WidthCut { fraction: 0.05, score: ChannelScore::ActivationNorm, blocks: None, align: None });
    harness.state_mut().editor.set(recipe, trimtab::app::editor::Gesture::Dragging);
    harness.run();
    assert!(harness.query_by_label("768 → 736").is_some(), "what stays is a multiple of 32");
    let removed = 6 * 3 * 288 * (768 - 736) * 2;
    assert_eq!(before - predicted(&harness), removed, "f16 rows of gate and up, columns of down");
    click(&mut harness, "Blocks these");
    assert_eq!(harness.state().editor.draft().recipe.structure.blocks.as_ref().unwrap().drop, [5]);
    for block in 0..4 {
        click(&mut harness, &format!("Remove block {block}"));
    }
    assert!(harness.get_by_label("Remove block 4").accesskit_node().is_disabled(), "one block stays");
    click(&mut harness, "Blocks so many");
    assert!(harness.query_by_label_contains("which blocks go is measured").is_some(), "it is an estimate");
}

#[test]
fn the_whole_model_has_its_settings_in_one_tile() {
    let mut harness = World::with_model().harness(SIZE, Theme::Dark);
    show(&mut harness, Tile::Whole);
    click(&mut harness, "Keys q8_0");
    click(&mut harness, "Values q4_0");
    click(&mut harness, "Form naive");
    harness.get_by_role_and_label(Role::CheckBox, "Window").click();
    harness.run();
    click(&mut harness, "Inputs from dense");
    harness.get_by_label("Add a group").scroll_to_me();
    harness.run();
    click(&mut harness, "Add a group");
    let recipe = &harness.state().editor.draft().recipe;
    assert_eq!((recipe.kv_cache.keys.name(), recipe.kv_cache.values.name()), ("q8_0", "q4_0"));
    assert_eq!((recipe.attention.window, recipe.attention.sinks), (Some(128), 4));
    assert_eq!((recipe.sharing.len(), recipe.sharing[0].blocks), (1, [4, 5]));
    assert!(matches!(harness.state().editor.draft().plan, Some(Ok(_))));
    click(&mut harness, "Remove group 1");
    assert!(harness.state().editor.draft().recipe.sharing.is_empty());
}

#[test]
fn a_share_that_nothing_prunes_by_is_said_to_be_left_out() {
    const NOTE: &str = "left out: tick a method to prune by";
    let mut world = World::with_model();
    world.sweep.kind = SweepKind::Grid;
    let mut harness = world.harness(SIZE, Theme::Dark);
    assert!(
        harness.query_by_label(NOTE).is_none()
            && !harness.get_by_label("Sparsity 20.0 %").accesskit_node().is_disabled()
    );
    click(&mut harness, "Sparsity magnitude");
    assert!(
        harness.query_by_label(NOTE).is_some()
            && harness.get_by_label("Sparsity 20.0 %").accesskit_node().is_disabled()
    );
}

#[test]
fn a_missing_calibration_text_is_asked_for_in_place() {
    let mut world = World::with_model();
    world.sweep.calibration = std::path::PathBuf::new();
    let mut harness = world.harness(SIZE, Theme::Dark);
    choose(&mut harness, "Select", "All down_proj");
    choose(&mut harness, "Weights of selection", "q4_0");
    choose(&mut harness, "Methods of selection", "Rounding gptq");
    harness.key_press(Key::Escape);
    harness.run();
    assert!(harness.query_by_label_contains("reads a calibration text").is_some());
    click(&mut harness, "Choose a calibration text…");
    assert_eq!(harness.state().sent.last(), Some(&Command::Dialog(DialogKind::OpenCalibration)));
    harness.state_mut().sweep.calibration = "/texts/mine.jsonl".into();
    harness.run();
    assert!(harness.query_by_label_contains("reads a calibration text").is_none());
    assert!(matches!(harness.state().editor.draft().plan, Some(Ok(_))));
}

#[test]
fn every_preset_resolves_on_the_demo() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/stories15M");
    let checkpoint =
        trimtab::checkpoint::open(&trimtab::model::ModelSource::Safetensors { dir }).expect("the demo opens");
    let spec = trimtab::device::DeviceSpec::Cpu { threads: 2 };
    let device = trimtab::device::DeviceInfo::named(spec, "");
    let text = std::path::Path::new("assets/demo/calibration.jsonl");
    for preset in presets() {
        let plan = preset.recipe().calibrated_on(text).resolve(checkpoint.graph(), &device);
        let plan = plan.unwrap_or_else(|issues| panic!("{}: {issues:?}", preset.id));
        if preset.id == "full" {
            assert!(plan.blocks.iter().all(|block| block.intermediate_size == 576 && block.n_heads == 4));
            assert!(plan.needs_calibration() && plan.kv_cache.keys.name() == "q8_0");
        }
    }
}

#[test]
fn the_cache_is_cleared_only_after_a_question() {
    let mut world = World::with_model();
    world.cache.bytes = Some(5 << 20);
    let mut harness = world.harness(SIZE, Theme::Light);
    let ask = "Clear the cache of compressed layers…";
    click(&mut harness, ask);
    assert!(harness.query_by_label_contains("5.00 MiB of calibrations").is_some());
    click(&mut harness, "Keep it");
    assert_eq!(harness.state().sent, [Command::AskClearCache]);
    click(&mut harness, ask);
    click(&mut harness, "Clear the cache");
    assert_eq!(harness.state().sent, [Command::AskClearCache, Command::AskClearCache, Command::ClearCache]);
    assert!(harness.query_by_label("Keep it").is_none(), "the question closes");
    harness.state_mut().cache.bytes = Some(0);
    harness.run();
    assert!(harness.get_by_label(ask).accesskit_node().is_disabled(), "there is nothing to clear");
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
fn what_compressed_tensors_cannot_hold_is_refused_in_the_menu() {
    const ENTRY: &str = "Export model (compressed-tensors folder)…";
    let int4 = IntFormat { bits: 4, group: Group::Size(32), symmetric: true };
    for (format, reason) in [(WeightFormat::Q4_0, Some("no GGML blocks")), (WeightFormat::Int(int4), None)] {
        let mut harness = World::with_model().harness(SIZE, Theme::Dark);
        let recipe = Recipe::uniform("asked for", format, None);
        harness.state_mut().editor.set(recipe, trimtab::app::editor::Gesture::Whole);
        harness.run();
        assert!(matches!(harness.state().editor.draft().plan, Some(Ok(_))), "it runs as it is");
        choose(&mut harness, "File", "Export");
        let entry = harness.get_by_label(ENTRY);
        assert_eq!(entry.accesskit_node().is_disabled(), reason.is_some(), "{format:?}");
        if let Some(reason) = reason {
            entry.hover();
            harness.run_steps(8);
            assert!(harness.query_all_by_label_contains(reason).next().is_some(), "{reason}");
            continue;
        }
        entry.click();
        harness.run();
        let expected = Command::Dialog(DialogKind::Export(ExportKind::CompressedTensors));
        assert_eq!(harness.state().sent.last(), Some(&expected));
    }
}

#[test]
fn run_asks_for_what_the_form_says() {
    let mut harness = World::with_model().harness(SIZE, Theme::Dark);
    click(&mut harness, "Run");
    let Some(Command::Run(strategy)) = harness.state().sent.last().cloned() else { panic!("Run sends a strategy") };
    let StrategySpec::List { recipes } = *strategy else { panic!("presets are a list") };
    assert_eq!(recipes.len(), harness.state().sweep.presets.len());
    let gptq = recipes.iter().find(|recipe| recipe.needs_calibration()).expect("full is ticked");
    assert_eq!(gptq.calibration.data, None, "the text is filled in when the study starts");

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
fn cards_may_share_the_next_study() {
    let mut harness = World::with_cards().harness(SIZE, Theme::Dark);
    let share = "CUDA 1 · test card";
    click(&mut harness, "Device");
    assert!(harness.query_by_label("Share the next study with").is_some());
    // Once as a device to choose, once as one to share with; the one that runs nothing only in the first list.
    let found: Vec<_> = harness.query_all_by_label(share).collect();
    assert_eq!(found.len(), 2);
    assert_eq!(harness.query_all_by_label("CUDA 2 · test card").count(), 1);
    found[1].click();
    harness.run();
    assert_eq!(harness.state().also_on, [DeviceSpec::Cuda { ordinal: 1 }]);
    let mut harness = World::with_model().harness(SIZE, Theme::Dark);
    click(&mut harness, "Device");
    assert!(harness.query_by_label("Share the next study with").is_none(), "the processor shares with nobody");
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

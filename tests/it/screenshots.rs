//! The window and each of its tiles in both themes, as pictures: `screenshots/` holds the reference images.
//!
//! The state is the fold of the recorded demo study, so nothing in a picture is made up. `UPDATE_SNAPSHOTS=1` rewrites
//! the images; they are made by a software rasterizer, the same one everywhere.

use std::path::Path;

use egui::Theme;
use egui_kittest::kittest::Queryable as _;
use egui_kittest::{Harness, SnapshotOptions, SnapshotResults};
use trimtab::app::command::Command;
use trimtab::app::layout::Tile;
use trimtab::recipe::presets;
use trimtab::study::journal::read_study;
use trimtab::study::{Objective, Study, TrialId, pareto_front};

use crate::ui_fixture::World;

/// Sizes of the whole window: the smallest that must be comfortable, the one that the layout is drawn for, a large one.
const SIZES: [[f32; 2]; 3] = [[1280.0, 720.0], [1600.0, 1000.0], [2560.0, 1440.0]];

/// Size of a tile alone.
const TILE: [f32; 2] = [1100.0, 640.0];

fn recorded() -> Study {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/demo.study");
    let (study, damage) = read_study(&path).expect("the demo study is recorded (trimtab sweep --demo)");
    assert!(damage.is_empty(), "{damage:?}");
    study
}

/// The demo study as it looks when it is done: a trial of the front selected, the reference beside it.
fn done() -> World {
    let study = recorded();
    let front = pareto_front(&study, Objective::DecodeLatency, Objective::Kl);
    let chosen = front.iter().copied().find(|id| *id != TrialId(0));
    let mut world = World::empty();
    world.selection.trial = chosen;
    world.selection.pinned_a = Some(TrialId(0));
    world.selection.pinned_b = chosen;
    if let Some(trial) = chosen.and_then(|id| study.trials.get(&id)) {
        world.editor.set(trial.spec.recipe.clone(), trimtab::app::editor::Gesture::Whole);
    }
    world.study = study;
    world
}

/// The same study while the preset that changes most is being edited.
fn edited() -> World {
    let mut world = done();
    let full = presets().iter().find(|preset| preset.id == "full").expect("it is shipped").recipe();
    world.editor.set(full, trimtab::app::editor::Gesture::Whole);
    world.sweep.calibration = "calibration.jsonl".into();
    world
}

/// The window with this tile and no other.
fn alone(world: World, size: [f32; 2], tile: Tile, theme: Theme) -> Harness<'static, World> {
    let mut harness = world.harness(size, theme);
    for other in Tile::ALL.into_iter().filter(|other| *other != tile) {
        let rest = harness.state_mut().view.apply(Command::ToggleTile(other));
        assert!(rest.is_none(), "the view applies it");
    }
    harness.run();
    harness
}

/// The tab beside the comparison, where one part at a time has room.
#[test]
fn a_layer_in_a_narrow_tile() {
    let mut results = SnapshotResults::new();
    let mut world = World::with_inspection();
    world.study = done().study;
    let mut harness = world.harness(SIZES[1], Theme::Dark);
    harness.get_by_label("Inspector").click();
    harness.run();
    shoot(&mut harness, "layer_1600x1000_dark", &mut results);
}

/// A profile in the tab beside the comparison, and the tile before there is one.
#[test]
fn a_profile_in_a_narrow_tile_and_none() {
    let mut results = SnapshotResults::new();
    let mut world = World::with_profile();
    world.study = done().study;
    let mut harness = world.harness(SIZES[1], Theme::Light);
    harness.get_by_label("Profile").click();
    harness.run();
    shoot(&mut harness, "profile_1600x1000_light", &mut results);
    let mut harness = alone(World::with_model(), TILE, Tile::Profile, Theme::Dark);
    shoot(&mut harness, "profile_empty_dark", &mut results);
}

fn shoot(harness: &mut Harness<'_, World>, name: &str, results: &mut SnapshotResults) {
    let options = SnapshotOptions::new().output_path("screenshots");
    results.add(harness.try_snapshot_options(name, &options));
}

fn named(theme: Theme) -> &'static str {
    if theme == Theme::Dark { "dark" } else { "light" }
}

#[test]
fn the_window_in_both_themes_and_sizes() {
    let mut results = SnapshotResults::new();
    for theme in [Theme::Dark, Theme::Light] {
        for size in SIZES {
            let name = format!("window_{}x{}_{}", size[0], size[1], named(theme));
            shoot(&mut done().harness(size, theme), &name, &mut results);
        }
        shoot(&mut World::empty().harness(SIZES[0], theme), &format!("open_{}", named(theme)), &mut results);
    }
}

#[test]
fn the_methods_of_a_selection_in_both_themes() {
    let mut results = SnapshotResults::new();
    for theme in [Theme::Dark, Theme::Light] {
        let mut harness = alone(edited(), TILE, Tile::Recipe, theme);
        let steps = ["Select", "MLP", "Methods of selection", "Sparsity wanda", "amount share"];
        for name in steps {
            harness.get_by_label(name).click();
            harness.run();
        }
        shoot(&mut harness, &format!("methods_{}", named(theme)), &mut results);
    }
}

#[test]
fn each_tile_in_both_themes() {
    let mut results = SnapshotResults::new();
    for theme in [Theme::Dark, Theme::Light] {
        for tile in Tile::ALL {
            let world = match tile {
                Tile::Whole => edited(),
                Tile::Inspector => World::with_inspection(),
                Tile::Profile => World::with_profile(),
                _ => done(),
            };
            let mut harness = alone(world, TILE, tile, theme);
            shoot(&mut harness, &format!("{tile:?}_{}", named(theme)).to_lowercase(), &mut results);
        }
    }
}

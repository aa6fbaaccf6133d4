//! One layer from near: a real worker looks into the demo's, the panel shows it, and a click gives the recipe a setting.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use egui::{Key, Modifiers, Theme};
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use trimtab::app::command::Command;
use trimtab::app::editor::Gesture;
use trimtab::app::layout::Tile;
use trimtab::model::{LayerPath, ModelSource, StoredFormat};
use trimtab::recipe::{
    AwqOptions, Calibration, ChannelScore, GptqOptions, Group, IntFormat, LayerSettings, LowRank, LowRankMethod,
    Policy, Recipe, Rounding, WeightFormat, WidthCut,
};
use trimtab::session::{InspectRequest, Inspection, InspectionState, ModelState, Session};
use trimtab::worker::inspection::{Candidate, InputRanges, LayerView};

use crate::checkpoint::builders;
use crate::ui_fixture::{INSPECTED, World};

/// Only for a broken program: every wait is for an event.
const PATIENCE: Duration = Duration::from_mins(1);
const TILE: [f32; 2] = [1100.0, 640.0];

fn request(layer: &str) -> InspectRequest {
    InspectRequest { layer: LayerPath::from(layer), calibration: None }
}

struct Window {
    session: Session,
    woken: Receiver<()>,
}

impl Window {
    fn open() -> Self {
        let (wake, woken) = bounded(1);
        let wake: trimtab::session::Wake = Arc::new(move || wake.try_send(()).unwrap_or_default());
        let session = Session::new(wake).with_worker(PathBuf::from(env!("CARGO_BIN_EXE_trimtab")));
        let mut window = Self { session, woken };
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/stories15M");
        window.session.open(ModelSource::Safetensors { dir });
        window.until(|session| matches!(session.model(), ModelState::Open(_)));
        window
    }

    fn until(&mut self, holds: impl Fn(&Session) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while self.session.poll(Duration::from_millis(4)).1 {}
            if holds(&self.session) {
                return;
            }
            assert!(self.woken.recv_deadline(deadline).is_ok(), "{:?}", self.session.inspection());
        }
    }

    fn inspect(&mut self, layer: &str) -> Inspection {
        self.session.inspect(request(layer));
        let is_over = |state: &InspectionState| !matches!(state, InspectionState::Waiting | InspectionState::Running);
        self.until(|session| session.inspection().is_some_and(|shown| is_over(&shown.state)));
        self.session.inspection().unwrap().clone()
    }
}

#[test]
fn a_worker_looks_into_a_layer_and_what_it_found_is_kept() {
    let mut window = Window::open();
    let found = window.inspect("model.layers.1.mlp.up_proj");
    assert_eq!(found.state, InspectionState::Done);
    let weights = found.view.weights.as_ref().unwrap();
    assert_eq!((weights.n, weights.counts.iter().sum::<u64>()), (768 * 288, 768 * 288));
    let map = found.map.as_ref().unwrap().as_ref().expect("the map came as a file");
    assert_eq!((map.shape, map.largest), ([768, 288], weights.largest()));
    assert_eq!(found.view.spectrum.as_ref().unwrap().as_ref().unwrap().singular_values.len(), 288);
    assert_eq!(found.view.candidates.len(), found.view.n_candidates);
    let error = |format: WeightFormat| {
        let tried = found.view.candidates.iter().find(|tried| tried.settings.weights == format).unwrap();
        tried.result.as_ref().unwrap().weight_error
    };
    assert!(0.0 < error(WeightFormat::Q8_0) && error(WeightFormat::Q8_0) < error(WeightFormat::Q4_0));

    let again = window.inspect("model.layers.1.mlp.up_proj");
    assert_eq!(again, found);
    let other = window.inspect("model.layers.0.self_attn.q_proj");
    assert_eq!(other.view.weights.unwrap().n, 288 * 288);
    assert_eq!(window.inspect("model.layers.1.mlp.up_proj"), found, "nothing is done twice");
    let unknown = window.inspect("model.layers.99.mlp.up_proj");
    assert!(matches!(&unknown.state, InspectionState::Failed(why) if why.contains("layers.99")), "{unknown:?}");
}

#[test]
fn an_inspection_can_be_cancelled_and_begun_again() {
    const LAYER: &str = "model.layers.0.self_attn.k_proj";
    let mut window = Window::open();
    window.session.inspect(request("model.embed_tokens"));
    window.until(|session| session.inspection().is_some_and(|shown| shown.view.weights.is_some()));
    window.session.cancel_inspection();
    let shown = window.session.inspection().unwrap();
    assert!(matches!(shown.state, InspectionState::Cancelled | InspectionState::Done) && shown.view.weights.is_some());

    window.session.inspect(request(LAYER));
    window.until(|session| session.inspection().is_some_and(|shown| shown.state == InspectionState::Running));
    window.session.cancel_inspection();
    assert_eq!(window.session.inspection().unwrap().state, InspectionState::Cancelled);
    let again = window.inspect(LAYER);
    assert_eq!(again.state, InspectionState::Done);
    assert!(again.view.spectrum.is_some() && again.view.candidates.len() == again.view.n_candidates);
}

#[test]
fn another_model_begins_without_what_was_found_of_the_one_before() {
    const LAYER: &str = "model.layers.0.mlp.up_proj";
    let mut window = Window::open();
    assert_eq!(window.inspect(LAYER).view.weights.unwrap().n, 768 * 288);
    window.session.inspect(request("model.embed_tokens"));
    window.until(|session| session.inspection().is_some_and(|shown| shown.state == InspectionState::Running));

    let root = tempfile::tempdir().unwrap();
    let weights = builders::safetensors(&builders::tensors(), StoredFormat::F32);
    let dir = builders::folder(root.path(), &builders::config(), &weights);
    window.session.open(ModelSource::Safetensors { dir });
    assert!(window.session.inspection().is_none(), "nothing is shown of a model that is not open");
    window.until(|session| matches!(session.model(), ModelState::Open(_)));
    assert!(window.session.inspection().is_none(), "nor does it run on");
    let n = builders::MLP * builders::HIDDEN;
    let found = window.inspect(LAYER);
    assert_eq!((found.state, found.view.weights.unwrap().n), (InspectionState::Done, n as u64));
    assert_eq!(window.inspect("model.embed_tokens").map.unwrap().unwrap().shape, [builders::VOCAB, builders::HIDDEN]);
}

fn alone(world: World, theme: Theme) -> Harness<'static, World> {
    let mut harness = world.harness(TILE, theme);
    for other in Tile::ALL.into_iter().filter(|other| *other != Tile::Inspector) {
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
fn a_click_on_a_setting_edits_the_selected_layers_and_undo_takes_it_back() {
    let mut world = World::with_inspection();
    world.selection.layers.insert(LayerPath::from("model.layers.4.mlp.down_proj"));
    let mut harness = alone(world, Theme::Dark);
    click(&mut harness, "Apply int4 g32");
    let int4 = WeightFormat::Int(IntFormat { bits: 4, group: Group::Size(32), symmetric: false });
    for layer in [INSPECTED, "model.layers.4.mlp.down_proj"] {
        assert_eq!(harness.state().settings(layer).weights, int4, "{layer}");
    }
    assert!(harness.state().settings("model.layers.2.mlp.down_proj").is_reference());
    assert!(harness.get_by_label("Apply int4 g32").accesskit_node().is_disabled(), "the layer has it now");
    harness.key_press_modifiers(Modifiers::COMMAND, Key::Z);
    harness.run();
    assert!(harness.state().editor.draft().recipe.is_reference());
}

#[test]
fn a_rank_is_chosen_by_its_energy_and_used() {
    let mut harness = alone(World::with_inspection(), Theme::Light);
    let spectrum = harness.state().inspection.as_ref().unwrap().view.spectrum.clone().unwrap().unwrap();
    let rank = spectrum.rank_for(0.9);
    click(&mut harness, &format!("90 %: {rank}"));
    assert!(harness.query_by_label_contains("energy 90.").is_some());
    click(&mut harness, "Use rank");
    let used = harness.state().settings(INSPECTED).low_rank.unwrap();
    assert_eq!(used.method, LowRankMethod::Svd);
    let trimtab::recipe::RankRule::Ratio(ratio) = used.rank else { panic!("{used:?}") };
    assert_eq!(trimtab::recipe::rank_of_ratio(288, 768, ratio, 1), rank);
    assert_eq!(used, LowRank::with_ratio(LowRankMethod::Svd, ratio));
}

#[test]
fn a_selected_layer_is_asked_for_once() {
    let mut world = World::with_model();
    world.selection.layers.insert(LayerPath::from(INSPECTED));
    let mut harness = alone(world, Theme::Dark);
    harness.run();
    assert_eq!(harness.state().sent, [Command::Inspect(request(INSPECTED))]);
    harness.state_mut().selection.layers = [LayerPath::from("model.embed_tokens")].into();
    harness.run();
    assert_eq!(harness.state().sent.last(), Some(&Command::Inspect(request("model.embed_tokens"))));
}

#[test]
fn every_state_says_what_it_is() {
    let check = |state: InspectionState, expected: &str, button: &str| {
        let mut world = World::with_inspection();
        let shown = world.inspection.as_mut().unwrap();
        shown.state = state.clone();
        shown.view = LayerView::default();
        shown.map = None;
        let mut harness = alone(world, Theme::Dark);
        assert!(harness.query_by_label_contains(expected).is_some(), "{state:?}");
        click(&mut harness, button);
        let wanted = match button {
            "Cancel" => Command::CancelInspection,
            _ => Command::Inspect(request(INSPECTED)),
        };
        assert_eq!(harness.state().sent, [wanted]);
    };
    check(InspectionState::Waiting, "waits for the running study", "Cancel");
    check(InspectionState::Running, "reading the layer", "Cancel");
    check(InspectionState::Cancelled, "cancelled", "Look again");
    check(InspectionState::Failed("no memory for it".to_owned()), "no memory for it", "Look again");

    let mut nothing = alone(World::with_model(), Theme::Dark);
    nothing.run();
    assert!(nothing.query_by_label("No layer selected").is_some());
    let mut recorded = World::with_inspection();
    let study = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/demo.study");
    recorded.study = trimtab::study::journal::read_study(&study).unwrap().0;
    recorded.model = ModelState::Closed;
    recorded.inspection = None;
    let recorded = alone(recorded, Theme::Dark);
    assert!(recorded.query_by_label("The model is not open").is_some() && recorded.state().sent.is_empty());
}

#[test]
fn several_selected_layers_are_leafed_through() {
    let mut world = World::with_inspection();
    world.selection.layers.insert(LayerPath::from("model.layers.4.mlp.down_proj"));
    let mut harness = alone(world, Theme::Dark);
    assert!(harness.query_by_label("1 of 2").is_some());
    click(&mut harness, "Next selected layer");
    assert_eq!(harness.state().sent, [Command::Inspect(request("model.layers.4.mlp.down_proj"))]);
    click(&mut harness, "Previous selected layer");
    assert!(harness.query_by_label(INSPECTED).is_some());
}

/// What the middle of the map says of the weights under the pointer.
fn under_pointer(harness: &mut Harness<'_, World>) -> String {
    let map = harness.get_by_label("Magnitudes of the weights, rows down, columns across").rect();
    harness.hover_at(map.center());
    harness.run_steps(40);
    let told: Vec<String> =
        harness.query_all_by_label_contains(": |W| ").filter_map(|node| node.accesskit_node().value()).collect();
    harness.hover_at(egui::pos2(2.0, 2.0));
    harness.run_steps(4);
    assert_eq!(told.len(), 1, "{told:?}");
    told.into_iter().next().unwrap()
}

#[test]
fn the_map_is_zoomed_and_fitted_by_buttons() {
    let mut harness = alone(World::with_inspection(), Theme::Dark);
    let fitted = under_pointer(&mut harness);
    assert!(fitted.starts_with("rows "), "a pixel stands for several weights: {fitted}");
    click(&mut harness, "Cells show mean");
    let mean = under_pointer(&mut harness);
    let magnitude = |text: &str| text.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
    assert!(magnitude(&mean) < magnitude(&fitted), "{mean}, {fitted}");
    click(&mut harness, "Cells show peak");
    for _ in 0..2 {
        click(&mut harness, "Zoom in");
    }
    let near = under_pointer(&mut harness);
    assert!(near.starts_with("row "), "a weight has pixels of its own: {near}");
    click(&mut harness, "Zoom out");
    click(&mut harness, "Fit");
    assert_eq!(under_pointer(&mut harness), fitted);
}

/// The recorded layer under another path, with these settings tried besides.
fn looking_at(layer: &str, tried: &[LayerSettings]) -> World {
    let mut world = World::with_inspection();
    world.selection.layers = [LayerPath::from(layer)].into();
    let shown = world.inspection.as_mut().unwrap();
    shown.request.layer = LayerPath::from(layer);
    let result = shown.view.candidates[0].result.clone();
    shown.view.candidates.retain(|known| !tried.contains(&known.settings));
    shown.view.candidates.extend(tried.iter().map(|&settings| Candidate { settings, result: result.clone() }));
    world
}

/// The button is disabled and says why, or is not and does not.
fn check_refused(harness: &mut Harness<'_, World>, button: &str, reason: Option<&str>) {
    let node = harness.get_by_label(button);
    assert_eq!(node.accesskit_node().is_disabled(), reason.is_some(), "{button}");
    let Some(reason) = reason else { return };
    harness.hover_at(node.rect().center());
    harness.run_steps(40);
    assert!(harness.query_all_by_label_contains(reason).next().is_some(), "{button}: {reason}");
}

#[test]
fn settings_are_refused_by_the_recipe_that_they_would_be_part_of() {
    let int4 = WeightFormat::Int(IntFormat { bits: 4, group: Group::Size(32), symmetric: false });
    let rounded = |rounding| LayerSettings { rounding, ..LayerSettings::of(int4) };
    let awq = rounded(Rounding::Awq(AwqOptions::default()));
    let name = format!("Apply {}", awq.label());
    let mut harness = alone(looking_at("model.layers.3.self_attn.q_proj", &[awq]), Theme::Dark);
    check_refused(&mut harness, &name, Some("scale q, k and v"));
    let group = ["q_proj", "k_proj", "v_proj"].map(|role| LayerPath(format!("model.layers.3.self_attn.{role}")));
    harness.state_mut().selection.layers = group.into();
    harness.run();
    check_refused(&mut harness, &name, None);
    click(&mut harness, &name);
    assert!(matches!(harness.state().editor.draft().plan, Some(Ok(_))), "what is offered resolves");

    let gptq = rounded(Rounding::Gptq(GptqOptions::default()));
    let mut world = looking_at(INSPECTED, &[gptq]);
    world.sweep.calibration = PathBuf::new();
    let mut harness = alone(world, Theme::Dark);
    let mut recipe = Recipe::reference();
    recipe.calibration.data = Some("/texts/of-the-recipe.jsonl".into());
    let fraction = 0.05;
    harness.state_mut().editor.set(recipe.clone(), Gesture::Whole);
    harness.run();
    check_refused(&mut harness, &format!("Apply {}", gptq.label()), None);
    let score = ChannelScore::WeightNorm;
    recipe.structure.ffn = Some(WidthCut { fraction, score, blocks: None, align: Some(1) });
    harness.state_mut().editor.set(recipe, Gesture::Whole);
    harness.run();
    check_refused(&mut harness, "Apply int4 g32", Some("multiple of 32"));
}

#[test]
fn a_rank_that_the_recipe_would_refuse_is_not_offered() {
    let mut harness = alone(looking_at("model.embed_tokens", &[]), Theme::Light);
    check_refused(&mut harness, "Use rank", Some("embedding and head"));
    let mut harness = alone(looking_at(INSPECTED, &[]), Theme::Light);
    check_refused(&mut harness, "Use rank", None);
}

#[test]
fn calibration_is_offered_and_asked_for() {
    let without = |text: &str| {
        let mut world = World::with_inspection();
        world.inspection.as_mut().unwrap().view.inputs = None;
        world.sweep.calibration = PathBuf::from(text);
        world
    };
    let mut harness = alone(without(""), Theme::Dark);
    click(&mut harness, "Choose calibration text…");
    let dialog = Command::Dialog(trimtab::app::command::DialogKind::OpenCalibration);
    assert_eq!(harness.state().sent, [dialog]);
    let mut harness = alone(without("/texts/calibration.jsonl"), Theme::Dark);
    click(&mut harness, "Calibrate");
    let calibration = Calibration {
        data: Some(PathBuf::from("/texts/calibration.jsonl")),
        policy: Policy::Dense,
        ..Calibration::default()
    };
    let wanted = InspectRequest { calibration: Some(calibration), ..request(INSPECTED) };
    assert_eq!(harness.state().sent, [Command::Inspect(wanted.clone())]);

    // Its inputs are there: a second click leaves them out again.
    let shown = harness.state_mut().inspection.as_mut().unwrap();
    shown.request = wanted;
    shown.view.inputs = Some(Ok(InputRanges { n_tokens: 4096, max_abs: vec![2.0, 0.0], mean_abs: vec![0.5, 0.0] }));
    harness.run();
    assert!(harness.query_by_label_contains("4,096 tokens · 1 channel is always 0").is_some());
    click(&mut harness, "Calibrate");
    assert_eq!(harness.state().sent.last(), Some(&Command::Inspect(request(INSPECTED))));
}

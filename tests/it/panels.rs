//! The panels of results in every state, by accessible name, in light and dark.
//!
//! With `TRIMTAB_PANEL_IMAGES=FOLDER` each state is also rendered to a PNG, to be looked at.

use std::sync::Arc;

use egui::{Key, Modifiers, Theme, Vec2, vec2};
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT as _, Queryable as _};

use trimtab as house;
use trimtab::app::command::{Command, CommandQueue, PinSlot};
use trimtab::app::context::{Draft, Selection, SweepPlan, ViewContext};
use trimtab::app::panels::Panel;
use trimtab::app::panels::compare::ComparePanel;
use trimtab::app::panels::hardware::HardwarePanel;
use trimtab::app::panels::live::{LiveLatencyPanel, LiveMemoryPanel, LiveQualityPanel};
use trimtab::app::panels::trade_off::TradeOffPanel;
use trimtab::app::panels::trials::TrialsPanel;
use trimtab::app::sweep::SweepSettings;
use trimtab::app::{theme, words};
use trimtab::device::DeviceSpec;
use trimtab::device::GpuDescription;
use trimtab::session::{CacheState, ModelState};
use trimtab::study::{Outcome, Study, TrialId, TrialState};
use trimtab::telemetry::{GpuDevice, GpuReading, GpuSample, HardwareSample, Refusal, TelemetrySnapshot};

#[path = "../../src/app/plots/fixtures.rs"]
mod fixtures;

/// A panel with everything that it reads.
struct World {
    panel: Box<dyn Panel>,
    study: Study,
    selection: Selection,
    telemetry: Arc<TelemetrySnapshot>,
    commands: CommandQueue,
    sent: Vec<Command>,
}

impl World {
    fn new(panel: Box<dyn Panel>, study: Study, selection: Selection) -> Self {
        let commands = CommandQueue::default();
        Self { panel, study, selection, telemetry: Arc::new(telemetry()), commands, sent: Vec::new() }
    }

    fn ui(&mut self, ui: &mut egui::Ui) {
        let draft = Draft::default();
        let cache = CacheState::default();
        let (sweep, plan) = (SweepSettings::default(), SweepPlan::default());
        let cx = ViewContext {
            words: words::current(),
            theme: theme::Tokens::of(ui.ctx().theme()),
            device: DeviceSpec::Cpu { threads: 2 },
            also_on: &[],
            sweep: &sweep,
            plan: &plan,
            recent: &[],
            log: &[],
            model: &ModelState::Closed,
            graph: None,
            draft: &draft,
            can_undo: false,
            can_redo: false,
            study: &self.study,
            status: None,
            inspection: None,
            profiling: None,
            selection: &self.selection,
            devices: &[],
            telemetry: &self.telemetry,
            cache: &cache,
            commands: &self.commands,
        };
        self.panel.ui(&cx, ui);
        for command in self.commands.drain() {
            match &command {
                Command::SelectTrial(trial) => self.selection.trial = *trial,
                Command::HoverTrial(trial) => self.selection.hovered = *trial,
                Command::Pin(PinSlot::A, trial) => self.selection.pinned_a = *trial,
                Command::Pin(PinSlot::B, trial) => self.selection.pinned_b = *trial,
                _ => {}
            }
            self.sent.push(command);
        }
    }
}

fn telemetry() -> TelemetrySnapshot {
    let sample = |step: u32| HardwareSample {
        at_secs: f64::from(step) * 0.1,
        cpu_fraction: Some(0.3 + 0.6 * fixtures::noise(3, step / 12)),
        memory_used_bytes: Some((3 << 30) + u64::from(step) * 400_000),
        memory_total_bytes: Some(8 << 30),
        frequency_mhz: Some(2600.0 + 30.0 * fixtures::noise(4, step / 20)),
        temperature_celsius: None,
        gpus: Vec::new(),
    };
    TelemetrySnapshot {
        cpu_model: Some("AMD EPYC 9R14".to_owned()),
        n_cores: 2,
        history: (0..600).map(sample).collect(),
        gpus: Vec::new(),
        no_gpu: Some("no NVIDIA driver (libnvidia-ml.so.1 not found)".to_owned()),
    }
}

fn harness(world: World, size: Vec2, theme: Theme) -> Harness<'static, World> {
    let mut harness = Harness::builder()
        .with_size(size)
        .with_theme(theme)
        .with_max_steps(12)
        .with_step_dt(1.0 / 60.0)
        .with_context_setup(theme::install)
        .wgpu()
        .build_ui_state(
            |ui, world: &mut World| {
                egui::Frame::new().fill(ui.visuals().panel_fill).inner_margin(8.0).show(ui, |ui| {
                    ui.set_min_size(ui.available_size());
                    world.ui(ui);
                });
            },
            world,
        );
    harness.run_ok();
    harness
}

fn trial(id: u32) -> Selection {
    Selection { trial: Some(TrialId(id)), ..Selection::default() }
}

/// Draws one state in both themes and at both sizes; `expected` must be among the accessible names.
fn check(name: &str, sizes: [Vec2; 2], make: impl Fn() -> World, expected: &[&str]) {
    for theme in [Theme::Dark, Theme::Light] {
        for size in sizes {
            let mut harness = harness(make(), size, theme);
            for text in expected {
                let found = harness.query_all_by_label_contains(text).count();
                assert!(found > 0, "{name}: {text:?} is not shown at {size:?}");
            }
            image(&mut harness, &format!("{name}-{theme:?}-{}", size.x));
        }
    }
}

/// Keeps what is shown as a PNG, when someone wants to look.
fn image(harness: &mut Harness<'_, World>, name: &str) {
    if let Some(folder) = std::env::var_os("TRIMTAB_PANEL_IMAGES") {
        let image = harness.render().unwrap();
        image.save(std::path::Path::new(&folder).join(format!("{name}.png"))).unwrap();
    }
}

const TRADE_OFF: [Vec2; 2] = [vec2(736.0, 351.0), vec2(518.0, 264.0)];
const LIVE: [Vec2; 2] = [vec2(245.0, 221.0), vec2(518.0, 184.0)];
const TRIALS: [Vec2; 2] = [vec2(1600.0, 160.0), vec2(1280.0, 168.0)];
const COMPARE: [Vec2; 2] = [vec2(400.0, 620.0), vec2(333.0, 470.0)];
const HARDWARE: [Vec2; 2] = [vec2(1088.0, 112.0), vec2(1280.0, 168.0)];

#[test]
fn the_trade_off_in_every_state() {
    let world = |study: fn() -> Study, selection: Selection| {
        move || World::new(Box::new(TradeOffPanel::default()), study(), selection.clone())
    };
    let none = Selection::default();
    check("trade-off-empty", TRADE_OFF, world(Study::default, none.clone()), &["No trials yet", "Run measures"]);
    check("trade-off-running", TRADE_OFF, world(|| fixtures::running(5), none), &["Trade-off plot", "2 simulated"]);
    let pinned = Selection { pinned_a: Some(TrialId(2)), pinned_b: Some(TrialId(8)), ..trial(1) };
    let expected = ["x axis", "Copy CSV", "Select failed trial #6", "3 failed"];
    check("trade-off-done", TRADE_OFF, world(|| fixtures::study(30), pinned), &expected);
    let failed = || {
        let mut study = Study::from_events([&fixtures::created()]);
        study.apply(&house::study::StudyEvent::TrialStarted { spec: Box::new(fixtures::spec(6)) });
        study.apply(&fixtures::finished(6, 320));
        study
    };
    check("trade-off-failed", TRADE_OFF, world(failed, trial(6)), &["No trial has a result", "1 failed"]);
}

#[test]
fn the_live_plots_in_every_state() {
    type Case = (&'static str, fn() -> Box<dyn Panel>, [&'static str; 3]);
    let panels: [Case; 3] = [
        ("latency", || Box::new(LiveLatencyPanel::default()), ["Latency plot", "sample by sample", "no timed samples"]),
        ("memory", || Box::new(LiveMemoryPanel::default()), ["Memory plot", "over time", "no memory readings"]),
        (
            "quality",
            || Box::new(LiveQualityPanel::default()),
            ["Quality plot", "window by window", "no scored windows"],
        ),
    ];
    for (name, panel, [plot, hint, absent]) in panels {
        let world =
            |study: fn() -> Study, selection: Selection| move || World::new(panel(), study(), selection.clone());
        let none = Selection::default();
        check(&format!("{name}-empty"), LIVE, world(Study::default, none.clone()), &["No trial is running", hint]);
        check(&format!("{name}-running"), LIVE, world(|| fixtures::running(2), none), &[plot, "#2 q4_0"]);
        check(&format!("{name}-done"), LIVE, world(|| fixtures::study(9), trial(8)), &[plot, "#8 q8_0, MLP q4_0"]);
        if name != "memory" {
            check(&format!("{name}-failed"), LIVE, world(|| fixtures::study(9), trial(6)), &[absent]);
        }
    }
}

#[test]
fn power_and_clocks_share_the_time_of_memory() {
    let world = |telemetry: fn(&mut TelemetrySnapshot)| {
        let mut world = World::new(Box::new(LiveMemoryPanel::default()), fixtures::running(2), Selection::default());
        telemetry(Arc::make_mut(&mut world.telemetry));
        world
    };
    let gpus = |found: &mut TelemetrySnapshot| {
        gpu(found);
        for (step, sample) in (0_u32..).zip(&mut found.history) {
            sample.gpus[0].power_watts = Some(120.0 + 300.0 * fixtures::noise(5, step / 7));
        }
    };
    for (theme, size) in [(Theme::Dark, LIVE[0]), (Theme::Light, LIVE[1])] {
        for (quantity, plot) in [("power", "Power plot"), ("clock", "Clock plot")] {
            let mut harness = harness(world(gpus), size, theme);
            harness.get_by_label(&format!("Quantity {quantity}")).click();
            harness.run_ok();
            assert_eq!(harness.query_all_by_label(plot).count(), 1);
            image(&mut harness, &format!("machine-{quantity}-{theme:?}"));
        }
    }
    let mut harness = harness(world(|_| {}), LIVE[1], Theme::Dark);
    harness.get_by_label("Quantity power").click();
    harness.run_ok();
    assert_eq!(harness.query_all_by_label_contains("No sensor of this machine").count(), 1);
}

#[test]
fn energy_has_a_column_and_an_axis_where_a_trial_has_it() {
    let without = || {
        let mut study = fixtures::study(30);
        for trial in study.trials.values_mut() {
            if let TrialState::Finished { outcome: Outcome::Done(measured), .. } = &mut trial.state {
                measured.energy = None;
                measured.conditions.no_energy = Some("only root may read it".to_owned());
            }
        }
        study
    };
    for (has_energy, study) in [(false, without()), (true, fixtures::study(30))] {
        let table = World::new(Box::new(TrialsPanel::default()), study.clone(), trial(1));
        let found = harness(table, TRIALS[0], Theme::Dark).query_all_by_label_contains("mJ/tok").count();
        assert_eq!(found > 0, has_energy);
        let world = World::new(Box::new(TradeOffPanel::default()), study, Selection::default());
        let mut harness = harness(world, TRADE_OFF[0], Theme::Light);
        harness.get_by_label("x axis").click();
        harness.run_ok();
        let choice = harness.get_by_label("energy, mJ a token");
        assert_eq!(choice.accesskit_node().is_disabled(), !has_energy);
        choice.click();
        harness.run_ok();
        image(&mut harness, &format!("trade-off-energy-{has_energy}"));
    }
}

#[test]
fn the_table_in_every_state() {
    let world = |study: fn() -> Study, selection: Selection| {
        move || World::new(Box::new(TrialsPanel::default()), study(), selection.clone())
    };
    let none = Selection::default();
    check("trials-empty", TRIALS, world(Study::default, none.clone()), &["No trials yet"]);
    check("trials-running", TRIALS, world(|| fixtures::running(2), none), &["running", "Filter trials", "3 trials"]);
    let pinned = Selection { pinned_a: Some(TrialId(0)), pinned_b: Some(TrialId(2)), ..trial(1) };
    let expected = ["Sort by KL, nats", "Pin #1 as A", "Load the recipe of #1", "Copy the row of #1", "simulated"];
    check("trials-done", TRIALS, world(|| fixtures::study(40), pinned), &expected);
    check("trials-failed", TRIALS, world(|| fixtures::study(8), trial(6)), &["out of memory"]);
}

#[test]
fn the_comparison_in_every_state() {
    let world = |study: fn() -> Study, selection: Selection| {
        move || World::new(Box::new(ComparePanel::default()), study(), selection.clone())
    };
    let none = Selection::default();
    check("compare-empty", COMPARE, world(Study::default, none.clone()), &["Nothing to compare yet", "pin any two"]);
    check("compare-none", COMPARE, world(|| fixtures::study(9), none), &["Nothing to compare yet"]);
    let expected =
        ["#8 q8_0, MLP q4_0", "attention ×24", "Metrics", "better", "Generated text", "follows the selection"];
    check("compare-done", COMPARE, world(|| fixtures::study(9), trial(8)), &expected);
    let pinned = Selection { pinned_a: Some(TrialId(1)), pinned_b: Some(TrialId(3)), ..Selection::default() };
    check("compare-simulated", COMPARE, world(|| fixtures::study(9), pinned), &["simulated", "Unpin A", "Unpin B"]);
    check("compare-running", COMPARE, world(|| fixtures::running(4), trial(4)), &["#4 running"]);
    check("compare-failed", COMPARE, world(|| fixtures::study(9), trial(6)), &["out of memory", "fewer f32 layers"]);
}

#[test]
fn the_hardware_with_and_without_a_gpu() {
    let world = |change: fn(&mut TelemetrySnapshot)| {
        move || {
            let mut world = World::new(Box::new(HardwarePanel::default()), Study::default(), Selection::default());
            change(Arc::make_mut(&mut world.telemetry));
            world
        }
    };
    check("hardware-empty", HARDWARE, world(|found| found.history.clear()), &["No reading yet"]);
    let expected = ["AMD EPYC 9R14 · 2 cores", "no readable sensor", "no NVIDIA driver", "of 8.00 GiB"];
    check("hardware-host", HARDWARE, world(|_| {}), &expected);
    check("hardware-gpu", HARDWARE, world(gpu), &["GPU 0 NVIDIA H200", "not available: MIG", "of 139 GiB"]);
    let lost = |found: &mut TelemetrySnapshot| {
        gpu(found);
        found.gpus[0].is_lost = true;
        found.history.iter_mut().skip(300).for_each(|sample| sample.gpus[0] = GpuSample::default());
    };
    check("hardware-gpu-lost", HARDWARE, world(lost), &["lost: it has fallen off the bus"]);
}

/// A divided card that tells neither its power nor the clock of its memory.
fn gpu(found: &mut TelemetrySnapshot) {
    found.no_gpu = None;
    found.gpus.push(GpuDevice {
        name: "NVIDIA H200".to_owned(),
        memory_total_bytes: Some(139 << 30),
        description: GpuDescription { compute_capability: Some((9, 0)), mig: Some(true), ..GpuDescription::default() },
        refused: [GpuReading::Power, GpuReading::MemoryClock].map(|what| (what, Refusal::Mig)).into(),
        is_lost: false,
    });
    for (step, sample) in (0_u32..).zip(&mut found.history) {
        sample.gpus.push(GpuSample {
            at_secs: sample.at_secs,
            utilization: Some(fixtures::noise(9, step / 9)),
            memory_used_bytes: Some((20 << 30) + u64::from(step) * 9_000_000),
            temperature_celsius: Some(41.0),
            sm_clock_mhz: Some(1980),
            ..GpuSample::default()
        });
    }
}

fn last(harness: &Harness<'_, World>) -> Option<Command> {
    harness.state().sent.iter().rfind(|command| !matches!(command, Command::HoverTrial(_))).cloned()
}

#[test]
fn rows_sort_filter_select_pin_load_and_copy() {
    let world = World::new(Box::new(TrialsPanel::default()), fixtures::study(30), Selection::default());
    let mut harness = harness(world, vec2(1600.0, 420.0), Theme::Dark);

    harness.get_by_label("Pin #2 as A").click();
    harness.run_ok();
    assert_eq!(last(&harness), Some(Command::Pin(PinSlot::A, Some(TrialId(2)))));
    harness.get_by_label("Pin #2 as A").click();
    harness.run_ok();
    assert_eq!(last(&harness), Some(Command::Pin(PinSlot::A, None)), "a second click takes the pin off");
    harness.get_by_label("Load the recipe of #3").click();
    harness.run_ok();
    assert_eq!(last(&harness), Some(Command::LoadRecipe(TrialId(3))));
    harness.get_by_label("Copy the row of #1").click();
    harness.run_ok();
    assert!(matches!(last(&harness), Some(Command::Copy(text)) if text.starts_with("1\tq8_0\t")));

    let row = harness.get_by_label("#4").rect().center();
    harness.hover_at(row);
    harness.run_ok();
    assert_eq!(harness.state().selection.hovered, Some(TrialId(4)));
    harness.drag_at(row);
    harness.drop_at(row);
    harness.run_ok();
    assert_eq!(last(&harness), Some(Command::SelectTrial(Some(TrialId(4)))));
    harness.key_press(Key::ArrowDown);
    harness.run_ok();
    assert_eq!(last(&harness), Some(Command::SelectTrial(Some(TrialId(5)))));
    harness.key_press(Key::P);
    harness.run_ok();
    assert_eq!(last(&harness), Some(Command::Pin(PinSlot::A, Some(TrialId(5)))));
    harness.key_press_modifiers(Modifiers::NONE, Key::ArrowUp);
    harness.run_ok();
    assert_eq!(last(&harness), Some(Command::SelectTrial(Some(TrialId(4)))));

    harness.get_by_label("Sort by bits/w").click();
    harness.run_ok();
    let top = |harness: &Harness<'_, World>, a: &str, b: &str| {
        harness.get_by_label(a).rect().top() < harness.get_by_label(b).rect().top()
    };
    assert!(top(&harness, "#2", "#10") && top(&harness, "#10", "#4"), "fewest bits first, ties by number");

    harness.get_by_label("Filter trials").click();
    harness.run_ok();
    harness.get_by_label("Filter trials").type_text("memory");
    harness.run_ok();
    assert_eq!(harness.query_all_by_label_contains("out of memory").count(), 3);
    assert!(harness.query_by_label("#4").is_none());
    harness.get_by_label("Clear the filter").click();
    harness.run_ok();
    assert!(harness.query_by_label("#4").is_some());
}

#[test]
fn points_are_hovered_selected_and_loaded() {
    let world = World::new(Box::new(TradeOffPanel::default()), fixtures::study(12), Selection::default());
    let mut harness = harness(world, TRADE_OFF[0], Theme::Dark);
    let plot = harness.get_by_label("Trade-off plot").rect();
    let mut found = None;
    'search: for row in 0..30 {
        for column in 0..60 {
            let at = plot.min + vec2(column as f32 * plot.width() / 60.0, row as f32 * plot.height() / 30.0);
            harness.hover_at(at);
            harness.step();
            if let Some(id) = harness.state().selection.hovered {
                found = Some((at, id));
                break 'search;
            }
        }
    }
    let (at, id) = found.expect("a point is somewhere in the plot");
    harness.run_steps(40);
    assert!(harness.query_all_by_label_contains("double-click loads the recipe").count() == 1, "the card is shown");
    image(&mut harness, "trade-off-hovered");
    harness.drag_at(at);
    harness.drop_at(at);
    harness.run_ok();
    assert_eq!(last(&harness), Some(Command::SelectTrial(Some(id))));
    harness.drag_at(at);
    harness.drop_at(at);
    harness.drag_at(at);
    harness.drop_at(at);
    harness.run_ok();
    assert!(harness.state().sent.contains(&Command::LoadRecipe(id)), "a double-click loads");

    harness.get_by_label("Copy CSV").click();
    harness.run_ok();
    assert!(matches!(last(&harness), Some(Command::Copy(text)) if text.lines().count() > 6));
    harness.get_by_label("Select failed trial #6").click();
    harness.run_ok();
    assert_eq!(last(&harness), Some(Command::SelectTrial(Some(TrialId(6)))));

    harness.get_by_label("x axis").click();
    harness.run_ok();
    harness.get_by_label("size, MiB").click();
    harness.run_ok();
    assert!(harness.query_all_by_label_contains("not on these axes").next().is_none(), "size is everyone's own");
}

#[test]
fn sides_are_swapped_and_unpinned() {
    let pinned = Selection { pinned_a: Some(TrialId(1)), pinned_b: Some(TrialId(2)), ..Selection::default() };
    let world = World::new(Box::new(ComparePanel::default()), fixtures::study(9), pinned);
    let mut harness = harness(world, COMPARE[0], Theme::Light);
    harness.get_by_label("Swap sides").click();
    harness.run_ok();
    let selection = &harness.state().selection;
    assert_eq!((selection.pinned_a, selection.pinned_b), (Some(TrialId(2)), Some(TrialId(1))));
    harness.get_by_label("Unpin B").click();
    harness.run_ok();
    assert_eq!(last(&harness), Some(Command::Pin(PinSlot::B, None)));
    assert!(harness.query_by_label_contains("Nothing to compare").is_some(), "nothing is selected");
}

#[test]
fn the_live_plots_switch_phase_and_quality() {
    let world = World::new(Box::new(LiveLatencyPanel::default()), fixtures::running(2), Selection::default());
    let mut latency = harness(world, LIVE[1], Theme::Dark);
    let decode = latency.get_by_label("Timed phase decode");
    assert_eq!(decode.accesskit_node().toggled(), Some(egui::accesskit::Toggled::True));
    latency.get_by_label("Timed phase prefill").click();
    latency.run_ok();
    let prefill = latency.get_by_label("Timed phase prefill");
    assert_eq!(prefill.accesskit_node().toggled(), Some(egui::accesskit::Toggled::True));
    latency.get_by_label("Copy the whole series as CSV").click();
    latency.run_ok();
    assert!(matches!(last(&latency), Some(Command::Copy(text)) if text.starts_with("phase,arm,sample,nanos\n")));

    let world = World::new(Box::new(LiveQualityPanel::default()), fixtures::running(2), Selection::default());
    let mut quality = harness(world, LIVE[1], Theme::Dark);
    quality.get_by_label("Quality ppl ratio").click();
    quality.run_ok();
    let ratio = quality.get_by_label("Quality ppl ratio");
    assert_eq!(ratio.accesskit_node().toggled(), Some(egui::accesskit::Toggled::True));
}

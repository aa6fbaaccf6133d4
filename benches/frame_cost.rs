//! Prints what a frame of the table of trials, the trade-off and the live plots costs with 100, 10,000 and 100,000 trials.
//!
//! Layout and tessellation on one core, without a GPU. The goal is 33 ms a frame at 10,000 trials.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::sync::Arc;
use std::time::Instant;

use egui::{Event, Pos2, RawInput, Rect, UiBuilder, vec2};

use trimtab as house;
use trimtab::app::command::{Command, CommandQueue};
use trimtab::app::context::{Draft, Selection, SweepPlan, ViewContext};
use trimtab::app::panels::Panel;
use trimtab::app::panels::live::{LiveLatencyPanel, LiveMemoryPanel, LiveQualityPanel};
use trimtab::app::panels::trade_off::TradeOffPanel;
use trimtab::app::panels::trials::TrialsPanel;
use trimtab::app::sweep::SweepSettings;
use trimtab::app::{theme, words};
use trimtab::device::DeviceSpec;
use trimtab::session::{CacheState, ModelState};
use trimtab::study::{Study, TrialId};
use trimtab::telemetry::TelemetrySnapshot;

#[path = "../src/app/plots/fixtures.rs"]
mod fixtures;

/// Frames behind each median.
const FRAMES: usize = 41;

struct Bench {
    ctx: egui::Context,
    study: Study,
    selection: Selection,
    tiles: Vec<(Rect, Box<dyn Panel>)>,
    commands: CommandQueue,
}

impl Bench {
    fn new(n: u32) -> Self {
        let ctx = egui::Context::default();
        theme::install(&ctx);
        let tile = |x: f32, y: f32, width: f32, height: f32, panel: Box<dyn Panel>| {
            (Rect::from_min_size(Pos2::new(x, y), vec2(width, height)), panel)
        };
        let tiles = vec![
            tile(464.0, 40.0, 736.0, 380.0, Box::<TradeOffPanel>::default()),
            tile(464.0, 430.0, 240.0, 250.0, Box::<LiveLatencyPanel>::default()),
            tile(710.0, 430.0, 240.0, 250.0, Box::<LiveMemoryPanel>::default()),
            tile(956.0, 430.0, 240.0, 250.0, Box::<LiveQualityPanel>::default()),
            tile(0.0, 690.0, 1600.0, 300.0, Box::<TrialsPanel>::default()),
        ];
        let selection = Selection { trial: Some(TrialId(n / 2)), ..Selection::default() };
        Self { ctx, study: fixtures::running(n), selection, tiles, commands: CommandQueue::default() }
    }

    /// Milliseconds of one frame with the pointer at `pointer`.
    fn frame(&mut self, pointer: Pos2) -> f64 {
        let draft = Draft::default();
        let cache = CacheState::default();
        let (sweep, plan) = (SweepSettings::default(), SweepPlan::default());
        let telemetry = Arc::new(TelemetrySnapshot::default());
        let input = RawInput {
            screen_rect: Some(Rect::from_min_size(Pos2::ZERO, vec2(1600.0, 1000.0))),
            events: vec![Event::PointerMoved(pointer)],
            ..RawInput::default()
        };
        let Self { ctx, study, selection, tiles, commands } = self;
        let cx = ViewContext {
            words: words::current(),
            theme: theme::Tokens::of(ctx.theme()),
            model: &ModelState::Closed,
            graph: None,
            draft: &draft,
            can_undo: false,
            can_redo: false,
            study,
            status: None,
            inspection: None,
            profiling: None,
            cache: &cache,
            selection,
            devices: &[],
            device: DeviceSpec::Cpu { threads: 2 },
            also_on: &[],
            sweep: &sweep,
            plan: &plan,
            recent: &[],
            log: &[],
            telemetry: &telemetry,
            commands,
        };
        let start = Instant::now();
        let mut output = ctx.run_ui(input, |ui| {
            for (index, (rect, panel)) in tiles.iter_mut().enumerate() {
                let builder = UiBuilder::new().max_rect(rect.shrink(8.0)).id_salt(index);
                ui.scope_builder(builder, |ui| {
                    ui.set_clip_rect(*rect);
                    panel.ui(&cx, ui);
                });
            }
        });
        let primitives = ctx.tessellate(std::mem::take(&mut output.shapes), output.pixels_per_point);
        let elapsed = start.elapsed().as_secs_f64() * 1e3;
        assert!(!primitives.is_empty(), "something was drawn");
        output.textures_delta.clear();
        for command in commands.drain() {
            if let Command::HoverTrial(trial) = command {
                selection.hovered = trial;
            }
        }
        elapsed
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    println!(
        "{:>8}  {:>10}  {:>10}  {:>14}  {:>16}",
        "trials", "first, ms", "still, ms", "pointer, ms", "trial ended, ms"
    );
    for n in [100, 10_000, 100_000] {
        let mut bench = Bench::new(n);
        let away = Pos2::new(5.0, 5.0);
        let first = bench.frame(away);
        let still = median((0..FRAMES).map(|_| bench.frame(away)).collect());
        let moving = median(
            (0..FRAMES)
                .map(|step| bench.frame(Pos2::new(500.0 + 16.0 * step as f32, 90.0 + 7.0 * step as f32)))
                .collect(),
        );
        let ended = median(
            (0..FRAMES.min(15))
                .map(|_| {
                    bench.study.generation += 1;
                    bench.frame(away)
                })
                .collect(),
        );
        println!("{n:>8}  {first:>10.2}  {still:>10.2}  {moving:>14.2}  {ended:>16.2}");
    }
}

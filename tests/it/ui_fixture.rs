//! A window without a session: a graph, a study and an editor made by hand, and every command that the window sent.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use egui_kittest::Harness;
use trimtab::app::command::{Command, CommandQueue, PinSlot};
use trimtab::app::context::{LogLine, Selection, SweepPlan, ViewContext};
use trimtab::app::editor::{Editor, Gesture};
use trimtab::app::sweep::SweepSettings;
use trimtab::app::theme::{self, Tokens};
use trimtab::app::ui::View;
use trimtab::app::words;
use trimtab::device::{DeviceInfo, DeviceSpec};
use trimtab::model::{
    Fingerprint, HiddenAct, Layer, LayerPath, LayerRole, LlamaConfig, ModelFamily, ModelGraph, ModelSource, RopeOrder,
    StoredFormat,
};
use trimtab::recipe::{LayerSettings, presets};
use trimtab::session::{
    CacheState, InspectRequest, Inspection, InspectionState, ModelState, OpenModel, ProfileRequest, ProfileState,
    Profiling, RunStatus,
};
use trimtab::study::{ProfileReport, ProfileWorkload, Study};
use trimtab::telemetry::TelemetrySnapshot;
use trimtab::worker::heat_map::HeatMap;
use trimtab::worker::inspection::LayerView;

/// The window's world, owned by a test.
pub(crate) struct World {
    pub model: ModelState,
    pub editor: Editor,
    pub selection: Selection,
    pub inspection: Option<Inspection>,
    pub profiling: Option<Profiling>,
    pub sweep: SweepSettings,
    pub plan: SweepPlan,
    pub study: Study,
    pub status: Option<RunStatus>,
    pub recent: Vec<PathBuf>,
    pub log: Vec<LogLine>,
    pub telemetry: Arc<TelemetrySnapshot>,
    pub cache: CacheState,
    /// Every command, in order.
    pub sent: Vec<Command>,
    pub view: View,
    device: DeviceInfo,
    /// This machine's; [`Self::with_cards`] has more than the one that is chosen.
    devices: Vec<DeviceInfo>,
    pub also_on: Vec<DeviceSpec>,
    commands: CommandQueue,
    dressed: bool,
}

impl World {
    /// Nothing open.
    pub(crate) fn empty() -> Self {
        let spec = DeviceSpec::Cpu { threads: 2 };
        Self {
            model: ModelState::Closed,
            editor: Editor::default(),
            selection: Selection::default(),
            inspection: None,
            profiling: None,
            sweep: SweepSettings::default(),
            plan: SweepPlan::default(),
            study: Study::default(),
            status: None,
            recent: Vec::new(),
            log: Vec::new(),
            telemetry: Arc::default(),
            cache: CacheState::default(),
            sent: Vec::new(),
            view: View::new(None),
            device: DeviceInfo::named(spec, "test processor"),
            devices: vec![DeviceInfo::named(spec, "test processor")],
            also_on: Vec::new(),
            commands: CommandQueue::default(),
            dressed: false,
        }
    }

    /// A model of six blocks open, its text chosen.
    pub(crate) fn with_model() -> Self {
        let source = ModelSource::Safetensors { dir: PathBuf::from("/models/fifteen") };
        let model = OpenModel { source, graph: graph(), refused: Vec::new() };
        let mut world = Self { model: ModelState::Open(Arc::new(model)), ..Self::empty() };
        world.sweep.quality.data = PathBuf::from("/texts/search.jsonl");
        world.sweep.calibration = PathBuf::from("/texts/calibration.jsonl");
        let ticked = presets().iter().filter(|preset| world.sweep.presets.contains(preset.id));
        world.plan.recipes = ticked.map(|preset| preset.recipe().name).collect();
        world
    }

    /// The same with two cards, the first of which is chosen, and a third that runs nothing now.
    pub(crate) fn with_cards() -> Self {
        let mut world = Self::with_model();
        let card = |ordinal| DeviceInfo::named(DeviceSpec::Cuda { ordinal }, "test card");
        let lost = DeviceInfo { unavailable: Some("it is gone".to_owned()), ..card(2) };
        world.devices.extend([card(0), card(1), lost]);
        world.device = card(0);
        world
    }

    /// The same with one layer selected and looked into, as a worker recorded it.
    pub(crate) fn with_inspection() -> Self {
        let layer = LayerPath::from(INSPECTED);
        let mut world = Self::with_model();
        world.selection.layers.insert(layer.clone());
        world.inspection = Some(inspection(InspectRequest { layer, calibration: None }));
        world.sweep.calibration = PathBuf::from("/texts/calibration.jsonl");
        world
    }

    /// A model open and its `q8_0` variant profiled, as a worker recorded it.
    pub(crate) fn with_profile() -> Self {
        let recorded = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/profile.json");
        let report: ProfileReport = serde_json::from_slice(&std::fs::read(recorded).unwrap()).unwrap();
        let recipe = presets().iter().find(|preset| preset.id == "q8_0").expect("it is shipped").recipe();
        let workload = ProfileWorkload { prompt: 256, context: 255, repetitions: 16 };
        let request = ProfileRequest { recipe, device: DeviceSpec::Cpu { threads: 2 }, workload };
        let mut world = Self::with_model();
        let (state, report, generation) = (ProfileState::Done, Some(Arc::new(report)), 1);
        world.profiling = Some(Profiling { request, state, progress: None, report, cautions: Vec::new(), generation });
        world
    }

    /// The window, at this size.
    pub(crate) fn harness(self, size: [f32; 2], theme: egui::Theme) -> Harness<'static, Self> {
        let builder = Harness::builder().with_size(size).with_theme(theme).with_max_steps(24).wgpu();
        let mut harness = builder.build_ui_state(|ui, world: &mut Self| world.frame(ui), self);
        harness.run();
        harness
    }

    /// Settings of the layer with this path.
    pub(crate) fn settings(&self, path: &str) -> LayerSettings {
        let ModelState::Open(model) = &self.model else { panic!("no model is open") };
        let position = model.graph.layers.iter().position(|layer| layer.path.as_str() == path);
        self.editor.draft().settings[position.expect("the layer exists")]
    }

    /// One frame: commands of the last one, then what follows from them, then everything drawn.
    pub(crate) fn frame(&mut self, ui: &mut egui::Ui) {
        if !std::mem::replace(&mut self.dressed, true) {
            // Fonts and styles are there from the next frame on.
            theme::install(ui.ctx());
            ui.ctx().request_repaint();
            return;
        }
        for command in self.commands.drain() {
            self.sent.push(command.clone());
            self.apply(command);
        }
        let graph = match &self.model {
            ModelState::Open(model) => Some(&model.graph),
            _ => self.study.header.as_ref().map(|header| &header.graph),
        };
        self.editor.resolve(graph, &self.device, &self.sweep.calibration);
        let cx = ViewContext {
            words: words::current(),
            theme: Tokens::of(ui.ctx().theme()),
            model: &self.model,
            graph,
            draft: self.editor.draft(),
            can_undo: self.editor.can_undo(),
            can_redo: self.editor.can_redo(),
            study: &self.study,
            status: self.status,
            inspection: self.inspection.as_ref(),
            profiling: self.profiling.as_ref(),
            selection: &self.selection,
            devices: &self.devices,
            device: self.device.spec,
            also_on: &self.also_on,
            sweep: &self.sweep,
            plan: &self.plan,
            recent: &self.recent,
            log: &self.log,
            telemetry: &self.telemetry,
            cache: &self.cache,
            commands: &self.commands,
        };
        self.view.ui(&cx, ui);
        if !self.commands.is_empty() {
            ui.ctx().request_repaint();
        }
    }

    fn apply(&mut self, command: Command) {
        let Some(command) = self.view.apply(command) else { return };
        match command {
            Command::SetRecipe(recipe) => self.editor.set(*recipe, Gesture::Whole),
            Command::Undo => self.editor.undo(),
            Command::Redo => self.editor.redo(),
            Command::SelectLayers(layers) => self.selection.layers = layers,
            Command::SelectTrial(id) => self.selection.trial = id,
            Command::Pin(PinSlot::A, id) => self.selection.pinned_a = id,
            Command::Pin(PinSlot::B, id) => self.selection.pinned_b = id,
            Command::SetSweep(sweep) => self.sweep = *sweep,
            Command::UseCalibration(path) => self.sweep.calibration = path,
            Command::ShareWith(device, true) => self.also_on.push(device),
            _ => {}
        }
    }
}

/// The layer of [`World::with_inspection`].
pub(crate) const INSPECTED: &str = "model.layers.3.mlp.down_proj";

/// What `trimtab inspect --layer --json` said of the demo's layer, and the magnitudes of its weights.
pub(crate) fn inspection(request: InspectRequest) -> Inspection {
    let recorded: serde_json::Value = serde_json::from_str(include_str!("../fixtures/layer-view.json")).unwrap();
    assert_eq!(recorded["path"], request.layer.as_str(), "another layer was recorded");
    let view: LayerView = serde_json::from_value(recorded).unwrap();
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("assets/demo/stories15M");
    let checkpoint = trimtab::checkpoint::open(&ModelSource::Safetensors { dir }).unwrap();
    let weights = checkpoint.read_f32(&format!("{}.weight", request.layer)).unwrap().unwrap();
    let map = Some(Ok(Arc::new(HeatMap::of(&weights, [288, 768]))));
    Inspection { request, state: InspectionState::Done, view, map, generation: 1 }
}

/// Six Llama blocks of width 288 with an MLP of 768, tied head, all f16.
pub(crate) fn graph() -> ModelGraph {
    let config = LlamaConfig {
        hidden_size: 288,
        intermediate_size: 768,
        n_blocks: 6,
        n_heads: 6,
        n_kv_heads: 6,
        head_dim: 48,
        vocab_size: 32_000,
        max_context: 256,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: None,
        rope_order: RopeOrder::Halves,
        hidden_act: HiddenAct::Silu,
        tied_head: true,
        attention_bias: false,
        mlp_bias: false,
        bos_token: Some(1),
        eos_tokens: vec![2],
        block_shapes: Vec::new(),
    };
    let layer = |path: String, block: Option<u16>, role: LayerRole, shape: [usize; 2]| Layer {
        path: LayerPath(path),
        block,
        role,
        shape,
        stored: StoredFormat::F16,
        bias_len: 0,
        rank: None,
        sparse: None,
        shared_with: None,
    };
    let mut layers = vec![layer("model.embed_tokens".to_owned(), None, LayerRole::Embedding, [32_000, 288])];
    for block in 0..6_u16 {
        for (name, role, shape) in [
            ("self_attn.q_proj", LayerRole::QProj, [288, 288]),
            ("self_attn.k_proj", LayerRole::KProj, [288, 288]),
            ("self_attn.v_proj", LayerRole::VProj, [288, 288]),
            ("self_attn.o_proj", LayerRole::OProj, [288, 288]),
            ("mlp.gate_proj", LayerRole::GateProj, [768, 288]),
            ("mlp.up_proj", LayerRole::UpProj, [768, 288]),
            ("mlp.down_proj", LayerRole::DownProj, [288, 768]),
        ] {
            layers.push(layer(format!("model.layers.{block}.{name}"), Some(block), role, shape));
        }
    }
    ModelGraph {
        name: "stories15M".to_owned(),
        fingerprint: Fingerprint("made for tests".to_owned()),
        family: ModelFamily::Llama(config),
        layers,
        other_bytes: 13 * 288 * 2,
        other_weights: 13 * 288,
    }
}

/// The distinct weights formats of the layers that `keep` accepts, with how many have each.
pub(crate) fn census(world: &World, keep: impl Fn(&Layer) -> bool) -> BTreeMap<String, usize> {
    let ModelState::Open(model) = &world.model else { panic!("no model is open") };
    let mut census = BTreeMap::new();
    for (layer, settings) in model.graph.layers.iter().zip(&world.editor.draft().settings) {
        if keep(layer) {
            *census.entry(settings.label()).or_insert(0) += 1;
        }
    }
    census
}

//! What the sweep's form holds, and the study that it asks for. Pure.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::device::DeviceSpec;
use crate::model::{LayerRole, ModelSource};
use crate::recipe::{
    Fp8Scale, Group, IntFormat, PartialSettings, Preset, Recipe, Rounding, Sparsity, SparsityMethod, Target,
    WeightFormat, presets,
};
use crate::study::{
    Axis, Budget, Limits, Protocol, QualityWorkload, SampleWorkload, SpeedWorkload, StrategySpec, StudySpec, Workload,
};

/// How trials are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SweepKind {
    /// The recipe that is being edited.
    #[default]
    ThisRecipe,
    /// Shipped recipes.
    Presets,
    /// Every format with every sparsity.
    Grid,
    /// Rising sparsity until a limit is crossed.
    LadderSparsity,
    /// Falling bits until a limit is crossed.
    LadderFormats,
}

impl SweepKind {
    /// Every kind, in the order of the menu.
    pub const ALL: [Self; 5] = [Self::ThisRecipe, Self::Presets, Self::Grid, Self::LadderSparsity, Self::LadderFormats];
}

/// The layers that a grid or ladder varies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SweepTarget {
    /// Every linear layer of the blocks.
    #[default]
    Blocks,
    /// Query, key, value and output projections.
    Attention,
    /// Gate, up and down projections.
    Mlp,
    /// One role.
    Role(LayerRole),
}

impl SweepTarget {
    fn target(self) -> Option<Target> {
        match self {
            Self::Blocks => None,
            Self::Attention => Some(Target::Glob("*.self_attn.*".to_owned())),
            Self::Mlp => Some(Target::Glob("*.mlp.*".to_owned())),
            Self::Role(role) => Some(Target::Role(role)),
        }
    }
}

/// What the form of the sweep holds; kept between runs of the program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SweepSettings {
    /// How trials are chosen.
    pub kind: SweepKind,
    /// The shipped recipes that are ticked, by id.
    pub presets: BTreeSet<String>,
    /// The formats that are ticked.
    pub formats: BTreeSet<WeightFormat>,
    /// Ways of rounding of a grid, by name; the recipe's own when none is ticked.
    pub roundings: BTreeSet<String>,
    /// Methods of pruning of a grid.
    pub sparsity_methods: BTreeSet<SparsityMethod>,
    /// Sparsities of a grid, in per cent.
    pub grid_percents: BTreeSet<u8>,
    /// First rung, last rung and step of a ladder over sparsity, in per cent.
    pub ladder_percents: [u8; 3],
    /// How a ladder over sparsity prunes.
    pub ladder_method: SparsityMethod,
    /// What a grid or ladder varies.
    pub target: SweepTarget,
    /// Whether quality is measured.
    pub with_quality: bool,
    /// How quality is measured. An empty path stands for "not chosen yet".
    pub quality: QualityWorkload,
    /// The text that calibrated methods read where a recipe names none. An empty path stands for "not chosen yet".
    pub calibration: PathBuf,
    /// Whether speed is measured.
    pub with_speed: bool,
    /// How speed is measured.
    pub speed: SpeedWorkload,
    /// Whether text is sampled.
    pub with_sample: bool,
    /// What is sampled.
    pub sample: SampleWorkload,
    /// What a variant must keep.
    pub limits: Limits,
    /// When to stop.
    pub budget: Budget,
    /// Seed of every random choice.
    pub seed: u64,
}

impl Default for SweepSettings {
    fn default() -> Self {
        Self {
            kind: SweepKind::Presets,
            presets: presets().iter().filter(|preset| is_first(preset)).map(|preset| preset.id.to_owned()).collect(),
            formats: [WeightFormat::Q8_0, WeightFormat::Q5_1, WeightFormat::Q4_1, WeightFormat::Q4_0].into(),
            roundings: BTreeSet::new(),
            sparsity_methods: [SparsityMethod::Magnitude].into(),
            grid_percents: [0, 20].into(),
            ladder_percents: [10, 60, 10],
            ladder_method: SparsityMethod::Magnitude,
            target: SweepTarget::Blocks,
            with_quality: true,
            quality: QualityWorkload {
                data: PathBuf::new(),
                protocol: Protocol::Gptq,
                context: 256,
                windows: Some(16),
                dequantized: false,
            },
            calibration: PathBuf::new(),
            with_speed: true,
            speed: SpeedWorkload { prompt: 64, decode: 32, repetitions: 5 },
            with_sample: true,
            sample: SampleWorkload { prompt: "Once upon a time".to_owned(), tokens: 48, temperature: 0.0 },
            limits: Limits { max_kl: Some(0.05), max_perplexity_ratio: None },
            budget: Budget::default(),
            seed: 0,
        }
    }
}

/// Why the form does not make a study yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incomplete {
    /// No text to evaluate on.
    Data,
    /// Neither quality nor speed nor text is asked for.
    Workload,
    /// Nothing is ticked.
    Nothing,
    /// A ladder without a limit would never stop.
    Limit,
    /// The recipe that is being edited changes nothing: trial 0 measures it anyway.
    Reference,
}

impl SweepSettings {
    /// The formats that a grid or ladder can vary, most bits first: the named ones and common integer grids.
    pub fn choices() -> Vec<WeightFormat> {
        let int = |bits| WeightFormat::Int(IntFormat { bits, group: Group::Size(32), symmetric: false });
        let named = WeightFormat::NAMED.into_iter().filter(|format| *format != WeightFormat::Native);
        let fp8 = WeightFormat::Fp8(Fp8Scale::Row);
        let mut choices: Vec<WeightFormat> = named.chain([fp8]).chain([8, 6, 5, 4, 3, 2].map(int)).collect();
        choices.sort_by(|a, b| nominal_bits(*b).total_cmp(&nominal_bits(*a)));
        choices
    }

    /// What is tried, or why nothing can be.
    ///
    /// # Errors
    /// [`Incomplete`] names the first thing that is missing.
    pub fn strategy(&self, draft: &Recipe) -> Result<StrategySpec, Incomplete> {
        if !(self.with_quality || self.with_speed || self.with_sample) {
            return Err(Incomplete::Workload);
        }
        if self.with_quality && self.quality.data.as_os_str().is_empty() {
            return Err(Incomplete::Data);
        }
        let base = draft.clone();
        let axis = |settings| Axis { target: self.target.target(), settings };
        let is_ladder = matches!(self.kind, SweepKind::LadderFormats | SweepKind::LadderSparsity);
        if is_ladder && self.limits.max_kl.is_none() && self.limits.max_perplexity_ratio.is_none() {
            return Err(Incomplete::Limit);
        }
        let strategy = match self.kind {
            SweepKind::ThisRecipe if draft.is_reference() => return Err(Incomplete::Reference),
            SweepKind::ThisRecipe => StrategySpec::List { recipes: vec![base] },
            SweepKind::Presets => StrategySpec::List { recipes: self.preset_recipes() },
            SweepKind::Grid => StrategySpec::Grid { base, axes: self.grid_axes() },
            SweepKind::LadderSparsity => {
                let [first, last, step] = self.ladder_percents;
                let percents = (first..=last).step_by(usize::from(step.max(1)));
                let rungs = percents.map(|percent| sparse(self.ladder_method, percent)).collect();
                StrategySpec::Progressive { base, rungs: vec![axis(rungs)] }
            }
            SweepKind::LadderFormats => StrategySpec::Progressive { base, rungs: vec![axis(self.format_settings())] },
        };
        let is_empty = match &strategy {
            StrategySpec::List { recipes } => recipes.is_empty(),
            StrategySpec::Grid { axes, .. } => axes.is_empty(),
            StrategySpec::Progressive { rungs, .. } => rungs.iter().all(|axis| axis.settings.is_empty()),
        };
        if is_empty { Err(Incomplete::Nothing) } else { Ok(strategy) }
    }

    /// The study that runs `strategy` with this workload, these limits and this budget. Recipes that need a calibration
    /// text and name none get the form's.
    pub fn spec(&self, strategy: StrategySpec, model: ModelSource, device: DeviceSpec) -> StudySpec {
        StudySpec {
            name: model.name(),
            model,
            device,
            also_on: Vec::new(),
            workload: self.workload(),
            strategy: self.calibrated(strategy),
            limits: self.limits,
            budget: self.budget,
            seed: self.seed,
        }
    }

    /// What each trial measures.
    pub fn workload(&self) -> Workload {
        Workload {
            quality: self.with_quality.then(|| self.quality.clone()),
            speed: self.with_speed.then_some(self.speed),
            sample: self.with_sample.then(|| self.sample.clone()),
        }
    }

    fn calibrated(&self, strategy: StrategySpec) -> StrategySpec {
        let text = &self.calibration;
        // Whatever is laid over the base has its text. A way of rounding needs one on quantized weights only.
        let base = |mut base: Recipe, axes: &[Axis]| {
            let mut over = axes.iter().flat_map(|axis| &axis.settings).map(|settings| {
                let default = PartialSettings { weights: Some(WeightFormat::Q4_0), ..*settings };
                Recipe { default, ..Recipe::reference() }
            });
            if base.calibration.data.is_none() && over.any(|recipe| recipe.needs_calibration()) {
                base.calibration.data = Some(text.clone()).filter(|text| !text.as_os_str().is_empty());
            }
            base.calibrated_on(text)
        };
        match strategy {
            StrategySpec::List { recipes } => {
                StrategySpec::List { recipes: recipes.into_iter().map(|recipe| recipe.calibrated_on(text)).collect() }
            }
            StrategySpec::Grid { base: draft, axes } => StrategySpec::Grid { base: base(draft, &axes), axes },
            StrategySpec::Progressive { base: draft, rungs } => {
                StrategySpec::Progressive { base: base(draft, &rungs), rungs }
            }
        }
    }

    fn preset_recipes(&self) -> Vec<Recipe> {
        presets().iter().filter(|preset| self.presets.contains(preset.id)).map(|preset| preset.recipe()).collect()
    }

    fn format_settings(&self) -> Vec<PartialSettings> {
        let ticked = Self::choices().into_iter().filter(|format| self.formats.contains(format));
        ticked.map(|weights| PartialSettings { weights: Some(weights), ..PartialSettings::default() }).collect()
    }

    /// Every ticked method at every ticked percentage; dense once.
    fn sparsity_settings(&self) -> Vec<PartialSettings> {
        let dense = self.grid_percents.contains(&0).then(|| sparse(SparsityMethod::Magnitude, 0));
        let percents = self.grid_percents.iter().copied().filter(|percent| *percent > 0);
        let pruned =
            percents.flat_map(|percent| self.sparsity_methods.iter().map(move |method| sparse(*method, percent)));
        dense.into_iter().chain(pruned).collect()
    }

    fn grid_axes(&self) -> Vec<Axis> {
        let roundings = Rounding::all().into_iter().filter(|rounding| self.roundings.contains(rounding.name()));
        let roundings =
            roundings.map(|rounding| PartialSettings { rounding: Some(rounding), ..PartialSettings::default() });
        [self.format_settings(), roundings.collect(), self.sparsity_settings()]
            .into_iter()
            .filter(|settings: &Vec<PartialSettings>| !settings.is_empty())
            .map(|settings| Axis { target: self.target.target(), settings })
            .collect()
    }
}

/// What a new form has ticked: what needs no text, and the three that are named by how far they go.
fn is_first(preset: &Preset) -> bool {
    matches!(preset.id, "light" | "medium" | "full") || !preset.recipe().needs_calibration()
}

fn sparse(method: SparsityMethod, percent: u8) -> PartialSettings {
    let sparsity = Sparsity::new(method, f64::from(percent) / 100.0);
    PartialSettings { sparsity: Some(sparsity), ..PartialSettings::default() }
}

/// Bits a weight of a format on a long row, to order formats by.
fn nominal_bits(format: WeightFormat) -> f64 {
    match format {
        WeightFormat::Native | WeightFormat::F32 => 32.0,
        WeightFormat::F16 | WeightFormat::Bf16 => 16.0,
        WeightFormat::Fp8(_) => 8.0,
        WeightFormat::Int(int) => {
            let zero_point = if int.symmetric { 0.0 } else { f64::from(int.bits) };
            f64::from(int.bits) + (16.0 + zero_point) / int.group.len(4096) as f64
        }
        named => named.ggml().map_or(0.0, |ggml| ggml.block_bytes() as f64 * 8.0 / ggml.block_len() as f64),
    }
}

#[cfg(test)]
#[path = "sweep_tests.rs"]
mod tests;

//! What a study is asked to do: strategy, workload, limits, budget. Also the schema of `trimtab sweep SPEC.toml`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::device::DeviceSpec;
use crate::model::ModelSource;
use crate::recipe::{PartialSettings, Recipe, Target};

/// What a study is asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudySpec {
    /// Name for people.
    pub name: String,
    /// The model.
    pub model: ModelSource,
    /// Where trials run.
    pub device: DeviceSpec,
    /// Cards that run trials of this study at the same time, beside `device`. A trial's own specification says where it ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_on: Vec<DeviceSpec>,
    /// What each trial measures.
    pub workload: Workload,
    /// What is tried. Trial 0 is always the reference.
    pub strategy: StrategySpec,
    /// Quality that a variant must keep.
    #[serde(default)]
    pub limits: Limits,
    /// When to stop.
    #[serde(default)]
    pub budget: Budget,
    /// Seed of every random choice.
    #[serde(default)]
    pub seed: u64,
}

impl StudySpec {
    /// Every device that runs trials, each once.
    pub fn devices(&self) -> Vec<DeviceSpec> {
        let mut devices = vec![self.device];
        for device in &self.also_on {
            if !devices.contains(device) {
                devices.push(*device);
            }
        }
        devices
    }
}

/// What a trial measures. A part that is absent is not measured.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Quality against the reference.
    #[serde(default)]
    pub quality: Option<QualityWorkload>,
    /// Speed beside the reference.
    #[serde(default)]
    pub speed: Option<SpeedWorkload>,
    /// Text to read by eye.
    #[serde(default)]
    pub sample: Option<SampleWorkload>,
}

/// How text is cut into windows and scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// One BOS before each text, all texts concatenated, non-overlapping windows, remainder dropped, every token but a
    /// window's first scored. Source: GPTQ's `datautils.py`.
    Gptq,
}

impl Protocol {
    /// The identifier that numbers carry: `gptq-256`.
    pub fn id(self, context: usize) -> String {
        match self {
            Self::Gptq => format!("gptq-{context}"),
        }
    }
}

/// Quality on a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QualityWorkload {
    /// JSON lines with a `text` each.
    pub data: PathBuf,
    /// How it is cut and scored.
    pub protocol: Protocol,
    /// Tokens a window.
    pub context: usize,
    /// The first so many windows; all of them when absent.
    #[serde(default)]
    pub windows: Option<u32>,
    /// Also score GGML layers dequantized to f32, which leaves out what quantized activations cost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dequantized: bool,
}

/// Speed of prefill and decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeedWorkload {
    /// Tokens of the prompt.
    pub prompt: u32,
    /// Tokens decoded after it.
    pub decode: u32,
    /// Repetitions of both arms, interleaved; at least 2.
    pub repetitions: u32,
}

/// Text to read by eye.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleWorkload {
    /// What the text begins with.
    pub prompt: String,
    /// Tokens to generate.
    pub tokens: u32,
    /// 0 is greedy.
    pub temperature: f64,
}

/// What is tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum StrategySpec {
    /// The recipes, in order.
    List {
        /// One a trial.
        recipes: Vec<Recipe>,
    },
    /// Every combination of the axes' settings over a base recipe, the last axis varying fastest.
    Grid {
        /// What the settings are laid over.
        base: Recipe,
        /// What varies.
        axes: Vec<Axis>,
    },
    /// A ladder: each rung is laid over the recipe of the rung before it; stops when the upper bound of the quality loss
    /// crosses [`Limits`].
    Progressive {
        /// Where the ladder starts.
        base: Recipe,
        /// The rungs, mild first.
        rungs: Vec<Axis>,
    },
}

/// Settings that a target is given, one after the other (an axis of a grid) or each in turn (rungs of a ladder).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Axis {
    /// The layers; every linear layer of the blocks when absent.
    #[serde(default)]
    pub target: Option<Target>,
    /// The settings.
    pub settings: Vec<PartialSettings>,
}

/// Quality that a variant must keep. A limit is missed when the upper 95 % bound crosses it (non-inferiority).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Largest mean KL to the reference, in nats.
    #[serde(default)]
    pub max_kl: Option<f64>,
    /// Largest perplexity over the reference's.
    #[serde(default)]
    pub max_perplexity_ratio: Option<f64>,
}

/// When to stop. A stop leaves a complete study with its best so far.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Trials, the reference not counted.
    #[serde(default)]
    pub trials: Option<u32>,
    /// Wall time; no trial starts after it.
    #[serde(default)]
    pub secs: Option<f64>,
}

//! What the user asks for: precision and compression, layer by layer.
//!
//! Imports `model` and `units`; pure. A [`Recipe`] is loose and serializable and may name layers that a model lacks; a
//! [`Plan`] is total, checked against one model and one device, and is the only thing that the compressor accepts.
//!
//! **Invariants.** [`Recipe::resolve`] is the only way to a plan, and reports every problem at once. Nothing falls back
//! silently: a format without a product on the device is either refused or carried as [`Execution::Simulated`].

mod activations;
mod edit;
mod execution;
mod format;
mod layer_checks;
mod legality;
mod low_rank;
mod passes;
mod plan;
mod presets;
mod problem;
mod resolve;
mod rounding;
mod schema;
mod sparsity;
mod structure;
mod whole;

pub use activations::{ActivationRange, Activations, DynamicOptions, StaticOptions};
pub use edit::LayerChange;
pub use execution::Execution;
pub use format::{Fp8Scale, Group, IntFormat, WeightFormat};
pub use legality::Legality;
pub use low_rank::{Correction, LowRank, LowRankMethod, RankRule, rank_of_ratio};
pub use passes::{AttentionForm, AttentionSettings, Calibration, KvCacheSettings, KvFormat, Policy};
pub use plan::{LayerPlan, LayerSettings, Plan, layer_bits, settings_bits, weight_bits};
pub use presets::{Preset, presets};
pub use problem::{Problem, RecipeIssue};
pub use rounding::{AwqOptions, GptqOptions, HqqOptions, ImatrixOptions, Rounding};
pub use schema::{FORMAT_VERSION, PartialSettings, Recipe, RecipeError, Rule, Target};
pub(crate) use sparsity::count;
pub use sparsity::{Allocation, Pattern, SparseStorage, Sparsity, SparsityMethod, SparsityScope};
pub use structure::{
    BlockCut, BlockPart, BlockScore, ChannelScore, Sharing, SharingMethod, Structure, SurvivorUpdate, WidthCut,
};
pub use whole::{basis_rank, kv_problem};

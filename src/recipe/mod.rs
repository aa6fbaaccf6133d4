//! What the user asks for: precision and compression, layer by layer.
//!
//! Imports `model` and `units`; pure. A [`Recipe`] is loose and serializable and may name layers that a model lacks; a
//! [`Plan`] is total, checked against one model and one device, and is the only thing that the compressor accepts.
//!
//! **Invariants.** [`Recipe::resolve`] is the only way to a plan, and reports every problem at once. Nothing falls back
//! silently: a format without a product on the device is either refused or carried as [`Execution::Simulated`].

mod edit;
mod execution;
mod format;
mod plan;
mod presets;
mod resolve;
mod schema;

pub use edit::LayerChange;
pub use execution::Execution;
pub use format::{Group, IntFormat, Sparsity, SparsityMethod, SparsityScope, WeightFormat};
pub use plan::{LayerPlan, LayerSettings, Plan, weight_bits};
pub use presets::{Preset, presets};
pub use resolve::{Problem, RecipeIssue};
pub use schema::{FORMAT_VERSION, PartialSettings, Recipe, RecipeError, Rule, Target};

//! Files of our own that can be made again: compressed layers, calibrations, made variants.
//!
//! May import `compress`, `recipe`, `model` and `units`. Everything read here is checked before it is used: another process
//! may write the same folder, a disk may lose power, and anyone may edit a file.
//!
//! **Invariants.** A file appears whole or not at all. Nothing here is the only copy of anything: a file that cannot be
//! read or written costs time, never a result. Files that are not ours are never touched.

mod dirs;
mod key;
mod store;
mod variant;

pub use dirs::{default_dir, store_dir, user_dir};
pub use key::Key;
pub use store::{DEFAULT_BUDGET_BYTES, Store};
pub use variant::{VariantError, VariantFile, VariantLayer, VariantWriter};

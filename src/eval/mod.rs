//! Data sets, and quality against the reference.
//!
//! May import `runtime`, `nn`, `kernels`, `study` and `units`. Runs in worker processes only.
//!
//! **Invariants.** Logits of a window never exist whole. A number carries the protocol that it was made with.

mod data;
mod score;
mod windows;

pub use data::{DataError, read_texts};
pub use score::{ScoredWindow, reference_states, score_variants, score_window, summarize};
pub use windows::{Windows, cut};

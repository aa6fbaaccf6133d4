//! Small controls that more than one panel uses. Import `context`, `theme`, `words` and the vocabulary.
//!
//! **Invariants.** Every control has an accessible name; none keeps state of its own.

pub mod choice;
pub mod format_menu;
pub mod number;
pub mod share_strip;

//! Vector loops over plain slices.
//!
//! Imports std only. Safe entry points that check every length; no allocation. The room for packed products too, the one
//! folder where SIMD `unsafe` may live.

mod divergence;
mod panels;

pub use divergence::{Divergence, divergence};
pub use panels::Panels;

//! Vector loops over plain slices.
//!
//! Imports std, `half` and `rayon` only. Safe entry points that check every length; attention shares its work between
//! threads, the others run where they are called. The room for packed products too, the one folder where SIMD `unsafe`
//! may live.

mod attention;
mod divergence;
mod panels;
mod rows;

pub use attention::{HeadShape, Sight, attend, attend_scratch_bytes};
pub use divergence::{Divergence, divergence};
pub use panels::Panels;
pub use rows::{Rows, quantize_q4_0, quantize_q8_0};

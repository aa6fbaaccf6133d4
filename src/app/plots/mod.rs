//! What plots and tables show, worked out before anything is painted.
//!
//! Imports `study`, `recipe`, `model`, `telemetry`, `units`, `theme`, `words` and `context`. Only [`paint`] and [`card`]
//! see a `Ui`; the others are values in, values out, and panels cache what they return by study, series length and width.
//!
//! **Invariants.** Every model is a pure function of its arguments. What is not shown is counted and says why. Values of
//! simulated layers never stand on an axis of latency or memory.

pub mod card;
pub mod compare;
pub mod compression;
pub mod decimate;
pub mod live;
pub mod live_csv;
pub mod metrics;
pub mod paint;
pub mod profile;
pub mod running_mean;
pub mod scale;
pub mod settings_difference;
pub mod sparkline;
pub mod table;
pub mod text_difference;
pub mod trade_off;

#[cfg(test)]
pub mod fixtures;
#[cfg(test)]
use crate as house;

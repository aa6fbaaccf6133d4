//! Energy of a trial and how it was obtained.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::study::Estimate;

/// Energy that the device took while a trial ran: all of it, idle power and other programs included.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Energy {
    /// Where the joules come from.
    pub source: EnergySource,
    /// Time between two values of the counter, in seconds: what is shorter cannot be told apart.
    pub refresh_secs: f64,
    /// Joules of one token of the prompt, over repetitions; absent where they were too short for the counter.
    pub prefill_joules_per_token: Option<Estimate>,
    /// Joules of one decoded token, over repetitions; absent where they were too short for the counter.
    pub decode_joules_per_token: Option<Estimate>,
    /// Seconds that the prompts of the variant took while the counter was read.
    pub prefill_secs: f64,
    /// Seconds that its single tokens took while the counter was read.
    pub decode_secs: f64,
    /// Joules from the trial's beginning to its end: making, scoring and timing, the reference beside it included.
    pub trial_joules: f64,
    /// Seconds from the trial's beginning to its end.
    pub trial_secs: f64,
}

/// Where joules come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnergySource {
    /// The counters of the processor's packages (Linux powercap).
    RaplPackage,
    /// The counter of the GPU's board (NVML).
    NvmlCounter,
}

impl fmt::Display for EnergySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RaplPackage => "counters of the processor's packages",
            Self::NvmlCounter => "counter of the GPU's board",
        })
    }
}

//! What there is to know about one layer, as it travels from the worker: the same for the window and the command line.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::{LayerPath, ModelSource};
use crate::recipe::{Calibration, LayerSettings};

/// A layer to look into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectSpec {
    /// Its model.
    pub source: ModelSource,
    /// The layer.
    pub layer: LayerPath,
    /// The text that its inputs are taken from, by the dense policy; nothing is said of inputs without one.
    pub calibration: Option<Calibration>,
    /// Where the heat map is written, see [`crate::worker::heat_map::HeatMap`]; none is made without.
    pub map: Option<PathBuf>,
}

/// One finding, told as soon as it is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// How the weights are spread.
    Weights(WeightSpread),
    /// The heat map was written.
    Map,
    /// The calibration text is being read.
    Calibrating {
        /// Windows read.
        done: u32,
        /// Windows in all.
        total: u32,
    },
    /// Which channels of the input are large, or why that is not known.
    Inputs(Result<InputRanges, String>),
    /// A setting was tried.
    Candidate {
        /// What came of it.
        candidate: Candidate,
        /// Settings that are tried in all.
        total: usize,
    },
    /// How many directions matter, or why that is not known.
    Spectrum(Result<Spectrum, String>),
    /// Nothing more comes.
    Complete,
}

/// Everything found out about one layer so far.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LayerView {
    /// How the weights are spread.
    pub weights: Option<WeightSpread>,
    /// Windows of the calibration text that were read, and in all, while it is.
    #[serde(skip)]
    pub calibrating: Option<(u32, u32)>,
    /// Which channels of the input are large; the text says why that is not known.
    pub inputs: Option<Result<InputRanges, String>>,
    /// Settings that were tried, in the order of the list.
    pub candidates: Vec<Candidate>,
    /// Settings that are tried in all; 0 before the first.
    pub n_candidates: usize,
    /// How many directions matter; the text says why that is not known.
    pub spectrum: Option<Result<Spectrum, String>>,
}

impl LayerView {
    /// Takes in a finding.
    pub fn apply(&mut self, finding: Finding) {
        match finding {
            Finding::Weights(weights) => self.weights = Some(weights),
            Finding::Calibrating { done, total } => self.calibrating = Some((done, total)),
            Finding::Inputs(inputs) => (self.calibrating, self.inputs) = (None, Some(inputs)),
            Finding::Candidate { candidate, total } => {
                self.candidates.push(candidate);
                self.n_candidates = total;
            }
            Finding::Spectrum(spectrum) => self.spectrum = Some(spectrum),
            Finding::Map | Finding::Complete => {}
        }
    }
}

/// How the weights of a layer are spread. Counts sum to `n`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeightSpread {
    /// Weights.
    pub n: u64,
    /// Those that are exactly zero.
    pub zeros: u64,
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub sd: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Weights in each of equal bins from `min` to `max`; one bin when these are the same.
    pub counts: Vec<u64>,
}

impl WeightSpread {
    /// The largest magnitude.
    pub fn largest(&self) -> f64 {
        self.max.abs().max(self.min.abs())
    }

    /// Share of weights that are exactly zero.
    pub fn zero_share(&self) -> f64 {
        self.zeros as f64 / self.n.max(1) as f64
    }
}

/// The singular values of the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spectrum {
    /// In falling order, as many as the smaller side of the matrix has. Those below 1e-7 of the first are rounding.
    pub singular_values: Vec<f64>,
}

impl Spectrum {
    /// Σσ² of the first r values for each r from 0 to all.
    pub fn cumulative(&self) -> Vec<f64> {
        let mut sums = Vec::with_capacity(self.singular_values.len() + 1);
        sums.push(0.0);
        let mut sum = 0.0;
        for value in &self.singular_values {
            sum += value * value;
            sums.push(sum);
        }
        sums
    }

    /// Σσ² of the values beyond the first `rank`.
    pub fn discarded(&self, rank: usize) -> f64 {
        // From the small end: small terms are not lost in the large sum.
        self.singular_values.iter().skip(rank).rev().map(|value| value * value).sum()
    }

    /// Share of Σσ² that the first `rank` values hold: 1 at full rank, also for a matrix of zeros.
    pub fn energy(&self, rank: usize) -> f64 {
        let total = self.discarded(0);
        if total > 0.0 { 1.0 - self.discarded(rank) / total } else { 1.0 }
    }

    /// The smallest rank that holds this share of Σσ².
    pub fn rank_for(&self, energy: f64) -> usize {
        let sums = self.cumulative();
        let total = sums.last().copied().unwrap_or(0.0);
        sums.partition_point(|sum| *sum < energy * total)
    }
}

/// How large each channel of a layer's input is over the calibration text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InputRanges {
    /// Tokens seen.
    pub n_tokens: u64,
    /// Largest magnitude of each channel.
    pub max_abs: Vec<f64>,
    /// Mean magnitude of each channel.
    pub mean_abs: Vec<f64>,
}

/// A setting that was tried on this layer alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The setting.
    pub settings: LayerSettings,
    /// What it does, or why it is not available.
    pub result: Result<LocalError, String>,
}

/// What a setting does to one layer, measured by compressing it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LocalError {
    /// ‖W − Ŵ‖² / ‖W‖²; 0 when both are zero.
    pub weight_error: f64,
    /// ‖X (W − Ŵ)ᵀ‖² / ‖X Wᵀ‖² over the calibrated inputs, where there are some.
    pub output_error: Option<f64>,
    /// Bytes of the packed weights; zeros of a mask count in full.
    pub packed_bytes: u64,
    /// Time of compressing, in seconds.
    pub secs: f64,
    /// What did not go as asked, in words.
    pub notes: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spectrum(values: &[f64]) -> Spectrum {
        Spectrum { singular_values: values.to_vec() }
    }

    #[test]
    fn energy_is_whole_at_full_rank_and_the_rest_is_discarded() {
        let found = spectrum(&[4.0, 2.0, 1.0, 0.5]);
        assert_eq!(found.energy(4), 1.0);
        assert_eq!(found.energy(0), 0.0);
        assert_eq!(found.discarded(2), 1.25);
        assert_eq!(found.cumulative(), [0.0, 16.0, 20.0, 21.0, 21.25]);
        for rank in 0..=4 {
            let total = found.cumulative()[4];
            assert!((found.energy(rank) * total + found.discarded(rank) - total).abs() < 1e-12);
        }
    }

    #[test]
    fn the_rank_for_an_energy_is_the_smallest() {
        let cases: [(&[f64], f64, usize); 4] =
            [(&[1.0, 1.0, 1.0, 1.0], 0.5, 2), (&[3.0, 1.0], 0.9, 1), (&[3.0, 1.0], 0.91, 2), (&[], 0.9, 0)];
        for (values, energy, expected) in cases {
            assert_eq!(spectrum(values).rank_for(energy), expected, "{values:?} {energy}");
        }
        assert_eq!((spectrum(&[0.0, 0.0]).rank_for(0.99), spectrum(&[0.0]).energy(0)), (0, 1.0));
    }
}

//! Thin factors in the place of a matrix, and beside one.

use serde::{Deserialize, Serialize};

/// Two thin matrices in the place of one. In TOML `low_rank = { method = "whitened", ratio = 0.9 }`; exactly one of
/// `ratio`, `energy` and `error_budget`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawLowRank", into = "RawLowRank")]
pub struct LowRank {
    /// What the singular values are taken of.
    pub method: LowRankMethod,
    /// How many are kept.
    pub rank: RankRule,
    /// The rank is rounded up to a multiple of this; 1 keeps it as it comes.
    pub align: u16,
}

impl LowRank {
    /// `method` with the share `ratio` of the layer's parameters.
    pub fn with_ratio(method: LowRankMethod, ratio: f64) -> Self {
        Self { method, rank: RankRule::Ratio(ratio), align: 1 }
    }

    /// Whether nothing is cut: how a later rule undoes an earlier one.
    pub fn is_full(&self) -> bool {
        self.rank == RankRule::Ratio(1.0)
    }

    /// Short text for tables: `whitened svd 90 % parameters`.
    pub fn label(&self) -> String {
        let name = match self.method {
            LowRankMethod::Svd => "svd",
            LowRankMethod::Whitened => "whitened svd",
        };
        let share = |value: f64| crate::units::percent(value);
        match self.rank {
            RankRule::Ratio(ratio) => format!("{name} {} parameters", share(ratio)),
            RankRule::Energy(energy) => format!("{name} {} energy", share(energy)),
            RankRule::ErrorBudget(budget) => format!("{name} {} error", share(budget)),
        }
    }
}

/// The rank for a share of an (`rows`, `row_len`) matrix's parameters, at least 1 and at most full.
pub fn rank_of_ratio(rows: usize, row_len: usize, ratio: f64, align: u16) -> usize {
    let whole = ratio * rows as f64 * row_len as f64 / (rows + row_len) as f64;
    // A product that should be whole may lie a rounding error below it.
    let rank = (whole + 1e-9) as usize;
    rank.max(1).next_multiple_of(usize::from(align.max(1))).min(rows.min(row_len))
}

/// What the singular values are taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LowRankMethod {
    /// The weights: the best approximation of the matrix.
    Svd,
    /// The weights times a square root of the inputs' second moment: the best approximation of the outputs. Wang et al.,
    /// 2024 (SVD-LLM), arXiv:2403.07378.
    Whitened,
}

/// How many singular values are kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RankRule {
    /// Kept share of the layer's parameters, above 0 and at most 1; at 1 the factors are as large as the matrix.
    Ratio(f64),
    /// The smallest rank that keeps this share of the squared singular values, above 0 and at most 1.
    Energy(f64),
    /// Discarded share of the squared singular values, mean over the layers with this setting, above 0 and below 1. Ranks
    /// are chosen so that the parameters kept are fewest.
    ErrorBudget(f64),
}

/// A low-rank term beside quantized weights that gives back most of what rounding took. Yao et al., 2023
/// (ZeroQuant-V2), arXiv:2303.08302. In TOML `correction = { rank = 16 }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Correction {
    /// Rank of the term; 0 undoes an earlier rule.
    pub rank: u16,
    /// What the singular values are taken of.
    #[serde(default = "whitened")]
    pub method: LowRankMethod,
}

fn whitened() -> LowRankMethod {
    LowRankMethod::Whitened
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLowRank {
    #[serde(default = "whitened")]
    method: LowRankMethod,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    energy: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error_budget: Option<f64>,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    align: u16,
}

fn one() -> u16 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde wants")]
fn is_one(align: &u16) -> bool {
    *align == 1
}

impl TryFrom<RawLowRank> for LowRank {
    type Error = String;

    fn try_from(raw: RawLowRank) -> Result<Self, String> {
        let rank = match (raw.ratio, raw.energy, raw.error_budget) {
            (Some(ratio), None, None) => RankRule::Ratio(ratio),
            (None, Some(energy), None) => RankRule::Energy(energy),
            (None, None, Some(budget)) => RankRule::ErrorBudget(budget),
            _ => return Err("low_rank needs exactly one of ratio, energy and error_budget".to_owned()),
        };
        Ok(Self { method: raw.method, rank, align: raw.align })
    }
}

impl From<LowRank> for RawLowRank {
    fn from(low_rank: LowRank) -> Self {
        let mut raw =
            Self { method: low_rank.method, ratio: None, energy: None, error_budget: None, align: low_rank.align };
        match low_rank.rank {
            RankRule::Ratio(ratio) => raw.ratio = Some(ratio),
            RankRule::Energy(energy) => raw.energy = Some(energy),
            RankRule::ErrorBudget(budget) => raw.error_budget = Some(budget),
        }
        raw
    }
}

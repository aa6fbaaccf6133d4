//! How weights find their place on the grid of their format.

use serde::{Deserialize, Serialize};

/// How weights are rounded to their format. Formats of floating point are always rounded to nearest.
///
/// In TOML a name, or a table with the method's options: `rounding = "gptq"`,
/// `rounding = { method = "gptq", damping = 0.01 }`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "RawRounding", into = "RawRounding")]
pub enum Rounding {
    /// Each weight to the nearest code.
    #[default]
    Nearest,
    /// GPTQ: columns in turn, the error fed back through the inverse Hessian. Frantar et al., 2022, arXiv:2210.17323.
    Gptq(GptqOptions),
    /// AWQ: a scale for each input channel, found by search. Lin et al., 2023, arXiv:2306.00978.
    Awq(AwqOptions),
    /// HQQ: zero points by half-quadratic splitting, without data. Badri and Shaji, 2023.
    Hqq(HqqOptions),
    /// GGML's scale search weighted by the mean square of each input channel.
    Imatrix(ImatrixOptions),
}

impl Rounding {
    /// The name in recipes: `gptq`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::Gptq(_) => "gptq",
            Self::Awq(_) => "awq",
            Self::Hqq(_) => "hqq",
            Self::Imatrix(_) => "imatrix",
        }
    }

    /// Every method with its default options.
    pub fn all() -> [Self; 5] {
        [
            Self::Nearest,
            Self::Gptq(GptqOptions::default()),
            Self::Awq(AwqOptions::default()),
            Self::Hqq(HqqOptions::default()),
            Self::Imatrix(ImatrixOptions::default()),
        ]
    }

    /// Whether the method reads activations.
    pub const fn needs_calibration(self) -> bool {
        match self {
            Self::Nearest | Self::Hqq(_) => false,
            Self::Gptq(_) | Self::Awq(_) => true,
            Self::Imatrix(options) => !options.uniform,
        }
    }
}

/// Options of GPTQ.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GptqOptions {
    /// Columns whose updates are gathered before the rest of the matrix is touched. Does not change the result.
    pub block: u16,
    /// Share of the Hessian's mean diagonal that is added to it; raised tenfold up to 1 where that is not enough.
    pub damping: f64,
    /// Columns in the order of falling diagonal of the Hessian.
    pub act_order: bool,
    /// Grids of groups are set before the first column is rounded. Without it the grid of a group is set when its first
    /// column is reached; that needs `act_order = false`.
    pub static_groups: bool,
}

impl Default for GptqOptions {
    fn default() -> Self {
        Self { block: 128, damping: 0.01, act_order: true, static_groups: true }
    }
}

/// Options of AWQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AwqOptions {
    /// Steps of the search for the exponent, from 0 up to but without 1.
    pub grid: u16,
    /// Also search how far each group's range may be clipped.
    pub clip: bool,
}

impl Default for AwqOptions {
    fn default() -> Self {
        Self { grid: 20, clip: true }
    }
}

/// Options of HQQ.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HqqOptions {
    /// Most iterations.
    pub iterations: u16,
    /// Exponent of the norm, above 0 and at most 1.
    pub norm: f64,
}

impl Default for HqqOptions {
    fn default() -> Self {
        Self { iterations: 20, norm: 0.7 }
    }
}

/// Options of the importance matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImatrixOptions {
    /// All channels weigh the same: the better scale search without calibration.
    pub uniform: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum RawRounding {
    Name(String),
    Table(RawTable),
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case")]
enum RawTable {
    Nearest,
    Gptq(GptqOptions),
    Awq(AwqOptions),
    Hqq(HqqOptions),
    Imatrix(ImatrixOptions),
}

impl TryFrom<RawRounding> for Rounding {
    type Error = String;

    fn try_from(raw: RawRounding) -> Result<Self, String> {
        match raw {
            RawRounding::Name(name) => {
                Self::all().into_iter().find(|rounding| rounding.name() == name).ok_or_else(|| {
                    let names = Self::all().map(Self::name).join(", ");
                    format!("rounding {name:?} is not one of {names}")
                })
            }
            RawRounding::Table(table) => Ok(match table {
                RawTable::Nearest => Self::Nearest,
                RawTable::Gptq(options) => Self::Gptq(options),
                RawTable::Awq(options) => Self::Awq(options),
                RawTable::Hqq(options) => Self::Hqq(options),
                RawTable::Imatrix(options) => Self::Imatrix(options),
            }),
        }
    }
}

impl From<Rounding> for RawRounding {
    fn from(rounding: Rounding) -> Self {
        if Rounding::all().contains(&rounding) {
            return Self::Name(rounding.name().to_owned());
        }
        Self::Table(match rounding {
            Rounding::Nearest => RawTable::Nearest,
            Rounding::Gptq(options) => RawTable::Gptq(options),
            Rounding::Awq(options) => RawTable::Awq(options),
            Rounding::Hqq(options) => RawTable::Hqq(options),
            Rounding::Imatrix(options) => RawTable::Imatrix(options),
        })
    }
}

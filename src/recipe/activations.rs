//! How the inputs of a layer's product are represented.

use serde::{Deserialize, Serialize};

/// How activations enter a layer's product.
///
/// In TOML a name, or a table with the method's options:
/// `activations = "int8_dynamic"`, `activations = { method = "int8_static", range = { percentile = 99.9 } }`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "RawActivations", into = "RawActivations")]
pub enum Activations {
    /// As the format's product takes them: in floating point, or quantized by a GGML product on its own.
    #[default]
    Float,
    /// 8 bits, symmetric, one scale a token, found when the token comes.
    Int8Dynamic(DynamicOptions),
    /// 8 bits, symmetric, one scale for the layer, found by calibration.
    Int8Static(StaticOptions),
}

impl Activations {
    /// The name in recipes: `int8_dynamic`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Int8Dynamic(_) => "int8_dynamic",
            Self::Int8Static(_) => "int8_static",
        }
    }

    /// Every method with its default options.
    pub fn all() -> [Self; 3] {
        [Self::Float, Self::Int8Dynamic(DynamicOptions::default()), Self::Int8Static(StaticOptions::default())]
    }

    /// The exponent of `SmoothQuant`, if outliers are moved into the weights: Xiao et al., 2022, arXiv:2211.10438.
    pub const fn smoothing(self) -> Option<f64> {
        match self {
            Self::Float => None,
            Self::Int8Dynamic(options) => options.smoothing,
            Self::Int8Static(options) => options.smoothing,
        }
    }

    /// Whether the method reads activations before it runs.
    pub const fn needs_calibration(self) -> bool {
        matches!(self, Self::Int8Static(_)) || self.smoothing().is_some()
    }
}

/// Options of dynamic 8-bit activations.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DynamicOptions {
    /// Exponent of `SmoothQuant`, 0 to 1: how much of the outliers the weights take. Absent: no smoothing. Layers that a
    /// norm does not feed are never smoothed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smoothing: Option<f64>,
}

/// Options of static 8-bit activations.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StaticOptions {
    /// How the range is chosen.
    pub range: ActivationRange,
    /// As in [`DynamicOptions::smoothing`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smoothing: Option<f64>,
}

/// How the range of static activations is chosen from the calibrated magnitudes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationRange {
    /// The largest magnitude.
    #[default]
    Absmax,
    /// This percentile of the magnitudes, above 0 and at most 100.
    Percentile(f64),
    /// The range with the smallest mean square error.
    Mse,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum RawActivations {
    Name(String),
    Table(RawTable),
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case")]
enum RawTable {
    Float,
    Int8Dynamic(DynamicOptions),
    Int8Static(StaticOptions),
}

impl TryFrom<RawActivations> for Activations {
    type Error = String;

    fn try_from(raw: RawActivations) -> Result<Self, String> {
        match raw {
            RawActivations::Name(name) => {
                Self::all().into_iter().find(|method| method.name() == name).ok_or_else(|| {
                    let names = Self::all().map(Self::name).join(", ");
                    format!("activations {name:?} are not one of {names}")
                })
            }
            RawActivations::Table(table) => Ok(match table {
                RawTable::Float => Self::Float,
                RawTable::Int8Dynamic(options) => Self::Int8Dynamic(options),
                RawTable::Int8Static(options) => Self::Int8Static(options),
            }),
        }
    }
}

impl From<Activations> for RawActivations {
    fn from(activations: Activations) -> Self {
        if Activations::all().contains(&activations) {
            return Self::Name(activations.name().to_owned());
        }
        Self::Table(match activations {
            Activations::Float => RawTable::Float,
            Activations::Int8Dynamic(options) => RawTable::Int8Dynamic(options),
            Activations::Int8Static(options) => RawTable::Int8Static(options),
        })
    }
}

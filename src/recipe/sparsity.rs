//! Which weights are set to zero.

use serde::{Deserialize, Serialize};

/// Which weights are set to zero. In TOML with either a fraction or a pattern:
/// `sparsity = { method = "wanda", fraction = 0.5 }`, `sparsity = { method = "sparsegpt", pattern = "2:4" }`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawSparsity", into = "RawSparsity")]
pub struct Sparsity {
    /// How weights are scored.
    pub method: SparsityMethod,
    /// Share of the weights that become zero, 0 to 0.95. Zero is no pruning. A pattern's own share when there is one.
    pub fraction: f64,
    /// So many zeros in each run of consecutive inputs.
    pub pattern: Option<Pattern>,
    /// The weights that compete with each other; the pattern decides when there is one.
    pub scope: SparsityScope,
    /// How the fraction is spread over blocks.
    pub allocation: Allocation,
    /// What becomes of the zeros.
    pub storage: SparseStorage,
}

impl Sparsity {
    /// The largest fraction.
    pub const MAX_FRACTION: f64 = 0.95;

    /// Magnitude pruning over the whole matrix.
    pub fn magnitude(fraction: f64) -> Self {
        Self::new(SparsityMethod::Magnitude, fraction)
    }

    /// Pruning by `method` with the scope that its paper uses.
    pub fn new(method: SparsityMethod, fraction: f64) -> Self {
        let (allocation, storage) = (Allocation::Uniform, SparseStorage::Masked);
        Self { method, fraction, pattern: None, scope: method.scope(), allocation, storage }
    }

    /// `pattern` by `method`.
    pub fn with_pattern(method: SparsityMethod, pattern: Pattern) -> Self {
        Self { pattern: Some(pattern), fraction: pattern.fraction(), ..Self::new(method, 0.0) }
    }

    /// Whether zeros are left out of the stored weights.
    pub fn is_bitmask(&self) -> bool {
        self.storage == SparseStorage::Bitmask && self.fraction > 0.0
    }

    /// Weights of a (`rows`, `row_len`) matrix that become zero.
    pub fn n_zeros(&self, [rows, row_len]: [usize; 2]) -> usize {
        match (self.pattern, self.scope) {
            (Some(Pattern { zeros, len }), _) => rows * (row_len / usize::from(len)) * usize::from(zeros),
            (None, SparsityScope::Row) => rows * count(row_len, self.fraction),
            (None, SparsityScope::Matrix) => count(rows * row_len, self.fraction),
        }
    }

    /// Short text for tables: `30 % sparse`, `2:4 wanda`, `50 % sparse wanda bitmask`.
    pub fn label(&self) -> String {
        let amount = match self.pattern {
            Some(pattern) => pattern.to_string(),
            None => format!("{} sparse", crate::units::percent(self.fraction)),
        };
        let owl = if self.allocation == Allocation::Owl { " owl" } else { "" };
        let bitmask = if self.storage == SparseStorage::Bitmask { " bitmask" } else { "" };
        match self.method {
            SparsityMethod::Magnitude => format!("{amount}{owl}{bitmask}"),
            method => format!("{amount} {}{owl}{bitmask}", method.name()),
        }
    }
}

/// How many of `n` weights a fraction takes.
pub(crate) fn count(n: usize, fraction: f64) -> usize {
    ((n as f64 * fraction) as usize).min(n)
}

/// How weights are scored for pruning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SparsityMethod {
    /// The absolute value.
    Magnitude,
    /// |W| · root mean square of the input channel. Sun et al., 2023, arXiv:2306.11695.
    Wanda,
    /// The loss after the other weights are updated, and that update. Frantar and Alistarh, 2023, arXiv:2301.00774.
    #[serde(rename = "sparsegpt")]
    SparseGpt,
}

impl SparsityMethod {
    /// Every method.
    pub const ALL: [Self; 3] = [Self::Magnitude, Self::Wanda, Self::SparseGpt];

    /// The name in recipes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Magnitude => "magnitude",
            Self::Wanda => "wanda",
            Self::SparseGpt => "sparsegpt",
        }
    }

    /// The weights that compete in the method's paper.
    pub const fn scope(self) -> SparsityScope {
        match self {
            Self::Wanda => SparsityScope::Row,
            Self::Magnitude | Self::SparseGpt => SparsityScope::Matrix,
        }
    }

    /// Whether the method reads activations.
    pub const fn needs_calibration(self) -> bool {
        !matches!(self, Self::Magnitude)
    }
}

/// The weights that compete with each other for survival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SparsityScope {
    /// All weights of the matrix; in `SparseGPT` all rows of a run of 128 columns.
    #[default]
    Matrix,
    /// The weights of one output row.
    Row,
}

/// How a fraction is spread over the blocks of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allocation {
    /// Each layer has the fraction.
    #[default]
    Uniform,
    /// Blocks with more outliers keep more; the mean stays. Yin et al., 2023 (OWL), arXiv:2310.05175.
    Owl,
}

/// What becomes of the zeros of pruned weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SparseStorage {
    /// They are stored like other weights: not smaller and not faster.
    #[default]
    Masked,
    /// They are left out: the other weights, one bit a weight and where each row begins are stored, and the product skips
    /// the zeros. For f16 and symmetric int8 rows.
    Bitmask,
}

/// `zeros` of each `len` consecutive input features are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    /// Zeros in a run.
    pub zeros: u8,
    /// Features of a run.
    pub len: u8,
}

impl Pattern {
    /// Two of four: what sparse tensor cores take.
    pub const TWO_OF_FOUR: Self = Self { zeros: 2, len: 4 };
    /// Four of eight.
    pub const FOUR_OF_EIGHT: Self = Self { zeros: 4, len: 8 };

    /// Share of zeros.
    pub fn fraction(self) -> f64 {
        f64::from(self.zeros) / f64::from(self.len)
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.zeros, self.len)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.to_string()
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts = text.split_once(':').and_then(|(zeros, len)| Some((zeros.parse().ok()?, len.parse().ok()?)));
        match parts {
            Some((zeros, len)) if 0 < zeros && zeros < len && len <= 32 => Ok(Self { zeros, len }),
            _ => Err(format!("pattern {text:?} is not zeros:of such as \"2:4\" or \"4:8\", of at most 32")),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSparsity {
    method: SparsityMethod,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fraction: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pattern: Option<Pattern>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scope: Option<SparsityScope>,
    #[serde(default, skip_serializing_if = "is_default")]
    allocation: Allocation,
    #[serde(default, skip_serializing_if = "is_default")]
    storage: SparseStorage,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl TryFrom<RawSparsity> for Sparsity {
    type Error = String;

    fn try_from(raw: RawSparsity) -> Result<Self, String> {
        let RawSparsity { method, fraction, pattern, scope, allocation, storage } = raw;
        let base = match (fraction, pattern) {
            (Some(fraction), None) => Self::new(method, fraction),
            (None, Some(pattern)) => Self::with_pattern(method, pattern),
            (Some(_), Some(_)) => return Err("sparsity has a fraction or a pattern, not both".to_owned()),
            (None, None) => return Err("sparsity needs a fraction, or a pattern such as \"2:4\"".to_owned()),
        };
        Ok(Self { scope: scope.unwrap_or(base.scope), allocation, storage, ..base })
    }
}

impl From<Sparsity> for RawSparsity {
    fn from(sparsity: Sparsity) -> Self {
        let Sparsity { method, fraction, pattern, scope, allocation, storage } = sparsity;
        let fraction = pattern.is_none().then_some(fraction);
        let scope = pattern.is_none().then_some(scope);
        Self { method, fraction, pattern, scope, allocation, storage }
    }
}

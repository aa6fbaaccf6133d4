//! The formats that a layer's weights can be given.

use serde::{Deserialize, Serialize};

use crate::model::GgmlType;

/// How a layer's weights are stored and multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightFormat {
    /// As in the checkpoint.
    #[default]
    Native,
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// GGML blocks of 32, 8 bits, one f16 scale.
    Q8_0,
    /// GGML superblocks of 256, 6 bits.
    Q6k,
    /// GGML superblocks of 256, 5 bits.
    Q5k,
    /// GGML superblocks of 256, 4 bits.
    Q4k,
    /// GGML superblocks of 256, 3 bits.
    Q3k,
    /// GGML superblocks of 256, 2 bits.
    Q2k,
    /// GGML blocks of 32, 5 bits, scale and minimum.
    Q5_1,
    /// GGML blocks of 32, 5 bits, one scale.
    Q5_0,
    /// GGML blocks of 32, 4 bits, scale and minimum.
    Q4_1,
    /// GGML blocks of 32, 4 bits, one scale.
    Q4_0,
    /// 8-bit floats with 4 bits of exponent (E4M3, finite, no infinities) times a scale.
    Fp8(Fp8Scale),
    /// A uniform integer grid.
    Int(IntFormat),
}

impl WeightFormat {
    /// Every format that has no parameters, in the order in which people choose.
    pub const NAMED: [Self; 14] = [
        Self::Native,
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q6k,
        Self::Q5k,
        Self::Q4k,
        Self::Q3k,
        Self::Q2k,
        Self::Q5_1,
        Self::Q5_0,
        Self::Q4_1,
        Self::Q4_0,
    ];

    /// The GGML type behind this format, if it is one.
    pub const fn ggml(self) -> Option<GgmlType> {
        Some(match self {
            Self::Q8_0 => GgmlType::Q8_0,
            Self::Q6k => GgmlType::Q6k,
            Self::Q5k => GgmlType::Q5k,
            Self::Q4k => GgmlType::Q4k,
            Self::Q3k => GgmlType::Q3k,
            Self::Q2k => GgmlType::Q2k,
            Self::Q5_1 => GgmlType::Q5_1,
            Self::Q5_0 => GgmlType::Q5_0,
            Self::Q4_1 => GgmlType::Q4_1,
            Self::Q4_0 => GgmlType::Q4_0,
            Self::Native | Self::F32 | Self::F16 | Self::Bf16 | Self::Fp8(_) | Self::Int(_) => return None,
        })
    }

    /// Whether a pruned weight stays exactly zero in this format. GGML types with a minimum have no exact zero.
    pub const fn has_exact_zero(self) -> bool {
        !matches!(self, Self::Q4_1 | Self::Q5_1 | Self::Q2k | Self::Q4k | Self::Q5k)
    }

    /// Whether weights are rounded to codes of few bits, so that the way of rounding matters.
    pub const fn is_quantized(self) -> bool {
        !matches!(self, Self::Native | Self::F32 | Self::F16 | Self::Bf16)
    }

    /// Short name for tables: `q4_0`, `int4 g32`, `int8 row sym`.
    pub fn label(self) -> String {
        match self {
            Self::Native => "native".to_owned(),
            Self::F32 => "f32".to_owned(),
            Self::F16 => "f16".to_owned(),
            Self::Bf16 => "bf16".to_owned(),
            Self::Fp8(scale) => format!("fp8 {}", scale.name()),
            Self::Int(int) => int.label(),
            other => other.ggml().map_or("", GgmlType::name).to_owned(),
        }
    }
}

/// The weights that share an FP8 scale. In TOML `weights = { fp8 = "row" }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fp8Scale {
    /// All weights of the matrix.
    Tensor,
    /// The weights of an output row.
    Row,
    /// Squares of 128 × 128 weights; the last ones may be smaller.
    Block,
}

impl Fp8Scale {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::Tensor, Self::Row, Self::Block];
    /// Rows and columns of a square.
    pub const BLOCK: usize = 128;

    /// The name in recipes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tensor => "tensor",
            Self::Row => "row",
            Self::Block => "block",
        }
    }

    /// Scales of a matrix.
    pub const fn count(self, rows: usize, row_len: usize) -> usize {
        match self {
            Self::Tensor => 1,
            Self::Row => rows,
            Self::Block => rows.div_ceil(Self::BLOCK) * row_len.div_ceil(Self::BLOCK),
        }
    }
}

/// A uniform integer grid: `bits` a weight, one scale (and zero point) a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntFormat {
    /// Bits a weight, 2 to 8.
    pub bits: u8,
    /// Input features that share a grid.
    pub group: Group,
    /// Zero is in the middle of the grid; otherwise the grid spans minimum to maximum with an integer zero point.
    #[serde(default)]
    pub symmetric: bool,
}

impl IntFormat {
    /// The range of `bits`.
    pub const BITS: std::ops::RangeInclusive<u8> = 2..=8;
    /// The widths that products read as they are packed; others are simulated.
    pub const PACKED_BITS: [u8; 2] = [4, 8];

    fn label(self) -> String {
        let group = match self.group {
            Group::Row => "row".to_owned(),
            Group::Size(size) => format!("g{size}"),
        };
        let symmetric = if self.symmetric { " sym" } else { "" };
        format!("int{} {group}{symmetric}", self.bits)
    }
}

/// The input features that share one grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawGroup", into = "RawGroup")]
pub enum Group {
    /// A whole row.
    Row,
    /// So many consecutive features: 32, 64, 96 or 128.
    Size(u16),
}

impl Group {
    /// The sizes that exist.
    pub const SIZES: [u16; 4] = [32, 64, 96, 128];

    /// Features in a group of a row with `row_len` features.
    pub fn len(self, row_len: usize) -> usize {
        match self {
            Self::Row => row_len,
            Self::Size(size) => usize::from(size),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum RawGroup {
    Size(u16),
    Name(String),
}

impl TryFrom<RawGroup> for Group {
    type Error = String;

    fn try_from(raw: RawGroup) -> Result<Self, String> {
        match raw {
            RawGroup::Name(name) if name == "row" => Ok(Self::Row),
            RawGroup::Size(size) if Self::SIZES.contains(&size) => Ok(Self::Size(size)),
            RawGroup::Size(size) => Err(format!("group {size} is not one of \"row\", 32, 64, 96, 128")),
            RawGroup::Name(name) => Err(format!("group {name:?} is not one of \"row\", 32, 64, 96, 128")),
        }
    }
}

impl From<Group> for RawGroup {
    fn from(group: Group) -> Self {
        match group {
            Group::Row => Self::Name("row".to_owned()),
            Group::Size(size) => Self::Size(size),
        }
    }
}

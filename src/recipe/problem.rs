//! What can be wrong with a recipe, in words.

use std::fmt;

use crate::model::{LayerPath, StoredFormat};
use crate::recipe::{KvFormat, Pattern, Sparsity, Target, WeightFormat};

/// One reason why a recipe cannot run on a model and device.
#[derive(Debug, Clone, PartialEq)]
pub struct RecipeIssue {
    /// The layer that it concerns, if it is about one.
    pub layer: Option<LayerPath>,
    /// The rule that it concerns, counted from 1; `None` for the default.
    pub rule: Option<usize>,
    /// What is wrong.
    pub problem: Problem,
}

/// What can be wrong with a recipe.
#[derive(Debug, Clone, PartialEq)]
pub enum Problem {
    /// The recipe was written for another version of the schema.
    Version(u32),
    /// No layer of the model matches.
    MatchesNothing(Target),
    /// The glob cannot be read.
    BadGlob(String, String),
    /// A row is not made of whole blocks or groups.
    RowLength {
        /// The format.
        format: WeightFormat,
        /// Elements of a row.
        row_len: usize,
        /// Elements of a block or group.
        block_len: usize,
    },
    /// Outside 2 to 8.
    Bits(u8),
    /// Outside 0 to 0.95, or not a number.
    Fraction(f64),
    /// Pruning a layer that stays packed as the checkpoint stores it.
    PackedSparsity(StoredFormat),
    /// Pruning in a format in which zeros would come back as small weights.
    NoExactZero(WeightFormat),
    /// A row is not made of whole runs of the pattern.
    PatternLength {
        /// The pattern.
        pattern: Pattern,
        /// Elements of a row.
        row_len: usize,
    },
    /// A number outside its range.
    OutOfRange {
        /// Its name in the recipe.
        name: &'static str,
        /// What the recipe says.
        value: f64,
        /// What it may be, in words.
        range: &'static str,
    },
    /// Settings that cannot be combined, and what to change.
    Conflict(&'static str),
    /// A calibrated method without a text.
    NoCalibration,
    /// A block that the model does not have.
    NoBlock {
        /// The block.
        block: u16,
        /// Blocks of the model.
        n_blocks: usize,
    },
    /// Nothing of the model would be left.
    NothingLeft,
    /// The heads of a cached token are not made of whole blocks.
    KvBlocks {
        /// The format.
        format: KvFormat,
        /// Values of a token's keys.
        row_len: usize,
    },
}

impl fmt::Display for RecipeIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.layer, self.rule) {
            (Some(layer), Some(rule)) => write!(f, "{layer} (rule {rule}): {}", self.problem),
            (Some(layer), None) => write!(f, "{layer}: {}", self.problem),
            (None, Some(rule)) => write!(f, "rule {rule}: {}", self.problem),
            (None, None) => write!(f, "{}", self.problem),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(found) => {
                write!(f, "format_version {found} is not {}, the one that this version reads", crate::recipe::FORMAT_VERSION)
            }
            Self::MatchesNothing(target) => write!(f, "{target} matches no layer of this model"),
            Self::BadGlob(glob, reason) => write!(f, "glob {glob:?} cannot be read: {reason}"),
            Self::RowLength { format, row_len, block_len } => write!(
                f,
                "{} needs rows of a multiple of {block_len}, this layer's have {row_len}; choose another format or group",
                format.label()
            ),
            Self::Bits(bits) => write!(f, "int has 2 to 8 bits, not {bits}"),
            Self::Fraction(fraction) => {
                write!(f, "a sparsity fraction lies between 0 and {}, not {fraction}", Sparsity::MAX_FRACTION)
            }
            Self::NoExactZero(format) => write!(
                f,
                "{} has no exact zero, so pruned weights would come back; use q8_0, q6k, q5_0, q4_0, q3k, int or a float",
                format.label()
            ),
            Self::PatternLength { pattern, row_len } => write!(
                f,
                "pattern {pattern} needs rows of a multiple of {}, this layer's have {row_len}; use a fraction instead",
                pattern.len
            ),
            Self::OutOfRange { name, value, range } => write!(f, "{name} is {range}, not {value}"),
            Self::Conflict(reason) => f.write_str(reason),
            Self::NoCalibration => f.write_str(
                "a method of this recipe reads a calibration text; name one as [calibration] data, or with --calibration",
            ),
            Self::NoBlock { block, n_blocks } => write!(f, "block {block} does not exist, the model has 0 to {}", n_blocks - 1),
            Self::NothingLeft => f.write_str("the structure removes every block; keep at least one"),
            Self::KvBlocks { format, row_len } => write!(
                f,
                "a {} cache needs keys of a multiple of 32 values a token, this model's have {row_len}; use f16",
                format.name()
            ),
            Self::PackedSparsity(stored) => write!(
                f,
                "weights stored as {} cannot be pruned in place; name a weight format for this layer",
                stored.name()
            ),
        }
    }
}

impl RecipeIssue {
    /// About the recipe as a whole.
    pub(super) fn of_recipe(problem: Problem) -> Self {
        Self { layer: None, rule: None, problem }
    }
}

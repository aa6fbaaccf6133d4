//! The operations of a forward pass, as a profile tells them apart.

use serde::{Deserialize, Serialize};

/// One step of a forward pass, in the order of execution. What a part of a block made is added to the residual stream by
/// the norm behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Rows of the embedding.
    Embedding,
    /// The norm before attention.
    AttentionNorm,
    /// The product that makes queries.
    Query,
    /// The product that makes keys.
    Key,
    /// The product that makes values.
    Value,
    /// Rotation of queries and keys.
    Rope,
    /// Scores, softmax and mixing, with the writing of the cache.
    Attention,
    /// The product behind attention.
    Output,
    /// The norm before the MLP.
    MlpNorm,
    /// The product that makes the gate.
    Gate,
    /// The product that the gate opens.
    Up,
    /// The gate's nonlinearity times what it opens.
    Activation,
    /// The product behind the gate.
    Down,
    /// The norm before the head.
    FinalNorm,
    /// The product that makes logits.
    Head,
}

impl Operation {
    /// Every operation, in the order of execution.
    pub const ALL: [Self; 15] = [
        Self::Embedding,
        Self::AttentionNorm,
        Self::Query,
        Self::Key,
        Self::Value,
        Self::Rope,
        Self::Attention,
        Self::Output,
        Self::MlpNorm,
        Self::Gate,
        Self::Up,
        Self::Activation,
        Self::Down,
        Self::FinalNorm,
        Self::Head,
    ];

    /// Short name for tables and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::AttentionNorm => "attention norm",
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
            Self::Rope => "rope",
            Self::Attention => "attention",
            Self::Output => "output",
            Self::MlpNorm => "MLP norm",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::Activation => "activation",
            Self::Down => "down",
            Self::FinalNorm => "final norm",
            Self::Head => "head",
        }
    }

    /// The part of the model that it belongs to.
    pub const fn group(self) -> OperationGroup {
        match self {
            Self::Query | Self::Key | Self::Value | Self::Rope | Self::Attention | Self::Output => {
                OperationGroup::Attention
            }
            Self::Gate | Self::Up | Self::Activation | Self::Down => OperationGroup::Mlp,
            Self::AttentionNorm | Self::MlpNorm | Self::FinalNorm => OperationGroup::Norms,
            Self::Head => OperationGroup::Head,
            Self::Embedding => OperationGroup::Other,
        }
    }
}

/// The parts of a model that time is shared between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationGroup {
    /// Attention with its products.
    Attention,
    /// The gated MLP.
    Mlp,
    /// Norms, with the additions to the residual stream.
    Norms,
    /// The head.
    Head,
    /// The embedding.
    Other,
}

impl OperationGroup {
    /// Every group.
    pub const ALL: [Self; 5] = [Self::Attention, Self::Mlp, Self::Norms, Self::Head, Self::Other];

    /// Short name for tables and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Mlp => "MLP",
            Self::Norms => "norms",
            Self::Head => "head",
            Self::Other => "other",
        }
    }
}

/// The arithmetic that an operation's products are done in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arithmetic {
    /// Single precision.
    Float,
    /// Integers of 8 bits with sums of 32.
    Int8,
    /// Numbers of 16 bits with sums of single precision, on a card's tensor cores.
    TensorFloat,
    /// Integers of 8 bits with sums of 32, on a card's tensor cores.
    TensorInt8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_order_are_unambiguous() {
        assert!(Operation::ALL.is_sorted());
        let names: std::collections::BTreeSet<&str> = Operation::ALL.iter().map(|operation| operation.name()).collect();
        assert_eq!(names.len(), Operation::ALL.len());
        for group in OperationGroup::ALL {
            assert!(Operation::ALL.iter().any(|operation| operation.group() == group), "{}", group.name());
        }
    }
}

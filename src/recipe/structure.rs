//! Parts of the model that are removed, so that its tensors are smaller, and parts that are shared.

use serde::{Deserialize, Serialize};

use crate::model::LayerRole;

/// What is removed before anything else happens to the layers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Structure {
    /// Channels of the MLP: rows of gate and up, columns of down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ffn: Option<WidthCut>,
    /// Attention heads. With grouped queries a key-value head goes with all queries that share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<WidthCut>,
    /// Whole blocks, or the attention or MLP of blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<BlockCut>,
    /// How the columns that survive in `down_proj` and `o_proj` make up for those that went.
    #[serde(default)]
    pub update: SurvivorUpdate,
}

impl Structure {
    /// Whether nothing is removed.
    pub fn is_empty(&self) -> bool {
        self.ffn.is_none_or(|cut| cut.fraction == 0.0)
            && self.heads.is_none_or(|cut| cut.fraction == 0.0)
            && self.blocks.as_ref().is_none_or(BlockCut::is_empty)
    }

    /// Whether choosing or updating reads activations.
    pub fn needs_calibration(&self) -> bool {
        let cuts = [self.ffn, self.heads].into_iter().flatten().filter(|cut| cut.fraction > 0.0);
        let mut width = cuts.map(|cut| cut.score);
        let blocks = self.blocks.as_ref().filter(|cut| !cut.is_empty());
        width.any(|score| score != ChannelScore::WeightNorm || self.update == SurvivorUpdate::LeastSquares)
            || blocks.is_some_and(|cut| cut.drop.is_empty())
    }
}

/// Channels or heads to remove.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WidthCut {
    /// Share of the channels or heads that goes, 0 to 0.95, in each block alike.
    pub fraction: f64,
    /// How they are ranked.
    #[serde(default)]
    pub score: ChannelScore,
    /// Blocks first to last, both included; all blocks when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<[u16; 2]>,
    /// The width that stays is rounded up to a multiple of this, so that kernels and formats fit: channels 32 when absent,
    /// heads 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub align: Option<u16>,
}

impl WidthCut {
    /// Multiple of the channels that stay, when a recipe names none: rows of `down_proj` are made of blocks of 32.
    pub const FFN_ALIGN: u16 = 32;

    /// How many of `width` stay, at least one unit of `default_align`.
    pub fn kept(&self, width: usize, default_align: u16) -> usize {
        let align = usize::from(self.align.unwrap_or(default_align).max(1));
        let kept = width as f64 * (1.0 - self.fraction);
        // A product that should be whole may lie a rounding error above it.
        let kept = (kept - 1e-9).ceil().max(1.0) as usize;
        kept.next_multiple_of(align).min(width)
    }

    /// Whether the cut is made in `block`.
    pub fn covers(&self, block: u16) -> bool {
        self.blocks.is_none_or(|[first, last]| (first..=last).contains(&block))
    }
}

/// How channels and heads are ranked; the lowest go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelScore {
    /// Norm of the weights that make and read the channel.
    WeightNorm,
    /// Norm of the channel over the calibration text.
    #[default]
    ActivationNorm,
    /// |gradient · activation| of the loss: Molchanov et al., 2019, arXiv:1906.10771; heads: Michel et al., 2019,
    /// arXiv:1905.10650.
    Taylor,
}

/// Blocks, or parts of them, to remove.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockCut {
    /// These blocks, counted from 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop: Vec<u16>,
    /// Or so many, chosen by score.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub count: u16,
    /// How they are chosen.
    #[serde(default)]
    pub score: BlockScore,
    /// What goes.
    #[serde(default)]
    pub part: BlockPart,
}

impl BlockCut {
    /// Whether nothing is removed.
    pub fn is_empty(&self) -> bool {
        self.drop.is_empty() && self.count == 0
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde wants")]
fn is_zero(count: &u16) -> bool {
    *count == 0
}

/// How blocks are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockScore {
    /// 1 − mean cosine of a block's input and output. Men et al., 2024 (`ShortGPT`), arXiv:2403.03853.
    BlockInfluence,
    /// One at a time, the one whose loss costs least KL on the calibration text.
    #[default]
    MeasuredKl,
}

/// What of a block is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockPart {
    /// All of it.
    #[default]
    Block,
    /// Its attention alone.
    Attention,
    /// Its MLP alone.
    Mlp,
}

/// How survivors make up for what was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SurvivorUpdate {
    /// The least-squares solution over the calibration text: `W_S = W H_{:,S} H_{S,S}⁻¹`.
    #[default]
    LeastSquares,
    /// They stay as they are.
    None,
}

/// One tensor for the layers of a role over a run of blocks. In TOML
/// `[[sharing]] role = "up_proj", blocks = [2, 3], method = "tie"`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sharing {
    /// The layers.
    pub role: LayerRole,
    /// Blocks first to last, both included.
    pub blocks: [u16; 2],
    /// What they share.
    pub method: SharingMethod,
    /// Kept share of the group's parameters, above 0 and at most 1; for [`SharingMethod::Basis`] alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

/// What layers share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SharingMethod {
    /// All of the weights, their mean. Lan et al., 2019 (ALBERT), arXiv:1909.11942.
    Tie,
    /// The basis of the inputs, by one SVD of the stacked weights; each keeps coefficients of its own. Wang et al., 2024,
    /// arXiv:2410.03765.
    Basis,
}

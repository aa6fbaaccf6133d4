//! The block formats of GGML.

/// A format of GGML: weights in blocks of 32, or superblocks of 256, with scales of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockType {
    /// 4 bits, one f16 scale.
    Q4_0,
    /// 4 bits, f16 scale and minimum.
    Q4_1,
    /// 5 bits, one f16 scale.
    Q5_0,
    /// 5 bits, f16 scale and minimum.
    Q5_1,
    /// 8 bits, one f16 scale.
    Q8_0,
    /// 2 bits; 4-bit scales and minimums of 16.
    Q2k,
    /// 3 bits; 6-bit scales of 16.
    Q3k,
    /// 4 bits; 6-bit scales and minimums of 32.
    Q4k,
    /// 5 bits; 6-bit scales and minimums of 32.
    Q5k,
    /// 6 bits; 8-bit scales of 16.
    Q6k,
}

impl BlockType {
    /// Every format.
    pub const ALL: [Self; 10] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2k,
        Self::Q3k,
        Self::Q4k,
        Self::Q5k,
        Self::Q6k,
    ];

    /// The name in files and recipes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q8_0 => "q8_0",
            Self::Q2k => "q2k",
            Self::Q3k => "q3k",
            Self::Q4k => "q4k",
            Self::Q5k => "q5k",
            Self::Q6k => "q6k",
        }
    }

    /// Weights of a block.
    pub const fn block_len(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2k | Self::Q3k | Self::Q4k | Self::Q5k | Self::Q6k => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2k => 84,
            Self::Q3k => 110,
            Self::Q4k => 144,
            Self::Q5k => 176,
            Self::Q6k => 210,
        }
    }
}

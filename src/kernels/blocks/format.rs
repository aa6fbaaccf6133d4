//! What the ten formats are made of.

#![expect(clippy::inline_always, reason = "the instructions of the caller are used only where it is inlined")]

use super::super::block_type::BlockType;
use super::Line;
use super::lanes::LINE;

/// Codes and scales of a format, as the layout of [`super::Blocks`] cuts them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Bits of a code that lie together: 2, 4 or 8.
    pub(super) low: usize,
    /// Bits of a code above them: 0, 1 or 2.
    pub(super) high: usize,
    /// Units of 32 inputs of a block.
    pub(super) n_units: usize,
    /// Bytes of a block that scale its groups.
    pub(super) scale_bytes: usize,
    /// The f16 steps of a block: of weights, and of minimums.
    pub(super) n_steps: usize,
    /// Subtracted from a code.
    pub(super) bias: i32,
    /// Whether groups are of 16 inputs, not 32.
    pub(super) is_fine: bool,
}

impl Shape {
    pub(super) const fn of(kind: BlockType) -> Self {
        let (low, high, bias) = match kind {
            BlockType::Q4_0 => (4, 0, 8),
            BlockType::Q5_0 => (4, 1, 16),
            BlockType::Q8_0 => (8, 0, 128),
            BlockType::Q4_1 | BlockType::Q4k => (4, 0, 0),
            BlockType::Q5_1 | BlockType::Q5k => (4, 1, 0),
            BlockType::Q2k => (2, 0, 0),
            BlockType::Q3k => (2, 1, 4),
            BlockType::Q6k => (4, 2, 32),
        };
        let scale_bytes = match kind {
            BlockType::Q2k | BlockType::Q6k => 16,
            BlockType::Q3k | BlockType::Q4k | BlockType::Q5k => 12,
            BlockType::Q4_0 | BlockType::Q4_1 | BlockType::Q5_0 | BlockType::Q5_1 | BlockType::Q8_0 => 0,
        };
        let is_fine = matches!(kind, BlockType::Q2k | BlockType::Q3k | BlockType::Q6k);
        let n_steps = if bias == 0 { 2 } else { 1 };
        Self { low, high, n_units: kind.block_len() / 32, scale_bytes, n_steps, bias, is_fine }
    }

    /// Whether weights have a minimum. No format has both a minimum and a bias.
    pub(super) const fn has_min(self) -> bool {
        self.n_steps == 2
    }

    /// Lines of 64 bytes that 16 outputs have of a unit's codes.
    pub(super) const fn unit_lines(self) -> usize {
        self.low + self.high
    }

    /// Lines that 16 outputs have of a block's scales.
    pub(super) const fn scale_lines(self) -> usize {
        self.scale_bytes / 4
    }

    /// Lines that 16 outputs have of a block.
    pub(super) const fn block_lines(self) -> usize {
        self.scale_lines() + self.n_units * self.unit_lines()
    }

    /// Inputs of a group.
    pub(super) const fn group_len(self) -> usize {
        if self.is_fine { 16 } else { 32 }
    }
}

/// A format as a type, so that loops are compiled for it.
pub(super) trait Format {
    const KIND: BlockType;
    const SHAPE: Shape = Shape::of(Self::KIND);
}

macro_rules! formats {
    ($($name:ident),*) => {$(
        #[derive(Debug)]
        pub(super) struct $name;
        impl Format for $name {
            const KIND: BlockType = BlockType::$name;
        }
    )*};
}

formats!(Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2k, Q3k, Q4k, Q5k, Q6k);

/// Scales and minimums of a superblock's groups as bytes with a sign, 16 outputs side by side.
#[derive(Debug, Clone)]
pub(super) struct Groups {
    pub(super) scales: [Line; 4],
    pub(super) mins: [Line; 4],
}

impl Groups {
    pub(super) const NONE: Self = Self { scales: [Line([0; LINE]); 4], mins: [Line([0; LINE]); 4] };

    /// Reads the scale bytes of a superblock: byte after byte, 16 outputs side by side. Those of `q6k` need no reading.
    #[inline(always)]
    pub(super) fn read<F: Format>(&mut self, lines: &[Line]) {
        let lines = &lines[..F::SHAPE.scale_lines()];
        let [[s0, s1, s2, s3], [m0, m1, m2, m3]] = [&mut self.scales, &mut self.mins];
        match F::KIND {
            BlockType::Q2k => {
                let [a, b, c, d] = [&lines[0].0, &lines[1].0, &lines[2].0, &lines[3].0];
                for i in 0..LINE {
                    [s0.0[i], s1.0[i], s2.0[i], s3.0[i]] = [a[i] & 15, b[i] & 15, c[i] & 15, d[i] & 15];
                    [m0.0[i], m1.0[i], m2.0[i], m3.0[i]] = [a[i] >> 4, b[i] >> 4, c[i] >> 4, d[i] >> 4];
                }
            }
            BlockType::Q3k => {
                let [a, b, high] = [&lines[0].0, &lines[1].0, &lines[2].0];
                let scale = |low: u8, high: u8| (low & 15 | (high & 3) << 4).wrapping_sub(32);
                for i in 0..LINE {
                    s0.0[i] = scale(a[i], high[i]);
                    s1.0[i] = scale(b[i], high[i] >> 2);
                    s2.0[i] = scale(a[i] >> 4, high[i] >> 4);
                    s3.0[i] = scale(b[i] >> 4, high[i] >> 6);
                }
            }
            BlockType::Q4k | BlockType::Q5k => {
                let [a, b, low] = [&lines[0].0, &lines[1].0, &lines[2].0];
                for i in 0..LINE {
                    [s0.0[i], s1.0[i]] = [a[i] & 63, low[i] & 15 | a[i] >> 6 << 4];
                    [m0.0[i], m1.0[i]] = [b[i] & 63, low[i] >> 4 | b[i] >> 6 << 4];
                }
            }
            BlockType::Q4_0
            | BlockType::Q4_1
            | BlockType::Q5_0
            | BlockType::Q5_1
            | BlockType::Q8_0
            | BlockType::Q6k => {}
        }
    }
}

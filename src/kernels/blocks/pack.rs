//! From GGML blocks to panels of 16 outputs, and back.

use half::f16;

use super::super::block_type::BlockType;
use super::super::pool::{Parts, share_out_if};
use super::format::Shape;
use super::lanes::{LINE, OUTPUTS};
use super::rounding::UNIT;
use super::{Blocks, Line, ggml};

/// Panels of a small matrix, packed on the caller's thread.
const SMALL: usize = 4;

pub(super) fn pack(kind: BlockType, bytes: &[u8], n_outputs: usize, n_inputs: usize) -> Blocks {
    let shape = Shape::of(kind);
    let (n_panels, n_blocks) = (n_outputs.div_ceil(OUTPUTS), n_inputs / kind.block_len());
    let (panel_lines, panel_steps) = (n_blocks * shape.block_lines(), n_blocks * shape.n_steps);
    let mut lines = vec![Line([0; LINE]); n_panels * panel_lines];
    let mut steps = vec![[f16::ZERO; OUTPUTS]; n_panels * panel_steps];
    let row_bytes = n_blocks * kind.block_bytes();
    let parts = (Parts::new(&mut lines), Parts::new(&mut steps));
    share_out_if(n_panels > SMALL, |share| {
        for panel in share.of(n_panels, 1) {
            // SAFETY: a panel has its own lines and steps.
            let (lines, steps) = unsafe {
                (
                    parts.0.range(panel * panel_lines..(panel + 1) * panel_lines),
                    parts.1.range(panel * panel_steps..(panel + 1) * panel_steps),
                )
            };
            for output in 0..OUTPUTS.min(n_outputs - panel * OUTPUTS) {
                let row = &bytes[(panel * OUTPUTS + output) * row_bytes..][..row_bytes];
                for (index, block) in row.chunks_exact(kind.block_bytes()).enumerate() {
                    let lines = &mut lines[index * shape.block_lines()..][..shape.block_lines()];
                    let steps = &mut steps[index * shape.n_steps..][..shape.n_steps];
                    put_block(kind, block, output, lines, steps);
                }
            }
        }
    });
    Blocks { kind, n_outputs, n_inputs, lines, steps }
}

/// Puts one block among those of the 15 other outputs. All lines are zeros at first.
fn put_block(kind: BlockType, block: &[u8], output: usize, lines: &mut [Line], steps: &mut [[f16; OUTPUTS]]) {
    let shape = Shape::of(kind);
    let step_at = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]);
    let (step, min) = ggml::steps(kind);
    steps[0][output] = step_at(step);
    if let Some(min) = min {
        steps[1][output] = step_at(min);
    }
    for (index, scale) in block[ggml::scales(kind)].iter().enumerate() {
        lines[index / 4].0[index % 4 * OUTPUTS + output] = *scale;
    }
    let mut codes = [0; 256];
    let codes = &mut codes[..kind.block_len()];
    ggml::read_codes(kind, block, codes);
    let lines = &mut lines[shape.scale_lines()..];
    for (lines, codes) in lines.chunks_exact_mut(shape.unit_lines()).zip(codes.chunks_exact(UNIT)) {
        for (input, code) in codes.iter().enumerate() {
            for field in fields(shape, input) {
                let byte = &mut lines[field.line].0[output * 4 + input % 4];
                *byte |= (code >> field.place & field.mask) << field.shift;
            }
        }
    }
}

/// Where some bits of a code lie.
#[derive(Debug, Clone, Copy)]
struct Field {
    line: usize,
    shift: usize,
    mask: u8,
    /// Their place in the code.
    place: usize,
}

/// Low and high bits of an input's code in the lines of its unit.
fn fields(shape: Shape, input: usize) -> [Field; 2] {
    let quad = input / 4;
    let (low_line, low_shift) = match shape.low {
        8 => (quad, 0),
        4 => (quad % 4, quad / 4 * 4),
        _ => (quad / 4, quad % 4 * 2),
    };
    let (high_line, high_shift) = match shape.high {
        2 => (shape.low + quad / 4, quad % 4 * 2),
        1 => (shape.low, quad),
        _ => (0, 0),
    };
    let mask = |bits: usize| ((1_u16 << bits) - 1) as u8;
    [
        Field { line: low_line, shift: low_shift, mask: mask(shape.low), place: 0 },
        Field { line: high_line, shift: high_shift, mask: mask(shape.high), place: shape.low % 8 },
    ]
}

/// Dequantizes a row, with the float operations of GGML.
pub(super) fn read_row(blocks: &Blocks, output: usize, values: &mut [f32]) {
    let (kind, shape) = (blocks.kind, blocks.shape());
    let (panel, output) = (output / OUTPUTS, output % OUTPUTS);
    let first = panel * blocks.n_blocks();
    for (index, values) in values.chunks_exact_mut(kind.block_len()).enumerate() {
        let lines = &blocks.lines[(first + index) * shape.block_lines()..][..shape.block_lines()];
        let steps = &blocks.steps[(first + index) * shape.n_steps..][..shape.n_steps];
        let (scale_lines, code_lines) = lines.split_at(shape.scale_lines());
        let mut scale_bytes = [0; 16];
        for (place, byte) in scale_bytes[..shape.scale_bytes].iter_mut().enumerate() {
            *byte = scale_lines[place / 4].0[place % 4 * OUTPUTS + output];
        }
        let step = steps[0][output].to_f32();
        let min_step = if shape.has_min() { steps[1][output].to_f32() } else { 0.0 };
        for (group, values) in values.chunks_exact_mut(shape.group_len()).enumerate() {
            let (scale, min) = group_scales(kind, &scale_bytes, group);
            let (step, min) = (step * scale, min_step * min);
            for (place, value) in values.iter_mut().enumerate() {
                let input = group * shape.group_len() + place;
                let lines = &code_lines[input / UNIT * shape.unit_lines()..];
                let code = fields(shape, input % UNIT).iter().fold(0, |code, field| {
                    let byte = lines[field.line].0[output * 4 + input % 4];
                    code | (byte >> field.shift & field.mask) << field.place
                });
                *value = step * (i32::from(code) - shape.bias) as f32;
                if shape.has_min() {
                    *value += min;
                }
            }
        }
    }
}

/// What the steps of weights and minimums are multiplied with in one group.
fn group_scales(kind: BlockType, bytes: &[u8; 16], group: usize) -> (f32, f32) {
    match kind {
        BlockType::Q4_0 | BlockType::Q4_1 | BlockType::Q5_0 | BlockType::Q5_1 | BlockType::Q8_0 => (1.0, 1.0),
        BlockType::Q2k => (f32::from(bytes[group] & 15), -f32::from(bytes[group] >> 4)),
        BlockType::Q6k => (f32::from(bytes[group].cast_signed()), 0.0),
        BlockType::Q3k => {
            let low = bytes[group % 8] >> (group / 8 * 4) & 15;
            let high = bytes[8 + group % 4] >> (group / 4 * 2) & 3;
            (f32::from(low | high << 4) - 32.0, 0.0)
        }
        BlockType::Q4k | BlockType::Q5k if group < 4 => {
            (f32::from(bytes[group] & 63), -f32::from(bytes[group + 4] & 63))
        }
        BlockType::Q4k | BlockType::Q5k => {
            let (low, scale, min) = (bytes[group + 4], bytes[group - 4], bytes[group]);
            (f32::from(low & 15 | scale >> 6 << 4), -f32::from(low >> 4 | min >> 6 << 4))
        }
    }
}

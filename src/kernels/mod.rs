//! Vector loops over plain slices: the one folder where SIMD `unsafe` may live.
//!
//! Imports std and `half` only. Entry points are safe and check every length. The instructions are chosen once
//! by [`Isa`], the threads are those of the pool; neither changes a result's bits, but for float sums between sets of
//! instructions.

#![expect(unsafe_code, reason = "vector instructions, and parts of a slice that threads write")]
#![expect(clippy::inline_always, reason = "a loop gets the instructions of the function that it is inlined into")]

mod activations;
mod attention;
mod block_type;
mod blocks;
mod ceilings;
mod divergence;
mod floats;
mod ints;
mod isa;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pool;
mod quantize;
mod rows;
mod sparse;
mod tokens;
mod vector;

pub use activations::Activations;
pub use attention::{HeadShape, Sight, attend, attend_scratch_bytes};
pub use block_type::BlockType;
pub use blocks::Blocks;
pub use ceilings::{float_flops, hand_over_secs, int8_ops, read_bytes_per_second};
pub use divergence::{Divergence, divergence};
pub use floats::{Floats, Fp8Scales, Zeros};
pub use ints::Ints;
pub use isa::{ISA_VARIABLE, Isa};
pub use pool::{set_threads, threads};
pub use quantize::{dequantize, dequantize_here, quantize, quantize_here};
pub use rows::{Rows, quantize_q4_0, quantize_q8_0};
pub use sparse::{SparseHalf, SparseInts};
pub use tokens::{TokenGrid, Tokens};
pub use vector::{
    Activation, RotaryOrder, add_and_norm, add_bias, add_in_place, gate, layer_norm, rms_norm, rotate, softmax,
};

//! Where the time of a forward pass goes: each operation with its work, and what the machine can do at most.

use serde::{Deserialize, Serialize};

use crate::device::DeviceSpec;
use crate::model::{Arithmetic, Operation};
use crate::study::{Conditions, Ratio};

/// What is profiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileWorkload {
    /// Tokens of the prompt that runs in one pass.
    pub prompt: u32,
    /// Tokens in the cache when a single one is decoded.
    pub context: u32,
    /// Pairs of a pass with the clock and one without.
    pub repetitions: u32,
}

/// Everything that profiling a variant found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProfileReport {
    /// Each kind of pass.
    pub passes: Vec<PassProfile>,
    /// What this machine can do at most, measured by the same worker.
    pub ceilings: Ceilings,
    /// Conditions during all of it.
    pub conditions: Conditions,
}

/// A kind of forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PassKind {
    /// A prompt of so many tokens at once, with the logits behind its last.
    Prefill {
        /// Its tokens.
        tokens: u32,
    },
    /// One token behind so many.
    Decode {
        /// Tokens before it.
        context: u32,
    },
}

impl PassKind {
    /// Its name with the number of tokens: `prefill of 256 tokens`.
    pub fn label(self) -> String {
        match self {
            Self::Prefill { tokens } => format!("prefill of {tokens} tokens"),
            Self::Decode { context } => format!("decode behind {context} tokens"),
        }
    }

    /// Its tokens: those of the prompt, or those before the one that is decoded.
    pub const fn tokens(self) -> u32 {
        match self {
            Self::Prefill { tokens } => tokens,
            Self::Decode { context } => context,
        }
    }

    /// Short name for files and columns.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prefill { .. } => "prefill",
            Self::Decode { .. } => "decode",
        }
    }
}

/// One kind of pass, taken apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PassProfile {
    /// Which.
    pub kind: PassKind,
    /// Passes behind each median, as many with the clock between operations as without it, turn about.
    pub repetitions: u32,
    /// Median time of a pass with the clock, in nanoseconds.
    pub profiled_nanos: u64,
    /// Median time of a pass without it, in nanoseconds.
    pub plain_nanos: u64,
    /// Of the time without it, the median that a card took, from when the host began to ask for the pass: the rest was the
    /// host's alone. Absent on the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card_nanos: Option<u64>,
    /// Time with the clock over time without it, from the pairs; `None` when they say nothing about the spread.
    pub overhead: Option<Ratio>,
    /// Every operation in the order of execution. On a card the passes with the clock launch each kernel by itself, those
    /// without it replay the recorded step of a token.
    pub operations: Vec<OperationProfile>,
}

impl PassProfile {
    /// Sum of the operations' medians, in nanoseconds: what shares are shares of.
    pub fn operation_nanos(&self) -> u64 {
        self.operations.iter().map(|operation| operation.nanos).sum()
    }

    /// Bytes that each pass needs again: the whole of what is streamed, once.
    pub fn streamed_bytes(&self) -> u64 {
        self.operations.iter().map(|operation| operation.streamed_bytes).sum()
    }
}

/// One operation of a pass, with the time that it took and the work that it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationProfile {
    /// The block; absent outside of the blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<u16>,
    /// The operation.
    pub operation: Operation,
    /// Median time, in nanoseconds; it begins where the operation before it ended.
    pub nanos: u64,
    /// When it began and ended in the recorded pass whose time is the median one, in nanoseconds.
    pub span_nanos: [u64; 2],
    /// Multiplications and additions.
    pub flops: u64,
    /// Bytes that only the next pass needs again: weights as held, keys and values of earlier tokens.
    pub streamed_bytes: u64,
    /// Bytes of the pass's own states, read and written once each.
    pub activation_bytes: u64,
    /// What its products are done in.
    pub arithmetic: Arithmetic,
    /// The product that ran, for linear layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
}

impl OperationProfile {
    /// Bytes that must move, each once.
    pub fn bytes(&self) -> u64 {
        self.streamed_bytes + self.activation_bytes
    }
}

/// What a machine can do at most, each the best of several runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Reading, from the nearest memory to the farthest.
    pub reads: Vec<ReadCeiling>,
    /// Multiplications and additions of single precision a second.
    pub float_flops: f64,
    /// Those of 8-bit integers a second; absent where the instructions have no product for them.
    pub int8_ops: Option<f64>,
    /// Time to hand work to all threads and to hear that it is done, in seconds: no operation that is shared takes less. On
    /// a card from one launch of an empty kernel to the next.
    pub hand_over_secs: f64,
    /// Threads that reached it together; on a card the one that launches.
    pub threads: u16,
    /// The set of instructions: `avx512-vnni`, `sm_90`.
    pub instructions: String,
    /// Multiplications and additions of 16-bit numbers a second on tensor cores, where products run there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor_flops: Option<f64>,
    /// Those of 8-bit integers a second on tensor cores, where products run there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor_int8_ops: Option<f64>,
    /// Of which card; absent for the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<CardDescription>,
}

/// A card whose ceilings were measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CardDescription {
    /// The maker's name.
    pub name: String,
    /// Its processors.
    pub multiprocessors: u32,
    /// From one launch of an empty kernel to the next within a recorded step, in seconds.
    pub recorded_launch_secs: f64,
}

/// How fast a memory is read.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ReadCeiling {
    /// Which memory.
    pub memory: MemoryLevel,
    /// Bytes that it holds, over all threads; absent for main memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_bytes: Option<u64>,
    /// Bytes that were read again and again, over all threads.
    pub buffer_bytes: u64,
    /// Bytes a second.
    pub bytes_per_second: f64,
}

/// A memory of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryLevel {
    /// A cache with its level.
    Cache(u8),
    /// Main memory.
    Main,
}

impl MemoryLevel {
    /// Its name: `L2 cache`, `memory`.
    pub fn label(self) -> String {
        match self {
            Self::Cache(level) => format!("L{level} cache"),
            Self::Main => "memory".to_owned(),
        }
    }
}

impl Ceilings {
    /// What was measured: `CPU, 2 threads, avx512-vnni`, or the card's name with its processors.
    pub fn label(&self) -> String {
        let what = match &self.card {
            None => DeviceSpec::Cpu { threads: self.threads }.label(),
            Some(card) => format!("{}, {} multiprocessors", card.name, card.multiprocessors),
        };
        format!("{what}, {}", self.instructions)
    }

    /// The nearest memory that surely holds so many bytes, because as many were read from it; main memory holds any number.
    pub fn read_of(&self, bytes: u64) -> Option<&ReadCeiling> {
        self.reads.iter().find(|read| read.memory == MemoryLevel::Main || bytes <= read.buffer_bytes)
    }

    /// Operations a second in an arithmetic; integers without a product of their own are done as floats.
    pub fn flops_of(&self, arithmetic: Arithmetic) -> f64 {
        match arithmetic {
            Arithmetic::Float => self.float_flops,
            Arithmetic::Int8 => self.int8_ops.unwrap_or(self.float_flops),
            Arithmetic::TensorFloat => self.tensor_flops.unwrap_or(self.float_flops),
            Arithmetic::TensorInt8 => self.tensor_int8_ops.unwrap_or(self.float_flops),
        }
    }

    /// Raises the ceilings of arithmetic to what operations reached: on a busy machine the runs that measured them may have
    /// been slower than the passes.
    pub fn take_in(&mut self, passes: &[PassProfile]) {
        for operation in passes.iter().flat_map(|pass| &pass.operations).filter(|operation| operation.nanos > 0) {
            let most = match (operation.arithmetic, &mut self.int8_ops) {
                (Arithmetic::Int8, Some(most)) => most,
                _ => &mut self.float_flops,
            };
            *most = most.max(operation.flops as f64 / (operation.nanos as f64 * 1e-9));
        }
    }
}

//! What limits each operation of a profile: the roofline model over measured ceilings.
//!
//! An operation can take no less than its arithmetic at the machine's peak, and no less than its bytes at the speed of
//! the memory that they lie in. Weights and earlier keys come from the nearest memory that holds everything that a pass
//! streams, because each is read once a pass; states of the pass itself from the nearest that holds those of the
//! operation. Which of both times is longer is the ceiling over it.
//!
//! Paper: Williams, Waterman and Patterson, Roofline, CACM 52(4), 2009, doi:10.1145/1498765.1498785.

use crate::model::{Arithmetic, Operation, OperationGroup};
use crate::study::{Ceilings, MemoryLevel, OperationProfile, PassProfile};

/// An operation that takes less than so many hand-overs, and reaches less than [`BINDING_SHARE`] of its ceiling, is bound
/// by what surrounds it: handing work to threads, calls, the ends of loops.
pub const SHORT_HAND_OVERS: f64 = 10.0;
/// The share of its ceiling from which even a short operation is said to be bound by it.
pub const BINDING_SHARE: f64 = 0.25;

/// What an operation's time goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bound {
    /// Reading main memory, or a card's.
    Memory,
    /// Reading a cache.
    Cache,
    /// Arithmetic.
    Compute,
    /// What surrounds the work on the host: it is too short to come near a ceiling.
    Overhead,
    /// The same on a card, where it is the launch of kernels.
    Launches,
    /// The host before and behind a whole pass on a card.
    Host,
}

impl Bound {
    /// Every bound.
    pub const ALL: [Self; 6] = [Self::Memory, Self::Cache, Self::Compute, Self::Overhead, Self::Launches, Self::Host];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory bandwidth",
            Self::Cache => "cache bandwidth",
            Self::Compute => "compute",
            Self::Overhead => "host overhead",
            Self::Launches => "launches",
            Self::Host => "host",
        }
    }
}

/// Time and work, of one operation or summed over several.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Effort {
    /// Operations behind it.
    pub n: u32,
    /// Time, in seconds.
    pub secs: f64,
    /// Multiplications and additions.
    pub flops: f64,
    /// Bytes that must move.
    pub bytes: f64,
    /// What the same work takes at the ceilings, in seconds, each operation under its own.
    pub ideal_secs: f64,
    /// Of [`Self::secs`], what operations under each of [`Bound::ALL`] took.
    pub secs_by_bound: [f64; Bound::ALL.len()],
}

impl Effort {
    fn of(operation: &OperationProfile, streamed_bytes: u64, ceilings: &Ceilings) -> Self {
        let ideal = Ideal::of(operation, streamed_bytes, ceilings);
        let secs = operation.nanos as f64 * 1e-9;
        let mut effort = Self {
            n: 1,
            secs,
            flops: operation.flops as f64,
            bytes: operation.bytes() as f64,
            ideal_secs: ideal.secs(),
            ..Self::default()
        };
        let is_short = secs < SHORT_HAND_OVERS * ceilings.hand_over_secs;
        let is_far = effort.ceiling_share().is_none_or(|share| share < BINDING_SHARE);
        let short = if ceilings.card.is_some() { Bound::Launches } else { Bound::Overhead };
        let bound = if is_short && is_far { short } else { ideal.bound() };
        effort.secs_by_bound[bound as usize] = secs;
        effort
    }

    fn add(&mut self, other: &Self) {
        self.n += other.n;
        self.secs += other.secs;
        self.flops += other.flops;
        self.bytes += other.bytes;
        self.ideal_secs += other.ideal_secs;
        self.secs_by_bound.iter_mut().zip(other.secs_by_bound).for_each(|(sum, secs)| *sum += secs);
    }

    /// Multiplications and additions a byte; `None` where nothing moves.
    pub fn intensity(&self) -> Option<f64> {
        (self.bytes > 0.0).then(|| self.flops / self.bytes)
    }

    /// Multiplications and additions a second; `None` where the clock did not advance.
    pub fn flops_per_second(&self) -> Option<f64> {
        (self.secs > 0.0).then(|| self.flops / self.secs)
    }

    /// Bytes a second; `None` where the clock did not advance.
    pub fn bytes_per_second(&self) -> Option<f64> {
        (self.secs > 0.0).then(|| self.bytes / self.secs)
    }

    /// How much of its ceilings was reached; above 1 where the measured ceiling is not the machine's last word. `None`
    /// where the clock did not advance.
    pub fn ceiling_share(&self) -> Option<f64> {
        (self.secs > 0.0).then(|| self.ideal_secs / self.secs)
    }

    /// What most of the time goes to.
    pub fn bound(&self) -> Bound {
        let secs = |bound: &Bound| self.secs_by_bound[*bound as usize];
        let most = Bound::ALL.into_iter().rev().max_by(|a, b| secs(a).total_cmp(&secs(b)));
        most.unwrap_or(Bound::Overhead)
    }
}

/// The least times of one operation, in seconds.
#[derive(Debug, Clone, Copy, Default)]
struct Ideal {
    compute: f64,
    memory: f64,
    cache: f64,
}

impl Ideal {
    fn of(operation: &OperationProfile, pass_streamed_bytes: u64, ceilings: &Ceilings) -> Self {
        let mut ideal =
            Self { compute: operation.flops as f64 / ceilings.flops_of(operation.arithmetic), ..Self::default() };
        let moved =
            [(operation.streamed_bytes, pass_streamed_bytes), (operation.activation_bytes, operation.activation_bytes)];
        for (bytes, lies_among) in moved {
            let Some(read) = ceilings.read_of(lies_among) else { continue };
            let secs = bytes as f64 / read.bytes_per_second;
            match read.memory {
                MemoryLevel::Main => ideal.memory += secs,
                MemoryLevel::Cache(_) => ideal.cache += secs,
            }
        }
        ideal
    }

    fn secs(self) -> f64 {
        self.compute.max(self.memory + self.cache)
    }

    fn bound(self) -> Bound {
        if self.compute >= self.memory + self.cache {
            Bound::Compute
        } else if self.memory >= self.cache {
            Bound::Memory
        } else {
            Bound::Cache
        }
    }
}

/// The effort of each operation, in the order of the pass.
pub fn efforts(pass: &PassProfile, ceilings: &Ceilings) -> Vec<Effort> {
    let streamed = pass.streamed_bytes();
    pass.operations.iter().map(|operation| Effort::of(operation, streamed, ceilings)).collect()
}

/// The effort of the whole pass.
pub fn total(pass: &PassProfile, ceilings: &Ceilings) -> Effort {
    let mut sum = Effort::default();
    for effort in &efforts(pass, ceilings) {
        sum.add(effort);
    }
    sum
}

/// The efforts over all blocks, by operation in the order of execution.
pub fn by_operation(pass: &PassProfile, ceilings: &Ceilings) -> Vec<(Operation, Effort)> {
    summed(pass, ceilings, |operation| operation.operation)
}

/// The efforts by part of the model.
pub fn by_group(pass: &PassProfile, ceilings: &Ceilings) -> Vec<(OperationGroup, Effort)> {
    summed(pass, ceilings, |operation| operation.operation.group())
}

/// The efforts of each block by part; `None` is what lies outside of the blocks.
pub fn by_block(pass: &PassProfile, ceilings: &Ceilings) -> Vec<((Option<u16>, OperationGroup), Effort)> {
    summed(pass, ceilings, |operation| (operation.block, operation.operation.group()))
}

/// Sums under the same key, in the order of the keys.
fn summed<K: Ord>(pass: &PassProfile, ceilings: &Ceilings, key: impl Fn(&OperationProfile) -> K) -> Vec<(K, Effort)> {
    let mut sums: std::collections::BTreeMap<K, Effort> = std::collections::BTreeMap::new();
    for (operation, effort) in pass.operations.iter().zip(efforts(pass, ceilings)) {
        sums.entry(key(operation)).or_default().add(&effort);
    }
    sums.into_iter().collect()
}

/// What limits a pass, with the figures that show it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bottleneck {
    /// What most of the time goes to.
    pub bound: Bound,
    /// Share of the time that goes to operations so bound.
    pub time_share: f64,
    /// What they reach together: bytes a second (memory, caches) or operations a second (compute). `None` for the others.
    pub reached: Option<f64>,
    /// The ceiling over it, in the same unit: at these operations' own mix of arithmetic and memories.
    pub ceiling: Option<f64>,
}

/// Of the time of a plain pass on a card, what it was without work; `None` on the processor.
pub fn host_share(pass: &PassProfile) -> Option<f64> {
    let on_card = pass.card_nanos? as f64;
    (pass.plain_nanos > 0).then(|| (1.0 - on_card / pass.plain_nanos as f64).max(0.0))
}

/// What limits the pass; `None` of a pass without operations or time. The host limits a pass on a card that is without work
/// for more than half of it.
pub fn bottleneck(pass: &PassProfile, ceilings: &Ceilings) -> Option<Bottleneck> {
    if let Some(time_share) = host_share(pass).filter(|share| *share > 0.5) {
        return Some(Bottleneck { bound: Bound::Host, time_share, reached: None, ceiling: None });
    }
    let all = total(pass, ceilings);
    let bound = all.bound();
    let mut bound_ones = Effort::default();
    for effort in efforts(pass, ceilings).iter().filter(|effort| effort.bound() == bound && effort.secs > 0.0) {
        bound_ones.add(effort);
    }
    let amount = match bound {
        Bound::Memory | Bound::Cache => Some(bound_ones.bytes),
        Bound::Compute => Some(bound_ones.flops),
        Bound::Overhead | Bound::Launches | Bound::Host => None,
    };
    (all.secs > 0.0).then(|| Bottleneck {
        bound,
        time_share: bound_ones.secs / all.secs,
        reached: amount.map(|amount| amount / bound_ones.secs),
        ceiling: amount.map(|amount| amount / bound_ones.ideal_secs),
    })
}

/// A ceiling of the roofline plot: the most operations a second at an intensity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Roof {
    /// Bytes a second of a memory: a line of slope 1.
    Read(MemoryLevel, f64),
    /// Operations a second: a flat line.
    Compute(Arithmetic, f64),
}

impl Roof {
    /// Operations a second at so many operations a byte.
    pub fn at(self, intensity: f64) -> f64 {
        match self {
            Self::Read(_, bytes_per_second) => intensity * bytes_per_second,
            Self::Compute(_, flops) => flops,
        }
    }
}

/// The measured roofs, memories first.
pub fn roofs(ceilings: &Ceilings) -> Vec<Roof> {
    let reads = ceilings.reads.iter().map(|read| Roof::Read(read.memory, read.bytes_per_second));
    let others = [
        (Arithmetic::Int8, ceilings.int8_ops),
        (Arithmetic::TensorFloat, ceilings.tensor_flops),
        (Arithmetic::TensorInt8, ceilings.tensor_int8_ops),
    ];
    let others = others.into_iter().filter_map(|(arithmetic, rate)| Some(Roof::Compute(arithmetic, rate?)));
    reads.chain([Roof::Compute(Arithmetic::Float, ceilings.float_flops)]).chain(others).collect()
}

#[cfg(test)]
#[path = "roofline_tests.rs"]
mod tests;

//! What the device of a worker can do at most, measured once.

use crate::device::{CardCeilings, CardRead};
use crate::kernels::{self, Isa};
use crate::runtime::Placed;
use crate::study::{
    CardDescription, Ceilings, DecodeLimits, Failure, FailureKind, MemoryLevel, ReadCeiling, SpeedWorkload,
};
use crate::telemetry::caches;
use crate::worker::trial::{Open, failure};

/// Caches of this level and beyond have a ceiling: the first is too small for the states of a pass.
const NEAREST_LEVEL: u8 = 2;
/// The buffer that is read from main memory, in multiples of the last cache, and at least.
const BEYOND_CACHES: u64 = 4;
const MIN_MAIN_BYTES: u64 = 64 << 20;

impl Open {
    /// What the device reaches; never measured while something is timed.
    pub(super) fn ceilings(&mut self, threads: u16) -> Result<&mut Ceilings, Failure> {
        if self.ceilings.is_none() {
            let card = self.store.place().ceilings().map_err(failure)?;
            self.ceilings = Some(card.map_or_else(|| of_processor(threads), of_card));
        }
        Ok(self.ceilings.as_mut().expect("they were measured above"))
    }

    /// The limits of a card over the decoding of a token that took `launches`; `None` on the processor, and where memory
    /// was too full to measure its speed.
    pub(super) fn decode_limits(
        &mut self,
        placed: &Placed,
        workload: &SpeedWorkload,
        launches: Option<u64>,
    ) -> Result<Option<DecodeLimits>, Failure> {
        let Some(launches_per_token) = launches else { return Ok(None) };
        let past = middle(workload, placed.host().config().max_context);
        let bytes_per_token = placed.work(1, past).iter().map(|work| work.streamed_bytes).sum();
        let ceilings = match self.ceilings(1) {
            // The trial itself had enough.
            Err(failure) if failure.kind == FailureKind::OutOfMemory => return Ok(None),
            other => other?,
        };
        let (Some(read), Some(card)) = (ceilings.read_of(bytes_per_token), &ceilings.card) else { return Ok(None) };
        Ok(Some(DecodeLimits {
            bytes_per_token,
            memory: read.memory,
            bytes_per_second: read.bytes_per_second,
            launches_per_token,
            launch_secs: card.recorded_launch_secs,
        }))
    }
}

/// Tokens before the one in the middle of the decoded ones: those of the prompt, or as many as leave room.
fn middle(workload: &SpeedWorkload, max_context: usize) -> usize {
    let (prompt, decode) = (workload.prompt as usize, workload.decode as usize);
    prompt.min(max_context.saturating_sub(decode)) + decode / 2
}

/// What the pool's threads reach.
fn of_processor(threads: u16) -> Ceilings {
    let caches = caches();
    let mut reads: Vec<ReadCeiling> = Vec::new();
    for cache in caches.iter().filter(|cache| cache.level >= NEAREST_LEVEL) {
        let capacity = cache.bytes_of(threads);
        reads.extend(read(MemoryLevel::Cache(cache.level), Some(capacity), capacity * 3 / 4));
    }
    let last = caches.last().map_or(0, |cache| cache.bytes_of(threads));
    reads.extend(read(MemoryLevel::Main, None, (last * BEYOND_CACHES).max(MIN_MAIN_BYTES)));
    Ceilings {
        reads,
        float_flops: kernels::float_flops(),
        int8_ops: kernels::int8_ops(),
        hand_over_secs: kernels::hand_over_secs(),
        threads,
        instructions: Isa::current().name().to_owned(),
        tensor_flops: None,
        tensor_int8_ops: None,
        card: None,
    }
}

fn read(memory: MemoryLevel, capacity_bytes: Option<u64>, buffer_bytes: u64) -> Option<ReadCeiling> {
    let bytes_per_second = kernels::read_bytes_per_second(usize::try_from(buffer_bytes).ok()?)?;
    Some(ReadCeiling { memory, capacity_bytes, buffer_bytes, bytes_per_second })
}

fn of_card(found: CardCeilings) -> Ceilings {
    let read = |memory, capacity_bytes| {
        move |CardRead { buffer_bytes, bytes_per_second }| ReadCeiling {
            memory,
            capacity_bytes,
            buffer_bytes,
            bytes_per_second,
        }
    };
    let cache = found.cache.map(read(MemoryLevel::Cache(2), Some(found.cache_bytes)));
    Ceilings {
        reads: cache.into_iter().chain(found.memory.map(read(MemoryLevel::Main, None))).collect(),
        float_flops: found.float_flops,
        int8_ops: Some(found.int8_ops),
        hand_over_secs: found.launch_secs,
        threads: 1,
        instructions: found.instructions,
        tensor_flops: found.tensor_flops,
        tensor_int8_ops: found.tensor_int8_ops,
        card: Some(CardDescription {
            name: found.name,
            multiprocessors: found.multiprocessors,
            recorded_launch_secs: found.recorded_launch_secs,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_the_decoded_tokens_is_within_the_context() {
        let workload = |prompt, decode| SpeedWorkload { prompt, decode, repetitions: 2 };
        assert_eq!(middle(&workload(100, 20), 256), 110);
        assert_eq!(middle(&workload(250, 20), 256), 246);
        assert_eq!(middle(&workload(1, 256), 256), 128);
    }

    #[test]
    fn what_a_card_reached_is_under_its_name() {
        let read = |buffer_bytes, bytes_per_second| Some(CardRead { buffer_bytes, bytes_per_second });
        let found = CardCeilings {
            name: "a card".to_owned(),
            instructions: "sm_90".to_owned(),
            multiprocessors: 132,
            cache_bytes: 50 << 20,
            cache: read(25 << 20, 5e12),
            memory: read(800 << 20, 3e12),
            float_flops: 6e13,
            int8_ops: 2e14,
            tensor_flops: Some(7e14),
            tensor_int8_ops: None,
            launch_secs: 3e-6,
            recorded_launch_secs: 1e-6,
        };
        let ceilings = of_card(found.clone());
        assert_eq!(ceilings.label(), "a card, 132 multiprocessors, sm_90");
        let memory = |bytes| ceilings.read_of(bytes).map(|read| read.memory);
        assert_eq!([1 << 20, 30 << 20].map(memory), [Some(MemoryLevel::Cache(2)), Some(MemoryLevel::Main)]);
        let full = of_card(CardCeilings { memory: None, ..found });
        assert_eq!(full.read_of(30 << 20), None, "what was not measured is not known");
    }
}

//! What a card reaches at most: the roofs that operations are measured against, by kernels of ours between two marks.
//!
//! Each is the best of several runs: whatever else the card did makes a run slower, never faster.

use std::rc::Rc;

use crate::cuda::CudaError;
use crate::cuda::card::{Buffer, Card, Gemm, GemmType, Launch};
use crate::device::{CardCeilings, CardRead};

/// Threads of a block, and blocks that a multiprocessor has at the same time.
const THREADS: u32 = 256;
const BLOCKS: usize = 8;
/// Runs of which the best counts, and what each takes at least: beside it the host's time to start one kernel is small.
const RUNS: usize = 8;
const LEAST_NANOS: u64 = 2_000_000;
const MOST_TURNS: u64 = 1 << 24;
/// Operations of a thread a turn: a chain's link is a multiplication and an addition, four of each of 8 bits.
const FLOATS_A_TURN: usize = 2 * 32;
const INTS_A_TURN: usize = 8 * 32;
/// The buffer that is read from memory, in multiples of the cache: as much as there is room for.
const BEYOND_CACHE: [usize; 3] = [16, 8, 4];
/// The side of a product of square matrices is a multiple of this.
const LEAST_SIDE: usize = 32;
/// Launches of a run that counts their cost.
const LAUNCHES: usize = 256;

/// Measures all of them, in some tenths of a second.
pub(super) fn measure(card: &Rc<dyn Card>) -> Result<CardCeilings, CudaError> {
    let traits = card.traits()?;
    let bench = Bench { card, blocks: (traits.multiprocessors * BLOCKS).max(1) };
    let mut memory = None;
    for factor in BEYOND_CACHE {
        memory = match memory {
            None => bench.read(traits.cache_bytes * factor)?,
            found => found,
        };
    }
    let (major, minor) = traits.capability;
    let launch = |replays| bench.launch_secs(replays);
    Ok(CardCeilings {
        name: traits.name,
        instructions: format!("sm_{major}{minor}"),
        multiprocessors: u32::try_from(traits.multiprocessors).unwrap_or(u32::MAX),
        cache_bytes: traits.cache_bytes as u64,
        cache: bench.read(traits.cache_bytes / 2)?,
        memory,
        float_flops: bench.arithmetic("multiply_adds", 0.5_f32.to_bits(), FLOATS_A_TURN)?,
        int8_ops: bench.arithmetic("dot_products", 0x0101_0101, INTS_A_TURN)?,
        tensor_flops: bench.products(GemmType::Bf16, traits.cache_bytes)?,
        tensor_int8_ops: bench.products(GemmType::Int8, traits.cache_bytes)?,
        launch_secs: launch(false)?,
        recorded_launch_secs: launch(true)?,
    })
}

struct Bench<'a> {
    card: &'a Rc<dyn Card>,
    blocks: usize,
}

impl Bench<'_> {
    /// Time of what `work` asks for.
    fn nanos(&self, work: &mut dyn FnMut() -> Result<(), CudaError>) -> Result<u64, CudaError> {
        self.card.mark(0)?;
        work()?;
        self.card.mark(1)?;
        self.card.wait()?;
        self.card.nanos_between(0, 1)
    }

    /// The shortest of several runs, in seconds.
    fn shortest(&self, work: &mut dyn FnMut() -> Result<(), CudaError>) -> Result<f64, CudaError> {
        let mut least = u64::MAX;
        for _ in 0..RUNS {
            // A clock that did not advance would make a rate without bounds.
            least = least.min(self.nanos(work)?.max(1));
        }
        Ok(least as f64 * 1e-9)
    }

    /// Amounts a second, when a launch does `a_turn` of it in each of its turns.
    fn rate(&self, a_turn: f64, launch: impl Fn(u64) -> Result<(), CudaError>) -> Result<f64, CudaError> {
        let mut turns = 1;
        while self.nanos(&mut || launch(turns))? < LEAST_NANOS && turns < MOST_TURNS {
            turns *= 2;
        }
        Ok(a_turn * turns as f64 / self.shortest(&mut || launch(turns))?)
    }

    fn launch(&self, kernel: &str, args: &[u64]) -> Result<(), CudaError> {
        self.card.launch(Launch { kernel, grid: [self.blocks, 1, 1], threads: THREADS, args })
    }

    fn n_threads(&self) -> usize {
        self.blocks * THREADS as usize
    }

    /// Bytes a second from a buffer of about `bytes`; `None` of nothing, and where there is no room for it.
    fn read(&self, bytes: usize) -> Result<Option<CardRead>, CudaError> {
        let bytes = bytes / 16 * 16;
        if bytes == 0 {
            return Ok(None);
        }
        let buffers = Buffer::zeroed(self.card, bytes)
            .and_then(|buffer| Ok((buffer, Buffer::floats(self.card, self.n_threads())?)));
        let (buffer, sums) = match buffers {
            Err(CudaError::Memory { .. }) => return Ok(None),
            other => other?,
        };
        let launch = |turns| self.launch("read_again", &[buffer.address(), sums.address(), bytes as u64 / 16, turns]);
        let bytes_per_second = self.rate(bytes as f64, launch)?;
        Ok(Some(CardRead { buffer_bytes: bytes as u64, bytes_per_second }))
    }

    /// Operations a second of a kernel over one word a thread.
    fn arithmetic(&self, kernel: &str, word: u32, a_turn: usize) -> Result<f64, CudaError> {
        let values = Buffer::of(self.card, &vec![word; self.n_threads()])?;
        self.rate((a_turn * self.n_threads()) as f64, |turns| self.launch(kernel, &[values.address(), turns]))
    }

    /// Operations a second of the library's product of two square matrices, as large as the cache has room for; `None`
    /// where it has none. Noise, since the same bits over and over cost less power and run faster.
    fn products(&self, numbers: GemmType, cache_bytes: usize) -> Result<Option<f64>, CudaError> {
        let side = (cache_bytes / 2 / numbers.bytes()).isqrt() / LEAST_SIDE * LEAST_SIDE;
        let plain = Gemm { numbers, shape: [side; 3], strides: [side; 3], ..Gemm::default() };
        if side == 0 || !self.card.has_gemm(&plain)? {
            return Ok(None);
        }
        let mut state = 1_u32;
        let noise: Vec<u8> = (0..side * side * numbers.bytes())
            .map(|place| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let byte = (state >> 24) as u8;
                // The upper byte of a bfloat16 near one, of either sign.
                if numbers == GemmType::Bf16 && place % 2 == 1 { 0x3f | byte & 0x80 } else { byte }
            })
            .collect();
        let factors = [Buffer::of(self.card, &noise)?, Buffer::of(self.card, &noise)?];
        let [weights, x] = factors.each_ref().map(Buffer::address);
        let out = Buffer::floats(self.card, side * side)?;
        let gemm = Gemm { weights, x, y: out.address(), ..plain };
        let a_turn = 2.0 * (side as f64).powi(3);
        self.rate(a_turn, |turns| (0..turns).try_for_each(|_| self.card.gemm(&gemm))).map(Some)
    }

    /// Seconds from one empty kernel to the next, as they are launched or from a recorded step.
    fn launch_secs(&self, is_recorded: bool) -> Result<f64, CudaError> {
        let mut launches = || {
            let launch = Launch { kernel: "nothing", grid: [1, 1, 1], threads: 32, args: &[0] };
            (0..LAUNCHES).try_for_each(|_| self.card.launch(launch))
        };
        let secs = if is_recorded {
            let recorded = self.card.record(&mut launches)?;
            let secs = self.shortest(&mut || self.card.replay(recorded));
            self.card.forget(recorded);
            secs
        } else {
            self.shortest(&mut launches)
        };
        Ok(secs? / LAUNCHES as f64)
    }
}

//! What the threads of the pool reach together at most: the roofs that operations are measured against.
//!
//! Each is the best of several short runs: whatever else the machine did makes a run slower, never faster.

use std::time::Instant;

use crate::kernels::floats::{Line, ONES, flops_a_turn, multiply_adds, read};
use crate::kernels::ints::dot_products;
use crate::kernels::isa::Isa;
use crate::kernels::pool::{share_out, threads};

/// Runs of which the best counts: over a tenth of a second, so that a window that is being drawn does not slow all of them.
const RUNS: usize = 32;
/// Turns of a run of arithmetic: some milliseconds.
const TURNS: u64 = 1 << 20;
/// Tasks of a run of hand-overs.
const HAND_OVERS: u32 = 1000;
/// Bytes of a run of reading: a small buffer is read again and again.
const RUN_BYTES: usize = 128 << 20;

/// Multiplications and additions of single precision a second.
pub fn float_flops() -> f64 {
    let isa = Isa::current();
    // As many sums as registers hold: which of both fits depends on the set.
    let six = best(|| multiply_adds::<6>(isa, TURNS), flops_a_turn(6) * TURNS);
    let twelve = best(|| multiply_adds::<12>(isa, TURNS), flops_a_turn(12) * TURNS);
    six.max(twelve)
}

/// Multiplications and additions of 8-bit integers a second; `None` where the set of instructions has no product of them,
/// and on ARM, where none is measured.
pub fn int8_ops() -> Option<f64> {
    let isa = Isa::current();
    let ops_a_turn = dot_products(isa, 1)?;
    let run = || {
        dot_products(isa, TURNS);
    };
    Some(best(run, ops_a_turn * TURNS))
}

/// Seconds to hand a task to the pool's threads and to hear that it is done; 0 where there is one thread.
pub fn hand_over_secs() -> f64 {
    let secs = |()| {
        let began = Instant::now();
        for _ in 0..HAND_OVERS {
            share_out(|_| {});
        }
        began.elapsed().as_secs_f64() / f64::from(HAND_OVERS)
    };
    if threads() < 2 { 0.0 } else { [(); RUNS].into_iter().map(secs).fold(f64::INFINITY, f64::min) }
}

/// Bytes a second when a buffer of so many bytes is read again and again, a part of it by each thread; `None` where there
/// is no memory for it.
pub fn read_bytes_per_second(buffer_bytes: usize) -> Option<f64> {
    let isa = Isa::current();
    let len = (buffer_bytes / size_of::<Line>()).max(1);
    let mut lines = Vec::new();
    lines.try_reserve_exact(len).ok()?;
    lines.resize(len, ONES);
    let turns = (RUN_BYTES / buffer_bytes.max(1)).max(1) as u64;
    let run = |()| {
        let began = Instant::now();
        share_out(|share| read(isa, &lines[share.of(len, 1)], turns));
        (len * size_of::<Line>()) as f64 * turns as f64 / began.elapsed().as_secs_f64()
    };
    Some([(); 2 * RUNS].into_iter().map(run).fold(0.0, f64::max))
}

/// The best rate of a run that every thread makes with `amount` each.
fn best(run: impl Fn() + Sync, amount: u64) -> f64 {
    let rate = |()| {
        let count = std::sync::atomic::AtomicUsize::new(0);
        let began = Instant::now();
        share_out(|share| {
            run();
            count.store(share.count, std::sync::atomic::Ordering::Relaxed);
        });
        amount as f64 * count.into_inner() as f64 / began.elapsed().as_secs_f64()
    };
    [(); RUNS].into_iter().map(rate).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_a_rate() {
        assert!(float_flops() > 0.0);
        assert!(hand_over_secs().is_finite());
        assert!(read_bytes_per_second(1 << 16).unwrap() > 0.0);
        assert_eq!(int8_ops().is_some(), Isa::current() >= Isa::Avx2);
        assert_eq!(read_bytes_per_second(usize::MAX / 2), None, "no machine has so much");
    }
}

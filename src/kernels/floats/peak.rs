//! The most that loops of this machine reach in single precision: multiply-adds from registers, and reading alone.

use std::hint::black_box;

#[cfg(target_arch = "aarch64")]
use super::neon;
use super::simd::{Line, Portable, Simd, Task};
#[cfg(target_arch = "x86_64")]
use super::x86;
use crate::kernels::isa::Isa;

/// Places of a buffer that are read side by side, as a product reads its panels.
const STREAMS: usize = 4;

/// A line to fill a buffer with.
pub(in crate::kernels) const ONES: Line = Line([1.0; super::LANES]);

/// Multiplications and additions of a turn of [`multiply_adds`].
pub(in crate::kernels) const fn flops_a_turn(n_sums: usize) -> u64 {
    n_sums as u64 * super::LANES as u64 * 2
}

/// Multiply-adds in `N` sums at once, so many turns of them. Narrow registers hold six sums, wide ones twelve.
pub(in crate::kernels) fn multiply_adds<const N: usize>(isa: Isa, turns: u64) {
    run(isa, MultiplyAdds::<N> { turns });
}

/// Reads all lines, so many times.
pub(in crate::kernels) fn read(isa: Isa, lines: &[Line], turns: u64) {
    run(isa, Read { lines, turns });
}

fn run(isa: Isa, task: impl Task) {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = x86::Avx512::of(isa) {
        return simd.run(task);
    } else if let Some(simd) = x86::Avx2::of(isa) {
        return simd.run(task);
    }
    #[cfg(target_arch = "aarch64")]
    if let Some(simd) = neon::Neon::of(isa) {
        return simd.run(task);
    }
    let _ = isa;
    Portable.run(task);
}

struct MultiplyAdds<const N: usize> {
    turns: u64,
}

impl<const N: usize> Task for MultiplyAdds<N> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (a, b) = (simd.splat(black_box(0.5)), simd.splat(black_box(0.25)));
        let mut sums = [simd.splat(0.0); N];
        // Sums that differ, so that no compiler makes one for all of them.
        for (number, sum) in sums.iter_mut().enumerate() {
            *sum = simd.splat(black_box(number as f32));
        }
        for _ in 0..self.turns {
            for sum in &mut sums {
                *sum = simd.multiply_add(a, *sum, b);
            }
        }
        let mut line = Line([0.0; super::LANES]);
        for sum in sums {
            simd.store(sum, &mut line.0);
            black_box(&line);
        }
    }
}

struct Read<'a> {
    lines: &'a [Line],
    turns: u64,
}

impl Task for Read<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let one = simd.splat(1.0);
        let mut sums = [simd.splat(0.0); STREAMS];
        let len = self.lines.len() / STREAMS;
        for _ in 0..self.turns {
            let lines = black_box(self.lines);
            let mut streams = [lines; STREAMS];
            for (number, stream) in streams.iter_mut().enumerate() {
                *stream = &lines[number * len..][..len];
            }
            for k in 0..len {
                for (sum, stream) in sums.iter_mut().zip(streams) {
                    *sum = simd.multiply_add(one, simd.load(&stream[k].0), *sum);
                }
            }
        }
        let mut line = Line([0.0; super::LANES]);
        for sum in sums {
            simd.store(sum, &mut line.0);
            black_box(&line);
        }
    }
}

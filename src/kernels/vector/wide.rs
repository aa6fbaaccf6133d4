//! Plain loops compiled once for each width of vector registers.

use crate::kernels::Isa;

/// Lanes that loops are written over: one AVX-512 register, two of AVX2, four of NEON.
pub(in crate::kernels) const LANES: usize = 16;

/// Runs `work` as compiled for `isa`, which is a set that this processor has ([`Isa::current`], [`Isa::available`]).
///
/// The closure has to be inlined into the wrapper to become wider: write `#[inline(always)] || …` around functions that
/// are `#[inline(always)]` down to the loops.
#[inline]
pub(in crate::kernels) fn compiled_for<T>(isa: Isa, work: impl FnOnce() -> T) -> T {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        fn avx512<T>(work: impl FnOnce() -> T) -> T {
            work()
        }
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2<T>(work: impl FnOnce() -> T) -> T {
            work()
        }
        match isa {
            // SAFETY: sets come from `Isa::current` or `Isa::available`, which ask the processor for these features.
            Isa::Avx512 | Isa::Avx512Vnni => return unsafe { avx512(work) },
            // SAFETY: as above.
            Isa::Avx2 | Isa::Avx2Vnni => return unsafe { avx2(work) },
            // What sets of ARM have beyond every processor's is for bytes.
            Isa::Portable | Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => {}
        }
    }
    let _ = isa;
    work()
}

/// a · b + c, fused where the processor has the instruction: elsewhere `mul_add` would call a function.
#[inline(always)]
pub(in crate::kernels) fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
}

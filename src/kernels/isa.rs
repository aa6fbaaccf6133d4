//! Which instructions the loops use: found once, when the first of them runs.

use std::sync::OnceLock;

/// A set of vector instructions that loops are written for, from the plainest to the widest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What the compiler may assume of every processor of the architecture.
    Portable,
    /// ARM of 64 bits: every one has these 128-bit instructions.
    Neon,
    /// The same with the 8-bit dot product: Cortex-A55 and A76, Neoverse N1, Apple A13 and M1, and later.
    NeonDotprod,
    /// The same with products of bytes with and without a sign: Neoverse V1 and N2, Apple M2, and later.
    NeonI8mm,
    /// x86-64 with AVX2, FMA, F16C and POPCNT: 2013 and later.
    Avx2,
    /// The same with the 8-bit dot product over 256 bits.
    Avx2Vnni,
    /// x86-64 with the 512-bit instructions of Skylake-X (F, BW, DQ, VL).
    Avx512,
    /// The same with the 8-bit dot product and byte expansion (VNNI, VBMI, VBMI2): Ice Lake, Zen 4 and later.
    Avx512Vnni,
}

/// Names a set to use instead of the widest one: for tests, and to see what the instructions give.
pub const ISA_VARIABLE: &str = "TRIMTAB_ISA";

impl Isa {
    /// Every set.
    pub const ALL: [Self; 8] = [
        Self::Portable,
        Self::Neon,
        Self::NeonDotprod,
        Self::NeonI8mm,
        Self::Avx2,
        Self::Avx2Vnni,
        Self::Avx512,
        Self::Avx512Vnni,
    ];

    /// The name in [`ISA_VARIABLE`] and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Neon => "neon",
            Self::NeonDotprod => "neon-dotprod",
            Self::NeonI8mm => "neon-i8mm",
            Self::Avx2 => "avx2",
            Self::Avx2Vnni => "avx2-vnni",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512-vnni",
        }
    }

    /// The set in use: the one that [`ISA_VARIABLE`] names where this processor has it, otherwise the widest.
    pub fn current() -> Self {
        static CURRENT: OnceLock<Isa> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let asked = std::env::var(ISA_VARIABLE).ok();
            let named = Self::available().find(|isa| asked.as_deref() == Some(isa.name()));
            named.or_else(|| Self::available().last()).unwrap_or(Self::Portable)
        })
    }

    /// The sets that this processor has, from the plainest to the widest.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available())
    }

    #[cfg(target_arch = "x86_64")]
    fn is_available(self) -> bool {
        let avx2 = || {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
                && is_x86_feature_detected!("popcnt")
        };
        let avx512 = || {
            avx2()
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
        };
        match self {
            Self::Portable => true,
            Self::Neon | Self::NeonDotprod | Self::NeonI8mm => false,
            Self::Avx2 => avx2(),
            Self::Avx2Vnni => avx2() && is_x86_feature_detected!("avxvnni"),
            Self::Avx512 => avx512(),
            Self::Avx512Vnni => {
                avx512()
                    && is_x86_feature_detected!("avx512vnni")
                    && is_x86_feature_detected!("avx512vbmi")
                    && is_x86_feature_detected!("avx512vbmi2")
            }
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn is_available(self) -> bool {
        let neon = || std::arch::is_aarch64_feature_detected!("neon");
        let dotprod = || neon() && std::arch::is_aarch64_feature_detected!("dotprod");
        match self {
            Self::Portable => true,
            Self::Neon => neon(),
            Self::NeonDotprod => dotprod(),
            Self::NeonI8mm => dotprod() && std::arch::is_aarch64_feature_detected!("i8mm"),
            Self::Avx2 | Self::Avx2Vnni | Self::Avx512 | Self::Avx512Vnni => false,
        }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn is_available(self) -> bool {
        self == Self::Portable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_set_is_everywhere_and_the_widest_is_used() {
        assert_eq!(Isa::available().next(), Some(Isa::Portable));
        if std::env::var_os(ISA_VARIABLE).is_none() {
            assert_eq!(Some(Isa::current()), Isa::available().last());
        }
    }
}

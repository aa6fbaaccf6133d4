//! What keeps the clocks of a GPU down, from NVML's bits.

/// A reason why clocks are below their highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClockLimit {
    /// Nothing runs.
    Idle,
    /// The clocks were set so.
    Setting,
    /// The power limit, kept by the driver.
    PowerCap,
    /// The card halved its clocks or worse: heat, power brake or too fast a draw.
    HardwareSlowdown,
    /// Another GPU of its group holds it back.
    SyncBoost,
    /// Too hot, kept by the driver.
    Thermal,
    /// Too hot, kept by the card.
    HardwareThermal,
    /// The power supply asked for less.
    PowerBrake,
    /// A reason that this version does not know.
    Unknown,
}

/// Bits of `nvmlClocksEventReasons`, with the display's among the settings.
const BITS: [(u64, ClockLimit); 9] = [
    (0x01, ClockLimit::Idle),
    (0x02, ClockLimit::Setting),
    (0x04, ClockLimit::PowerCap),
    (0x08, ClockLimit::HardwareSlowdown),
    (0x10, ClockLimit::SyncBoost),
    (0x20, ClockLimit::Thermal),
    (0x40, ClockLimit::HardwareThermal),
    (0x80, ClockLimit::PowerBrake),
    (0x100, ClockLimit::Setting),
];

impl ClockLimit {
    /// The reasons behind NVML's bits, each once, in their order.
    pub(super) fn of_bits(bits: u64) -> Vec<Self> {
        let known = BITS.iter().fold(0, |all, (bit, _)| all | bit);
        let mut limits: Vec<Self> = BITS.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, limit)| *limit).collect();
        if bits & !known != 0 {
            limits.push(Self::Unknown);
        }
        limits.sort();
        limits.dedup();
        limits
    }

    /// Whether what runs is slower than the card can keep up: a number taken then is not the card's own.
    pub const fn is_throttling(self) -> bool {
        matches!(
            self,
            Self::HardwareSlowdown | Self::SyncBoost | Self::Thermal | Self::HardwareThermal | Self::PowerBrake
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_has_its_words() {
        assert_eq!(ClockLimit::of_bits(0), []);
        assert_eq!(ClockLimit::of_bits(0x102), [ClockLimit::Setting]);
        assert_eq!(ClockLimit::of_bits(0x44), [ClockLimit::PowerCap, ClockLimit::HardwareThermal]);
        assert_eq!(ClockLimit::of_bits(1 << 40), [ClockLimit::Unknown]);
        assert_eq!(ClockLimit::of_bits(0x1ff).len(), 8);
        let throttling: Vec<u64> =
            (0..9).map(|bit| 1 << bit).filter(|bits| ClockLimit::of_bits(*bits)[0].is_throttling()).collect();
        assert_eq!(throttling, [0x08, 0x10, 0x20, 0x40, 0x80]);
    }

    #[test]
    fn the_bits_are_those_of_the_driver_library() {
        use nvml_wrapper::bitmasks::device::ThrottleReasons;
        for (bits, limit) in [
            (ThrottleReasons::SW_POWER_CAP, ClockLimit::PowerCap),
            (ThrottleReasons::HW_SLOWDOWN, ClockLimit::HardwareSlowdown),
            (ThrottleReasons::SW_THERMAL_SLOWDOWN, ClockLimit::Thermal),
            (ThrottleReasons::HW_THERMAL_SLOWDOWN, ClockLimit::HardwareThermal),
            (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, ClockLimit::PowerBrake),
            (ThrottleReasons::SYNC_BOOST, ClockLimit::SyncBoost),
            (ThrottleReasons::GPU_IDLE, ClockLimit::Idle),
        ] {
            assert_eq!(ClockLimit::of_bits(bits.bits()), [limit]);
        }
    }
}

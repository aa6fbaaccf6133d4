//! What decoding a token takes at least on a card.

use serde::{Deserialize, Serialize};

use crate::study::{Caution, MemoryLevel};

/// The measured limits of a card over the decoding of a token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DecodeLimits {
    /// Bytes that every token reads anew in the middle of the decoded ones: weights as held, earlier keys and values.
    pub bytes_per_token: u64,
    /// The nearest memory that holds them.
    pub memory: MemoryLevel,
    /// How fast it is read, measured on the card.
    pub bytes_per_second: f64,
    /// Kernels of a token's recorded step.
    pub launches_per_token: u64,
    /// From one of them to the next when they do nothing, measured on the card.
    pub launch_secs: f64,
}

/// A token that takes more than so many times its least time by bytes is not bound by them.
const FAR_FROM_BANDWIDTH: f64 = 2.0;

impl DecodeLimits {
    /// The least time of a token by the bytes that it reads, in seconds.
    pub fn bytes_secs(&self) -> f64 {
        self.bytes_per_token as f64 / self.bytes_per_second
    }

    /// The least time of a token by its launches, in seconds.
    pub fn launches_secs(&self) -> f64 {
        self.launches_per_token as f64 * self.launch_secs
    }

    /// How much of the memory's measured bandwidth a token of so many seconds reaches, 0 to 1.
    pub fn bandwidth_share(&self, token_secs: f64) -> f64 {
        self.bytes_secs() / token_secs
    }

    /// What the reader of a token's time must know: that bytes do not set it.
    pub fn caution(&self, token_secs: f64) -> Option<Caution> {
        (token_secs > FAR_FROM_BANDWIDTH * self.bytes_secs()).then(|| Caution::FarFromBandwidth {
            bandwidth_share: self.bandwidth_share(token_secs),
            launches: self.launches_per_token,
            launch_share: self.launches_secs() / token_secs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_far_from_its_bytes_is_said_to_be_so_with_the_share_of_its_launches() {
        let limits = DecodeLimits {
            bytes_per_token: 4_000_000,
            memory: MemoryLevel::Main,
            bytes_per_second: 1e12,
            launches_per_token: 100,
            launch_secs: 1.5e-6,
        };
        assert!((limits.bytes_secs() - 4e-6).abs() < 1e-12 && (limits.launches_secs() - 150e-6).abs() < 1e-12);
        assert_eq!(limits.caution(7e-6), None, "half of the bandwidth is near");
        let said = |secs| limits.caution(secs).unwrap().to_string();
        let launches = "bytes explain 2.00 % of a decoded token's time, 100 launches 75.0 %: launches, not bytes, set the \
                        speed; a smaller format will hardly be faster here";
        assert_eq!(said(200e-6), launches);
        assert!(said(400e-6).ends_with("100 launches 37.5 %: bytes do not set the speed; a profile shows what does"));
        let stored = serde_json::to_string(&limits.caution(200e-6)).unwrap();
        assert_eq!(serde_json::from_str::<Option<Caution>>(&stored).unwrap(), limits.caution(200e-6));
    }
}

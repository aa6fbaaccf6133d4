//! Inert descriptions of where a variant runs. Never a handle: devices are opened by `runtime` inside a worker.

use serde::{Deserialize, Serialize};

/// Which device a trial is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceSpec {
    /// The host's processor with this many threads.
    Cpu {
        /// Threads used by products and vector loops; at least 1.
        threads: u16,
    },
    /// A CUDA device by its ordinal.
    Cuda {
        /// Position in the driver's list.
        ordinal: u16,
    },
}

impl DeviceSpec {
    /// The CPU with one thread a core that this process may use.
    pub fn all_cores() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self::Cpu { threads: u16::try_from(cores).unwrap_or(u16::MAX) }
    }

    /// Short name for people: `CPU, 2 threads`.
    pub fn label(self) -> String {
        match self {
            Self::Cpu { threads: 1 } => "CPU, 1 thread".to_owned(),
            Self::Cpu { threads } => format!("CPU, {threads} threads"),
            Self::Cuda { ordinal } => format!("CUDA {ordinal}"),
        }
    }
}

/// What is known of a device without opening it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// The device that is described.
    pub spec: DeviceSpec,
    /// The maker's name: `AMD EPYC 9R14`.
    pub name: String,
    /// Memory that the device can use, when known.
    pub memory_bytes: Option<u64>,
    /// Why trials cannot run on it now; `None` when they can.
    pub unavailable: Option<String>,
}

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
    /// What the driver tells of a GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuDescription>,
}

impl DeviceInfo {
    /// A device of which nothing but its name is known.
    pub fn named(spec: DeviceSpec, name: impl Into<String>) -> Self {
        Self { spec, name: name.into(), memory_bytes: None, unavailable: None, gpu: None }
    }
}

/// What a driver tells of a GPU besides its name and memory. What it does not tell is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GpuDescription {
    /// Its identity, which outlives another order of the devices: `GPU-8f0e…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Version of the driver: `570.86.15`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Major and minor: (9, 0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_capability: Option<(u32, u32)>,
    /// Whether it is divided into parts (MIG); absent where it cannot be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<bool>,
}

impl GpuDescription {
    /// In words, as far as known: `compute capability 9.0, driver 570.86.15, MIG off, GPU-8f0e…`.
    pub fn label(&self) -> String {
        let capability = self.compute_capability.map(|(major, minor)| format!("compute capability {major}.{minor}"));
        let driver = self.driver.as_ref().map(|driver| format!("driver {driver}"));
        let mig = self.mig.map(|is_on| if is_on { "MIG on" } else { "MIG off" }.to_owned());
        [capability, driver, mig, self.uuid.clone()].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// What a card reaches at most, measured on it.
#[derive(Debug, Clone, PartialEq)]
pub struct CardCeilings {
    /// The maker's name.
    pub name: String,
    /// What its code is made for: `sm_90`.
    pub instructions: String,
    /// Its processors.
    pub multiprocessors: u32,
    /// Bytes of the cache that they share.
    pub cache_bytes: u64,
    /// Reading of that cache; absent where it is not known or has no room.
    pub cache: Option<CardRead>,
    /// Reading of its memory; absent where there is no room for a buffer beyond the cache.
    pub memory: Option<CardRead>,
    /// Multiplications and additions of single precision a second, outside of tensor cores.
    pub float_flops: f64,
    /// Those of 8-bit integers a second, outside of tensor cores.
    pub int8_ops: f64,
    /// Multiplications and additions of bfloat16 a second on tensor cores; absent without the library of such products.
    pub tensor_flops: Option<f64>,
    /// Those of 8-bit integers a second on tensor cores.
    pub tensor_int8_ops: Option<f64>,
    /// From one launch of an empty kernel to the next, in seconds.
    pub launch_secs: f64,
    /// The same within a recorded step.
    pub recorded_launch_secs: f64,
}

/// How fast a card reads a buffer again and again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CardRead {
    /// Bytes of the buffer.
    pub buffer_bytes: u64,
    /// Bytes a second.
    pub bytes_per_second: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_says_what_is_known() {
        assert_eq!(GpuDescription::default().label(), "");
        let known = GpuDescription {
            uuid: Some("GPU-8f0e".to_owned()),
            driver: Some("570.86.15".to_owned()),
            compute_capability: Some((9, 0)),
            mig: Some(false),
        };
        assert_eq!(known.label(), "compute capability 9.0, driver 570.86.15, MIG off, GPU-8f0e");
    }

    #[test]
    fn devices_of_older_records_have_no_description() {
        let old = r#"{"spec":{"cpu":{"threads":2}},"name":"a processor","memory_bytes":null,"unavailable":null}"#;
        let info: DeviceInfo = serde_json::from_str(old).unwrap();
        assert_eq!(info, DeviceInfo::named(DeviceSpec::Cpu { threads: 2 }, "a processor"));
        assert_eq!(serde_json::to_string(&info).unwrap(), old);
    }
}

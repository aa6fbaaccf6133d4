//! Readings of the processor and its memory.

use sysinfo::{Components, CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use crate::telemetry::HardwareSample;

/// The host's sensors.
pub(super) struct Host {
    system: Option<System>,
    components: Option<Components>,
    frequency_mhz: Option<f64>,
    temperature_celsius: Option<f64>,
}

impl Host {
    /// Opens the sensors and takes their first reading.
    pub(super) fn open() -> Self {
        let what = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::everything())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(what).ok();
        let components = Components::new().ok();
        let mut host = Self { system, components, frequency_mhz: None, temperature_celsius: None };
        host.refresh_slow();
        host
    }

    /// The processor's name.
    pub(super) fn cpu_model(&self) -> Option<String> {
        let brand = self.system.as_ref()?.cpus().first()?.brand().trim();
        (!brand.is_empty()).then(|| brand.to_owned())
    }

    /// Logical cores.
    pub(super) fn n_cores(&self) -> usize {
        self.system.as_ref().map_or(0, |system| system.cpus().len())
    }

    /// Mean clock over the cores, in MHz, as [`Self::refresh_slow`] last read it.
    pub(super) fn frequency_mhz(&self) -> Option<f64> {
        self.frequency_mhz
    }

    /// Hottest sensor of the processor, in °C, as [`Self::refresh_slow`] last read it.
    pub(super) fn temperature_celsius(&self) -> Option<f64> {
        self.temperature_celsius
    }

    /// Reads clock and temperature: files that wake cores and wait for sensors, so not at every sample.
    pub(super) fn refresh_slow(&mut self) {
        if let Some(system) = &mut self.system {
            system.refresh_cpu_frequency();
            let clocks: Vec<u64> = system.cpus().iter().map(|cpu| cpu.frequency()).filter(|mhz| *mhz > 0).collect();
            let mean = clocks.iter().sum::<u64>() as f64 / clocks.len() as f64;
            self.frequency_mhz = (!clocks.is_empty()).then_some(mean);
        }
        if let Some(components) = &mut self.components {
            components.refresh(true);
            self.temperature_celsius = components
                .iter()
                .filter(|component| is_processor(component.label()))
                .filter_map(|component| component.temperature())
                .filter(|celsius| celsius.is_finite())
                .map(f64::from)
                .reduce(f64::max);
        }
    }

    /// One reading, `at_secs` after the start.
    pub(super) fn sample(&mut self, at_secs: f64) -> HardwareSample {
        let mut sample = HardwareSample {
            at_secs,
            frequency_mhz: self.frequency_mhz,
            temperature_celsius: self.temperature_celsius,
            ..HardwareSample::default()
        };
        if let Some(system) = &mut self.system {
            system.refresh_cpu_usage();
            system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
            let usage = f64::from(system.global_cpu_usage()) / 100.0;
            sample.cpu_fraction = usage.is_finite().then(|| usage.clamp(0.0, 1.0));
            let total = Some(system.total_memory()).filter(|total| *total > 0);
            sample.memory_used_bytes = total.map(|_| system.used_memory());
            sample.memory_total_bytes = total;
        }
        sample
    }
}

/// Whether a sensor with this label is the processor's: the names of Linux's hwmon drivers and of Apple's sensors.
fn is_processor(label: &str) -> bool {
    let label = label.to_lowercase();
    ["coretemp", "k10temp", "zenpower", "package", "tctl", "tdie", "cpu", "soc"].iter().any(|name| label.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_sensors_are_told_from_others() {
        for (label, expected) in [
            ("k10temp Tctl", true),
            ("coretemp Package id 0", true),
            ("cpu_thermal temp1", true),
            ("nvme Composite", false),
            ("iwlwifi_1 temp1", false),
            ("acpitz temp1", false),
        ] {
            assert_eq!(is_processor(label), expected, "{label}");
        }
    }

    #[test]
    fn readings_are_plausible_or_absent() {
        let mut host = Host::open();
        let sample = host.sample(1.5);
        assert_eq!(sample.at_secs, 1.5);
        assert!(sample.cpu_fraction.is_none_or(|fraction| (0.0..=1.0).contains(&fraction)));
        assert!(sample.memory_used_bytes <= sample.memory_total_bytes);
        assert!(sample.memory_total_bytes.is_none_or(|bytes| bytes > 1 << 20));
        assert!(sample.frequency_mhz.is_none_or(|mhz| mhz > 0.0));
    }
}

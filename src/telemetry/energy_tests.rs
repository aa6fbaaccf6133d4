use std::cell::Cell;
use std::path::PathBuf;

use super::*;
use crate::telemetry::Refusal;
use crate::telemetry::gpu::{Described, Reading};

/// A folder like Linux's with these zones: name, microjoules, range.
fn powercap(zones: &[(&str, u64, u64)]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let root = tempfile::tempdir().unwrap();
    let paths = zones.iter().enumerate().map(|(at, (name, energy, range))| {
        let zone = root.path().join(format!("intel-rapl:{at}"));
        std::fs::create_dir(&zone).unwrap();
        std::fs::write(zone.join("name"), format!("{name}\n")).unwrap();
        std::fs::write(zone.join("max_energy_range_uj"), format!("{range}\n")).unwrap();
        let path = zone.join("energy_uj");
        std::fs::write(&path, format!("{energy}\n")).unwrap();
        path
    });
    let paths = paths.collect();
    (root, paths)
}

const RANGE: u64 = 262_143_328_850;

fn set(path: &Path, microjoules: u64) {
    std::fs::write(path, format!("{microjoules}\n")).unwrap();
}

#[test]
fn a_counter_that_falls_began_anew_or_wrapped() {
    let mut meter = Meter::default();
    assert_eq!([100, 150, 150, 20, 50].map(|reading| meter.push(reading)), [0, 50, 50, 50, 80]);
    assert!(meter.has_restarted);
    let mut meter = Meter::wrapping(1000);
    assert_eq!([990, 1000, 5, 25].map(|reading| meter.push(reading)), [0, 10, 15, 35]);
    assert!(!meter.has_restarted);
    // A reading beyond the range is not a wrap.
    let mut meter = Meter::wrapping(1000);
    assert_eq!([2000, 5].map(|reading| meter.push(reading)), [0, 0]);
    assert!(meter.has_restarted);
}

#[test]
fn packages_are_summed_and_their_parts_are_not_counted_again() {
    let zones =
        [("package-0", 5_000_000, RANGE), ("package-1", 7_000_000, RANGE), ("core", 9, RANGE), ("psys", 9, RANGE)];
    let (root, paths) = powercap(&zones);
    let mut meter = EnergyMeter::of_packages(root.path()).unwrap();
    assert_eq!((meter.source(), meter.joules()), (EnergySource::RaplPackage, Some(0.0)));
    set(&paths[0], 6_500_000);
    set(&paths[1], 7_250_000);
    set(&paths[2], 8_000_000);
    set(&paths[3], 9_000_000);
    assert_eq!(meter.joules(), Some(1.75));
}

#[test]
fn a_wrap_goes_on_and_one_that_may_have_been_two_ends_it() {
    let (root, paths) = powercap(&[("package-0", RANGE - 1_000_000, RANGE)]);
    let mut meter = EnergyMeter::of_packages(root.path()).unwrap();
    set(&paths[0], 500_000);
    assert_eq!(meter.joules(), Some(1.5));
    // 262 kJ at a kilowatt are 262 seconds.
    let read = meter.read;
    assert_eq!(meter.joules_at(read + Duration::from_secs(200)), Some(1.5));
    assert_eq!(meter.joules_at(read + Duration::from_secs(470)), None);
    assert_eq!(meter.joules_at(read + Duration::from_secs(471)), None, "it stays unknown");
}

#[test]
fn what_cannot_be_read_has_its_reason() {
    let reason = |root: &Path| EnergyMeter::of_packages(root).err().unwrap();
    let none = tempfile::tempdir().unwrap();
    assert!(reason(&none.path().join("absent")).contains("this system has no counters of energy"));
    assert!(reason(none.path()).contains("the processor tells no energy"));
    let (root, paths) = powercap(&[("package-0", 1, RANGE)]);
    set(&paths[0], 1);
    std::fs::write(&paths[0], "many\n").unwrap();
    assert!(reason(root.path()).contains("cannot be read"));
    std::fs::remove_file(&paths[0]).unwrap();
    assert!(reason(root.path()).contains("energy_uj cannot be read"));
    let denied = refusal(Path::new("/x/energy_uj"), &io::ErrorKind::PermissionDenied.into());
    assert_eq!(denied, "only root may read /x/energy_uj");
}

#[test]
fn a_reading_that_fails_midway_ends_it() {
    let (root, paths) = powercap(&[("package-0", 10, RANGE)]);
    let mut meter = EnergyMeter::of_packages(root.path()).unwrap();
    std::fs::write(&paths[0], "").unwrap();
    assert_eq!(meter.joules(), None);
    set(&paths[0], 20);
    assert_eq!(meter.joules(), None, "what was missed is not known");
}

/// A GPU with nothing but a counter.
struct Counter(Vec<Result<u64, Refusal>>, Cell<usize>);

impl GpuSource for Counter {
    fn n_devices(&self) -> Result<u32, Refusal> {
        Ok(2)
    }

    fn describe(&self, ordinal: u32) -> Described {
        let absent = || Err(Refusal::NotSupported);
        let uuid = Ok(["GPU-0", "GPU-1"][ordinal as usize].to_owned());
        Described {
            name: absent(),
            uuid,
            driver: absent(),
            compute_capability: Err(Refusal::NotSupported),
            mig: Err(Refusal::NotSupported),
        }
    }

    fn read(&self, _ordinal: u32) -> Reading {
        panic!("energy needs one counter")
    }

    fn energy_millijoules(&self, ordinal: u32) -> Result<u64, Refusal> {
        assert_eq!(ordinal, 1, "the GPU that was named");
        self.1.set(self.1.get() + 1);
        self.0[self.1.get() - 1].clone()
    }
}

#[test]
fn a_gpu_counts_until_its_counter_begins_anew() {
    let open = |readings: &[Result<u64, Refusal>]| {
        EnergyMeter::of_gpu(Box::new(Counter(readings.to_vec(), Cell::new(0))), Some("GPU-1"))
    };
    let mut meter = open(&[Ok(1_000), Ok(3_500), Ok(200), Ok(900)]).unwrap();
    assert_eq!([meter.joules(), meter.joules(), meter.joules()], [Some(2.5), None, None]);
    let mut meter = open(&[Ok(1_000), Err(Refusal::Lost), Ok(1_500)]).unwrap();
    assert_eq!([meter.joules(), meter.joules()], [None, None]);
    let refused = open(&[Err(Refusal::NotSupported)]).err().unwrap();
    assert_eq!(refused, "energy of the GPU: not available: this device has no such reading");
}

#[test]
fn a_gpu_is_known_by_its_identity_and_not_by_its_number() {
    let open = |uuid| EnergyMeter::of_gpu(Box::new(Counter(vec![Ok(1)], Cell::new(0))), uuid);
    assert!(open(Some("GPU-1")).is_ok());
    assert_eq!(open(Some("GPU-9")).err().unwrap(), "NVML knows no GPU-9");
    assert!(open(None).err().unwrap().contains("no identity"));
}

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::*;

/// Readings as they were recorded; the last one goes on.
struct Recorded {
    described: Described,
    readings: Vec<Reading>,
    next: Cell<usize>,
    /// Readings that were asked for.
    asked: Rc<Cell<usize>>,
}

impl GpuSource for Recorded {
    fn n_devices(&self) -> Result<u32, Refusal> {
        Ok(1)
    }

    fn describe(&self, _ordinal: u32) -> Described {
        self.described.clone()
    }

    fn read(&self, _ordinal: u32) -> Reading {
        self.asked.set(self.asked.get() + 1);
        let at = self.next.get();
        self.next.set((at + 1).min(self.readings.len() - 1));
        self.readings[at].clone()
    }

    fn energy_millijoules(&self, _ordinal: u32) -> Result<u64, Refusal> {
        panic!("a reading has it")
    }
}

/// A source whose library was there and whose devices are not.
struct Empty(Result<u32, Refusal>);

impl GpuSource for Empty {
    fn n_devices(&self) -> Result<u32, Refusal> {
        self.0.clone()
    }

    fn describe(&self, _ordinal: u32) -> Described {
        panic!("there is no device to describe")
    }

    fn read(&self, _ordinal: u32) -> Reading {
        panic!("there is no device to read")
    }

    fn energy_millijoules(&self, _ordinal: u32) -> Result<u64, Refusal> {
        panic!("there is no device to read")
    }
}

/// Names by number, with whether the process is ours; may change between readings.
#[derive(Default)]
struct Table(RefCell<BTreeMap<u32, (&'static str, bool)>>);

impl Processes for Table {
    fn find(&self, pid: u32) -> Option<Process> {
        let table = self.0.borrow();
        table.get(&pid).map(|(name, is_own)| Process { name: (*name).to_owned(), is_own: *is_own })
    }
}

fn described() -> Described {
    Described {
        name: Ok("NVIDIA H200".to_owned()),
        uuid: Ok("GPU-8f0e".to_owned()),
        driver: Ok("570.86.15".to_owned()),
        compute_capability: Ok((9, 0)),
        mig: Ok(false),
    }
}

fn reading() -> Reading {
    Reading {
        memory: Ok((3 << 30, 139 << 30)),
        utilization_percent: Ok(87),
        sm_clock_mhz: Ok(1980),
        memory_clock_mhz: Ok(3201),
        power_milliwatts: Ok(412_500),
        energy_millijoules: Ok(5_000_000),
        temperature_celsius: Ok(48),
        limits: Ok(0x04),
        processes: Ok(Vec::new()),
    }
}

fn refused() -> Reading {
    let no = || Refusal::NotSupported;
    Reading {
        memory: Ok((1 << 30, 16 << 30)),
        utilization_percent: Err(no()),
        sm_clock_mhz: Err(no()),
        memory_clock_mhz: Err(no()),
        power_milliwatts: Err(Refusal::NoPermission),
        energy_millijoules: Err(no()),
        temperature_celsius: Err(Refusal::Other("the provided timeout was reached".to_owned())),
        limits: Err(no()),
        processes: Err(no()),
    }
}

fn lost() -> Reading {
    Reading { memory: Err(Refusal::Lost), energy_millijoules: Err(Refusal::Lost), ..reading() }
}

fn recorded(described: Described, readings: Vec<Reading>) -> (Gpus, Rc<Cell<usize>>) {
    let asked = Rc::new(Cell::new(0));
    let source = Recorded { described, readings, next: Cell::new(0), asked: Rc::clone(&asked) };
    (Gpus::open(Box::new(source)).unwrap(), asked)
}

#[test]
fn a_reading_has_its_units() {
    let (mut gpus, _) = recorded(described(), vec![reading()]);
    let sample = gpus.read(1.5, &Table::default()).remove(0);
    let expected = GpuSample {
        at_secs: 1.5,
        utilization: Some(0.87),
        memory_used_bytes: Some(3 << 30),
        own_memory_bytes: None,
        power_watts: Some(412.5),
        energy_joules: Some(0.0),
        temperature_celsius: Some(48.0),
        sm_clock_mhz: Some(1980),
        memory_clock_mhz: Some(3201),
        limits: vec![ClockLimit::PowerCap],
        others: Vec::new(),
    };
    assert_eq!(sample, expected);
    let device = gpus.devices().remove(0);
    assert_eq!((device.name.as_str(), device.memory_total_bytes), ("NVIDIA H200", Some(139 << 30)));
    assert_eq!(device.description.label(), "compute capability 9.0, driver 570.86.15, MIG off, GPU-8f0e");
    assert!(device.refused.is_empty() && !device.is_lost);
}

#[test]
fn no_device_has_its_reason() {
    let reason = |answer| Gpus::open(Box::new(Empty(answer))).err().unwrap();
    assert_eq!(reason(Ok(0)), "the NVIDIA driver names no GPU");
    let hidden = reason(Err(Refusal::NoPermission));
    assert_eq!(hidden, "NVML gives no readings: not available: this user may not read it");
}

#[test]
fn refused_readings_are_absent_with_their_reason_each_once() {
    let (mut gpus, _) = recorded(described(), vec![refused(), refused(), reading()]);
    let expected = [
        (GpuReading::Utilization, Refusal::NotSupported),
        (GpuReading::SmClock, Refusal::NotSupported),
        (GpuReading::MemoryClock, Refusal::NotSupported),
        (GpuReading::Power, Refusal::NoPermission),
        (GpuReading::Energy, Refusal::NotSupported),
        (GpuReading::Temperature, Refusal::Other("the provided timeout was reached".to_owned())),
        (GpuReading::Limits, Refusal::NotSupported),
        (GpuReading::Processes, Refusal::NotSupported),
    ];
    for at_secs in [0.0, 0.1] {
        let sample = gpus.read(at_secs, &Table::default()).remove(0);
        assert_eq!(sample, GpuSample { at_secs, memory_used_bytes: Some(1 << 30), ..GpuSample::default() });
        assert_eq!(gpus.devices()[0].refused, BTreeMap::from(expected.clone()));
    }
    gpus.read(0.2, &Table::default());
    assert!(gpus.devices()[0].refused.is_empty(), "a timeout passes");
}

#[test]
fn a_divided_card_says_that_it_is_divided() {
    let mut divided = reading();
    divided.utilization_percent = Err(Refusal::NotSupported);
    divided.power_milliwatts = Err(Refusal::NoPermission);
    let (mut gpus, _) = recorded(Described { mig: Ok(true), ..described() }, vec![divided]);
    let sample = gpus.read(0.0, &Table::default()).remove(0);
    assert_eq!((sample.utilization, sample.power_watts), (None, None));
    let device = gpus.devices().remove(0);
    assert_eq!(device.refused[&GpuReading::Utilization].to_string(), "not available: MIG");
    assert_eq!(device.refused[&GpuReading::Power], Refusal::NoPermission);
    assert!(device.description.label().contains("MIG on"));
}

#[test]
fn a_device_lost_midway_keeps_nothing_and_is_not_asked_again() {
    let (mut gpus, asked) = recorded(described(), vec![reading(), lost(), reading()]);
    let table = Table::default();
    assert_eq!(gpus.read(0.0, &table)[0].power_watts, Some(412.5));
    assert_eq!(gpus.read(0.1, &table)[0], GpuSample { at_secs: 0.1, ..GpuSample::default() });
    assert!(gpus.devices()[0].is_lost);
    assert_eq!(gpus.devices()[0].memory_total_bytes, Some(139 << 30), "what it was stays known");
    assert_eq!(gpus.read(0.2, &table)[0], GpuSample { at_secs: 0.2, ..GpuSample::default() });
    assert_eq!(asked.get(), 2);
}

#[test]
fn a_device_lost_from_the_start_keeps_its_place() {
    let gone = || Err(Refusal::Lost);
    let described = Described { name: gone(), uuid: gone(), driver: Ok("570".to_owned()), ..described() };
    let (mut gpus, asked) = recorded(described, vec![reading()]);
    assert_eq!(gpus.read(0.0, &Table::default()), [GpuSample::default()]);
    assert_eq!((gpus.devices()[0].name.as_str(), gpus.devices()[0].is_lost, asked.get()), ("GPU 0", true, 0));
}

#[test]
fn energy_grows_whatever_the_counter_does() {
    let at = |energy_millijoules| Reading { energy_millijoules, ..reading() };
    let counters = [Ok(900_000), Ok(904_500), Ok(2_000), Err(Refusal::NotSupported), Ok(3_500)];
    let (mut gpus, _) = recorded(described(), counters.map(at).to_vec());
    let energy: Vec<Option<f64>> = (0..5).map(|_| gpus.read(0.0, &Table::default())[0].energy_joules).collect();
    assert_eq!(energy, [Some(0.0), Some(4.5), Some(4.5), None, Some(6.0)]);
}

#[test]
fn a_process_is_ours_by_what_its_number_means_now() {
    let listed = Ok(vec![(70, Some(2 << 30)), (71, Some(1 << 20)), (90, None), (4000, Some(5))]);
    let (mut gpus, _) = recorded(described(), vec![Reading { processes: listed, ..reading() }]);
    let table = Table::default();
    table.0.borrow_mut().extend([(70, ("trimtab", true)), (71, ("trimtab", true)), (90, ("video", false))]);
    let sample = gpus.read(0.0, &table).remove(0);
    assert_eq!(sample.own_memory_bytes, Some((2 << 30) + (1 << 20)));
    let other = |pid, name: Option<&str>, memory_bytes| GpuProcess { pid, name: name.map(str::to_owned), memory_bytes };
    assert_eq!(sample.others, [other(90, Some("video"), None), other(4000, None, Some(5))]);

    // The worker has ended, and its number is another's: its memory is not ours.
    table.0.borrow_mut().insert(70, ("compiler", false));
    let sample = gpus.read(0.1, &table).remove(0);
    assert_eq!(sample.own_memory_bytes, Some(1 << 20));
    assert_eq!(sample.others[0], other(70, Some("compiler"), Some(2 << 30)));
}

#[test]
fn memory_of_a_process_that_the_driver_does_not_tell_is_absent() {
    let listed = Ok(vec![(70, None)]);
    let (mut gpus, _) = recorded(described(), vec![Reading { processes: listed, ..reading() }]);
    let table = Table::default();
    table.0.borrow_mut().insert(70, ("trimtab", true));
    let sample = gpus.read(0.0, &table).remove(0);
    assert_eq!((sample.own_memory_bytes, sample.others), (None, Vec::new()));
}

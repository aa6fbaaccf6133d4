//! The card of the driver over the driver's twin, in this process: what is asked of the driver, and what is left when it
//! refuses.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::*;
use crate::cuda::card::{Buffer, Card, HostMemory, Launch};
use crate::cuda::driver_card::DriverCard;
use crate::nn::toy::Toy;

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// Resolve all names at once.
const NOW: c_int = 2;

type Script = unsafe extern "C" fn(*const c_char);
type Holds = unsafe extern "C" fn(c_int, *mut usize, *mut usize);

/// The twin's own functions, with the right to use it.
struct Twin {
    script: Script,
    holds: Holds,
    _turn: MutexGuard<'static, ()>,
}

impl Twin {
    /// Loads it before anyone looks for the driver, which is then found by the library's own name.
    fn new() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        static FUNCTIONS: OnceLock<(Script, Holds)> = OnceLock::new();
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let (script, holds) = *FUNCTIONS.get_or_init(|| {
            let path = CString::new(concat!(env!("TRIMTAB_DRIVER_TWIN"), "/libcuda.so.1")).unwrap();
            // SAFETY: a library of ours, which starts nothing.
            let library = unsafe { dlopen(path.as_ptr(), NOW) };
            assert!(!library.is_null(), "the build made the twin");
            let find = |name: &CStr| {
                // SAFETY: the library is never closed.
                let found = unsafe { dlsym(library, name.as_ptr()) };
                assert!(!found.is_null(), "{name:?}");
                found
            };
            // SAFETY: the functions have these parameters.
            unsafe {
                let script = std::mem::transmute::<*mut c_void, Script>(find(c"trimtab_twin_script"));
                (script, std::mem::transmute::<*mut c_void, Holds>(find(c"trimtab_twin_holds")))
            }
        });
        Self { script, holds, _turn: turn }
    }

    /// Begins as a new process would, with this script.
    fn begin(&self, script: &str) {
        let script = CString::new(script).unwrap();
        // SAFETY: a text that ends with a zero; it is copied.
        unsafe { (self.script)(script.as_ptr()) };
    }

    /// Bytes that are allocated, and streams, modules and graphs that were not destroyed.
    fn holds(&self) -> (usize, usize) {
        let (mut bytes, mut things) = (0, 0);
        // SAFETY: the function writes one number to each place.
        unsafe { (self.holds)(0, &raw mut bytes, &raw mut things) };
        (bytes, things)
    }
}

/// Small, for it is run over and over.
fn toy() -> Toy {
    Toy::new(|config| {
        (config.n_blocks, config.hidden_size, config.intermediate_size) = (1, 32, 32);
        (config.n_heads, config.n_kv_heads) = (2, 1);
    })
}

/// What a device makes of a prompt, two recorded steps and a window.
fn numbers(device: &Device) -> Result<Vec<u64>, CudaError> {
    let (host, mut other) = (toy(), toy());
    other.weights.values_mut().flatten().for_each(|weight| *weight *= 1.05);
    let (model, variant) = (device.model(&host.model())?, device.model(&other.model())?);
    let mut text = Text::new(&model, 16)?;
    text.prefill(&[3, 1, 4, 1, 5])?;
    let mut numbers = Vec::new();
    for temperature in [0.0, 0.5] {
        numbers.push(u64::from(text.step(Some(9), temperature)?.unwrap()));
        numbers.extend(text.logits()?.iter().map(|logit| u64::from(logit.to_bits())));
    }
    let mut other = Text::new(&variant, 16)?;
    let scored = score(&mut text, Some(&mut other), &[2, 7, 1, 8, 2, 8])?;
    numbers.extend(scored.iter().flat_map(|at| [at.nll.to_bits(), at.kl.to_bits()]));
    Ok(numbers)
}

#[test]
fn the_driver_s_card_gives_the_emulated_card_s_bits_and_gives_everything_back() {
    let twin = Twin::new();
    twin.begin("");
    let expected = numbers(&Device::emulated()).unwrap();
    let device = Device::open(0).unwrap();
    assert!(matches!(Device::open(1), Err(CudaError::Refused(_))), "there is one card");
    let empty = twin.holds();
    for _ in 0..3 {
        assert!(numbers(&device).unwrap() == expected, "the same bits");
        assert_eq!(twin.holds(), empty, "texts, models and recorded steps are given back");
        assert_eq!(device.allocated_bytes().0, 0);
    }
    assert!(device.allocated_bytes().1 > 0);
    device.forget_peak();
    assert_eq!(device.allocated_bytes(), (0, 0));
    drop(device);
    assert_eq!(twin.holds(), (0, 0));
}

#[test]
fn whatever_is_refused_everything_else_is_given_back_and_the_next_gives_the_same_bits() {
    let twin = Twin::new();
    twin.begin("");
    let expected = numbers(&Device::emulated()).unwrap();
    // The Nth of each in turn, until there is none.
    for (site, code, stride) in [("allocate", 2, 1), ("load", 2, 1), ("launch", 700, 5), ("copy", 719, 3)] {
        let mut n_failed = 0;
        for number in (1..).step_by(stride) {
            twin.begin(&format!("fault={site}:{number}:{code}"));
            let outcome = Device::open(0).and_then(|device| {
                let outcome = numbers(&device);
                if code == 2 && outcome.is_err() {
                    assert_eq!(device.allocated_bytes().0, 0, "{site} {number}");
                    if number % 8 == 0 {
                        assert!(numbers(&device).unwrap() == expected, "{site} {number}: the same card goes on");
                    }
                }
                outcome
            });
            match outcome {
                Ok(found) => {
                    assert!(found == expected, "{site} {number}");
                    break;
                }
                Err(CudaError::Memory { bytes }) => assert!(code == 2 && bytes.is_some() == (site == "allocate")),
                Err(CudaError::Fault(_)) => assert!(code != 2, "{site} {number}"),
                Err(error) => panic!("{site} {number}: {error}"),
            }
            n_failed += 1;
            assert_eq!(twin.holds(), (0, 0), "{site} {number}");
        }
        assert!(n_failed > 0, "{site}");
    }
}

#[test]
fn the_driver_s_rules_are_kept_by_the_twin() {
    let twin = Twin::new();
    twin.begin("");
    let card: Rc<dyn Card> = Rc::new(DriverCard::open(0).unwrap());
    let refused = |launch: Launch<'_>| card.launch(launch).unwrap_err().to_string();
    let args = [0; 12];
    let launch = Launch { kernel: "gate", grid: [1, 1, 1], threads: 32, args: &args };
    assert!(refused(Launch { kernel: "absent", ..launch }).contains("not found (error 500)"));
    for grid in [[0, 1, 1], [1 << 31, 1, 1], [1 << 40, 1, 1], [1, 1 << 16, 1]] {
        assert!(refused(Launch { grid, ..launch }).contains("invalid value (error 1)"), "{grid:?}");
    }
    // What cannot be recorded ends the recording; the card goes on.
    let buffer = Buffer::of(&card, &[1_u32, 2]).unwrap();
    let allocate = || card.allocate(16).map(drop);
    let recorded = card.record(&mut || if card.wait().is_err() { Ok(()) } else { allocate() });
    assert!(recorded.unwrap_err().to_string().contains("stream capture"));
    let mut read = [0_u32; 2];
    buffer.read(&mut read).unwrap();
    assert_eq!(read, [1, 2]);
    // A mark is not reached before somebody waited, and no capture has one.
    card.mark(0).unwrap();
    card.launch(Launch { kernel: "nothing", args: &[0], ..launch }).unwrap();
    card.mark(1).unwrap();
    assert!(card.nanos_between(0, 1).unwrap_err().to_string().contains("not ready (error 600)"));
    card.wait().unwrap();
    assert!(card.nanos_between(0, 1).unwrap() < 1_000_000_000);
    assert!(card.record(&mut || card.mark(0)).unwrap_err().to_string().contains("stream capture"));
    // An address outside of every buffer stops the kernel, is told later, and stays.
    card.launch(Launch { args: &[64, 64, 8, 0], ..launch }).unwrap();
    let told = card.wait().unwrap_err().to_string();
    assert!(told.contains("illegal address"), "{told}");
    assert!(card.allocate(16).unwrap_err().to_string().contains("illegal address"));
    drop((buffer, card));
    assert_eq!(twin.holds(), (0, 0));
}

#[test]
fn ceilings_take_the_room_that_is_there() {
    let twin = Twin::new();
    for (memory, buffer_bytes) in [(1 << 20, Some(128 << 10)), (80 << 10, Some(64 << 10)), (20 << 10, None)] {
        twin.begin(&format!("memory={memory}"));
        let device = Device::open(0).unwrap();
        let found = device.ceilings().unwrap();
        assert_eq!(found.memory.map(|read| read.buffer_bytes), buffer_bytes);
        assert_eq!(found.cache.map(|read| read.buffer_bytes), Some(4 << 10));
        assert_eq!((found.name.as_str(), found.multiprocessors), ("emulated card 0 (processor)", 1));
        assert_eq!(device.allocated_bytes().0, 0);
        drop(device);
        assert_eq!(twin.holds(), (0, 0), "events too");
    }
}

#[test]
fn a_fault_while_ceilings_are_measured_or_a_pass_is_marked_leaves_nothing() {
    let twin = Twin::new();
    // Reading, arithmetic and launches, recorded ones too: each run has hundreds.
    for number in [1, 20, 200, 2000, 4000] {
        twin.begin(&format!("fault=launch:{number}:700"));
        let device = Device::open(0).unwrap();
        assert!(matches!(device.ceilings(), Err(CudaError::Fault(_))), "{number}");
        drop(device);
        assert_eq!(twin.holds(), (0, 0), "{number}");
    }
    for number in [1, 9] {
        twin.begin(&format!("fault=launch:{number}:700"));
        let device = Device::open(0).unwrap();
        let model = device.model(&toy().model()).unwrap();
        let mut text = Text::new(&model, 16).unwrap();
        assert!(matches!(text.run_marked(&[3, 1, 4]), Err(CudaError::Fault(_))), "{number}");
        drop((text, model, device));
        assert_eq!(twin.holds(), (0, 0), "{number}");
    }
}

#[test]
fn bytes_go_through_pinned_memory_and_it_is_given_back() {
    let twin = Twin::new();
    twin.begin("");
    let card: Rc<dyn Card> = Rc::new(DriverCard::open(0).unwrap());
    let buffer = Buffer::zeroed(&card, 100_000).unwrap();
    let (_, things) = twin.holds();
    let mut memory = [HostMemory::new(&card, 90_000), HostMemory::new(&card, 48)];
    assert_eq!(twin.holds().1, things + 2, "the driver's own");
    assert!(memory.iter_mut().all(|memory| memory.bytes().iter().all(|byte| *byte == 0)));
    for (value, memory) in (1..).zip(&mut memory) {
        memory.bytes().fill(value);
    }
    let [long, short] = &mut memory;
    buffer.write_at(0, long.bytes()).unwrap();
    buffer.write_at(99_952, short.bytes()).unwrap();
    // The second copy is not waited for.
    drop(memory);
    assert_eq!(twin.holds().1, things);
    let mut found = vec![9_u8; 100_000];
    buffer.read(&mut found).unwrap();
    assert!(found[..90_000].iter().all(|byte| *byte == 1) && found[90_000..99_952].iter().all(|byte| *byte == 0));
    assert!(found[99_952..].iter().all(|byte| *byte == 2));
    drop((buffer, card));
    assert_eq!(twin.holds(), (0, 0));
}

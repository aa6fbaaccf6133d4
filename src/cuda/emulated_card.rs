//! The kernels on the processor, for tests. Memory has a margin that no kernel may touch; recorded steps are replayed
//! from their arguments alone, as a card does.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::time::Instant;

use crate::cuda::CudaError;
use crate::cuda::card::{Card, Launch, Recorded, Traits};

/// Words of 16 bytes behind each allocation.
const MARGIN: usize = 4;
const UNTOUCHED: u128 = 0x5a5a_5a5a_5a5a_5a5a_5a5a_5a5a_5a5a_5a5a;

unsafe extern "C" {
    fn trimtab_emulate(
        name: *const c_char,
        grid: *const u32,
        threads: u32,
        args: *const u64,
        n_args: u32,
        order: i32,
    ) -> i32;
}

/// One launch as it was recorded: name, grid, threads, arguments.
type Step = (CString, [u32; 3], u32, Vec<u64>);

/// The processor in the place of a card.
#[derive(Debug, Default)]
pub(super) struct EmulatedCard {
    memory: RefCell<BTreeMap<u64, Vec<u128>>>,
    graphs: RefCell<BTreeMap<usize, Vec<Step>>>,
    recording: RefCell<Option<Vec<Step>>>,
    /// Which launch this is: every other one goes through the threads of a block backwards.
    launched: Cell<u32>,
    allocated: Cell<(u64, u64)>,
    launches: Cell<u64>,
    /// When each mark was reached; a card knows only after somebody waited.
    marks: RefCell<BTreeMap<usize, Instant>>,
    is_waited: Cell<bool>,
}

impl EmulatedCard {
    /// The address in the host's memory of `bytes` at `address`, all inside of one allocation.
    fn host(&self, address: u64, bytes: usize) -> *mut u8 {
        let mut memory = self.memory.borrow_mut();
        let (start, words) = memory.range_mut(..=address).next_back().expect("memory of the card");
        let offset = (address - start) as usize;
        assert!(offset + bytes <= (words.len() - MARGIN) * 16, "inside of one allocation");
        words.as_mut_ptr().cast::<u8>().wrapping_add(offset)
    }

    fn run(&self, (name, grid, threads, args): &Step) {
        let order = i32::from(self.launched.replace(self.launched.get() + 1) % 2 == 1);
        // SAFETY: addresses in the arguments are those of `allocate`, whose words nobody else borrows meanwhile.
        let code =
            unsafe { trimtab_emulate(name.as_ptr(), grid.as_ptr(), *threads, args.as_ptr(), args.len() as u32, order) };
        assert_eq!(code, 0, "{name:?} with {} arguments", args.len());
    }
}

impl Card for EmulatedCard {
    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        let mut words = vec![0_u128; bytes.div_ceil(16)];
        words.extend([UNTOUCHED; MARGIN]);
        let address = words.as_ptr().addr() as u64;
        self.memory.borrow_mut().insert(address, words);
        let (now, most) = self.allocated.get();
        let now = now + bytes as u64;
        self.allocated.set((now, most.max(now)));
        Ok(address)
    }

    fn free(&self, address: u64, bytes: usize) {
        let words = self.memory.borrow_mut().remove(&address).expect("memory of the card");
        assert!(words[words.len() - MARGIN..] == [UNTOUCHED; MARGIN], "a kernel wrote behind its buffer");
        let (now, most) = self.allocated.get();
        self.allocated.set((now - bytes as u64, most));
    }

    fn upload(&self, address: u64, bytes: &[u8]) -> Result<(), CudaError> {
        assert!(self.recording.borrow().is_none(), "an upload cannot be recorded");
        // SAFETY: `host` lends as many bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.host(address, bytes.len()), bytes.len()) };
        Ok(())
    }

    fn download(&self, address: u64, bytes: &mut [u8]) -> Result<(), CudaError> {
        assert!(self.recording.borrow().is_none(), "a download cannot be recorded");
        self.is_waited.set(true);
        // SAFETY: `host` lends as many bytes.
        unsafe { std::ptr::copy_nonoverlapping(self.host(address, bytes.len()), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn launch(&self, launch: Launch<'_>) -> Result<(), CudaError> {
        let grid = launch.grid.map(|size| size as u32);
        assert!(grid.iter().all(|size| *size > 0), "a grid of nothing: {launch:?}");
        self.launches.set(self.launches.get() + 1);
        let step = (CString::new(launch.kernel).unwrap(), grid, launch.threads, launch.args.to_vec());
        match &mut *self.recording.borrow_mut() {
            Some(steps) => steps.push(step),
            None => self.run(&step),
        }
        Ok(())
    }

    fn record(&self, steps: &mut dyn FnMut() -> Result<(), CudaError>) -> Result<Recorded, CudaError> {
        *self.recording.borrow_mut() = Some(Vec::new());
        steps()?;
        let recorded = self.recording.take().unwrap();
        let mut graphs = self.graphs.borrow_mut();
        let number = graphs.last_key_value().map_or(0, |(last, _)| last + 1);
        graphs.insert(number, recorded);
        Ok(Recorded(number))
    }

    fn replay(&self, recorded: Recorded) -> Result<(), CudaError> {
        self.graphs.borrow()[&recorded.0].iter().for_each(|step| self.run(step));
        Ok(())
    }

    fn forget(&self, recorded: Recorded) {
        assert!(self.graphs.borrow_mut().remove(&recorded.0).is_some(), "a step that was recorded");
    }

    fn wait(&self) -> Result<(), CudaError> {
        self.is_waited.set(true);
        Ok(())
    }

    fn mark(&self, number: usize) -> Result<(), CudaError> {
        assert!(self.recording.borrow().is_none(), "a mark cannot be recorded");
        self.marks.borrow_mut().insert(number, Instant::now());
        self.is_waited.set(false);
        Ok(())
    }

    fn nanos_between(&self, from: usize, to: usize) -> Result<u64, CudaError> {
        assert!(self.is_waited.get(), "a mark that may not be reached yet");
        let marks = self.marks.borrow();
        Ok((marks[&to] - marks[&from]).as_nanos() as u64)
    }

    fn launches(&self) -> u64 {
        self.launches.get()
    }

    fn traits(&self) -> Result<Traits, CudaError> {
        // A small cache: many times its bytes are read.
        Ok(Traits { name: "emulated".to_owned(), capability: (9, 0), multiprocessors: 1, cache_bytes: 8 << 10 })
    }

    fn allocated_bytes(&self) -> (u64, u64) {
        self.allocated.get()
    }

    fn forget_peak(&self) {
        let (now, _) = self.allocated.get();
        self.allocated.set((now, now));
    }
}

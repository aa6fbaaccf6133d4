//! The kernels on the processor, for tests. Memory has a margin that no kernel may touch; recorded steps are replayed
//! from their arguments alone, as a card does.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::path::Path;
use std::time::Instant;

use crate::cuda::CudaError;
use crate::cuda::card::{Card, Gemm, GemmType, Launch, Recorded, Traits};
use crate::cuda::cublaslt::{self, CublasLt};

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

/// An allocation: its words, of which so many are before a multiple of 256 bytes.
#[derive(Debug)]
struct Memory {
    words: Vec<u128>,
    skipped: usize,
    len: usize,
}

/// One launch as it was recorded: name, grid, threads, arguments.
type Step = (CString, [u32; 3], u32, Vec<u64>);

/// The processor in the place of a card.
#[derive(Debug, Default)]
pub(super) struct EmulatedCard {
    memory: RefCell<BTreeMap<u64, Memory>>,
    graphs: RefCell<BTreeMap<usize, Vec<Step>>>,
    recording: RefCell<Option<Vec<Step>>>,
    /// Which launch this is: every other one goes through the threads of a block backwards.
    launched: Cell<u32>,
    allocated: Cell<(u64, u64)>,
    launches: Cell<u64>,
    /// When each mark was reached; a card knows only after somebody waited.
    marks: RefCell<BTreeMap<usize, Instant>>,
    is_waited: Cell<bool>,
    library: Library,
    /// The most bytes that may be allocated; all where nobody said.
    limit: Cell<Option<u64>>,
}

/// What multiplies many rows.
#[derive(Debug, Default)]
enum Library {
    /// Plain loops.
    #[default]
    Plain,
    /// The twin of cuBLASLt through our own half of it.
    Twin(CublasLt),
    Missing,
}

impl EmulatedCard {
    /// A card without cuBLASLt.
    pub(super) fn without_library() -> Self {
        Self { library: Library::Missing, ..Self::default() }
    }

    /// A card whose products of many rows are those of the twin of cuBLASLt.
    pub(super) fn with_twin() -> Self {
        let twins = Path::new(env!("TRIMTAB_CUBLASLT_TWIN"));
        assert!(cublaslt::load_from(twins), "the build script made a twin");
        let mut card = Self::default();
        let [workspace, constants] = [cublaslt::WORKSPACE_BYTES, 8].map(|bytes| card.allocate(bytes).unwrap());
        card.upload(constants, bytemuck::bytes_of(&[0.0_f32, 1.0])).unwrap();
        card.library = Library::Twin(CublasLt::open(workspace, constants).unwrap());
        // As if the library had been there before.
        card.allocated.set((0, 0));
        card
    }

    /// Has no more memory than so many bytes from now on.
    pub(super) fn hold_at_most(&self, bytes: u64) {
        self.limit.set(Some(bytes));
    }

    /// The address in the host's memory of `bytes` at `address`, all inside of one allocation.
    fn host(&self, address: u64, bytes: usize) -> *mut u8 {
        let mut memory = self.memory.borrow_mut();
        let (start, Memory { words, skipped, len }) =
            memory.range_mut(..=address).next_back().expect("memory of the card");
        let offset = (address - start) as usize;
        assert!(offset + bytes <= *len * 16, "inside of one allocation");
        words.as_mut_ptr().cast::<u8>().wrapping_add(*skipped * 16 + offset)
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
        if self.limit.get().is_some_and(|limit| self.allocated.get().0 + bytes as u64 > limit) {
            return Err(CudaError::Memory { bytes: Some(bytes as u64) });
        }
        let len = bytes.div_ceil(16);
        let mut words = vec![0_u128; len + MARGIN + 15];
        let begin = words.as_ptr().addr();
        let skipped = (begin.next_multiple_of(256) - begin) / 16;
        words[skipped + len..].fill(UNTOUCHED);
        let address = (begin + skipped * 16) as u64;
        self.memory.borrow_mut().insert(address, Memory { words, skipped, len });
        let (now, most) = self.allocated.get();
        let now = now + bytes as u64;
        self.allocated.set((now, most.max(now)));
        Ok(address)
    }

    fn free(&self, address: u64, bytes: usize) {
        let Memory { words, skipped, len } = self.memory.borrow_mut().remove(&address).expect("memory of the card");
        let is_untouched = words[skipped + len..].iter().all(|word| *word == UNTOUCHED);
        assert!(is_untouched, "a kernel wrote behind its buffer");
        let (now, most) = self.allocated.get();
        self.allocated.set((now - bytes as u64, most));
    }

    fn pin(&self, _bytes: usize) -> Option<*mut u8> {
        None
    }

    fn unpin(&self, _address: *mut u8) {}

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

    fn has_gemm(&self, gemm: &Gemm) -> Result<bool, CudaError> {
        match &self.library {
            Library::Plain => Ok(is_legal(gemm)),
            Library::Twin(library) => library.has(gemm),
            Library::Missing => Ok(false),
        }
    }

    fn gemm(&self, gemm: &Gemm) -> Result<(), CudaError> {
        assert!(is_legal(gemm), "{gemm:?}");
        assert!(self.recording.borrow().is_none(), "a product of the library is not recorded");
        let ([rows, outputs, inputs], [w_stride, x_stride, y_stride]) = (gemm.shape, gemm.strides);
        let x_aligned = if gemm.numbers == GemmType::F32 { 4 } else { 16 };
        assert!(gemm.weights.is_multiple_of(16) && gemm.x.is_multiple_of(x_aligned) && gemm.y.is_multiple_of(16));
        let read = |address, rows: usize, stride: usize, width: usize, bytes: usize| {
            let mut all = vec![0; ((rows - 1) * stride + width) * bytes];
            self.download(address, &mut all).map(|()| all)
        };
        let weights = read(gemm.weights, outputs, w_stride, inputs, gemm.numbers.bytes())?;
        let x = read(gemm.x, rows, x_stride, inputs, gemm.numbers.bytes())?;
        let mut y = read(gemm.y, rows, y_stride, outputs, 4)?;
        if let Library::Twin(library) = &self.library {
            return library.multiply(gemm, std::ptr::null_mut());
        }
        let alpha = if gemm.alpha == 0 { 1.0 } else { numbers(GemmType::F32, &read(gemm.alpha, 1, 1, 1, 4)?)[0] };
        let [weights, x] = [&weights, &x].map(|bytes| numbers(gemm.numbers, bytes));
        for (x, y) in x.chunks(x_stride).zip(y.chunks_mut(y_stride * 4)) {
            for (weights, y) in weights.chunks(w_stride).zip(y.as_chunks_mut().0) {
                let terms = || x[..inputs].iter().zip(&weights[..inputs]);
                *y = if gemm.numbers == GemmType::Int8 {
                    // Each is a whole number in f32.
                    terms().map(|(x, w)| *x as i32 * *w as i32).sum::<i32>().to_le_bytes()
                } else {
                    let before = if gemm.adds { f32::from_le_bytes(*y) } else { 0.0 };
                    let sum = terms().fold(0.0_f32, |sum, (x, w)| sum + w * x);
                    (alpha * sum + before).to_le_bytes()
                };
            }
        }
        self.upload(gemm.y, &y)
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

/// What the library's documents ask of types, widths and rows.
fn is_legal(gemm: &Gemm) -> bool {
    let ([rows, outputs, inputs], [w_stride, x_stride, y_stride]) = (gemm.shape, gemm.strides);
    let bytes = gemm.numbers.bytes();
    let has_room = w_stride >= inputs && x_stride >= inputs && y_stride >= outputs;
    let is_aligned = (w_stride * bytes).is_multiple_of(16)
        && (gemm.numbers == GemmType::F32 || (x_stride * bytes).is_multiple_of(16));
    let is_integer = gemm.numbers == GemmType::Int8;
    let is_legal_integer =
        rows > 16 && [outputs, inputs, y_stride].iter().all(|size| size.is_multiple_of(4)) && !gemm.adds;
    let has_alpha = gemm.alpha == 0 || gemm.numbers == GemmType::F16;
    rows * outputs * inputs > 0 && has_room && is_aligned && has_alpha && (!is_integer || is_legal_integer)
}

fn numbers(kind: GemmType, bytes: &[u8]) -> Vec<f32> {
    match kind {
        GemmType::F32 => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        GemmType::F16 => bytes.as_chunks().0.iter().map(|bytes| half::f16::from_le_bytes(*bytes).to_f32()).collect(),
        GemmType::Bf16 => bytes.as_chunks().0.iter().map(|bytes| half::bf16::from_le_bytes(*bytes).to_f32()).collect(),
        GemmType::Int8 => bytes.iter().map(|byte| f32::from(byte.cast_signed())).collect(),
    }
}

//! A card through the driver: one context, one stream, our kernels.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{CString, c_void};

use cudarc::driver::result;
use cudarc::driver::sys::{
    CUdevice, CUevent, CUevent_flags, CUfunction, CUgraph, CUgraphExec, CUgraphInstantiate_flags, CUmodule, CUstream,
    CUstreamCaptureMode,
};

use crate::cuda::CudaError;
use crate::cuda::card::{Card, Gemm, Launch, Recorded, Traits};
use crate::cuda::cublaslt::{self, CublasLt};
use crate::cuda::driver;

/// The kernels for every card that has code, compiled by the build script.
static KERNELS: Aligned<[u8; include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin")).len()]> =
    Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin")));

/// The driver reads words from the image.
#[repr(C, align(64))]
struct Aligned<T>(T);

/// An upload of more bytes is waited for; of fewer, a copy is kept until somebody waits.
const SMALL: usize = 64 << 10;
/// Copies that are kept at most.
const MOST_KEPT: usize = 64;

/// An open card. Stays on the thread that opened it.
#[derive(Debug)]
pub(super) struct DriverCard {
    module: CUmodule,
    stream: CUstream,
    functions: RefCell<BTreeMap<String, CUfunction>>,
    graphs: RefCell<BTreeMap<usize, CUgraphExec>>,
    /// Events by their numbers, kept for the next profile.
    marks: RefCell<Vec<CUevent>>,
    launches: Cell<u64>,
    /// Launches only look their kernels up: the driver may load code then, which it must not while it records.
    is_rehearsing: Cell<bool>,
    /// Whether anything was asked since it was last waited for.
    is_busy: Cell<bool>,
    /// What uploads may still read: that the call copies pageable memory away is not promised.
    kept: RefCell<Vec<Box<[u8]>>>,
    allocated: Cell<(u64, u64)>,
    /// What multiplies many rows, with the memory that it works in: (address, bytes).
    library: Option<CublasLt>,
    library_memory: Vec<(u64, usize)>,
    /// Released last.
    context: Context,
}

/// The context of a card that all of a process share, current on this thread.
#[derive(Debug)]
struct Context(CUdevice);

impl Context {
    fn new(device: CUdevice) -> Result<Self, CudaError> {
        // SAFETY: the device was named by the driver; the context is released once.
        let context = unsafe { result::primary_ctx::retain(device) }?;
        let retained = Self(device);
        // SAFETY: the context was just retained.
        unsafe { result::ctx::set_current(context) }?;
        Ok(retained)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once; what fails here fails because the context is gone already.
        unsafe { result::primary_ctx::release(self.0) }.unwrap_or_default();
    }
}

/// What was recorded, until it can be run.
struct Graph(CUgraph);

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: what was instantiated does not need it any more.
        unsafe { result::graph::destroy(self.0) }.unwrap_or_default();
    }
}

impl DriverCard {
    /// Opens the card at this place of the driver's list.
    pub(super) fn open(ordinal: u16) -> Result<Self, CudaError> {
        driver::start()?;
        let device = result::device::get(i32::from(ordinal))?;
        driver::check(device)?;
        let context = Context::new(device)?;
        // SAFETY: the image is a whole file of nvcc's, aligned, and static.
        let module = unsafe { result::module::load_data((&raw const KERNELS).cast::<c_void>()) }?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)?;
        let (functions, graphs, marks, launches) = Default::default();
        let (is_rehearsing, is_busy, kept, allocated) = Default::default();
        let mut card = Self {
            module,
            stream,
            functions,
            graphs,
            marks,
            launches,
            is_rehearsing,
            is_busy,
            kept,
            allocated,
            library: None,
            library_memory: Vec::new(),
            context,
        };
        if cublaslt::load()
            && let Err(error) = card.open_library()
        {
            log::warn!("prompts go without cuBLASLt: {error}");
            card.free_library();
        }
        Ok(card)
    }

    fn open_library(&mut self) -> Result<(), CudaError> {
        let constants = [0.0_f32, 1.0];
        for bytes in [cublaslt::WORKSPACE_BYTES, size_of_val(&constants)] {
            self.library_memory.push((self.allocate(bytes)?, bytes));
        }
        let [workspace, place] = [0, 1].map(|at: usize| self.library_memory[at].0);
        self.upload(place, bytemuck::bytes_of(&constants))?;
        self.library = Some(CublasLt::open(workspace, place)?);
        Ok(())
    }

    fn free_library(&mut self) {
        self.library = None;
        for (address, bytes) in std::mem::take(&mut self.library_memory) {
            self.free(address, bytes);
        }
    }

    fn function(&self, name: &str) -> Result<CUfunction, CudaError> {
        if let Some(function) = self.functions.borrow().get(name) {
            return Ok(*function);
        }
        let text = CString::new(name).expect("names of kernels have no zeros");
        // SAFETY: the module lives as long as the card.
        let function = unsafe { result::module::get_function(self.module, text) }?;
        self.functions.borrow_mut().insert(name.to_owned(), function);
        Ok(function)
    }
}

impl Card for DriverCard {
    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        // SAFETY: plain memory; it is set before anyone reads it.
        let address =
            unsafe { result::malloc_sync(bytes) }.map_err(|error| CudaError::of(error.0, Some(bytes as u64)))?;
        self.is_busy.set(true);
        // SAFETY: the memory was just allocated with this length.
        if let Err(error) = unsafe { result::memset_d8_async(address, 0, bytes, self.stream) } {
            // SAFETY: nobody else knows the address.
            unsafe { result::free_sync(address) }.unwrap_or_default();
            return Err(error.into());
        }
        let (now, most) = self.allocated.get();
        let now = now + bytes as u64;
        self.allocated.set((now, most.max(now)));
        Ok(address)
    }

    fn free(&self, address: u64, bytes: usize) {
        let (now, most) = self.allocated.get();
        self.allocated.set((now - bytes as u64, most));
        // The driver may wait for work that uses the memory, but does not promise to.
        let waited = if self.is_busy.get() { self.wait() } else { Ok(()) };
        // SAFETY: the address came from `allocate` and is given back once.
        let freed = waited.and_then(|()| Ok(unsafe { result::free_sync(address) }?));
        if let Err(error) = freed {
            log::debug!("memory of a card is not given back: {error}");
        }
    }

    fn pin(&self, bytes: usize) -> Option<*mut u8> {
        // SAFETY: plain memory, set before anyone reads it.
        let pinned = unsafe { result::malloc_host(bytes, 0) };
        let pinned = pinned.inspect_err(|error| log::debug!("no pinned memory: {error}")).ok()?.cast::<u8>();
        // SAFETY: as many bytes were just allocated.
        unsafe { pinned.write_bytes(0, bytes) };
        Some(pinned)
    }

    fn unpin(&self, address: *mut u8) {
        // What copies from it is waited for; otherwise the driver may be reading.
        let waited = if self.is_busy.get() { self.wait() } else { Ok(()) };
        // SAFETY: the address came from `pin` and is given back once.
        let freed = waited.and_then(|()| Ok(unsafe { result::free_host(address.cast::<c_void>()) }?));
        if let Err(error) = freed {
            log::debug!("pinned memory is not given back: {error}");
        }
    }

    fn upload(&self, address: u64, bytes: &[u8]) -> Result<(), CudaError> {
        self.is_busy.set(true);
        if bytes.len() > SMALL || self.kept.borrow().len() == MOST_KEPT {
            // SAFETY: the caller's buffer has room, and the slice is there until it was waited for.
            unsafe { result::memcpy_htod_async(address, bytes, self.stream) }?;
            return self.wait();
        }
        let kept: Box<[u8]> = bytes.into();
        // SAFETY: the caller's buffer has room, and the copy is kept until it was waited for.
        unsafe { result::memcpy_htod_async(address, &kept, self.stream) }?;
        self.kept.borrow_mut().push(kept);
        Ok(())
    }

    fn download(&self, address: u64, bytes: &mut [u8]) -> Result<(), CudaError> {
        // SAFETY: the caller's buffer holds as many bytes, and is waited for before the slice is returned.
        unsafe { result::memcpy_dtoh_async(bytes, address, self.stream) }?;
        self.wait()
    }

    fn launch(&self, launch: Launch<'_>) -> Result<(), CudaError> {
        let function = self.function(launch.kernel)?;
        if self.is_rehearsing.get() {
            return Ok(());
        }
        let mut args: Vec<*mut c_void> =
            launch.args.iter().map(|arg| std::ptr::from_ref(arg).cast_mut().cast::<c_void>()).collect();
        self.is_busy.set(true);
        self.launches.set(self.launches.get() + 1);
        let [x, y, z] = launch.grid.map(|size| u32::try_from(size).unwrap_or(u32::MAX));
        // SAFETY: the kernel reads as many parameters of eight bytes as it has; callers pass addresses of buffers that
        // they keep and lengths that fit them, as each kernel's contract says. Parameters are copied by the call.
        let launched =
            unsafe { result::launch_kernel(function, (x, y, z), (launch.threads, 1, 1), 0, self.stream, &mut args) };
        Ok(launched?)
    }

    fn has_gemm(&self, gemm: &Gemm) -> Result<bool, CudaError> {
        self.library.as_ref().map_or(Ok(false), |library| library.has(gemm))
    }

    fn gemm(&self, gemm: &Gemm) -> Result<(), CudaError> {
        let library = self.library.as_ref().expect("a product that `has_gemm` told of");
        self.is_busy.set(true);
        library.multiply(gemm, self.stream.cast())
    }

    fn record(&self, steps: &mut dyn FnMut() -> Result<(), CudaError>) -> Result<Recorded, CudaError> {
        self.is_rehearsing.set(true);
        let rehearsed = steps();
        self.is_rehearsing.set(false);
        rehearsed?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as the card.
        unsafe { result::stream::begin_capture(self.stream, mode) }?;
        let made = steps();
        // SAFETY: as above; a capture is ended whatever became of its steps.
        let graph = unsafe { result::stream::end_capture(self.stream) }.map(Graph);
        made?;
        let graph = graph?;
        // SAFETY: the graph was just made.
        let exec = unsafe { result::graph::instantiate(graph.0, CUgraphInstantiate_flags(0)) }?;
        let mut graphs = self.graphs.borrow_mut();
        let number = graphs.last_key_value().map_or(0, |(last, _)| last + 1);
        graphs.insert(number, exec);
        Ok(Recorded(number))
    }

    fn forget(&self, recorded: Recorded) {
        if let Some(graph) = self.graphs.borrow_mut().remove(&recorded.0) {
            // SAFETY: nothing replays it any more; the driver lets it end where it still runs.
            unsafe { result::graph::exec_destroy(graph) }.unwrap_or_default();
        }
    }

    fn replay(&self, recorded: Recorded) -> Result<(), CudaError> {
        self.is_busy.set(true);
        // SAFETY: the graph is there until it is forgotten, and the buffers in it as long as the text that recorded it.
        Ok(unsafe { result::graph::launch(self.graphs.borrow()[&recorded.0], self.stream) }?)
    }

    fn wait(&self) -> Result<(), CudaError> {
        // SAFETY: the stream lives as long as the card.
        unsafe { result::stream::synchronize(self.stream) }?;
        self.kept.borrow_mut().clear();
        self.is_busy.set(false);
        Ok(())
    }

    fn mark(&self, number: usize) -> Result<(), CudaError> {
        let mut marks = self.marks.borrow_mut();
        while marks.len() <= number {
            marks.push(result::event::create(CUevent_flags::CU_EVENT_DEFAULT)?);
        }
        self.is_busy.set(true);
        // SAFETY: event and stream live as long as the card.
        Ok(unsafe { result::event::record(marks[number], self.stream) }?)
    }

    fn nanos_between(&self, from: usize, to: usize) -> Result<u64, CudaError> {
        let marks = self.marks.borrow();
        // SAFETY: events live as long as the card; the driver says when they were not reached.
        let millis = unsafe { result::event::elapsed(marks[from], marks[to]) }?;
        Ok((f64::from(millis.max(0.0)) * 1e6).round() as u64)
    }

    fn launches(&self) -> u64 {
        self.launches.get()
    }

    fn traits(&self) -> Result<Traits, CudaError> {
        driver::traits(self.context.0)
    }

    fn allocated_bytes(&self) -> (u64, u64) {
        self.allocated.get()
    }

    fn forget_peak(&self) {
        let (now, _) = self.allocated.get();
        self.allocated.set((now, now));
    }
}

impl Drop for DriverCard {
    fn drop(&mut self) {
        self.free_library();
        // Texts have forgotten their steps. What fails here fails because the context is gone already.
        for event in self.marks.take() {
            // SAFETY: an event of ours, destroyed once.
            unsafe { result::event::destroy(event) }.unwrap_or_default();
        }
        // SAFETY: no buffer is left: each holds a reference to the card.
        unsafe { result::stream::destroy(self.stream) }.unwrap_or_default();
        // SAFETY: as above.
        unsafe { result::module::unload(self.module) }.unwrap_or_default();
    }
}

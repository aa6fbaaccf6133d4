//! What models ask of a card: memory, kernels by name, and steps recorded once. The driver has one form of it, the tests
//! another that runs the kernels on the processor.

use std::fmt::Debug;
use std::rc::Rc;

use crate::cuda::CudaError;

/// One launch of a kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Launch<'a> {
    pub(super) kernel: &'a str,
    pub(super) grid: [usize; 3],
    pub(super) threads: u32,
    /// Every parameter is eight bytes wide: an address, a `long`, or the bits of a `double`.
    pub(super) args: &'a [u64],
}

/// Types of both factors of a product of many rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum GemmType {
    #[default]
    F32,
    F16,
    Bf16,
    /// With sums of 32-bit integers in the place of the output's numbers.
    Int8,
}

impl GemmType {
    /// For tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// Bytes of a number.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Int8 => 1,
        }
    }
}

/// y (rows, outputs) = alpha · x (rows, inputs) Wᵀ, added to y where `adds`. Sums run in f32, of integers in i32.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Gemm {
    pub(super) numbers: GemmType,
    /// W (outputs, inputs), at a multiple of 16 bytes, as its rows and those of x are; f32 x at one of 4.
    pub(super) weights: u64,
    pub(super) x: u64,
    pub(super) y: u64,
    /// (rows, outputs, inputs).
    pub(super) shape: [usize; 3],
    /// Numbers from row to row of W, x and y.
    pub(super) strides: [usize; 3],
    /// The address of an f32, for halves alone; 1 where it is 0.
    pub(super) alpha: u64,
    pub(super) adds: bool,
}

/// What the driver says of a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Traits {
    pub(super) name: String,
    pub(super) capability: (i32, i32),
    pub(super) multiprocessors: usize,
    /// Bytes of the cache that all multiprocessors share; 0 where there is none.
    pub(super) cache_bytes: usize,
}

/// A recorded step, in its card's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Recorded(pub(super) usize);

/// A card. Work goes on in the order of the calls; only [`Card::download`] and [`Card::wait`] wait for it.
pub(super) trait Card: Debug {
    /// Zeroed memory at a multiple of 256 bytes.
    fn allocate(&self, bytes: usize) -> Result<u64, CudaError>;

    /// Gives back what [`Self::allocate`] returned for `bytes`.
    fn free(&self, address: u64, bytes: usize);

    /// Memory of the host that the card reads by itself, zeroed; `None` where the system has none to give.
    fn pin(&self, bytes: usize) -> Option<*mut u8>;

    /// Gives back what [`Self::pin`] returned.
    fn unpin(&self, address: *mut u8);

    /// Copies to the card.
    fn upload(&self, address: u64, bytes: &[u8]) -> Result<(), CudaError>;

    /// Copies from the card, after everything that was asked before.
    fn download(&self, address: u64, bytes: &mut [u8]) -> Result<(), CudaError>;

    /// Starts a kernel.
    ///
    /// The addresses and lengths in its arguments must be those of memory that lives until the work is done.
    fn launch(&self, launch: Launch<'_>) -> Result<(), CudaError>;

    /// Whether [`Self::gemm`] has a product of these types and this shape; addresses are not looked at.
    fn has_gemm(&self, gemm: &Gemm) -> Result<bool, CudaError>;

    /// Starts a product of many rows. It cannot be recorded.
    ///
    /// The addresses must be those of memory that lives until the work is done.
    fn gemm(&self, gemm: &Gemm) -> Result<(), CudaError>;

    /// Records the launches that `steps` makes, without running them; it may be called more than once.
    fn record(&self, steps: &mut dyn FnMut() -> Result<(), CudaError>) -> Result<Recorded, CudaError>;

    /// Runs what was recorded.
    fn replay(&self, recorded: Recorded) -> Result<(), CudaError>;

    /// Gives back what [`Self::record`] returned.
    fn forget(&self, recorded: Recorded);

    /// Waits for everything that was asked.
    fn wait(&self) -> Result<(), CudaError>;

    /// Notes the card's time in mark `number`, once everything that was asked before is done. A mark is made at its first
    /// use and kept.
    fn mark(&self, number: usize) -> Result<(), CudaError>;

    /// Nanoseconds from one mark to a later one, both waited for; on a card in steps of about half a microsecond.
    fn nanos_between(&self, from: usize, to: usize) -> Result<u64, CudaError>;

    /// Kernels asked for so far, recorded ones too.
    fn launches(&self) -> u64;

    /// What it is.
    fn traits(&self) -> Result<Traits, CudaError>;

    /// Bytes allocated now, and at most so far.
    fn allocated_bytes(&self) -> (u64, u64);

    /// Counts the most bytes anew from now on.
    fn forget_peak(&self);
}

/// Memory of a card, given back with it.
#[derive(Debug)]
pub(super) struct Buffer {
    card: Rc<dyn Card>,
    address: u64,
    bytes: usize,
}

impl Buffer {
    /// Zeroed memory.
    pub(super) fn zeroed(card: &Rc<dyn Card>, bytes: usize) -> Result<Self, CudaError> {
        // No address is that of nothing: absent buffers are told by 0.
        let bytes = bytes.max(16);
        Ok(Self { address: card.allocate(bytes)?, card: Rc::clone(card), bytes })
    }

    /// Memory with these values.
    pub(super) fn of<T: bytemuck::NoUninit>(card: &Rc<dyn Card>, values: &[T]) -> Result<Self, CudaError> {
        let buffer = Self::zeroed(card, size_of_val(values))?;
        buffer.write(values)?;
        Ok(buffer)
    }

    /// Room for so many single-precision numbers.
    pub(super) fn floats(card: &Rc<dyn Card>, len: usize) -> Result<Self, CudaError> {
        Self::zeroed(card, len * 4)
    }

    /// Where it begins.
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// The address of the single-precision number at `index`.
    pub(super) fn float(&self, index: usize) -> u64 {
        assert!((index + 1) * 4 <= self.bytes, "a number of the buffer");
        self.address + index as u64 * 4
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies values to its beginning.
    pub(super) fn write<T: bytemuck::NoUninit>(&self, values: &[T]) -> Result<(), CudaError> {
        assert!(size_of_val(values) <= self.bytes, "values that fit");
        self.card.upload(self.address, bytemuck::cast_slice(values))
    }

    /// Copies bytes to byte `begin` and those behind it.
    pub(super) fn write_at(&self, begin: usize, bytes: &[u8]) -> Result<(), CudaError> {
        assert!(begin <= self.bytes && bytes.len() <= self.bytes - begin, "bytes that fit");
        self.card.upload(self.address + begin as u64, bytes)
    }

    /// Copies values from its beginning, after everything that was asked before.
    pub(super) fn read<T: bytemuck::Pod>(&self, values: &mut [T]) -> Result<(), CudaError> {
        assert!(size_of_val(values) <= self.bytes, "values that are there");
        self.card.download(self.address, bytemuck::cast_slice_mut(values))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.card.free(self.address, self.bytes);
    }
}

/// Memory of the host for bytes on their way to a card: pinned where the system has it.
#[derive(Debug)]
pub(super) struct HostMemory {
    card: Rc<dyn Card>,
    pinned: *mut u8,
    bytes: usize,
    /// In the place of pinned memory.
    plain: Vec<u8>,
}

impl HostMemory {
    pub(super) fn new(card: &Rc<dyn Card>, bytes: usize) -> Self {
        let pinned = card.pin(bytes).unwrap_or(std::ptr::null_mut());
        let plain = if pinned.is_null() { vec![0; bytes] } else { Vec::new() };
        Self { card: Rc::clone(card), pinned, bytes, plain }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        if self.pinned.is_null() {
            return &mut self.plain;
        }
        // SAFETY: as many bytes of ours, zeroed when they were made and given back with `self`.
        unsafe { std::slice::from_raw_parts_mut(self.pinned, self.bytes) }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if !self.pinned.is_null() {
            self.card.unpin(self.pinned);
        }
    }
}

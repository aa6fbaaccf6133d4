//! NVIDIA's library of matrix products, opened where it is found when the worker runs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::{env, ptr};

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t as Compute, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t as DescAttribute, cublasLtMatmulPreferenceAttributes_t as Preference,
    cublasLtMatrixLayout_t, cublasLtPointerMode_t as PointerMode, cublasStatus_t, cudaDataType_t as DataType,
};

use crate::cuda::CudaError;
use crate::cuda::card::{Gemm, GemmType};

/// Memory that a product may use: what NVIDIA advises for cards of compute capability 9.
pub(super) const WORKSPACE_BYTES: usize = 32 << 20;
/// A folder with the library, for machines whose loader does not find it.
const FOLDER: &str = "TRIMTAB_CUDA_LIBRARIES";
/// Its names in such a folder, and beside the worker.
const NAMES: [&str; 2] = ["libcublasLt.so.13", "libcublasLt.so.12"];

/// `CUBLAS_OP_T`, which the binding has no name for.
const TRANSPOSED: u32 = 1;

unsafe extern "C" {
    /// Of the system's loader.
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
}

/// An open library with what it works in.
#[derive(Debug)]
pub(super) struct CublasLt {
    handle: sys::cublasLtHandle_t,
    /// The address of [`WORKSPACE_BYTES`] on the card.
    workspace: u64,
    /// The address of 0 and 1 on the card: what results may be added to, where alpha is there too.
    constants: u64,
    /// `None` where the library has no product.
    plans: RefCell<BTreeMap<Key, Option<Plan>>>,
}

/// Types, shape, strides, and whether alpha lies on the card.
type Key = (GemmType, [usize; 3], [usize; 3], bool);

/// A product as the library wants it described, and the algorithm that it chose.
#[derive(Debug, Clone, Copy)]
struct Plan {
    product: cublasLtMatmulDesc_t,
    /// W, x and y.
    layouts: [cublasLtMatrixLayout_t; 3],
    algorithm: cublasLtMatmulAlgo_t,
}

impl CublasLt {
    /// Begins to work with the loaded library. A card must be current.
    ///
    /// - `workspace`: memory of [`WORKSPACE_BYTES`] on it
    /// - `constants`: memory that holds 0 and 1 in f32
    pub(super) fn open(workspace: u64, constants: u64) -> Result<Self, CudaError> {
        Ok(Self { handle: lt::create_handle().map_err(refused)?, workspace, constants, plans: RefCell::default() })
    }

    /// Whether it has this product.
    pub(super) fn has(&self, gemm: &Gemm) -> Result<bool, CudaError> {
        Ok(self.plan(gemm)?.is_some())
    }

    /// Starts a product on a stream.
    pub(super) fn multiply(&self, gemm: &Gemm, stream: sys::cudaStream_t) -> Result<(), CudaError> {
        let Some(plan) = self.plan(gemm)? else {
            return Err(CudaError::Refused(format!("cuBLASLt has no product of {gemm:?}")));
        };
        let (numbers, whole) = ([1.0_f32, f32::from(u8::from(gemm.adds))], [1_i32, i32::from(gemm.adds)]);
        let on_card = self.constants + if gemm.adds { 4 } else { 0 };
        let [alpha, beta] = match gemm.numbers {
            GemmType::Int8 => whole.each_ref().map(|number| ptr::from_ref(number).cast::<c_void>()),
            _ if gemm.alpha != 0 => [gemm.alpha, on_card].map(pointer),
            _ => numbers.each_ref().map(|number| ptr::from_ref(number).cast()),
        };
        let [weights, x, y] = [gemm.weights, gemm.x, gemm.y].map(pointer);
        let [w_layout, x_layout, y_layout] = plan.layouts;
        // SAFETY: the plan describes memory of this shape, which the caller of `Card::gemm` keeps until the work is done.
        // What lies on the host is read by the call.
        let started = unsafe {
            lt::matmul(
                self.handle,
                plan.product,
                alpha,
                beta,
                weights,
                w_layout,
                x,
                x_layout,
                y,
                y_layout,
                y.cast_mut(),
                y_layout,
                &raw const plan.algorithm,
                pointer(self.workspace).cast_mut(),
                WORKSPACE_BYTES,
                stream,
            )
        };
        started.map_err(refused)
    }

    /// The plan of a product, made once.
    fn plan(&self, gemm: &Gemm) -> Result<Option<Plan>, CudaError> {
        let key = (gemm.numbers, gemm.shape, gemm.strides, gemm.alpha != 0);
        match self.plans.borrow_mut().entry(key) {
            Entry::Occupied(known) => Ok(*known.get()),
            Entry::Vacant(place) => Ok(*place.insert(self.make(gemm).map_err(refused)?)),
        }
    }

    /// Rows of ours are columns of the library's: y (outputs × rows) = Wᵀ (inputs × outputs, transposed) x (inputs × rows).
    fn make(&self, gemm: &Gemm) -> Result<Option<Plan>, CublasError> {
        let ([rows, outputs, inputs], [w_stride, x_stride, y_stride]) = (gemm.shape, gemm.strides);
        // Sums, and what alpha and beta are, have one type.
        let (compute, factor, sum) = match gemm.numbers {
            GemmType::F32 => (Compute::CUBLAS_COMPUTE_32F, DataType::CUDA_R_32F, DataType::CUDA_R_32F),
            GemmType::F16 => (Compute::CUBLAS_COMPUTE_32F, DataType::CUDA_R_16F, DataType::CUDA_R_32F),
            GemmType::Bf16 => (Compute::CUBLAS_COMPUTE_32F, DataType::CUDA_R_16BF, DataType::CUDA_R_32F),
            GemmType::Int8 => (Compute::CUBLAS_COMPUTE_32I, DataType::CUDA_R_8I, DataType::CUDA_R_32I),
        };
        let layout = |kind, rows: usize, columns: usize, stride: usize| {
            lt::create_matrix_layout(kind, rows as u64, columns as u64, i64::try_from(stride).unwrap_or(i64::MAX))
        };
        let product = lt::create_matmul_desc(compute, sum)?;
        let layouts = [
            layout(factor, inputs, outputs, w_stride)?,
            layout(factor, inputs, rows, x_stride)?,
            layout(sum, outputs, rows, y_stride)?,
        ];
        let mode = if gemm.alpha == 0 {
            PointerMode::CUBLASLT_POINTER_MODE_HOST
        } else {
            PointerMode::CUBLASLT_POINTER_MODE_DEVICE
        };
        let attributes = [
            (DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, TRANSPOSED),
            (DescAttribute::CUBLASLT_MATMUL_DESC_POINTER_MODE, mode as u32),
        ];
        for (attribute, value) in attributes {
            // SAFETY: both attributes are four bytes wide, and the description was just made.
            unsafe { lt::set_matmul_desc_attribute(product, attribute, ptr::from_ref(&value).cast(), 4) }?;
        }
        let algorithm = self.algorithm(gemm, product, layouts);
        if !matches!(algorithm, Ok(Some(_))) {
            release(product, layouts);
        }
        Ok(algorithm?.map(|algorithm| Plan { product, layouts, algorithm }))
    }

    /// The first algorithm that the library advises; `None` where it has none.
    fn algorithm(
        &self,
        gemm: &Gemm,
        product: cublasLtMatmulDesc_t,
        [weights, x, y]: [cublasLtMatrixLayout_t; 3],
    ) -> Result<Option<cublasLtMatmulAlgo_t>, CublasError> {
        let preference = lt::create_matmul_pref()?;
        let x_alignment = if gemm.numbers == GemmType::F32 { 4 } else { 16 };
        let alignments = [
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, 16),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, x_alignment),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, 16),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, 16),
        ];
        let bytes = WORKSPACE_BYTES as u64;
        let workspace = Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: the attribute is eight bytes wide, and the preference was just made.
        let mut set = unsafe { lt::set_matmul_pref_attribute(preference, workspace, ptr::from_ref(&bytes).cast(), 8) };
        for (attribute, value) in alignments {
            let value: u32 = value;
            // SAFETY: these attributes are four bytes wide.
            let more = unsafe { lt::set_matmul_pref_attribute(preference, attribute, ptr::from_ref(&value).cast(), 4) };
            set = set.and(more);
        }
        // SAFETY: everything was made by the library and is of this product.
        let advised = set.and_then(|()| unsafe {
            lt::get_matmul_algo_heuristic(self.handle, product, weights, x, y, y, preference)
        });
        // SAFETY: made above, and nothing else holds it.
        unsafe { lt::destroy_matmul_pref(preference) }?;
        match advised {
            Ok(advised) => Ok(Some(advised.algo)),
            // Some versions say so of shapes that they have no product for.
            Err(CublasError(
                cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED | cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE,
            )) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        for plan in self.plans.take().into_values().flatten() {
            release(plan.product, plan.layouts);
        }
        // SAFETY: made by `open`; the card waits for its work before it goes.
        unsafe { lt::destroy_handle(self.handle) }.unwrap_or_else(|error| log::debug!("cuBLASLt: {error}"));
    }
}

fn release(product: cublasLtMatmulDesc_t, layouts: [cublasLtMatrixLayout_t; 3]) {
    for layout in layouts {
        // SAFETY: made by `CublasLt::make`, and released once.
        unsafe { lt::destroy_matrix_layout(layout) }.unwrap_or_else(|error| log::debug!("cuBLASLt: {error}"));
    }
    // SAFETY: as above.
    unsafe { lt::destroy_matmul_desc(product) }.unwrap_or_else(|error| log::debug!("cuBLASLt: {error}"));
}

/// Loads the library, or says that it is not there: from the folder that [`FOLDER`] names, where the loader looks, or
/// from the folder of the worker.
pub(super) fn load() -> bool {
    // The binding asks the loader for names without a folder and gets what has one of them already.
    let named = env::var_os(FOLDER).filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let found = named.is_some_and(|folder| load_from(&folder)) || is_present() || {
        let program = env::current_exe().ok();
        program.as_deref().and_then(Path::parent).is_some_and(load_from)
    };
    if !found || !is_present() {
        log::info!("cuBLASLt was not found ({} may name its folder): prompts go without it", NAMES[0]);
        return false;
    }
    // SAFETY: the library is there, and the function only tells its version.
    log::info!("cuBLASLt {}", unsafe { sys::cublasLtGetVersion() });
    true
}

/// Whether the binding finds the library; it panics when a function is called without it.
fn is_present() -> bool {
    // SAFETY: the library is loaded and closed again; what its constructors do is what every program of its kind has.
    unsafe { sys::is_culib_present() }
}

/// Loads the library from a folder; it stays loaded, so that it is found by its name.
pub(super) fn load_from(folder: &Path) -> bool {
    const NOW: c_int = 2;
    NAMES.iter().map(|name| folder.join(name)).filter(|path| path.is_file()).any(|path| {
        let Ok(path) = CString::new(path.into_os_string().into_encoded_bytes()) else { return false };
        // SAFETY: a path that ends with a zero. The file is the user's choice, as what the loader finds is.
        !unsafe { dlopen(path.as_ptr(), NOW) }.is_null()
    })
}

fn pointer(address: u64) -> *const c_void {
    ptr::with_exposed_provenance(address as usize)
}

/// The library's answer by what it means for the worker.
fn refused(CublasError(status): CublasError) -> CudaError {
    let words = format!("{status:?}").trim_start_matches("CUBLAS_STATUS_").to_lowercase().replace('_', " ");
    let words = format!("cuBLASLt: {words} (status {})", status as u32);
    match status {
        cublasStatus_t::CUBLAS_STATUS_EXECUTION_FAILED | cublasStatus_t::CUBLAS_STATUS_INTERNAL_ERROR => {
            CudaError::Fault(words)
        }
        // Its own kernels are loaded with its first product.
        cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED => CudaError::Memory { bytes: None },
        _ => CudaError::Refused(words),
    }
}

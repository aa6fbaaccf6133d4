//! NVIDIA cards: their driver, our kernels for them, and models that run there. Built with the feature `cuda` only.
//!
//! Products of many rows are cuBLASLt's, where that library is found; ours take them in groups where it is not.
//!
//! May import `kernels`, `compress`, `nn`, `recipe`, `model` and `device`; the driver is reached through cudarc, which
//! loads it when it is first called. `device/` holds the kernels in CUDA's dialect of C++ and what compiles the same
//! files for the processor, where tests run them.
//!
//! **Invariants.** Nothing of CUDA is needed to link or to start. No function of the driver is called before it was found
//! to be there. A kernel and its launch are two halves of one contract: each launch has one place, which checks lengths.

#![expect(unsafe_code, reason = "the driver is a C library, and what it is given are addresses on a card")]

mod calibrate;
#[cfg(test)]
mod calibrate_tests;
mod card;
mod ceilings;
mod cublaslt;
mod device;
mod driver;
mod driver_card;
#[cfg(test)]
mod driver_tests;
#[cfg(test)]
mod emulated_card;
mod error;
mod gemm;
#[cfg(test)]
mod gemm_tests;
#[cfg(test)]
mod kernel_tests;
mod layout;
mod linear;
mod matrix;
mod model;
#[cfg(test)]
mod model_tests;
mod moments;
mod pass;
mod profile;
#[cfg(test)]
mod profile_tests;
mod rounding;
mod score;
mod solver;
#[cfg(test)]
mod solver_tests;
mod svd;
mod text;
mod upload;
#[cfg(test)]
mod upload_tests;

pub use calibrate::{Reading, States};
pub use device::Device;
pub use driver::devices;
pub use error::CudaError;
pub use model::Model;
pub use score::score;
pub use text::Text;

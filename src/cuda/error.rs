//! What can go wrong on a card, by what it means for the worker.

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

use crate::nn::NnError;

/// Work on a card that failed.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// There is no driver.
    #[error("libcuda.so.1 was not found; install NVIDIA's driver, 580 or newer")]
    NoDriver,
    /// The driver is older than the kernels.
    #[error("the NVIDIA driver speaks CUDA {major}.{minor} and 13.0 is needed; install driver 580 or newer")]
    OldDriver {
        /// Its version of CUDA.
        major: i32,
        /// The same.
        minor: i32,
    },
    /// The driver sees no card.
    #[error("the NVIDIA driver finds no card")]
    NoCard,
    /// Our kernels have no code for the card.
    #[error("{name} has compute capability {major}.{minor}; 8.0 or later is needed")]
    OldCard {
        /// Its name.
        name: String,
        /// Its compute capability.
        major: i32,
        /// The same.
        minor: i32,
    },
    /// The card has no memory left. The worker can go on once something was freed.
    #[error("the card has no memory left for {}", crate::units::bytes(*.bytes))]
    Memory {
        /// What was asked for.
        bytes: u64,
    },
    /// A kernel did what it must not: the context cannot be used any more, a new process can.
    #[error("the card stopped a kernel: {0}")]
    Fault(String),
    /// The card does not answer any more.
    #[error("the card was lost: {0}")]
    Lost(String),
    /// There is no kernel for what was asked.
    #[error("{0}")]
    Unsupported(String),
    /// Tokens that the model or the text has no place for.
    #[error(transparent)]
    Tokens(#[from] NnError),
    /// The driver refused.
    #[error("the NVIDIA driver refused: {0}")]
    Refused(String),
}

impl CudaError {
    /// The class of a driver's answer to a request for `bytes` of memory; 0 where it was for something else.
    pub(super) fn of(code: CUresult, bytes: u64) -> Self {
        use CUresult as C;
        let words = words(code);
        match code {
            C::CUDA_ERROR_OUT_OF_MEMORY => Self::Memory { bytes },
            C::CUDA_ERROR_NO_DEVICE => Self::NoCard,
            C::CUDA_ERROR_ECC_UNCORRECTABLE
            | C::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | C::CUDA_ERROR_DEVICE_UNAVAILABLE
            | C::CUDA_ERROR_SYSTEM_NOT_READY
            | C::CUDA_ERROR_DEINITIALIZED
            | C::CUDA_ERROR_UNKNOWN => Self::Lost(words),
            C::CUDA_ERROR_ILLEGAL_ADDRESS
            | C::CUDA_ERROR_LAUNCH_TIMEOUT
            | C::CUDA_ERROR_ASSERT
            | C::CUDA_ERROR_HARDWARE_STACK_ERROR
            | C::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | C::CUDA_ERROR_MISALIGNED_ADDRESS
            | C::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | C::CUDA_ERROR_INVALID_PC
            | C::CUDA_ERROR_LAUNCH_FAILED
            | C::CUDA_ERROR_CONTEXT_IS_DESTROYED => Self::Fault(words),
            _ => Self::Refused(words),
        }
    }

    /// Whether the process can go on using the card.
    pub fn leaves_card_usable(&self) -> bool {
        !matches!(self, Self::Fault(_) | Self::Lost(_))
    }
}

impl From<DriverError> for CudaError {
    fn from(error: DriverError) -> Self {
        Self::of(error.0, 0)
    }
}

/// `an illegal memory access was encountered`: the code's own name in words, which needs no driver to be told.
fn words(code: CUresult) -> String {
    let name = format!("{code:?}");
    let name = name.trim_start_matches("CUDA_ERROR_").to_lowercase().replace('_', " ");
    format!("{name} (error {})", code as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_classed_by_what_they_mean_for_the_worker() {
        use CUresult as C;
        let check = |code, expected: CudaError, usable| {
            let found = CudaError::of(code, 1 << 30);
            assert_eq!((found.leaves_card_usable(), format!("{found:?}")), (usable, format!("{expected:?}")));
        };
        check(C::CUDA_ERROR_OUT_OF_MEMORY, CudaError::Memory { bytes: 1 << 30 }, true);
        check(C::CUDA_ERROR_NO_DEVICE, CudaError::NoCard, true);
        check(C::CUDA_ERROR_ILLEGAL_ADDRESS, CudaError::Fault("illegal address (error 700)".to_owned()), false);
        check(C::CUDA_ERROR_UNKNOWN, CudaError::Lost("unknown (error 999)".to_owned()), false);
        check(C::CUDA_ERROR_INVALID_VALUE, CudaError::Refused("invalid value (error 1)".to_owned()), true);
    }
}

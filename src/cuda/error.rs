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
    /// The card has no memory left.
    #[error("the card has no memory left{}", wanted(*.bytes))]
    Memory {
        /// What was asked for; unknown where the driver needed it for itself.
        bytes: Option<u64>,
    },
    /// A kernel did what it must not: this process cannot use the card any more, a new one can.
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
    /// Weights that cannot be read where they are stored.
    #[error(transparent)]
    Weights(Box<dyn std::error::Error + Send + Sync>),
    /// Whoever watches a model being copied ended it.
    #[error("the copy of the model was ended")]
    Ended,
    /// The driver refused.
    #[error("the NVIDIA driver refused: {0}")]
    Refused(String),
}

impl CudaError {
    /// The class of a driver's answer to a request for `bytes` of memory, or for something else.
    pub(super) fn of(code: CUresult, bytes: Option<u64>) -> Self {
        use CUresult as C;
        let words = words(code);
        match code {
            C::CUDA_ERROR_OUT_OF_MEMORY => Self::Memory { bytes },
            C::CUDA_ERROR_NO_DEVICE => Self::NoCard,
            C::CUDA_ERROR_ECC_UNCORRECTABLE
            | C::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | C::CUDA_ERROR_CONTAINED
            | C::CUDA_ERROR_EXTERNAL_DEVICE
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

    /// The class of a driver that does not start.
    pub(super) fn of_start(error: DriverError) -> Self {
        match Self::from(error) {
            Self::Lost(words) => Self::Refused(words),
            other => other,
        }
    }
}

impl From<DriverError> for CudaError {
    fn from(error: DriverError) -> Self {
        Self::of(error.0, None)
    }
}

fn wanted(bytes: Option<u64>) -> String {
    bytes.map_or_else(String::new, |bytes| format!(" for {}", crate::units::bytes(bytes)))
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
        let check = |code, said: &str| assert_eq!(CudaError::of(code, Some(1 << 30)).to_string(), said);
        check(C::CUDA_ERROR_OUT_OF_MEMORY, "the card has no memory left for 1.00 GiB");
        check(C::CUDA_ERROR_NO_DEVICE, "the NVIDIA driver finds no card");
        check(C::CUDA_ERROR_ILLEGAL_ADDRESS, "the card stopped a kernel: illegal address (error 700)");
        check(C::CUDA_ERROR_UNKNOWN, "the card was lost: unknown (error 999)");
        check(C::CUDA_ERROR_INVALID_VALUE, "the NVIDIA driver refused: invalid value (error 1)");
        check(C::CUDA_ERROR_DEVICE_UNAVAILABLE, "the NVIDIA driver refused: device unavailable (error 46)");
        let said = CudaError::from(DriverError(C::CUDA_ERROR_OUT_OF_MEMORY)).to_string();
        assert_eq!(said, "the card has no memory left");
        let said = CudaError::of_start(DriverError(C::CUDA_ERROR_UNKNOWN)).to_string();
        assert_eq!(said, "the NVIDIA driver refused: unknown (error 999)");
    }
}

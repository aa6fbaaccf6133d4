//! An open card and the models on it.

use std::rc::Rc;

use crate::cuda::card::{Card, Gemm, GemmType, Traits};
use crate::cuda::driver_card::DriverCard;
use crate::cuda::linear::Uploaded;
use crate::cuda::pass::MOST_ROWS;
use crate::cuda::{CudaError, Model, States, ceilings};
use crate::device::CardCeilings;
use crate::nn::Llama;

/// An open card. Stays on the thread that opened it.
#[derive(Debug)]
pub struct Device {
    card: Rc<dyn Card>,
    uploaded: Rc<Uploaded>,
}

impl Device {
    /// Opens the card at this place of the driver's list.
    ///
    /// # Errors
    /// When there is no such card, or our kernels have no code for it.
    pub fn open(ordinal: u16) -> Result<Self, CudaError> {
        Ok(Self::on(Rc::new(DriverCard::open(ordinal)?)))
    }

    /// The kernels on the processor.
    #[cfg(test)]
    pub(crate) fn emulated() -> Self {
        Self::on(Rc::new(crate::cuda::emulated_card::EmulatedCard::default()))
    }

    pub(super) fn on(card: Rc<dyn Card>) -> Self {
        Self { card, uploaded: Rc::default() }
    }

    /// Copies a model to the card, but for the matrices that it shares with models that are there.
    ///
    /// # Errors
    /// When a part has no kernel, or the card has no memory left.
    pub fn model(&self, host: &Llama) -> Result<Rc<Model>, CudaError> {
        self.load(host, &|_, _| true)
    }

    /// [`Self::model`] of a model whose weights are read meanwhile. `watch` hears of matrices copied and in all, and ends
    /// the copying by returning `false`.
    ///
    /// # Errors
    /// As [`Self::model`], when stored weights cannot be read, and [`CudaError::Ended`].
    pub fn load(&self, host: &Llama, watch: &dyn Fn(u32, u32) -> bool) -> Result<Rc<Model>, CudaError> {
        Model::new(&self.card, &self.uploaded, host, watch).map(Rc::new)
    }

    /// Embeds windows of tokens, to take them through blocks that shall be calibrated.
    ///
    /// # Errors
    /// When a token has no row, the embedding no kernel, or the card fails. Memory of the card is no reason: the host's is
    /// taken where there is too little.
    pub fn states(&self, host: &Llama, windows: &[Vec<u32>]) -> Result<States, CudaError> {
        States::new(&self.card, &self.uploaded, host, windows, MOST_ROWS)
    }

    /// What tells results of this card from those of others, in their last bits: its kind, and whether products of many rows
    /// are the library's.
    ///
    /// # Errors
    /// When the card fails.
    pub fn kind(&self) -> Result<String, CudaError> {
        let Traits { name, capability: (major, minor), .. } = self.card.traits()?;
        let library = if self.has_library() { "with" } else { "without" };
        Ok(format!("{name}, {major}.{minor}, {library} cuBLASLt"))
    }

    /// Whether prompts go through the library of products of many rows.
    pub fn has_library(&self) -> bool {
        // A product that every version of it has.
        let plain = Gemm { numbers: GemmType::F32, shape: [64; 3], strides: [64; 3], ..Gemm::default() };
        self.card.has_gemm(&plain).unwrap_or(false)
    }

    /// Bytes that our buffers hold now, and held at most: without the driver's own.
    pub fn allocated_bytes(&self) -> (u64, u64) {
        self.card.allocated_bytes()
    }

    /// What the card reaches at most, measured now.
    ///
    /// # Errors
    /// When the card fails. Memory that is too full for a buffer is no failure: what is read from it is then not known.
    pub fn ceilings(&self) -> Result<CardCeilings, CudaError> {
        ceilings::measure(&self.card)
    }

    pub(super) fn card(&self) -> &Rc<dyn Card> {
        &self.card
    }

    /// Counts the most bytes anew from now on.
    pub fn forget_peak(&self) {
        self.card.forget_peak();
    }
}

//! Where the models of a worker run, and who does the heavy part of making them: the processor, or a card beside it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::compress::Solver;
use crate::device::{CardCeilings, DeviceSpec};
use crate::kernels::Divergence;
use crate::nn::{KvCache, Llama, Mark, Probe, Work};
use crate::runtime::card::{Card, CardModel, CardStates};
use crate::runtime::timing::nanos;
use crate::runtime::{RuntimeError, Sampling, generate};

/// The device of a worker.
#[derive(Debug)]
pub struct Place {
    card: Option<Card>,
    /// What tells sums made on the card from those of others, in their last bits.
    kind: Option<String>,
}

/// A model where its trials run. The host's is always there, for variants are made from it; beside a card, its weights
/// are read when the host uses them.
#[derive(Debug, Clone)]
pub struct Placed {
    host: Arc<Llama>,
    card: Option<CardModel>,
}

/// A text that grows: a prompt, then token by token.
pub trait Steps {
    /// Tokens that fit.
    fn capacity(&self) -> usize;

    /// Forgets every token after the first `len`.
    ///
    /// # Errors
    /// When the device fails.
    fn truncate(&mut self, len: usize) -> Result<(), RuntimeError>;

    /// Puts tokens behind the others, and returns when the logits behind the last one are there.
    ///
    /// # Errors
    /// When they do not fit, or the device fails.
    fn run(&mut self, tokens: &[u32]) -> Result<(), RuntimeError>;

    /// [`Self::run`] while the end of each operation is noted: those of [`Placed::work`], in its order. What is needed for
    /// that is made by the first such run and kept.
    ///
    /// # Errors
    /// As [`Self::run`].
    fn run_marked(&mut self, tokens: &[u32]) -> Result<(), RuntimeError>;

    /// What the last [`Self::run_marked`] noted.
    ///
    /// # Errors
    /// When the device fails.
    fn marks(&self) -> Result<Vec<Mark>, RuntimeError>;

    /// [`Self::run`], and the time that it took on a card, in nanoseconds, from when the host began to ask for it; `None`
    /// on the processor. The card is asked for it after the run.
    ///
    /// # Errors
    /// As [`Self::run`].
    fn run_timed(&mut self, tokens: &[u32]) -> Result<Timed, RuntimeError>;

    /// Kernels that a card launches for a single token; `None` on the processor, and before there was one.
    fn launches(&self) -> Option<u64>;
}

/// A run between two readings of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timed {
    /// From asking for it until the logits are there, in nanoseconds.
    pub nanos: u64,
    /// Of these, on the card.
    pub card_nanos: Option<u64>,
}

/// Scores windows on a device of its own, whose logits stay there.
pub trait Scorer {
    /// The comparison at every token of a window but its first.
    ///
    /// # Errors
    /// When the window does not fit, or the device fails.
    fn score(&mut self, tokens: &[u32]) -> Result<Vec<Divergence>, RuntimeError>;
}

impl Place {
    /// Opens the card that `spec` names; the processor needs no opening.
    ///
    /// # Errors
    /// When there is no such card, or nothing in this build that opens it.
    pub fn open(spec: DeviceSpec) -> Result<Self, RuntimeError> {
        match spec {
            DeviceSpec::Cpu { .. } => Ok(Self { card: None, kind: None }),
            DeviceSpec::Cuda { ordinal } => Self::on(Card::open(ordinal)?),
        }
    }

    pub(super) fn on(card: Card) -> Result<Self, RuntimeError> {
        Ok(Self { kind: Some(card.kind()?), card: Some(card) })
    }

    /// What results that are made here differ by from those of other places, in their last bits; `None` on the processor.
    pub(super) fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    /// Windows embedded on the card, to be taken through blocks there; `None` on the processor.
    pub(super) fn states(&self, model: &Llama, windows: &[Vec<u32>]) -> Result<Option<CardStates>, RuntimeError> {
        self.card.as_ref().map(|card| card.states(model, windows)).transpose()
    }

    /// Puts a model where its trials run.
    ///
    /// # Errors
    /// When a part of it has no kernel on the card, or the card has no memory left.
    pub fn put(&self, host: &Arc<Llama>) -> Result<Placed, RuntimeError> {
        self.load(host, &|_, _| true)
    }

    /// [`Self::put`] of a model whose weights are read meanwhile, as those of [`ModelStore::load`] for a card. `progress`
    /// hears of matrices read and in all, and ends the load by returning `false`; the processor has nothing left to read.
    ///
    /// [`ModelStore::load`]: crate::runtime::ModelStore::load
    ///
    /// # Errors
    /// As [`Self::put`], and when weights cannot be read.
    pub fn load(&self, host: &Arc<Llama>, progress: &dyn Fn(u32, u32) -> bool) -> Result<Placed, RuntimeError> {
        let card = self.card.as_ref().map(|card| card.model(host, progress)).transpose()?;
        Ok(Placed { host: Arc::clone(host), card })
    }

    /// A card whose kernels run on the processor.
    #[cfg(all(test, feature = "cuda"))]
    pub(super) fn emulated() -> Self {
        Self::on(Card::emulated()).expect("it has a kind")
    }

    /// The card, where there is one.
    pub(super) fn card(&self) -> Option<&Card> {
        self.card.as_ref()
    }

    /// The most bytes that models and texts took on the card since [`Self::forget_peak`]; `None` on the processor, whose
    /// memory the system counts.
    pub fn peak_bytes(&self) -> Option<u64> {
        self.card.as_ref().map(Card::peak_bytes)
    }

    /// Whether prompts go through the library of products of many rows there.
    pub fn has_library(&self) -> bool {
        self.card.as_ref().is_some_and(Card::has_library)
    }

    /// What the card reaches at most, measured now; `None` on the processor.
    ///
    /// # Errors
    /// When the card fails.
    pub fn ceilings(&self) -> Result<Option<CardCeilings>, RuntimeError> {
        self.card.as_ref().map(Card::ceilings).transpose()
    }

    /// Who does the heavy linear algebra of compression where the processor does not.
    pub(crate) fn solver(&self) -> Option<&dyn Solver> {
        self.card.as_ref().map(Card::solver)
    }

    /// Counts the most bytes on the card anew from now on.
    pub fn forget_peak(&self) {
        self.card.iter().for_each(Card::forget_peak);
    }
}

impl Placed {
    /// The processor's form.
    pub fn host(&self) -> &Arc<Llama> {
        &self.host
    }

    /// Whether it runs on a card.
    pub fn is_on_card(&self) -> bool {
        self.card.is_some()
    }

    /// Which products run on the card, each with its number of layers, and the bytes of the layers there.
    pub fn on_card(&self) -> Option<(BTreeMap<String, u32>, u64)> {
        self.card.as_ref().map(|card| (card.products(), card.held_bytes()))
    }

    /// The work of each operation of a pass, as [`Llama::work`] counts it, with the bytes and products of the device.
    pub fn work(&self, seq: usize, past: usize) -> Vec<Work> {
        match &self.card {
            None => self.host.work(seq, past),
            Some(card) => card.work(&self.host, seq, past),
        }
    }

    /// An empty text with room for `capacity` tokens.
    ///
    /// # Errors
    /// When the context is exceeded, or the device has no memory left.
    pub fn text(&self, capacity: usize) -> Result<Box<dyn Steps + '_>, RuntimeError> {
        if let Some(card) = &self.card {
            return card.text(capacity);
        }
        let cache = self.host.new_cache(capacity)?;
        let logits = Vec::with_capacity(self.host.config().vocab_size);
        Ok(Box::new(HostText { model: &self.host, cache, logits, probe: None }))
    }

    /// Continues `prompt`, as [`generate`] does.
    ///
    /// # Errors
    /// As [`generate`].
    pub fn generate(
        &self,
        prompt: &[u32],
        n_tokens: usize,
        sampling: Sampling,
        keep_going: &dyn Fn(u32) -> bool,
    ) -> Result<Vec<u32>, RuntimeError> {
        if let Some(card) = &self.card {
            return card.generate(prompt, n_tokens, sampling, keep_going);
        }
        generate(&self.host, prompt, n_tokens, sampling, keep_going)
    }

    /// What scores windows of at most `context` tokens of this variant against `reference`, where both are on a card.
    ///
    /// # Errors
    /// When the card has no memory left.
    pub fn scorer(&self, reference: &Self, context: usize) -> Result<Option<Box<dyn Scorer>>, RuntimeError> {
        if let (Some(reference), Some(variant)) = (&reference.card, &self.card) {
            return Ok(Some(variant.scorer(reference, context)?));
        }
        Ok(None)
    }
}

/// A text on the processor.
struct HostText<'a> {
    model: &'a Llama,
    cache: KvCache,
    logits: Vec<f32>,
    /// There once a pass was marked.
    probe: Option<Probe>,
}

impl Steps for HostText<'_> {
    fn capacity(&self) -> usize {
        self.cache.capacity()
    }

    fn truncate(&mut self, len: usize) -> Result<(), RuntimeError> {
        self.cache.truncate(len);
        Ok(())
    }

    fn run(&mut self, tokens: &[u32]) -> Result<(), RuntimeError> {
        Ok(self.model.next_logits(tokens, &mut self.cache, &mut self.logits)?)
    }

    fn run_marked(&mut self, tokens: &[u32]) -> Result<(), RuntimeError> {
        let probe = self.probe.get_or_insert_with(|| Probe::new(self.model.work(1, 0).len()));
        probe.begin();
        Ok(self.model.probed_logits(tokens, &mut self.cache, &mut self.logits, Some(probe))?)
    }

    fn marks(&self) -> Result<Vec<Mark>, RuntimeError> {
        Ok(self.probe.as_ref().map_or_else(Vec::new, |probe| probe.marks().to_vec()))
    }

    fn run_timed(&mut self, tokens: &[u32]) -> Result<Timed, RuntimeError> {
        let began = Instant::now();
        self.run(tokens)?;
        Ok(Timed { nanos: nanos(began), card_nanos: None })
    }

    fn launches(&self) -> Option<u64> {
        None
    }
}

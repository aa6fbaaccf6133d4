//! Models and texts on a card, as trials use them.

mod stored;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Tensor;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::checkpoint::Checkpoint;
use crate::compress::Solver;
use crate::cuda::{self, CudaError, Device, Model, Reading, States, Text};
use crate::device::CardCeilings;
use crate::kernels::Divergence;
use crate::model::{Layer, Operation};
use crate::nn::{Linear, Llama, Mark, NnError, Work};
use crate::runtime::calibrate::{BlockMoments, Input, Way};
use crate::runtime::place::{Scorer, Steps, Timed};
use crate::runtime::timing::nanos;
use crate::runtime::{RuntimeError, Sampling};

/// An open card.
#[derive(Debug)]
pub(super) struct Card(Device);

/// A model on it.
#[derive(Debug, Clone)]
pub(super) struct CardModel(Rc<Model>);

/// The hidden states of windows on it, before a block.
#[derive(Debug)]
pub(super) struct CardStates(States);

impl Card {
    /// The kernels on the processor.
    #[cfg(test)]
    pub(super) fn emulated() -> Self {
        Self(Device::emulated())
    }

    pub(super) fn open(ordinal: u16) -> Result<Self, RuntimeError> {
        Ok(Self(Device::open(ordinal)?))
    }

    pub(super) fn model(&self, host: &Llama, watch: &dyn Fn(u32, u32) -> bool) -> Result<CardModel, RuntimeError> {
        Ok(CardModel(self.0.load(host, watch)?))
    }

    /// A layer as the checkpoint has it, whose weights are read when they are used.
    #[expect(clippy::unused_self, reason = "only who has a card asks for such layers")]
    pub(super) fn layer(
        &self,
        checkpoint: &Arc<Checkpoint>,
        layer: &Layer,
        bias: Option<Tensor>,
    ) -> Result<Linear, RuntimeError> {
        stored::layer(checkpoint, layer, bias)
    }

    pub(super) fn states(&self, model: &Llama, windows: &[Vec<u32>]) -> Result<CardStates, RuntimeError> {
        Ok(CardStates(self.0.states(model, windows)?))
    }

    pub(super) fn kind(&self) -> Result<String, RuntimeError> {
        Ok(self.0.kind()?)
    }

    pub(super) fn peak_bytes(&self) -> u64 {
        self.0.allocated_bytes().1
    }

    pub(super) fn has_library(&self) -> bool {
        self.0.has_library()
    }

    pub(super) fn ceilings(&self) -> Result<CardCeilings, RuntimeError> {
        Ok(self.0.ceilings()?)
    }

    pub(super) fn forget_peak(&self) {
        self.0.forget_peak();
    }

    pub(super) fn solver(&self) -> &dyn Solver {
        &self.0
    }
}

impl CardStates {
    pub(super) fn through(
        &mut self,
        way: Way<'_>,
        keep_going: &mut dyn FnMut(usize) -> bool,
    ) -> Result<BlockMoments, RuntimeError> {
        let Way { model, block, wanted, sample_every, onward } = way;
        let behind: Vec<_> = wanted.iter().copied().map(made_by).collect();
        let reading = Reading { behind: &behind, sample_every, goes_on: onward };
        let found = self.0.through_block(model, block, reading, keep_going)?;
        let mut found = found.ok_or(RuntimeError::Cancelled)?;
        Ok(wanted.iter().filter_map(|input| Some((*input, found.remove(&made_by(*input))?))).collect())
    }
}

/// The operation whose results the input is.
fn made_by(input: Input) -> Operation {
    match input {
        Input::Attention => Operation::AttentionNorm,
        Input::Heads => Operation::Attention,
        Input::Mlp => Operation::MlpNorm,
        Input::Channels => Operation::Activation,
    }
}

impl From<CudaError> for RuntimeError {
    fn from(error: CudaError) -> Self {
        match error {
            CudaError::Ended => Self::Cancelled,
            CudaError::Weights(error) => match error.downcast::<Self>() {
                Ok(error) => *error,
                Err(error) => Self::Nn(NnError::Stored(error)),
            },
            other => Self::Cuda(other),
        }
    }
}

impl CardModel {
    pub(super) fn products(&self) -> BTreeMap<String, u32> {
        self.0.products()
    }

    pub(super) fn held_bytes(&self) -> u64 {
        self.0.held_bytes()
    }

    pub(super) fn work(&self, host: &Llama, seq: usize, past: usize) -> Vec<Work> {
        self.0.work(host, seq, past)
    }

    pub(super) fn text(&self, capacity: usize) -> Result<Box<dyn Steps>, RuntimeError> {
        Ok(Box::new(Text::new(&self.0, capacity)?))
    }

    pub(super) fn generate(
        &self,
        prompt: &[u32],
        n_tokens: usize,
        sampling: Sampling,
        keep_going: &dyn Fn(u32) -> bool,
    ) -> Result<Vec<u32>, RuntimeError> {
        let config = self.0.config();
        let capacity = (prompt.len() + n_tokens).min(config.max_context);
        let mut tokens = Vec::new();
        if n_tokens == 0 || prompt.len() > capacity || !keep_going(0) {
            return Ok(tokens);
        }
        let mut text = Text::new(&self.0, capacity)?;
        let mut rng = StdRng::seed_from_u64(sampling.seed);
        let draws: Vec<f64> = (0..n_tokens.min(capacity + 1)).map(|_| rng.random()).collect();
        text.prefill(prompt)?;
        text.set_draws(&draws)?;
        let finite = |token: Option<u32>| {
            token.ok_or_else(|| RuntimeError::NonFinite { what: "a logit of the sampled text".to_owned() })
        };
        let mut token = finite(text.choose_first(sampling.temperature)?)?;
        while !config.eos_tokens.contains(&token) {
            tokens.push(token);
            if tokens.len() == n_tokens || text.len() == capacity || !keep_going(tokens.len() as u32) {
                break;
            }
            token = finite(text.step(None, sampling.temperature)?)?;
        }
        Ok(tokens)
    }

    pub(super) fn scorer(&self, reference: &Self, context: usize) -> Result<Box<dyn Scorer>, RuntimeError> {
        let is_reference = Rc::ptr_eq(&self.0, &reference.0);
        let variant = if is_reference { None } else { Some(Text::new(&self.0, context)?) };
        Ok(Box::new(CardScorer { reference: Text::new(&reference.0, context)?, variant }))
    }
}

impl Steps for Text {
    fn capacity(&self) -> usize {
        Self::capacity(self)
    }

    fn truncate(&mut self, len: usize) -> Result<(), RuntimeError> {
        Ok(Self::truncate(self, len)?)
    }

    fn run(&mut self, tokens: &[u32]) -> Result<(), RuntimeError> {
        match tokens {
            [token] => {
                self.step(Some(*token), 0.0)?;
            }
            tokens => self.prefill(tokens)?,
        }
        Ok(())
    }

    fn run_marked(&mut self, tokens: &[u32]) -> Result<(), RuntimeError> {
        Ok(Self::run_marked(self, tokens)?)
    }

    fn marks(&self) -> Result<Vec<Mark>, RuntimeError> {
        Ok(Self::marks(self)?)
    }

    fn run_timed(&mut self, tokens: &[u32]) -> Result<Timed, RuntimeError> {
        let began = Instant::now();
        Self::run_timed(self, tokens)?;
        Ok(Timed { nanos: nanos(began), card_nanos: Some(self.nanos()?) })
    }

    fn launches(&self) -> Option<u64> {
        self.step_launches()
    }
}

struct CardScorer {
    reference: Text,
    /// `None` where the reference is compared with itself.
    variant: Option<Text>,
}

impl Scorer for CardScorer {
    fn score(&mut self, tokens: &[u32]) -> Result<Vec<Divergence>, RuntimeError> {
        Ok(cuda::score(&mut self.reference, self.variant.as_mut(), tokens)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval;
    use crate::nn::toy::Toy;
    use crate::runtime::generate;

    fn put(card: &Card, host: &Llama) -> CardModel {
        card.model(host, &|_, _| true).unwrap()
    }

    #[test]
    fn a_text_on_the_card_is_the_processor_s_and_ends_where_it_must() {
        let host = Toy::new(|_| {}).model();
        let model = put(&Card::emulated(), &host);
        let greedy = Sampling { temperature: 0.0, seed: 1 };
        let expected = generate(&host, &[1, 2, 3], 8, greedy, &|_| true).unwrap();
        assert_eq!(model.generate(&[1, 2, 3], 8, greedy, &|_| true).unwrap(), expected);
        assert_eq!(model.generate(&[1, 2, 3], 8, greedy, &|done| done < 3).unwrap(), expected[..3]);
        assert!(model.generate(&[1, 2, 3], 8, greedy, &|_| false).unwrap().is_empty());
        assert!(model.generate(&[1, 2, 3], 0, greedy, &|_| true).unwrap().is_empty());
        // The context is 64.
        let long = generate(&host, &[1; 60], 50, greedy, &|_| true).unwrap();
        assert_eq!(model.generate(&[1; 60], 50, greedy, &|_| true).unwrap(), long);
        let warm = |seed| model.generate(&[1, 2], 12, Sampling { temperature: 2.0, seed }, &|_| true).unwrap();
        assert_eq!(warm(5), warm(5));
        assert_ne!(warm(5), warm(6));
    }

    #[test]
    fn a_window_on_the_card_has_the_processor_s_score() {
        let (host, mut other) = (Toy::new(|_| {}).model(), Toy::new(|_| {}));
        for weight in other.weights.values_mut().flatten() {
            *weight *= 1.05;
        }
        let other = other.model();
        let card = Card::emulated();
        let (reference, variant) = (put(&card, &host), put(&card, &other));
        let tokens: Vec<u32> = (0..30).map(|i| i * 29 % 128).collect();
        let states = eval::reference_states(&host, &tokens).unwrap();
        let expected = eval::score_window(&host, &states, &other, &tokens).unwrap();
        let mut scorer = variant.scorer(&reference, 30).unwrap();
        for _ in 0..2 {
            let found = eval::summarize(&scorer.score(&tokens).unwrap()).unwrap();
            let near = |a: f64, b: f64| (a - b).abs() < 1e-4 * (1.0 + b.abs());
            assert!(near(found.score.nll, expected.score.nll) && near(found.score.kl, expected.score.kl), "{found:?}");
            assert!(near(found.score.reference_nll, expected.score.reference_nll), "{found:?}");
        }
        let itself = reference.scorer(&reference, 30).unwrap().score(&tokens).unwrap();
        assert!(itself.iter().all(|position| position.kl == 0.0));
    }

    #[test]
    fn steps_are_taken_again_after_a_truncation() {
        let model = put(&Card::emulated(), &Toy::new(|_| {}).model());
        let mut text = model.text(6).unwrap();
        for _ in 0..2 {
            text.truncate(0).unwrap();
            text.run(&[1, 2, 3, 4]).unwrap();
            text.truncate(2).unwrap();
            (0..4).for_each(|token| text.run(&[token]).unwrap());
            assert!(text.run(&[9]).is_err());
        }
    }
}

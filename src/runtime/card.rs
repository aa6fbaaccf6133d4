//! Models and texts on a card, as trials use them.

use std::collections::BTreeMap;
use std::rc::Rc;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::cuda::{self, Device, Model, Text};
use crate::kernels::Divergence;
use crate::nn::Llama;
use crate::runtime::place::{Scorer, Steps};
use crate::runtime::{RuntimeError, Sampling};

/// An open card.
#[derive(Debug)]
pub(super) struct Card(Device);

/// A model on it.
#[derive(Debug, Clone)]
pub(super) struct CardModel(Rc<Model>);

impl Card {
    pub(super) fn open(ordinal: u16) -> Result<Self, RuntimeError> {
        Ok(Self(Device::open(ordinal)?))
    }

    pub(super) fn model(&self, host: &Llama) -> Result<CardModel, RuntimeError> {
        Ok(CardModel(self.0.model(host)?))
    }

    pub(super) fn peak_bytes(&self) -> u64 {
        self.0.allocated_bytes().1
    }
}

impl CardModel {
    pub(super) fn products(&self) -> BTreeMap<String, u32> {
        self.0.products()
    }

    pub(super) fn held_bytes(&self) -> u64 {
        self.0.held_bytes()
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

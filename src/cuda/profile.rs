//! A pass on a card taken apart: a mark behind each operation, in the order of [`crate::nn::Llama::work`].
//!
//! Every operation of that list is some kernels that follow each other, and its time is from the mark before it to its
//! own. What a kernel does beside is where it runs: the writing of the cache in the rotation, the residual's addition in the
//! norm behind it, roundings of activations in the product that takes them, copies of the tokens in the embedding. The
//! choice of the next token is behind the last mark.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::cuda::card::Card;
use crate::cuda::linear::Linear;
use crate::cuda::{CudaError, Model, Text};
use crate::model::Operation;
use crate::nn::{self, Mark, Work};

/// What is marked of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Watch {
    #[default]
    Nothing,
    /// The end of each operation.
    Each,
    /// The end of all.
    Whole,
}

/// The marks of a text's passes. Mark 0 is the beginning.
#[derive(Debug, Default)]
pub(super) struct Marks {
    watch: Cell<Watch>,
    ended: RefCell<Vec<(Option<u16>, Operation)>>,
}

impl Marks {
    /// Whether each operation is marked: then nothing is replayed.
    pub(super) fn is_each(&self) -> bool {
        self.watch.get() == Watch::Each
    }

    /// An operation was asked for.
    pub(super) fn end(&self, card: &Rc<dyn Card>, block: Option<usize>, operation: Operation) -> Result<(), CudaError> {
        if !self.is_each() {
            return Ok(());
        }
        let mut ended = self.ended.borrow_mut();
        ended.push((block.map(|block| block as u16), operation));
        card.mark(ended.len())
    }

    /// Everything was asked for.
    pub(super) fn end_whole(&self, card: &Rc<dyn Card>) -> Result<(), CudaError> {
        if self.watch.get() == Watch::Whole { card.mark(1) } else { Ok(()) }
    }
}

impl Text {
    /// Puts tokens behind the others as [`Self::prefill`] and [`Self::step`] do, launch by launch, with a mark behind each
    /// operation. Marks are made by the first such pass and kept: later ones allocate nothing on the card.
    ///
    /// # Errors
    /// As those.
    pub fn run_marked(&mut self, tokens: &[u32]) -> Result<(), CudaError> {
        self.watched(Watch::Each, tokens)
    }

    /// Puts tokens behind the others, the step of a single one as it was recorded, between two marks.
    ///
    /// # Errors
    /// As [`Self::run_marked`].
    pub fn run_timed(&mut self, tokens: &[u32]) -> Result<(), CudaError> {
        self.watched(Watch::Whole, tokens)
    }

    fn watched(&mut self, watch: Watch, tokens: &[u32]) -> Result<(), CudaError> {
        self.marks.ended.borrow_mut().clear();
        self.card().mark(0)?;
        self.marks.watch.set(watch);
        let ran = match tokens {
            [token] => self.step(Some(*token), 0.0).map(drop),
            tokens => self.prefill(tokens),
        };
        self.marks.watch.set(Watch::Nothing);
        ran
    }

    /// The end of each operation of the last [`Self::run_marked`]. A long prompt goes through in parts: an operation's time
    /// is that of all parts, and the operations are laid one behind the other.
    ///
    /// # Errors
    /// When the card fails.
    pub fn marks(&self) -> Result<Vec<Mark>, CudaError> {
        let ended = self.marks.ended.borrow();
        let (mut order, mut took) = (Vec::new(), BTreeMap::new());
        for (number, operation) in ended.iter().enumerate() {
            let nanos = self.card().nanos_between(number, number + 1)?;
            *took.entry(*operation).or_insert_with(|| {
                order.push(*operation);
                0
            }) += nanos;
        }
        let mut end_nanos = 0;
        let marks = order.into_iter().map(|(block, operation)| {
            end_nanos += took[&(block, operation)];
            Mark { block, operation, end_nanos }
        });
        Ok(marks.collect())
    }

    /// Nanoseconds of the last [`Self::run_timed`] on the card, from when the host began to ask for it.
    ///
    /// # Errors
    /// When the card fails.
    pub fn nanos(&self) -> Result<u64, CudaError> {
        self.card().nanos_between(0, 1)
    }
}

impl Model {
    /// The work of each operation when `seq` tokens run behind `past` tokens, as the host's model lists it, with the bytes
    /// that lie on the card and the products that run there. The host's own products are not made for that.
    pub fn work(&self, host: &nn::Llama, seq: usize, past: usize) -> Vec<Work> {
        host.work_by(seq, past, &|layer, (block, operation), rows| match self.layer(block, operation) {
            Some(layer) => layer.product_work(rows as usize),
            None => layer.product_work(rows),
        })
    }

    /// The layer of an operation; norms and what is between the products have none.
    fn layer(&self, block: Option<u16>, operation: Operation) -> Option<&Linear> {
        let block = block.map(|block| &self.blocks[usize::from(block)]);
        let attention = block.and_then(|block| block.attention.as_ref());
        let mlp = block.and_then(|block| block.mlp.as_ref());
        match operation {
            Operation::Embedding => Some(&self.embedding),
            Operation::Query => attention.map(|part| &part.q),
            Operation::Key => attention.map(|part| &part.k),
            Operation::Value => attention.map(|part| &part.v),
            Operation::Output => attention.map(|part| &part.o),
            Operation::Gate => mlp.map(|part| &part.gate),
            Operation::Up => mlp.map(|part| &part.up),
            Operation::Down => mlp.map(|part| &part.down),
            Operation::Head => Some(self.head()),
            Operation::AttentionNorm
            | Operation::Rope
            | Operation::Attention
            | Operation::MlpNorm
            | Operation::Activation
            | Operation::FinalNorm => None,
        }
    }
}

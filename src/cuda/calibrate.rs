//! The inputs of layers over many windows, one block at a time: hidden states go through it on the card, which sums what
//! its layers read.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::compress::Moments;
use crate::cuda::CudaError;
use crate::cuda::card::{Buffer, Card, Launch};
use crate::cuda::linear::{Linear, Uploaded};
use crate::cuda::model::{Block, Settings};
use crate::cuda::moments::Sums;
use crate::cuda::pass::{Frame, Room, Space, Widths};
use crate::model::Operation;
use crate::nn::{self, NnError};

/// Threads of the kernel that adds.
const THREADS: usize = 256;

/// The hidden states (tokens, hidden) f32 of every window at a block boundary, on their way through a model.
///
/// They are kept in the card's memory; where that is needed for the way through a block, in the host's.
#[derive(Debug)]
pub struct States {
    card: Rc<dyn Card>,
    uploaded: Rc<Uploaded>,
    windows: Vec<Window>,
    hidden_size: usize,
    /// Tokens that go through a block at once.
    rows: usize,
}

/// A window's states.
#[derive(Debug)]
struct Window {
    n_tokens: usize,
    states: Held,
}

#[derive(Debug)]
enum Held {
    OnCard(Buffer),
    OnHost(Vec<f32>),
}

/// What is asked of a way through a block.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// Operations behind which sums are made, over what the products there read.
    pub behind: &'a [Operation],
    /// Of the tokens of all windows every so many-th is kept.
    pub sample_every: usize,
    /// Whether the states go on behind the block.
    pub goes_on: bool,
}

/// Sums by the operation whose results they are over.
type Read = BTreeMap<Operation, Sums>;

/// What a way through a block needs on the card.
struct Way {
    block: Block,
    space: Space,
    cache: Option<[Buffer; 2]>,
    read: Read,
}

impl States {
    /// Embeds windows by a model of the host's; `rows` of their tokens will go through a block at once.
    pub(super) fn new(
        card: &Rc<dyn Card>,
        uploaded: &Rc<Uploaded>,
        host: &nn::Llama,
        windows: &[Vec<u32>],
        rows: usize,
    ) -> Result<Self, CudaError> {
        let (hidden_size, vocab_size) = (host.config().hidden_size, host.config().vocab_size);
        if let Some(&token) = windows.iter().flatten().find(|token| **token as usize >= vocab_size) {
            return Err(NnError::Token { token, vocab_size }.into());
        }
        let embedding = Linear::embedding(card, uploaded, &host.parts().embedding)?;
        let (tokens, landing) = (Buffer::floats(card, rows)?, Buffer::floats(card, rows * hidden_size)?);
        let mut made = Self {
            card: Rc::clone(card),
            uploaded: Rc::clone(uploaded),
            windows: Vec::with_capacity(windows.len()),
            hidden_size,
            rows,
        };
        for window in windows {
            let mut states = Held::new(card, window.len() * hidden_size)?;
            for (number, part) in window.chunks(rows).enumerate() {
                tokens.write(part)?;
                embedding.gather(tokens.address(), part.len(), landing.address())?;
                made.put(&mut states, number * rows * hidden_size, &landing, None, part.len())?;
            }
            made.windows.push(Window { n_tokens: window.len(), states });
        }
        Ok(made)
    }

    /// Takes the windows through block `block` of a model of the host's, whose matrices are copied to the card where they are
    /// not there. Sums are given by the operation behind which they were asked for; a part that the block lacks has none.
    /// `keep_going` hears of each window before it runs and ends the work by `false`: there is no result then, and the
    /// states are of no use any more, as behind an error.
    ///
    /// # Errors
    /// When a part has no kernel, windows exceed the context, or the card fails.
    pub fn through_block(
        &mut self,
        host: &nn::Llama,
        block: usize,
        reading: Reading<'_>,
        keep_going: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<BTreeMap<Operation, Moments>>, CudaError> {
        let mut way = match self.prepare(host, block, reading) {
            Err(CudaError::Memory { .. }) if self.make_room()? => self.prepare(host, block, reading)?,
            prepared => prepared?,
        };
        let mut windows = std::mem::take(&mut self.windows);
        for (number, window) in windows.iter_mut().enumerate() {
            if !keep_going(number) {
                return Ok(None);
            }
            self.run(&mut way, window, reading.goes_on)?;
            // A window is told as done when it is.
            self.card.wait()?;
        }
        self.windows = windows;
        let read = std::mem::take(&mut way.read);
        drop(way);
        let finished = read.into_iter().map(|(operation, sums)| Ok((operation, sums.finish()?)));
        finished.collect::<Result<_, CudaError>>().map(Some)
    }

    /// Everything that the way allocates: what comes behind takes no memory.
    fn prepare(&self, host: &nn::Llama, block: usize, reading: Reading<'_>) -> Result<Way, CudaError> {
        let (parts, card) = (host.parts(), &self.card);
        let (config, rotary, settings) = (&parts.config, &*parts.rotary, Settings::new(host)?);
        let frame = Frame { card, config, rotary, settings };
        let block = Block::new(card, &self.uploaded, &parts.blocks[block])?;
        let n_tokens = self.windows.iter().map(|window| window.n_tokens).sum();
        let mut read = Read::new();
        for &operation in reading.behind {
            if let Some(width) = width_behind(&block, operation) {
                read.insert(operation, Sums::new(card, width, n_tokens, reading.sample_every)?);
            }
        }
        let capacity = self.windows.iter().map(|window| window.n_tokens).max().unwrap_or(0);
        let room = Room { capacity, rows: capacity.clamp(1, self.rows), splits: 1 };
        let space = Space::new(frame, Widths::of(std::slice::from_ref(&block)), room)?;
        let cache = frame.cache(&block, capacity)?;
        Ok(Way { block, space, cache, read })
    }

    /// Moves all states to the host's memory; whether some were on the card.
    fn make_room(&mut self) -> Result<bool, CudaError> {
        let mut has_moved = false;
        for window in &mut self.windows {
            if let Held::OnCard(buffer) = &window.states {
                let mut values = vec![0.0; window.n_tokens * self.hidden_size];
                buffer.read(&mut values)?;
                window.states = Held::OnHost(values);
                has_moved = true;
            }
        }
        Ok(has_moved)
    }

    /// Takes one window through the block.
    fn run(&self, way: &mut Way, window: &mut Window, goes_on: bool) -> Result<(), CudaError> {
        let Way { block, space, cache, read } = way;
        for first in (0..window.n_tokens).step_by(self.rows) {
            let rows = self.rows.min(window.n_tokens - first);
            let (at, len) = (first * self.hidden_size, rows * self.hidden_size);
            match &window.states {
                Held::OnCard(states) => self.add([states.float(at), 0, space.hidden.address()], len)?,
                Held::OnHost(states) => space.hidden.write(&states[at..at + len])?,
            }
            space.count(first, 0)?;
            let is_pending = space.pass(rows, 1).block(block, cache.as_ref(), false, &mut |operation| match (
                read.get_mut(&operation),
                space.behind(operation),
            ) {
                (Some(sums), Some(x)) => sums.add(x, rows),
                _ => Ok(()),
            })?;
            if goes_on {
                self.put(&mut window.states, at, &space.hidden, is_pending.then_some(&space.added), rows)?;
            }
        }
        Ok(())
    }

    /// Puts rows of hidden states, with what is to be added to them, into a window's from number `at` on.
    fn put(
        &self,
        states: &mut Held,
        at: usize,
        hidden: &Buffer,
        added: Option<&Buffer>,
        rows: usize,
    ) -> Result<(), CudaError> {
        let len = rows * self.hidden_size;
        let added = added.map_or(0, Buffer::address);
        match states {
            Held::OnCard(states) => self.add([hidden.address(), added, states.float(at)], len),
            Held::OnHost(states) => {
                if added != 0 {
                    self.add([hidden.address(), added, hidden.address()], len)?;
                }
                hidden.read(&mut states[at..at + len])
            }
        }
    }

    /// out (len) = x + added, of these addresses; `added` may be 0.
    fn add(&self, [x, added, out]: [u64; 3], len: usize) -> Result<(), CudaError> {
        let args = [x, added, out, len as u64];
        let grid = [len.div_ceil(THREADS), 1, 1];
        self.card.launch(Launch { kernel: "add_floats", grid, threads: THREADS as u32, args: &args })
    }
}

impl Held {
    /// Room on the card for so many numbers, or on the host where the card has none.
    fn new(card: &Rc<dyn Card>, len: usize) -> Result<Self, CudaError> {
        match Buffer::floats(card, len) {
            Err(CudaError::Memory { .. }) => Ok(Self::OnHost(vec![0.0; len])),
            made => made.map(Self::OnCard),
        }
    }
}

/// Features of what an operation makes for the products behind it; `None` where the block has none of them.
fn width_behind(block: &Block, operation: Operation) -> Option<usize> {
    let reader = match operation {
        Operation::AttentionNorm => block.attention.as_ref().map(|part| &part.q),
        Operation::Attention => block.attention.as_ref().map(|part| &part.o),
        Operation::MlpNorm => block.mlp.as_ref().map(|part| &part.gate),
        Operation::Activation => block.mlp.as_ref().map(|part| &part.down),
        _ => None,
    };
    reader.map(|reader| reader.shape()[1])
}

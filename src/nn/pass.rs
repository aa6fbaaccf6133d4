//! One pass of tokens through blocks, over buffers that are kept between passes: a step of a text allocates nothing.

use std::cell::Cell;
use std::ops::Range;

use candle_core::{Device, Tensor};

use crate::kernels::{Activation, HeadShape, add_and_norm, add_in_place, gate, rms_norm};
use crate::model::{HiddenAct, Operation};
use crate::nn::attention::Attending;
use crate::nn::inputs::Inputs;
use crate::nn::linear::Scratch;
use crate::nn::rotary::Angles;
use crate::nn::{Attention, KvCache, Linear, LlamaParts, Mlp, NnError, Observer, Probe, with_values};

/// The buffers of a pass.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    /// The residual stream (seq, hidden).
    pub(super) hidden: Vec<f32>,
    /// After a norm (seq, hidden).
    normed: Inputs,
    /// The mixed heads (seq, heads · `head_dim`).
    mixed: Inputs,
    /// The gated channels (seq, width).
    gated: Inputs,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    /// What a part adds to the residual stream (seq, hidden).
    added: Vec<f32>,
    scratch: Scratch,
}

thread_local! {
    static WORKSPACE: Cell<Option<Box<Workspace>>> = const { Cell::new(None) };
}

impl Workspace {
    /// Lends the workspace of this thread.
    pub(super) fn with<T>(run: impl FnOnce(&mut Self) -> T) -> T {
        let mut workspace = WORKSPACE.take().unwrap_or_default();
        let result = run(&mut workspace);
        WORKSPACE.set(Some(workspace));
        result
    }
}

/// Who sees a pass.
#[derive(Default)]
pub(super) struct Hooks<'a, 'b> {
    /// Sees the inputs of products.
    pub(super) observer: Option<&'a mut (dyn Observer + 'b)>,
    /// Sees when each operation ends.
    pub(super) probe: Option<&'a mut Probe>,
}

impl Hooks<'_, '_> {
    pub(super) fn end(&mut self, block: Option<usize>, operation: Operation) {
        if let Some(probe) = &mut self.probe {
            probe.end(block, operation);
        }
    }
}

/// Tokens on their way through blocks.
pub(super) struct Pass<'a, 'b> {
    pub(super) parts: &'a LlamaParts,
    pub(super) angles: Angles<'a>,
    pub(super) seq: usize,
    pub(super) cache: Option<&'a mut KvCache>,
    pub(super) hooks: Hooks<'a, 'b>,
}

impl Pass<'_, '_> {
    /// Runs the blocks of `range` over the residual stream in `space`.
    pub(super) fn run(&mut self, range: Range<usize>, space: &mut Workspace) -> Result<(), NnError> {
        let parts = self.parts;
        // What the last part made joins the stream with the next norm, in one pass over it.
        let mut is_pending = false;
        for (index, block) in range.clone().zip(&parts.blocks[range]) {
            if let Some(attention) = &block.attention {
                self.normalize(&attention.norm, is_pending, space)?;
                self.hooks.end(Some(index), Operation::AttentionNorm);
                self.attention(attention, index, space)?;
                is_pending = true;
            }
            if let Some(mlp) = &block.mlp {
                self.normalize(&mlp.norm, is_pending, space)?;
                self.hooks.end(Some(index), Operation::MlpNorm);
                self.mlp(mlp, index, space)?;
                is_pending = true;
            }
        }
        if is_pending {
            add_in_place(&mut space.hidden, &space.added);
        }
        Ok(())
    }

    /// Adds what is pending to the stream and normalizes it.
    fn normalize(&self, weight: &Tensor, is_pending: bool, space: &mut Workspace) -> Result<(), NnError> {
        let Workspace { hidden, normed, added, .. } = space;
        let (width, eps) = (self.parts.config.hidden_size, self.parts.config.rms_norm_eps as f32);
        let normed = normed.start(self.seq, width);
        with_values(weight, |weight| {
            if is_pending {
                add_and_norm(hidden, added, weight, eps, normed);
            } else {
                rms_norm(hidden, weight, eps, normed);
            }
        })
    }

    fn attention(&mut self, part: &Attention, block: usize, space: &mut Workspace) -> Result<(), NnError> {
        let Workspace { normed, mixed, query, key, value, added, scratch, .. } = space;
        let parts = self.parts;
        let at = Some(block);
        self.product(&part.q, normed, query, scratch)?;
        self.hooks.end(at, Operation::Query);
        self.product(&part.k, normed, key, scratch)?;
        self.hooks.end(at, Operation::Key);
        self.product(&part.v, normed, value, scratch)?;
        self.hooks.end(at, Operation::Value);
        self.angles.rotate(query)?;
        self.angles.rotate(key)?;
        self.hooks.end(at, Operation::Rope);
        let heads = HeadShape { n_heads: part.n_heads, n_kv_heads: part.n_kv_heads, head_dim: parts.config.head_dim };
        let attending = Attending { heads, settings: parts.attention, kv_cache: parts.kv_cache };
        let rows = mixed.start(self.seq, part.n_heads * parts.config.head_dim);
        attending.mix([query, key, value], self.cache.as_deref_mut().map(|cache| (cache, block)), rows)?;
        self.hooks.end(at, Operation::Attention);
        self.product(&part.o, mixed, added, scratch)?;
        self.hooks.end(at, Operation::Output);
        Ok(())
    }

    fn mlp(&mut self, part: &Mlp, block: usize, space: &mut Workspace) -> Result<(), NnError> {
        let Workspace { normed, gated, gate: opened, up, added, scratch, .. } = space;
        let at = Some(block);
        self.product(&part.gate, normed, opened, scratch)?;
        self.hooks.end(at, Operation::Gate);
        self.product(&part.up, normed, up, scratch)?;
        self.hooks.end(at, Operation::Up);
        let activation = match self.parts.config.hidden_act {
            HiddenAct::Silu => Activation::Silu,
            HiddenAct::GeluTanh => Activation::GeluTanh,
            HiddenAct::Gelu => Activation::Gelu,
        };
        gate(opened, up, activation, gated.start(self.seq, part.up.shape()[0]));
        self.hooks.end(at, Operation::Activation);
        self.product(&part.down, gated, added, scratch)?;
        self.hooks.end(at, Operation::Down);
        Ok(())
    }

    fn product(
        &mut self,
        layer: &Linear,
        x: &mut Inputs,
        y: &mut Vec<f32>,
        scratch: &mut Scratch,
    ) -> Result<(), NnError> {
        if let Some(observer) = &mut self.hooks.observer {
            let x = Tensor::from_slice(x.values(), (x.n_rows(), x.n_inputs()), &Device::Cpu)?;
            observer.input(layer.path(), &x);
        }
        layer.multiply(x, y, scratch)
    }
}

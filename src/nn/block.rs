//! What a block is made of. Attention and MLP may each be missing, and widths differ from block to block.

use std::sync::Arc;

use candle_core::Tensor;

use crate::model::BlockShape;
use crate::nn::Linear;

/// One block: each part adds to the residual stream, and one that was removed adds nothing.
#[derive(Debug, Clone)]
pub struct Block {
    /// Attention; `None` when it was removed.
    pub attention: Option<Attention>,
    /// The gated MLP; `None` when it was removed.
    pub mlp: Option<Mlp>,
}

/// Grouped-query attention with the norm before it.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Weight (hidden) f32 of the norm.
    pub norm: Tensor,
    /// Queries: (`n_heads` · `head_dim`, hidden).
    pub q: Arc<Linear>,
    /// Keys: (`n_kv_heads` · `head_dim`, hidden).
    pub k: Arc<Linear>,
    /// Values: (`n_kv_heads` · `head_dim`, hidden).
    pub v: Arc<Linear>,
    /// Output: (hidden, `n_heads` · `head_dim`).
    pub o: Arc<Linear>,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`, and consecutive query heads share one.
    pub n_kv_heads: usize,
}

/// The gated MLP with the norm before it: down(act(gate(x)) · up(x)).
#[derive(Debug, Clone)]
pub struct Mlp {
    /// Weight (hidden) f32 of the norm.
    pub norm: Tensor,
    /// Gate: (width, hidden).
    pub gate: Arc<Linear>,
    /// Up: (width, hidden).
    pub up: Arc<Linear>,
    /// Down: (hidden, width).
    pub down: Arc<Linear>,
}

impl Block {
    /// The linear layers in the order of execution: q, k, v, o, gate, up, down.
    pub fn layers(&self) -> impl Iterator<Item = &Arc<Linear>> {
        let attention = self.attention.iter().flat_map(|part| [&part.q, &part.k, &part.v, &part.o]);
        let mlp = self.mlp.iter().flat_map(|part| [&part.gate, &part.up, &part.down]);
        attention.chain(mlp)
    }

    /// This block with each linear layer replaced, in the order of [`Self::layers`].
    #[must_use]
    pub fn map_layers(&self, mut replace: impl FnMut(&Arc<Linear>) -> Arc<Linear>) -> Self {
        let attention = self.attention.as_ref().map(|part| Attention {
            norm: part.norm.clone(),
            q: replace(&part.q),
            k: replace(&part.k),
            v: replace(&part.v),
            o: replace(&part.o),
            ..*part
        });
        let mlp = self.mlp.as_ref().map(|part| Mlp {
            norm: part.norm.clone(),
            gate: replace(&part.gate),
            up: replace(&part.up),
            down: replace(&part.down),
        });
        Self { attention, mlp }
    }

    /// The widths that the layers have.
    pub fn shape(&self) -> BlockShape {
        let (n_heads, n_kv_heads) = self.attention.as_ref().map_or((0, 0), |part| (part.n_heads, part.n_kv_heads));
        let intermediate_size = self.mlp.as_ref().map_or(0, |part| part.gate.shape()[0]);
        BlockShape { n_heads, n_kv_heads, intermediate_size }
    }
}

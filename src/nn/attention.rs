//! Attention over keys and values in the formats of the cache.

use candle_core::{Device, Tensor};

use crate::kernels::{HeadShape, Rows, Sight, attend};
use crate::nn::cache::KeyValues;
use crate::nn::{KvCache, NnError};
use crate::recipe::{AttentionForm, AttentionSettings, KvCacheSettings};

/// How a block attends.
#[derive(Debug, Clone, Copy)]
pub struct Attending {
    /// Its heads.
    pub heads: HeadShape,
    /// The form, and what a query sees.
    pub settings: AttentionSettings,
    /// The formats that keys and values are rounded to.
    pub kv_cache: KvCacheSettings,
}

impl Attending {
    /// Softmax(q kᵀ / √d) v of tokens behind what the cache holds (of its block so numbered), or of a whole text
    /// without one: rotated queries (seq, `n_heads` · `head_dim`), rotated keys and values (seq, `n_kv_heads` ·
    /// `head_dim`) → `mixed`, as long as the queries.
    ///
    /// Without a cache keys and values are rounded to its formats too, so that a text's quality is that of its
    /// deployment.
    ///
    /// # Errors
    /// When the shapes do not fit each other, the formats or the cache.
    pub fn mix(
        &self,
        [query, key, value]: [&[f32]; 3],
        cache: Option<(&mut KvCache, usize)>,
        mixed: &mut [f32],
    ) -> Result<(), NnError> {
        let HeadShape { n_heads, n_kv_heads, head_dim } = self.heads;
        let is_grouped = n_kv_heads > 0 && n_heads.is_multiple_of(n_kv_heads) && self.settings.window != Some(0);
        let (width, kv_width) = (n_heads * head_dim, n_kv_heads * head_dim);
        let seq = query.len() / width.max(1);
        let fits = query.len() == seq * width && key.len() == seq * kv_width && value.len() == key.len();
        if !is_grouped || !fits {
            let text = format!("{:?} for {} queries and {} keys", self.heads, query.len(), key.len());
            return Err(NnError::Shape(text));
        }
        let rounded;
        let (keys, values) = match cache {
            Some((cache, block)) => cache.append(block, key, value)?,
            None if self.kv_cache.is_default() => (Rows::F32(key), Rows::F32(value)),
            None => {
                let mut made = KeyValues::new(kv_width, seq, self.kv_cache)?;
                made.write(0, key, value);
                rounded = made;
                rounded.rows(seq)
            }
        };
        let sight = Sight { window: self.settings.window, sinks: self.settings.sinks };
        match self.settings.form {
            AttentionForm::Tiled => attend(query, keys, values, self.heads, sight, mixed),
            AttentionForm::Naive => mixed.copy_from_slice(&naive(query, keys, values, self.heads, sight)?),
        }
        Ok(())
    }
}

/// All scores of the heads that share a key at once, by candle's products.
fn naive(query: &[f32], keys: Rows<'_>, values: Rows<'_>, heads: HeadShape, sight: Sight) -> Result<Vec<f32>, NnError> {
    let HeadShape { n_heads, n_kv_heads, head_dim } = heads;
    let group = n_heads / n_kv_heads;
    let tensor = |values: &[f32], n: usize| {
        let rows = values.len() / (n * head_dim);
        Tensor::from_slice(values, (rows, n, head_dim), &Device::Cpu)?.transpose(0, 1)?.contiguous()
    };
    let widened = |rows: Rows<'_>| {
        let mut scratch = vec![0.0; Rows::scratch_len(rows.n_values())];
        tensor(rows.read(0, rows.n_values(), &mut scratch), n_kv_heads)
    };
    let queries = (tensor(query, n_heads)? * (1.0 / (head_dim as f64).sqrt()))?;
    let (keys, values) = (widened(keys)?, widened(values)?);
    let (seq, tokens) = (queries.dim(1)?, keys.dim(1)?);
    let sees = |query: usize, key: usize| sight.sees(tokens - seq + query, key);
    let row = |query| (0..tokens).map(move |key| if sees(query, key) { 0.0 } else { f32::NEG_INFINITY });
    let mask = Tensor::from_vec((0..seq).flat_map(row).collect::<Vec<f32>>(), (seq, tokens), &Device::Cpu)?;
    let head = |kv_head: usize| {
        let queries = queries.narrow(0, kv_head * group, group)?.reshape((group * seq, head_dim))?;
        let mut scores = queries.matmul(&keys.get(kv_head)?.t()?)?.reshape((group, seq, tokens))?;
        scores = scores.broadcast_add(&mask)?;
        scores = candle_nn::ops::softmax_last_dim(&scores)?;
        scores.reshape((group * seq, tokens))?.matmul(&values.get(kv_head)?)?.reshape((group, seq, head_dim))
    };
    let mixed = (0..n_kv_heads).map(head).collect::<Result<Vec<_>, _>>()?;
    Ok(Tensor::cat(&mixed, 0)?.transpose(0, 1)?.contiguous()?.flatten_all()?.to_vec1()?)
}

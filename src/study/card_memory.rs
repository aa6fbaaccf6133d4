//! What a trial takes at its most of a card's memory, from headers and settings.

use crate::model::{BlockShape, LlamaConfig, ModelFamily, ModelGraph, StoredFormat};
use crate::recipe::{Activations, Execution, KvCacheSettings, KvFormat, LayerPlan, Plan, Structure, WeightFormat};
use crate::study::Workload;
use crate::study::memory::{is_changed, kv_row, n_weights};

/// Rows of a prompt in one pass.
const PASS_ROWS: u64 = 1_024;
/// Rows of logits at a time.
const LOGIT_ROWS: u64 = 256;
/// What the library of products of many rows works in.
const LIBRARY_BYTES: u64 = 32 << 20;
/// Most bytes of packed weights that are written out for it at a time.
const WRITTEN_BYTES: u64 = 128 << 20;
/// Keys for which a single token's attention gets a share of its own, and the most shares.
const SPLIT: u64 = 64;
const MAX_SPLITS: u64 = 64;
/// Rows begin at multiples of this.
const ROW_BYTES: u64 = 16;

/// Parts of a trial's memory on a card, in bytes: what the worker allocates. The driver's context, some hundred megabytes
/// that the worker does not count either, is not among them.
#[expect(clippy::struct_field_names, reason = "a quantity ends in its unit")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CardMemoryEstimate {
    /// The model as the checkpoint has it.
    pub reference_bytes: u64,
    /// Layers that the variant does not share with it.
    pub variant_bytes: u64,
    /// Keys and values of both texts.
    pub kv_cache_bytes: u64,
    /// Buffers of passes, logits and tables of both texts.
    pub workspace_bytes: u64,
    /// The library of products of many rows, where it is found, and weights written out for it.
    pub library_bytes: u64,
}

impl CardMemoryEstimate {
    /// The trial that `plan` and `workload` describe.
    pub fn new(plan: &Plan, graph: &ModelGraph, workload: &Workload) -> Self {
        let ModelFamily::Llama(config) = &graph.family;
        let changed: Vec<usize> = (0..plan.layers.len()).filter(|index| is_changed(plan, graph, *index)).collect();
        let is_variant = !changed.is_empty()
            || plan.structure != Structure::default()
            || plan.kv_cache != KvCacheSettings::default();
        let native = graph.layers.iter().map(|layer| stored_bytes(layer.stored, layer.shape)).sum::<u64>();
        let mut found = Self {
            // Norms and biases are f32 there.
            reference_bytes: native + 4 * graph.other_weights,
            variant_bytes: changed.iter().map(|index| planned_bytes(&plan.layers[*index])).sum(),
            ..Self::default()
        };
        if is_variant {
            found.variant_bytes += 4 * graph.other_weights;
        }
        let texts = 1 + u64::from(is_variant);
        let max_context = config.max_context as u64;
        let widest = plan.blocks.iter().copied().chain((0..config.n_blocks).map(|block| config.block_shape(block)));
        let widest: Vec<BlockShape> = widest.collect();
        let mut of_text = |capacity: u64| {
            let native = (0..config.n_blocks).map(|block| config.block_shape(block));
            let mut kv = kv_row(config, native, KvFormat::default(), KvFormat::default()) * capacity;
            if is_variant {
                kv += kv_row(config, plan.blocks.iter().copied(), plan.kv_cache.keys, plan.kv_cache.values) * capacity;
            }
            found.kv_cache_bytes = found.kv_cache_bytes.max(kv);
            found.workspace_bytes = found.workspace_bytes.max(texts * text_bytes(config, &widest, capacity));
        };
        if let Some(speed) = &workload.speed {
            of_text((u64::from(speed.prompt) + u64::from(speed.decode)).min(max_context));
        }
        if let Some(quality) = &workload.quality {
            of_text(quality.context as u64);
        }
        found.library_bytes = LIBRARY_BYTES + written_bytes(plan, graph, &changed);
        found
    }

    /// Peak with the library, from the beginning to the end.
    pub fn peak_bytes(&self) -> u64 {
        let Self { reference_bytes, variant_bytes, kv_cache_bytes, workspace_bytes, library_bytes } = *self;
        reference_bytes + variant_bytes + kv_cache_bytes + workspace_bytes + library_bytes
    }
}

/// Bytes of a layer as a checkpoint stores it; the fields of rows of blocks lie apart, each with its own padding.
fn stored_bytes(format: StoredFormat, [rows, row_len]: [usize; 2]) -> u64 {
    let row = (row_len / format.block_len() * format.block_bytes()) as u64;
    let padding = if matches!(format, StoredFormat::Ggml(_)) { ROW_BYTES } else { 0 };
    rows as u64 * (row.next_multiple_of(ROW_BYTES) + padding)
}

/// Bytes of a layer of the variant: as packed, with zeros that a bitmask leaves out written out again.
fn planned_bytes(layer: &LayerPlan) -> u64 {
    let (n, rows) = (n_weights(layer), layer.shape.map_or(0, |[rows, _]| rows as u64));
    if layer.execution == Execution::Simulated {
        return 4 * n;
    }
    let dense = match layer.settings.weights {
        _ if !layer.settings.sparsity.is_some_and(|sparsity| sparsity.is_bitmask()) => 0,
        WeightFormat::Int(_) => n + 4 * rows,
        _ => 2 * n,
    };
    layer.packed_bytes.max(dense) + ROW_BYTES * rows
}

/// Bytes of a text with room for so many tokens, but its keys and values.
fn text_bytes(config: &LlamaConfig, blocks: &[BlockShape], capacity: u64) -> u64 {
    let most = |width: &dyn Fn(&BlockShape) -> usize| blocks.iter().map(width).max().unwrap_or(0) as u64;
    let head = config.head_dim as u64;
    let (heads, kv_heads) = (most(&|shape| shape.n_heads), most(&|shape| shape.n_kv_heads));
    let (hidden, channels) = (config.hidden_size as u64, most(&|shape| shape.intermediate_size));
    let rows = capacity.clamp(1, PASS_ROWS);
    let widest = hidden.max(heads * head).max(channels);
    // The stream, what joins it, its norm; queries and mixed heads; keys and values; gate and up.
    let passes = 4 * rows * (3 * hidden + 2 * heads * head + 2 * kv_heads * head + 2 * channels);
    // Codes, numbers on a grid, halves.
    let rounded = rows * (widest.next_multiple_of(ROW_BYTES) + 4 * widest + 2 * widest.next_multiple_of(8) + 12);
    let splits = capacity.div_ceil(SPLIT).clamp(1, MAX_SPLITS) * heads;
    let logits = 4 * rows.min(LOGIT_ROWS) * config.vocab_size as u64;
    // Cosines, sines, and the draws of tokens.
    let tables = capacity * (4 * head + 8);
    passes + rounded + 4 * splits * (head + 2) + logits + tables
}

/// Bytes of the widest packed layer as halves, or of the most of it that is written out at a time.
fn written_bytes(plan: &Plan, graph: &ModelGraph, changed: &[usize]) -> u64 {
    let stored = graph.layers.iter().filter(|layer| matches!(layer.stored, StoredFormat::Ggml(_)));
    let stored = stored.map(|layer| layer.shape.iter().map(|n| *n as u64).product::<u64>());
    let is_written = |layer: &&LayerPlan| {
        let settings = &layer.settings;
        layer.execution == Execution::Packed
            && settings.weights.is_quantized()
            && !(matches!(settings.weights, WeightFormat::Int(_)) && settings.activations != Activations::Float)
    };
    let planned = changed.iter().map(|index| &plan.layers[*index]).filter(is_written).map(n_weights);
    (2 * stored.chain(planned).max().unwrap_or(0)).min(WRITTEN_BYTES)
}

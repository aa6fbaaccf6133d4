//! What a trial takes at its most, from headers and settings: nothing is opened or run.

use crate::device::DeviceSpec;
use crate::model::{BlockShape, LlamaConfig, ModelFamily, ModelGraph};
use crate::recipe::{
    Execution, KvCacheSettings, KvFormat, LayerPlan, LayerSettings, LowRankMethod, Plan, Rounding, SparsityMethod,
    Structure,
};
use crate::study::{CardMemoryEstimate, Workload};

/// A worker without a model: program, libraries, stacks and heaps of its threads. What is left of a measured trial of a
/// small model when all else that is counted here is taken away (x86-64 Linux, two threads).
const BASE_BYTES: u64 = 19 << 20;

/// A token of the vocabulary in the tokenizer's tables and in what reading its file leaves in the heap: measured with
/// tokenizers 0.23 on a vocabulary of 32,000.
const TOKENIZER_BYTES: u64 = 1_300;

/// Bytes of a text for one token, about, where the number of windows is not set: English in a vocabulary of 32,000.
const TEXT_BYTES_PER_TOKEN: u64 = 4;

/// The C library gives allocations from this size on back to the system at once (glibc, `M_MMAP_THRESHOLD`); smaller ones
/// stay with the process and are used again.
const GIVEN_BACK_BYTES: u64 = 32 << 20;

/// Tokens of each layer's input that calibration keeps as they are.
const SAMPLE_TOKENS: u64 = 512;

/// Parts of a trial's memory, in bytes.
#[expect(clippy::struct_field_names, reason = "a quantity ends in its unit")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryEstimate {
    /// The worker without a model.
    pub base_bytes: u64,
    /// The tokenizer, where a text is read.
    pub tokenizer_bytes: u64,
    /// The model as the checkpoint has it: every variant is scored and timed beside it.
    pub reference_bytes: u64,
    /// Layers that the variant does not share with it, as they are held.
    pub variant_bytes: u64,
    /// Buffers of the longest pass.
    pub workspace_bytes: u64,
    /// Keys and values of both models.
    pub kv_cache_bytes: u64,
    /// The reference's states before the head, for every window that is scored.
    pub states_bytes: u64,
    /// Logits that exist at the same time.
    pub logits_bytes: u64,
    /// Layers dequantized to f32 to score the weights alone.
    pub dequantized_bytes: u64,
    /// What making the variant takes and gives back: calibration states and sums, copies of the layers in work.
    pub making_bytes: u64,
    /// The part of it that stays with the process, to be used again.
    pub kept_bytes: u64,
}

impl MemoryEstimate {
    /// Rows of logits that scoring makes at a time.
    pub const LOGIT_ROWS: usize = 64;

    /// Most bytes of the reference's states that are kept between trials.
    pub const MAX_STATES_BYTES: u64 = 112 << 20;

    /// The trial that `plan` and `workload` describe. `text_bytes` is the size of the text that is scored, for a workload that
    /// does not say how many windows; without it the states are taken at their most.
    ///
    /// A worker that has run trials before keeps compressed layers of theirs, which are not counted.
    pub fn new(plan: &Plan, graph: &ModelGraph, workload: &Workload, text_bytes: Option<u64>) -> Self {
        let ModelFamily::Llama(config) = &graph.family;
        let changed: Vec<usize> = (0..plan.layers.len()).filter(|index| is_changed(plan, graph, *index)).collect();
        let is_variant = !changed.is_empty() || plan.structure != Structure::default();
        let reads_text = workload.quality.is_some() || workload.sample.is_some() || plan.needs_calibration();
        let (making_bytes, kept_bytes) = making(plan, graph, config, &changed);
        let mut found = Self {
            base_bytes: BASE_BYTES,
            tokenizer_bytes: if reads_text { TOKENIZER_BYTES * config.vocab_size as u64 } else { 0 },
            reference_bytes: graph.stored_bytes(),
            variant_bytes: changed.iter().map(|index| held_bytes(&plan.layers[*index])).sum(),
            making_bytes,
            kept_bytes,
            ..Self::default()
        };
        let widest = plan.blocks.iter().chain(&config.block_shapes).copied().chain([config.block_shape(0)]);
        let row_bytes = widest.map(|shape| workspace_row(config, shape)).max().unwrap_or(0);
        let mut seq = 0;
        if let Some(speed) = &workload.speed {
            seq = u64::from(speed.prompt);
            let capacity = (seq + u64::from(speed.decode)).min(config.max_context as u64);
            let native = (0..config.n_blocks).map(|block| config.block_shape(block));
            found.kv_cache_bytes = kv_row(config, native, KvFormat::default(), KvFormat::default()) * capacity;
            if is_variant || plan.kv_cache != KvCacheSettings::default() {
                let own = plan.blocks.iter().copied();
                found.kv_cache_bytes += kv_row(config, own, plan.kv_cache.keys, plan.kv_cache.values) * capacity;
            }
            found.logits_bytes = 4 * config.vocab_size as u64;
        }
        if let Some(quality) = &workload.quality {
            let context = quality.context as u64;
            seq = seq.max(context);
            let window_bytes = 4 * context * config.hidden_size as u64;
            let of_text = text_bytes.map(|bytes| bytes / TEXT_BYTES_PER_TOKEN / context.max(1));
            let windows = quality.windows.map(u64::from).into_iter().chain(of_text).min().unwrap_or(u64::MAX);
            found.states_bytes = windows.saturating_mul(window_bytes).min(Self::MAX_STATES_BYTES);
            let arms = 1 + u64::from(is_variant);
            found.logits_bytes = found.logits_bytes.max(arms * 4 * (Self::LOGIT_ROWS * config.vocab_size) as u64);
            if quality.dequantized {
                let blocks = plan.layers.iter().filter(|layer| layer.settings.weights.ggml().is_some());
                found.dequantized_bytes = blocks.map(|layer| 4 * n_weights(layer)).sum();
            }
        }
        found.workspace_bytes = seq * row_bytes;
        found
    }

    /// Peak while the variant is scored and timed: what [`crate::study::Memory::peak_rss_bytes`] measures.
    pub fn running_bytes(&self) -> u64 {
        // Scoring comes before timing, and both work in what making left.
        let at_work = self.kv_cache_bytes.max(self.logits_bytes + self.dequantized_bytes);
        self.resident_bytes() + self.kept_bytes.max(self.workspace_bytes + self.states_bytes + at_work)
    }

    /// Peak from the beginning to the end: what must be free.
    pub fn peak_bytes(&self) -> u64 {
        self.running_bytes().max(self.resident_bytes() + self.making_bytes)
    }

    /// What is there from the time that the variant is.
    fn resident_bytes(&self) -> u64 {
        self.base_bytes + self.tokenizer_bytes + self.reference_bytes + self.variant_bytes
    }
}

/// The most that a trial takes of the memory of its device, predicted: of the host's on the processor, of a card's on it.
///
/// - `text_bytes`: as in [`MemoryEstimate::new`]
pub fn predicted_peak_bytes(plan: &Plan, graph: &ModelGraph, workload: &Workload, text_bytes: Option<u64>) -> u64 {
    match plan.device {
        DeviceSpec::Cpu { .. } => MemoryEstimate::new(plan, graph, workload, text_bytes).peak_bytes(),
        DeviceSpec::Cuda { .. } => CardMemoryEstimate::new(plan, graph, workload).peak_bytes(),
    }
}

/// Whether the variant holds a layer of its own in the place of the reference's.
pub(super) fn is_changed(plan: &Plan, graph: &ModelGraph, index: usize) -> bool {
    let (planned, layer) = (&plan.layers[index], &graph.layers[index]);
    planned.shape.is_some_and(|shape| shape != layer.shape || !planned.settings.is_reference())
}

pub(super) fn n_weights(layer: &LayerPlan) -> u64 {
    layer.shape.map_or(0, |[rows, row_len]| rows as u64 * row_len as u64)
}

fn held_bytes(layer: &LayerPlan) -> u64 {
    match layer.execution {
        Execution::Packed => layer.packed_bytes,
        Execution::Simulated => 4 * n_weights(layer),
    }
}

/// Bytes of one token in the buffers of a pass, all f32: the stream, what joins it, its norm; queries, keys, values, mixed
/// heads; gate, up and gated channels; and the inputs of products once more, rounded to bytes with a scale for 32.
fn workspace_row(config: &LlamaConfig, shape: BlockShape) -> u64 {
    let (hidden, query) = (config.hidden_size as u64, (shape.n_heads * config.head_dim) as u64);
    let (key, width) = ((shape.n_kv_heads * config.head_dim) as u64, shape.intermediate_size as u64);
    let rounded = (hidden + query + width) * 9 / 8;
    4 * (3 * hidden + 2 * query + 2 * key + 3 * width) + rounded
}

/// Bytes of one token's keys and values in every block.
pub(super) fn kv_row(
    config: &LlamaConfig,
    blocks: impl Iterator<Item = BlockShape>,
    keys: KvFormat,
    values: KvFormat,
) -> u64 {
    let bytes = |format: KvFormat, n: usize| (n * format.block_bytes() / format.block_len()) as u64;
    let row = |shape: BlockShape| shape.n_kv_heads * config.head_dim;
    blocks.map(|shape| bytes(keys, row(shape)) + bytes(values, row(shape))).sum()
}

/// What making takes beyond the layers made, and the part of it in allocations that the process keeps.
fn making(plan: &Plan, graph: &ModelGraph, config: &LlamaConfig, changed: &[usize]) -> (u64, u64) {
    let DeviceSpec::Cpu { threads } = plan.device else { return (0, 0) };
    let mut parts: Vec<(u64, u64)> = Vec::new();
    // Each thread has a layer in f32 and what becomes of it.
    let in_work = |bytes: &dyn Fn(usize) -> u64| {
        let mut each: Vec<u64> = changed.iter().map(|index| bytes(*index)).collect();
        each.sort_unstable_by(|a, b| b.cmp(a));
        each.truncate(usize::from(threads.max(1)));
        each
    };
    let dense = in_work(&|index| 4 * graph.layers[index].shape.iter().map(|n| *n as u64).product::<u64>());
    parts.extend(dense.into_iter().map(|bytes| (2 * bytes, bytes)));
    if plan.needs_calibration() {
        let context = plan.calibration.context_of(config.max_context) as u64;
        let window = 4 * context * config.hidden_size as u64;
        parts.push((u64::from(plan.calibration.n_windows()) * window, window));
        // The inputs of a block: of queries, keys and values; of the output; of gate and up; of down.
        let shape = config.block_shape(0);
        let widths = [config.hidden_size, shape.n_heads * config.head_dim, config.hidden_size, shape.intermediate_size];
        for width in widths.map(|width| width as u64) {
            parts.push((8 * width * width, 8 * width * width));
            parts.push((4 * SAMPLE_TOKENS * width, 4 * SAMPLE_TOKENS * width));
        }
        // Each thread has the sums of its layer damped and factorized, in f64, where the method asks for it.
        let factors = in_work(&|index| {
            let is_asked = factorizes(&plan.layers[index].settings);
            if is_asked { 8 * (graph.layers[index].shape[1] as u64).pow(2) } else { 0 }
        });
        parts.extend(factors.into_iter().map(|bytes| (2 * bytes, bytes)));
    }
    let kept = parts.iter().filter(|(_, each)| *each < GIVEN_BACK_BYTES);
    (parts.iter().map(|(bytes, _)| bytes).sum(), kept.map(|(bytes, _)| bytes).sum())
}

/// Whether a method factorizes the second moments of a layer's inputs.
fn factorizes(settings: &LayerSettings) -> bool {
    let is_whitened = |method: LowRankMethod| method == LowRankMethod::Whitened;
    matches!(settings.rounding, Rounding::Gptq(_))
        || settings.sparsity.is_some_and(|sparsity| sparsity.method == SparsityMethod::SparseGpt)
        || settings.low_rank.is_some_and(|low_rank| is_whitened(low_rank.method))
        || settings.correction.is_some_and(|correction| is_whitened(correction.method))
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;

//! Which blocks go when a plan says how many: the calibration text decides.

use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::kernels::divergence;
use crate::model::BlockShape;
use crate::nn::{Block, Llama, LlamaParts, with_values};
use crate::recipe::{BlockPart, BlockScore};
use crate::runtime::keys::{self, CURRENT};
use crate::runtime::work::Work;
use crate::runtime::{CalibrationText, RuntimeError, lists};

/// Windows that influence is averaged over.
const INFLUENCE_WINDOWS: usize = 32;
/// Windows that every candidate is scored on, and the most tokens of each.
const KL_WINDOWS: usize = 4;
const KL_TOKENS: usize = 512;
/// Positions whose logits exist at the same time.
const CHUNK: usize = 128;

/// The blocks that lose what the plan removes, rising.
pub(super) fn blocks(work: Work<'_>, text: &CalibrationText, model: &Arc<Llama>) -> Result<Vec<u16>, RuntimeError> {
    let Some(cut) = &work.plan.structure.blocks else { return Ok(Vec::new()) };
    let n_blocks = model.config().n_blocks;
    let key = keys::hash("chosen", &(CURRENT.structure, &work.plan.model, cut, text.hash));
    let stored = work.stored(key).and_then(|bytes| lists::from_bytes::<1>(&bytes));
    if let Some([Some(stored)]) = stored
        && let Some(chosen) = lists::indices(&stored, n_blocks)
    {
        return Ok(narrow(&chosen));
    }
    let candidates: Vec<usize> = (0..n_blocks).filter(|block| has(&model.parts().blocks[*block], cut.part)).collect();
    let count = usize::from(cut.count).min(candidates.len());
    let mut chosen = match cut.score {
        BlockScore::BlockInfluence => least_influential(work, text, model, cut.part, &candidates, count)?,
        BlockScore::MeasuredKl => least_missed(work, text, model, cut.part, candidates, count)?,
    };
    chosen.sort_unstable();
    work.store(key, &[&lists::to_bytes(&[Some(lists::of_indices(&chosen))])]);
    Ok(narrow(&chosen))
}

fn narrow(blocks: &[usize]) -> Vec<u16> {
    blocks.iter().map(|&block| u16::try_from(block).expect("blocks are counted in 16 bits")).collect()
}

fn has(block: &Block, part: BlockPart) -> bool {
    match part {
        BlockPart::Block => block.attention.is_some() || block.mlp.is_some(),
        BlockPart::Attention => block.attention.is_some(),
        BlockPart::Mlp => block.mlp.is_some(),
    }
}

/// `block` without a part of it.
fn without(block: &Block, part: BlockPart) -> Block {
    let mut block = block.clone();
    if matches!(part, BlockPart::Block | BlockPart::Attention) {
        block.attention = None;
    }
    if matches!(part, BlockPart::Block | BlockPart::Mlp) {
        block.mlp = None;
    }
    block
}

/// A model whose configuration has the widths of its blocks.
pub(super) fn reshaped(work: Work<'_>, mut parts: LlamaParts) -> Result<Arc<Llama>, RuntimeError> {
    let shapes: Vec<BlockShape> = parts.blocks.iter().map(Block::shape).collect();
    parts.config = parts.config.with_block_shapes(&shapes);
    Ok(Arc::new(Llama::new(parts, work.device.clone())?))
}

/// Men et al., 2024 (`ShortGPT`), arXiv:2403.03853: 1 − mean cosine of what a part reads and what it leaves behind.
fn least_influential(
    work: Work<'_>,
    text: &CalibrationText,
    model: &Llama,
    part: BlockPart,
    candidates: &[usize],
    count: usize,
) -> Result<Vec<usize>, RuntimeError> {
    let halves = [BlockPart::Mlp, BlockPart::Attention].map(|gone| {
        let mut parts = model.parts().clone();
        parts.blocks = parts.blocks.iter().map(|block| without(block, gone)).collect();
        reshaped(work, parts)
    });
    let [attentions, mlps] = halves;
    let (attentions, mlps) = (attentions?, mlps?);
    let n_blocks = model.config().n_blocks;
    let windows = text.first(INFLUENCE_WINDOWS);
    let mut cosines = vec![0.0; n_blocks];
    for (window, done) in windows.iter().zip(0..) {
        let mut state = model.embed(window)?;
        for (block, sum) in cosines.iter_mut().enumerate() {
            if !work.watch.calibrating(done * n_blocks as u32 + block as u32, (windows.len() * n_blocks) as u32) {
                return Err(RuntimeError::Cancelled);
            }
            let between = attentions.run_blocks(block..block + 1, &state, None, None)?;
            let after = mlps.run_blocks(block..block + 1, &between, None, None)?;
            *sum += match part {
                BlockPart::Block => mean_cosine(&state, &after)?,
                BlockPart::Attention => mean_cosine(&state, &between)?,
                BlockPart::Mlp => mean_cosine(&between, &after)?,
            };
            state = after;
        }
    }
    // The largest cosine changes the least; of equal ones the later block goes.
    let mut order = candidates.to_vec();
    order.sort_by(|a, b| cosines[*b].total_cmp(&cosines[*a]).then(b.cmp(a)));
    order.truncate(count);
    Ok(order)
}

/// Mean over the tokens of the cosine of two states (seq, hidden).
fn mean_cosine(before: &Tensor, after: &Tensor) -> Result<f64, RuntimeError> {
    let (seq, width) = before.dims2()?;
    let sum = with_values(before, |before| {
        with_values(after, |after| {
            let tokens = before.chunks(width).zip(after.chunks(width));
            tokens.map(|(before, after)| cosine(before, after)).sum::<f64>()
        })
    })??;
    Ok(sum / seq as f64)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 1.0 }
}

/// One at a time, the candidate without which the model differs least from the whole one, by KL.
fn least_missed(
    work: Work<'_>,
    text: &CalibrationText,
    model: &Arc<Llama>,
    part: BlockPart,
    mut candidates: Vec<usize>,
    count: usize,
) -> Result<Vec<usize>, RuntimeError> {
    let windows: Vec<&[u32]> =
        text.first(KL_WINDOWS).iter().map(|window| &window[..window.len().min(KL_TOKENS)]).collect();
    let states = windows.iter().map(|tokens| states(model, tokens)).collect::<Result<Vec<_>, _>>()?;
    let mut parts = model.parts().clone();
    let total = ((2 * candidates.len() + 1).saturating_sub(count) * count / 2) as u32;
    let (mut chosen, mut done) = (Vec::new(), 0);
    for _ in 0..count {
        let mut best: Option<(f64, usize)> = None;
        for &candidate in &candidates {
            if !work.watch.calibrating(done, total) {
                return Err(RuntimeError::Cancelled);
            }
            done += 1;
            let mut cut = parts.clone();
            cut.blocks[candidate] = without(&cut.blocks[candidate], part);
            let cut = reshaped(work, cut)?;
            let mut kl = 0.0;
            for (tokens, expected) in windows.iter().zip(&states) {
                kl += divergence_of(model, expected, &cut, tokens)?;
            }
            if !kl.is_finite() {
                let what = format!("a logit of the model without block {candidate}");
                return Err(RuntimeError::NonFinite { what });
            }
            if best.is_none_or(|(least, _)| kl < least) {
                best = Some((kl, candidate));
            }
        }
        let Some((_, gone)) = best else { break };
        parts.blocks[gone] = without(&parts.blocks[gone], part);
        candidates.retain(|candidate| *candidate != gone);
        chosen.push(gone);
    }
    Ok(chosen)
}

/// States before the head, (seq, hidden).
fn states(model: &Llama, tokens: &[u32]) -> Result<Tensor, RuntimeError> {
    Ok(model.final_norm(&model.run_all(&model.embed(tokens)?, None)?)?)
}

/// Sum over the positions of KL(whole ‖ cut), in nats.
fn divergence_of(whole: &Llama, expected: &Tensor, cut: &Llama, tokens: &[u32]) -> Result<f64, RuntimeError> {
    let found = states(cut, tokens)?;
    let (width, vocab_size) = (whole.config().hidden_size, whole.config().vocab_size);
    let (mut logits, mut cut_logits) = (Vec::new(), Vec::new());
    let mut sum = 0.0;
    for first in (0..tokens.len()).step_by(CHUNK) {
        let rows = first * width..(first + CHUNK).min(tokens.len()) * width;
        with_values(expected, |states| whole.head(&states[rows.clone()], &mut logits))??;
        with_values(&found, |states| cut.head(&states[rows], &mut cut_logits))??;
        let rows = logits.par_chunks(vocab_size).zip(cut_logits.par_chunks(vocab_size));
        let kl: Vec<f64> = rows.map(|(expected, found)| divergence(expected, found, 0).kl).collect();
        sum += kl.iter().sum::<f64>();
    }
    Ok(sum)
}

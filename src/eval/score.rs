//! One window scored against the reference.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::kernels::{Divergence, divergence};
use crate::nn::{Llama, with_values};
use crate::runtime::RuntimeError;
use crate::study::{MemoryEstimate, WindowScore};

/// Positions whose logits exist at the same time.
const CHUNK: usize = MemoryEstimate::LOGIT_ROWS;

/// A window's means and the KL of each scored position.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredWindow {
    /// Means over the scored positions.
    pub score: WindowScore,
    /// KL(reference ‖ variant) of each scored position, in nats.
    pub kl: Vec<f32>,
}

/// The states before the head that predict the scored tokens: (context − 1, hidden). Everything that the reference
/// contributes to a score but its head, and small enough to keep for every window.
///
/// # Errors
/// When the forward pass fails.
pub fn reference_states(model: &Llama, tokens: &[u32]) -> Result<Tensor, RuntimeError> {
    let hidden = model.run_all(&model.embed(tokens)?, None)?;
    let predicting = hidden.narrow(0, 0, tokens.len() - 1)?;
    Ok(model.final_norm(&predicting)?)
}

/// Scores every token of a window but its first, for one variant.
///
/// - `states`: [`reference_states`] of the reference on the same tokens
///
/// # Errors
/// [`RuntimeError::NonFinite`] when a logit of either model is infinite or not a number.
pub fn score_window(
    reference: &Llama,
    states: &Tensor,
    variant: &Llama,
    tokens: &[u32],
) -> Result<ScoredWindow, RuntimeError> {
    let [scored] = score_variants(reference, states, [variant], tokens)?;
    Ok(scored)
}

/// [`score_window`] for several variants, which share the reference's logits.
///
/// # Errors
/// As [`score_window`].
pub fn score_variants<const N: usize>(
    reference: &Llama,
    states: &Tensor,
    variants: [&Llama; N],
    tokens: &[u32],
) -> Result<[ScoredWindow; N], RuntimeError> {
    let targets = &tokens[1..];
    let mut own_states = Vec::with_capacity(N);
    for variant in variants {
        let is_reference = std::ptr::eq(reference, variant);
        own_states.push(if is_reference { None } else { Some(reference_states(variant, tokens)?) });
    }
    let mut positions: [Vec<Divergence>; N] = std::array::from_fn(|_| Vec::with_capacity(targets.len()));
    let width = reference.config().hidden_size;
    let (mut expected, mut found) = (Vec::new(), Vec::new());
    for (chunk, targets) in targets.chunks(CHUNK).enumerate() {
        let rows = chunk * CHUNK * width..(chunk * CHUNK + targets.len()) * width;
        let logits = |model: &Llama, states: &Tensor, logits: &mut Vec<f32>| {
            with_values(states, |states| model.head(&states[rows.clone()], logits))?
        };
        logits(reference, states, &mut expected)?;
        for ((variant, own), positions) in variants.iter().zip(&own_states).zip(&mut positions) {
            match own {
                None => positions.extend(compare(&expected, &expected, targets)),
                Some(own) => {
                    logits(variant, own, &mut found)?;
                    positions.extend(compare(&expected, &found, targets));
                }
            }
        }
    }
    let scored = positions.iter().map(|positions| summarize(positions)).collect::<Result<Vec<_>, _>>()?;
    Ok(scored.try_into().expect("one for each variant"))
}

/// Means over the scored positions of a window.
///
/// # Errors
/// [`RuntimeError::NonFinite`] when one of them is not finite.
pub fn summarize(positions: &[Divergence]) -> Result<ScoredWindow, RuntimeError> {
    let n = positions.len() as f64;
    let mean = |value: fn(&Divergence) -> f64| positions.iter().map(value).sum::<f64>() / n;
    let score = WindowScore {
        nll: mean(|position| position.nll),
        reference_nll: mean(|position| position.reference_nll),
        kl: mean(|position| position.kl),
        top1: mean(|position| f64::from(u8::from(position.same_top1))),
    };
    if let Some(position) = positions.iter().position(|position| !(position.nll + position.kl).is_finite()) {
        return Err(RuntimeError::NonFinite { what: format!("a logit at position {position}") });
    }
    Ok(ScoredWindow { score, kl: positions.iter().map(|position| position.kl as f32).collect() })
}

/// Compares logits (positions, vocabulary) row by row, on all cores.
fn compare(reference: &[f32], variant: &[f32], targets: &[u32]) -> Vec<Divergence> {
    let vocab_size = reference.len() / targets.len();
    let rows = reference.par_chunks(vocab_size).zip(variant.par_chunks(vocab_size)).zip(targets);
    rows.map(|((reference, variant), target)| divergence(reference, variant, *target as usize)).collect()
}

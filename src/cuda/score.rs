//! A window of tokens scored against the reference, without its logits leaving the card.

use crate::cuda::card::{Buffer, Launch};
use crate::cuda::text::LOGIT_ROWS;
use crate::cuda::{CudaError, Text};
use crate::kernels::Divergence;
use crate::nn::NnError;

/// Threads of the kernel.
const THREADS: u32 = 512;
/// Numbers that it writes for each position.
const NUMBERS: usize = 4;

/// Compares both models on every token of a window but its first; the reference with itself where there is no variant.
/// Both texts are begun anew. A logit that is not finite gives numbers that are not.
///
/// # Errors
/// When the window does not fit, or the card fails.
pub fn score(
    reference: &mut Text,
    mut variant: Option<&mut Text>,
    tokens: &[u32],
) -> Result<Vec<Divergence>, CudaError> {
    let card = reference.card().clone();
    let (targets, found) = (Buffer::zeroed(&card, LOGIT_ROWS * 4)?, Buffer::zeroed(&card, LOGIT_ROWS * NUMBERS * 8)?);
    reference.truncate(0)?;
    if let Some(variant) = variant.as_deref_mut() {
        variant.truncate(0)?;
    }
    let vocab_size = reference.vocab_size() as u64;
    let rows = variant.as_ref().map_or(reference.rows(), |variant| variant.rows().min(reference.rows()));
    if let Some(&token) = tokens.iter().find(|token| u64::from(**token) >= vocab_size) {
        return Err(NnError::Token { token, vocab_size: vocab_size as usize }.into());
    }
    let mut scored = Vec::with_capacity(tokens.len());
    let (inputs, answers) = (&tokens[..tokens.len() - 1], &tokens[1..]);
    for (inputs, answers) in inputs.chunks(rows).zip(answers.chunks(rows)) {
        reference.pass(inputs)?;
        if let Some(variant) = variant.as_deref_mut() {
            variant.pass(inputs)?;
        }
        for (number, answers) in answers.chunks(LOGIT_ROWS).enumerate() {
            let first = number * LOGIT_ROWS;
            reference.head(first, answers.len())?;
            let expected = reference.logits_address();
            let logits = match variant.as_deref_mut() {
                None => expected,
                Some(variant) => {
                    variant.head(first, answers.len())?;
                    variant.logits_address()
                }
            };
            targets.write(answers)?;
            let args = [expected, logits, targets.address(), found.address(), vocab_size];
            let grid = [answers.len(), 1, 1];
            card.launch(Launch { kernel: "divergence", grid, threads: THREADS, args: &args })?;
            let mut numbers = vec![0.0; answers.len() * NUMBERS];
            found.read(&mut numbers)?;
            scored.extend(numbers.as_chunks().0.iter().map(|&[nll, reference_nll, kl, same]: &[f64; NUMBERS]| {
                Divergence { nll, reference_nll, kl, same_top1: same > 0.5 }
            }));
        }
    }
    Ok(scored)
}

//! Text from a model, token by token.

use rand::SeedableRng as _;
use rand::distr::Distribution as _;
use rand::distr::weighted::WeightedIndex;
use rand::rngs::StdRng;

use crate::nn::Llama;
use crate::runtime::RuntimeError;

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f64,
    /// Seed of the choice.
    pub seed: u64,
}

/// Continues `prompt` by at most `n_tokens`, ending before an end-of-text token or at the context's end.
///
/// `keep_going` hears of tokens done, and ends the text by returning `false`.
///
/// # Errors
/// When the forward pass fails, or a logit is not finite.
pub fn generate(
    model: &Llama,
    prompt: &[u32],
    n_tokens: usize,
    sampling: Sampling,
    keep_going: &dyn Fn(u32) -> bool,
) -> Result<Vec<u32>, RuntimeError> {
    let config = model.config();
    let capacity = (prompt.len() + n_tokens).min(config.max_context);
    let mut cache = model.new_cache(capacity)?;
    let mut rng = StdRng::seed_from_u64(sampling.seed);
    let mut next = prompt.to_vec();
    let (mut text, mut logits) = (Vec::new(), Vec::new());
    while text.len() < n_tokens && cache.len() + next.len() <= capacity && keep_going(text.len() as u32) {
        model.next_logits(&next, &mut cache, &mut logits)?;
        let token = choose(&logits, sampling.temperature, &mut rng)?;
        if config.eos_tokens.contains(&token) {
            break;
        }
        text.push(token);
        next = vec![token];
    }
    Ok(text)
}

fn choose(logits: &[f32], temperature: f64, rng: &mut StdRng) -> Result<u32, RuntimeError> {
    let what = || RuntimeError::NonFinite { what: "a logit of the sampled text".to_owned() };
    if logits.iter().any(|logit| !logit.is_finite()) {
        return Err(what());
    }
    let best = (0_u32..).zip(logits).max_by(|(i, a), (j, b)| a.total_cmp(b).then(j.cmp(i)));
    let (best, max) = best.map(|(token, logit)| (token, f64::from(*logit))).ok_or_else(what)?;
    if temperature <= 0.0 {
        return Ok(best);
    }
    let weights = logits.iter().map(|logit| ((f64::from(*logit) - max) / temperature).exp());
    let choice = WeightedIndex::new(weights).ok().ok_or_else(what)?;
    Ok(choice.sample(rng) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first_of_the_best_and_seeds_repeat() {
        let logits = [0.0, 3.0, 3.0, -1.0];
        let mut rng = StdRng::seed_from_u64(1);
        assert_eq!(choose(&logits, 0.0, &mut rng).unwrap(), 1);
        let draw = |seed| {
            let mut rng = StdRng::seed_from_u64(seed);
            (0..32).map(|_| choose(&logits, 1.0, &mut rng).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(choose(&[0.0, f32::NAN], 1.0, &mut rng).is_err());
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [0.0, f32::ln(3.0)];
        let mut rng = StdRng::seed_from_u64(5);
        let ones = (0..4000).filter(|_| choose(&logits, 1.0, &mut rng).unwrap() == 1).count();
        // Four standard deviations of Bin(4000, 0.75).
        assert!((ones as f64 - 3000.0).abs() < 4.0 * (4000.0_f64 * 0.75 * 0.25).sqrt(), "{ones}");
    }
}

//! The timed section.

use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::nn::Llama;
use crate::runtime::{RuntimeError, Steps};

/// Times of one repetition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repetition {
    /// The whole prompt in one pass, in nanoseconds.
    pub prefill_nanos: u64,
    /// Each token after it, in nanoseconds.
    pub decode_nanos: Vec<u64>,
}

/// The tokens of a repetition: both arms of a comparison see the same ones, so that they do the same work.
pub fn token_trace(model: &Llama, n_tokens: usize, seed: u64) -> Vec<u32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let vocab_size = model.config().vocab_size as u32;
    let mut trace: Vec<u32> = (0..n_tokens).map(|_| rng.random_range(0..vocab_size)).collect();
    if let (Some(first), Some(bos)) = (trace.first_mut(), model.config().bos_token) {
        *first = bos;
    }
    trace
}

/// Runs the first `n_prompt` tokens of `trace` in one pass and the others one by one, on a monotonic clock.
///
/// The tokens are given, not sampled: what is timed is the model. `text` is emptied first. Where the trace does not fit
/// it, as many of the prompt's last tokens are forgotten before the first single token as that needs.
///
/// `keep_going` hears of single tokens done, after the prompt and after each of them, while no clock runs: it must neither
/// allocate nor wait, and ends the repetition by returning `false`.
///
/// # Errors
/// When the forward pass fails, or `keep_going` ended it.
pub fn repetition(
    text: &mut dyn Steps,
    trace: &[u32],
    n_prompt: usize,
    keep_going: &dyn Fn(usize) -> bool,
) -> Result<Repetition, RuntimeError> {
    text.truncate(0)?;
    let (prompt, rest) = trace.split_at(n_prompt.min(trace.len()));
    let mut decode_nanos = Vec::with_capacity(rest.len());
    let start = Instant::now();
    text.run(prompt)?;
    let prefill_nanos = nanos(start);
    let check = |done| if keep_going(done) { Ok(()) } else { Err(RuntimeError::Cancelled) };
    check(0)?;
    text.truncate(text.capacity().saturating_sub(rest.len()))?;
    for token in rest {
        let start = Instant::now();
        text.run(std::slice::from_ref(token))?;
        decode_nanos.push(nanos(start));
        check(decode_nanos.len())?;
    }
    Ok(Repetition { prefill_nanos, decode_nanos })
}

/// Since then.
pub(super) fn nanos(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceSpec;
    use crate::model::ModelSource;
    use crate::runtime::{ModelStore, Place};

    #[test]
    fn every_step_is_told_and_may_end_the_repetition() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/stories15M");
        let checkpoint = crate::checkpoint::open(&ModelSource::Safetensors { dir }).unwrap();
        let store = ModelStore::load(checkpoint, DeviceSpec::Cpu { threads: 1 }, &|_, _| true).unwrap();
        let model = store.reference();
        let trace = token_trace(model, 6, 1);
        let placed = Place::open(DeviceSpec::Cpu { threads: 1 }).unwrap().put(model).unwrap();
        let mut text = placed.text(6).unwrap();
        let told = std::cell::RefCell::new(Vec::new());
        let mut run = |last| {
            told.borrow_mut().clear();
            let keep_going = |done| {
                told.borrow_mut().push(done);
                done != last
            };
            let times = repetition(&mut *text, &trace, 3, &keep_going);
            (times, told.borrow().clone())
        };
        let (times, told) = run(usize::MAX);
        assert_eq!((times.unwrap().decode_nanos.len(), told), (3, vec![0, 1, 2, 3]));
        for last in [0, 2] {
            let (times, told) = run(last);
            assert!(matches!(times, Err(RuntimeError::Cancelled)), "{times:?}");
            assert_eq!(told.last(), Some(&last));
        }
    }
}

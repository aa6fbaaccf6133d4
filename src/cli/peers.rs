//! What other engines reach on a shipped shape, to be read beside a table of ours.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::units;

/// The file that they stand in, with what they were measured on.
const PEERS: &str = include_str!("../../assets/shapes/peers.json");

/// One figure of another engine. It was not measured in this run, and perhaps on another machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Peer {
    shape: String,
    engine: String,
    device: String,
    format: String,
    prompt_tokens: Option<u32>,
    prefill_secs: Option<f64>,
    decode_tokens_per_second: f64,
}

/// Those of a shape, by its name.
pub(super) fn of(shape: &Path) -> Vec<Peer> {
    let all: Vec<Peer> = serde_json::from_str(PEERS).expect("the shipped figures are valid");
    all.into_iter().filter(|peer| shape.as_os_str() == peer.shape.as_str()).collect()
}

impl Peer {
    /// In the columns of a table of several recipes.
    pub(super) fn row(&self) -> Vec<String> {
        let prompt = self.prompt_tokens.map(f64::from).zip(self.prefill_secs);
        vec![
            self.engine.clone(),
            self.format.clone(),
            String::new(),
            prompt.map_or_else(String::new, |(tokens, secs)| units::significant(tokens / secs, 3)),
            self.prefill_secs.map_or_else(String::new, units::duration),
            String::new(),
            units::significant(self.decode_tokens_per_second, 4),
            units::duration(1.0 / self.decode_tokens_per_second),
            String::new(),
        ]
    }

    /// What its numbers were measured on.
    pub(super) fn note(&self) -> String {
        let prompt = self.prompt_tokens.map_or_else(String::new, |tokens| format!(", a prompt of {tokens} tokens"));
        format!("{}: not of this run; measured on {}, batch of 1{prompt}", self.engine, self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint;

    #[test]
    fn figures_belong_to_shipped_shapes() {
        let all: Vec<Peer> = serde_json::from_str(PEERS).unwrap();
        assert!(!all.is_empty());
        for peer in &all {
            assert!(checkpoint::shapes().iter().any(|shape| shape.name == peer.shape), "{peer:?}");
            assert!(peer.decode_tokens_per_second > 0.0 && peer.row().len() == 9);
        }
        assert_eq!(of(Path::new("llama-3-8b")).len(), 2);
        assert!(of(Path::new("stories15m")).is_empty());
    }
}

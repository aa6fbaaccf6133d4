//! Compressed layers kept between trials.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::nn::Linear;
use crate::recipe::Execution;
use crate::runtime::MadeLayer;
use crate::runtime::keys::Hash;

/// A compressed layer: what it depends on, and whether its product is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LayerKey {
    hash: Hash,
    simulated: bool,
}

impl LayerKey {
    pub(super) fn new(hash: Hash, execution: Execution) -> Self {
        Self { hash, simulated: execution == Execution::Simulated }
    }
}

/// A layer with what is told of it.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) linear: Arc<Linear>,
    pub(super) told: MadeLayer,
}

/// Compressed layers, the longest unused dropped first beyond a budget of bytes.
#[derive(Debug, Default)]
pub(super) struct LayerCache {
    layers: BTreeMap<LayerKey, (Kept, u64)>,
    budget_bytes: u64,
    clock: u64,
}

impl LayerCache {
    pub(super) fn new(budget_bytes: u64) -> Self {
        Self { layers: BTreeMap::new(), budget_bytes, clock: 0 }
    }

    pub(super) fn get(&mut self, key: LayerKey) -> Option<Kept> {
        self.clock += 1;
        let (layer, used) = self.layers.get_mut(&key)?;
        *used = self.clock;
        Some(layer.clone())
    }

    pub(super) fn insert(&mut self, key: LayerKey, layer: Kept) {
        self.clock += 1;
        self.layers.insert(key, (layer, self.clock));
    }

    /// Drops what was not used for longest until the budget holds.
    pub(super) fn trim(&mut self) {
        let mut held: u64 = self.layers.values().map(|(layer, _)| layer.linear.held_bytes()).sum();
        let mut by_age: Vec<(u64, LayerKey)> = self.layers.iter().map(|(key, (_, used))| (*used, *key)).collect();
        by_age.sort_unstable();
        for (_, key) in by_age {
            if held <= self.budget_bytes {
                break;
            }
            if let Some((layer, _)) = self.layers.remove(&key) {
                held -= layer.linear.held_bytes();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::{ActivationGrid, PackedWeights};
    use crate::nn::LinearParts;

    #[test]
    fn the_longest_unused_goes_first() {
        let key = |name: u8| LayerKey::new([name; 32], Execution::Packed);
        let layer = |name: &str| {
            let packed = PackedWeights::F32(vec![0.0; 64]);
            let (path, execution, activations) = (name.into(), Execution::Packed, ActivationGrid::Float);
            let parts = LinearParts { path, packed, shape: [8, 8], execution, bias: None, activations };
            let linear = Arc::new(Linear::new(parts).unwrap());
            Kept { linear, told: MadeLayer::new(name.into()) }
        };
        let mut cache = LayerCache::new(2 * layer("a").linear.held_bytes());
        for (hash, name) in [(1, "a"), (2, "b"), (3, "c")] {
            cache.insert(key(hash), layer(name));
        }
        assert!(cache.get(key(1)).is_some());
        cache.trim();
        assert!(cache.get(key(1)).is_some() && cache.get(key(3)).is_some());
        assert!(cache.get(key(2)).is_none());
    }
}

//! Compressed layers kept between trials.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::LayerPath;
use crate::nn::Linear;
use crate::recipe::{Execution, LayerSettings};

/// What a compressed layer depends on, for one model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LayerKey {
    path: LayerPath,
    /// `LayerSettings` holds a float; its exact text orders and compares.
    settings: String,
    simulated: bool,
}

impl LayerKey {
    pub(super) fn new(path: &LayerPath, settings: &LayerSettings, execution: Execution) -> Self {
        let simulated = execution == Execution::Simulated;
        Self { path: path.clone(), settings: format!("{settings:?}"), simulated }
    }
}

/// Compressed layers, the longest unused dropped first beyond a budget of bytes.
#[derive(Debug)]
pub(super) struct LayerCache {
    layers: BTreeMap<LayerKey, (Arc<Linear>, u64)>,
    budget_bytes: u64,
    clock: u64,
}

impl LayerCache {
    pub(super) fn new(budget_bytes: u64) -> Self {
        Self { layers: BTreeMap::new(), budget_bytes, clock: 0 }
    }

    pub(super) fn get(&mut self, key: &LayerKey) -> Option<Arc<Linear>> {
        self.clock += 1;
        let (layer, used) = self.layers.get_mut(key)?;
        *used = self.clock;
        Some(layer.clone())
    }

    pub(super) fn insert(&mut self, key: LayerKey, layer: Arc<Linear>) {
        self.clock += 1;
        self.layers.insert(key, (layer, self.clock));
    }

    /// Drops what was not used for longest until the budget holds.
    pub(super) fn trim(&mut self) {
        let mut held: u64 = self.layers.values().map(|(layer, _)| layer.held_bytes()).sum();
        let mut by_age: Vec<(u64, LayerKey)> =
            self.layers.iter().map(|(key, (_, used))| (*used, key.clone())).collect();
        by_age.sort_unstable();
        for (_, key) in by_age {
            if held <= self.budget_bytes {
                break;
            }
            if let Some((layer, _)) = self.layers.remove(&key) {
                held -= layer.held_bytes();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::compress::PackedWeights;

    #[test]
    fn the_longest_unused_goes_first() {
        let key = |name: &str| LayerKey::new(&name.into(), &LayerSettings::default(), Execution::Packed);
        let layer = |name: &str| {
            let packed = PackedWeights::F32(vec![0.0; 64]);
            Arc::new(Linear::new(name.into(), packed, [8, 8], Execution::Packed, None, &Device::Cpu).unwrap())
        };
        let mut cache = LayerCache::new(2 * layer("a").held_bytes());
        for name in ["a", "b", "c"] {
            cache.insert(key(name), layer(name));
        }
        assert!(cache.get(&key("a")).is_some());
        cache.trim();
        assert!(cache.get(&key("a")).is_some() && cache.get(&key("c")).is_some());
        assert!(cache.get(&key("b")).is_none());
    }
}

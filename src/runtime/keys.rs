//! What a stored result depends on, as a hash: equal hashes are equal results.

use serde::Serialize;

use crate::compress::CompressError;
use crate::model::{LayerPath, StoredFormat};
use crate::recipe::{LayerSettings, LowRankMethod, Policy, Rounding};
use crate::runtime::Place;
use crate::runtime::calibrate::Input;

/// BLAKE3.
pub(super) type Hash = [u8; 32];

/// Versions of the code behind stored results. A change that gives other numbers raises its own, and what was stored
/// before is no longer found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Versions {
    pub(super) moments: u32,
    pub(super) structure: u32,
    pub(super) sharing: u32,
    pub(super) allocation: u32,
    pub(super) scales: u32,
    pub(super) packing: u32,
    pub(super) gptq: u32,
    pub(super) awq: u32,
    pub(super) hqq: u32,
    pub(super) imatrix: u32,
    pub(super) pruning: u32,
    pub(super) sparsegpt: u32,
    pub(super) low_rank: u32,
    pub(super) correction: u32,
    pub(super) activations: u32,
}

/// The version of the linear algebra in `cuda/`, whose sums have another order than the processor's.
const CARD_SOLVER: u32 = 1;

/// The versions of this program.
pub(super) const CURRENT: Versions = Versions {
    moments: 2,
    structure: 1,
    sharing: 1,
    allocation: 1,
    scales: 1,
    packing: 2,
    gptq: 1,
    awq: 1,
    hqq: 1,
    imatrix: 2,
    pruning: 1,
    sparsegpt: 1,
    low_rank: 1,
    correction: 1,
    activations: 1,
};

impl Versions {
    /// The versions that a layer with these settings depends on.
    fn of(&self, settings: &LayerSettings) -> Vec<(&'static str, u32)> {
        let mut used = vec![("packing", self.packing)];
        used.extend(match settings.rounding {
            Rounding::Nearest => None,
            Rounding::Gptq(_) => Some(("gptq", self.gptq)),
            Rounding::Awq(_) => Some(("awq", self.awq)),
            Rounding::Hqq(_) => Some(("hqq", self.hqq)),
            Rounding::Imatrix(_) => Some(("imatrix", self.imatrix)),
        });
        used.extend(settings.sparsity.map(|sparsity| match sparsity.method {
            crate::recipe::SparsityMethod::SparseGpt => ("sparsegpt", self.sparsegpt),
            _ => ("pruning", self.pruning),
        }));
        used.extend(settings.low_rank.map(|_| ("low_rank", self.low_rank)));
        used.extend(settings.correction.map(|_| ("correction", self.correction)));
        let quantizes = settings.activations != crate::recipe::Activations::Float;
        used.extend(quantizes.then_some(("activations", self.activations)));
        if settings.needs_calibration() {
            used.push(("moments", self.moments));
        }
        used
    }
}

/// The hash of a kind of result and everything that it depends on.
pub(super) fn hash(kind: &str, parts: &impl Serialize) -> Hash {
    let text = serde_json::to_vec(&(kind, parts)).expect("keys are made of strings, numbers and lists");
    *blake3::hash(&text).as_bytes()
}

/// The identity of a text that is read on a device of this kind; `None` is the processor. A card's sums differ from others
/// in their last bits.
pub(super) fn read_on(kind: Option<&str>, text: Hash) -> Hash {
    kind.map_or(text, |kind| hash("read", &(kind, text)))
}

/// The inputs that calibrated a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Inputs {
    /// The text with where it is read: [`read_on`].
    pub(super) text: Hash,
    pub(super) policy: Policy,
    /// What was done to the blocks before; always the same where inputs are dense.
    pub(super) upstream: Hash,
}

/// A layer that is compressed.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct LayerIdentity<'a> {
    /// The dense model: its fingerprint with what was removed and shared.
    pub(super) base: Hash,
    pub(super) path: &'a LayerPath,
    pub(super) shape: [usize; 2],
    pub(super) native: StoredFormat,
    pub(super) settings: &'a LayerSettings,
    /// `None` when no method among the settings reads inputs.
    pub(super) inputs: Option<Inputs>,
    /// The layers of the block where scales move between them.
    pub(super) scaled: Option<Hash>,
    /// The version of the card's linear algebra that makes it; `None` where the processor's does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) solver: Option<u32>,
}

impl LayerIdentity<'_> {
    pub(super) fn hash(&self, versions: &Versions) -> Hash {
        hash("layer", &(self, versions.of(self.settings)))
    }
}

/// The version of the card's linear algebra, where the heavy part of a layer with these settings is done by it.
pub(super) fn solver(settings: &LayerSettings, place: &Place) -> Option<u32> {
    place.solver().filter(|_| is_costly(settings)).map(|_| CARD_SOLVER)
}

/// A kind of result that takes heavy linear algebra, by who does it.
pub(super) fn made_by(kind: &str, place: &Place) -> String {
    match place.solver() {
        None => kind.to_owned(),
        Some(_) => format!("{kind} by card {CARD_SOLVER}"),
    }
}

/// The sums over one input of a block.
pub(super) fn moments(base: Hash, inputs: Inputs, block: usize, input: Input) -> Hash {
    hash("moments", &(CURRENT.moments, base, inputs, block, input))
}

/// Whether making a layer is so much work that it is kept on the disk: rounding to nearest is as fast as reading.
pub(super) fn is_costly(settings: &LayerSettings) -> bool {
    settings.needs_calibration()
        || matches!(settings.rounding, Rounding::Hqq(_) | Rounding::Imatrix(_))
        || settings.low_rank.is_some_and(|low_rank| low_rank.method == LowRankMethod::Svd)
        || settings.correction.is_some()
}

/// A layer's failure with its path.
pub(super) fn of_layer(layer: &LayerPath) -> impl Fn(CompressError) -> crate::runtime::RuntimeError + '_ {
    move |source| crate::runtime::RuntimeError::Compress { source, layer: layer.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{GptqOptions, Group, IntFormat, WeightFormat};

    #[test]
    fn a_raised_version_misses_what_depends_on_it_and_nothing_else() {
        let int4 = WeightFormat::Int(IntFormat { bits: 4, group: Group::Row, symmetric: false });
        let gptq = LayerSettings { rounding: Rounding::Gptq(GptqOptions::default()), ..LayerSettings::of(int4) };
        let nearest = LayerSettings::of(int4);
        let path = LayerPath::from("a");
        let key = |settings: &LayerSettings, versions: &Versions| {
            let (base, shape, native) = ([7; 32], [8, 8], StoredFormat::F16);
            LayerIdentity { base, path: &path, shape, native, settings, inputs: None, scaled: None, solver: None }
                .hash(versions)
        };
        let raised = Versions { gptq: CURRENT.gptq + 1, ..CURRENT };
        assert_ne!(key(&gptq, &CURRENT), key(&gptq, &raised));
        assert_eq!(key(&nearest, &CURRENT), key(&nearest, &raised));
        assert_ne!(key(&nearest, &CURRENT), key(&gptq, &CURRENT));
        let recalibrated = Versions { moments: CURRENT.moments + 1, ..CURRENT };
        assert_ne!(key(&gptq, &CURRENT), key(&gptq, &recalibrated));
        assert_eq!(key(&nearest, &CURRENT), key(&nearest, &recalibrated));
    }

    #[test]
    fn a_text_that_a_card_reads_is_another_and_the_processor_s_stays() {
        let text = [1; 32];
        assert_eq!(read_on(None, text), text);
        let cards = [read_on(Some("a"), text), read_on(Some("b"), text), read_on(Some("a"), [2; 32])];
        assert!(cards.iter().all(|card| *card != text) && cards[0] != cards[1] && cards[0] != cards[2]);
    }

    #[test]
    fn every_part_of_a_layer_changes_its_key() {
        let path = LayerPath::from("a");
        let settings = LayerSettings::default();
        let inputs = Inputs { text: [1; 32], policy: Policy::Sequential, upstream: [0; 32] };
        let first = LayerIdentity {
            base: [7; 32],
            path: &path,
            shape: [8, 8],
            native: StoredFormat::F16,
            settings: &settings,
            inputs: Some(inputs),
            scaled: None,
            solver: None,
        };
        let other = LayerPath::from("b");
        let others = [
            LayerIdentity { base: [8; 32], ..first },
            LayerIdentity { path: &other, ..first },
            LayerIdentity { shape: [8, 16], ..first },
            LayerIdentity { native: StoredFormat::F32, ..first },
            LayerIdentity { inputs: None, ..first },
            LayerIdentity { inputs: Some(Inputs { text: [2; 32], ..inputs }), ..first },
            LayerIdentity { inputs: Some(Inputs { policy: Policy::Dense, ..inputs }), ..first },
            LayerIdentity { inputs: Some(Inputs { upstream: [1; 32], ..inputs }), ..first },
            LayerIdentity { scaled: Some([1; 32]), ..first },
            LayerIdentity { solver: Some(1), ..first },
        ];
        assert!(others.iter().all(|other| other.hash(&CURRENT) != first.hash(&CURRENT)));
    }
}

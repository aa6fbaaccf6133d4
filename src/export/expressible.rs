//! What a layout can say of a variant, known before anything is run or written.

use crate::export::{Kind, ModelLayout, compressed_tensors, hf_config};
use crate::model::{BlockShape, LayerPath, LayerRole, LlamaConfig, ModelFamily, ModelGraph, StoredFormat};
use crate::recipe::{Activations, Plan, SharingMethod};

/// What a layout makes of a variant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expressible {
    /// Why it cannot be written; empty when it can.
    pub refusals: Vec<String>,
    /// What the file leaves out or says in another way.
    pub notes: Vec<String>,
}

/// What `layout` can say of the variant that `plan` makes of a model with this graph: the words that [`Expressible`]
/// gives are those that the export itself would give after the work.
///
/// Ranks and blocks that are found on the way are taken as [`Plan::estimated`] says.
pub fn expressible(plan: &Plan, graph: &ModelGraph, layout: ModelLayout) -> Expressible {
    let ModelFamily::Llama(config) = &graph.family;
    let config = without_empty_blocks(&config.with_block_shapes(&plan.blocks));
    let layers = plan.layers.iter().zip(&graph.layers).filter_map(|(planned, layer)| {
        let settings = &planned.settings;
        let sharing = plan.sharing.iter().find(|sharing| {
            let [first, last] = sharing.blocks;
            layer.role == sharing.role && layer.block.is_some_and(|block| (first..=last).contains(&block))
        });
        let kind = match sharing {
            Some(sharing) if sharing.method == SharingMethod::Basis => {
                let factor = Kind::planned(settings, layer).dense();
                Kind::LowRank { rank: 0, factor }
            }
            _ => Kind::planned(settings, layer),
        };
        planned.shape.map(|_| Asked {
            path: &layer.path,
            role: layer.role,
            kind,
            has_int8_inputs: settings.activations != Activations::Float,
            is_shared: sharing.is_some() || layer.shared_with.is_some(),
        })
    });
    let layers: Vec<Asked<'_>> = layers.collect();
    let mut found = judge(&config, &layers, layout, None);
    found.notes.extend(unsaid(plan));
    found
}

/// What no layout has words for: how attention and its cache are run.
pub fn unsaid(plan: &Plan) -> Vec<String> {
    let mut notes = Vec::new();
    if !plan.kv_cache.is_default() {
        notes.push("the format of cached keys and values is the program's choice, not the file's".to_owned());
    }
    if plan.attention.window.is_some() {
        notes.push("the file does not say that attention has a window: other programs see every token".to_owned());
    }
    notes
}

/// Whether the variant must be made by a worker before it can be written.
pub fn needs_worker(plan: &Plan) -> bool {
    let changed = plan.layers.iter().filter(|layer| layer.shape.is_some());
    plan.needs_calibration()
        || !plan.structure.is_empty()
        || !plan.sharing.is_empty()
        || changed.into_iter().any(|layer| super::model::needs_worker(&layer.settings))
}

/// A layer as far as layouts care.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) path: &'a LayerPath,
    pub(super) role: LayerRole,
    pub(super) kind: Kind,
    pub(super) has_int8_inputs: bool,
    pub(super) is_shared: bool,
}

/// `config` with the blocks that have something left; they are numbered anew.
pub(super) fn without_empty_blocks(config: &LlamaConfig) -> LlamaConfig {
    let shapes: Vec<BlockShape> = (0..config.n_blocks).map(|block| config.block_shape(block)).collect();
    let left: Vec<BlockShape> = shapes.into_iter().filter(|shape| !shape.is_empty()).collect();
    config.with_block_shapes(&left)
}

/// What `layout` makes of these layers, in `dtype` where it is a dense one. `config` has no empty blocks.
pub(super) fn judge(
    config: &LlamaConfig,
    layers: &[Asked<'_>],
    layout: ModelLayout,
    dtype: Option<StoredFormat>,
) -> Expressible {
    let mut found = Expressible::default();
    match layout {
        ModelLayout::Safetensors => judge_safetensors(config, layers, dtype, &mut found),
        ModelLayout::Gguf => judge_gguf(config, &with_zeros(layers, &mut found), &mut found),
        ModelLayout::CompressedTensors => {
            refuse_widths(hf_config::has_plain_widths(config), "transformers loads", &mut found);
            compressed_tensors::judge(&with_zeros(layers, &mut found), &mut found);
        }
    }
    let n_int8 = layers.iter().filter(|layer| layer.has_int8_inputs).count();
    if n_int8 > 0 && layout != ModelLayout::CompressedTensors {
        found.notes.push(format!(
            "{n_int8} layers take inputs of 8 bits, which this layout has no words for: it holds their weights alone"
        ));
    }
    found
}

/// The layers in a layout that has zeros like other weights, with a note on those that are not smaller then.
fn with_zeros<'a>(layers: &[Asked<'a>], found: &mut Expressible) -> Vec<Asked<'a>> {
    found.notes.extend(zeros_note(layers));
    layers.iter().map(|layer| Asked { kind: layer.kind.with_zeros(), ..*layer }).collect()
}

fn zeros_note(layers: &[Asked<'_>]) -> Option<String> {
    let n = layers.iter().filter(|layer| matches!(layer.kind, Kind::Sparse(_))).count();
    (n > 0).then(|| format!("{n} sparse layers are written with their zeros; the file is not smaller for them"))
}

fn judge_safetensors(config: &LlamaConfig, layers: &[Asked<'_>], dtype: Option<StoredFormat>, found: &mut Expressible) {
    // One dense format for all is what was asked for.
    let is_sparse = dtype.is_none() && layers.iter().any(|layer| matches!(layer.kind, Kind::Sparse(_)));
    found.notes.extend(dtype.and_then(|_| zeros_note(layers)));
    let is_own = [
        (!hf_config::has_plain_widths(config), "widths of its own for each block"),
        (layers.iter().any(|layer| matches!(layer.kind, Kind::LowRank { .. })), "low-rank factors"),
        (is_sparse, "sparse layers"),
        (layers.iter().any(|layer| layer.is_shared), "shared tensors"),
    ];
    let own: Vec<&str> = is_own.into_iter().filter(|(is_there, _)| *is_there).map(|(_, what)| what).collect();
    if !own.is_empty() {
        found.notes.push(format!(
            "config.json has {} under the key \"trimtab\", which Trimtab reads back; transformers does not load the folder",
            own.join(" and ")
        ));
    }
    let written = |layer: &Asked<'_>| if dtype.is_some() { layer.kind.with_zeros() } else { layer.kind };
    found.notes.extend(dequantized(layers.iter().map(written), dtype));
}

/// Says what becomes of packed layers in a dense layout: they take more room than in the variant that was measured, and
/// a chosen half precision rounds them.
fn dequantized(kinds: impl Iterator<Item = Kind>, dtype: Option<StoredFormat>) -> Option<String> {
    let n = kinds.filter(|kind| kind.is_packed()).count();
    let written = match dtype {
        _ if n == 0 => return None,
        None | Some(StoredFormat::F32) => "f32 with exactly the values that were measured".to_owned(),
        Some(dtype) => format!("{}, which rounds the values that were measured once more", dtype.name()),
    };
    Some(format!("{n} packed layers are written as {written}; the folder is not smaller"))
}

fn judge_gguf(config: &LlamaConfig, layers: &[Asked<'_>], found: &mut Expressible) {
    refuse_widths(config.block_shapes.is_empty(), "GGUF has", found);
    let is_grid = |kind| matches!(kind, Kind::Int(_) | Kind::IntFloatZeros(_) | Kind::Fp8(_));
    let refusals: [(Test<'_>, &str); 3] = [
        (
            &|layer| is_grid(layer.kind),
            "GGUF has no uniform integer grids and no FP8; choose q8_0, q6k, q5k, q4k, q4_0 or another GGML format for",
        ),
        (&|layer| matches!(layer.kind, Kind::LowRank { .. }), "GGUF has no low-rank factors; export as safetensors:"),
        (
            &|layer| layer.kind == Kind::Corrected,
            "GGUF has no low-rank terms; export as safetensors, or leave out the correction of",
        ),
    ];
    for (is_refused, words) in refusals {
        found.refusals.extend(refusal(layers, words, is_refused));
    }
    if layers.iter().any(|layer| layer.is_shared) {
        found.notes.push("GGUF has no shared tensors: each layer gets a copy, so the file is larger".to_owned());
    }
}

fn refuse_widths(is_plain: bool, who: &str, found: &mut Expressible) {
    if !is_plain {
        found.refusals.push(format!(
            "{who} blocks of one width only, each with attention and MLP: cut all blocks alike, drop whole blocks, or \
             export as safetensors for Trimtab"
        ));
    }
}

/// Whether a layer is refused.
pub(super) type Test<'a> = &'a dyn Fn(&Asked<'_>) -> bool;

/// `words` and the layers that they hold for.
pub(super) fn refusal(layers: &[Asked<'_>], words: &str, is_refused: Test<'_>) -> Option<String> {
    const SHOWN: usize = 8;
    let refused: Vec<&str> = layers.iter().filter(|layer| is_refused(layer)).map(|layer| layer.path.as_str()).collect();
    if refused.is_empty() {
        return None;
    }
    let shown = refused[..refused.len().min(SHOWN)].join(", ");
    Some(match refused.len().saturating_sub(SHOWN) {
        0 => format!("{words} {shown}"),
        n => format!("{words} {shown} and {n} more"),
    })
}

//! Scales that move between layers: AWQ and `SmoothQuant` multiply the columns of a layer and divide what feeds it.

use std::collections::BTreeMap;

use crate::compress::{CompressError, Member, Moments, awq_scales, smoothing_scales};
use crate::model::LayerRole;
use crate::recipe::{LayerSettings, Rounding};
use crate::runtime::calibrate::{BlockMoments, Input};
use crate::runtime::lists;

/// One positive scale a feature of each scaled input of a block: W' = W · diag(s), and what feeds it is divided by s.
pub(super) type BlockScales = BTreeMap<Input, Vec<f32>>;

/// A layer of the block and whether its weights are its own: compressed for this block, shared with no other.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScaledLayer<'a> {
    pub(super) role: LayerRole,
    pub(super) settings: &'a LayerSettings,
    pub(super) is_own: bool,
}

/// How one input is scaled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scaling {
    /// Searched: Lin et al., 2023, arXiv:2306.00978.
    Awq,
    /// By the exponent: Xiao et al., 2022, arXiv:2211.10438.
    Smooth(f64),
}

fn scaling(settings: &LayerSettings) -> Option<Scaling> {
    if settings.weights.is_quantized() && matches!(settings.rounding, Rounding::Awq(_)) {
        return Some(Scaling::Awq);
    }
    settings.activations.smoothing().map(Scaling::Smooth)
}

/// The inputs of a block that are scaled, and in words those that are not though a layer asks for it.
///
/// The norm before attention or MLP takes the scales of the layers that read it. Those of `o_proj` and `down_proj` move
/// into the rows of `v_proj` and `up_proj`, for AWQ alone: where each query head has a value head of its own, and where
/// that layer is compressed too.
pub(super) fn scaled_inputs(
    layers: &[ScaledLayer<'_>],
    is_grouped: bool,
) -> (BTreeMap<Input, Scaling>, BTreeMap<Input, &'static str>) {
    let (mut scaled, mut unscaled) = (BTreeMap::new(), BTreeMap::new());
    for input in [Input::Attention, Input::Heads, Input::Mlp, Input::Channels] {
        let mut readers = layers.iter().filter(|layer| Input::of(layer.role) == Some(input));
        let Some(how) = readers.clone().find_map(|layer| scaling(layer.settings)) else { continue };
        let is_made = |role| layers.iter().any(|layer| layer.role == role && layer.is_own);
        let refusal = match (input, how) {
            (Input::Heads | Input::Channels, Scaling::Smooth(_)) => continue,
            _ if readers.any(|layer| !layer.is_own) => {
                Some("inputs not scaled: the layers that read them share weights")
            }
            (Input::Heads, Scaling::Awq) if is_grouped => {
                Some("awq without scales: several query heads read one value head, so v_proj cannot take them")
            }
            (Input::Heads, Scaling::Awq) if !is_made(LayerRole::VProj) => {
                Some("awq without scales: v_proj, which would take them, is not compressed or shared")
            }
            (Input::Channels, Scaling::Awq) if !is_made(LayerRole::UpProj) => {
                Some("awq without scales: up_proj, which would take them, is not compressed or shared")
            }
            _ => None,
        };
        match refusal {
            None => _ = scaled.insert(input, how),
            Some(reason) => _ = unscaled.insert(input, reason),
        }
    }
    (scaled, unscaled)
}

/// The layer whose rows are divided by the scales of `input`, where a layer and not a norm feeds it.
pub(super) const fn feeder(input: Input) -> Option<LayerRole> {
    match input {
        Input::Heads => Some(LayerRole::VProj),
        Input::Channels => Some(LayerRole::UpProj),
        Input::Attention | Input::Mlp => None,
    }
}

/// The scales of the rows of a layer of `role`.
pub(super) fn row_scales(scales: &BlockScales, role: LayerRole) -> Option<&[f32]> {
    scales.iter().find(|(input, _)| feeder(**input) == Some(role)).map(|(_, scales)| scales.as_slice())
}

/// The scales of the columns of a layer of `role`.
pub(super) fn column_scales(scales: &BlockScales, role: LayerRole) -> Option<&[f32]> {
    scales.get(&Input::of(role)?).map(Vec::as_slice)
}

/// Divides rows and multiplies columns of weights (rows, `row_len`).
pub(super) fn apply(weights: &mut [f32], row_len: usize, rows: Option<&[f32]>, columns: Option<&[f32]>) {
    if let Some(scales) = rows {
        for (row, scale) in weights.chunks_mut(row_len).zip(scales) {
            for weight in row {
                *weight /= scale;
            }
        }
    }
    if let Some(scales) = columns {
        for row in weights.chunks_mut(row_len) {
            row.iter_mut().zip(scales).for_each(|(weight, scale)| *weight *= scale);
        }
    }
}

/// A layer's dense weights, for the search.
pub(super) struct DenseLayer<'a> {
    pub(super) role: LayerRole,
    pub(super) weights: Vec<f32>,
    pub(super) shape: [usize; 2],
    pub(super) settings: &'a LayerSettings,
}

/// Finds the scales of the inputs in `how`. Those that move into rows come first: the layers there are searched with them.
pub(super) fn find(
    how: &BTreeMap<Input, Scaling>,
    mut layers: Vec<DenseLayer<'_>>,
    moments: &BlockMoments,
) -> Result<BlockScales, CompressError> {
    let mut found = BlockScales::new();
    let in_order = [Input::Heads, Input::Channels, Input::Attention, Input::Mlp];
    for (input, how) in in_order.iter().filter_map(|input| Some((*input, how.get(input)?))) {
        let moments: &Moments = moments.get(&input).ok_or(CompressError::NotCalibrated)?;
        let members = layers.iter().filter(|layer| Input::of(layer.role) == Some(input));
        let members = members.map(|DenseLayer { weights, shape, settings, .. }| Member {
            dense: weights,
            shape: *shape,
            settings,
        });
        let members: Vec<Member<'_>> = members.collect();
        let scales = match how {
            Scaling::Awq => awq_scales(&members, moments)?,
            Scaling::Smooth(alpha) => smoothing_scales(&members, moments, *alpha)?,
        };
        if let Some(fed) = layers.iter_mut().find(|layer| feeder(input) == Some(layer.role)) {
            apply(&mut fed.weights, fed.shape[1], Some(&scales), None);
        }
        found.insert(input, scales);
    }
    Ok(found)
}

const ORDER: [Input; 4] = [Input::Attention, Input::Heads, Input::Mlp, Input::Channels];

/// Scales as bytes.
pub(super) fn to_bytes(scales: &BlockScales) -> Vec<u8> {
    lists::to_bytes(&ORDER.map(|input| scales.get(&input).map(|scales| lists::of_floats(scales))))
}

/// Scales from [`to_bytes`]; `None` when the bytes are not those, or not of the inputs in `how`.
pub(super) fn from_bytes(bytes: &[u8], how: &BTreeMap<Input, Scaling>) -> Option<BlockScales> {
    let lists = lists::from_bytes::<4>(bytes)?;
    let mut scales = BlockScales::new();
    for (input, list) in ORDER.into_iter().zip(lists) {
        if let Some(list) = list {
            scales.insert(input, lists::floats(&list)?);
        }
    }
    let is_positive = |scales: &Vec<f32>| scales.iter().all(|scale| *scale > 0.0);
    (scales.keys().eq(how.keys()) && scales.values().all(is_positive)).then_some(scales)
}

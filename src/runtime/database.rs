//! Layers as entries of the layer database.

use crate::compress::Compressed;
use crate::compress::serial::{decode, encode};

/// A layer's entry in two parts: the time that it took, in seconds, and the layer.
pub(super) fn layer_bytes(layer: &Compressed, secs: f64) -> [Vec<u8>; 2] {
    group_bytes(&[layer], secs)
}

/// The layer and the time that it took, from [`layer_bytes`]; `None` when the bytes are not those.
pub(super) fn layer(bytes: &[u8], shape: [usize; 2]) -> Option<(Compressed, f64)> {
    let (mut layers, secs) = group(bytes, &[shape])?;
    Some((layers.pop()?, secs))
}

/// [`layer_bytes`] for layers that share a factor.
pub(super) fn group_bytes(layers: &[&Compressed], secs: f64) -> [Vec<u8>; 2] {
    [secs.to_le_bytes().to_vec(), encode(layers)]
}

/// [`layer`] for layers that share a factor.
pub(super) fn group(bytes: &[u8], shapes: &[[usize; 2]]) -> Option<(Vec<Compressed>, f64)> {
    let (secs, body) = bytes.split_first_chunk::<8>()?;
    let secs = f64::from_le_bytes(*secs);
    let layers = decode(body, shapes);
    if let Err(error) = &layers {
        log::warn!("a stored layer is made anew: {error}");
    }
    Some((layers.ok()?, Some(secs).filter(|secs| secs.is_finite())?))
}

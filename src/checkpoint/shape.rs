//! Shapes without a checkpoint: a configuration, and random weights of what it describes.

use std::path::Path;

use serde::Deserialize;

use crate::checkpoint::config::llama_config;
use crate::checkpoint::file::SourceFile;
use crate::checkpoint::manifest::{needed_layers, needed_vectors};
use crate::checkpoint::own::{KEY, OwnLayout};
use crate::checkpoint::random::{RandomWeights, Values};
use crate::checkpoint::tokenizer::FirstToken;
use crate::checkpoint::{CheckpointError, RawTensor, limits};
use crate::model::{LlamaConfig, StoredFormat};

/// A shape that the program knows by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Its name.
    pub name: &'static str,
    /// Its configuration, as a `config.json` has it.
    pub config: &'static str,
}

macro_rules! shape {
    ($name:literal) => {
        Shape { name: $name, config: include_str!(concat!("../../assets/shapes/", $name, ".json")) }
    };
}

/// The shipped shapes, the largest first. Their widths are those of the published models.
pub const fn shapes() -> &'static [Shape] {
    &[
        shape!("llama-3-8b"),
        shape!("llama-3.2-3b"),
        shape!("llama-3.2-1b"),
        shape!("tinyllama-1.1b"),
        shape!("smollm2-135m"),
        shape!("stories15m"),
    ]
}

/// What a shape is made of: configuration, layout, weights, and where the tensors lie among them.
pub(super) type Parts = (LlamaConfig, OwnLayout, RandomWeights, Vec<RawTensor>);

/// Reads the configuration of a shipped shape, or that at `path`, and lays out its tensors.
pub(super) fn read(path: &Path) -> Result<Parts, CheckpointError> {
    match shapes().iter().find(|shape| path.as_os_str() == shape.name) {
        Some(shape) => lay_out(shape.config.as_bytes(), path),
        None => lay_out(&SourceFile::open(path)?.read_all(&limits::JSON)?, path),
    }
}

fn lay_out(json: &[u8], path: &Path) -> Result<Parts, CheckpointError> {
    let (config, own) = llama_config(json, path, FirstToken::Unknown)?;
    let refuse = |field: &str, reason: String| CheckpointError::Config {
        field: field.to_owned(),
        reason,
        path: path.to_owned(),
    };
    if !(own.low_rank.is_empty() && own.sparse.is_empty() && own.shared.is_empty()) {
        return Err(refuse(KEY, "a shape has whole layers of its own: no factors, zeros or shares".to_owned()));
    }
    let format = stored_format(json).map_err(|name| refuse("torch_dtype", format!("{name:?} is not supported")))?;
    let (mut weights, mut tensors) = (RandomWeights::default(), Vec::new());
    let mut push = |name: String, shape: Vec<usize>, values| {
        let n = shape.iter().map(|n| *n as u64).product();
        let (offset, len) = weights.push(format, n, values);
        tensors.push(RawTensor { name, format: Ok((format, shape)), part: None, offset, len });
    };
    let layers = needed_layers(&config);
    for layer in &layers {
        for (name, shape) in layer.tensors() {
            // Products neither grow nor fade.
            let deviation = 1.0 / (layer.shape[1] as f32).sqrt();
            push(name, shape, Values::Uniform(deviation));
        }
    }
    for vector in needed_vectors(&config, &layers, |_| false) {
        let values = if vector.name.rsplit('.').next() == Some("bias") { Values::Uniform(0.02) } else { Values::Ones };
        push(vector.name, vector.shape, values);
    }
    Ok((config, own, weights, tensors))
}

/// How the checkpoint of such a configuration holds its weights; bfloat16 where it does not say.
fn stored_format(json: &[u8]) -> Result<StoredFormat, String> {
    #[derive(Deserialize)]
    struct Named {
        torch_dtype: Option<String>,
        dtype: Option<String>,
    }
    let named: Named = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    match named.dtype.or(named.torch_dtype).as_deref() {
        None | Some("bfloat16") => Ok(StoredFormat::Bf16),
        Some("float16") => Ok(StoredFormat::F16),
        Some("float32") => Ok(StoredFormat::F32),
        Some(other) => Err(other.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::open;
    use crate::model::ModelSource;

    fn opened(name: &str) -> crate::checkpoint::Checkpoint {
        open(&ModelSource::Shape { config: name.into() }).unwrap()
    }

    #[test]
    fn every_shipped_shape_opens_with_the_published_number_of_weights() {
        // From the model cards: 8.03, 3.21, 1.24 and 1.10 billion, 135 and 15 million.
        let published = [8_030_261_248, 3_212_749_824, 1_235_814_400, 1_100_048_384, 134_515_008, 15_191_712];
        for (shape, expected) in shapes().iter().zip(published) {
            let checkpoint = opened(shape.name);
            let weights: u64 =
                checkpoint.entries().iter().map(|entry| entry.shape.iter().product::<usize>() as u64).sum();
            assert_eq!(weights, expected, "{}", shape.name);
            assert!(checkpoint.refused().is_empty());
            assert_eq!(checkpoint.graph().name, format!("{} (random weights)", shape.name));
        }
    }

    #[test]
    fn its_tensors_are_read_like_those_of_a_file() {
        let checkpoint = opened("stories15m");
        assert_eq!(checkpoint.read_f32("model.norm.weight").unwrap().unwrap(), vec![1.0; 288]);
        let entry = checkpoint.entry("model.layers.3.mlp.down_proj.weight").unwrap();
        let whole = checkpoint.read(entry).unwrap();
        let mut part = vec![0; 1_000];
        checkpoint.read_into(entry, 4_001, &mut part).unwrap();
        assert_eq!(part, whole[4_001..5_001]);
        assert_eq!(checkpoint.graph().fingerprint, opened("stories15m").graph().fingerprint);
        let refused = checkpoint.tokenizer().unwrap_err().to_string();
        assert!(refused.contains("a shape has no tokenizer"), "{refused}");
    }

    #[test]
    fn a_configuration_of_one_s_own_is_a_shape_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let shape = |dtype: &str| shapes()[5].config.replace("float32", dtype);
        std::fs::write(&path, shape("float16")).unwrap();
        let checkpoint = open(&ModelSource::Shape { config: path.clone() }).unwrap();
        assert!(checkpoint.entries().iter().all(|entry| entry.format == StoredFormat::F16));
        for (wrong, field) in [(shape("int3"), "torch_dtype"), (shape("float16").replace("288", "0"), "hidden_size")] {
            std::fs::write(&path, wrong).unwrap();
            let refused = open(&ModelSource::Shape { config: path.clone() }).unwrap_err().to_string();
            assert!(refused.contains(field), "{refused}");
        }
        let absent = open(&ModelSource::Shape { config: "llama-4".into() }).unwrap_err().to_string();
        assert!(absent.contains("llama-4"), "{absent}");
    }
}

//! A Hugging Face folder: `config.json`, one safetensors file or shards with an index, tokenizer files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::checkpoint::file::{Folder, SourceFile, check_plain};
use crate::checkpoint::{CheckpointError, RawTensor, limits, safetensors};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The files of a folder beside its weights, open.
#[derive(Debug)]
pub(crate) struct Texts {
    pub(super) config: SourceFile,
    pub(super) tokenizer: Option<SourceFile>,
    pub(super) tokenizer_config: Option<SourceFile>,
    /// `generation_config.json`, `special_tokens_map.json`, `chat_template.jinja`: copied into an export.
    companions: Vec<(&'static str, SourceFile)>,
}

const COMPANIONS: [&str; 3] = ["generation_config.json", "special_tokens_map.json", "chat_template.jinja"];

impl Texts {
    /// The text of `config.json`.
    pub(crate) fn config_json(&self) -> Result<Vec<u8>, CheckpointError> {
        self.config.read_all(&limits::JSON)
    }

    /// The text of `tokenizer_config.json`, if there is one.
    pub(crate) fn tokenizer_config_json(&self) -> Result<Option<Vec<u8>>, CheckpointError> {
        self.tokenizer_config.as_ref().map(|file| file.read_all(&limits::JSON)).transpose()
    }

    /// Name and text of every other file that belongs to the model beside its weights.
    pub(crate) fn others(&self) -> Result<Vec<(&'static str, Vec<u8>)>, CheckpointError> {
        let mut texts = Vec::new();
        if let Some(file) = &self.tokenizer {
            texts.push(("tokenizer.json", file.read_all(&limits::TOKENIZER)?));
        }
        texts.extend(self.tokenizer_config_json()?.map(|text| ("tokenizer_config.json", text)));
        for (name, file) in &self.companions {
            texts.push((*name, file.read_all(&limits::JSON)?));
        }
        Ok(texts)
    }
}

pub(super) fn open_texts(folder: &Folder) -> Result<Texts, CheckpointError> {
    let Some(config) = folder.open_file("config.json")? else {
        let reason = "the folder has no config.json".to_owned();
        return Err(CheckpointError::NotAModel { reason, path: folder.path().to_owned() });
    };
    let mut companions = Vec::new();
    for name in COMPANIONS {
        companions.extend(folder.open_file(name)?.map(|file| (name, file)));
    }
    Ok(Texts {
        config,
        tokenizer: folder.open_file("tokenizer.json")?,
        tokenizer_config: folder.open_file("tokenizer_config.json")?,
        companions,
    })
}

/// The weight files, and each tensor with the position of its file.
type Weights = (Vec<SourceFile>, Vec<(usize, RawTensor)>);

/// The weight files and their tensors; no name stands twice.
pub(super) fn open_weights(folder: &Folder) -> Result<Weights, CheckpointError> {
    if let Some(file) = folder.open_file(SINGLE)? {
        let tensors = safetensors::read_header(&file)?;
        return Ok((vec![file], tensors.into_iter().map(|tensor| (0, tensor)).collect()));
    }
    if let Some(index) = folder.open_file(INDEX)? {
        return open_shards(folder, &index);
    }
    let reason = format!("the folder has neither {SINGLE} nor {INDEX}");
    Err(CheckpointError::NotAModel { reason, path: folder.path().to_owned() })
}

fn open_shards(folder: &Folder, index: &SourceFile) -> Result<Weights, CheckpointError> {
    let json = index.read_all(&limits::JSON)?;
    let parsed: Index = serde_json::from_slice(&json)
        .map_err(|error| index.header("weight_map", error.column().saturating_sub(1) as u64, error.to_string()))?;
    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, shard) in &parsed.weight_map.0 {
        shards.entry(shard).or_default().push(tensor);
    }
    limits::SHARDS.check(shards.len() as u64).map_err(|reason| index.header("weight_map", 0, reason))?;
    let mut files = Vec::new();
    let mut tensors: Vec<(usize, RawTensor)> = Vec::new();
    let mut names: BTreeSet<String> = BTreeSet::new();
    for (shard, expected) in shards {
        check_plain(shard).map_err(|reason| index.header("weight_map", 0, reason))?;
        let Some(file) = folder.open_file(shard)? else {
            return Err(index.header("weight_map", 0, format!("shard {shard:?} is not in the folder")));
        };
        let found = safetensors::read_header(&file)?;
        let in_shard: BTreeSet<&str> = found.iter().map(|tensor| tensor.name.as_str()).collect();
        if let Some(absent) = expected.into_iter().find(|name| !in_shard.contains(name)) {
            return Err(index.tensor(absent, 0, format!("is not in shard {shard:?}, where the index has it")));
        }
        for tensor in found {
            if !names.insert(tensor.name.clone()) {
                return Err(file.tensor(&tensor.name, tensor.offset, "is in another shard as well"));
            }
            limits::TENSORS.check(names.len() as u64).map_err(|reason| file.header("the header", 8, reason))?;
            tensors.push((files.len(), tensor));
        }
        files.push(file);
    }
    Ok((files, tensors))
}

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// Tensor and shard; a tensor that stands twice is an error.
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WeightMapVisitor;
        impl<'de> Visitor<'de> for WeightMapVisitor {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of tensors and their shards")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut shards = BTreeMap::new();
                while let Some((tensor, shard)) = map.next_entry::<String, String>()? {
                    if shards.contains_key(&tensor) {
                        return Err(A::Error::custom(format!("tensor {tensor:?} stands twice")));
                    }
                    shards.insert(tensor, shard);
                }
                Ok(WeightMap(shards))
            }
        }
        deserializer.deserialize_map(WeightMapVisitor)
    }
}

/// The folder for which a file stands: its configuration, index or weights; `None` for any other file.
pub(super) fn folder_of(path: &Path) -> Option<&Path> {
    let is_config = path.file_name().is_some_and(|name| name == "config.json" || name == INDEX);
    let is_weights = path.extension().is_some_and(|extension| extension == "safetensors");
    (is_config || is_weights).then(|| match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("."),
    })
}

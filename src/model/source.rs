//! Where a model lies on disk.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A checkpoint on disk, by its layout.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelSource {
    /// A Hugging Face folder with `config.json` and safetensors.
    Safetensors {
        /// The folder.
        dir: PathBuf,
    },
    /// One GGUF file.
    Gguf {
        /// The file.
        file: PathBuf,
    },
    /// A shape without a checkpoint: its weights are random, made as they are read. For speed and memory only.
    Shape {
        /// A shipped shape by its name, or a `config.json`.
        config: PathBuf,
    },
}

impl ModelSource {
    /// The folder or file, or the name of a shape.
    pub fn path(&self) -> &Path {
        match self {
            Self::Safetensors { dir } => dir,
            Self::Gguf { file } => file,
            Self::Shape { config } => config,
        }
    }

    /// The last component of the path without `.gguf`, lossy where it is not UTF-8: for display only.
    pub fn name(&self) -> String {
        let path = self.path();
        let name = match self {
            Self::Safetensors { .. } => path.file_name(),
            Self::Gguf { .. } => path.file_stem(),
            Self::Shape { .. } => {
                // Every model's is called `config.json`: its folder tells them apart.
                let folder = path.parent().and_then(Path::file_name);
                let name = folder.or_else(|| path.file_name()).unwrap_or(path.as_os_str());
                return format!("{} (random weights)", name.to_string_lossy());
            }
        };
        name.map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
    }
}

//! The model files that both engines read, made once and kept in the user's cache.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use clap::ValueEnum;
use trimtab::cache::default_dir;
use trimtab::checkpoint::{self, Checkpoint};
use trimtab::device::{DeviceInfo, DeviceSpec};
use trimtab::export::{Existing, ModelLayout};
use trimtab::model::{ModelGraph, ModelSource};
use trimtab::recipe::WeightFormat;
use trimtab::session::{ModelExport, export_model};

use crate::format::WholeModel;
use crate::random::{self, Widths};

/// Part of the folder's name: another number when other files are to be made.
const VERSION: u32 = 1;

/// The models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// The embedded model: 288 wide, 6 blocks.
    #[value(name = "stories15M", alias = "stories15m")]
    Stories15M,
    /// 576 wide, 30 blocks, random weights.
    #[value(name = "135m")]
    M135,
    /// 2048 wide, 4 blocks, random weights: the layers of a model with a billion weights.
    #[value(name = "1b")]
    B1,
}

impl Shape {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Stories15M => "stories15M",
            Self::M135 => "135m",
            Self::B1 => "1b",
        }
    }

    /// For the title of a table.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Stories15M => "stories15M (288 wide, 6 blocks)",
            Self::M135 => "135M shape (576 wide, 30 blocks, random weights)",
            Self::B1 => "1B-class shape (2048 wide, 4 blocks, random weights)",
        }
    }

    /// Tokens of the prompt.
    pub(crate) const fn prompt(self) -> u32 {
        match self {
            Self::Stories15M | Self::B1 => 256,
            Self::M135 => 512,
        }
    }

    /// The longest context.
    pub(crate) const fn max_context(self) -> u32 {
        match self {
            Self::Stories15M => 256,
            Self::M135 | Self::B1 => random::MAX_CONTEXT,
        }
    }

    const fn widths(self) -> Option<Widths> {
        match self {
            Self::Stories15M => None,
            Self::M135 => {
                Some(Widths { hidden: 576, n_blocks: 30, n_heads: 9, n_kv_heads: 3, mlp: 1536, is_tied: true })
            }
            Self::B1 => {
                Some(Widths { hidden: 2048, n_blocks: 4, n_heads: 32, n_kv_heads: 8, mlp: 5632, is_tied: false })
            }
        }
    }
}

/// The folder of model files.
pub(crate) struct Files {
    folder: PathBuf,
}

impl Files {
    /// Opens the folder in the user's cache.
    pub(crate) fn in_user_cache() -> anyhow::Result<Self> {
        let cache = default_dir().context("neither XDG_CACHE_HOME nor HOME names a folder for model files")?;
        let folder = cache.join(format!("bench-{VERSION}"));
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        eprintln!("model files are kept in {}", folder.display());
        Ok(Self { folder })
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The GGUF file of `shape` with all weights in `format`, made if it is not there.
    pub(crate) fn gguf(&self, shape: Shape, format: WeightFormat) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(format!("{}-{}.gguf", shape.name(), format.label()));
        if path.is_file() {
            return Ok(path);
        }
        eprintln!("making {}", path.display());
        if format != WeightFormat::F32 {
            write_gguf(&self.gguf(shape, WeightFormat::F32)?, format, &path)?;
        } else if let Some(widths) = shape.widths() {
            // Removed again: the GGUF file has the same values.
            let made = tempfile::tempdir_in(&self.folder)?;
            random::write(&widths, made.path()).context("write random weights")?;
            for name in ["tokenizer.json", "tokenizer_config.json"] {
                std::fs::copy(embedded().join(name), made.path().join(name))?;
            }
            write_gguf(made.path(), format, &path)?;
        } else {
            write_gguf(&embedded(), format, &path)?;
        }
        Ok(path)
    }

    /// The layers of `shape`.
    pub(crate) fn graph(&self, shape: Shape) -> anyhow::Result<ModelGraph> {
        Ok(open(&self.gguf(shape, WeightFormat::F32)?)?.graph().clone())
    }
}

fn embedded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/stories15M")
}

/// Opens a model.
pub(crate) fn open(path: &Path) -> anyhow::Result<Checkpoint> {
    Ok(checkpoint::open(&checkpoint::detect(path)?)?)
}

/// What a worker opens.
pub(crate) fn source(file: &Path) -> ModelSource {
    ModelSource::Gguf { file: file.to_owned() }
}

/// The model at `from` with all weights in `format`. The file is whole or absent: the exporter writes beside it first.
fn write_gguf(from: &Path, format: WeightFormat, out: &Path) -> anyhow::Result<()> {
    let source = &open(from)?;
    let recipe = &WholeModel::new(format, source.graph()).recipe;
    let spec = DeviceSpec::all_cores();
    let device = DeviceInfo::named(spec, "");
    let layout = ModelLayout::Gguf;
    let job = ModelExport { source, recipe, device: &device, layout, dtype: None, out, existing: Existing::Replace };
    export_model(&job, &AtomicBool::new(false), &mut |_| {})?;
    Ok(())
}

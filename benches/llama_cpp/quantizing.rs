//! Making the formats: from an f32 file to a file of one format, and the function alone.

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use rayon::ThreadPoolBuilder;
use serde::Serialize;
use trimtab::compress::{Job, compress};
use trimtab::model::{ModelGraph, StoredFormat};
use trimtab::recipe::{LayerSettings, WeightFormat};

use crate::files::{Files, Shape, open};
use crate::format::{Format, WholeModel};
use crate::ours::PROGRAM;
use crate::peer::{self, Peer};
use crate::speed::median;

/// One format.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) format: String,
    /// Bytes of the f32 file.
    pub(crate) input_bytes: u64,
    /// Bytes of the f32 matrices.
    pub(crate) matrix_bytes: u64,
    /// `trimtab export`, the whole process.
    pub(crate) ours_secs: Vec<f64>,
    /// `llama-quantize`, the whole process.
    pub(crate) peer_secs: Vec<f64>,
    /// Our function over all matrices.
    pub(crate) function_secs: f64,
    /// Why there are no figures.
    pub(crate) skipped: Option<String>,
}

impl Row {
    /// Ours over the other's, file to file: median, least and most over the rounds.
    pub(crate) fn ratio(&self) -> [f64; 3] {
        let ratios: Vec<f64> = self.peer_secs.iter().zip(&self.ours_secs).map(|(peer, ours)| peer / ours).collect();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        [median(ratios), least, most]
    }
}

/// Times every GGML format among `formats` that all rows of the model are whole blocks of.
pub(crate) fn compare(
    files: &Files,
    peer: &Peer,
    shape: Shape,
    formats: &[Format],
    rounds: u32,
) -> anyhow::Result<Vec<Row>> {
    let from = files.gguf(shape, WeightFormat::F32)?;
    let input_bytes = std::fs::metadata(&from)?.len();
    let graph = files.graph(shape)?;
    let matrix_bytes = 4 * graph.layers.iter().map(|layer| layer.n_weights()).sum::<u64>();
    let scratch = tempfile::tempdir_in(files.folder())?;
    let mut rows = Vec::new();
    let in_file = formats.iter().filter_map(|format| match format {
        Format::InFile(format) if format.ggml().is_some() => Some(*format),
        Format::InFile(_) | Format::RowInt8 => None,
    });
    for format in in_file {
        let whole = WholeModel::new(format, &graph);
        let mut row = Row {
            format: format.label(),
            input_bytes,
            matrix_bytes,
            ours_secs: Vec::new(),
            peer_secs: Vec::new(),
            function_secs: 0.0,
            skipped: whole.fallback.map(|(share, _)| {
                format!("{share:.0} % of the weights lie in rows that are not whole blocks; each program has its own way out")
            }),
        };
        if row.skipped.is_none() {
            eprintln!("{} {}: quantizing", shape.name(), row.format);
            let recipe = scratch.path().join("recipe.toml");
            std::fs::write(&recipe, whole.recipe.to_toml())?;
            for _ in 0..rounds {
                row.ours_secs.push(export(&from, &recipe, &scratch.path().join("ours.gguf"), peer.threads())?);
                let theirs = peer.quantize(&from, format, &scratch.path().join("theirs.gguf"))?;
                row.peer_secs.push(theirs.as_secs_f64());
            }
            row.function_secs = function(&from, &graph, format, peer.threads())?;
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Seconds of `trimtab export`.
fn export(from: &Path, recipe: &Path, out: &Path, threads: u16) -> anyhow::Result<f64> {
    let mut command = peer::command(Path::new(PROGRAM));
    command.arg("export").arg(from).arg("--recipe").arg(recipe).args(["--format", "gguf", "--replace", "--out"]);
    command.arg(out).env("RAYON_NUM_THREADS", threads.to_string());
    Ok(peer::run(&mut command)?.1.as_secs_f64())
}

/// Seconds of quantizing every matrix, without reading and writing.
fn function(from: &Path, graph: &ModelGraph, format: WeightFormat, threads: u16) -> anyhow::Result<f64> {
    let source = open(from)?;
    let settings = LayerSettings::of(format);
    let pool = ThreadPoolBuilder::new().num_threads(usize::from(threads)).build()?;
    let mut secs = 0.0;
    for layer in &graph.layers {
        let dense = source.read_f32(&format!("{}.weight", layer.path))?.context("a listed layer has weights")?;
        let job =
            Job { dense: &dense, shape: layer.shape, settings: &settings, native: StoredFormat::F32, moments: None };
        let began = Instant::now();
        let packed = pool.install(|| compress(&job))?;
        secs += began.elapsed().as_secs_f64();
        drop(packed);
    }
    Ok(secs)
}

//! Prefill, decode and memory, in rounds of both engines.

use anyhow::Context as _;
use serde::Serialize;
use trimtab::measure::percentile;
use trimtab::model::{LlamaConfig, ModelFamily};
use trimtab::recipe::KvCacheSettings;

use crate::files::{Files, Shape, source};
use crate::format::{Format, WholeModel};
use crate::ours;
use crate::peer::Peer;

/// What a worker may take beside the file and the cache.
const ALLOWANCE_BYTES: u64 = 120 << 20;

/// What is timed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Settings {
    pub(crate) prompt: u32,
    pub(crate) decode: u32,
    pub(crate) rounds: u32,
    pub(crate) repetitions: u32,
    pub(crate) threads: u16,
}

impl Settings {
    /// Tokens of the longest sequence.
    pub(crate) fn longest(&self) -> u32 {
        self.prompt.max(self.decode + 1)
    }
}

/// The times of one process, one a repetition.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Round {
    /// The whole prompt.
    pub(crate) prefill_secs: Vec<f64>,
    /// All single tokens.
    pub(crate) decode_secs: Vec<f64>,
}

/// One format.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) format: String,
    /// The share of weights, in percent, that have another format, and its name.
    pub(crate) fallback: Option<(f64, String)>,
    /// The file, or what ours makes of it.
    pub(crate) bytes: u64,
    pub(crate) ours: Vec<Round>,
    pub(crate) peer: Vec<Round>,
    /// What ran on our side.
    pub(crate) product: String,
    /// The largest of all rounds.
    pub(crate) peak_bytes: Option<u64>,
    /// File, cache and allowance; absent where the worker also holds the model that the variant is made of.
    pub(crate) bound_bytes: Option<u64>,
    pub(crate) cautions: Vec<String>,
    /// Why there are no figures.
    pub(crate) failure: Option<String>,
}

/// Rates of both engines over the rounds.
pub(crate) struct Rates {
    /// Tokens a second, the median over the rounds.
    pub(crate) ours: f64,
    pub(crate) peer: f64,
    /// Ours over the other's: median, least and most over the rounds.
    pub(crate) ratio: [f64; 3],
}

impl Row {
    /// Rates of a phase of `tokens`, from the medians of each round.
    pub(crate) fn rates(&self, tokens: u32, secs: fn(&Round) -> &[f64]) -> Option<Rates> {
        let rates = |rounds: &[Round]| -> Vec<f64> {
            rounds.iter().map(|round| f64::from(tokens) / median(secs(round).to_vec())).collect()
        };
        let (ours, peer) = (rates(&self.ours), rates(&self.peer));
        if ours.is_empty() || ours.len() != peer.len() {
            return None;
        }
        let mut ratios: Vec<f64> = ours.iter().zip(&peer).map(|(ours, peer)| ours / peer).collect();
        ratios.sort_by(f64::total_cmp);
        let ratio = [percentile(&ratios, 0.5), ratios[0], ratios[ratios.len() - 1]];
        Some(Rates { ours: median(ours), peer: median(peer), ratio })
    }
}

/// The middle of some values; not a number where there are none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    if values.is_empty() { f64::NAN } else { percentile(&values, 0.5) }
}

/// Compares every format; one that fails is a row with its reason.
pub(crate) fn compare(
    files: &Files,
    peer: &Peer,
    shape: Shape,
    formats: &[Format],
    settings: &Settings,
) -> anyhow::Result<Vec<Row>> {
    let graph = files.graph(shape)?;
    let ModelFamily::Llama(config) = &graph.family;
    let mut rows = Vec::new();
    for &format in formats {
        let file = files.gguf(shape, format.in_file())?;
        let bytes = std::fs::metadata(&file).with_context(|| format!("look at {}", file.display()))?.len();
        let mut row = Row {
            format: format.name(),
            fallback: WholeModel::new(format.in_file(), &graph).fallback,
            bytes,
            ours: Vec::new(),
            peer: Vec::new(),
            product: String::new(),
            peak_bytes: None,
            bound_bytes: matches!(format, Format::InFile(_))
                .then(|| bytes + kv_bytes(config, settings) + ALLOWANCE_BYTES),
            cautions: Vec::new(),
            failure: None,
        };
        let recipe = format.recipe(&graph);
        for round in 0..settings.rounds {
            eprintln!("{} {}: round {} of {}", shape.name(), row.format, round + 1, settings.rounds);
            let ran = if round % 2 == 0 {
                ours::run(&source(&file), &recipe, settings, files.folder())
                    .and_then(|ran| Ok((ran, peer.bench(&file, settings)?)))
            } else {
                // A steady drift hits both alike.
                peer.bench(&file, settings)
                    .and_then(|theirs| Ok((ours::run(&source(&file), &recipe, settings, files.folder())?, theirs)))
            };
            match ran {
                Ok((ran, theirs)) => row.take(format, ran, theirs),
                Err(error) => {
                    row.failure = Some(format!("{error:#}"));
                    break;
                }
            }
        }
        rows.push(row);
    }
    Ok(rows)
}

impl Row {
    fn take(&mut self, format: Format, ran: ours::Ran, theirs: Round) {
        if format == Format::RowInt8 {
            self.bytes = ran.weight_bytes;
        }
        self.product = ran.product;
        self.peak_bytes = self.peak_bytes.max(ran.peak_bytes);
        self.cautions.extend(ran.cautions);
        self.ours.push(ran.round);
        self.peer.push(theirs);
    }
}

/// Keys and values of the longest sequence, in the formats that a recipe has by default.
fn kv_bytes(config: &LlamaConfig, settings: &Settings) -> u64 {
    let width = config.n_kv_heads * config.head_dim;
    let KvCacheSettings { keys, values } = KvCacheSettings::default();
    let row_bytes: usize = [keys, values].iter().map(|format| width / format.block_len() * format.block_bytes()).sum();
    (config.n_blocks * row_bytes) as u64 * u64::from(settings.longest())
}

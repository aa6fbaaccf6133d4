//! Our side: the worker that every trial runs in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use trimtab::device::DeviceSpec;
use trimtab::model::ModelSource;
use trimtab::recipe::Recipe;
use trimtab::study::{Caution, Measurements, Outcome, SpeedWorkload, StudyEvent, TrialId, TrialSpec, Workload};
use trimtab::worker::Runner as _;
use trimtab::worker::host::{WorkerConfig, WorkerHandle};

use crate::speed::{Round, Settings};

/// The program with the worker in it, as built with this benchmark.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_trimtab");

/// Between two looks for events.
const PATIENCE: Duration = Duration::from_secs(1);

/// What one worker said.
pub(crate) struct Ran {
    pub(crate) round: Round,
    /// What ran, with the number of layers where it is not all of them.
    pub(crate) product: String,
    pub(crate) weight_bytes: u64,
    pub(crate) peak_bytes: Option<u64>,
    pub(crate) cautions: Vec<String>,
}

/// A worker that opens `source` and times the variant of `recipe`.
///
/// Two trials, as the other engine does it: a prompt, then single tokens from an empty context. The first of those is
/// ours as a prompt of one token, outside of the clock.
pub(crate) fn run(source: &ModelSource, recipe: &Recipe, settings: &Settings, scratch: &Path) -> anyhow::Result<Ran> {
    let device = DeviceSpec::Cpu { threads: settings.threads };
    let mut config = WorkerConfig::new(source.clone(), device).context("find the worker")?;
    config.exe = PathBuf::from(PROGRAM);
    // What is compressed on the way is not kept among the user's.
    config.env.push(("XDG_CACHE_HOME".to_owned(), scratch.display().to_string()));
    let mut worker = WorkerHandle::new(config);
    let mut trial = |prompt, decode| {
        let speed = SpeedWorkload { prompt, decode, repetitions: settings.repetitions };
        let workload = Workload { speed: Some(speed), ..Workload::default() };
        // Trial 0 is the reference in every study.
        let id = TrialId(u32::from(*recipe != Recipe::reference()));
        finish(&mut worker, &TrialSpec { id, recipe: recipe.clone(), device, workload, seed: 0 })
    };
    let (prefill, mut cautions) = trial(settings.prompt, 1)?;
    let (decode, more) = trial(1, settings.decode)?;
    cautions.extend(more);
    let prefill_nanos = &prefill.speed.as_ref().context("the worker reported no speed")?.prefill.samples_nanos;
    let decode_nanos = &decode.speed.as_ref().context("the worker reported no speed")?.decode.samples_nanos;
    let secs = |nanos: &[u64]| nanos.iter().sum::<u64>() as f64 * 1e-9;
    let round = Round {
        prefill_secs: prefill_nanos.chunks_exact(1).map(secs).collect(),
        decode_secs: decode_nanos.chunks_exact(settings.decode as usize).map(secs).collect(),
    };
    Ok(Ran {
        round,
        product: product(&decode),
        weight_bytes: decode.memory.weight_bytes,
        peak_bytes: decode.memory.peak_rss_bytes.max(prefill.memory.peak_rss_bytes),
        cautions: cautions.iter().filter(|caution| is_of_timing(caution)).map(ToString::to_string).collect(),
    })
}

fn finish(worker: &mut WorkerHandle, spec: &TrialSpec) -> anyhow::Result<(Box<Measurements>, Vec<Caution>)> {
    worker.submit(spec);
    loop {
        let Some(event) = worker.next_event(PATIENCE) else { continue };
        let StudyEvent::TrialFinished { outcome, cautions, .. } = event else { continue };
        return match outcome {
            Outcome::Done(measurements) => Ok((measurements, cautions)),
            Outcome::Failed(failure) => anyhow::bail!("{}: {}", failure.kind.label(), failure.message),
        };
    }
}

/// The products that ran, those of most layers first.
fn product(measurements: &Measurements) -> String {
    let mut products: Vec<(&String, &u32)> = measurements.products.iter().collect();
    products.sort_by_key(|(name, layers)| (std::cmp::Reverse(**layers), (*name).clone()));
    let mut text = match products.as_slice() {
        [(name, _)] => (*name).clone(),
        _ => products.iter().map(|(name, layers)| format!("{name} ×{layers}")).collect::<Vec<_>>().join(", "),
    };
    if measurements.simulated_layers > 0 {
        text.push_str(" (simulated)");
    }
    text
}

/// Whether a caution speaks of how well the clock could be read; the others are in the name of the product.
fn is_of_timing(caution: &Caution) -> bool {
    matches!(caution, Caution::Disturbed { .. })
}

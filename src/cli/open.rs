//! What commands are given: models, recipes, devices, studies.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use crossbeam_channel::bounded;

use crate::checkpoint::{self, Checkpoint};
use crate::cli::args::{CalibrationArgs, ModelArgs};
use crate::cli::out::{quoted, say};
use crate::device::{DeviceInfo, DeviceSpec};
use crate::model::{ModelGraph, ModelSource};
use crate::recipe::{Plan, Recipe, WeightFormat, presets};
use crate::session;
use crate::study::{Study, journal};
use crate::telemetry::Telemetry;
use crate::worker::cuda;

/// Opens the model at `path`: headers only.
pub(super) fn model(path: &Path) -> anyhow::Result<Checkpoint> {
    Ok(checkpoint::open(&checkpoint::detect(path)?)?)
}

/// Opens the model, or lays out the shape.
pub(super) fn model_or_shape(args: &ModelArgs) -> anyhow::Result<Checkpoint> {
    match (&args.model, &args.shape) {
        (Some(path), _) => model(path),
        (None, Some(shape)) => {
            let is_known = checkpoint::shapes().iter().any(|known| shape.as_os_str() == known.name);
            if !is_known && !shape.is_file() {
                let names: Vec<&str> = checkpoint::shapes().iter().map(|shape| shape.name).collect();
                bail!("{} is neither a config.json nor one of {}", quoted(shape), names.join(", "));
            }
            Ok(checkpoint::open(&ModelSource::Shape { config: shape.clone() })?)
        }
        (None, None) => bail!("name a MODEL or a --shape; `trimtab bench --help` has examples"),
    }
}

/// The recipe that `text` names: `none`, a shipped recipe, a format for every block, or a file relative to `folder`.
pub(super) fn recipe(text: &str, folder: &Path) -> anyhow::Result<Recipe> {
    if text == "none" {
        return Ok(Recipe::reference());
    }
    if let Some(preset) = presets().iter().find(|preset| preset.id == text) {
        return Ok(preset.recipe());
    }
    if let Some(format) = WeightFormat::NAMED.iter().find(|format| format.label() == text) {
        return Ok(Recipe::uniform(text, *format, None));
    }
    let path = folder.join(text);
    let toml = std::fs::read_to_string(&path).with_context(|| {
        let names: Vec<&str> = presets().iter().map(|preset| preset.id).collect();
        format!(
            "read the recipe {} (shipped ones are none, {}; a format by its name is one, too)",
            quoted(&path),
            names.join(", ")
        )
    })?;
    let mut recipe = Recipe::from_toml(&toml).with_context(|| quoted(&path))?;
    // A recipe's own text lies where the recipe says, wherever it is used from.
    let home = path.parent().unwrap_or(Path::new(""));
    recipe.calibration.data = recipe.calibration.data.map(|data| home.join(data));
    if recipe.name.is_empty() {
        recipe.name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    }
    Ok(recipe)
}

/// How long the first reading of the sensors may take.
const FIRST_READING: Duration = Duration::from_secs(5);

/// Every device of this machine.
pub(super) fn devices() -> Vec<DeviceInfo> {
    let (read, first) = bounded(1);
    let telemetry = Telemetry::start(Some(Arc::new(move || read.try_send(()).unwrap_or_default())));
    if first.recv_timeout(FIRST_READING).is_err() {
        log::warn!("the sensors gave no reading: memory and GPUs are not known");
    }
    session::devices(&telemetry.snapshot(), Some(&cuda::devices()))
}

/// The description of `spec`, which must be a device that trials can run on now.
pub(super) fn device(spec: DeviceSpec) -> anyhow::Result<DeviceInfo> {
    let same_kind = |info: &DeviceInfo| match (info.spec, spec) {
        (DeviceSpec::Cpu { .. }, DeviceSpec::Cpu { .. }) => true,
        (known, wanted) => known == wanted,
    };
    let Some(info) = devices().into_iter().find(same_kind) else {
        bail!("{} is not a device of this machine; `trimtab devices` lists them", spec.label());
    };
    if let Some(reason) = &info.unavailable {
        bail!("{} cannot run trials now: {reason}", spec.label());
    }
    Ok(DeviceInfo { spec, ..info })
}

/// `cpu`, `cpu:2` for two threads, `cuda` or `cuda:1` for the second card. `threads` is another way to say those of the
/// processor.
pub(super) fn device_spec(text: &str, threads: Option<u16>) -> anyhow::Result<DeviceSpec> {
    let (kind, number) =
        text.split_once(':').map_or((text, None), |(kind, number)| (kind, Some(number.parse::<u16>())));
    match (kind, number) {
        ("cpu", None) => Ok(cpu(threads)),
        ("cpu", Some(Ok(n))) if n > 0 => Ok(cpu(Some(n))),
        ("cuda", None) => Ok(DeviceSpec::Cuda { ordinal: 0 }),
        ("cuda", Some(Ok(ordinal))) => Ok(DeviceSpec::Cuda { ordinal }),
        _ => bail!("device {text:?} is none of \"cpu\", \"cpu:THREADS\", \"cuda\" and \"cuda:NUMBER\""),
    }
}

/// The processor with so many threads; one a core when absent.
pub(super) fn cpu(threads: Option<u16>) -> DeviceSpec {
    threads.map_or_else(DeviceSpec::all_cores, |threads| DeviceSpec::Cpu { threads })
}

/// The recipe with the text and windows that the command line names in the place of its own.
pub(super) fn calibrated(mut recipe: Recipe, args: &CalibrationArgs) -> Recipe {
    if recipe.needs_calibration() {
        recipe.calibration.data = args.calibration.clone().or(recipe.calibration.data);
        recipe.calibration.windows = args.calibration_windows.or(recipe.calibration.windows);
    } else if args.calibration.is_some() || args.calibration_windows.is_some() {
        say(&format!("note: the recipe {:?} has no method that reads a calibration text", recipe.name));
    }
    recipe
}

/// Fails with every problem that the recipe has on this model and device, a calibration text that cannot be read among
/// them.
pub(super) fn check(recipe: &Recipe, graph: &ModelGraph, device: &DeviceInfo) -> anyhow::Result<Plan> {
    let plan = match recipe.resolve(graph, device) {
        Ok(plan) => plan,
        Err(issues) => {
            let lines: Vec<String> = issues.iter().map(|issue| format!("  {issue}")).collect();
            bail!("the recipe {:?} cannot run on {}:\n{}", recipe.name, graph.name, lines.join("\n"));
        }
    };
    if let Some(data) = plan.calibration.data.as_deref().filter(|_| plan.needs_calibration()) {
        readable(data).with_context(|| format!("read the calibration text {}", quoted(data)))?;
    }
    Ok(plan)
}

/// Fails when `path` is not a file with something in it.
fn readable(path: &Path) -> anyhow::Result<()> {
    if !std::fs::metadata(path)?.is_file() {
        bail!("not a file");
    }
    if std::fs::File::open(path)?.read(&mut [0])? == 0 {
        bail!("the file is empty");
    }
    Ok(())
}

/// Reads a study without changing it; the words are damage that was found.
pub(super) fn study(path: &Path) -> anyhow::Result<(Study, Vec<String>)> {
    let (study, damage) = journal::read_study(path)?;
    if study.header.is_none() {
        bail!("read the study: no intact first record: {}", quoted(path));
    }
    Ok((study, damage))
}

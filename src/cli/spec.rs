//! The file that `trimtab sweep` reads: a [`StudySpec`] with paths relative to the file and recipes by name.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::checkpoint;
use crate::cli::args::CalibrationArgs;
use crate::cli::open;
use crate::cli::out::quoted;
use crate::device::DeviceSpec;
use crate::recipe::{Calibration, Recipe};
use crate::study::{Axis, Budget, Limits, StrategySpec, StudySpec, Workload};

/// The version of the schema that this program reads.
const FORMAT_VERSION: u32 = 1;

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpecFile {
    format_version: u32,
    name: String,
    model: PathBuf,
    device: Option<String>,
    /// In the place of `device`: cards that run trials at the same time.
    #[serde(default)]
    devices: Vec<String>,
    workload: Workload,
    strategy: StrategyFile,
    /// For recipes that leave theirs open.
    #[serde(default)]
    calibration: Calibration,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    budget: Budget,
    #[serde(default)]
    seed: u64,
}

impl SpecFile {
    /// Where trials run; the processor where the file does not say. Several devices are cards: the processor's threads
    /// would disturb each other, and what they measure.
    fn devices(&self) -> anyhow::Result<(DeviceSpec, Vec<DeviceSpec>)> {
        let parse = |text: &String| open::device_spec(text, None);
        if let (Some(device), []) = (&self.device, &self.devices[..]) {
            return Ok((parse(device)?, Vec::new()));
        }
        if self.device.is_some() {
            bail!("name `device` or `devices`, not both");
        }
        let found = self.devices.iter().map(parse).collect::<anyhow::Result<Vec<_>>>()?;
        let is_card = |device: &DeviceSpec| matches!(device, DeviceSpec::Cuda { .. });
        for (position, device) in found.iter().enumerate() {
            if found.len() > 1 && !is_card(device) {
                bail!("devices: {} runs trials alone, several devices are cards", device.label());
            }
            if found[..position].contains(device) {
                bail!("devices: {} stands twice", device.label());
            }
        }
        match found.split_first() {
            Some((first, rest)) => Ok((*first, rest.to_vec())),
            None => Ok((open::device_spec("cpu", None)?, Vec::new())),
        }
    }
}

/// [`StrategySpec`] with recipes by name.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
enum StrategyFile {
    List {
        recipes: Vec<RecipeRef>,
    },
    Grid {
        #[serde(default)]
        base: RecipeRef,
        axes: Vec<Axis>,
    },
    Progressive {
        #[serde(default)]
        base: RecipeRef,
        rungs: Vec<Axis>,
    },
}

/// A recipe by name or in place.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a recipe is `none`, a shipped name, a file, or a table with format_version = 1")]
enum RecipeRef {
    Named(String),
    Table(Box<Recipe>),
}

impl Default for RecipeRef {
    fn default() -> Self {
        Self::Named("none".to_owned())
    }
}

impl RecipeRef {
    fn recipe(self, folder: &Path) -> anyhow::Result<Recipe> {
        match self {
            Self::Named(name) => open::recipe(&name, folder),
            Self::Table(mut recipe) => {
                recipe.calibration.data = recipe.calibration.data.map(|data| folder.join(data));
                Ok(*recipe)
            }
        }
    }
}

/// Reads a file of this schema.
///
/// # Errors
/// With line and column where the text is not the schema; with the path of what it names and is not there.
pub(super) fn read(path: &Path, flags: &CalibrationArgs) -> anyhow::Result<StudySpec> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", quoted(path)))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    parse(&text, folder, flags).with_context(|| format!("read {}", quoted(path)))
}

fn parse(text: &str, folder: &Path, flags: &CalibrationArgs) -> anyhow::Result<StudySpec> {
    #[derive(Deserialize)]
    struct Version {
        format_version: Option<u32>,
    }
    // A newer file may have fields that this version does not know: its version is the better message.
    if let Ok(Version { format_version: Some(found) }) = toml::from_str(text)
        && found > FORMAT_VERSION
    {
        bail!("format_version {found} is newer than {FORMAT_VERSION}; update Trimtab to use it");
    }
    let file: SpecFile = toml::from_str(text)?;
    if file.format_version != FORMAT_VERSION {
        bail!("format_version {} is not {FORMAT_VERSION}", file.format_version);
    }
    let (device, also_on) = file.devices()?;
    let mut workload = file.workload;
    if let Some(quality) = &mut workload.quality {
        quality.data = settled(&folder.join(&quality.data)).context("workload.quality.data")?;
    }
    let mut calibration = file.calibration;
    calibration.data = calibration.data.map(|data| folder.join(data));
    let mut strategy = strategy(file.strategy, folder)?;
    calibrate(&mut strategy, &calibration, flags)?;
    Ok(StudySpec {
        name: file.name,
        model: settled(&folder.join(file.model)).and_then(|path| Ok(checkpoint::detect(&path)?)).context("model")?,
        device,
        also_on,
        workload,
        strategy,
        limits: file.limits,
        budget: file.budget,
        seed: file.seed,
    })
}

/// Gives recipes what the flags say, and where they are silent what the file says of the things that they leave open.
pub(super) fn calibrate(
    strategy: &mut StrategySpec,
    file: &Calibration,
    flags: &CalibrationArgs,
) -> anyhow::Result<()> {
    let recipes: Vec<&mut Recipe> = match strategy {
        StrategySpec::List { recipes } => recipes.iter_mut().filter(|recipe| recipe.needs_calibration()).collect(),
        // Whether a method reads the text, the axes decide.
        StrategySpec::Grid { base, .. } | StrategySpec::Progressive { base, .. } => vec![base],
    };
    for recipe in recipes {
        let own = &mut recipe.calibration;
        if own.is_default() {
            own.policy = file.policy;
        }
        let data = flags.calibration.clone().or_else(|| own.data.take()).or_else(|| file.data.clone());
        own.data = data.map(|data| settled(&data)).transpose().context("calibration.data")?;
        own.windows = flags.calibration_windows.or(own.windows).or(file.windows);
        own.context = own.context.or(file.context);
    }
    Ok(())
}

/// The path of a file or folder that exists, in the one spelling that every run records: absolute, without links and
/// detours on the way. The last name stays, as it may say what the file is.
fn settled(path: &Path) -> anyhow::Result<PathBuf> {
    let settle = || {
        std::fs::metadata(path)?;
        let Some(name) = path.file_name() else { return path.canonicalize() };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(parent.canonicalize()?.join(name))
    };
    settle().with_context(|| quoted(path))
}

fn strategy(file: StrategyFile, folder: &Path) -> anyhow::Result<StrategySpec> {
    Ok(match file {
        StrategyFile::List { recipes } => {
            let recipes: anyhow::Result<Vec<Recipe>> =
                recipes.into_iter().map(|recipe| recipe.recipe(folder)).collect();
            StrategySpec::List { recipes: recipes? }
        }
        StrategyFile::Grid { base, axes } => StrategySpec::Grid { base: base.recipe(folder)?, axes },
        StrategyFile::Progressive { base, rungs } => StrategySpec::Progressive { base: base.recipe(folder)?, rungs },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Policy;

    fn parsed(text: &str, folder: &Path) -> anyhow::Result<StudySpec> {
        parse(text, folder, &CalibrationArgs::default())
    }

    fn spec(strategy: &str) -> String {
        let manifest = env!("CARGO_MANIFEST_DIR");
        format!(
            "format_version = 1\nname = \"s\"\nmodel = {:?}\ndevice = \"cpu:2\"\nseed = 3\n[workload.speed]\n\
             prompt = 8\ndecode = 4\nrepetitions = 2\n[limits]\nmax_kl = 0.1\n{strategy}",
            format!("{manifest}/assets/demo/stories15M")
        )
    }

    #[test]
    fn strategies_name_recipes_or_hold_them() {
        let cases = [
            ("[strategy]\nkind = \"list\"\nrecipes = [\"q8_0\", \"none\", { format_version = 1, name = \"mine\" }]", 3),
            ("[strategy]\nkind = \"list\"\nrecipes = []", 0),
        ];
        for (strategy, n) in cases {
            let spec = parsed(&spec(strategy), Path::new("")).unwrap();
            let StrategySpec::List { recipes } = spec.strategy else { panic!("a list") };
            assert_eq!(recipes.len(), n);
            assert_eq!(spec.device, DeviceSpec::Cpu { threads: 2 });
        }
        let cards = spec(cases[1].0).replace("device = \"cpu:2\"", "devices = [\"cuda:1\", \"cuda:0\"]");
        let cards = parsed(&cards, Path::new("")).unwrap();
        assert_eq!(cards.devices(), [1, 0].map(|ordinal| DeviceSpec::Cuda { ordinal }));
        let grid = "[strategy]\nkind = \"grid\"\n[[strategy.axes]]\ntarget = { role = \"down_proj\" }\n\
                    settings = [{ weights = \"q8_0\" }, { weights = \"q4_0\" }]";
        let StrategySpec::Grid { base, axes } = parsed(&spec(grid), Path::new("")).unwrap().strategy else {
            panic!("a grid")
        };
        assert_eq!((base, axes[0].settings.len()), (Recipe::reference(), 2));
    }

    #[test]
    fn every_spelling_of_a_path_is_recorded_alike() {
        let list = "[workload.quality]\ndata = \"text.jsonl\"\nprotocol = \"gptq\"\ncontext = 8\n\
                    [strategy]\nkind = \"list\"\nrecipes = []";
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("a")).unwrap();
        std::fs::write(root.join("a/text.jsonl"), "").unwrap();
        std::os::unix::fs::symlink(root.join("a"), root.join("link")).unwrap();
        std::os::unix::fs::symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets"), root.join("assets")).unwrap();
        let model = format!("{}/assets/demo/stories15M", root.display());
        let text = spec(list).replace(&format!("{}/assets/demo/stories15M", env!("CARGO_MANIFEST_DIR")), &model);
        let expected = parsed(&text, &root.join("a")).unwrap();
        assert_eq!(expected.workload.quality.as_ref().unwrap().data, root.join("a/text.jsonl"));
        for (folder, model) in [("link", "../assets/demo/stories15M/"), ("a/.", "../a/../assets/demo/./stories15M")] {
            let text = text.replace(&format!("{}/assets/demo/stories15M", root.display()), model);
            assert_eq!(parsed(&text, &root.join(folder)).unwrap(), expected, "{folder} {model}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let list = "[strategy]\nkind = \"list\"\nrecipes = []";
        let cases = [
            (spec(list).replace("version = 1", "version = 9"), "format_version 9 is newer"),
            (spec(list).replace("version = 1", "version = 0"), "format_version 0 is not 1"),
            (spec(list).replace("cpu:2", "gpu"), "device \"gpu\""),
            (spec(list).replace("seed = 3", "devices = [\"cuda:0\"]"), "not both"),
            (spec(list).replace("device = \"cpu:2\"", "devices = [\"cuda:0\", \"cpu\"]"), "runs trials alone"),
            (spec(list).replace("device = \"cpu:2\"", "devices = [\"cuda:1\", \"cuda:1\"]"), "stands twice"),
            (spec(list).replace("stories15M", "absent"), "model"),
            (spec(list).replace("seed", "sede"), "sede"),
            (spec("[strategy]\nkind = \"list\"\nrecipes = [\"absent.toml\"]"), "absent.toml"),
            (spec("[strategy]\nkind = \"list\"\nrecipes = [3]"), "a recipe is `none`"),
            (spec("[strategy]\nkind = \"guess\""), "guess"),
        ];
        for (text, expected) in cases {
            let message = format!("{:#}", parsed(&text, Path::new("")).unwrap_err());
            assert!(message.contains(expected), "{expected}: {message}");
        }
    }

    #[test]
    fn flags_win_over_recipes_and_recipes_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for name in ["file.jsonl", "own.jsonl", "flag.jsonl"] {
            std::fs::write(root.join(name), "{}").unwrap();
        }
        let gptq =
            "format_version = 1, default = { weights = { int = { bits = 4, group = 32 } }, rounding = \"gptq\" }";
        let own = "calibration = { data = \"own.jsonl\", windows = 3, policy = \"dense\" }";
        let list = format!(
            "[calibration]\ndata = \"file.jsonl\"\nwindows = 7\ncontext = 64\n[strategy]\nkind = \"list\"\n\
             recipes = [\"none\", {{ {gptq} }}, {{ {gptq}, {own} }}]"
        );
        let read = |flags: &CalibrationArgs| -> Vec<Calibration> {
            let StrategySpec::List { recipes } = parse(&spec(&list), &root, flags).unwrap().strategy else {
                panic!("a list")
            };
            recipes.into_iter().map(|recipe| recipe.calibration).collect()
        };
        let calibration = |name: &str, windows, policy| Calibration {
            data: Some(root.join(name)),
            windows: Some(windows),
            context: Some(64),
            policy,
        };
        let found = read(&CalibrationArgs::default());
        assert!(found[0].is_default(), "the reference reads no text");
        assert_eq!(found[1], calibration("file.jsonl", 7, Policy::Sequential));
        assert_eq!(found[2], calibration("own.jsonl", 3, Policy::Dense));
        let flags = CalibrationArgs { calibration: Some(root.join("flag.jsonl")), calibration_windows: Some(9) };
        let found = read(&flags);
        assert_eq!(found[1], calibration("flag.jsonl", 9, Policy::Sequential));
        assert_eq!(found[2], calibration("flag.jsonl", 9, Policy::Dense));
        std::fs::remove_file(root.join("own.jsonl")).unwrap();
        let message = format!("{:#}", parse(&spec(&list), &root, &CalibrationArgs::default()).unwrap_err());
        assert!(message.contains("calibration.data") && message.contains("own.jsonl"), "{message}");
    }
}

//! The embedded demo: a small model with its text, in the executable, unpacked on first use.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::cache;
use crate::device::DeviceSpec;
use crate::model::ModelSource;
use crate::recipe::presets;
use crate::study::{
    Budget, Limits, Protocol, QualityWorkload, SampleWorkload, SpeedWorkload, StrategySpec, StudySpec, Workload,
};

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        [$(($path, include_bytes!(concat!("../../assets/demo/", $path)).as_slice())),*]
    };
}

/// Every file of the demo, by its path in the demo's folder.
static FILES: &[(&str, &[u8])] = &files![
    "stories15M/config.json",
    "stories15M/model.safetensors",
    "stories15M/tokenizer.json",
    "stories15M/tokenizer_config.json",
    "calibration.jsonl",
    "search.jsonl",
    "report.jsonl",
    "demo.study",
];

/// The recipes of the demo's sweep, by preset.
const SWEEP: [&str; 7] = ["q8_0", "q6-mixed", "q4-mixed", "q4_0", "int4-mlp-sparse-attention", "magnitude-30", "bf16"];

/// Where the demo's files lie on this machine.
#[derive(Debug, Clone)]
pub struct Demo {
    /// The model folder.
    pub model: ModelSource,
    /// Text to calibrate on.
    pub calibration: PathBuf,
    /// Text to search on.
    pub search: PathBuf,
    /// Text to report from.
    pub report: PathBuf,
    /// A recorded study.
    pub study: PathBuf,
    /// What the demo sweep runs.
    pub spec: StudySpec,
}

/// The demo, unpacked into the cache folder on first use.
///
/// Files that are there are checked against the program's own. Takes a few tenths of a second: not for a frame.
///
/// # Errors
/// When neither the cache folder nor the folder for temporary files can be written.
pub fn demo() -> io::Result<Demo> {
    let name = format!("demo-{}", &contents_hash()[..16]);
    let cached = cache::default_dir().ok_or_else(|| io::Error::other("neither XDG_CACHE_HOME nor HOME is set"));
    let unpacked = cached.map(|cache| cache.join(&name)).and_then(|dir| unpack(&dir).map(|()| dir));
    let dir = match unpacked {
        Ok(dir) => dir,
        Err(error) => {
            let dir = fallback_dir().join(&name);
            log::warn!("keep the demo in the cache folder: {error}; it is kept in {}", dir.display());
            unpack(&dir)?;
            dir
        }
    };
    Ok(demo_in(&dir))
}

fn demo_in(dir: &Path) -> Demo {
    let model = ModelSource::Safetensors { dir: dir.join("stories15M") };
    let search = dir.join("search.jsonl");
    Demo {
        spec: sweep(model.clone(), search.clone()),
        model,
        calibration: dir.join("calibration.jsonl"),
        search,
        report: dir.join("report.jsonl"),
        study: dir.join("demo.study"),
    }
}

/// Seven recipes beside the reference, sized to end within a minute on two cores.
fn sweep(model: ModelSource, data: PathBuf) -> StudySpec {
    let recipes = SWEEP.iter().filter_map(|id| presets().iter().find(|preset| preset.id == *id));
    StudySpec {
        name: "demo".to_owned(),
        model,
        device: DeviceSpec::all_cores(),
        also_on: Vec::new(),
        workload: Workload {
            quality: Some(QualityWorkload {
                data,
                protocol: Protocol::Gptq,
                context: 256,
                windows: Some(24),
                dequantized: false,
            }),
            speed: Some(SpeedWorkload { prompt: 128, decode: 32, repetitions: 6 }),
            sample: Some(SampleWorkload { prompt: "Once upon a time".to_owned(), tokens: 48, temperature: 0.0 }),
        },
        strategy: StrategySpec::List { recipes: recipes.map(|preset| preset.recipe()).collect() },
        limits: Limits::default(),
        budget: Budget::default(),
        seed: 0,
    }
}

fn contents_hash() -> String {
    let mut hasher = blake3::Hasher::new();
    for (path, bytes) in FILES {
        hasher.update(path.as_bytes()).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }
    hasher.finalize().to_hex().to_string()
}

/// Writes what is missing or changed. Each file appears whole or not at all, so two programs may unpack at once.
fn unpack(dir: &Path) -> io::Result<()> {
    for (path, bytes) in FILES {
        let target = dir.join(path);
        if is_intact(&target, bytes) {
            continue;
        }
        let parent = target.parent().unwrap_or(dir);
        std::fs::create_dir_all(parent)?;
        let mut file = tempfile::NamedTempFile::new_in(parent)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(&target)?;
    }
    Ok(())
}

fn is_intact(path: &Path, expected: &[u8]) -> bool {
    let Ok(mut file) = std::fs::File::open(path) else { return false };
    if !file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == expected.len() as u64) {
        return false;
    }
    let mut found = Vec::with_capacity(expected.len());
    file.read_to_end(&mut found).is_ok() && found == expected
}

/// For users without a home folder. Others can write there too: what is found is checked before it is used.
#[expect(clippy::disallowed_methods, reason = "there is no cache folder to use instead")]
fn fallback_dir() -> PathBuf {
    std::env::temp_dir().join(format!("trimtab-{}", rustix::process::getuid().as_raw()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_unpacked_once_and_repaired() {
        let dir = tempfile::tempdir().unwrap();
        unpack(dir.path()).unwrap();
        let config = dir.path().join("stories15M/config.json");
        let written = config.metadata().unwrap().modified().unwrap();
        let report = dir.path().join("report.jsonl");
        std::fs::write(&report, "damaged").unwrap();
        unpack(dir.path()).unwrap();
        assert_eq!(config.metadata().unwrap().modified().unwrap(), written, "an intact file is left alone");
        for (path, bytes) in FILES {
            assert!(is_intact(&dir.path().join(path), bytes), "{path}");
        }
        let others = std::fs::read_dir(dir.path().join("stories15M")).unwrap().count();
        assert_eq!(others, 4, "no temporary file is left");
    }

    #[test]
    fn the_sweep_has_seven_recipes_of_files_that_exist() {
        let dir = tempfile::tempdir().unwrap();
        let demo = demo_in(dir.path());
        let StrategySpec::List { recipes } = &demo.spec.strategy else { panic!("{:?}", demo.spec.strategy) };
        assert_eq!(recipes.len(), 7);
        for path in [&demo.calibration, &demo.search, &demo.report] {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(FILES.iter().any(|(file, _)| *file == name), "{name}");
        }
    }
}

//! What the window remembers between runs.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::app::layout::Tile;
use crate::app::sweep::SweepSettings;
use crate::device::DeviceSpec;
use crate::model::ModelSource;

/// Key of the preferences in eframe's storage.
pub const KEY: &str = "prefs";

/// Version of [`Prefs`]: another one is not read, so that an old arrangement never breaks a new window.
pub const VERSION: u32 = 2;

/// The longest list of recent files.
const MAX_RECENT: usize = 8;

/// What the window remembers between runs.
#[derive(Serialize, Deserialize)]
pub struct Prefs {
    /// [`VERSION`].
    pub version: u32,
    /// Light, dark or the system's.
    pub theme: egui::ThemePreference,
    /// How the tiles lie; `None` for the default of the window's size.
    pub tree: Option<egui_tiles::Tree<Tile>>,
    /// Models and studies opened before, newest first.
    pub recent: Vec<PathBuf>,
    /// The device for studies; `None` for all cores.
    pub device: Option<DeviceSpec>,
    /// Cards that run trials beside it.
    #[serde(default)]
    pub also_on: Vec<DeviceSpec>,
    /// The sweep's form.
    pub sweep: SweepSettings,
    /// The demo's model and its text to calibrate on, once they are unpacked; not kept.
    #[serde(skip)]
    pub demo: Option<(ModelSource, PathBuf)>,
    /// Whether the demo is to be opened once it is unpacked; not kept.
    #[serde(skip)]
    pub open_demo: bool,
}

impl Default for Prefs {
    fn default() -> Self {
        Self {
            version: VERSION,
            theme: egui::ThemePreference::System,
            tree: None,
            recent: Vec::new(),
            device: None,
            also_on: Vec::new(),
            sweep: SweepSettings::default(),
            demo: None,
            open_demo: false,
        }
    }
}

impl Prefs {
    /// The stored preferences, or the default ones when there are none of this version.
    pub fn load(storage: Option<&dyn eframe::Storage>) -> Self {
        let stored: Option<Self> = storage.and_then(|storage| eframe::get_value(storage, KEY));
        stored.filter(|prefs| prefs.version == VERSION).unwrap_or_default()
    }

    /// Gives the demo's model its own text to calibrate on, unless the user chose one, and keeps that text from any other
    /// model.
    pub fn calibrate(&mut self, model: &ModelSource) {
        let Some((demo, text)) = &self.demo else { return };
        let chosen = &mut self.sweep.calibration;
        if model == demo && chosen.as_os_str().is_empty() {
            chosen.clone_from(text);
        } else if model != demo && chosen == text {
            *chosen = PathBuf::new();
        }
    }

    /// Puts a path at the head of the recent list.
    pub fn remember(&mut self, path: &Path) {
        self.recent.retain(|known| known != path);
        self.recent.insert(0, path.to_owned());
        self.recent.truncate(MAX_RECENT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_alone_is_calibrated_on_its_own_text() {
        let model = |name: &str| ModelSource::Gguf { file: name.into() };
        let mut prefs = Prefs { demo: Some((model("demo"), "own.jsonl".into())), ..Prefs::default() };
        let mut check = |name: &str, expected: &str| {
            prefs.calibrate(&model(name));
            assert_eq!(prefs.sweep.calibration, Path::new(expected), "{name}");
        };
        check("other", "");
        check("demo", "own.jsonl");
        check("other", "");
        prefs.sweep.calibration = "mine.jsonl".into();
        for name in ["demo", "other"] {
            prefs.calibrate(&model(name));
            assert_eq!(prefs.sweep.calibration, Path::new("mine.jsonl"), "what the user chose stays");
        }
    }

    #[test]
    fn recent_files_are_unique_newest_first_and_few() {
        let mut prefs = Prefs::default();
        for name in ["a", "b", "a", "c", "d", "e", "f", "g", "h", "i"] {
            prefs.remember(Path::new(name));
        }
        let names: Vec<_> = prefs.recent.iter().map(|path| path.display().to_string()).collect();
        assert_eq!(names, ["i", "h", "g", "f", "e", "d", "c", "a"]);
    }
}

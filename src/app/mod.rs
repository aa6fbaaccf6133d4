//! The window: `eframe`, `egui_tiles`, `egui_plot`.
//!
//! Imports everything below it but `nn`, `compress`, `runtime`, `eval` and `worker::serve`. Panels read the world through
//! [`context::ViewContext`] and answer only with [`command::Command`]s, which `App::logic` alone applies.
//!
//! **Invariants.** Nothing in a frame waits: no file, lock, dialog, hash or sort of all trials. Only `theme.rs` names a
//! color; only `dialogs.rs` opens a dialog; words that people read are in `words.rs`.

pub mod actions;
#[expect(clippy::module_inception, reason = "the file is named after its main type")]
mod app;
mod clear_cache;
pub mod command;
pub mod context;
mod dialogs;
pub mod editor;
mod exports;
mod gpu_guard;
mod help;
pub mod layout;
mod logic;
pub mod notices;
mod open_screen;
mod palette;
pub mod panels;
mod path_prompt;
mod planner;
pub mod plots;
pub mod prefs;
pub mod sweep;
mod tasks;
pub mod theme;
mod toolbar;
pub mod ui;
pub mod widgets;
pub mod words;

use std::path::PathBuf;

pub use app::App;
pub use gpu_guard::AppError;

/// Name of the folder that eframe keeps the preferences in.
const APP_ID: &str = "trimtab";

/// What the window begins with.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// A model, study or recipe; the demo when absent.
    pub open: Option<PathBuf>,
    /// A recorded study to show.
    pub replay: Option<PathBuf>,
}

/// Opens the window and returns when it is closed.
///
/// # Errors
/// [`AppError`] says what is missing on this machine and how to install it.
pub fn run(options: RunOptions) -> Result<(), AppError> {
    let viewport = egui::ViewportBuilder::default()
        .with_app_id(APP_ID)
        .with_title(words::current().titles.app)
        .with_inner_size([1600.0, 1000.0])
        .with_min_inner_size([1100.0, 640.0])
        .with_drag_and_drop(true);
    let native = eframe::NativeOptions { viewport, ..eframe::NativeOptions::default() };
    eframe::run_native(APP_ID, native, Box::new(|cc| Ok(Box::new(App::new(cc, options)))))?;
    Ok(())
}

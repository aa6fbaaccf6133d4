//! `trimtab [MODEL | STUDY]`: the window; without a display, the demo sweep.

use std::path::Path;

use anyhow::bail;

use crate::app::{self, RunOptions};
use crate::checkpoint;
use crate::cli::args::{CalibrationArgs, SweepArgs, WindowArgs};
use crate::cli::out::{Out, quoted, say};
use crate::cli::{Verdict, sweep};
use crate::session;
use crate::study::journal;

pub(super) fn run(args: WindowArgs, out: &mut Out) -> anyhow::Result<Verdict> {
    if let Some(path) = args.path.as_deref().filter(|path| !is_study(path)) {
        if args.replay {
            bail!("--replay shows a recorded study (.{}), not {}", journal::EXTENSION, quoted(path));
        }
        checkpoint::detect(path)?;
    }
    if !has_display() {
        return without_display(&args, out);
    }
    let options = match (args.path, args.replay) {
        (None, true) => RunOptions { open: None, replay: Some(session::demo()?.study) },
        (Some(path), _) if is_study(&path) => RunOptions { open: None, replay: Some(path) },
        (open, _) => RunOptions { open, replay: None },
    };
    app::run(options)?;
    Ok(Verdict::Done)
}

fn is_study(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == journal::EXTENSION)
}

/// Whether an X11 or Wayland display is named.
fn has_display() -> bool {
    ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

fn without_display(args: &WindowArgs, out: &mut Out) -> anyhow::Result<Verdict> {
    if args.path.is_some() || args.replay {
        bail!("no display: set DISPLAY or WAYLAND_DISPLAY, or use a command (`trimtab --help`)");
    }
    say("No display (DISPLAY and WAYLAND_DISPLAY are not set): running the demo sweep without a window");
    let calibration = CalibrationArgs::default();
    sweep::run(&SweepArgs { spec: None, demo: true, out: None, resume: false, json: false, calibration }, out)
}

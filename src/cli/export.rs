//! `trimtab export`: a variant as a model that other programs load.

use std::io::IsTerminal as _;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::args::{DtypeArg, ExportArgs, ExportFormat};
use crate::cli::out::{Out, say};
use crate::cli::{Verdict, open};
use crate::device::DeviceSpec;
use crate::export::{Existing, gguf, safetensors};
use crate::model::StoredFormat;
use crate::units;

pub(super) fn run(args: &ExportArgs, out: &mut Out) -> anyhow::Result<Verdict> {
    let checkpoint = open::model(&args.model)?;
    let recipe = open::recipe(&args.recipe, Path::new(""))?;
    open::check(&recipe, checkpoint.graph(), &open::device(DeviceSpec::all_cores())?)?;
    let settings = recipe.settings(checkpoint.graph());
    let existing = if args.replace { Existing::Replace } else { Existing::Refuse };
    let bar = progress_bar();
    let mut progress = |done: u64, total: u64| {
        bar.set_length(total);
        bar.set_position(done);
        ControlFlow::Continue(())
    };
    let written = match args.format {
        ExportFormat::Safetensors => {
            let dtype = args.dtype.map(StoredFormat::from);
            safetensors::write(&checkpoint, &settings, dtype, &args.out, existing, &mut progress)
        }
        ExportFormat::Gguf => {
            if args.dtype.is_some() {
                bail!("--dtype is for safetensors; in GGUF each tensor has the type that the recipe names");
            }
            gguf::write(&checkpoint, &settings, &args.out, existing, &mut progress)
        }
    };
    bar.finish_and_clear();
    let written = written?;
    for note in &written.notes {
        say(&format!("note: {note}"));
    }
    say(&format!("wrote {} and read it back", units::bytes(written.bytes)));
    out.data(&written.path.display().to_string())?;
    Ok(Verdict::Done)
}

/// A bar on a terminal, nothing elsewhere: an export takes seconds.
fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:24} {binary_bytes} of {binary_total_bytes}, {eta} left");
    ProgressBar::new(0).with_style(style.expect("the template is right"))
}

impl From<DtypeArg> for StoredFormat {
    fn from(dtype: DtypeArg) -> Self {
        match dtype {
            DtypeArg::F32 => Self::F32,
            DtypeArg::F16 => Self::F16,
            DtypeArg::Bf16 => Self::Bf16,
        }
    }
}

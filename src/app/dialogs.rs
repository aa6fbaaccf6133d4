//! The one place that opens dialogs. Called on a thread of its own; without a portal the answer is `None`, and the window
//! offers a path field instead.

use std::path::PathBuf;

use crate::app::command::{Command, DialogKind, ExportKind};
use crate::export::Existing;

/// Asks for a path and waits for the answer; never call it in a frame.
pub(super) fn ask(kind: DialogKind, suggested: &str) -> Option<PathBuf> {
    let dialog = rfd::AsyncFileDialog::new();
    let handle = match kind {
        DialogKind::OpenFolder => pollster::block_on(dialog.pick_folder()),
        DialogKind::OpenGguf => pollster::block_on(dialog.add_filter("GGUF", &["gguf"]).pick_file()),
        DialogKind::OpenStudy => pollster::block_on(dialog.add_filter("study", &["study"]).pick_file()),
        DialogKind::OpenRecipe => pollster::block_on(dialog.add_filter("TOML", &["toml"]).pick_file()),
        DialogKind::OpenData | DialogKind::OpenCalibration => {
            pollster::block_on(dialog.add_filter("JSON Lines", &["jsonl"]).pick_file())
        }
        DialogKind::Export(ExportKind::Safetensors | ExportKind::CompressedTensors) => {
            pollster::block_on(dialog.set_file_name(suggested).save_file())
        }
        DialogKind::Export(kind) => {
            let filtered = dialog.set_file_name(suggested).add_filter(extension(kind), &[extension(kind)]);
            pollster::block_on(filtered.save_file())
        }
    };
    handle.map(|handle| handle.path().to_owned())
}

/// The command that a chosen path stands for; `existing` says what the user agreed to.
pub(super) fn command(kind: DialogKind, path: PathBuf, existing: Existing) -> Command {
    match kind {
        DialogKind::OpenFolder | DialogKind::OpenGguf | DialogKind::OpenStudy | DialogKind::OpenRecipe => {
            Command::OpenPath(path)
        }
        DialogKind::OpenData => Command::UseData(path),
        DialogKind::OpenCalibration => Command::UseCalibration(path),
        DialogKind::Export(kind) => Command::Export(kind, path, existing),
    }
}

/// The name that is offered for an export of the model or recipe `name`.
pub(super) fn suggested(kind: DialogKind, name: &str) -> String {
    let DialogKind::Export(kind) = kind else { return String::new() };
    let stem: String = name.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    match extension(kind) {
        "" => stem,
        extension => format!("{stem}.{extension}"),
    }
}

fn extension(kind: ExportKind) -> &'static str {
    match kind {
        ExportKind::Recipe => "toml",
        ExportKind::TrialsCsv | ExportKind::ProfileCsv => "csv",
        ExportKind::ProfileTrace => "json",
        ExportKind::TrialsJsonLines => "jsonl",
        ExportKind::Report => "html",
        ExportKind::Safetensors | ExportKind::CompressedTensors => "",
        ExportKind::Gguf => "gguf",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_offered_are_plain_file_names() {
        let check = |kind, name, expected: &str| assert_eq!(suggested(DialogKind::Export(kind), name), expected);
        check(ExportKind::Recipe, "4-bit MLP, 30 % sparse", "4-bit-MLP--30---sparse.toml");
        check(ExportKind::Gguf, "../stories15M", "..-stories15M.gguf");
        check(ExportKind::Safetensors, "m", "m");
    }
}

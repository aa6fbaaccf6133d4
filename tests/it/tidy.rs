//! The rules of the house that neither the compiler nor clippy keeps: imports between folders, the one place for each
//! dangerous thing, the size of files. `ARCHITECTURE.md` has the reasons.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which modules of the crate each folder or file of `src/` may import; the longest prefix wins. `units` and `device`
/// are open to all but `units` itself.
const IMPORTS: &[(&str, &[&str])] = &[
    ("units", &[]),
    ("device", &[]),
    ("model", &[]),
    ("recipe", &["model"]),
    ("study", &["model", "recipe"]),
    ("telemetry", &["study"]),
    ("checkpoint", &["model"]),
    ("kernels", &[]),
    ("compress", &["kernels", "model", "recipe"]),
    ("cache", &["compress", "model", "recipe"]),
    ("nn", &["compress", "kernels", "model", "recipe"]),
    ("runtime", &["cache", "checkpoint", "compress", "kernels", "model", "nn", "recipe"]),
    ("runtime/card.rs", &["cuda", "kernels", "model", "nn"]),
    ("runtime/device.rs", &["cuda", "kernels"]),
    ("runtime/mod.rs", &["cache", "checkpoint", "compress", "cuda", "kernels", "model", "nn", "recipe"]),
    ("eval", &["checkpoint", "kernels", "model", "nn", "runtime", "study"]),
    ("measure", &["model", "study"]),
    ("cuda", &["compress", "kernels", "model", "nn", "recipe"]),
    ("worker", &["model", "recipe", "study", "telemetry"]),
    (
        "worker/trial",
        &[
            "cache",
            "checkpoint",
            "compress",
            "eval",
            "kernels",
            "measure",
            "model",
            "nn",
            "recipe",
            "runtime",
            "study",
            "telemetry",
            "worker",
        ],
    ),
    (
        "worker/trial/mod.rs",
        &["cache", "checkpoint", "cuda", "eval", "model", "nn", "recipe", "runtime", "study", "telemetry", "worker"],
    ),
    ("worker/inspect/", &["checkpoint", "compress", "eval", "model", "nn", "recipe", "runtime", "study", "worker"]),
    ("export", &["cache", "checkpoint", "compress", "model", "recipe", "study"]),
    ("session", &["cache", "checkpoint", "export", "measure", "model", "recipe", "study", "telemetry", "worker"]),
    (
        "app",
        &["cache", "checkpoint", "export", "measure", "model", "recipe", "session", "study", "telemetry", "worker"],
    ),
    (
        "cli",
        &[
            "app",
            "cache",
            "checkpoint",
            "export",
            "measure",
            "model",
            "recipe",
            "session",
            "study",
            "telemetry",
            "worker",
        ],
    ),
];

/// Text that may stand only in the files (by prefix of their path in `src/`) behind it.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("unsafe {", &["cuda/", "kernels/"]),
    ("unsafe fn", &["cuda/", "kernels/"]),
    ("cudarc", &["cuda/"]),
    ("process::Command", &["worker/host.rs"]),
    ("feature = \"cuda\"", &["compress/mod.rs", "lib.rs", "nn/", "runtime/", "worker/trial/mod.rs"]),
    ("rfd::", &["app/dialogs.rs"]),
    ("Color32::from_", &["app/theme.rs"]),
    ("Rgba::from_", &["app/theme.rs"]),
    ("hex_color!", &["app/theme.rs"]),
    ("egui", &["app/", "lib.rs"]),
    ("eframe", &["app/", "lib.rs"]),
    ("worker::serve", &["bin/", "main.rs", "worker/"]),
    ("worker::trial", &["bin/", "main.rs", "worker/"]),
    ("worker::inspect::", &["worker/"]),
    (
        "candle_",
        &["compress/", "cuda/", "nn/", "runtime/", "eval/", "worker/trial/", "worker/inspect/", "export/", "kernels/"],
    ),
    ("clap::", &["cli/"]),
    ("anyhow", &["cli/", "main.rs"]),
    (
        "thread::Builder",
        &["app/", "checkpoint/", "cli/", "export/", "kernels/", "runtime/", "session/", "telemetry/", "worker/"],
    ),
];

/// Folders that do no I/O and start no threads, with the files in them that may.
const PURE: &[(&str, &[&str])] =
    &[("model/", &[]), ("recipe/", &[]), ("study/", &["study/journal.rs", "study/journal/"]), ("measure/", &[])];

/// Words of `std` for I/O and threads.
const IMPURE: &[&str] = &["std::fs", "fs::", "File::", "std::thread", "thread::", "std::net", "std::io::std"];

/// Files that are tables of data: as long as the data.
const DATA_FILES: &[&str] = &["app/words.rs"];

/// The longest file, and the longest table of data or file of tests.
const MAX_LINES: usize = 500;
const MAX_DATA_LINES: usize = 800;

/// The most fields of `App`: above it, a part of the window has no type of its own.
const MAX_APP_FIELDS: usize = 12;

/// A source file: its path below its root with `/`, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The shipped code: without comments, without the tests at the end.
    fn code(&self) -> String {
        let mut code = String::with_capacity(self.text.len());
        let mut lines = self.text.lines().peekable();
        while let Some(line) = lines.next() {
            if line.trim() == "#[cfg(test)]"
                && lines.peek().is_some_and(|next| next.starts_with("mod ") || next.starts_with("#[path"))
            {
                break;
            }
            let end = line.find("//").unwrap_or(line.len());
            code.push_str(&line[..end]);
            code.push('\n');
        }
        code
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("_tests.rs") || self.path.ends_with("/tests.rs") || self.path.ends_with("fixtures.rs")
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() { files_below(&path, found) } else { found.push(path) }
    }
}

fn sources(folder: &str) -> Vec<Source> {
    let base = root().join(folder);
    let mut paths = Vec::new();
    files_below(&base, &mut paths);
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    assert!(!paths.is_empty(), "{folder} has sources");
    paths
        .into_iter()
        .map(|path| Source {
            text: fs::read_to_string(&path).unwrap(),
            path: path.strip_prefix(&base).unwrap().to_str().unwrap().replace('\\', "/"),
        })
        .collect()
}

fn assert_none(findings: &[String], rule: &str) {
    assert!(findings.is_empty(), "{rule}\n{}", findings.join("\n"));
}

/// The modules that `crate::…` names in `code`, nested imports included.
fn imported(code: &str) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for letter in list.chars() {
                match letter {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => modules.extend(first_segment(&std::mem::take(&mut item))),
                    _ if depth == 0 => item.push(letter),
                    _ => {}
                }
            }
            modules.extend(first_segment(&item));
        } else {
            modules.extend(first_segment(rest));
        }
    }
    modules
}

fn first_segment(path: &str) -> Option<String> {
    let name: String = path.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    name.starts_with(|c: char| c.is_lowercase()).then_some(name)
}

#[test]
fn imports_are_read_from_paths_and_lists() {
    let cases = [
        ("use crate::model::Layer;", vec!["model"]),
        ("use crate::{device, study::{Study, Trial}, recipe::Plan};", vec!["device", "recipe", "study"]),
        ("fn f(x: crate::units::Bytes) {}", vec!["units"]),
        ("use crate::Thing;", vec![]),
    ];
    for (code, expected) in cases {
        assert_eq!(imported(code).into_iter().collect::<Vec<_>>(), expected, "{code}");
    }
}

#[test]
fn folders_import_only_what_their_row_allows() {
    let mut findings = Vec::new();
    for source in sources("src") {
        let own = source.path.split(['/', '.']).next().unwrap().to_owned();
        if matches!(own.as_str(), "main" | "lib" | "bin") || source.is_test() {
            continue;
        }
        let row = IMPORTS.iter().filter(|(prefix, _)| source.path.starts_with(prefix)).max_by_key(|row| row.0.len());
        let Some((prefix, allowed)) = row else {
            findings.push(format!("src/{}: its folder has no row", source.path));
            continue;
        };
        for module in imported(&source.code()) {
            let open = matches!(module.as_str(), "units" | "device") && own != "units";
            if module != own && !open && !allowed.contains(&module.as_str()) {
                findings.push(format!("src/{}: {prefix} may not import {module}", source.path));
            }
        }
    }
    assert_none(&findings, "an arrow between folders that the table does not have:");
}

#[test]
fn dangerous_things_have_one_place() {
    let mut findings = Vec::new();
    for source in sources("src").iter().filter(|source| !source.is_test()) {
        let code = source.code();
        for (text, places) in ONLY_IN {
            if code.contains(text) && !places.iter().any(|place| source.path.starts_with(place)) {
                findings.push(format!("src/{}: {text} belongs in {places:?}", source.path));
            }
        }
        for color in named_colors(&code) {
            if source.path != "app/theme.rs" {
                findings.push(format!("src/{}: Color32::{color} belongs in app/theme.rs", source.path));
            }
        }
        for (folder, doors) in PURE {
            if source.path.starts_with(folder) && !doors.iter().any(|door| source.path.starts_with(door)) {
                for word in IMPURE.iter().filter(|word| code.contains(**word)) {
                    findings.push(format!("src/{}: {word} in a pure folder", source.path));
                }
            }
        }
    }
    assert_none(&findings, "a thing outside its place:");
}

/// Constants of `Color32` that name a color; transparent is none.
fn named_colors(code: &str) -> Vec<String> {
    code.split("Color32::")
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect::<String>())
        .filter(|name| name.len() > 1 && name != "TRANSPARENT" && name != "PLACEHOLDER")
        .collect()
}

#[test]
fn the_protocol_carries_no_tensors() {
    let protocol = sources("src").into_iter().find(|source| source.path == "worker/protocol.rs").unwrap();
    for word in ["candle", "Tensor", "bytemuck", "Vec<f32>", "half::"] {
        assert!(!protocol.code().contains(word), "weights travel as files: {word}");
    }
}

#[test]
fn files_are_short_and_folders_introduce_themselves() {
    let mut findings = Vec::new();
    for folder in ["src", "tests", "benches"].into_iter().filter(|folder| root().join(folder).is_dir()) {
        for source in sources(folder) {
            let is_data = DATA_FILES.contains(&source.path.as_str()) || source.is_test();
            let limit = if is_data { MAX_DATA_LINES } else { MAX_LINES };
            let lines = source.text.lines().count();
            if lines > limit {
                findings.push(format!("{folder}/{}: {lines} lines, more than {limit}", source.path));
            }
            // The files of one test module are introduced by that module.
            let is_part = source.is_test() || folder == "tests" && source.path.matches('/').count() > 1;
            if !source.text.starts_with("//! ") && !is_part {
                findings.push(format!("{folder}/{}: does not open with docs", source.path));
            }
            let is_front_page = folder == "src" && source.path.ends_with("/mod.rs") && !source.is_test();
            let is_top = is_front_page && source.path.matches('/').count() == 1;
            if is_top && source.text.lines().take_while(|line| line.starts_with("//!")).count() < 3 {
                findings
                    .push(format!("src/{}: say what it is for, what it may import, what never changes", source.path));
            }
        }
    }
    assert_none(&findings, "files out of shape:");
}

#[test]
fn nothing_is_left_open() {
    let words = [concat!("unimple", "mented!("), concat!("to", "do!("), concat!("TO", "DO"), concat!("FIX", "ME")];
    let mut findings = Vec::new();
    for folder in ["src", "tests"] {
        for source in sources(folder) {
            for word in words.into_iter().filter(|word| source.text.contains(word)) {
                findings.push(format!("{folder}/{}: {word}", source.path));
            }
        }
    }
    assert_none(&findings, "work left open:");
}

#[test]
fn the_window_has_few_fields() {
    let mut found = Vec::new();
    for source in sources("src").iter().filter(|source| source.path.starts_with("app/")) {
        let code = source.code();
        let Some(at) = code.find("struct App {") else { continue };
        let body = &code[at + "struct App {".len()..];
        let body = &body[..body.find("\n}").unwrap()];
        let fields = body.lines().filter(|line| line.starts_with("    ") && line.trim_end().ends_with(',')).count();
        found.push((source.path.clone(), fields));
    }
    assert_eq!(found.len(), 1, "one App: {found:?}");
    let (path, fields) = &found[0];
    assert!((1..=MAX_APP_FIELDS).contains(fields), "src/{path}: App has {fields} fields");
}

#[test]
fn texts_name_no_folder_of_one_machine() {
    let folders = [concat!("/wo", "rk"), concat!("/ro", "ot"), concat!("/ho", "me"), concat!("/Us", "ers")];
    let mut paths = Vec::new();
    for folder in ["src", "tests", "scripts", "benches", ".ci", "assets/recipes"] {
        if root().join(folder).is_dir() {
            files_below(&root().join(folder), &mut paths);
        }
    }
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "Cargo.toml", ".clippy.toml", ".rustfmt.toml"] {
        paths.push(root().join(name));
    }
    let mut findings = Vec::new();
    for path in paths {
        // Weights and images are not text.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            for folder in folders.into_iter().filter(|folder| names_folder(line, folder)) {
                findings.push(format!("{}:{}: {folder}", path.strip_prefix(root()).unwrap().display(), number + 1));
            }
        }
    }
    assert_none(&findings, "a path that exists on one machine only:");
}

/// Whether `line` has `folder` as an absolute path, not as the middle of another one.
fn names_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + folder.len()..].chars().next();
        let inside = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '}' | ']' | ')');
        !before.is_some_and(inside) && !after.is_some_and(|c| c.is_alphanumeric() || c == '-')
    })
}

#[test]
fn the_map_is_short_and_names_every_folder() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    assert!(map.lines().count() <= 250, "ARCHITECTURE.md has {} lines", map.lines().count());
    for entry in fs::read_dir(root().join("src")).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_str().unwrap().to_owned();
        let shown = if entry.is_dir() { format!("{name}/") } else { name };
        assert!(map.contains(&shown), "ARCHITECTURE.md does not name src/{shown}");
    }
}

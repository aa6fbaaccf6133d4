//! `trimtab report`: a study as a file for people or for other programs.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::cli::args::ReportArgs;
use crate::cli::out::{quoted, say};
use crate::cli::{Verdict, open};
use crate::export::{report, tables};
use crate::study::Study;
use crate::units;

pub(super) fn run(args: &ReportArgs) -> anyhow::Result<Verdict> {
    let (study, damage) = open::study(&args.study)?;
    for finding in &damage {
        say(&format!("damage set aside: {finding}"));
    }
    let text = text(&study, &args.out)?;
    check_target(args)?;
    write(&text, &args.out)?;
    Ok(Verdict::Done)
}

/// Writes the report of a sweep beside its study: NAME.html, or a numbered name when that is a file of somebody else's.
pub(super) fn beside(study: &Study, journal: &Path) -> anyhow::Result<()> {
    let wanted = journal.with_extension("html");
    let path = free(&wanted).with_context(|| format!("find a name for the report beside {}", quoted(journal)))?;
    if path != wanted {
        say(&format!("{} is not a Trimtab report and stays as it is", quoted(&wanted)));
    }
    write(&report::html(study), &path)
}

/// `wanted`, or the first numbered name that is not taken: a name is free when there is nothing or a report of ours.
fn free(wanted: &Path) -> Option<PathBuf> {
    let numbered = (2..1000).map(|number| wanted.with_extension(format!("{number}.html")));
    std::iter::once(wanted.to_owned()).chain(numbered).find(|path| !is_taken(path) || is_ours(path))
}

/// Whether something has the name, be it a link that leads nowhere.
fn is_taken(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn is_ours(path: &Path) -> bool {
    report::is_report(path).unwrap_or(false)
}

/// The study in the format that the extension names.
fn text(study: &Study, path: &Path) -> anyhow::Result<String> {
    Ok(match path.extension().and_then(|extension| extension.to_str()) {
        Some("html" | "htm") => report::html(study),
        Some("csv") => tables::csv(study),
        Some("jsonl") => tables::json_lines(study),
        _ => bail!("name the report .html, .csv or .jsonl: {}", quoted(path)),
    })
}

/// Fails when writing would cost the reader a file: the study itself, or what is not a report of ours.
fn check_target(args: &ReportArgs) -> anyhow::Result<()> {
    if !is_taken(&args.out) {
        return Ok(());
    }
    if let (Ok(out), Ok(study)) = (args.out.canonicalize(), args.study.canonicalize())
        && out == study
    {
        bail!("{} is the study itself; name another file", quoted(&args.out));
    }
    if !args.replace && !is_ours(&args.out) {
        bail!("{} exists and is not a Trimtab report; name another file, or add --replace", quoted(&args.out));
    }
    Ok(())
}

fn write(text: &str, path: &Path) -> anyhow::Result<()> {
    tables::write(path, text.as_bytes()).with_context(|| format!("write {}", quoted(path)))?;
    say(&format!("wrote {} ({})", path.display(), units::bytes(text.len() as u64)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_page_keeps_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let wanted = at("demo.html");
        assert_eq!(free(&wanted), Some(wanted.clone()));
        std::fs::write(&wanted, report::html(&Study::default())).unwrap();
        assert_eq!(free(&wanted), Some(wanted.clone()), "a report of ours is written over");
        std::fs::write(&wanted, "<!doctype html><p>mine</p>").unwrap();
        assert_eq!(free(&wanted), Some(at("demo.2.html")));
        std::os::unix::fs::symlink("nowhere", at("demo.2.html")).unwrap();
        assert_eq!(free(&wanted), Some(at("demo.3.html")));
    }
}

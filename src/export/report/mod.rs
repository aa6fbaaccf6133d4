//! A study as one HTML file: plots as inline SVG, every trial with its intervals, cautions and conditions.
//!
//! The file needs nothing beside it: no scripts, no fonts, no addresses. Light or dark as the reader's system asks.
//! Everything that comes from a file (names of recipes, models, processes) is escaped.
//!
//! **Invariants.** Beside each quality number stand its protocol and split. What is simulated is marked and hollow. A
//! failed trial has a row.

mod bars;
mod figures;
#[cfg(test)]
pub(in crate::export) mod fixtures;
mod making;
mod page;
mod scatter;
mod svg;
mod trials;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use crate::export::report::svg::{escape, push};
use crate::study::Study;

/// How the line begins by which a report is known as ours; the version follows.
const GENERATOR: &str = "<meta name=\"generator\" content=\"Trimtab";

/// How far from its beginning a report names its maker.
const GENERATOR_WITHIN: u64 = 1024;

/// Whether the file at `path` is a report that Trimtab made.
///
/// # Errors
/// When there is no such file, or it cannot be read.
pub fn is_report(path: &Path) -> io::Result<bool> {
    if !fs::metadata(path)?.is_file() {
        return Ok(false);
    }
    let mut begin = Vec::new();
    File::open(path)?.take(GENERATOR_WITHIN).read_to_end(&mut begin)?;
    Ok(String::from_utf8_lossy(&begin).contains(GENERATOR))
}

/// The report of `study` as a self-contained HTML page.
pub fn html(study: &Study) -> String {
    let title = study.header.as_ref().map_or("Study", |header| header.spec.name.as_str());
    let mut out = String::new();
    out.push_str("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    push(&mut out, format_args!("{GENERATOR} {}\">\n", env!("CARGO_PKG_VERSION")));
    out.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    push(&mut out, format_args!("<title>{}</title>\n<style>\n", escape(title)));
    out.push_str(include_str!("../../../assets/report.css"));
    out.push_str("</style>\n</head>\n<body>\n");
    out.push_str(&page::head(study));
    out.push_str(&figures::figures(study));
    out.push_str(&trials::table(study));
    out.push_str(&trials::failures(study));
    out.push_str(&trials::details(study));
    out.push_str(&page::reading_guide(study));
    out.push_str("</body>\n</html>\n");
    out
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;

//! The figures as Markdown.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::files::Shape;
use crate::quantizing;
use crate::speed::{self, Rates, Settings};

/// Why writing into a string does not fail.
const TAKES_ALL: &str = "a string takes all text";

/// Speed and memory of a shape.
pub(crate) fn speed(shape: Shape, settings: &Settings, peer: &str, rows: &[speed::Row]) -> String {
    let Settings { prompt, decode, rounds, repetitions, threads } = settings;
    let mut text = format!(
        "**{}**, {}: prefill of {prompt} tokens and decode of {decode} from an empty context, tokens/s; medians \
         of {} of {repetitions} repetitions, turn about with {peer}; in parentheses the least and the most ratio.\n\n",
        shape.words(),
        counted(u32::from(*threads), "thread"),
        counted(*rounds, "round"),
    );
    text.push_str(
        "| format | file, MB | prefill: ours | llama.cpp | ratio | decode: ours | llama.cpp | ratio | peak, MiB | \
         bound, MiB | what ran |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n",
    );
    for row in rows {
        text.push_str(&speed_line(row, settings));
        text.push('\n');
    }
    let cautions: BTreeSet<&String> = rows.iter().flat_map(|row| &row.cautions).collect();
    for caution in cautions {
        push_note(&mut text, caution);
    }
    text.trim_end().to_owned()
}

fn speed_line(row: &speed::Row, settings: &Settings) -> String {
    let name = match &row.fallback {
        Some((share, other)) => format!("{} ({share:.0} % {other})", row.format),
        None => row.format.clone(),
    };
    let name = if row.bound_bytes.is_none() { format!("{name}, beside q8_0") } else { name };
    let file = format!("{:.1}", row.bytes as f64 / 1e6);
    if let Some(failure) = &row.failure {
        let reason = failure.replace(['\n', '|'], " ");
        return format!("| {name} | {file} | – | – | – | – | – | – | – | – | failed: {reason} |");
    }
    let prefill = cells(row.rates(settings.prompt, |round| &round.prefill_secs).as_ref());
    let decode = cells(row.rates(settings.decode, |round| &round.decode_secs).as_ref());
    let mib = |bytes: Option<u64>| bytes.map_or("–".to_owned(), |bytes| format!("{:.0}", bytes as f64 / 1_048_576.0));
    let (peak, bound) = (mib(row.peak_bytes), mib(row.bound_bytes));
    format!("| {name} | {file} | {prefill} | {decode} | {peak} | {bound} | {} |", row.product)
}

/// Three cells.
fn cells(rates: Option<&Rates>) -> String {
    let Some(Rates { ours, peer, ratio }) = rates else { return "– | – | –".to_owned() };
    format!("{} | {} | {}", rate(*ours), rate(*peer), spread(*ratio))
}

/// Three digits, or whole numbers.
fn rate(per_second: f64) -> String {
    if per_second < 100.0 { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

fn spread([median, least, most]: [f64; 3]) -> String {
    let range = if least == most { String::new() } else { format!(" ({least:.2}–{most:.2})") };
    format!("**{median:.2}**{range}")
}

/// Making the formats of a shape.
pub(crate) fn quantizing(shape: Shape, rounds: u32, peer: &str, rows: &[quantizing::Row]) -> String {
    let mut text = format!(
        "**{}**, quantizing: MB/s of f32 input, file to file with the start of the program, medians of {}, \
         turn about with llama-quantize of {peer}. Ours also flushes the file to the disk and reads it back. The last \
         column is our function alone, without files.\n\n",
        shape.words(),
        counted(rounds, "round"),
    );
    text.push_str("| format | ours | llama-quantize | ratio | function alone |\n|---|--:|--:|--:|--:|\n");
    let mut skipped: Vec<(&str, Vec<&str>)> = Vec::new();
    for row in rows {
        if let Some(reason) = &row.skipped {
            match skipped.iter_mut().find(|(found, _)| found == reason) {
                Some((_, formats)) => formats.push(&row.format),
                None => skipped.push((reason, vec![&row.format])),
            }
            continue;
        }
        let per_sec = |bytes: u64, secs: f64| rate(bytes as f64 / 1e6 / secs);
        let ours = per_sec(row.input_bytes, speed::median(row.ours_secs.clone()));
        let theirs = per_sec(row.input_bytes, speed::median(row.peer_secs.clone()));
        let function = per_sec(row.matrix_bytes, row.function_secs);
        let ratio = spread(row.ratio());
        writeln!(text, "| {} | {ours} | {theirs} | {ratio} | {function} |", row.format).expect(TAKES_ALL);
    }
    for (reason, formats) in skipped {
        push_note(&mut text, &format!("left out {}: {reason}", formats.join(", ")));
    }
    text.trim_end().to_owned()
}

/// `1 round`, `5 rounds`.
fn counted(n: u32, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn push_note(text: &mut String, note: &str) {
    writeln!(text, "\n{note}.").expect(TAKES_ALL);
}

//! The headless front end: the same engine as the window, one file a command.
//!
//! Imports `session`, `export`, `checkpoint`, the worker's host side and the vocabulary; `app` only to open the window.
//! Data goes to standard output, words to standard error. Exit codes: 0 done, 1 a trial failed or a limit was missed, 2
//! usage or internal.
//!
//! **Invariants.** Only `out` writes to the terminal. A reader that goes away (`| head`) ends the output, not the
//! program's work, and is no error.

mod args;
mod bench;
mod cache;
mod checks;
mod compression;
mod devices;
mod eval;
mod export;
mod inspect;
mod inspect_layer;
mod interrupt;
mod open;
mod out;
mod peers;
mod profile;
mod progress;
mod report;
mod show;
mod spec;
mod sweep;
mod table;
mod trial;
mod window;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

pub use self::devices::say_devices;

use crate::cli::args::{Cli, Verb};
use crate::cli::out::{Out, say};

/// What a command came to, when it did its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Everything that was asked for.
    Done,
    /// A trial failed, or a limit was missed.
    Missed,
}

/// Runs the command that `args` (with the program's name first) ask for.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let filter = env_logger::Env::default().default_filter_or("warn");
    // A second call in one process (tests) finds the logger set, which is as good.
    env_logger::Builder::from_env(filter).format_timestamp(None).try_init().unwrap_or_default();
    let mut out = Out::new();
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(usage) => {
            // Asking for help or the version is no mistake: clap sends those to standard output.
            usage.print().unwrap_or_default();
            return ExitCode::from(u8::from(usage.use_stderr()) * 2);
        }
    };
    match dispatch(cli, &mut out) {
        Ok(Verdict::Done) => ExitCode::SUCCESS,
        Ok(Verdict::Missed) => ExitCode::from(1),
        Err(error) => {
            say(&format!("error: {}", words(&error)));
            ExitCode::from(2)
        }
    }
}

/// An error with its causes, each said once: the library's messages already hold the causes that belong in a sentence.
fn words(error: &anyhow::Error) -> String {
    let mut words = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if words.is_empty() {
            words = cause;
        } else if !words.contains(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    words
}

fn dispatch(cli: Cli, out: &mut Out) -> anyhow::Result<Verdict> {
    match cli.verb {
        None => window::run(cli.window, out),
        Some(Verb::Inspect(args)) => inspect::run(&args, out),
        Some(Verb::Eval(args)) => eval::run(&args, out),
        Some(Verb::Bench(args)) => bench::run(&args, out),
        Some(Verb::Profile(args)) => profile::run(&args, out),
        Some(Verb::Sweep(args)) => sweep::run(&args, out),
        Some(Verb::Show(args)) => show::run(&args, out),
        Some(Verb::Report(args)) => report::run(&args),
        Some(Verb::Export(args)) => export::run(&args, out),
        Some(Verb::Devices(args)) => devices::run(&args, out),
        Some(Verb::Cache(args)) => cache::run(&args, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let cause = || std::io::Error::other("disk full");
        let cases = [
            (anyhow::Error::new(cause()).context("write \"x\""), "write \"x\": disk full"),
            (anyhow::Error::new(cause()).context("write: disk full: \"x\""), "write: disk full: \"x\""),
            (anyhow::Error::new(cause()), "disk full"),
        ];
        for (error, expected) in cases {
            assert_eq!(words(&error), expected);
        }
    }
}

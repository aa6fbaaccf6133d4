//! The worker for NVIDIA cards: the program that `trimtab` starts for trials on them. It has no commands of its own.

use std::process::ExitCode;

use trimtab::worker::serve::serve;
use trimtab::worker::trial::{TrialExecutor, devices};

fn main() -> ExitCode {
    // Started by hand it says in one line what it would find, and nothing else.
    if std::env::args_os().nth(1).is_none_or(|command| command != "worker") {
        return trimtab::cli::say_devices(devices());
    }
    let files = trimtab::cache::store_dir();
    serve(|source, threads| Ok(Box::new(TrialExecutor::new(source, threads).with_files(files))), devices)
}

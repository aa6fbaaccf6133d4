//! argv → window, command or worker; exit code; nothing else.

use std::process::ExitCode;

use trimtab::worker::serve::serve;
use trimtab::worker::trial::{TrialExecutor, devices};

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|command| command == "worker") {
        let files = trimtab::cache::store_dir();
        return serve(|source, threads| Ok(Box::new(TrialExecutor::new(source, threads).with_files(files))), devices);
    }
    trimtab::cli::run(std::env::args_os())
}

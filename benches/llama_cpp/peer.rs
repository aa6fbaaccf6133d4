//! The other side: the programs of llama.cpp.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use trimtab::recipe::WeightFormat;

use crate::speed::{Round, Settings};

/// The programs of llama.cpp.
pub(crate) struct Peer {
    folder: PathBuf,
    threads: u16,
}

/// What `llama-bench` prints of one test; other fields are not read.
#[derive(Deserialize)]
struct Test {
    n_prompt: u32,
    n_gen: u32,
    samples_ns: Vec<u64>,
}

impl Peer {
    /// The programs in `folder`, run with so many threads.
    pub(crate) fn new(folder: &Path, threads: u16) -> anyhow::Result<Self> {
        for name in ["llama-bench", "llama-quantize"] {
            ensure!(folder.join(name).is_file(), "{} has no {name}", folder.display());
        }
        Ok(Self { folder: folder.to_owned(), threads })
    }

    /// Threads of both engines.
    pub(crate) fn threads(&self) -> u16 {
        self.threads
    }

    /// Times `file`, on the processor alone; all else is as llama.cpp has it by default.
    pub(crate) fn bench(&self, file: &Path, settings: &Settings) -> anyhow::Result<Round> {
        let Settings { prompt, decode, repetitions, threads, .. } = settings;
        let numbers =
            [("-p", *prompt), ("-n", *decode), ("-r", *repetitions), ("-t", u32::from(*threads)), ("-ngl", 0)];
        let mut command = command(&self.folder.join("llama-bench"));
        command.arg("-m").arg(file).args(["-o", "json"]);
        for (flag, number) in numbers {
            command.arg(flag).arg(number.to_string());
        }
        let (output, _) = run(&mut command)?;
        let tests: Vec<Test> = serde_json::from_slice(&output.stdout).context("read what llama-bench printed")?;
        let secs = |n_prompt, n_gen| {
            let test = tests.iter().find(|test| (test.n_prompt, test.n_gen) == (n_prompt, n_gen));
            let samples = test.context("llama-bench left out a test")?.samples_ns.iter();
            anyhow::Ok(samples.map(|nanos| *nanos as f64 * 1e-9).collect())
        };
        Ok(Round { prefill_secs: secs(*prompt, 0)?, decode_secs: secs(0, *decode)? })
    }

    /// Makes `out` of the f32 file `from`, every matrix in `format`; gives the time of the whole process.
    pub(crate) fn quantize(&self, from: &Path, format: WeightFormat, out: &Path) -> anyhow::Result<Duration> {
        let mut command = command(&self.folder.join("llama-quantize"));
        command.arg("--pure").arg(from).arg(out).arg(quantize_name(format)).arg(self.threads.to_string());
        Ok(run(&mut command)?.1)
    }
}

/// `q4k` is `Q4_K`; with `--pure` its mixtures are of one type.
fn quantize_name(format: WeightFormat) -> String {
    let name = format.label().to_uppercase();
    name.strip_suffix('K').map_or(name.clone(), |stem| format!("{stem}_K"))
}

/// A program to run.
#[expect(clippy::disallowed_methods, reason = "the programs that are compared")]
pub(crate) fn command(program: &Path) -> Command {
    Command::new(program)
}

/// Runs a program to its end; gives its time.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<(Output, Duration)> {
    let program = command.get_program().display().to_string();
    let began = Instant::now();
    let output = command.output().with_context(|| format!("start {program}"))?;
    let took = began.elapsed();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = said.lines().rev().take(5).collect();
        bail!("{program}: {}\n{}", output.status, last.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
    Ok((output, took))
}

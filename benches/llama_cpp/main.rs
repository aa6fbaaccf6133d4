//! Speed and memory beside llama.cpp, on the same model files and threads, in rounds taken turn about.
//!
//! `scripts/bench-llama-cpp` builds llama.cpp and runs this; with programs of your own:
//! `cargo bench --bench llama_cpp -- --peer DIR --shape stories15M --format q8_0,q4_0`. Tables go to standard output as
//! Markdown, words to standard error.
//!
//! Both engines time the same: a prompt in one pass with the logits of its last token, and single tokens from an empty
//! context. Loading is outside of both. Ours is the worker that every trial runs in.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its figures")]

mod files;
mod format;
mod machine;
mod ours;
mod peer;
mod quantizing;
mod random;
mod speed;
mod tables;

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use clap::{Parser, ValueEnum};
use serde_json::json;
use trimtab::device::DeviceSpec;

use crate::files::{Files, Shape};
use crate::format::Format;
use crate::peer::Peer;

/// Compares Trimtab with llama.cpp on the same files.
#[derive(Debug, Parser)]
#[command(name = "llama_cpp")]
struct Args {
    /// The folder with `llama-bench` and `llama-quantize`.
    #[arg(long, value_name = "DIR")]
    peer: Option<PathBuf>,
    /// What the tables call it.
    #[arg(long, value_name = "TEXT", default_value = "llama.cpp")]
    peer_name: String,
    /// The models: the embedded one, and random weights in the shape of a 135M model and of one with wide layers.
    #[arg(long, value_delimiter = ',', default_value = "stories15M,135m,1b")]
    shape: Vec<Shape>,
    /// Formats of the weights; `row-int8` is compared with the other's `q8_0`.
    #[arg(long = "format", value_delimiter = ',', value_parser = Format::parse, value_name = "NAME,…")]
    formats: Vec<Format>,
    /// What is compared.
    #[arg(long, value_delimiter = ',', default_value = "speed,quantizing")]
    part: Vec<Part>,
    /// Rounds of both engines, a process each.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Repetitions within a round.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..))]
    repetitions: u32,
    /// Threads of both engines; one a core when absent.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Tokens of the prompt; by shape when absent.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    prompt: Option<u32>,
    /// Tokens decoded from an empty context.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    decode: u32,
    /// Also write every sample to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What cargo passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A part of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Prefill, decode and memory.
    Speed,
    /// Making the formats.
    Quantizing,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let Some(peer) = &args.peer else {
        eprintln!("llama_cpp: no llama.cpp is named (--peer DIR); scripts/bench-llama-cpp builds one and compares");
        return Ok(());
    };
    let threads = args.threads.map_or_else(DeviceSpec::all_cores, |threads| DeviceSpec::Cpu { threads });
    let DeviceSpec::Cpu { threads } = threads else { unreachable!("both branches name the processor") };
    let peer = Peer::new(peer, threads)?;
    let files = Files::in_user_cache()?;
    let formats = if args.formats.is_empty() { Format::ALL.to_vec() } else { args.formats.clone() };
    let machine = machine::line(threads);
    println!("{machine}\n");
    let mut told = Vec::new();
    for &shape in &args.shape {
        let mut of_shape = json!({ "shape": shape.name() });
        if args.part.contains(&Part::Speed) {
            let settings = speed::Settings {
                prompt: args.prompt.unwrap_or(shape.prompt()),
                decode: args.decode,
                rounds: args.rounds,
                repetitions: args.repetitions,
                threads,
            };
            ensure!(
                settings.longest() <= shape.max_context(),
                "{}: at most {} tokens",
                shape.name(),
                shape.max_context()
            );
            let rows = speed::compare(&files, &peer, shape, &formats, &settings)?;
            println!("{}\n", tables::speed(shape, &settings, &args.peer_name, &rows));
            of_shape["speed"] = json!({ "settings": settings, "rows": rows });
        }
        if args.part.contains(&Part::Quantizing) {
            let rows = quantizing::compare(&files, &peer, shape, &formats, args.rounds)?;
            println!("{}\n", tables::quantizing(shape, args.rounds, &args.peer_name, &rows));
            of_shape["quantizing"] = json!(rows);
        }
        told.push(of_shape);
    }
    if let Some(path) = &args.json {
        let whole = json!({ "machine": machine, "peer": args.peer_name, "shapes": told });
        let text = serde_json::to_string_pretty(&whole).context("figures as JSON")?;
        std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

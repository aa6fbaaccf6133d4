//! The command line's contract, with the real program: data on standard output, words on standard error, exit codes.

mod examples;
mod making;
mod profile;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const MODEL: &str = "assets/demo/stories15M";
/// The recipe of the examples in the help texts.
const GPTQ4: &str = "format_version = 1\nname = \"GPTQ in 4 bits\"\n[default]\nweights = { int = { bits = 4, group = 32 } }\n\
                     rounding = \"gptq\"\n";
const CALIBRATION: &str = "assets/demo/calibration.jsonl";
const DATA: &str = "assets/demo/search.jsonl";

/// The program without a display, in a folder that has the project's `assets`.
#[expect(clippy::disallowed_methods, reason = "the program is what is tested")]
fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trimtab"));
    command.current_dir(folder).env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY").env_remove("RUST_LOG");
    // What is made is kept here, not among the user's files.
    command.env("XDG_CACHE_HOME", folder.join("cache"));
    command.stdin(Stdio::null());
    command
}

/// A folder for what is written, with the project's `assets` in it.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    std::os::unix::fs::symlink(assets, folder.path().join("assets")).unwrap();
    folder
}

fn run(folder: &Path, args: &[&str]) -> Output {
    program(folder).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn assert_code(output: &Output, code: i32, args: &[&str]) {
    let found = output.status.code();
    assert_eq!(found, Some(code), "{args:?}: {}\n{}", text(&output.stderr), text(&output.stdout));
}

/// Runs a command that prints JSON and ends with `code`.
fn json(folder: &Path, args: &[&str], code: i32) -> Value {
    let output = run(folder, args);
    assert_code(&output, code, args);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

fn assert_has(value: &Value, paths: &[&str]) {
    for path in paths {
        let found = path.split('.').fold(value, |value, key| &value[key]);
        assert!(!found.is_null(), "{path} in {value}");
    }
}

#[test]
fn mistakes_end_with_two_and_words_on_standard_error() {
    let folder = folder();
    fs::write(folder.path().join("q4k.toml"), "format_version = 1\n[default]\nweights = \"q4k\"\n").unwrap();
    fs::write(folder.path().join("newer.toml"), "format_version = 9\n").unwrap();
    write_spec(folder.path(), "empty.toml", "[\"q8_0\"]", "[limits]\nmax_kl = 1.0\n[budget]\ntrials = 0");
    fs::write(folder.path().join("gptq4.toml"), GPTQ4).unwrap();
    fs::write(folder.path().join("empty.jsonl"), "").unwrap();
    fs::write(folder.path().join("int3.toml"), GPTQ4.replace("bits = 4", "bits = 3")).unwrap();
    let eval = |more: &[&'static str]| [&["eval", MODEL, "--data", DATA, "--recipe", "gptq4.toml"][..], more].concat();
    let no_text = eval(&[]);
    let absent_text = eval(&["--calibration", "absent.jsonl"]);
    let empty_text = eval(&["--calibration", "empty.jsonl"]);
    let no_windows = eval(&["--calibration", CALIBRATION, "--calibration-windows", "0"]);
    let ct = ["export", MODEL, "--calibration", CALIBRATION, "--recipe", "int3.toml", "--format"];
    let (ct, gguf) =
        ([&ct[..], &["compressed-tensors", "--out", "ct"]].concat(), [&ct[..], &["gguf", "--out", "x.gguf"]].concat());
    let cases: [(&[&str], &str); 27] = [
        (&no_text, "calibration"),
        (&absent_text, "absent.jsonl"),
        (&empty_text, "the file is empty"),
        (&no_windows, "--calibration-windows"),
        (&ct, "other widths than 4 and 8"),
        (&gguf, "no uniform integer grids"),
        (&["inspect"], "MODEL"),
        (&["inspect", "absent"], "absent"),
        (&["inspect", "assets/demo"], "config.json"),
        (&["eval", MODEL, "--recipe", "none"], "--data"),
        (&["eval", MODEL, "--data", "absent.jsonl"], "absent.jsonl"),
        (&["eval", MODEL, "--data", DATA, "--recipe", "absent.toml"], "absent.toml"),
        (&["eval", MODEL, "--data", DATA, "--recipe", "newer.toml"], "format_version 9 is newer"),
        (&["bench", MODEL, "--recipe", "q4k.toml"], "multiple of 256"),
        (&["bench", MODEL, "--repetitions", "1"], "--repetitions"),
        (&["bench", "--shape", "llama-4"], "neither a config.json nor one of llama-3-8b"),
        (&["bench", MODEL, "--shape", "stories15m"], "cannot be used with"),
        (&["bench", "--recipe", "q8_0"], "name a MODEL or a --shape"),
        (&["profile", MODEL, "--context", "256"], "one more token"),
        (&["profile", MODEL, "--prompt", "257"], "prompt 257"),
        (&["profile", MODEL, "--replace"], "--trace"),
        (&["profile", MODEL, "--trace", "absent/trace.json"], "no such folder"),
        (&["eval", MODEL, "--data", DATA, "--context", "257"], "context is 256"),
        (&["bench", MODEL, "--prompt", "300", "--decode", "400"], "2 problems"),
        (&["sweep", "empty.toml", "--out", "empty.study"], "budget.trials 0"),
        (&["show", "absent.study"], "absent.study"),
        (&["report", "absent.study", "--out", "report.pdf"], "absent.study"),
    ];
    for (args, expected) in cases {
        let output = run(folder.path(), args);
        assert_code(&output, 2, args);
        assert!(output.stdout.is_empty(), "{args:?}");
        assert!(text(&output.stderr).contains(expected), "{args:?}: {}", text(&output.stderr));
        assert!(!text(&output.stderr).contains("panicked"), "{args:?}");
    }
}

#[test]
fn without_a_display_a_model_is_no_window() {
    let folder = folder();
    for args in [&[MODEL][..], &["--replay"]] {
        let output = run(folder.path(), args);
        assert_code(&output, 2, args);
        assert!(text(&output.stderr).contains("no display"), "{}", text(&output.stderr));
        assert_eq!(text(&output.stderr).lines().count(), 1);
    }
}

#[test]
fn inspect_lists_every_layer() {
    let folder = folder();
    let model = json(folder.path(), &["inspect", MODEL, "--json"], 0);
    assert_eq!((&model["family"], &model["context"]), (&Value::from("Llama"), &Value::from(256)));
    let layers = model["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 43, "seven linear layers in six blocks, and the embedding");
    for layer in layers {
        assert_has(layer, &["path", "role", "shape", "dtype", "bytes"]);
    }
    let layer_bytes: u64 = layers.iter().map(|layer| layer["bytes"].as_u64().unwrap()).sum();
    assert_eq!(layer_bytes + model["other_bytes"].as_u64().unwrap(), model["bytes"].as_u64().unwrap());
    let shown = run(folder.path(), &["inspect", MODEL]);
    assert!(text(&shown.stdout).contains("model.layers.5.mlp.down_proj"));
}

#[test]
fn inspect_looks_into_one_layer() {
    let folder = folder();
    let path = "model.layers.3.mlp.down_proj";
    let layer = json(folder.path(), &["inspect", MODEL, "--layer", path, "--json"], 0);
    assert_eq!((&layer["path"], &layer["weights"]["n"]), (&Value::from(path), &Value::from(288 * 768)));
    let candidates = layer["candidates"].as_array().unwrap();
    assert_eq!(Some(candidates.len() as u64), layer["n_candidates"].as_u64());
    let values = layer["spectrum"]["Ok"]["singular_values"].as_array().unwrap();
    assert_eq!(values.len(), 288);
    assert!(layer["rank_for_energy"]["0.9"].as_u64().unwrap() < layer["rank_for_energy"]["0.99"].as_u64().unwrap());
    let shown = run(folder.path(), &["inspect", MODEL, "--layer", path]);
    assert_code(&shown, 0, &["inspect", "--layer"]);
    for expected in ["int4 g32", "q4k", "singular values: 288", "zeros 0 %"] {
        assert!(text(&shown.stdout).contains(expected), "{expected}: {}", text(&shown.stdout));
    }
    let text_args = ["--calibration", "assets/demo/calibration.jsonl", "--calibration-windows", "1"];
    let args = [&["inspect", MODEL, "--layer", path, "--json"][..], &text_args].concat();
    let calibrated = json(folder.path(), &args, 0);
    assert_eq!(calibrated["inputs"]["Ok"]["n_tokens"], Value::from(256));
    assert!(calibrated["n_candidates"].as_u64() > layer["n_candidates"].as_u64());
    let unknown = run(folder.path(), &["inspect", MODEL, "--layer", "model.layers.9.x"]);
    assert_code(&unknown, 2, &["inspect"]);
    assert!(text(&unknown.stderr).contains("model.layers.9.x"));
}

#[test]
fn a_truncated_model_is_refused_by_its_field() {
    let folder = folder();
    let broken = folder.path().join("broken");
    fs::create_dir(&broken).unwrap();
    for name in ["config.json", "tokenizer.json"] {
        fs::copy(folder.path().join(MODEL).join(name), broken.join(name)).unwrap();
    }
    let weights = fs::read(folder.path().join(MODEL).join("model.safetensors")).unwrap();
    // In the length of the header, in the header, in the tensors.
    for keep in [4, 100, weights.len() - 1] {
        fs::write(broken.join("model.safetensors"), &weights[..keep]).unwrap();
        let output = run(folder.path(), &["inspect", "broken", "--json"]);
        assert_code(&output, 2, &["inspect"]);
        assert!(output.stdout.is_empty());
        let words = text(&output.stderr);
        assert!(words.contains("model.safetensors") && words.contains("byte"), "{keep} bytes: {words}");
    }
}

#[test]
fn eval_measures_quality() {
    let folder = folder();
    let args = ["eval", MODEL, "--data", DATA, "--protocol", "gptq", "--context", "256", "--windows", "2", "--json"];
    let reference = json(folder.path(), &args, 0);
    let keys = [
        "protocol",
        "windows",
        "tokens",
        "perplexity",
        "kl_divergence.mean",
        "kl_divergence.median",
        "kl_divergence.p99",
        "kl_divergence.max",
        "top1_agreement",
        "weight_bytes",
        "bits_per_weight",
        "simulated",
    ];
    assert_has(&reference, &keys);
    assert_eq!(reference["protocol"], "gptq-256");
    assert_eq!((&reference["windows"], &reference["tokens"]), (&Value::from(2), &Value::from(510)));
    assert_eq!(reference["kl_divergence"]["max"], 0.0);
    assert_eq!(reference["simulated"], false);
    let perplexity = reference["perplexity"].as_f64().unwrap();
    assert!((2.0..6.0).contains(&perplexity), "{perplexity}");

    let int3 = "format_version = 1\n[default]\nweights = { int = { bits = 3, group = 32 } }\n";
    std::fs::write(folder.path().join("int3.toml"), int3).unwrap();
    for (recipe, is_simulated) in [("int4-g32", false), ("int3.toml", true)] {
        let found = json(folder.path(), &[&args[..], &["--recipe", recipe]].concat(), 0);
        assert_eq!(found["simulated"], is_simulated, "{recipe}");
        assert!(found["kl_divergence"]["mean"].as_f64().unwrap() > 0.001);
        assert!(found["weight_bytes"].as_u64() < reference["weight_bytes"].as_u64());
    }

    let missed = run(folder.path(), &[&args[..], &["--recipe", "q4_0", "--max-kl", "0.00001"]].concat());
    assert_code(&missed, 1, &args);
    assert!(text(&missed.stderr).contains("limit missed"));
    assert!(serde_json::from_slice::<Value>(&missed.stdout).is_ok());
}

#[test]
fn one_window_gives_values_without_intervals() {
    let folder = folder();
    let args = ["eval", MODEL, "--data", DATA, "--context", "64", "--windows", "1", "--recipe", "q8_0"];
    let quality = json(folder.path(), &[&args[..], &["--json"]].concat(), 0);
    assert_has(&quality, &["perplexity", "kl_divergence.mean", "top1_agreement"]);
    assert!(quality["perplexity_ci95"].is_null() && quality["kl_divergence"]["mean_ci95"].is_null(), "{quality}");
    let limited = run(folder.path(), &[&args[..], &["--max-kl", "10"]].concat());
    assert_code(&limited, 1, &args);
    assert!(text(&limited.stderr).contains("not enough windows"), "{}", text(&limited.stderr));
    assert!(!text(&limited.stdout).contains('±'), "{}", text(&limited.stdout));
}

#[test]
fn a_failed_trial_ends_with_one() {
    let folder = folder();
    fs::write(folder.path().join("short.jsonl"), "{\"text\": \"too short\"}\n").unwrap();
    let args = ["eval", MODEL, "--data", "short.jsonl", "--context", "256", "--json"];
    let failed = json(folder.path(), &args, 1);
    assert_eq!(failed["failure"]["kind"], "data");
}

#[test]
fn bench_measures_speed() {
    let folder = folder();
    let args =
        ["bench", MODEL, "--recipe", "q8_0", "--prompt", "16", "--decode", "4", "--repetitions", "2", "--threads", "1"];
    let speed = json(folder.path(), &[&args[..], &["--json"]].concat(), 0);
    let keys = [
        "prefill.tokens_per_second.median",
        "prefill.tokens_per_second.ci95",
        "decode.tokens_per_second.median",
        "decode.tokens_per_second.ci95",
        "weight_bytes",
        "peak_rss_bytes",
        "samples",
    ];
    assert_has(&speed, &keys);
    for phase in ["prefill", "decode"] {
        let rate = &speed[phase]["tokens_per_second"];
        let [low, median, high] = [&rate["ci95"][0], &rate["median"], &rate["ci95"][1]].map(|n| n.as_f64().unwrap());
        assert!(0.0 < low && low <= median && median <= high, "{rate}");
    }
    assert_eq!(speed["samples"]["prefill_nanos"].as_array().unwrap().len(), 2);
}

#[test]
fn bench_times_several_recipes_on_a_shape() {
    let folder = folder();
    let args =
        ["bench", "--shape", "stories15m", "--recipe", "none", "--recipe", "q8_0", "--prompt", "8", "--decode", "2"];
    let args = [&args[..], &["--repetitions", "2", "--threads", "1", "--json"]].concat();
    let found = json(folder.path(), &args, 0);
    assert_eq!(found["model"], "stories15m (random weights)");
    let trials = found["trials"].as_array().unwrap();
    assert_eq!(trials.iter().map(|trial| &trial["recipe"]).collect::<Vec<_>>(), ["reference", "Q8_0 in every block"]);
    assert!(
        trials[0]["decode"]["ratio_to_reference"].is_null() && trials[1]["decode"]["ratio_to_reference"].is_object()
    );
    // Formats by their names are recipes; a shape has no text to be scored on.
    let profile = ["profile", "--shape", "stories15m", "--recipe", "q4_0", "--prompt", "4", "--context", "4"];
    let profile = json(folder.path(), &[&profile[..], &["--repetitions", "2", "--json"]].concat(), 0);
    assert_has(&profile, &["passes"]);
}

fn write_spec(folder: &Path, name: &str, recipes: &str, limits: &str) -> PathBuf {
    let path = folder.join(name);
    let text = format!(
        "format_version = 1\nname = \"small\"\nmodel = \"{MODEL}\"\n[workload.quality]\ndata = \"{DATA}\"\n\
         protocol = \"gptq\"\ncontext = 64\nwindows = 2\n{limits}\n[strategy]\nkind = \"list\"\nrecipes = {recipes}\n"
    );
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_sweep_is_shown_reported_and_resumed() {
    let folder = folder();
    write_spec(folder.path(), "small.toml", "[\"q8_0\", \"magnitude-30\"]", "[limits]\nmax_kl = 1.0");
    let swept = json(folder.path(), &["sweep", "small.toml", "--out", "small.study", "--json"], 0);
    assert_eq!(swept["trials"].as_array().unwrap().len(), 3, "the reference and two recipes");

    let shown = json(folder.path(), &["show", "small.study", "--json"], 0);
    assert_eq!(shown["trials"], swept["trials"]);
    assert_eq!(shown["ended"], "complete");
    assert_eq!(shown["trials"][1]["outcome"]["done"]["quality"]["protocol"], "gptq-64");
    let table = run(folder.path(), &["show", "small.study"]);
    assert!(text(&table.stdout).contains("Q8_0 in every block") && text(&table.stdout).contains("gptq-64 on search"));

    fs::write(folder.path().join("r.csv"), "mine").unwrap();
    assert_code(&run(folder.path(), &["report", "small.study", "--out", "r.csv"]), 2, &["report"]);
    assert_eq!(fs::read_to_string(folder.path().join("r.csv")).unwrap(), "mine");
    assert_code(&run(folder.path(), &["report", "small.study", "--out", "r.csv", "--replace"]), 0, &["report"]);
    fs::remove_file(folder.path().join("r.csv")).unwrap();
    for (name, begins) in [("r.html", "<!doctype html>"), ("r.csv", "trial,name,status"), ("r.jsonl", "{")] {
        assert_code(&run(folder.path(), &["report", "small.study", "--out", name]), 0, &[name]);
        assert!(fs::read_to_string(folder.path().join(name)).unwrap().starts_with(begins), "{name}");
    }
    assert!(folder.path().join("small.html").is_file(), "a sweep leaves its report beside the study");
    assert_code(&run(folder.path(), &["report", "small.study", "--out", "r.pdf"]), 2, &["pdf"]);

    let again = run(folder.path(), &["sweep", "small.toml", "--out", "small.study"]);
    assert_code(&again, 2, &["sweep"]);
    assert!(text(&again.stderr).contains("--resume"));
    // The extension may be left out; a page of somebody else's beside the study stays.
    fs::write(folder.path().join("small.html"), "<p>mine</p>").unwrap();
    let resumed = json(folder.path(), &["sweep", "small.toml", "--out", "small", "--resume", "--json"], 0);
    assert_eq!(fs::read_to_string(folder.path().join("small.html")).unwrap(), "<p>mine</p>");
    assert!(folder.path().join("small.2.html").is_file());
    assert_eq!(resumed["trials"], swept["trials"], "nothing is repeated");
}

#[test]
fn a_sweep_with_a_failure_or_a_missed_limit_ends_with_one() {
    let folder = folder();
    let q4k = "[{ format_version = 1, name = \"refused\", default = { weights = \"q4k\" } }, \"q8_0\"]";
    write_spec(folder.path(), "failing.toml", q4k, "");
    let failing = json(folder.path(), &["sweep", "failing.toml", "--out", "failing.study", "--json"], 1);
    let status: Vec<&str> =
        failing["trials"].as_array().unwrap().iter().map(|trial| trial["status"].as_str().unwrap()).collect();
    assert_eq!(status, ["done", "failed", "done"], "the trials after a failure run");

    write_spec(folder.path(), "strict.toml", "[\"q4_0\"]", "[limits]\nmax_kl = 0.00001");
    let strict = run(folder.path(), &["sweep", "strict.toml", "--out", "strict.study"]);
    assert_code(&strict, 1, &["sweep"]);
    assert!(text(&strict.stderr).contains("no variant kept the limits"));
}

/// Starts a sweep of `n` recipes and does `then` with it once its first trial has ended; returns what it wrote after that
/// and its exit code.
fn sweep_disturbed(folder: &Path, n: usize, then: impl FnOnce(&Child)) -> (String, String, Option<i32>) {
    let recipe = |n: usize| {
        let fraction = (n + 1) as f64 / 1000.0;
        format!(
            "{{ format_version = 1, default = {{ sparsity = {{ method = \"magnitude\", fraction = {fraction} }} }} }}"
        )
    };
    let recipes = format!("[{}]", (0..n).map(recipe).collect::<Vec<_>>().join(", "));
    write_spec(folder, "long.toml", &recipes, "");
    let mut child = program(folder)
        .args(["sweep", "long.toml", "--out", "long.study"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stderr = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut line = String::new();
    while !line.starts_with("#0 ") {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).expect("it writes text"), 0, "the reference ends first");
    }
    then(&child);
    let mut words = String::new();
    stderr.read_to_string(&mut words).expect("it writes text");
    let output = child.wait_with_output().expect("it ends");
    (text(&output.stdout).to_owned(), words, output.status.code())
}

#[test]
fn an_interrupt_ends_a_sweep_in_order() {
    let folder = folder();
    let (table, words, code) = sweep_disturbed(folder.path(), 300, |child| {
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it is running");
    });
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("--resume") && table.contains("reference"), "{words}\n{table}");
    assert!(folder.path().join("long.html").is_file());
    assert_eq!(json(folder.path(), &["show", "long.study", "--json"], 0)["ended"], "stopped");
}

#[test]
fn a_journal_lost_on_the_way_ends_with_two_and_the_results() {
    let folder = folder();
    let study = folder.path().join("long.study");
    let (table, words, code) = sweep_disturbed(folder.path(), 12, |_| fs::remove_file(&study).expect("it is there"));
    assert_eq!(code, Some(2), "{words}");
    assert!(words.trim_end().lines().last().is_some_and(|line| line.starts_with("error: ")), "{words}");
    assert!(words.contains("long.study") && table.contains("reference"), "{words}\n{table}");
    assert!(folder.path().join("long.html").is_file());
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let folder = folder();
    let mut child = program(folder.path())
        .args(["inspect", MODEL, "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn devices_has_the_processor() {
    let devices = json(folder().path(), &["devices", "--json"], 0);
    let cpu = &devices["devices"][0];
    assert_eq!(cpu["kind"], "cpu");
    assert!(cpu["threads"].as_u64().unwrap() >= 1 && cpu["unavailable"].is_null());
}

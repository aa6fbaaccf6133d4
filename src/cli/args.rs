//! Every command with its flags.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::study::Protocol;

/// A workbench for making Transformer models smaller and faster.
#[derive(Debug, Parser)]
#[command(
    name = "trimtab",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Without a command the window opens.\n\
                  Data goes to standard output, words to standard error.\n\
                  Exit codes: 0 done, 1 a trial failed or a limit was missed, 2 usage or internal.\n\n\
                  Example:\n  trimtab sweep --demo"
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) verb: Option<Verb>,
    #[command(flatten)]
    pub(super) window: WindowArgs,
}

/// What the window opens with.
#[derive(Debug, Args)]
pub(super) struct WindowArgs {
    /// A model folder, a GGUF file or a recorded study; the embedded demo when absent.
    pub(super) path: Option<PathBuf>,
    /// Show the recorded study (the demo's when no path is given) without running anything.
    #[arg(long)]
    pub(super) replay: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Show what a model contains, from its headers.
    Inspect(InspectArgs),
    /// Measure a variant's quality against the reference.
    Eval(EvalArgs),
    /// Measure a variant's speed and memory beside the reference.
    Bench(BenchArgs),
    /// Take a variant's forward passes apart: where the time goes, and what limits it.
    Profile(ProfileArgs),
    /// Run a study: many variants, each measured, into a file that can be resumed.
    Sweep(SweepArgs),
    /// Show a study as a table or as JSON.
    Show(ShowArgs),
    /// Write a study as an HTML report, or as CSV or JSON Lines.
    Report(ReportArgs),
    /// Write a variant as a model that other programs load.
    Export(ExportArgs),
    /// List the devices of this machine.
    Devices(DevicesArgs),
    /// Show or empty the folder of compressed layers and calibrations that later runs use again.
    Cache(CacheArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  trimtab inspect assets/demo/stories15M --json")]
pub(super) struct InspectArgs {
    /// A Hugging Face folder or a GGUF file.
    pub(super) model: PathBuf,
    /// Look into one layer: how its weights are spread, its singular values, what each setting costs it.
    #[arg(long, value_name = "PATH")]
    pub(super) layer: Option<String>,
    /// Calibrate on this text (JSON lines with a `text` each): the range of each input channel, errors of the outputs, and
    /// the settings that need it.
    #[arg(long, value_name = "FILE.jsonl", requires = "layer")]
    pub(super) calibration: Option<PathBuf>,
    /// Read only the first so many windows of it; 128 when absent.
    #[arg(long, value_name = "N", requires = "calibration", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) calibration_windows: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Methods that read activations (gptq, awq, imatrix, wanda, sparsegpt, whitened low rank, static \
                  8-bit inputs,\nstructural scores) are calibrated on the text of the recipe's [calibration] or of \
                  --calibration.\n\n\
                  Examples:\n  trimtab eval assets/demo/stories15M --recipe assets/recipes/q8_0.toml \\\n    \
                  --data assets/demo/search.jsonl --protocol gptq --context 256 --windows 8 --json\n  \
                  trimtab eval assets/demo/stories15M --recipe gptq4.toml \\\n    \
                  --calibration assets/demo/calibration.jsonl --calibration-windows 8 \\\n    \
                  --data assets/demo/search.jsonl --windows 4 --layers\n\n\
                  gptq4.toml:\n  format_version = 1\n  name = \"GPTQ in 4 bits\"\n  [default]\n  \
                  weights = { int = { bits = 4, group = 32 } }\n  rounding = \"gptq\""
)]
pub(super) struct EvalArgs {
    /// A Hugging Face folder or a GGUF file.
    pub(super) model: PathBuf,
    #[command(flatten)]
    pub(super) variant: VariantArgs,
    /// Text to score: JSON lines with a `text` each.
    #[arg(long, value_name = "FILE.jsonl")]
    pub(super) data: PathBuf,
    /// How the text is cut and scored.
    #[arg(long, value_enum, default_value = "gptq")]
    pub(super) protocol: ProtocolArg,
    /// Tokens a window; the model's own context, at most 2048, when absent.
    #[arg(long, value_name = "TOKENS")]
    pub(super) context: Option<usize>,
    /// Score only the first so many windows; one window alone gives no interval.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) windows: Option<u32>,
    /// Also score GGML layers dequantized to f32: what the weights cost without quantized activations.
    #[arg(long)]
    pub(super) dequantized: bool,
    /// Exit with 1 when the upper 95 % bound of the mean KL is above this, in nats.
    #[arg(long, value_name = "NATS")]
    pub(super) max_kl: Option<f64>,
    /// Exit with 1 when the upper 95 % bound of the perplexity over the reference's is above this.
    #[arg(long, value_name = "RATIO")]
    pub(super) max_perplexity_ratio: Option<f64>,
    /// Also list every compressed layer with its error, bytes and notes; JSON always has them.
    #[arg(long)]
    pub(super) layers: bool,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  trimtab bench assets/demo/stories15M --recipe q4_0 \\\n    \
                  --prompt 128 --decode 32 --repetitions 4\n  \
                  trimtab bench --shape stories15m --recipe none --recipe q8_0 --recipe q4_0 \\\n    \
                  --prompt 32 --decode 8 --repetitions 2\n  \
                  trimtab bench assets/demo/stories15M --recipe gptq4.toml \\\n    \
                  --calibration assets/demo/calibration.jsonl --calibration-windows 8 \\\n    \
                  --prompt 64 --decode 8 --repetitions 2 --layers")]
pub(super) struct BenchArgs {
    #[command(flatten)]
    pub(super) model: ModelArgs,
    /// A recipe file, the name of a shipped recipe or of a format, or `none` for the reference. May be given several times:
    /// a row each.
    #[arg(long = "recipe", default_value = "none", value_name = "R.toml")]
    pub(super) recipes: Vec<String>,
    #[command(flatten)]
    pub(super) run: RunArgs,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) prompt: u32,
    /// Tokens decoded after it.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) decode: u32,
    /// Repetitions of variant and reference, taken turn about.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..))]
    pub(super) repetitions: u32,
    /// Also list every compressed layer with its error, bytes and notes; JSON always has them.
    #[arg(long)]
    pub(super) layers: bool,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "A clock is read between operations, turn about with passes without it; the speed of a variant is \
                  measured by bench.\n\
                  Bytes and operations are counted from shapes; the ceilings of this machine are measured.\n\n\
                  Examples:\n  trimtab profile assets/demo/stories15M --recipe q8_0 \\\n    \
                  --prompt 64 --context 64 --repetitions 4\n  \
                  trimtab profile assets/demo/stories15M --prompt 16 --context 16 --repetitions 2 \\\n    \
                  --trace profile.json"
)]
pub(super) struct ProfileArgs {
    #[command(flatten)]
    pub(super) model: ModelArgs,
    #[command(flatten)]
    pub(super) variant: VariantArgs,
    /// Tokens of the prompt; 256, or the model's context, when absent.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) prompt: Option<u32>,
    /// Tokens before the one that is decoded; 256, or as many as the model's context holds, when absent.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) context: Option<u32>,
    /// Passes with the clock, and as many without it, taken turn about.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(2..))]
    pub(super) repetitions: u32,
    /// Also write a timeline as Chrome trace events, which ui.perfetto.dev opens.
    #[arg(long, value_name = "FILE.json")]
    pub(super) trace: Option<PathBuf>,
    /// Write the timeline over a file that is there.
    #[arg(long, requires = "trace")]
    pub(super) replace: bool,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// What is timed: a model, or a shape in the place of one.
#[derive(Debug, Args)]
pub(super) struct ModelArgs {
    /// A Hugging Face folder or a GGUF file.
    pub(super) model: Option<PathBuf>,
    /// In the place of a model: a shape with random weights, by its name (llama-3-8b, llama-3.2-3b, llama-3.2-1b,
    /// tinyllama-1.1b, smollm2-135m, stories15m) or as a config.json. Nothing is downloaded or written.
    #[arg(long, value_name = "SHAPE", conflicts_with = "model")]
    pub(super) shape: Option<PathBuf>,
}

/// The variant and where it runs.
#[derive(Debug, Args)]
pub(super) struct VariantArgs {
    /// A recipe file, the name of a shipped recipe or of a format, or `none` for the reference.
    #[arg(long, default_value = "none", value_name = "R.toml")]
    pub(super) recipe: String,
    #[command(flatten)]
    pub(super) run: RunArgs,
}

/// Where and how trials run.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The device: cpu, or cuda:0 for the first NVIDIA card; `trimtab devices` lists them.
    #[arg(long, default_value = "cpu")]
    pub(super) device: String,
    /// Threads for products; one a core when absent.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) threads: Option<u16>,
    /// Seed of every random choice.
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u64,
    #[command(flatten)]
    pub(super) calibration: CalibrationArgs,
}

/// The text that calibrated methods read.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct CalibrationArgs {
    /// The text that calibrated methods read, in the place of the recipe's own: JSON lines with a `text` each. It must not
    /// be the text that the variant is judged by.
    #[arg(long, value_name = "FILE.jsonl")]
    pub(super) calibration: Option<PathBuf>,
    /// Calibrate on so many windows of it; the recipe's number, or 128, when absent.
    #[arg(long, value_name = "WINDOWS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) calibration_windows: Option<u32>,
}

#[derive(Debug, Args)]
#[command(after_help = "SPEC.toml:\n  \
        format_version = 1\n  \
        name = \"formats of a small model\"\n  \
        model = \"assets/demo/stories15M\"      # relative to this file\n  \
        device = \"cpu\"                        # or \"cpu:2\", \"cuda:0\"; devices = [\"cuda:0\", \"cuda:1\"] share it\n  \
        [workload.quality]\n  \
        data = \"assets/demo/search.jsonl\"\n  \
        protocol = \"gptq\"\n  \
        context = 256\n  \
        windows = 16\n  \
        [workload.speed]\n  \
        prompt = 128\n  \
        decode = 32\n  \
        repetitions = 4\n  \
        [calibration]                         # for recipes that leave it open\n  \
        data = \"assets/demo/calibration.jsonl\"\n  \
        windows = 32\n  \
        [limits]\n  \
        max_kl = 0.2                          # or max_perplexity_ratio\n  \
        [budget]\n  \
        secs = 600                            # or trials\n  \
        [strategy]\n  \
        kind = \"list\"                         # or \"grid\" (base, axes), \"progressive\" (base, rungs)\n  \
        recipes = [\"q8_0\", \"mine.toml\"]       # shipped names, files, or tables\n\n\
        Exit code 1: a trial failed, or limits are set and no variant kept them.\n\n\
        Examples:\n  trimtab sweep --demo --out demo.study\n  \
        trimtab sweep SPEC.toml --out mine.study \\\n    \
        --calibration calibration.jsonl --calibration-windows 32")]
pub(super) struct SweepArgs {
    /// What to run.
    #[arg(value_name = "SPEC.toml", required_unless_present = "demo", conflicts_with = "demo")]
    pub(super) spec: Option<PathBuf>,
    /// Run the demo sweep on the embedded model; without `--out`, into the demo's cache folder.
    #[arg(long)]
    pub(super) demo: bool,
    /// The study file to write, NAME.study (the extension is added when absent); a report goes beside it as NAME.html,
    /// or under a numbered name where that is a file of another program.
    #[arg(long, value_name = "STUDY", required_unless_present = "demo")]
    pub(super) out: Option<PathBuf>,
    /// Go on with an unfinished study, one that Ctrl-C ended among them; finished trials are not repeated.
    #[arg(long, requires = "out")]
    pub(super) resume: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) calibration: CalibrationArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  trimtab show assets/demo/demo.study --json\n  \
                        trimtab show assets/demo/demo.study --layers")]
pub(super) struct ShowArgs {
    /// A study file.
    pub(super) study: PathBuf,
    /// Also list every compressed layer of each trial with its error, bytes and notes; JSON always has them.
    #[arg(long)]
    pub(super) layers: bool,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  trimtab report assets/demo/demo.study --out report.html")]
pub(super) struct ReportArgs {
    /// A study file.
    pub(super) study: PathBuf,
    /// What to write: a report (.html), or the trials as a table (.csv, .jsonl).
    #[arg(long, value_name = "FILE.html")]
    pub(super) out: PathBuf,
    /// Write over a file that is there, even if it is no report; a Trimtab report (.html) is written over without this.
    #[arg(long)]
    pub(super) replace: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Calibrated recipes, and those that cut, share or factorize, are made by a worker first.\n\
                  What a format cannot hold is refused before that.\n\n\
                  Examples:\n  trimtab export assets/demo/stories15M --recipe q8_0 \\\n    \
                  --format gguf --out stories15M-q8_0.gguf\n  \
                  trimtab export assets/demo/stories15M --recipe int4-g32 \\\n    \
                  --format compressed-tensors --out stories15M-int4\n  \
                  trimtab export assets/demo/stories15M --recipe gptq4.toml \\\n    \
                  --calibration assets/demo/calibration.jsonl --calibration-windows 8 \\\n    \
                  --format safetensors --dtype f16 --out stories15M-gptq4")]
pub(super) struct ExportArgs {
    /// A Hugging Face folder or a GGUF file.
    pub(super) model: PathBuf,
    /// A recipe file, the name of a shipped recipe, or `none` for the model as it is.
    #[arg(long, default_value = "none", value_name = "R.toml")]
    pub(super) recipe: String,
    /// The layout of the files.
    #[arg(long, value_enum)]
    pub(super) format: ExportFormat,
    /// The dtype of all tensors (safetensors only). When absent each keeps its own or has the one that the recipe names,
    /// and packed layers are written in f32, which holds their values exactly; f16 and bf16 round them again.
    #[arg(long, value_enum)]
    pub(super) dtype: Option<DtypeArg>,
    /// Put the new model in the place of one that is there, once it is complete.
    #[arg(long)]
    pub(super) replace: bool,
    /// A new folder (safetensors, compressed-tensors) or a file (gguf).
    #[arg(long, value_name = "PATH")]
    pub(super) out: PathBuf,
    #[command(flatten)]
    pub(super) calibration: CalibrationArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  trimtab cache --json\n  trimtab cache --clear")]
pub(super) struct CacheArgs {
    /// Remove everything in it. Nothing is lost but time.
    #[arg(long)]
    pub(super) clear: bool,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  trimtab devices --json")]
pub(super) struct DevicesArgs {
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// The layouts that models are written in.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ExportFormat {
    /// A Hugging Face folder of dense tensors.
    Safetensors,
    /// A Hugging Face folder whose integer (4 and 8 bits) and FP8 layers keep their codes; transformers loads it where
    /// compressed-tensors is installed.
    CompressedTensors,
    /// One GGUF file.
    Gguf,
}

/// The dtypes of a Hugging Face folder.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum DtypeArg {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

/// The protocols of [`Protocol`].
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ProtocolArg {
    /// One BOS before each text, joined, windows that do not overlap.
    Gptq,
}

impl From<ProtocolArg> for Protocol {
    fn from(protocol: ProtocolArg) -> Self {
        match protocol {
            ProtocolArg::Gptq => Self::Gptq,
        }
    }
}

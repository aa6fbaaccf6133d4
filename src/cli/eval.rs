//! `trimtab eval`: quality against the reference.

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::cli::args::EvalArgs;
use crate::cli::out::{Out, quoted, say};
use crate::cli::trial::{self, Ran, say_cautions};
use crate::cli::{Verdict, compression, open};
use crate::study::{Limits, Measurements, Protocol, Quality, QualityWorkload, Workload};
use crate::units;

/// The longest default window: what published perplexities use.
const MAX_DEFAULT_CONTEXT: usize = 2048;

pub(super) fn run(args: &EvalArgs, out: &mut Out) -> anyhow::Result<Verdict> {
    std::fs::metadata(&args.data).with_context(|| format!("read the text {}", quoted(&args.data)))?;
    let model = open::model(&args.model)?;
    let context = args.context.unwrap_or_else(|| model.graph().family.max_context().min(MAX_DEFAULT_CONTEXT));
    let protocol = Protocol::from(args.protocol);
    let quality = QualityWorkload {
        data: args.data.clone(),
        protocol,
        context,
        windows: args.windows,
        dequantized: args.dequantized,
    };
    let workload = Workload { quality: Some(quality), ..Workload::default() };
    let ran = trial::run(&model, &args.variant, &workload)?;
    let (measurements, quality) = match &ran.result {
        Ok(measurements) => (measurements, measurements.quality.as_ref().context("the worker reported no quality")?),
        Err(failure) => {
            if args.json {
                out.json(&json!({ "recipe": ran.recipe.name, "failure": failure }))?;
            }
            say(&format!("failed: {}: {}", failure.kind.label(), failure.message));
            return Ok(Verdict::Missed);
        }
    };
    if args.json {
        out.json(&as_json(&ran, measurements, quality))?;
    } else {
        out.data(&as_text(&ran, measurements, quality))?;
        if let Some(layers) = compression::layers(measurements).filter(|_| args.layers) {
            out.data(&layers)?;
        }
    }
    say_cautions(&ran.cautions);
    let limits = Limits { max_kl: args.max_kl, max_perplexity_ratio: args.max_perplexity_ratio };
    let Some(missed) = limits.exceeded_by(quality) else { return Ok(Verdict::Done) };
    say(&format!("limit missed: {missed}"));
    Ok(Verdict::Missed)
}

fn as_json(ran: &Ran, measurements: &Measurements, quality: &Quality) -> Value {
    let mut value = json!({
        "recipe": ran.recipe.name,
        "protocol": quality.protocol,
        "split": quality.split,
        "weight_bytes": measurements.memory.weight_bytes,
        "bits_per_weight": measurements.bits_per_weight,
        "simulated": measurements.simulated_layers > 0,
        "simulated_layers": measurements.simulated_layers,
        "products": measurements.products,
        "conditions": measurements.conditions,
        "cautions": ran.cautions.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "dequantized": measurements.dequantized_quality.as_ref().map(scores),
        "compress_secs": measurements.compress_secs,
        "compression": measurements.compression,
    });
    if let (Some(object), Value::Object(scores)) = (value.as_object_mut(), scores(quality)) {
        object.extend(scores);
    }
    value
}

/// What the scored windows give.
fn scores(quality: &Quality) -> Value {
    json!({
        "windows": quality.windows.len(),
        "tokens": quality.tokens,
        "perplexity": quality.perplexity.value,
        "perplexity_ci95": quality.perplexity.interval(),
        "reference_perplexity": quality.reference_perplexity,
        "log_perplexity_difference": {
            "mean": quality.log_perplexity_difference.value,
            "ci95": quality.log_perplexity_difference.interval(),
        },
        "kl_divergence": {
            "mean": quality.kl_mean.value,
            "mean_ci95": quality.kl_mean.interval(),
            "median": quality.kl_median,
            "p99": quality.kl_p99,
            "max": quality.kl_max,
        },
        "top1_agreement": quality.top1_agreement.value,
        "top1_agreement_ci95": quality.top1_agreement.interval(),
    })
}

fn as_text(ran: &Ran, measurements: &Measurements, quality: &Quality) -> String {
    let basis = format!(
        "{} on {}, {}, {} tokens",
        quality.protocol,
        quality.split,
        match quality.windows.len() {
            1 => "1 window (no interval)".to_owned(),
            n => format!("{n} windows"),
        },
        units::count(quality.tokens)
    );
    let weights = format!(
        "{}, {} bits a weight",
        units::bytes(measurements.memory.weight_bytes),
        units::significant(measurements.bits_per_weight, 4)
    );
    let mut lines = vec![("recipe", ran.recipe.name.clone()), ("protocol", basis)];
    lines.extend(score_lines(quality));
    lines.push(("weights", weights));
    lines.extend(compression::lines(measurements));
    if let Some(quality) = &measurements.dequantized_quality {
        lines.push(("dequantized", "the weights alone, activations in f32".to_owned()));
        lines.extend(score_lines(quality));
    }
    lines.into_iter().map(|(name, value)| format!("{name:<11} {value}")).collect::<Vec<_>>().join("\n")
}

fn score_lines(quality: &Quality) -> [(&'static str, String); 3] {
    let interval = |estimate: &crate::study::Estimate| units::interval(estimate.value, estimate.ci95);
    let perplexity = format!(
        "{} (reference {}, {})",
        interval(&quality.perplexity),
        units::significant(quality.reference_perplexity, 5),
        units::change(quality.log_perplexity_difference.value.exp())
    );
    let kl = format!(
        "mean {} nats, median {}, p99 {}, max {}",
        interval(&quality.kl_mean),
        units::significant(quality.kl_median, 3),
        units::significant(quality.kl_p99, 3),
        units::significant(quality.kl_max, 3)
    );
    [("perplexity", perplexity), ("KL", kl), ("same top-1", units::percent(quality.top1_agreement.value))]
}

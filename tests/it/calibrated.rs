//! Agreement of calibrated methods with an outside implementation on the embedded model.
//!
//! The figures come from an implementation of the papers' procedures in `PyTorch` 2.15, written apart from this one: first
//! 128 windows of 256 tokens of the calibration split, a block's inputs from the compressed blocks before it, Hessians and
//! factorizations in f64. Perplexity over the first 64 windows of the report split, protocol gptq-256, float32.

use trimtab::recipe::Recipe;
use trimtab::study::TrialSpec;
use trimtab::worker::trial::TrialExecutor;

use crate::numerics::{asset, demo_model, run, trial};

const DENSE: f64 = 3.20362;

/// A recipe, the outside perplexity and the relative difference that is allowed.
struct Figure {
    name: &'static str,
    body: &'static str,
    perplexity: f64,
    allowed: f64,
}

const fn figure(name: &'static str, body: &'static str, perplexity: f64, allowed: f64) -> Figure {
    Figure { name, body, perplexity, allowed }
}

/// Methods that feed rounding errors back follow every last bit, so they differ by more than those that only choose.
const FIGURES: [Figure; 7] = [
    figure(
        "gptq 4 row",
        "[default]\nweights = { int = { bits = 4, group = \"row\" } }\nrounding = \"gptq\"",
        3.48127,
        0.015,
    ),
    figure("wanda", "[default]\nsparsity = { method = \"wanda\", fraction = 0.5 }", 6.62141, 0.001),
    figure("sparsegpt", "[default]\nsparsity = { method = \"sparsegpt\", fraction = 0.5 }", 5.30512, 0.01),
    figure("whitened svd", "[default]\nlow_rank = { method = \"whitened\", ratio = 0.9 }", 7.09251, 0.003),
    figure("fp8", "[default]\nweights = { fp8 = \"row\" }", 3.22845, 0.001),
    figure("kv q4_0", "[kv_cache]\nkeys = \"q4_0\"\nvalues = \"q4_0\"", 3.27145, 0.002),
    figure(
        "a quarter of the channels",
        "[structure.ffn]\nfraction = 0.25\nscore = \"activation_norm\"",
        4.44163,
        0.005,
    ),
];

fn spec(number: u32, figure: &Figure) -> TrialSpec {
    let data = asset("assets/demo/calibration.jsonl");
    let calibration = format!("[calibration]\nwindows = 128\ncontext = 256\ndata = {:?}", data.display().to_string());
    let text = format!("format_version = 1\nname = {:?}\n{}\n{calibration}\n", figure.name, figure.body);
    trial(number, Recipe::from_toml(&text).unwrap(), Some(64), false)
}

#[test]
fn calibrated_methods_agree_with_an_outside_implementation() {
    let mut executor = TrialExecutor::new(demo_model(), 2);
    let mut missed = Vec::new();
    for (number, figure) in (1..).zip(&FIGURES) {
        let quality = run(&mut executor, &spec(number, figure)).quality.unwrap();
        assert!((quality.reference_perplexity / DENSE - 1.0).abs() < 1e-4, "{}", quality.reference_perplexity);
        let found = quality.perplexity.value;
        if (found / figure.perplexity - 1.0).abs() > figure.allowed {
            missed.push(format!("{}: {found} for {}", figure.name, figure.perplexity));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

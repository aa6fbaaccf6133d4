//! Agreement with outside implementations on the embedded model.
//!
//! Golden logits: `PyTorch` 2.11 float32, transformers' `LlamaForCausalLM` (`tests/fixtures/stories15M-golden.safetensors`).
//! Outside figures: the same, protocol gptq-256, full report split; only the 42 linear layers of the blocks are changed.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use trimtab::device::{DeviceInfo, DeviceSpec};
use trimtab::eval::{self, ScoredWindow};
use trimtab::measure::QualityAccumulator;
use trimtab::model::ModelSource;
use trimtab::nn::{Llama, with_values};
use trimtab::recipe::{Group, IntFormat, Recipe, Sparsity, WeightFormat};
use trimtab::runtime::ModelStore;
use trimtab::study::{Measurements, Protocol, Quality, QualityWorkload, TrialId, TrialSpec, Workload};
use trimtab::worker::serve::{Executor as _, Sink};
use trimtab::worker::trial::TrialExecutor;

pub(crate) fn asset(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub(crate) fn demo_model() -> ModelSource {
    ModelSource::Safetensors { dir: asset("assets/demo/stories15M") }
}

/// The golden file: tokens (2, 256) and logits (2, 16, 32000) of positions 0, 16, …, 240.
fn golden() -> (Vec<Vec<u32>>, Vec<f32>) {
    let bytes = std::fs::read(asset("tests/fixtures/stories15M-golden.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tokens = tensors.tensor("tokens").unwrap();
    let tokens: Vec<u32> = tokens.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect();
    let logits = tensors.tensor("logits").unwrap();
    let logits = logits.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    (tokens.chunks(256).map(<[u32]>::to_vec).collect(), logits)
}

#[test]
fn logits_agree_with_pytorch() {
    let checkpoint = trimtab::checkpoint::open(&demo_model()).unwrap();
    let store = ModelStore::load(checkpoint, DeviceSpec::Cpu { threads: 2 }, &|_, _| true).unwrap();
    let model = store.reference();
    let (windows, logits) = golden();
    let (mut worst, mut row) = (0.0_f32, Vec::new());
    for (tokens, expected) in windows.iter().zip(logits.chunks(16 * 32_000)) {
        let hidden = model.run_all(&model.embed(tokens).unwrap(), None).unwrap();
        let normed = model.final_norm(&hidden).unwrap();
        for (step, expected) in expected.chunks(32_000).enumerate() {
            let normed = normed.narrow(0, step * 16, 1).unwrap();
            with_values(&normed, |normed| model.head(normed, &mut row)).unwrap().unwrap();
            let difference = row.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            worst = worst.max(difference);
        }
    }
    // Logits reach ±20, where one f32 ulp is 2e-6; 288-term sums in another order through 6 blocks cost a few dozen ulp.
    assert!(worst < 2e-4, "largest difference {worst}");
}

#[test]
fn the_golden_tokens_are_what_the_protocol_cuts() {
    let checkpoint = trimtab::checkpoint::open(&demo_model()).unwrap();
    let texts = eval::read_texts(&asset("assets/demo/report.jsonl")).unwrap();
    let windows = eval::cut(&texts, &checkpoint.tokenizer().unwrap(), Some(1), 256, None).unwrap();
    assert_eq!(windows.available, 348);
    assert_eq!(windows.tokens[..2], golden().0);
}

pub(crate) fn trial(id: u32, recipe: Recipe, windows: Option<u32>, dequantized: bool) -> TrialSpec {
    let data = asset("assets/demo/report.jsonl");
    let quality = QualityWorkload { data, protocol: Protocol::Gptq, context: 256, windows, dequantized };
    TrialSpec {
        id: TrialId(id),
        recipe,
        device: DeviceSpec::Cpu { threads: 2 },
        workload: Workload { quality: Some(quality), speed: None, sample: None },
        seed: 0,
    }
}

pub(crate) fn run(executor: &mut TrialExecutor, spec: &TrialSpec) -> Measurements {
    let (sink, events) = Sink::new(spec.id, 1 << 16);
    let (measurements, _) = executor.run(spec, &sink).unwrap();
    drop(events);
    measurements
}

struct Figure {
    recipe: Recipe,
    perplexity: f64,
    kl: f64,
    top1: f64,
}

fn figures() -> Vec<Figure> {
    let int4 = |group| WeightFormat::Int(IntFormat { bits: 4, group, symmetric: false });
    let figure = |recipe: Recipe, perplexity, kl, top1| Figure { recipe, perplexity, kl, top1 };
    let magnitude = |fraction| Some(Sparsity::magnitude(fraction));
    vec![
        figure(Recipe::reference(), 3.35707, 0.0, 1.0),
        figure(Recipe::uniform("bf16", WeightFormat::Bf16, None), 3.35727, 0.00003, 0.99751),
        figure(Recipe::uniform("rtn4 row", int4(Group::Row), None), 4.01165, 0.18171, 0.81040),
        figure(Recipe::uniform("rtn4 g32", int4(Group::Size(32)), None), 3.63009, 0.08021, 0.87212),
        figure(Recipe::uniform("q8_0", WeightFormat::Q8_0, None), 3.35799, 0.00034, 0.99079),
        figure(Recipe::uniform("q4_0", WeightFormat::Q4_0, None), 3.68087, 0.09383, 0.86131),
        figure(Recipe::uniform("30 %", WeightFormat::Native, magnitude(0.3)), 4.19425, 0.22519, 0.78932),
        figure(Recipe::uniform("50 %", WeightFormat::Native, magnitude(0.5)), 11.89929, 1.28156, 0.51096),
    ]
}

/// Dense within 0.02 % in perplexity; the others within 0.3 %, and 2 % (or 5e-6) in KL; top-1 within half a point.
fn check(figure: &Figure, quality: &Quality) {
    let name = &figure.recipe.name;
    let found = quality.perplexity.value / figure.perplexity - 1.0;
    let allowed = if figure.recipe.is_reference() { 0.0002 } else { 0.003 };
    assert!(found.abs() < allowed, "{name}: perplexity {} for {}", quality.perplexity.value, figure.perplexity);
    let kl = quality.kl_mean.value;
    assert!((kl - figure.kl).abs() < (figure.kl * 0.02).max(5e-6), "{name}: KL {kl} for {}", figure.kl);
    let top1 = quality.top1_agreement.value;
    assert!((top1 - figure.top1).abs() < 0.005, "{name}: top-1 {top1} for {}", figure.top1);
}

#[test]
fn the_outside_figures_are_met_on_the_full_report_split() {
    let checkpoint = trimtab::checkpoint::open(&demo_model()).unwrap();
    let texts = eval::read_texts(&asset("assets/demo/report.jsonl")).unwrap();
    let windows = eval::cut(&texts, &checkpoint.tokenizer().unwrap(), Some(1), 256, None).unwrap();
    let device = DeviceSpec::Cpu { threads: 2 };
    let info = DeviceInfo::named(device, "");
    let mut store = ModelStore::load(checkpoint, device, &|_, _| true).unwrap();
    let figures = figures();
    let variants: Vec<_> = figures
        .iter()
        .map(|figure| {
            // The figures have float activations, which the deployed GGML products have not.
            let plan = figure.recipe.resolve(store.checkpoint().graph(), &info).unwrap();
            let variant = store.build(&plan, None, &()).unwrap();
            store.dequantized(&variant, &plan).unwrap()
        })
        .collect();
    let reference = store.reference();
    let variants: [&Llama; 8] = std::array::from_fn(|index| &*variants[index]);
    let scored: Vec<[ScoredWindow; 8]> = windows
        .tokens
        .par_iter()
        .map(|tokens| {
            let states = eval::reference_states(reference, tokens).unwrap();
            eval::score_variants(reference, &states, variants, tokens).unwrap()
        })
        .collect();
    for (index, figure) in figures.iter().enumerate() {
        let mut quality = QualityAccumulator::new("gptq-256", "report");
        for window in &scored {
            quality.push(window[index].score, &window[index].kl, 255).unwrap();
        }
        let quality = quality.finish().unwrap();
        assert_eq!((quality.windows.len(), quality.tokens), (348, 348 * 255));
        check(figure, &quality);
    }
}

#[test]
fn the_deployed_product_is_scored_beside_the_weights_alone() {
    let mut executor = TrialExecutor::new(demo_model(), 2);
    let recipe = Recipe::uniform("q8_0", WeightFormat::Q8_0, None);
    let measured = run(&mut executor, &trial(0, recipe, Some(4), true));
    let kl = |quality: Option<Quality>| quality.unwrap().kl_mean.value;
    let (deployed, weights_alone) = (kl(measured.quality), kl(measured.dequantized_quality));
    assert!(weights_alone > 0.0 && weights_alone < deployed, "{weights_alone} {deployed}");
    assert!(run(&mut executor, &trial(1, Recipe::reference(), Some(4), true)).dequantized_quality.is_none());
}

#[test]
fn a_trial_recompresses_only_layers_whose_settings_changed() {
    let mut executor = TrialExecutor::new(demo_model(), 2);
    let compressed = |executor: &mut TrialExecutor, id, recipe: &Recipe| {
        run(executor, &trial(id, recipe.clone(), Some(2), false)).compressed_layers
    };
    let q8 = Recipe::uniform("q8_0", WeightFormat::Q8_0, None);
    assert_eq!(compressed(&mut executor, 0, &Recipe::reference()), 0);
    assert_eq!(compressed(&mut executor, 1, &q8), 42);
    assert_eq!(compressed(&mut executor, 2, &q8), 0);
    let text = format!("{}\n[[rule]]\ntarget = {{ blocks = [2, 2] }}\nweights = \"q4_0\"\n", q8.to_toml());
    assert_eq!(compressed(&mut executor, 3, &Recipe::from_toml(&text).unwrap()), 7);
}

#[test]
fn the_same_trial_twice_gives_the_same_numbers() {
    let mut executor = TrialExecutor::new(demo_model(), 2);
    let spec = trial(0, Recipe::uniform("q4_0", WeightFormat::Q4_0, None), Some(3), false);
    let first = run(&mut executor, &spec).quality;
    assert_eq!(first, run(&mut executor, &spec).quality);
    assert_eq!(first, run(&mut TrialExecutor::new(demo_model(), 2), &spec).quality);
}

#[test]
fn a_missing_text_ends_the_trial_with_its_path() {
    let mut executor = TrialExecutor::new(demo_model(), 2);
    let mut spec = trial(0, Recipe::reference(), Some(2), false);
    spec.workload.quality.as_mut().unwrap().data = asset("no/such/file.jsonl");
    let (sink, _events) = Sink::new(spec.id, 16);
    let failure = executor.run(&spec, &sink).unwrap_err();
    assert!(failure.message.contains("no/such/file.jsonl"), "{}", failure.message);
}

/// A recipe that calibrates the attention of the first block on the first 8 windows of 64 tokens.
fn calibrated(data: &Path) -> Recipe {
    let data = data.display().to_string();
    let text = format!(
        "format_version = 1\n[[rule]]\ntarget = {{ glob = \"model.layers.0.self_attn.*\" }}\n\
         weights = {{ int = {{ bits = 4, group = \"row\" }} }}\nrounding = \"gptq\"\n\
         [calibration]\ndata = {data:?}\nwindows = 8\ncontext = 64\n"
    );
    Recipe::from_toml(&text).unwrap()
}

#[test]
fn a_calibrated_trial_tells_how_it_was_made_and_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = calibrated(&asset("assets/demo/calibration.jsonl"));
    let files = Some(dir.path().to_path_buf());
    let mut executor = TrialExecutor::new(demo_model(), 2).with_files(files.clone());
    let mut spec = trial(1, recipe, Some(2), false);
    let first = run(&mut executor, &spec);
    let report = first.compression.unwrap();
    let text = report.calibration.clone().unwrap();
    assert_eq!((text.text.as_str(), text.windows, text.context, text.tokens()), ("calibration", 8, 64, 512));
    assert_eq!((text.read_blocks, text.cached_blocks, text.thin_layers.len()), (1, 0, 0));
    assert_eq!((report.layers.len(), report.n_from_database()), (4, 0));
    assert!(report.layers.iter().all(|layer| layer.output_error.is_some_and(|error| error > 0.0 && error < 0.1)));
    let again = run(&mut TrialExecutor::new(demo_model(), 2).with_files(files), &spec);
    assert_eq!(again.quality, first.quality);
    let report = again.compression.unwrap();
    assert_eq!((report.n_from_database(), report.calibration.unwrap().read_blocks), (4, 0));

    let out = dir.path().join("variant");
    let (sink, _events) = Sink::new(spec.id, 1 << 12);
    let (made, _) = executor.make(&spec, &out, &sink).unwrap();
    assert_eq!(made.memory.weight_bytes, first.memory.weight_bytes);
    assert!(trimtab::cache::VariantFile::open(&out).unwrap().layers().len() == 43);

    let short = dir.path().join("short.jsonl");
    std::fs::write(&short, "{\"text\": \"Once upon a time\"}\n").unwrap();
    spec.recipe = calibrated(&short);
    let failure = executor.run(&spec, &sink).unwrap_err();
    assert!(failure.message.contains("calibration") && failure.message.contains("64"), "{}", failure.message);
}

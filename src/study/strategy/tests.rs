use std::path::PathBuf;

use super::*;
use crate::device::DeviceSpec;
use crate::model::fixtures::tiny_graph;
use crate::model::{LayerRole, ModelSource};
use crate::recipe::{PartialSettings, Recipe, Sparsity, Target, WeightFormat};
use crate::study::strategy::plan::MAX_PLANNED;
use crate::study::{
    Axis, Budget, Conditions, Estimate, Failure, FailureKind, Limits, Measurements, Memory, Outcome, Quality,
    StrategySpec, StudyEvent, TrialId, Workload,
};

fn study_spec(strategy: StrategySpec, limits: Limits) -> StudySpec {
    StudySpec {
        name: "test".to_owned(),
        model: ModelSource::Gguf { file: PathBuf::from("model.gguf") },
        device: DeviceSpec::Cpu { threads: 2 },
        also_on: Vec::new(),
        workload: Workload::default(),
        strategy,
        limits,
        budget: Budget::default(),
        seed: 5,
    }
}

fn weights(weights: WeightFormat) -> PartialSettings {
    PartialSettings { weights: Some(weights), ..PartialSettings::default() }
}

fn sparse(fraction: f64) -> PartialSettings {
    PartialSettings { sparsity: Some(Sparsity::magnitude(fraction)), ..PartialSettings::default() }
}

fn down_proj(settings: Vec<PartialSettings>) -> Axis {
    Axis { target: Some(Target::Role(LayerRole::DownProj)), settings }
}

fn everywhere(settings: Vec<PartialSettings>) -> Axis {
    Axis { target: None, settings }
}

fn list(n: usize) -> StrategySpec {
    let formats = [WeightFormat::Q8_0, WeightFormat::Q6k, WeightFormat::Q4_0, WeightFormat::Q2k];
    StrategySpec::List { recipes: (0..n).map(|at| Recipe::uniform("r", formats[at], None)).collect() }
}

fn ladder() -> StrategySpec {
    let rungs = vec![everywhere([0.1, 0.2, 0.3, 0.4].map(sparse).to_vec())];
    StrategySpec::Progressive { base: Recipe::reference(), rungs }
}

fn grid() -> StrategySpec {
    let axes = vec![
        down_proj(vec![weights(WeightFormat::Q8_0), weights(WeightFormat::Q4_0)]),
        everywhere(vec![sparse(0.0), sparse(0.3), sparse(0.125)]),
    ];
    StrategySpec::Grid { base: Recipe::reference(), axes }
}

fn done(kl_upper: f64) -> Outcome {
    let estimate = |value: f64, upper: f64| Estimate { value, ci95: [0.0, upper], n: 4 };
    let quality = Quality {
        protocol: "gptq-4".to_owned(),
        split: "text".to_owned(),
        tokens: 12,
        perplexity: estimate(3.0, 3.1),
        reference_perplexity: 3.0,
        log_perplexity_difference: estimate(0.0, kl_upper),
        kl_mean: estimate(kl_upper / 2.0, kl_upper),
        kl_median: 0.0,
        kl_p99: 0.0,
        kl_max: 0.0,
        top1_agreement: estimate(1.0, 1.0),
        windows: vec![],
    };
    Outcome::Done(Box::new(Measurements {
        quality: Some(quality),
        dequantized_quality: None,
        speed: None,
        memory: Memory {
            weight_bytes: 1,
            held_bytes: 1,
            peak_rss_bytes: None,
            peak_gpu_bytes: None,
            predicted_peak_bytes: None,
        },
        energy: None,
        bits_per_weight: 4.5,
        simulated_layers: 0,
        products: std::collections::BTreeMap::new(),
        compressed_layers: 0,
        compress_secs: 0.0,
        compression: None,
        sample_text: None,
        conditions: Conditions::default(),
    }))
}

fn failed(kind: FailureKind) -> Outcome {
    Outcome::Failed(Failure::new(kind, "why"))
}

fn start(study: &mut Study, spec: &TrialSpec) {
    study.apply(&StudyEvent::TrialStarted { spec: Box::new(spec.clone()) });
}

fn finish(study: &mut Study, trial: TrialId, outcome: Outcome) {
    let (cautions, memory_curve) = (vec![], vec![]);
    study.apply(&StudyEvent::TrialFinished { trial, outcome, cautions, elapsed_secs: 1.0, memory_curve });
}

/// Runs a study from where it stands; returns the numbers and names of the trials asked for.
fn run(spec: &StudySpec, study: &mut Study, outcome: impl Fn(&TrialSpec) -> Outcome) -> Vec<(u32, String)> {
    let mut strategy = strategy(spec);
    let mut asked = Vec::new();
    while let Some(wanted) = strategy.ask(study) {
        assert_eq!(strategy.ask(study).as_ref(), Some(&wanted), "the same study is answered the same");
        assert!(asked.len() < 50, "it never ends");
        asked.push((wanted.id.0, wanted.recipe.name.clone()));
        start(study, &wanted);
        finish(study, wanted.id, outcome(&wanted));
    }
    asked
}

fn ids(asked: &[(u32, String)]) -> Vec<u32> {
    asked.iter().map(|(id, _)| *id).collect()
}

#[test]
fn plans_are_in_order_and_have_names_for_people() {
    let check = |strategy: StrategySpec, expected: &[&str]| {
        let recipes = planned_recipes(&study_spec(strategy, Limits::default()));
        assert_eq!(recipes.iter().map(|recipe| recipe.name.as_str()).collect::<Vec<_>>(), expected);
    };
    check(list(2), &["r", "r"]);
    check(
        grid(),
        &[
            "q8_0 down_proj, dense",
            "q8_0 down_proj, 30 % sparse",
            "q8_0 down_proj, 12.5 % sparse",
            "q4_0 down_proj, dense",
            "q4_0 down_proj, 30 % sparse",
            "q4_0 down_proj, 12.5 % sparse",
        ],
    );
    check(ladder(), &["10 % sparse", "20 % sparse", "30 % sparse", "40 % sparse"]);
    let blocks = Axis { target: Some(Target::Blocks([0, 3])), settings: vec![weights(WeightFormat::Q6k)] };
    let base = Recipe::uniform("careful", WeightFormat::Q8_0, None);
    let rungs = vec![down_proj(vec![weights(WeightFormat::Q4_0), sparse(0.5)]), blocks];
    check(
        StrategySpec::Progressive { base: base.clone(), rungs },
        &[
            "careful, q4_0 down_proj",
            "careful, q4_0 and 50 % sparse down_proj",
            "careful, q4_0 and 50 % sparse down_proj, q6k blocks 0 to 3",
        ],
    );
    check(StrategySpec::Grid { base: base.clone(), axes: vec![] }, &["careful"]);
    check(StrategySpec::Grid { base, axes: vec![everywhere(vec![])] }, &[]);
}

#[test]
fn what_changes_nothing_or_repeats_is_left_out() {
    let twice = Recipe::uniform("again", WeightFormat::Q8_0, None);
    let recipes = vec![Recipe::reference(), twice.clone(), Recipe { name: "other name".to_owned(), ..twice }];
    assert_eq!(planned_recipes(&study_spec(StrategySpec::List { recipes }, Limits::default())).len(), 1);
    let axes = vec![everywhere(vec![sparse(0.0), sparse(0.2)])];
    let grid = StrategySpec::Grid { base: Recipe::reference(), axes };
    assert_eq!(planned_recipes(&study_spec(grid, Limits::default())).len(), 1);
    let wide = (0..8).map(|_| everywhere((1..95).map(|at| sparse(f64::from(at) / 100.0)).collect())).collect();
    let huge = StrategySpec::Grid { base: Recipe::reference(), axes: wide };
    assert!(planned_recipes(&study_spec(huge, Limits::default())).len() <= MAX_PLANNED);
}

#[test]
fn rungs_stand_on_the_rungs_before_them() {
    let graph = tiny_graph();
    let rungs = vec![everywhere(vec![sparse(0.2)]), down_proj(vec![weights(WeightFormat::Q4_0), sparse(0.4)])];
    let spec = study_spec(StrategySpec::Progressive { base: Recipe::reference(), rungs }, Limits::default());
    let last = planned_recipes(&spec).pop().unwrap();
    for (layer, settings) in graph.layers.iter().zip(last.settings(&graph)) {
        let expected = match (layer.block, layer.role) {
            (None, _) => "native",
            (_, LayerRole::DownProj) => "q4_0, 40.0 % sparse",
            _ => "native, 20.0 % sparse",
        };
        assert_eq!(settings.label(), expected, "{}", layer.path);
    }
}

#[test]
fn the_reference_is_first_and_everything_is_asked_once() {
    let check = |strategy: StrategySpec, n: u32| {
        let spec = study_spec(strategy, Limits::default());
        let mut study = Study::default();
        let asked = run(&spec, &mut study, |_| done(0.0));
        assert_eq!(ids(&asked), (0..=n).collect::<Vec<_>>());
        assert_eq!(asked[0].1, "reference");
        assert!(study.trials.values().all(|trial| trial.spec.seed == 5 && trial.spec.device == spec.device));
        assert_eq!(run(&spec, &mut study, |_| done(0.0)), [], "nothing is repeated on resume");
    };
    check(list(3), 3);
    check(grid(), 6);
    check(ladder(), 4);
    check(StrategySpec::List { recipes: vec![] }, 0);
}

#[test]
fn a_study_stopped_anywhere_goes_on_where_it_stopped() {
    for strategy_spec in [list(4), grid(), ladder()] {
        let spec = study_spec(strategy_spec, Limits { max_kl: Some(0.25), max_perplexity_ratio: None });
        let outcome = |trial: &TrialSpec| done(f64::from(trial.id.0) * 0.1);
        let mut whole = Study::default();
        let n = run(&spec, &mut whole, outcome).len();
        for stop in 0..n {
            // The trial number `stop` was running when the program was killed.
            let mut study = Study::default();
            let mut first = strategy(&spec);
            for _ in 0..stop {
                let wanted = first.ask(&study).unwrap();
                start(&mut study, &wanted);
                finish(&mut study, wanted.id, outcome(&wanted));
            }
            let wanted = first.ask(&study).unwrap();
            start(&mut study, &wanted);
            let asked = run(&spec, &mut study, outcome);
            assert_eq!(asked.len(), n - stop);
            assert_eq!(study.trials, whole.trials);
        }
    }
}

#[test]
fn a_ladder_stops_at_the_first_rung_that_may_lose_too_much() {
    let check = |limits: Limits, kl_upper: f64, expected: &[u32]| {
        let spec = study_spec(ladder(), limits);
        let mut study = Study::default();
        let outcome = |trial: &TrialSpec| done(kl_upper * f64::from(trial.id.0));
        assert_eq!(ids(&run(&spec, &mut study, outcome)), expected, "{limits:?}");
        assert_eq!(run(&spec, &mut study, outcome), []);
    };
    let kl = |max_kl: f64| Limits { max_kl: Some(max_kl), max_perplexity_ratio: None };
    let perplexity = |ratio: f64| Limits { max_kl: None, max_perplexity_ratio: Some(ratio) };
    check(Limits::default(), 9.0, &[0, 1, 2, 3, 4]);
    // The mean of rung 2 is half of its upper bound: it keeps the limit, the bound does not.
    check(kl(0.15), 0.1, &[0, 1, 2]);
    check(kl(0.05), 0.1, &[0, 1]);
    check(kl(9.0), 0.1, &[0, 1, 2, 3, 4]);
    check(perplexity(1.25), 0.1, &[0, 1, 2, 3]);
    // A limit ends a ladder, not a list.
    let spec = study_spec(list(3), kl(0.0));
    assert_eq!(run(&spec, &mut Study::default(), |_| done(1.0)).len(), 4);
}

#[test]
fn failures_are_results_and_some_are_tried_again_by_the_next_run() {
    use FailureKind::{
        Cancelled, Data, Device, Exited, Interrupted, Killed, Model, NonFinite, OutOfMemory, Panicked, Protocol, Spawn,
        TimedOut,
    };
    let check = |strategy: StrategySpec, failing: u32, kind: FailureKind, first: &[u32], second: &[u32]| {
        let spec = study_spec(strategy, Limits::default());
        let mut study = Study::default();
        let outcome = |trial: &TrialSpec| if trial.id.0 == failing { failed(kind) } else { done(0.0) };
        assert_eq!(ids(&run(&spec, &mut study, outcome)), first, "{kind:?}");
        assert_eq!(ids(&run(&spec, &mut study, |_| done(0.0))), second, "{kind:?} resumed");
        assert_eq!(run(&spec, &mut study, |_| done(0.0)), []);
    };
    for kind in [FailureKind::Recipe, NonFinite, Data, Model] {
        check(list(3), 2, kind, &[0, 1, 2, 3], &[]);
        check(ladder(), 2, kind, &[0, 1, 2], &[]);
    }
    for kind in [Cancelled, Interrupted, Spawn, OutOfMemory, Device, Killed, Exited, TimedOut, Panicked, Protocol] {
        check(list(3), 2, kind, &[0, 1, 2, 3], &[2]);
        check(ladder(), 2, kind, &[0, 1, 2], &[2, 3, 4]);
        check(list(3), 0, kind, &[0], &[0, 1, 2, 3]);
    }
    check(list(3), 0, Model, &[0], &[]);
    // A trial that fails again is tried again by the run after it, once each.
    let spec = study_spec(list(1), Limits::default());
    let mut study = Study::default();
    let outcome = |trial: &TrialSpec| if trial.id.0 == 1 { failed(Killed) } else { done(0.0) };
    for expected in [&[0, 1][..], &[1], &[1]] {
        assert_eq!(ids(&run(&spec, &mut study, outcome)), expected);
    }
}

#[test]
fn missed_limits_are_told_in_words() {
    let Outcome::Done(measurements) = done(0.2) else { unreachable!() };
    let quality = measurements.quality.unwrap();
    let limits = Limits { max_kl: Some(0.15), max_perplexity_ratio: Some(1.1) };
    assert_eq!(limits.exceeded_by(&quality).unwrap(), "mean KL may be as high as 0.2000, over the limit of 0.1500");
    let limits = Limits { max_kl: Some(0.2), max_perplexity_ratio: Some(1.1) };
    assert!(
        limits.exceeded_by(&quality).unwrap().starts_with("perplexity over the reference's may be as high as 1.221")
    );
    assert_eq!(Limits::default().exceeded_by(&quality), None);
    let mut one_window = quality;
    one_window.kl_mean = Estimate { value: 0.0, ci95: [0.0, 0.0], n: 1 };
    assert!(limits.exceeded_by(&one_window).unwrap().contains("not enough windows"));
    assert_eq!(Limits::default().exceeded_by(&one_window), None);
}

//! Variants that are calibrated on the emulated card, beside those of the processor.

use std::path::Path;
use std::sync::atomic::AtomicU32;

use super::tests::{GPTQ, Until, difference, logits, open, plan, store, text as long_text};
use super::*;
use crate::nn::toy::Toy;
use crate::runtime::calibrate::{Input, Walk};

fn card() -> Place {
    Place::emulated()
}

/// 256 tokens: more than any input has features.
fn text() -> CalibrationText {
    CalibrationText::new("text".to_owned(), long_text().first(8).to_vec(), 16, 8)
}

fn build(store: &mut ModelStore, recipe: &str) -> Variant {
    build_on(store, recipe, &text())
}

fn build_on(store: &mut ModelStore, recipe: &str, text: &CalibrationText) -> Variant {
    let plan = plan(store, recipe);
    store.build(&plan, Some(text), &()).unwrap()
}

fn in_folder(store: ModelStore, dir: &Path) -> ModelStore {
    store.with_files(Some(Store::open(dir, 1 << 30).unwrap()))
}

/// The largest difference of the layers' errors, of which the card's are made from its own inputs.
fn error_difference(a: &Variant, b: &Variant) -> f64 {
    let errors = |variant: &Variant| -> Vec<f64> {
        variant.layers.iter().map(|layer| layer.output_error.unwrap_or_else(|| panic!("{layer:?}"))).collect()
    };
    errors(a).iter().zip(errors(b)).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f64::max)
}

/// `bound` is relative, of the layers' errors; the model of the variant is given with that of the processor.
fn check(recipe: &str, text: &CalibrationText, bound: f64) -> [Arc<Llama>; 2] {
    let toy = Toy::new(|config| (config.attention_bias, config.mlp_bias) = (true, true));
    let (mut host, mut on_card) = (open(&toy), open(&toy).moved_to(card()));
    let [expected, found] = [&mut host, &mut on_card].map(|store| build_on(store, recipe, text));
    assert!(on_card.reference().layers().all(|layer| !layer.is_made()), "{recipe}: only the card multiplies");
    let error = error_difference(&found, &expected);
    assert!(error <= bound, "{recipe}: {error}");
    let calibrated = found.calibrated.unwrap();
    assert_eq!((calibrated.read_blocks, calibrated.cached_blocks), (2, 0), "{recipe}");
    assert!(on_card.place().peak_bytes().is_some_and(|bytes| bytes > 0));
    [found.model, expected.model]
}

const DENSE: &str = "\n[calibration]\npolicy = \"dense\"";

#[test]
fn a_variant_calibrated_on_a_card_is_the_processor_s_but_for_rounding() {
    let wanda = "[default]\nsparsity = { method = \"wanda\", fraction = 0.5 }";
    for policy in ["", DENSE] {
        let [found, expected] = check(&format!("{wanda}{policy}"), &text(), 1e-3);
        assert!(difference(&logits(&found), &logits(&expected)) <= 1e-3, "{policy}");
    }
}

#[test]
fn a_search_and_a_feedback_over_a_card_s_sums_err_as_over_the_processor_s() {
    // What is rounded to the next grid point or searched may be decided otherwise here and there.
    check("[default]\nweights = { int = { bits = 4, group = 32 } }\nrounding = \"awq\"", &long_text(), 2e-2);
    check(&format!("{GPTQ}{DENSE}"), &long_text(), 5e-2);
}

#[test]
fn every_kind_of_calibration_runs_on_a_card() {
    for recipe in [
        "[structure.ffn]\nfraction = 0.3",
        "[structure.heads]\nfraction = 0.5\nscore = \"activation_norm\"",
        "[[sharing]]\nrole = \"up_proj\"\nblocks = [0, 1]\nmethod = \"basis\"\nratio = 0.9",
        "[default]\nsparsity = { method = \"wanda\", fraction = 0.5, allocation = \"owl\" }",
        "[default]\nlow_rank = { ratio = 0.5 }",
    ] {
        let (mut host, mut on_card) = (store(), store().moved_to(card()));
        let [expected, found] = [&mut host, &mut on_card].map(|store| logits(&build(store, recipe).model));
        let worst = difference(&found, &expected);
        assert!(worst <= 5e-3, "{recipe}: {worst}");
    }
}

#[test]
fn sums_of_a_card_and_of_the_processor_are_kept_apart() {
    let dir = tempfile::tempdir().unwrap();
    let made = |place: Option<Place>| {
        let store = in_folder(store(), dir.path());
        let mut store = if let Some(place) = place { store.moved_to(place) } else { store };
        let variant = build(&mut store, GPTQ);
        (variant.compressed_layers(), variant.calibrated.unwrap().read_blocks, logits(&variant.model))
    };
    let (first, on_card) = (made(None), made(Some(card())));
    assert_eq!((first.0, first.1, on_card.0, on_card.1), (14, 2, 14, 2));
    assert_eq!(made(Some(card())), (0, 0, on_card.2));
    assert_eq!(made(None), (0, 0, first.2));
}

#[test]
fn a_walk_on_a_card_ends_where_it_is_cancelled_and_gives_its_memory_back() {
    let plan = plan(&store(), GPTQ);
    let whole = Until(AtomicU32::new(0), u32::MAX);
    store().moved_to(card()).build(&plan, Some(&text()), &whole).unwrap();
    let steps = whole.0.into_inner();
    for step in [0, 1, steps / 2, steps - 1] {
        let mut store = store().moved_to(card());
        let refused = store.build(&plan, Some(&text()), &Until(AtomicU32::new(0), step)).unwrap_err();
        assert!(matches!(refused, RuntimeError::Cancelled), "{refused}");
        // What is counted from now on is what is there.
        store.place().forget_peak();
        assert_eq!(store.place().peak_bytes(), Some(0));
    }
}

#[test]
fn inputs_that_are_no_numbers_are_named() {
    let mut toy = Toy::new(|_| {});
    toy.weights.get_mut("model.layers.1.self_attn.v_proj.weight").unwrap()[3] = f32::NAN;
    let (model, text) = (toy.model(), text());
    for place in [Place::open(DeviceSpec::Cpu { threads: 1 }).unwrap(), card()] {
        let mut walk = Walk::new(&text, &place);
        walk.observe(&model, &[Input::Attention, Input::Channels], true, &()).unwrap();
        walk.observe(&model, &[Input::Attention], false, &()).unwrap();
        let refused = walk.observe(&model, &[Input::Attention, Input::Heads], false, &()).unwrap_err();
        let RuntimeError::NonFinite { what } = refused else { panic!("{refused}") };
        assert_eq!(what, "a calibrated input of model.layers.1.self_attn.o_proj");
    }
}

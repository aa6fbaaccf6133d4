use super::*;
use crate::device::DeviceInfo;
use crate::model::fixtures::tiny_graph;
use crate::recipe::{Recipe, WeightFormat};
use crate::study::{Protocol, QualityWorkload, SpeedWorkload};

fn plan(recipe: &Recipe) -> Plan {
    recipe.resolve(&tiny_graph(), &DeviceInfo::named(DeviceSpec::Cpu { threads: 2 }, "test")).unwrap()
}

fn estimate(recipe: &Recipe, workload: &Workload) -> MemoryEstimate {
    MemoryEstimate::new(&plan(recipe), &tiny_graph(), workload, None)
}

fn speed() -> Workload {
    let speed = SpeedWorkload { prompt: 32, decode: 8, repetitions: 2 };
    Workload { speed: Some(speed), ..Workload::default() }
}

fn quality(windows: Option<u32>) -> Workload {
    let (protocol, dequantized) = (Protocol::Gptq, false);
    let quality = QualityWorkload { data: "text.jsonl".into(), protocol, context: 48, windows, dequantized };
    Workload { quality: Some(quality), ..Workload::default() }
}

#[test]
fn the_reference_holds_itself_and_one_cache() {
    let found = estimate(&Recipe::reference(), &speed());
    assert_eq!(found.reference_bytes, tiny_graph().stored_bytes());
    assert_eq!((found.variant_bytes, found.making_bytes, found.tokenizer_bytes), (0, 0, 0));
    // 40 tokens, 2 blocks, keys and values of 2 heads of 16 in f32.
    assert_eq!(found.kv_cache_bytes, 40 * 2 * 2 * 32 * 4);
    // 32 tokens: 3 of 64, queries and mixed heads of 64, keys and values of 32, 3 of 192, and 320 rounded inputs.
    assert_eq!(found.workspace_bytes, 32 * (4 * (3 * 64 + 2 * 64 + 2 * 32 + 3 * 192) + 320 * 9 / 8));
    let sum = found.base_bytes + found.reference_bytes + found.kv_cache_bytes + found.workspace_bytes;
    assert_eq!(found.running_bytes(), sum);
    assert_eq!(found.peak_bytes(), sum);
}

#[test]
fn a_variant_holds_what_it_does_not_share_as_it_is_packed() {
    let recipe = Recipe::uniform("x", WeightFormat::Q8_0, None);
    let found = estimate(&recipe, &speed());
    let layers = plan(&recipe).layers;
    assert_eq!(found.variant_bytes, layers.iter().skip(1).map(|layer| layer.packed_bytes).sum::<u64>());
    assert_eq!(found.kv_cache_bytes, 2 * 40 * 2 * 2 * 32 * 4, "each model has a cache");
    // Two threads have the largest layers, 192 by 64, in f32 and once more.
    assert_eq!(found.making_bytes, 2 * 2 * 192 * 64 * 4);
    assert_eq!(found.kept_bytes, found.making_bytes, "they are small");
    assert_eq!(found.reference_bytes, tiny_graph().stored_bytes());
}

#[test]
fn a_cache_of_another_format_is_as_large_as_its_blocks() {
    let mut recipe = Recipe::reference();
    recipe.kv_cache = KvCacheSettings { keys: KvFormat::Q8_0, values: KvFormat::F16 };
    let f32_bytes = 40 * 2 * 2 * 32 * 4;
    let found = estimate(&recipe, &speed());
    assert_eq!(found.kv_cache_bytes, f32_bytes + 40 * 2 * (34 + 64));
}

#[test]
fn states_are_those_of_the_windows_and_bounded() {
    let states = |windows, text| {
        MemoryEstimate::new(&plan(&Recipe::reference()), &tiny_graph(), &quality(windows), text).states_bytes
    };
    assert_eq!(states(Some(3), None), 3 * 48 * 64 * 4);
    assert_eq!(states(None, Some(5 * 48 * 4)), 5 * 48 * 64 * 4, "a text of so many tokens");
    assert_eq!(states(Some(3), Some(1 << 30)), 3 * 48 * 64 * 4);
    assert_eq!(states(None, None), MemoryEstimate::MAX_STATES_BYTES);
    let found = estimate(&Recipe::reference(), &quality(Some(3)));
    assert_eq!(found.tokenizer_bytes, 128 * TOKENIZER_BYTES);
    assert_eq!(found.logits_bytes, 64 * 128 * 4, "the reference has one arm");
}

#[test]
fn calibration_counts_states_sums_and_factors() {
    let mut recipe = Recipe::from_toml(
        "format_version = 1\n[default]\nweights = { int = { bits = 4, group = 32, symmetric = true } }\n\
         rounding = { method = \"gptq\" }\n[calibration]\ndata = \"text.jsonl\"\nwindows = 5\n",
    )
    .unwrap();
    let found = estimate(&recipe, &speed());
    let states = 5 * 64 * 64 * 4;
    let widths = [64, 64, 64, 192];
    let sums: u64 = widths.iter().map(|width| 8 * width * width + 4 * 512 * width).sum();
    let in_work = 2 * 2 * 192 * 64 * 4 + 2 * 2 * 8 * 192 * 192;
    assert_eq!(found.making_bytes, states + sums + in_work);
    assert!(found.peak_bytes() > found.base_bytes + found.reference_bytes + found.making_bytes);
    // A method that does not factorize keeps no factors.
    let mut awq = recipe.clone();
    awq.default.rounding = Some(Rounding::all()[2]);
    assert_eq!(found.making_bytes - estimate(&awq, &speed()).making_bytes, 2 * 2 * 8 * 192 * 192);
    // More windows, more memory.
    recipe.calibration.windows = Some(50);
    assert_eq!(estimate(&recipe, &speed()).making_bytes - found.making_bytes, 45 * 64 * 64 * 4);
}

#[test]
fn large_allocations_go_back_and_small_ones_are_used_again() {
    let estimate = MemoryEstimate {
        base_bytes: 10,
        workspace_bytes: 3,
        kv_cache_bytes: 4,
        making_bytes: 100,
        kept_bytes: 5,
        ..MemoryEstimate::default()
    };
    assert_eq!((estimate.running_bytes(), estimate.peak_bytes()), (17, 110));
    let kept = MemoryEstimate { kept_bytes: 50, ..estimate };
    assert_eq!((kept.running_bytes(), kept.peak_bytes()), (60, 110));
}

#[test]
fn the_ratio_needs_both_peaks() {
    use crate::study::Memory;
    let memory =
        |peak_rss_bytes, predicted_peak_bytes| Memory { peak_rss_bytes, predicted_peak_bytes, ..Memory::default() };
    assert_eq!(memory(Some(80), Some(100)).prediction_ratio(), Some(1.25));
    assert_eq!(memory(None, Some(100)).prediction_ratio(), None);
    assert_eq!(memory(Some(80), None).prediction_ratio(), None);
    assert_eq!(memory(Some(0), Some(1)).prediction_ratio(), None);
}

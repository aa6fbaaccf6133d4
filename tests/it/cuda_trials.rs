//! Trials and commands on a card, from the window's side to the driver's: the driver is its twin, whose kernels run on the
//! processor.

use std::collections::BTreeMap;
use std::process::{Command, Output};

use serde_json::Value;
use trimtab::device::DeviceSpec;
use trimtab::recipe::Recipe;
use trimtab::study::journal::read_study;
use trimtab::study::{FailureKind, Measurements, Outcome, Quality, Study, TrialState};
use trimtab::worker::cuda::PROGRAM_VARIABLE;

use crate::cuda_twin::{CARD, PROCESSOR, Toy, WORKER, library, run, shipped, twin};

#[expect(clippy::disallowed_methods, reason = "the programs are what is tested")]
fn started(env: Vec<(String, String)>, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trimtab"));
    command.args(args).env(PROGRAM_VARIABLE, WORKER).envs(env).output().unwrap()
}

fn trimtab(script: &str, args: &[&str]) -> Output {
    started(twin(script), args)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn cards_are_listed_with_what_the_driver_says_of_them() {
    let listed = trimtab("cards=2;memory=3221225472", &["devices", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let cards: Vec<&Value> =
        listed["devices"].as_array().unwrap().iter().filter(|device| device["kind"] == "cuda").collect();
    assert_eq!(cards.len(), 2, "{listed}");
    for (number, card) in cards.into_iter().enumerate() {
        assert_eq!(card["name"], format!("emulated card {number} (processor)"));
        assert_eq!(card["memory_bytes"], 3_u64 << 30);
        assert_eq!(card["unavailable"], Value::Null);
        assert_eq!(card["gpu"]["compute_capability"], serde_json::json!([9, 0]));
        // The bytes of the twin's identity.
        let uuid = format!("GPU-7472696d-7461-6227-7320-7477696e000{number}");
        assert_eq!(card["gpu"]["uuid"], uuid);
    }
}

#[test]
fn a_driver_or_a_card_that_is_not_enough_is_said_in_a_line() {
    let cases = [
        ("driver=12040", "the NVIDIA driver speaks CUDA 12.4 and 13.0 is needed; install driver 580 or newer"),
        ("cards=0", "the NVIDIA driver finds no card"),
        ("fault=init:1:999", "the NVIDIA driver refused: unknown (error 999)"),
        ("capability=75", "has compute capability 7.5; 8.0 or later is needed"),
    ];
    for (script, reason) in cases {
        let listed = text(&trimtab(script, &["devices"]));
        let line = listed.lines().find(|line| line.starts_with("CUDA 0: ")).unwrap_or_default();
        assert!(line.contains("(not now: ") && line.contains(reason), "{script}: {listed}");
        let toy = Toy::new();
        let asked = trimtab(
            script,
            &["bench", toy.path().to_str().unwrap(), "--device", "cuda:0", "--prompt", "8", "--decode", "4"],
        );
        assert!(!asked.status.success() && text(&asked).contains(reason), "{script}: {}", text(&asked));
    }
    let toy = Toy::new();
    let asked =
        trimtab("", &["bench", toy.path().to_str().unwrap(), "--device", "cuda:1", "--prompt", "8", "--decode", "4"]);
    assert!(!asked.status.success() && text(&asked).contains("not a device of this machine"), "{}", text(&asked));
}

#[test]
fn a_variant_is_timed_on_a_card() {
    let toy = Toy::new();
    let path = toy.path().to_str().unwrap();
    let options = ["--device", "cuda:0", "--prompt", "8", "--decode", "4", "--repetitions", "2", "--json"];
    let output = trimtab("", &[&["bench", path, "--recipe", "q8_0"], &options[..]].concat());
    assert!(output.status.success(), "{}", text(&output));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(result.to_string().contains("trimtab q8_0 (cuda)"), "{result}");
    let limits = &result["decode_limits"];
    // In the middle of the decoded tokens ten are before: 8-bit codes with a scale for 32, f32 tables, keys and values.
    assert!(limits["bytes_per_token"].as_u64().unwrap() > 128 * 32 * 4, "{limits}");
    for rate in ["bytes_per_second", "launch_secs", "bandwidth_share", "launch_share"] {
        assert!(limits[rate].as_f64().unwrap() > 0.0, "{rate}: {limits}");
    }
    assert_eq!(limits["launches_per_token"], 2 * 12 + 4, "{limits}");
    assert_eq!(limits["memory"], "memory", "more bytes than the twin's cache has");
    let said = text(&trimtab("", &[&["bench", path, "--recipe", "q8_0"], &options[..8]].concat()));
    assert!(said.contains("bandwidth   decode reads ") && said.contains(" a token: "), "{said}");
    let several =
        text(&trimtab("", &[&["bench", path, "--recipe", "q8_0", "--recipe", "bf16"], &options[..8]].concat()));
    assert!(several.contains("of bandwidth"), "{several}");
}

#[test]
fn a_prompt_through_the_library_has_the_ceiling_of_tensor_cores() {
    let toy = Toy::new();
    let options = ["--recipe", "bf16", "--device", "cuda:0", "--prompt", "12", "--context", "5", "--repetitions", "2"];
    let env = twin("").into_iter().chain([library()]).collect();
    let output = started(env, &[&["profile", toy.path().to_str().unwrap(), "--json"], &options[..]].concat());
    assert!(output.status.success(), "{}", text(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for name in ["tensor_flops", "tensor_int8_ops"] {
        assert!(report["ceilings"][name].as_f64().unwrap() > 0.0, "{name}: {}", report["ceilings"]);
    }
    let of = |pass: usize, operation: &str| {
        let operations = report["passes"][pass]["operations"].as_array().unwrap();
        let found = operations.iter().find(|found| found["operation"] == operation && found["block"] == 0);
        found.unwrap_or_else(|| panic!("{operation}"))["arithmetic"].clone()
    };
    assert_eq!([of(0, "gate"), of(1, "gate"), of(0, "attention")], ["tensor_float", "float", "float"]);
}

#[test]
fn a_variant_s_passes_on_a_card_are_taken_apart() {
    let toy = Toy::new();
    let path = toy.path().to_str().unwrap();
    let options = ["--recipe", "q8_0", "--device", "cuda:0", "--prompt", "8", "--context", "5", "--repetitions", "2"];
    let asked = [&["profile", path], &options[..]].concat();
    let output = trimtab("", &[&asked[..], &["--json"]].concat());
    assert!(output.status.success(), "{}", text(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let ceilings = &report["ceilings"];
    assert_eq!(ceilings["card"]["name"], "emulated card 0 (processor)");
    assert_eq!(ceilings["instructions"], "sm_90");
    assert_eq!(ceilings["reads"].as_array().unwrap().len(), 2, "{ceilings}");
    for name in ["/float_flops", "/int8_ops", "/hand_over_secs", "/card/recorded_launch_secs"] {
        assert!(ceilings.pointer(name).and_then(Value::as_f64).unwrap() > 0.0, "{name}: {ceilings}");
    }
    let passes = report["passes"].as_array().unwrap();
    assert_eq!(passes.len(), 2);
    for pass in passes {
        let operations = pass["operations"].as_array().unwrap();
        // Twelve in each of two blocks, the embedding, the last norm and the head.
        assert_eq!(operations.len(), 2 * 12 + 3, "{pass}");
        let mut end = 0;
        for operation in operations {
            let span = [0, 1].map(|at| operation["span_nanos"][at].as_u64().unwrap());
            assert!(span[0] == end && span[1] >= end, "{operation}");
            end = span[1];
            if let Some(product) = operation["product"].as_str() {
                assert!(product.contains("(cuda"), "{product}");
            }
        }
        assert!(end > 0 && end <= pass["profiled_nanos"].as_u64().unwrap() * 2, "{pass}");
        let [plain, on_card] = ["plain_nanos", "card_nanos"].map(|name| pass[name].as_u64().unwrap());
        assert!(on_card > 0 && on_card <= plain, "{plain} {on_card}");
        assert!(pass["roofline"]["bottleneck"]["bound"].is_string(), "{pass}");
    }
    let said = text(&trimtab("", &asked));
    for words in ["ceilings of emulated card 0 (processor), 1 multiprocessors, sm_90", "on the card ", "recorded step"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn every_kind_of_format_has_the_processor_s_quality_on_a_card() {
    let toy = Toy::new();
    let smooth = shipped("w8a8-smooth").calibrated_on(&toy.path().join("text.jsonl"));
    let cases: [(Recipe, &str, f64); 7] = [
        (Recipe::reference(), "trimtab f32 (cuda)", 1e-4),
        (shipped("bf16"), "trimtab bf16 (cuda)", 1e-4),
        (shipped("fp8-row"), "trimtab fp8 (cuda)", 1e-4),
        (shipped("int4-g32"), "trimtab int4 (cuda)", 1e-4),
        // The processor rounds the activations of these.
        (shipped("q8_0"), "trimtab q8_0 (cuda)", 2e-2),
        (shipped("q4_0"), "trimtab q4_0 (cuda)", 2e-2),
        (smooth, "int8 dynamic, trimtab int8 × int8 (cuda)", 2e-2),
    ];
    let (mut card, mut processor) = (toy.handle(""), toy.on_processor());
    for (number, (recipe, product, bound)) in cases.into_iter().enumerate() {
        let number = number as u32;
        let found = run(&mut card, &toy.quality(number, &recipe, CARD));
        let found = measured(found.outcome);
        let expected = measured(run(&mut processor, &toy.quality(number, &recipe, PROCESSOR)).outcome);
        assert!(found.products.contains_key(product), "{product}: {:?}", found.products);
        assert!(found.products.keys().all(|product| product.ends_with("(cuda)")), "{:?}", found.products);
        assert!(found.memory.peak_gpu_bytes.is_some_and(|bytes| bytes > 0), "{product}");
        predicted(&found, product);
        let (found, expected) = (found.quality.unwrap(), expected.quality.unwrap());
        for (found, expected) in found.windows.iter().zip(&expected.windows) {
            let pairs =
                [(found.nll, expected.nll), (found.reference_nll, expected.reference_nll), (found.kl, expected.kl)];
            for (found, expected) in pairs {
                assert!((found - expected).abs() < bound * (1.0 + expected.abs()), "{product}: {found} {expected}");
            }
        }
        assert_eq!(found.windows.len(), 2);
    }
}

/// The card's linear algebra sums in another order: codes come out the same here, and factors to the last bits of f64.
#[test]
fn layers_that_a_card_compresses_have_the_processor_s_quality() {
    let toy = Toy::new();
    let plain = "format_version = 1\nname = \"plain\"\n[default]\nweights = \"native\"\n\
                 low_rank = { method = \"svd\", ratio = 0.7 }\n";
    let calibrated = |name: &str| shipped(name).calibrated_on(&toy.path().join("text.jsonl"));
    let recipes =
        [calibrated("gptq-4"), calibrated("sparsegpt-2-4"), calibrated("svd-90"), Recipe::from_toml(plain).unwrap()];
    let (mut card, mut processor) = (toy.handle(""), toy.on_processor());
    for (number, recipe) in recipes.into_iter().enumerate() {
        let [found, expected] = [(&mut card, CARD), (&mut processor, PROCESSOR)]
            .map(|(worker, device)| measured(run(worker, &toy.quality(number as u32, &recipe, device)).outcome));
        let [found_layers, expected_layers] =
            [&found, &expected].map(|measured| measured.compression.as_ref().unwrap().layers.clone());
        assert!(found_layers.len() >= 14 && found_layers.len() == expected_layers.len(), "{}", recipe.name);
        for (found, expected) in found_layers.iter().zip(&expected_layers) {
            // Both keep their layers in one store.
            let is_anew = !found.from_database && !expected.from_database;
            assert!(is_anew && found.packed_bytes == expected.packed_bytes, "{}: {found:?} {expected:?}", recipe.name);
            let errors = [found.output_error, expected.output_error].map(Option::unwrap_or_default);
            assert!((errors[0] - errors[1]).abs() <= 1e-5 * errors[1], "{}: {errors:?}", recipe.name);
        }
        for (found, expected) in found.quality.unwrap().windows.iter().zip(&expected.quality.unwrap().windows) {
            let distance = (found.nll - expected.nll).abs();
            assert!(distance < 1e-4 * (1.0 + expected.nll.abs()), "{}: {distance}", recipe.name);
        }
    }
}

#[test]
fn what_a_card_calibrates_has_the_processor_s_quality() {
    let toy = Toy::new();
    let text = toy.path().join("text.jsonl");
    let recipe = |name: &str, body: &str| {
        let calibration = "[calibration]\nwindows = 8\ncontext = 16";
        let recipe = format!("format_version = 1\nname = {name:?}\n[default]\n{body}\n{calibration}\n");
        Recipe::from_toml(&recipe).unwrap().calibrated_on(&text)
    };
    let int4 = "weights = { int = { bits = 4, group = 32 } }";
    let recipes = [
        recipe("gptq", &format!("{int4}\nrounding = \"gptq\"")),
        recipe("awq", &format!("{int4}\nrounding = \"awq\"")),
        recipe("wanda", "sparsity = { method = \"wanda\", fraction = 0.5 }"),
    ];
    let (mut card, mut processor) = (toy.handle(""), toy.on_processor());
    for (number, recipe) in recipes.iter().enumerate() {
        let number = number as u32;
        let found = measured(run(&mut card, &toy.quality(number, recipe, CARD)).outcome);
        let expected = measured(run(&mut processor, &toy.quality(number, recipe, PROCESSOR)).outcome);
        let calibration = |measured: &Measurements| {
            let report = measured.compression.as_ref().and_then(|report| report.calibration.clone());
            report.unwrap_or_else(|| panic!("{}", recipe.name)).read_blocks
        };
        // In the store that both share a device finds its own sums alone: those of the first block, which all recipes read.
        let read = if number == 0 { [2, 2] } else { [1, 1] };
        assert_eq!([calibration(&found), calibration(&expected)], read, "{}", recipe.name);
        predicted(&found, &recipe.name);
        let (found, expected) = (found.quality.unwrap(), expected.quality.unwrap());
        for (found, expected) in found.windows.iter().zip(&expected.windows) {
            for (found, expected) in [(found.nll, expected.nll), (found.kl, expected.kl)] {
                let distance = (found - expected).abs();
                assert!(distance < 1e-4 * (1.0 + expected.abs()), "{}: {found} {expected}", recipe.name);
            }
        }
    }
}

#[test]
fn windows_go_through_the_library_where_it_is_found() {
    let toy = Toy::new();
    // What activations are rounded to: not at all, to 8 bits of fraction, to 11.
    let cases = [
        (Recipe::reference(), "trimtab f32 (cuda, prompts by cuBLASLt f32)", 1e-4),
        (shipped("bf16"), "trimtab bf16 (cuda, prompts by cuBLASLt bf16)", 1e-2),
        (shipped("q8_0"), "trimtab q8_0 (cuda, prompts by cuBLASLt f16)", 2e-3),
    ];
    let (mut with, mut without) = (toy.handle_with_library(""), toy.handle(""));
    for (number, (recipe, product, bound)) in cases.into_iter().enumerate() {
        let spec = toy.quality(number as u32, &recipe, CARD);
        let [found, expected] = [&mut with, &mut without].map(|worker| measured(run(worker, &spec).outcome));
        assert!(found.products.contains_key(product), "{product}: {:?}", found.products);
        predicted(&found, product);
        let (found, expected) = (found.quality.unwrap(), expected.quality.unwrap());
        for (found, expected) in found.windows.iter().zip(&expected.windows) {
            let distance = (found.nll - expected.nll).abs();
            assert!(distance < bound * (1.0 + expected.nll.abs()), "{product}: {distance}");
        }
    }
}

#[test]
fn two_cards_share_a_study_with_the_numbers_of_one() {
    let toy = Toy::new();
    let [one, two] = ["device = \"cuda:0\"", "devices = [\"cuda:0\", \"cuda:1\"]"];
    let expected = study_on(&toy, "one", "cards=2", one);
    let found = study_on(&toy, "two", "cards=2", two);
    let quality = |study: &Study| -> BTreeMap<String, Quality> {
        let each = study.trials.values().map(|trial| {
            let quality = trial.measurements().and_then(|measured| measured.quality.clone());
            (trial.spec.recipe.name.clone(), quality.unwrap_or_else(|| panic!("{trial:?}")))
        });
        each.collect()
    };
    assert_eq!(quality(&found), quality(&expected));
    for ordinal in [0, 1] {
        let is_there = found.trials.values().any(|trial| trial.spec.device == DeviceSpec::Cuda { ordinal });
        assert!(is_there, "card {ordinal} ran no trial");
    }
}

/// Runs a study of four variants, and reads it back.
fn study(toy: &Toy, name: &str, script: &str) -> Study {
    study_on(toy, name, script, "device = \"cuda:0\"")
}

fn study_on(toy: &Toy, name: &str, script: &str, devices: &str) -> Study {
    let file = toy.path().join(name).with_extension("toml");
    let spec = format!(
        "format_version = 1\nname = \"formats\"\nmodel = \".\"\n{devices}\n[workload.quality]\n\
         data = \"text.jsonl\"\nprotocol = \"gptq\"\ncontext = 12\nwindows = 2\n[strategy]\nkind = \"list\"\n\
         recipes = [\"bf16\", \"q8_0\", \"fp8-row\", \"int4-g32\"]\n"
    );
    std::fs::write(&file, spec).unwrap();
    let journal = file.with_extension("study");
    let output = trimtab(script, &["sweep", file.to_str().unwrap(), "--out", journal.to_str().unwrap()]);
    let (study, damage) = read_study(&journal).unwrap();
    assert!(damage.is_empty() && study.trials.len() == 5, "{}", text(&output));
    study
}

#[test]
fn a_study_goes_on_behind_a_fault_with_the_same_numbers() {
    let toy = Toy::new();
    let armed = toy.path().join("armed");
    std::fs::write(&armed, "").unwrap();
    let expected = study(&toy, "quiet", "");
    let found = study(&toy, "disturbed", &format!("fault=launch:300:700;once={}", armed.display()));
    assert!(!armed.exists(), "the fault was met");
    let quality = |state: &TrialState| -> Result<Quality, (FailureKind, usize)> {
        match state {
            TrialState::Finished { outcome: Outcome::Done(measured), .. } => Ok(measured.quality.clone().unwrap()),
            TrialState::Finished { outcome: Outcome::Failed(failure), memory_curve, .. } => {
                Err((failure.kind, memory_curve.len()))
            }
            other => panic!("{other:?}"),
        }
    };
    let mut n_failed = 0;
    for (id, trial) in &found.trials {
        match quality(&trial.state) {
            Ok(found) => assert_eq!(found, quality(&expected.trials[id].state).unwrap(), "{id:?}"),
            Err((kind, samples)) => {
                assert!(kind == FailureKind::Device && samples > 0, "{kind:?} {samples}");
                n_failed += 1;
            }
        }
    }
    assert_eq!(n_failed, 1);
}

/// The memory of the card was known before within a tenth.
fn predicted(found: &Measurements, product: &str) {
    let ratio = found.memory.prediction_ratio().unwrap();
    assert!((0.9..1.1).contains(&ratio), "{product}: {ratio} {:?}", found.memory);
}

fn measured(outcome: Outcome) -> Measurements {
    match outcome {
        Outcome::Done(measurements) => *measurements,
        Outcome::Failed(failure) => panic!("{failure:?}"),
    }
}

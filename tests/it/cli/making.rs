//! What only a worker can make: calibrated variants and their exports.

use std::fs;

use serde_json::Value;

use crate::cli::{CALIBRATION, DATA, GPTQ4, MODEL, assert_code, assert_has, folder, json, run, text};

#[test]
fn export_writes_both_layouts() {
    let folder = folder();
    let cases = [("safetensors", "none", "copy"), ("safetensors", "bf16", "half"), ("gguf", "q8_0", "q8_0.gguf")];
    for (format, recipe, name) in cases {
        let args = ["export", MODEL, "--recipe", recipe, "--format", format, "--out", name];
        let output = run(folder.path(), &args);
        assert_code(&output, 0, &args);
        let model = json(folder.path(), &["inspect", name, "--json"], 0);
        assert_eq!(model["layers"].as_array().unwrap().len(), 43, "{name}");
    }
    let half = json(folder.path(), &["inspect", "half", "--json"], 0);
    assert_eq!(half["layers"][1]["dtype"], "bf16");
    let args = ["export", MODEL, "--recipe", "none", "--format", "safetensors", "--out", MODEL];
    let over = run(folder.path(), &args);
    assert_code(&over, 2, &args);
}

#[test]
fn a_calibrated_recipe_says_what_it_read() {
    let folder = folder();
    // The text lies beside the recipe, not where the program runs.
    fs::create_dir(folder.path().join("mine")).unwrap();
    fs::copy(folder.path().join(CALIBRATION), folder.path().join("mine/words.jsonl")).unwrap();
    let recipe = format!("{GPTQ4}[calibration]\ndata = \"words.jsonl\"\nwindows = 3\ncontext = 64\n");
    fs::write(folder.path().join("mine/gptq4.toml"), recipe).unwrap();
    let args =
        ["eval", MODEL, "--data", DATA, "--context", "64", "--windows", "2", "--recipe", "mine/gptq4.toml", "--json"];
    let own = json(folder.path(), &args, 0);
    let calibration = &own["compression"]["calibration"];
    assert_eq!((&calibration["text"], &calibration["windows"]), (&Value::from("words"), &Value::from(3)));
    assert_eq!((&calibration["context"], &calibration["policy"]), (&Value::from(64), &Value::from("sequential")));
    let layers = own["compression"]["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 42);
    for layer in layers {
        assert_has(layer, &["path", "output_error", "secs", "packed_bytes"]);
    }
    let flags = ["--calibration", CALIBRATION, "--calibration-windows", "2"];
    let flagged = json(folder.path(), &[&args[..], &flags].concat(), 0);
    let calibration = &flagged["compression"]["calibration"];
    assert_eq!((&calibration["text"], &calibration["windows"]), (&Value::from("calibration"), &Value::from(2)));

    let table = run(folder.path(), &[&args[..args.len() - 1], &["--layers"]].concat());
    assert_code(&table, 0, &args);
    let words = text(&table.stdout);
    assert!(words.contains("calibration words: 3 of") && words.contains("output error"), "{words}");
    assert!(words.contains("model.layers.5.mlp.down_proj"), "{words}");

    let cache = json(folder.path(), &["cache", "--json"], 0);
    assert!(cache["folder"].as_str().unwrap().starts_with(folder.path().to_str().unwrap()), "{cache}");
    assert!(cache["entries"].as_u64() > Some(0) && cache["bytes"].as_u64() > Some(0), "{cache}");
    let cleared = json(folder.path(), &["cache", "--clear", "--json"], 0);
    assert_eq!(cleared["freed_bytes"], cache["bytes"]);
    assert_eq!((&cleared["entries"], &cleared["bytes"]), (&Value::from(0), &Value::from(0)));
}

#[test]
fn a_variant_that_a_worker_makes_is_exported_whole() {
    let folder = folder();
    let cut =
        "format_version = 1\n[structure.blocks]\ndrop = [4]\n[default]\nlow_rank = { method = \"svd\", ratio = 0.5 }\n";
    fs::write(folder.path().join("cut.toml"), cut).unwrap();
    let args = ["export", MODEL, "--recipe", "cut.toml", "--format", "safetensors", "--out", "cut"];
    let output = run(folder.path(), &args);
    assert_code(&output, 0, &args);
    let words = text(&output.stderr);
    assert!(words.contains("\"trimtab\"") && words.contains("transformers does not load"), "{words}");
    let model = json(folder.path(), &["inspect", "cut", "--json"], 0);
    assert_eq!(model["blocks"], 5);
    assert_eq!(model["layers"].as_array().unwrap().len(), 36);
    let names: Vec<String> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(".trimtab"))
        .collect();
    assert!(names.is_empty(), "left behind: {names:?}");
    let scored =
        json(folder.path(), &["eval", "cut", "--data", DATA, "--context", "64", "--windows", "2", "--json"], 0);
    assert!(scored["perplexity"].as_f64().unwrap().is_finite());
}

#[test]
fn zeros_that_are_left_out_make_a_smaller_folder_with_the_same_numbers() {
    let folder = folder();
    let with = |storage: &str| {
        format!(
            "format_version = 1\n[default]\nweights = \"f16\"\nsparsity = {{ method = \"magnitude\", pattern = \"2:4\", \
             storage = \"{storage}\" }}\n"
        )
    };
    let mut scores = Vec::new();
    for storage in ["masked", "bitmask"] {
        let recipe = format!("{storage}.toml");
        fs::write(folder.path().join(&recipe), with(storage)).unwrap();
        let args = ["export", MODEL, "--recipe", &recipe, "--format", "safetensors", "--out", storage];
        let output = run(folder.path(), &args);
        assert_code(&output, 0, &args);
        assert_eq!(text(&output.stderr).contains("sparse layers"), storage == "bitmask");
        let workload = ["--data", DATA, "--context", "64", "--windows", "2", "--json"];
        let made = json(folder.path(), &[&["eval", MODEL, "--recipe", &recipe], &workload[..]].concat(), 0);
        assert_eq!(made["cautions"].to_string().contains("masked"), storage == "masked", "{made}");
        let scored = json(folder.path(), &[&["eval", storage], &workload[..]].concat(), 0);
        scores.push(scored["perplexity"].as_f64().unwrap());
    }
    let [masked, sparse] = ["masked", "bitmask"].map(|name| json(folder.path(), &["inspect", name, "--json"], 0));
    assert_eq!((&masked["layers"][1]["dtype"], &sparse["layers"][1]["dtype"]), (&"f16".into(), &"sparse f16".into()));
    let bytes = |model: &Value, at: usize| model["layers"][at]["bytes"].as_u64().unwrap();
    assert_eq!((bytes(&masked, 1), bytes(&sparse, 1)), (288 * 288 * 2, 288 * 288 + 288 * (288 / 8 + 4)));
    assert_eq!(bytes(&masked, 0), bytes(&sparse, 0), "the embedding is not pruned");
    assert!((scores[0] - scores[1]).abs() < 1e-3 * scores[0], "{scores:?}");
    let shown = run(folder.path(), &["inspect", "bitmask"]);
    assert!(text(&shown.stdout).contains("sparse f16"));
    let layer = json(folder.path(), &["inspect", "bitmask", "--layer", "model.layers.1.mlp.up_proj", "--json"], 0);
    assert_eq!(layer["dtype"], "sparse f16");
}

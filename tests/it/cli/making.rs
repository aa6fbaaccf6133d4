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

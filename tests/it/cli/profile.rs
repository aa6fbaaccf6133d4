//! Where the time of passes goes.

use std::fs;

use serde_json::Value;

use crate::cli::{MODEL, assert_code, assert_has, folder, json, run, text};

#[test]
fn a_profile_is_whole_and_its_timeline_is_nested() {
    let folder = folder();
    let small = ["--prompt", "8", "--context", "8", "--repetitions", "2", "--threads", "1"];
    let traced = ["--json", "--trace", "trace.json"];
    let args = [&["profile", MODEL, "--recipe", "q8_0"][..], &small, &traced].concat();
    let found = json(folder.path(), &args, 0);
    assert_has(&found, &["recipe", "conditions.threads", "ceilings.float_flops", "ceilings.instructions"]);
    assert!(
        found["ceilings"]["reads"].as_array().unwrap().iter().all(|read| read["bytes_per_second"].as_f64() > Some(0.0))
    );
    let passes = found["passes"].as_array().unwrap();
    assert_eq!(passes.len(), 2);
    for pass in passes {
        let operations = pass["operations"].as_array().unwrap();
        // Embedding, final norm and head, and 12 operations in each of 6 blocks.
        assert_eq!(operations.len(), 3 + 12 * 6);
        let end = operations.last().unwrap()["span_nanos"][1].as_u64().unwrap();
        let sum: u64 = operations
            .iter()
            .map(|it| it["span_nanos"][1].as_u64().unwrap() - it["span_nanos"][0].as_u64().unwrap())
            .sum();
        assert_eq!(sum, end, "an operation begins where the one before it ended");
        let by_group = pass["roofline"]["by_group"].as_array().unwrap();
        assert_eq!(by_group.len(), 5);
        assert_has(
            pass,
            &["roofline.bottleneck.bound", "roofline.bottleneck.time_share", "plain_nanos", "overhead.value"],
        );
        let product = operations.iter().find(|it| it["operation"] == "query").unwrap();
        assert!(product["product"].as_str().unwrap().contains("q8_0"), "{product}");
    }
    // 2 · 8 tokens · 288 · 768 for a gate.
    let gate = passes[0]["operations"].as_array().unwrap().iter().find(|it| it["operation"] == "gate").unwrap();
    assert_eq!(gate["flops"], 2 * 8 * 288 * 768);
    let trace: Value = serde_json::from_slice(&fs::read(folder.path().join("trace.json")).unwrap()).unwrap();
    let complete = trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "X").count();
    assert_eq!(complete, 2 * (1 + 6 + 3 + 12 * 6));

    // A file that is there is not written over unasked.
    let again = [&["profile", MODEL][..], &small, &["--trace", "trace.json"]].concat();
    assert_code(&run(folder.path(), &again), 2, &again);
    let replaced = [&again[..], &["--replace"]].concat();
    let output = run(folder.path(), &replaced);
    assert_code(&output, 0, &replaced);
    let table = text(&output.stdout);
    for words in
        ["prefill of 8 tokens", "decode behind 8 tokens", "bottleneck: ", "block 5", "attention norm", "memory"]
    {
        assert!(table.contains(words), "{words}: {table}");
    }
}

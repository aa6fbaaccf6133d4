//! Our own key in `config.json`: what lies about it is refused by its name.

use std::path::Path;

use serde_json::{Value, json};
use trimtab::model::StoredFormat;

use crate::checkpoint::builders::{self, folder, open, safetensors};

fn config(own: Option<Value>) -> Value {
    let mut config = builders::config();
    config["architectures"] = json!(["TrimtabLlamaForCausalLM"]);
    config["trimtab"] = own.unwrap_or(Value::Null);
    config["num_hidden_layers"] = json!(2);
    config
}

/// Opens two blocks, without tensors whose names end so, described by `config`.
fn read(root: &Path, config: &Value, without: &[&str]) -> Result<(), String> {
    let mut tensors = builders::tensors_of(2);
    tensors.retain(|(name, _)| !without.iter().any(|end| name.ends_with(end)));
    folder(root, config, &safetensors(&tensors, StoredFormat::F16));
    open(root).map(drop).map_err(|error| error.to_string())
}

#[test]
fn what_it_says_must_fit_the_files() {
    let root = tempfile::tempdir().unwrap();
    let full = json!({"n_heads": 4, "n_kv_heads": 2, "intermediate_size": 64});
    let blocks = |second: Value| json!({"format_version": 1, "blocks": [full, second]});
    let block = |heads: u64, kv: u64, mlp: u64| json!({"n_heads": heads, "n_kv_heads": kv, "intermediate_size": mlp});
    let low_rank = |path: &str, rank: Value| json!({"format_version": 1, "low_rank": {path: rank}});
    let shared = |pairs: Value| json!({"format_version": 1, "shared": pairs});
    let up = |block: usize| format!("model.layers.{block}.mlp.up_proj");
    let cases: [(Value, &[&str], &str); 30] = [
        (blocks(full.clone()), &[], ""),
        (blocks(block(0, 0, 64)), &["1.self_attn.q_proj.weight"], ""),
        (blocks(block(4, 2, 32)), &[], "gate_proj"),
        (blocks(block(2, 2, 64)), &[], "q_proj"),
        (blocks(block(4, 3, 64)), &[], "3 does not divide 4 heads"),
        (blocks(block(4, 0, 64)), &[], "4 query heads and 0 key-value heads"),
        (blocks(block(0, 2, 64)), &[], "0 query heads and 2 key-value heads"),
        (blocks(block(0, 0, 0)), &[], "neither attention nor MLP"),
        (blocks(block(1 << 40, 1 << 40, 64)), &[], "width"),
        (blocks(block(u64::MAX, 1, 64)), &[], "width"),
        (blocks(block(4, 2, 1 << 50)), &[], "width of an MLP"),
        (blocks(json!({"n_heads": -4, "n_kv_heads": 2, "intermediate_size": 64})), &[], "trimtab"),
        (blocks(json!({"n_heads": 4, "n_kv_heads": 2})), &[], "intermediate_size"),
        (json!({"format_version": 1, "blocks": [full]}), &[], "1 of them for 2 blocks"),
        (json!({"format_version": 1, "blocks": vec![full.clone(); 3]}), &[], "3 of them for 2 blocks"),
        (json!({"format_version": 2, "new": 1}), &[], "format_version 2 is newer"),
        (json!({"format_version": 0}), &[], "format_version 0 is not 1"),
        (json!({"blocks": []}), &[], "format_version"),
        (json!({"format_version": 1, "colour": 1}), &[], "colour"),
        (json!([1]), &[], "trimtab"),
        (low_rank(&up(1), json!(3)), &[], "up_proj.up.weight"),
        (low_rank(&up(1), json!(0)), &[], "rank 0"),
        (low_rank(&up(1), json!(33)), &[], "rank 33, which is not from 1 to 32"),
        (low_rank(&up(1), json!(u64::MAX)), &[], "is not from 1 to 32"),
        (low_rank(&up(7), json!(3)), &[], "is no layer of a block"),
        (low_rank("model.embed_tokens", json!(3)), &[], "is no layer of a block"),
        (shared(json!({up(1): up(0)})), &["layers.1.mlp.up_proj.weight"], ""),
        (shared(json!({up(1): up(0)})), &[], "is in the files, too"),
        (shared(json!({up(1): up(1)})), &["layers.1.mlp.up_proj.weight"], "no tensor of its own"),
        (
            shared(json!({up(1): "model.layers.0.mlp.down_proj"})),
            &["layers.1.mlp.up_proj.weight"],
            "different kinds or shapes",
        ),
    ];
    for (own, without, expected) in cases {
        let found = read(root.path(), &config(Some(own.clone())), without);
        match found {
            Ok(()) => assert_eq!(expected, "", "{own}"),
            Err(message) => assert!(!expected.is_empty() && message.contains(expected), "{own}: {message}"),
        }
    }
}

#[test]
fn shared_tensors_have_one_owner() {
    let root = tempfile::tempdir().unwrap();
    let gone = ["mlp.up_proj.weight"];
    for (pairs, expected) in [
        (json!({"model.layers.1.mlp.up_proj": "model.layers.0.mlp.up_proj"}), "up_proj.weight"),
        (
            json!({
                "model.layers.1.mlp.up_proj": "model.layers.0.mlp.up_proj",
                "model.layers.0.mlp.up_proj": "model.layers.1.mlp.up_proj",
            }),
            "no tensor of its own",
        ),
        (json!({"model.layers.1.mlp.up_proj": "model.layers.9.mlp.up_proj"}), "is no layer of the model"),
        (json!({"lm_head": "model.embed_tokens"}), "is no layer of the model"),
    ] {
        let own = json!({"format_version": 1, "shared": pairs});
        let message = read(root.path(), &config(Some(own)), &gone).unwrap_err();
        assert!(message.contains(expected), "{pairs}: {message}");
    }
}

#[test]
fn the_architecture_needs_the_key() {
    let root = tempfile::tempdir().unwrap();
    let message = read(root.path(), &config(None), &[]).unwrap_err();
    assert!(message.contains("trimtab") && message.contains("absent"), "{message}");
}

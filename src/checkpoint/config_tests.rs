use serde_json::json;

use super::*;

fn base() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 128
    })
}

fn read(change: &Value) -> Result<LlamaConfig, String> {
    let mut config = base();
    for (key, value) in change.as_object().unwrap() {
        config[key] = value.clone();
    }
    llama_config(config.to_string().as_bytes(), Path::new("config.json"), FirstToken::Unknown)
        .map(|(config, _)| config)
        .map_err(|error| error.to_string())
}

#[test]
fn defaults_are_those_of_the_families() {
    let config = read(&json!({})).unwrap();
    assert_eq!((config.head_dim, config.n_kv_heads, config.max_context), (16, 4, 2048));
    assert_eq!((config.rms_norm_eps, config.rope_theta, config.hidden_act), (1e-6, 10_000.0, HiddenAct::Silu));
    assert_eq!((config.tied_head, config.bos_token, config.eos_tokens), (false, None, vec![]));
    let mistral = read(&json!({"architectures": ["MistralForCausalLM"], "num_attention_heads": 16})).unwrap();
    assert_eq!((mistral.n_kv_heads, mistral.max_context), (8, 131_072));
}

#[test]
fn rope_has_two_spellings() {
    let llama3 =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
    let table = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_theta": 500000.0});
    let old = read(&json!({"rope_scaling": table, "rope_theta": 500000.0})).unwrap();
    let new = read(&json!({"rope_parameters": table})).unwrap();
    assert_eq!((old.rope_scaling, old.rope_theta), (Some(llama3), 500_000.0));
    assert_eq!(new, old);
    let linear = read(&json!({"rope_scaling": {"type": "linear", "factor": 2.0}})).unwrap();
    assert_eq!(linear.rope_scaling, Some(RopeScaling::Linear { factor: 2.0 }));
    let none = read(&json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}})).unwrap();
    assert_eq!((none.rope_scaling, none.rope_theta), (None, 1e6));
}

#[test]
fn tokens_come_alone_or_in_lists() {
    assert_eq!(read(&json!({"eos_token_id": 2})).unwrap().eos_tokens, [2]);
    assert_eq!(read(&json!({"eos_token_id": [2, 7], "bos_token_id": 1})).unwrap().eos_tokens, [2, 7]);
    let bos = |template: FirstToken| {
        let mut config = base();
        config["bos_token_id"] = json!(1);
        llama_config(config.to_string().as_bytes(), Path::new("x"), template).unwrap().0.bos_token
    };
    assert_eq!((bos(FirstToken::Unknown), bos(FirstToken::None), bos(FirstToken::Is(3))), (Some(1), None, Some(3)));
}

#[test]
fn refusals_name_the_field() {
    let cases = [
        (json!({"architectures": ["GPT2LMHeadModel"]}), "GPT2LMHeadModel"),
        (json!({"hidden_size": null}), "\"hidden_size\""),
        (json!({"hidden_size": 1_u64 << 60}), "width"),
        (json!({"hidden_size": -1}), "not a size"),
        (json!({"hidden_size": f64::MAX}), "not a size"),
        (json!({"num_attention_heads": 0}), "num_attention_heads"),
        (json!({"num_attention_heads": 5}), "num_attention_heads"),
        (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
        (json!({"num_hidden_layers": 1_000_000}), "blocks"),
        (json!({"vocab_size": 1_u64 << 30}), "embedding"),
        (json!({"head_dim": 15}), "head_dim"),
        (json!({"rms_norm_eps": 0.0}), "rms_norm_eps"),
        (json!({"hidden_act": "relu6"}), "relu6"),
        (json!({"rope_scaling": {"type": "yarn", "factor": 4.0}}), "yarn"),
        (json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor"),
        (json!({"rope_scaling": {"type": "linear", "factor": 0.0}}), "positive"),
        (
            json!({"architectures": ["MistralForCausalLM"], "num_attention_heads": 8, "sliding_window": 4096}),
            "sliding_window",
        ),
        (json!({"quantization_config": {"bits": 4}}), "quantization_config"),
        (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        (json!({"bos_token_id": 128}), "bos_token_id"),
        (json!({"eos_token_id": "2"}), "eos_token_id"),
    ];
    for (change, expected) in cases {
        let message = read(&change).unwrap_err();
        assert!(message.contains(expected), "{change}: {message}");
    }
    for window in [json!(null), json!(131_072)] {
        let change =
            json!({"architectures": ["MistralForCausalLM"], "num_attention_heads": 8, "sliding_window": window});
        assert!(read(&change).is_ok());
    }
    let deep = "[".repeat(100_000);
    assert!(llama_config(deep.as_bytes(), Path::new("x"), FirstToken::Unknown).is_err());
}

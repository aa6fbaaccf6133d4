use serde_json::json;

use super::*;

fn tiny() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "added_tokens": [{"id": 0, "content": "<unk>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "post_processor": null, "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": false,
            "vocab": {"<unk>": 0, "a": 1, "b": 2, "ab": 3}, "merges": [["a", "b"]]}
    })
}

fn read(json: &Value) -> Result<Tokenizer, String> {
    from_json(json.to_string().as_bytes(), Path::new("tokenizer.json")).map_err(|error| error.to_string())
}

#[test]
fn a_tiny_tokenizer_encodes() {
    let mut json = tiny();
    assert_eq!(read(&json).unwrap().encode("abx", false).unwrap().get_ids(), [3, 0]);
    json["model"]["merges"] = json!(["a b"]);
    json["truncation"] = json!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0});
    assert_eq!(read(&json).unwrap().encode("abx", false).unwrap().get_ids(), [3, 0]);
}

#[test]
fn hostile_tokenizers_are_refused_with_a_reason() {
    let nested = (0..20).fold(json!({"type": "Fuse"}), |inner, _| json!({"type": "Sequence", "decoders": [inner]}));
    let regex =
        json!({"type": "Split", "pattern": {"Regex": "a".repeat(70_000)}, "behavior": "Isolated", "invert": false});
    let empty = json!([{"id": 4, "content": "", "special": true}]);
    let cases = [
        ("/model/merges", json!([["a", "b"], ["ab", "ab"]]), "not in the vocabulary"),
        ("/model/merges", json!([["a", "c"]]), "not in the vocabulary"),
        ("/model/merges", json!(["a b c"]), "two tokens"),
        ("/model/merges", json!([["a", "b", "a"]]), "more than two"),
        ("/model/vocab/b", json!(1_u64 << 31), "token id"),
        ("/model/vocab/b", json!(1_u64 << 40), "u32"),
        ("/model/vocab/b", json!(9999), "far beyond"),
        ("/model/vocab/b", json!(-1), "u32"),
        ("/model/type", json!("Unigram"), "Unigram"),
        ("/model/dropout", json!(0.5), "dropout"),
        ("/model/unk_token", json!("zzz"), "unk_token"),
        ("/model/continuing_subword_prefix", json!("##"), "continuing_subword_prefix"),
        ("/decoder", json!({}), "no type"),
        ("/decoder", json!("Fuse"), "no type"),
        ("/decoder", json!({"type": "Nonsense"}), "Nonsense"),
        ("/decoder", nested, "sequence in a sequence"),
        ("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}), "Precompiled"),
        ("/normalizer", json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"}), "pattern"),
        ("/pre_tokenizer", regex, "regular expression"),
        ("/added_tokens", empty, "empty"),
    ];
    for (field, value, expected) in cases {
        let mut json = tiny();
        *json.pointer_mut(field).unwrap() = value;
        let message = read(&json).err().unwrap_or_else(|| panic!("{field} was accepted"));
        assert!(message.contains(expected), "{field}: {message}");
    }
    let twice = tiny().to_string().replace(r#""a":1"#, r#""a":1,"a":2"#);
    assert!(from_json(twice.as_bytes(), Path::new("x")).unwrap_err().to_string().contains("twice"));
    assert!(from_json("[".repeat(1_000_000).as_bytes(), Path::new("x")).is_err());
}

#[test]
fn the_first_token_is_what_the_files_say() {
    let template = json!({"post_processor": {"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [7], "tokens": ["<s>"]}}}});
    let wrapped = json!({"post_processor": {"type": "Sequence",
        "processors": [{"type": "ByteLevel"}, template["post_processor"]]}});
    let none = json!({"post_processor": null});
    let cases = [
        (Some(&template), json!({}), FirstToken::Is(7)),
        (Some(&wrapped), json!({}), FirstToken::Is(7)),
        (Some(&template), json!({"add_bos_token": false}), FirstToken::None),
        (Some(&none), json!({}), FirstToken::None),
        (Some(&none), json!({"add_bos_token": true}), FirstToken::Unknown),
        (Some(&none), json!({"tokenizer_class": "LlamaTokenizerFast"}), FirstToken::Unknown),
        (Some(&none), json!({"tokenizer_class": "GPT2Tokenizer"}), FirstToken::None),
        (None, json!({}), FirstToken::Unknown),
    ];
    for (tokenizer, config, expected) in cases {
        let tokenizer = tokenizer.map(|json| json.to_string().into_bytes());
        let config = config.to_string().into_bytes();
        assert_eq!(first_token(tokenizer.as_deref(), Some(&config)), expected, "{tokenizer:?}");
    }
}

#[test]
fn a_vocabulary_survives_the_way_to_gguf_and_back() {
    let original = include_bytes!("../../../assets/demo/stories15M/tokenizer.json");
    let entries = gguf_from_json(original, 32_000).unwrap();
    let mut metadata = crate::checkpoint::gguf::Metadata::default();
    metadata.entries.extend(entries.into_iter().map(|(key, value)| (key.to_owned(), 0, value)));
    assert_eq!(metadata.text("tokenizer.ggml.model").unwrap(), Some("llama"));
    let rebuilt = from_json(&json_from_gguf(&metadata).unwrap(), Path::new("x")).unwrap();
    let original = from_json(original, Path::new("x")).unwrap();
    let stories = include_str!("../../../assets/demo/search.jsonl");
    let stories =
        stories.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned());
    let odd = ["", " ", "  two  spaces ", "<s>inside</s>", "naïve 漢字 🙂\t\u{0}\n", "aaaaaaaaaaaaaaaa", "▁"]
        .map(str::to_owned);
    for text in stories.chain(odd) {
        let expected = original.encode(text.as_str(), false).unwrap();
        let found = rebuilt.encode(text.as_str(), false).unwrap();
        assert_eq!(found.get_ids(), expected.get_ids(), "{text:?}");
        let decode = |tokenizer: &Tokenizer| tokenizer.decode(expected.get_ids(), true).unwrap();
        assert_eq!(decode(&rebuilt), decode(&original));
    }
}

#[test]
fn byte_level_vocabularies_are_known_by_their_pre_tokenizer() {
    let check = |pre: Value, expected: Option<&str>| {
        let mut json = tiny();
        json["pre_tokenizer"] = pre.clone();
        let entries = gguf_from_json(json.to_string().as_bytes(), 4);
        let name = entries.ok().and_then(|entries| {
            entries.into_iter().find_map(|(key, value)| (key == "tokenizer.ggml.pre").then_some(value))
        });
        let expected = expected.map(|name| crate::checkpoint::gguf::Value::String(name.to_owned()));
        assert_eq!(name, expected, "{pre}");
    };
    check(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true}), Some("gpt-2"));
    check(json!({"type": "ByteLevel", "add_prefix_space": true}), None);
    check(
        json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]}),
        Some("smollm"),
    );
    check(json!({"type": "Whitespace"}), None);
    for name in ["gpt-2", "llama-bpe", "smollm", "default"] {
        check(pieces::pre_tokenizer(name).unwrap(), Some(name));
    }
}

use serde_json::json;
use trimtab::model::StoredFormat;

use crate::checkpoint::builders::{self, HIDDEN, config, folder, mutate, numbers, open, safetensors_file};

/// Opens the tiny model with this header and data in place of its own; gives the refusal.
fn refusal(weights: &[u8]) -> String {
    let root = tempfile::tempdir().unwrap();
    open(&folder(root.path(), &config(), weights)).map(|_| ()).unwrap_err().to_string()
}

fn entry(name: &str, dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

#[test]
fn crafted_headers_are_refused_with_a_reason() {
    let one = |text: String, data: usize| safetensors_file(&format!("{{{text}}}"), &vec![0; data]);
    let f32 = |name: &str, begin: u64, end: u64| entry(name, "F32", &format!("[{}]", (end - begin) / 4), begin, end);
    let huge_length = [&(1_u64 << 62).to_le_bytes()[..], b"{}"].concat();
    let mut over_limit = ((64_u64 << 20) + 1).to_le_bytes().to_vec();
    over_limit.resize(over_limit.len() + (64 << 20) + 2, b' ');
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("length 2^62", huge_length, "does not fit"),
        ("header over the limit", over_limit, "limit of 67108864 bytes of a safetensors header"),
        ("shorter than a length", vec![1, 0, 0], "no header"),
        ("not an object", safetensors_file("[]", &[]), "begin with {"),
        ("a leading space", safetensors_file(" {}", &[]), "begin with {"),
        ("wrapped shape", one(entry("a", "F32", "[4194305,4194305,211106198978564]", 0, 16), 16), "data section"),
        ("product beyond the file", one(entry("a", "F32", "[1099511627776]", 0, 16), 16), "data section"),
        ("shape of another size", one(entry("a", "F32", "[3]", 0, 16), 16), "takes 12 bytes"),
        ("overlap", one(format!("{},{}", f32("a", 0, 8), f32("b", 4, 12)), 12), "shares bytes"),
        ("hole", one(format!("{},{}", f32("a", 0, 8), f32("b", 12, 16)), 16), "no tensor covers byte 8"),
        ("polyglot: trailing bytes", one(f32("a", 0, 8), 24), "no tensor covers byte 8"),
        ("duplicate name, same extent", one(format!("{},{}", f32("a", 0, 8), f32("a", 0, 8)), 8), "stands twice"),
        ("duplicate name by escape", one(format!("{},{}", f32("a", 0, 8), f32("\\u0061", 0, 8)), 8), "stands twice"),
        (
            "duplicate field",
            one(r#""a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}"#.to_owned(), 8),
            "duplicate field",
        ),
        (
            "unknown field",
            one(r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"stride":[1]}"#.to_owned(), 8),
            "unknown field",
        ),
        ("offsets swapped", one(entry("a", "F32", "[2]", 8, 0), 8), "data_offsets [8, 0]"),
        ("offsets beyond the file", one(entry("a", "F32", "[2]", u64::MAX - 7, u64::MAX), 8), "data section"),
        (
            "negative dimension",
            one(r#""a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}"#.to_owned(), 8),
            "expected u64",
        ),
        ("metadata that is no text", one(r#""__metadata__":{"format":1}"#.to_owned(), 0), "string"),
        ("deep", safetensors_file(&format!("{{\"a\":{}", "[".repeat(5_000_000)), &[]), "the header at byte"),
        (
            "deep metadata",
            safetensors_file(&format!("{{\"__metadata__\":{}", "[".repeat(5_000_000)), &[]),
            "table of texts",
        ),
        ("odd number of F4", one(entry("a", "F4", "[3]", 0, 2), 2), "do not end at a byte"),
        ("text after the header", safetensors_file("{} x", &[]), "trailing"),
        ("two objects", safetensors_file("{}{}", &[]), "trailing"),
    ];
    for (what, weights, expected) in cases {
        let message = refusal(&weights);
        assert!(message.contains(expected), "{what}: {message}");
        assert!(message.contains("byte"), "{what} names no place: {message}");
    }
}

#[test]
fn too_many_tensors_are_refused_by_number() {
    let mut header = String::from("{");
    for index in 0..500_001 {
        let comma = if index == 0 { "" } else { "," };
        header.push_str(comma);
        header.push_str(&entry(&index.to_string(), "F32", "[0]", 0, 0));
    }
    header.push('}');
    assert!(refusal(&safetensors_file(&header, &[])).contains("500000 tensors in a file"));
}

#[test]
fn every_tensor_is_listed_or_refused() {
    let mut tensors = builders::tensors();
    tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), vec![4]));
    let mut bytes = builders::safetensors(&tensors, StoredFormat::F32);
    // Splices further tensors into the header: a float the program has no use for, an unknown type, an empty tensor.
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let data_len = bytes.len() - 8 - header_len;
    let header = std::str::from_utf8(&bytes[8..8 + header_len]).unwrap().trim_end_matches('}').to_owned() + "}";
    let more = [
        entry("counts", "I64", "[1]", data_len as u64, data_len as u64 + 8),
        entry("odd", "F7", "[1]", data_len as u64 + 8, data_len as u64 + 9),
        entry("empty", "F16", "[0,4]", 0, 0),
    ];
    let header = format!("{},{}}}", header, more.join(","));
    let mut data = bytes.split_off(8 + header_len);
    data.extend([0; 9]);
    let root = tempfile::tempdir().unwrap();
    let model = open(&folder(root.path(), &config(), &safetensors_file(&header, &data))).unwrap();
    assert_eq!(model.entries().len() + model.refused().len(), tensors.len() + 3);
    let refused: Vec<_> = model.refused().iter().map(|tensor| (tensor.name.as_str(), tensor.reason.as_str())).collect();
    assert_eq!(refused, [("counts", "dtype I64 is not supported"), ("odd", "dtype \"F7\" is not known")]);
    let unused: Vec<_> =
        model.entries().iter().filter(|entry| !model.is_used(entry)).map(|entry| &entry.name).collect();
    assert_eq!(unused, ["model.layers.0.self_attn.rotary_emb.inv_freq", "empty"]);
}

#[test]
fn needed_tensors_must_be_there_in_the_right_shape_and_type() {
    type Tensors = Vec<(String, Vec<usize>)>;
    let message = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = builders::tensors();
        change(&mut tensors);
        refusal(&builders::safetensors(&tensors, StoredFormat::F16))
    };
    let missing =
        message(&|tensors| tensors.retain(|(name, _)| !name.contains("mlp.up") && !name.contains("model.norm")));
    assert!(missing.contains("lacks 2 tensors"), "{missing}");
    assert!(missing.contains("mlp.up_proj.weight") && missing.contains("model.norm.weight"), "{missing}");
    let shape = message(&|tensors| tensors[2].1 = vec![HIDDEN, HIDDEN + 1]);
    assert!(shape.contains("q_proj.weight") && shape.contains("[32, 33]") && shape.contains("[32, 32]"), "{shape}");

    let weights = builders::safetensors(&builders::tensors(), StoredFormat::F16);
    let text = String::from_utf8_lossy(&weights[8..]).into_owned();
    let header = &text[..text.find("}}").unwrap() + 2];
    let integers = header.replacen("F16", "I16", 1);
    let data = &weights[8 + header.len()..];
    let refused = refusal(&safetensors_file(&integers, data));
    assert!(refused.contains("cannot be used") && refused.contains("I16"), "{refused}");

    let root = tempfile::tempdir().unwrap();
    let mut untied = config();
    untied["tie_word_embeddings"] = json!(false);
    let message = open(&folder(root.path(), &untied, &weights)).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("lm_head.weight"), "{message}");
}

#[test]
fn no_truncation_is_accepted() {
    let root = tempfile::tempdir().unwrap();
    let weights = builders::safetensors(&builders::tensors(), StoredFormat::F16);
    let header_len = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let data_cuts = (8 + header_len..weights.len()).step_by(97);
    for cut in (0..8 + header_len).chain(data_cuts).chain([weights.len() - 1]) {
        let dir = folder(root.path(), &config(), &weights[..cut]);
        assert!(open(&dir).is_err(), "accepted after {cut} bytes");
    }
    assert!(open(&folder(root.path(), &config(), &weights)).is_ok());
}

#[test]
fn random_changes_never_break_the_reader() {
    let root = tempfile::tempdir().unwrap();
    let weights = builders::safetensors(&builders::tensors(), StoredFormat::F16);
    let header_len = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let mut random = numbers(15);
    let dir = folder(root.path(), &config(), &weights);
    let mut refused = 0;
    for _ in 0..20_000 {
        let mut changed = mutate(&weights[..8 + header_len], &mut random);
        changed.extend_from_slice(&weights[8 + header_len..]);
        std::fs::write(dir.join("model.safetensors"), &changed).unwrap();
        refused += usize::from(open(&dir).is_err());
    }
    assert!(refused > 15_000, "only {refused} of 20,000 changed headers were refused");
}

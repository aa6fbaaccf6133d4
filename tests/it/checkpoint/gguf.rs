use trimtab::model::{GgmlType, RopeOrder, StoredFormat};

use crate::checkpoint::builders::{
    Gguf, HIDDEN, VOCAB, array_value, gguf_text, mutate, numbers, open, text_value, u32_value,
};

const Q_NAME: &str = "blk.0.attn_q.weight";

fn write_and_open(bytes: &[u8]) -> Result<trimtab::checkpoint::Checkpoint, String> {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("tiny.gguf");
    std::fs::write(&path, bytes).unwrap();
    open(&path).map_err(|error| error.to_string())
}

#[test]
fn tiny_models_of_every_type_open() {
    let formats = [StoredFormat::F32, StoredFormat::F16, StoredFormat::Bf16];
    // Rows of 32 and 64 hold no superblock of 256.
    let packed = GgmlType::ALL.into_iter().filter(|ggml| ggml.block_len() == 32).map(StoredFormat::Ggml);
    for format in formats.into_iter().chain(packed) {
        let model = write_and_open(&Gguf::tiny(format).bytes()).unwrap();
        assert_eq!(model.graph().layers.len(), 8);
        assert!(model.graph().layers.iter().all(|layer| layer.stored == format));
        let config = model.config();
        assert!(config.tied_head && config.rope_order == RopeOrder::Interleaved && config.vocab_size == VOCAB);
        assert_eq!(config.rms_norm_eps, 1e-5);
        assert_eq!(model.entry("model.layers.0.self_attn.k_proj.weight").unwrap().shape, [16, HIDDEN]);
        assert_eq!(model.entry("model.norm.weight").unwrap().name, "output_norm.weight");
        assert!(model.read_f32("model.norm.weight").unwrap().is_some());
        assert_eq!(model.rope_factors(), None);
    }
}

#[test]
fn rotary_factors_an_own_head_and_unknown_tensors_are_not_lost() {
    let mut gguf = Gguf::tiny(StoredFormat::F16);
    gguf.add("rope_freqs.weight", &[4], StoredFormat::F32);
    let factors = gguf.tensor("rope_freqs.weight").offset as usize;
    gguf.data[factors..factors + 16].copy_from_slice(&[1.0_f32, 2.0, 4.0, 8.0].map(f32::to_le_bytes).concat());
    gguf.add("output.weight", &[VOCAB, HIDDEN], StoredFormat::Ggml(GgmlType::Q8_0));
    gguf.add("blk.0.attn_rot_embd.weight", &[4], StoredFormat::F32);
    gguf.add("strange", &[32], StoredFormat::F32);
    gguf.tensor("strange").code = 20;
    gguf.set("tokenizer.ggml.model", text_value("llama"));
    gguf.set("tokenizer.ggml.eos_token_id", u32_value(2));
    let model = write_and_open(&gguf.bytes()).unwrap();
    assert_eq!(model.rope_factors(), Some(&[1.0, 2.0, 4.0, 8.0][..]));
    assert_eq!(model.graph().layers.last().unwrap().path.as_str(), "lm_head");
    assert_eq!(model.entries().len() + model.refused().len(), gguf.tensors.len());
    assert_eq!(model.refused()[0].reason, "type iq4_nl is not supported");
    let unused: Vec<_> =
        model.entries().iter().filter(|entry| !model.is_used(entry)).map(|entry| &entry.name).collect();
    assert_eq!(unused, ["blk.0.attn_rot_embd.weight"]);
    assert_eq!((model.config().bos_token, model.config().eos_tokens.as_slice()), (Some(1), &[2][..]));
    gguf.data[factors] = 0xFF;
    gguf.data[factors + 3] = 0xFF;
    assert!(write_and_open(&gguf.bytes()).unwrap_err().contains("cannot divide"));
    assert!(model.tokenizer().unwrap_err().to_string().contains("tokenizer.ggml.tokens"));
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn crafted_headers_are_refused_with_a_reason() {
    let changed = |change: &dyn Fn(&mut Gguf)| {
        let mut gguf = Gguf::tiny(StoredFormat::F16);
        change(&mut gguf);
        gguf.bytes()
    };
    let alignment = |value: u32| changed(&|gguf| gguf.set("general.alignment", u32_value(value)));
    let dims = |dims: &[u64]| changed(&|gguf| gguf.tensor(Q_NAME).dims = dims.to_vec());
    let n_dims = |n: u32| changed(&|gguf| gguf.tensor(Q_NAME).n_dims = Some(n));
    let key = |value: Vec<u8>| changed(&|gguf| gguf.set("some.key", value.clone()));
    let nested = |depth: usize| {
        let inner = [9_u32.to_le_bytes().as_slice(), &1_u64.to_le_bytes()].concat();
        array_value(9, 1, &inner.repeat(depth))
    };
    let odd = 0x1234_5677_u64;
    let inverse = (0..6).fold(odd, |inverse, _| inverse.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(inverse))));
    let count = |n_tensors: u64, n_keys: u64| {
        [b"GGUF\x03\0\0\0".as_slice(), &n_tensors.to_le_bytes(), &n_keys.to_le_bytes()].concat()
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("magic only", b"GGUF".to_vec(), "version"),
        ("version 1", changed(&|gguf| gguf.version = Some(1)), "not 2 or 3"),
        ("version 99", changed(&|gguf| gguf.version = Some(99)), "not 2 or 3"),
        ("big-endian", changed(&|gguf| gguf.version = Some(3_u32.swap_bytes())), "big-endian"),
        ("2^32 tensors", count(1 << 32, 0), "tensors in a file"),
        ("2^32 keys", count(0, 1 << 32), "metadata keys"),
        ("400,000 tensors in 24 bytes", count(400_000, 0), "do not fit"),
        ("90,000 keys in 24 bytes", count(0, 90_000), "do not fit"),
        ("alignment 0", alignment(0), "general.alignment"),
        ("alignment 3", alignment(3), "power of two"),
        ("alignment 4", alignment(4), "power of two"),
        ("alignment 2^31", alignment(1 << 31), "alignment"),
        ("dims 2^40 × 2^40", dims(&[1 << 40, 1 << 40]), "data section"),
        ("dims that wrap to 64", dims(&[32, odd, inverse, 2]), "q.weight"),
        ("dimension 0", dims(&[0, 32]), "dimension of 0"),
        ("no dimensions", n_dims(0), "without dimensions"),
        ("5 dimensions", n_dims(5), "dimensions of a GGUF tensor"),
        ("2^32 − 1 dimensions", n_dims(u32::MAX), "dimensions of a GGUF tensor"),
        ("shared offset", changed(&|gguf| gguf.tensor(Q_NAME).offset = 0), "shares bytes"),
        ("duplicate name", changed(&|gguf| gguf.tensor(Q_NAME).name = "token_embd.weight".to_owned()), "stands twice"),
        (
            "second name of a tensor",
            changed(&|gguf| gguf.tensor(Q_NAME).name = "blk.00.attn_q.weight".to_owned()),
            "lacks 1 tensor",
        ),
        ("offset 2^64 − 64", changed(&|gguf| gguf.tensor(Q_NAME).offset = u64::MAX - 63), "data section"),
        ("unaligned offset", changed(&|gguf| gguf.tensor(Q_NAME).offset += 8), "multiple of 32"),
        ("duplicate key", changed(&|gguf| gguf.keys.push(gguf.keys[0].clone())), "stands twice"),
        ("text of 2^30", key([8_u32.to_le_bytes().as_slice(), &(1_u64 << 30).to_le_bytes()].concat()), "GGUF string"),
        ("text of 2^63", key([8_u32.to_le_bytes().as_slice(), &(1_u64 << 63).to_le_bytes()].concat()), "GGUF string"),
        (
            "text that is not UTF-8",
            key([8_u32.to_le_bytes().as_slice(), &2_u64.to_le_bytes(), &[0xFF, 0xFE]].concat()),
            "UTF-8",
        ),
        ("48 Mi bytes declared", key(array_value(0, 48 << 20, &[])), "elements of a GGUF array"),
        ("15 M bytes declared", key(array_value(0, 15_000_000, &[])), "do not fit"),
        ("15 M texts declared", key(array_value(8, 15_000_000, &[])), "do not fit"),
        ("arrays 65 deep", key(nested(64)), "nested GGUF arrays"),
        ("arrays 10^6 deep", key(nested(1_000_000)), "nested GGUF arrays"),
        ("value type 13", key(13_u32.to_le_bytes().to_vec()), "value type 13"),
        ("array type 13", key(array_value(13, 0, &[])), "array type 13"),
        ("truth value 2", key([&7_u32.to_le_bytes()[..], &[2]].concat()), "truth value"),
        ("unknown type of a needed tensor", changed(&|gguf| gguf.tensor(Q_NAME).code = 99), "type 99"),
        ("unsupported type of a needed tensor", changed(&|gguf| gguf.tensor(Q_NAME).code = 20), "iq4_nl"),
        ("10^6 blocks", changed(&|gguf| gguf.set("llama.block_count", u32_value(1_000_000))), "blocks of a model"),
        ("0 heads", changed(&|gguf| gguf.set("llama.attention.head_count", u32_value(0))), "head"),
        (
            "heads in a text",
            changed(&|gguf| gguf.set("llama.attention.head_count", text_value("4"))),
            "unsigned integer",
        ),
        ("another architecture", changed(&|gguf| gguf.set("general.architecture", text_value("plamo2"))), "plamo2"),
        ("experts", changed(&|gguf| gguf.set("llama.expert_count", u32_value(8))), "experts"),
        ("yarn", changed(&|gguf| gguf.set("llama.rope.scaling.type", text_value("yarn"))), "yarn"),
        (
            "a part of the head is rotated",
            changed(&|gguf| gguf.set("llama.rope.dimension_count", u32_value(4))),
            "partly rotated",
        ),
        ("another width", changed(&|gguf| gguf.set("llama.feed_forward_length", u32_value(96))), "[96, 32]"),
    ];
    for (what, bytes, expected) in cases {
        let message = write_and_open(&bytes).map(|_| ()).expect_err(what);
        assert!(message.contains(expected), "{what}: {message}");
    }
}

#[test]
fn hostile_vocabularies_are_refused() {
    let texts = |tokens: &[&str]| {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| gguf_text(token)).collect();
        array_value(8, tokens.len() as u64, &bytes)
    };
    let refusal = |change: &dyn Fn(&mut Gguf)| {
        let mut gguf = Gguf::tiny(StoredFormat::F16);
        gguf.set("tokenizer.ggml.model", text_value("llama"));
        gguf.set("tokenizer.ggml.tokens", texts(&["<unk>", "a"]));
        gguf.set("tokenizer.ggml.scores", array_value(6, 2, &[0; 8]));
        change(&mut gguf);
        write_and_open(&gguf.bytes()).unwrap().tokenizer().map_or_else(|error| error.to_string(), |_| String::new())
    };
    assert_eq!(refusal(&|_| {}), "");
    let types = |kinds: [i32; 2]| array_value(5, 2, &kinds.map(i32::to_le_bytes).concat());
    assert!(
        refusal(&|gguf| gguf.set("tokenizer.ggml.scores", array_value(5, 2, &[0; 8]))).contains("not an array of f32")
    );
    assert!(
        refusal(&|gguf| gguf.set("tokenizer.ggml.scores", array_value(6, 1, &[0; 4]))).contains("one entry for each")
    );
    assert!(refusal(&|gguf| gguf.set("tokenizer.ggml.scores", array_value(6, 2, &[0xFF; 8]))).contains("not finite"));
    let byte = |token: &str| {
        refusal(&|gguf| {
            gguf.set("tokenizer.ggml.tokens", texts(&["<unk>", token]));
            gguf.set("tokenizer.ggml.token_type", types([2, 6]));
        })
    };
    assert_eq!(byte("<0x0A>"), "");
    assert!(byte("<0x-1>").contains("is not a byte"));
    assert!(byte("<0x+1>").contains("is not a byte"));
    assert!(refusal(&|gguf| gguf.set("tokenizer.ggml.tokens", texts(&["a", "a"]))).contains("are both"));
    assert!(refusal(&|gguf| gguf.set("tokenizer.ggml.token_type", array_value(5, 1, &[0; 4]))).contains("1 entries"));
    assert!(refusal(&|gguf| gguf.set("tokenizer.ggml.model", text_value("bert"))).contains("bert"));
    assert!(
        refusal(&|gguf| {
            gguf.set("tokenizer.ggml.model", text_value("gpt2"));
            gguf.set("tokenizer.ggml.pre", text_value("deepseek-coder"));
        })
        .contains("deepseek-coder")
    );
    assert!(
        refusal(&|gguf| {
            gguf.set("tokenizer.ggml.model", text_value("gpt2"));
            gguf.set("tokenizer.ggml.pre", text_value("gpt-2"));
            gguf.set("tokenizer.ggml.merges", texts(&["a a"]));
        })
        .contains("not in the vocabulary")
    );
}

#[test]
fn a_large_typed_array_costs_no_more_than_its_bytes() {
    let mut gguf = Gguf::tiny(StoredFormat::F16);
    gguf.set("some.bytes", array_value(0, 15_000_000, &vec![7; 15_000_000]));
    assert!(write_and_open(&gguf.bytes()).is_ok());
}

#[test]
fn no_truncation_is_accepted() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("tiny.gguf");
    let gguf = Gguf::tiny(StoredFormat::F16);
    let (header_len, bytes) = (gguf.header().len(), gguf.bytes());
    // The last tensor is a norm of 128 bytes: it ends with the file.
    for cut in (0..=header_len).chain((header_len..bytes.len()).step_by(97)).chain([bytes.len() - 1]) {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        assert!(open(&path).is_err(), "accepted after {cut} of {} bytes", bytes.len());
    }
}

#[test]
fn random_changes_never_break_the_reader() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("tiny.gguf");
    let gguf = Gguf::tiny(StoredFormat::F16);
    let (header, bytes) = (gguf.header(), gguf.bytes());
    let mut random = numbers(16);
    let mut refused = 0;
    for _ in 0..20_000 {
        let mut changed = mutate(&header, &mut random);
        changed.extend_from_slice(&bytes[header.len()..]);
        std::fs::write(&path, &changed).unwrap();
        refused += usize::from(open(&path).is_err());
    }
    assert!(refused > 10_000, "only {refused} of 20,000 changed headers were refused");
}

//! The compressed-tensors layout, read by its description and not by the code that wrote it.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use trimtab::checkpoint::Checkpoint;
use trimtab::compress::{Job, compress};
use trimtab::device::{DeviceInfo, DeviceSpec};
use trimtab::export::{self, Existing, ExportError, ExportSummary, ModelLayout, Weights, expressible};
use trimtab::model::{LayerRole, StoredFormat};
use trimtab::recipe::{Activations, DynamicOptions, Fp8Scale, Group, IntFormat, LayerSettings, Recipe, WeightFormat};

use crate::checkpoint::variants::{json as config_of, three_blocks};

fn int(bits: u8, group: Group, symmetric: bool) -> LayerSettings {
    LayerSettings::of(WeightFormat::Int(IntFormat { bits, group, symmetric }))
}

fn write(model: &Checkpoint, settings: &[LayerSettings], out: &Path) -> Result<ExportSummary, ExportError> {
    to_compressed_tensors(model, Weights::Settings(settings), out)
}

pub(super) fn to_compressed_tensors(
    model: &Checkpoint,
    weights: Weights<'_>,
    out: &Path,
) -> Result<ExportSummary, ExportError> {
    export::compressed_tensors::write(model, weights, out, Existing::Refuse, &mut |_, _| ControlFlow::Continue(()))
}

/// The same settings for every layer of the blocks.
fn everywhere(model: &Checkpoint, settings: LayerSettings) -> Vec<LayerSettings> {
    let of = |block: Option<u16>| if block.is_some() { settings } else { LayerSettings::default() };
    model.graph().layers.iter().map(|layer| of(layer.block)).collect()
}

/// Code `at` of a row or column of words.
fn code(words: &[u32], at: usize, bits: usize) -> u32 {
    let per_word = 32 / bits;
    words[at / per_word] >> (at % per_word * bits) & ((1 << bits) - 1)
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

fn halves(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<2>().0.iter().map(|pair| half::f16::from_le_bytes(*pair).to_f32()).collect()
}

/// The values of a layer as the library makes them: scale · (code − zero point), both signed.
fn dequantized(file: &SafeTensors<'_>, path: &str, [rows, row_len]: [usize; 2], bits: usize) -> Vec<f32> {
    let tensor = |name: &str| file.tensor(&format!("{path}.{name}")).ok();
    let scale = tensor("weight_scale").unwrap();
    let n_groups = scale.shape()[1];
    assert_eq!((scale.dtype(), scale.shape()[0]), (Dtype::F16, rows));
    let scales = halves(scale.data());
    let half = 1_i32 << (bits - 1);
    let mut codes = Vec::new();
    let mut zeros = vec![0; rows * n_groups];
    if let Some(packed) = tensor("weight_packed") {
        let n_words = (row_len * bits).div_ceil(32);
        assert_eq!((packed.dtype(), packed.shape()), (Dtype::I32, &[rows, n_words][..]));
        for row in words(packed.data()).chunks(n_words) {
            codes.extend((0..row_len).map(|at| code(row, at, bits).cast_signed() - half));
        }
        let shape = tensor("weight_shape").unwrap();
        let dims: Vec<u64> = shape.data().as_chunks::<8>().0.iter().map(|dim| u64::from_le_bytes(*dim)).collect();
        assert_eq!((shape.dtype(), dims), (Dtype::I64, vec![rows as u64, row_len as u64]));
        if let Some(packed) = tensor("weight_zero_point") {
            assert_eq!((packed.dtype(), packed.shape()), (Dtype::I32, &[(rows * bits).div_ceil(32), n_groups][..]));
            let packed = words(packed.data());
            for group in 0..n_groups {
                let column: Vec<u32> = packed.iter().skip(group).step_by(n_groups).copied().collect();
                for row in 0..rows {
                    zeros[row * n_groups + group] = code(&column, row, bits).cast_signed() - half;
                }
            }
        }
    } else {
        let weight = tensor("weight").unwrap();
        assert_eq!((weight.dtype(), weight.shape()), (Dtype::I8, &[rows, row_len][..]));
        codes.extend(weight.data().iter().map(|code| i32::from(code.cast_signed())));
        if let Some(zero) = tensor("weight_zero_point") {
            assert_eq!(zero.dtype(), Dtype::I8);
            zeros = zero.data().iter().map(|zero| i32::from(zero.cast_signed())).collect();
        }
    }
    let group_len = row_len / n_groups;
    let value = |(at, code): (usize, &i32)| {
        let group = at / row_len * n_groups + at % row_len / group_len;
        scales[group] * (code - zeros[group]) as f32
    };
    codes.iter().enumerate().map(value).collect()
}

#[test]
fn codes_scales_and_zero_points_give_back_the_measured_values() {
    let int8 = Activations::Int8Dynamic(DynamicOptions::default());
    let cases: [(LayerSettings, &str, &str, Value); 6] = [
        (int(4, Group::Size(32), false), "pack-quantized", "group", Value::Null),
        (int(4, Group::Row, true), "pack-quantized", "channel", Value::Null),
        (int(8, Group::Row, true), "pack-quantized", "channel", Value::Null),
        (int(8, Group::Size(32), false), "pack-quantized", "group", Value::Null),
        (LayerSettings { activations: int8, ..int(8, Group::Row, true) }, "int-quantized", "channel", json!("token")),
        (LayerSettings { activations: int8, ..int(8, Group::Row, false) }, "int-quantized", "channel", json!("token")),
    ];
    for (settings, format, strategy, inputs) in cases {
        let root = tempfile::tempdir().unwrap();
        let model = three_blocks(root.path());
        let out = root.path().join("out");
        write(&model, &everywhere(&model, settings), &out).unwrap();
        let bytes = fs::read(out.join("model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let WeightFormat::Int(grid) = settings.weights else { panic!("a grid") };
        for layer in model.graph().layers.iter().filter(|layer| layer.block.is_some()) {
            let dense = model.read_f32(&format!("{}.weight", layer.path)).unwrap().unwrap();
            let native = StoredFormat::F16;
            let job = Job { dense: &dense, shape: layer.shape, settings: &settings, native, moments: None };
            let expected = compress(&job).unwrap().weights.dequantize();
            let found = dequantized(&file, layer.path.as_str(), layer.shape, usize::from(grid.bits));
            assert!(found == expected, "{} in {}", layer.path, settings.label());
        }
        assert_eq!(file.tensor("model.embed_tokens.weight").unwrap().dtype(), Dtype::F16);
        let config = config_of(&out)["quantization_config"].clone();
        let group = &config["config_groups"]["group_0"];
        assert_eq!((&config["format"], &config["quant_method"]), (&json!(format), &json!("compressed-tensors")));
        assert_eq!((&group["targets"], &config["ignore"]), (&json!(["Linear"]), &json!(["lm_head"])));
        assert_eq!(
            (&group["weights"]["strategy"], &group["weights"]["symmetric"]),
            (&json!(strategy), &json!(grid.symmetric))
        );
        assert_eq!(group["input_activations"]["strategy"], inputs);
    }
}

#[test]
fn layers_of_several_kinds_are_named_and_dense_ones_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let model = three_blocks(root.path());
    let mut settings = everywhere(&model, int(4, Group::Size(32), true));
    for (layer, settings) in model.graph().layers.iter().zip(&mut settings) {
        match layer.role {
            LayerRole::DownProj => *settings = int(8, Group::Row, true),
            LayerRole::OProj => *settings = LayerSettings::default(),
            LayerRole::UpProj if layer.block == Some(0) => {
                let activations = Activations::Int8Dynamic(DynamicOptions::default());
                *settings = LayerSettings { activations, ..int(8, Group::Row, true) };
            }
            _ => {}
        }
    }
    let out = root.path().join("out");
    write(&model, &settings, &out).unwrap();
    let config = config_of(&out)["quantization_config"].clone();
    assert_eq!(config["format"], "mixed-precision");
    let groups = config["config_groups"].as_object().unwrap();
    assert_eq!(groups.len(), 3);
    let of = |path: &str| {
        let is_in = |group: &&Value| group["targets"].as_array().unwrap().contains(&json!(path));
        groups.values().find(is_in).map(|group| (group["format"].clone(), group["weights"]["num_bits"].clone()))
    };
    assert_eq!(of("model.layers.1.self_attn.q_proj"), Some((json!("pack-quantized"), json!(4))));
    assert_eq!(of("model.layers.2.mlp.down_proj"), Some((json!("pack-quantized"), json!(8))));
    assert_eq!(of("model.layers.0.mlp.up_proj"), Some((json!("int-quantized"), json!(8))));
    assert_eq!(of("model.layers.0.self_attn.o_proj"), None);
    let ignored = config["ignore"].as_array().unwrap();
    assert!(ignored.contains(&json!("model.layers.0.self_attn.o_proj")) && ignored.contains(&json!("lm_head")));
}

#[test]
fn what_a_layout_cannot_hold_is_said_before_and_by_the_export_itself() {
    let root = tempfile::tempdir().unwrap();
    let model = three_blocks(root.path());
    let device = DeviceInfo::named(DeviceSpec::Cpu { threads: 1 }, "");
    let said = |recipe: &Recipe, layout| {
        let plan = recipe.resolve(model.graph(), &device).unwrap_or_else(|issues| panic!("{issues:?}"));
        expressible(&plan, model.graph(), layout)
    };
    let recipe = |body: &str| Recipe::from_toml(&format!("format_version = 1\n{body}")).unwrap();
    let ct = ModelLayout::CompressedTensors;
    let cases: [(&str, ModelLayout, &str); 14] = [
        ("[default]\nweights = { int = { bits = 4, group = 32 } }", ct, ""),
        ("[default]\nweights = { fp8 = \"block\" }", ct, ""),
        ("[default]\nweights = { int = { bits = 3, group = 32 } }", ct, "other widths than 4 and 8"),
        ("[default]\nweights = \"q8_0\"", ct, "no GGML blocks"),
        ("[default]\nweights = { int = { bits = 4, group = 32 } }\nrounding = \"hqq\"", ct, "integer zero points only"),
        ("[default]\nweights = \"f16\"", ct, "no layer has integer or FP8 weights"),
        ("[default]\nlow_rank = { method = \"svd\", ratio = 0.5 }", ct, "no low-rank factors"),
        (
            "[default]\nweights = { int = { bits = 4, group = 32 } }\nactivations = \"int8_dynamic\"",
            ct,
            "integer weights of 8 bits",
        ),
        (
            "[[rule]]\ntarget = { role = \"embedding\" }\nweights = { int = { bits = 8, group = \"row\" } }",
            ct,
            "dense embedding",
        ),
        ("[structure.blocks]\ndrop = [1]", ModelLayout::Gguf, ""),
        ("[structure.blocks]\ndrop = [1]\npart = \"mlp\"", ModelLayout::Gguf, "one width only"),
        ("[structure.blocks]\ndrop = [1]\npart = \"mlp\"", ModelLayout::Safetensors, ""),
        ("[default]\nweights = { fp8 = \"row\" }", ModelLayout::Gguf, "no FP8"),
        (
            "[structure]\nupdate = \"none\"\n[structure.ffn]\nfraction = 0.5\nscore = \"weight_norm\"\nblocks = [0, 1]\n\
             [default]\nweights = { int = { bits = 4, group = 32 } }",
            ct,
            "one width only",
        ),
    ];
    for (body, layout, expected) in cases {
        let said = said(&recipe(body), layout);
        if expected.is_empty() {
            assert!(said.refusals.is_empty(), "{body}: {said:?}");
        } else {
            assert!(said.refusals.iter().any(|refusal| refusal.contains(expected)), "{body}: {said:?}");
        }
    }
    let low_rank = said(&recipe("[default]\nlow_rank = { method = \"svd\", ratio = 0.5 }"), ModelLayout::Safetensors);
    assert!(low_rank.refusals.is_empty() && low_rank.notes[0].contains("\"trimtab\""), "{low_rank:?}");

    // The export has the same words.
    let three = everywhere(&model, int(3, Group::Size(32), false));
    let out = root.path().join("out");
    let message = write(&model, &three, &out).unwrap_err().to_string();
    assert!(message.contains("other widths than 4 and 8") && message.contains("and 13 more"), "{message}");
    let fp8 = everywhere(&model, LayerSettings::of(WeightFormat::Fp8(Fp8Scale::Row)));
    let go_on = &mut |_, _| ControlFlow::Continue(());
    let gguf = export::gguf::write(&model, Weights::Settings(&fp8), &out, Existing::Refuse, go_on);
    assert!(gguf.unwrap_err().to_string().contains("no FP8"));
    assert!(!out.exists());
}

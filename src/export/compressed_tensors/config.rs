//! The key `quantization_config` in `config.json`.

use serde_json::{Value, json};

use crate::export::compressed_tensors::{Inputs, Scheme, scheme};
use crate::export::model::OutModel;
use crate::model::LayerRole;
use crate::recipe::{Fp8Scale, Group, IntFormat};

/// One group for each scheme; layers without one are named under `ignore`.
pub(super) fn quantization_config(model: &OutModel<'_>) -> Value {
    let mut groups: Vec<(Scheme, Vec<&str>)> = Vec::new();
    let mut ignore = Vec::new();
    for layer in &model.layers {
        match scheme(layer) {
            Some(scheme) => match groups.iter_mut().find(|(found, _)| *found == scheme) {
                Some((_, paths)) => paths.push(layer.path.as_str()),
                None => groups.push((scheme, vec![layer.path.as_str()])),
            },
            None if layer.role != LayerRole::Embedding => ignore.push(layer.path.as_str()),
            None => {}
        }
    }
    // A tied head is a linear module of transformers as well.
    if model.config.tied_head {
        ignore.push("lm_head");
    }
    let format = |scheme: Scheme| match scheme {
        Scheme::Packed(_) => "pack-quantized",
        Scheme::Int8(..) => "int-quantized",
        Scheme::Fp8(_) => "float-quantized",
    };
    let is_mixed = groups.iter().any(|(scheme, _)| format(*scheme) != format(groups[0].0));
    let whole =
        if is_mixed { "mixed-precision" } else { groups.first().map_or("dense", |(scheme, _)| format(*scheme)) };
    let is_alone = groups.len() == 1;
    let groups = groups.into_iter().enumerate().map(|(number, (scheme, paths))| {
        let targets = if is_alone { vec!["Linear"] } else { paths };
        let mut group = json!({
            "targets": targets, "weights": weights(scheme), "input_activations": inputs(scheme),
            "output_activations": null,
        });
        // Versions that know one format for the whole model know no such key.
        if is_mixed {
            group["format"] = json!(format(scheme));
        }
        (format!("group_{number}"), group)
    });
    json!({
        "quant_method": "compressed-tensors", "format": whole, "quantization_status": "compressed",
        "config_groups": groups.collect::<serde_json::Map<_, _>>(), "ignore": ignore, "kv_cache_scheme": null,
        "global_compression_ratio": null,
    })
}

fn weights(scheme: Scheme) -> Value {
    match scheme {
        Scheme::Packed(format) | Scheme::Int8(format, _) => int_weights(format),
        Scheme::Fp8(scale) => {
            let strategy = match scale {
                Fp8Scale::Tensor => "tensor",
                Fp8Scale::Row => "channel",
                Fp8Scale::Block => "block",
            };
            let mut args = json!({
                "num_bits": 8, "type": "float", "symmetric": true, "strategy": strategy, "group_size": null,
                "dynamic": false,
            });
            if scale == Fp8Scale::Block {
                args["block_structure"] = json!([Fp8Scale::BLOCK, Fp8Scale::BLOCK]);
            }
            args
        }
    }
}

fn int_weights(IntFormat { bits, group, symmetric }: IntFormat) -> Value {
    let (strategy, size) = match group {
        Group::Row => ("channel", None),
        Group::Size(size) => ("group", Some(size)),
    };
    json!({
        "num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy, "group_size": size,
        "dynamic": false,
    })
}

fn inputs(scheme: Scheme) -> Value {
    let Scheme::Int8(_, inputs) = scheme else { return Value::Null };
    let (strategy, is_dynamic) = match inputs {
        Inputs::PerToken => ("token", true),
        Inputs::Static => ("tensor", false),
    };
    json!({
        "num_bits": 8, "type": "int", "symmetric": true, "strategy": strategy, "group_size": null, "dynamic": is_dynamic,
    })
}

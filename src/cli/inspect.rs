//! `trimtab inspect`: what a model contains, from its headers, or one layer from near.

use serde_json::{Value, json};

use crate::checkpoint::Checkpoint;
use crate::cli::args::InspectArgs;
use crate::cli::out::Out;
use crate::cli::table::{Column, numbers, table, words};
use crate::cli::{Verdict, inspect_layer, open};
use crate::model::{Layer, stored_layer_bytes};
use crate::units;

const COLUMNS: [Column; 6] =
    [words("layer"), words("role"), numbers("rows"), numbers("columns"), words("dtype"), numbers("bytes")];

pub(super) fn run(args: &InspectArgs, out: &mut Out) -> anyhow::Result<Verdict> {
    let checkpoint = open::model(&args.model)?;
    if let Some(layer) = &args.layer {
        return inspect_layer::run(&checkpoint, layer, args, out);
    }
    if args.json {
        out.json(&as_json(&checkpoint))?;
    } else {
        out.data(&as_text(&checkpoint))?;
    }
    Ok(Verdict::Done)
}

fn as_json(checkpoint: &Checkpoint) -> Value {
    let graph = checkpoint.graph();
    let layers: Vec<Value> = graph
        .layers
        .iter()
        .map(|layer| {
            json!({
                "path": layer.path,
                "block": layer.block,
                "role": layer.role.name(),
                "shape": layer.shape,
                "dtype": layer.stored_name(),
                "bytes": stored_layer_bytes(layer),
                "bias": layer.bias_len > 0,
            })
        })
        .collect();
    let refused: Vec<Value> =
        checkpoint.refused().iter().map(|tensor| json!({ "tensor": tensor.name, "reason": tensor.reason })).collect();
    json!({
        "name": graph.name,
        "family": graph.family.name(),
        "context": graph.family.max_context(),
        "blocks": graph.family.n_blocks(),
        "parameters": graph.n_parameters(),
        "bytes": graph.stored_bytes(),
        "other_bytes": graph.other_bytes,
        "fingerprint": graph.fingerprint,
        "config": graph.family,
        "layers": layers,
        "tensors": checkpoint.n_readable(),
        "refused": refused,
    })
}

fn as_text(checkpoint: &Checkpoint) -> String {
    let graph = checkpoint.graph();
    let mut lines = vec![
        format!(
            "{}: {}, {} blocks, context {}, {} parameters, {} as stored",
            graph.name,
            graph.family.name(),
            graph.family.n_blocks(),
            units::count(graph.family.max_context() as u64),
            units::parameters(graph.n_parameters()),
            units::bytes(graph.stored_bytes())
        ),
        format!("fingerprint {}", graph.fingerprint.0),
        table(&COLUMNS, graph.layers.iter().map(layer_row)),
        format!("norms, biases and tables: {}", units::bytes(graph.other_bytes)),
        format!("tensors: {} readable, {} refused", checkpoint.n_readable(), checkpoint.refused().len()),
    ];
    lines.extend(checkpoint.refused().iter().map(|tensor| format!("  {:?}: {}", tensor.name, tensor.reason)));
    lines.join("\n")
}

fn layer_row(layer: &Layer) -> Vec<String> {
    vec![
        layer.path.0.clone(),
        layer.role.name().to_owned(),
        layer.shape[0].to_string(),
        layer.shape[1].to_string(),
        layer.stored_name().to_owned(),
        units::bytes(stored_layer_bytes(layer)),
    ]
}

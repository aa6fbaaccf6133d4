//! The whole of an inspection on the embedded model, in this process.

use std::path::Path;

use super::*;
use crate::model::{LayerPath, LayerRole, ModelSource};
use crate::recipe::{Calibration, Policy};
use crate::worker::inspection::LayerView;

fn demo(layer: &str, map: Option<&Path>) -> InspectSpec {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/stories15M");
    let source = ModelSource::Safetensors { dir };
    InspectSpec { source, layer: LayerPath::from(layer), calibration: None, map: map.map(Path::to_owned) }
}

#[test]
fn a_layer_is_told_piece_by_piece() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.map");
    let (mut view, mut told) = (LayerView::default(), Vec::new());
    inspect(&demo("model.layers.2.self_attn.k_proj", Some(&path)), &mut |finding| {
        told.push(finding.clone());
        view.apply(finding);
    })
    .unwrap();
    assert!(matches!(told.first(), Some(Finding::Weights(_))));
    assert_eq!((told.get(1), told.last()), (Some(&Finding::Map), Some(&Finding::Complete)));
    let weights = view.weights.unwrap();
    assert_eq!((weights.n, weights.counts.iter().sum::<u64>()), (288 * 288, 288 * 288));
    let map = HeatMap::read(&path, [288, 288]).unwrap();
    assert_eq!(map.largest, weights.largest());
    let spectrum = view.spectrum.unwrap().unwrap();
    let norm = (weights.sd * weights.sd + weights.mean * weights.mean) * weights.n as f64;
    assert!((spectrum.discarded(0) / norm - 1.0).abs() < 1e-9);
    assert_eq!(view.candidates.len(), view.n_candidates);
    for told in told {
        let text = serde_json::to_string(&told).unwrap();
        assert_eq!(serde_json::from_str::<Finding>(&text).unwrap(), told, "it survives the pipe");
    }
}

#[test]
fn what_cannot_be_inspected_says_so() {
    let unknown = inspect(&demo("model.layers.9.self_attn.k_proj", None), &mut |_| {}).unwrap_err();
    assert!(unknown.message.contains("model.layers.9.self_attn.k_proj"), "{}", unknown.message);
    let absent = InspectSpec { source: ModelSource::Gguf { file: "absent.gguf".into() }, ..demo("x", None) };
    assert_eq!(inspect(&absent, &mut |_| {}).unwrap_err().kind, FailureKind::Model);
    let layer = Layer {
        path: LayerPath::from("a.b"),
        block: None,
        role: LayerRole::Head,
        shape: [2, 3],
        stored: StoredFormat::F32,
        bias_len: 0,
        rank: None,
        sparse: None,
        shared_with: None,
    };
    let broken = check_finite(&[0.0, 1.0, 2.0, 3.0, f32::NAN, 5.0], &layer).unwrap_err();
    assert_eq!(broken.kind, FailureKind::NonFinite);
    assert!(broken.message.contains("a.b: the weight in row 1, column 1 is not finite"), "{}", broken.message);
}

#[test]
fn calibrated_inputs_are_those_of_the_dense_model() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/calibration.jsonl");
    let text = Calibration { data: Some(data), windows: Some(2), context: Some(32), policy: Policy::Dense };
    let mut view = LayerView::default();
    let spec = InspectSpec { calibration: Some(text.clone()), ..demo("model.layers.1.mlp.down_proj", None) };
    inspect(&spec, &mut |finding| view.apply(finding)).unwrap();
    let inputs = view.inputs.unwrap().unwrap();
    assert_eq!((inputs.n_tokens, inputs.max_abs.len(), inputs.mean_abs.len()), (64, 768, 768));
    assert!(inputs.max_abs.iter().zip(&inputs.mean_abs).all(|(max, mean)| max >= mean));
    assert!(inputs.mean_abs.iter().any(|mean| *mean > 0.0));
    assert!(view.candidates.iter().any(|tried| tried.settings.needs_calibration()));

    let why = |layer: &str, text: Calibration| {
        let spec = demo(layer, None);
        let checkpoint = crate::checkpoint::open(&spec.source).unwrap();
        let layer = checkpoint.graph().layers.iter().find(|found| found.path == spec.layer).unwrap();
        inputs::moments(&spec, layer, &text, &mut |_, _| {}).unwrap_err()
    };
    let layer = "model.layers.1.self_attn.q_proj";
    assert!(why("model.embed_tokens", text.clone()).contains("blocks"));
    assert!(why(layer, Calibration { context: Some(257), ..text.clone() }).contains("257"));
    assert!(why(layer, Calibration { data: Some("absent.jsonl".into()), ..text.clone() }).contains("absent.jsonl"));
    assert!(why(layer, Calibration { data: None, ..text }).contains("no calibration text"));
}

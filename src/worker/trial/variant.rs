//! The variant of a trial: its plan, its model, and what is told of its making.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::{Layer, ModelGraph};
use crate::recipe::{BlockCut, BlockPart, BlockScore, LayerPlan, Plan, Recipe};
use crate::runtime::{CalibrationText, MadeLayer, Placed, Variant, Watch};
use crate::study::{
    CalibrationReport, Caution, CompressionReport, Failure, LayerReport, Measurements, Memory, Phase, StudyEvent,
    TrialSpec,
};
use crate::telemetry::{ConditionsProbe, memory};
use crate::worker::trial::{Open, TrialSink, failure, plan_cautions, resolve};

/// A variant with its plan and what is told of its making.
pub(super) struct Built {
    pub(super) plan: Plan,
    pub(super) variant: Variant,
    pub(super) report: Option<CompressionReport>,
    pub(super) cautions: Vec<Caution>,
}

impl Open {
    /// Makes the variant of a trial, and its file where `out` names one.
    pub(super) fn build(
        &mut self,
        spec: &TrialSpec,
        out: Option<&Path>,
        sink: &TrialSink<'_>,
    ) -> Result<Built, Failure> {
        let mut plan = resolve(&spec.recipe, &self.store, spec.device)?;
        let text = if plan.needs_calibration() { Some(self.calibration(&plan.calibration)?) } else { None };
        let watch = TrialWatch { sink, last: AtomicU64::new(u64::MAX) };
        let mut notes = Vec::new();
        if let (Some(cut), Some(text)) = (chosen_by_score(&plan), &text) {
            let chosen = self.store.choose_blocks(&plan, text, &watch).map_err(failure)?;
            notes.push(chosen_note(&cut, &chosen));
            let recipe = with_dropped(&spec.recipe, chosen);
            plan = resolve(&recipe, &self.store, spec.device)?;
        }
        let variant = match out {
            None => self.store.build(&plan, text.as_deref(), &watch),
            Some(out) => self.store.make(&plan, text.as_deref(), &watch, out),
        };
        let variant = variant.map_err(failure)?;
        notes.extend(variant.notes.iter().cloned());
        notes.extend(made_whole(&plan, self.store.checkpoint().graph()));
        let report = report(&variant, text.as_ref(), &plan, notes);
        let cautions = cautions(&variant, text.as_deref());
        Ok(Built { plan, variant, report, cautions })
    }

    /// Makes the variant of a trial as a file, and tells its bytes.
    pub(super) fn make(
        &mut self,
        spec: &TrialSpec,
        out: &Path,
        threads: u16,
        sink: &TrialSink<'_>,
    ) -> Result<(Measurements, Vec<Caution>), Failure> {
        let probe = ConditionsProbe::start();
        let Built { plan, variant, report, mut cautions } = self.build(spec, Some(out), sink)?;
        let conditions = probe.finish(threads);
        cautions.extend(plan_cautions(&plan));
        let measurements = measurements(&plan, &variant, report, conditions, None);
        Ok((measurements, cautions))
    }
}

/// What the reader must know where layers that the checkpoint has as thin factors, shares, or without their zeros are made anew:
/// each then has a whole tensor of its own, which may be larger.
fn made_whole(plan: &Plan, graph: &ModelGraph) -> Option<String> {
    let is_compact = |planned: &LayerPlan, layer: &Layer| {
        let has_zeros_again = layer.sparse.is_some() && planned.settings.bitmask_values(layer.stored).is_none();
        layer.rank.is_some() || layer.shared_with.is_some() || has_zeros_again
    };
    let is_anew = |planned: &LayerPlan, layer: &Layer| {
        planned.shape.is_some() && (planned.shape != Some(layer.shape) || !planned.settings.is_reference())
    };
    let layers = plan.layers.iter().zip(&graph.layers);
    let n = layers.filter(|(planned, layer)| is_compact(planned, layer) && is_anew(planned, layer)).count();
    (n > 0).then(|| {
        format!("{n} layers that the checkpoint has as thin factors, shares or without zeros are whole tensors of their own here")
    })
}

/// What is known of a variant before anything is measured.
///
/// - `placed`: the variant where it runs; `None` where it does not
pub(super) fn measurements(
    plan: &Plan,
    variant: &Variant,
    compression: Option<CompressionReport>,
    conditions: crate::study::Conditions,
    placed: Option<&Placed>,
) -> Measurements {
    let on_host = || (variant.products(), variant.held_bytes());
    let (products, held_bytes) = placed.and_then(Placed::on_card).unwrap_or_else(on_host);
    Measurements {
        quality: None,
        dequantized_quality: None,
        speed: None,
        memory: Memory {
            weight_bytes: variant.weight_bytes,
            held_bytes,
            peak_rss_bytes: memory::peak_resident_bytes(),
            peak_gpu_bytes: None,
            predicted_peak_bytes: None,
        },
        energy: None,
        bits_per_weight: variant.bits_per_weight,
        simulated_layers: plan.n_simulated() as u32,
        products,
        compressed_layers: variant.compressed_layers(),
        compress_secs: variant.compress_secs,
        compression,
        sample_text: None,
        conditions,
    }
}

/// The cut of blocks that the text decides.
fn chosen_by_score(plan: &Plan) -> Option<BlockCut> {
    plan.structure.blocks.clone().filter(|cut| cut.drop.is_empty() && cut.count > 0)
}

fn with_dropped(recipe: &Recipe, chosen: Vec<u16>) -> Recipe {
    let mut recipe = recipe.clone();
    if let Some(cut) = &mut recipe.structure.blocks {
        (cut.drop, cut.count) = (chosen, 0);
    }
    recipe
}

fn chosen_note(cut: &BlockCut, chosen: &[u16]) -> String {
    let what = match cut.part {
        BlockPart::Block => "removed",
        BlockPart::Attention => "without attention",
        BlockPart::Mlp => "without MLP",
    };
    let how = match cut.score {
        BlockScore::BlockInfluence => "block influence",
        BlockScore::MeasuredKl => "measured KL",
    };
    let chosen: Vec<String> = chosen.iter().map(ToString::to_string).collect();
    format!("blocks {what}, chosen by {how}: {}", chosen.join(", "))
}

/// What is told of the making; nothing where every layer is the checkpoint's own.
fn report(
    variant: &Variant,
    text: Option<&Arc<CalibrationText>>,
    plan: &Plan,
    notes: Vec<String>,
) -> Option<CompressionReport> {
    let layers: Vec<LayerReport> = variant.layers.iter().map(layer_report).collect();
    let calibration = text.map(|text| {
        let told = variant.calibrated.unwrap_or_default();
        let thin = variant.layers.iter().filter(|layer| layer.is_thin);
        CalibrationReport {
            text: text.name.clone(),
            hash: blake3::Hash::from_bytes(text.hash).to_hex()[..16].to_owned(),
            windows: text.tokens.len() as u32,
            available: text.available,
            context: text.tokens.first().map_or(0, Vec::len) as u32,
            policy: plan.calibration.policy,
            cached_blocks: told.cached_blocks,
            read_blocks: told.read_blocks,
            thin_layers: thin.map(|layer| layer.path.clone()).collect(),
            secs: told.secs,
        }
    });
    let report = CompressionReport { calibration, layers, peak_rss_bytes: None, notes };
    (report != CompressionReport::default()).then_some(report)
}

fn layer_report(layer: &MadeLayer) -> LayerReport {
    LayerReport {
        path: layer.path.clone(),
        output_error: layer.output_error,
        secs: layer.secs,
        from_database: layer.was_kept,
        packed_bytes: layer.packed_bytes,
        notes: layer.notes.clone(),
    }
}

fn cautions(variant: &Variant, text: Option<&CalibrationText>) -> Vec<Caution> {
    let count = |is_so: fn(&MadeLayer) -> bool| variant.layers.iter().filter(|layer| is_so(layer)).count() as u32;
    let (thin, slow, noted) =
        (count(|layer| layer.is_thin), count(|layer| layer.is_slow), count(|layer| !layer.notes.is_empty()));
    let mut cautions = Vec::new();
    if let Some(text) = text {
        let windows = text.tokens.len() as u32;
        if windows < text.asked {
            cautions.push(Caution::ShortCalibration { windows, asked: text.asked });
        }
        if thin > 0 {
            cautions.push(Caution::ThinCalibration { layers: thin, tokens: text.n_tokens() });
        }
    }
    if noted > 0 {
        cautions.push(Caution::Noted { layers: noted });
    }
    if slow > 0 {
        cautions.push(Caution::SlowLowRank { layers: slow });
    }
    cautions
}

/// Tells the host how the making goes.
struct TrialWatch<'a> {
    sink: &'a TrialSink<'a>,
    /// The last step that was told: one event a step is enough.
    last: AtomicU64,
}

impl TrialWatch<'_> {
    fn step(&self, phase: Phase, done: u32, total: u32) -> bool {
        let step = u64::from(phase == Phase::Calibrate) << 32 | u64::from(done);
        if self.last.swap(step, Ordering::Relaxed) == step {
            return !self.sink.sink.is_cancelled();
        }
        self.sink.progress(phase, done, total)
    }
}

impl Watch for TrialWatch<'_> {
    fn calibrating(&self, done: u32, total: u32) -> bool {
        self.step(Phase::Calibrate, done, total)
    }

    fn compressing(&self, done: u32, total: u32) -> bool {
        self.step(Phase::Compress, done, total)
    }

    fn made(&self, layer: &MadeLayer) {
        self.sink.sink.event(StudyEvent::LayerCompressed {
            trial: self.sink.spec.id,
            path: layer.path.clone(),
            output_error: layer.output_error,
            from_database: layer.was_kept,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{DeviceInfo, DeviceSpec};
    use crate::model::LayerRole;
    use crate::model::fixtures::tiny_graph;
    use crate::recipe::WeightFormat;

    #[test]
    fn compact_layers_that_become_whole_are_told() {
        let mut graph = tiny_graph();
        graph.layers.iter_mut().filter(|layer| layer.role == LayerRole::UpProj).for_each(|layer| layer.rank = Some(8));
        let spec = DeviceSpec::Cpu { threads: 1 };
        let device = DeviceInfo::named(spec, "");
        let told = |recipe: &Recipe| made_whole(&recipe.resolve(&graph, &device).unwrap(), &graph);
        assert_eq!(told(&Recipe::reference()), None);
        let q8_0 = told(&Recipe::uniform("x", WeightFormat::Q8_0, None)).unwrap();
        assert!(q8_0.starts_with("2 layers"), "{q8_0}");
    }
}

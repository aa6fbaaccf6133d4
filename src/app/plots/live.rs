//! What a trial shows while it runs, and the same from its record when it has ended.

use egui_plot::PlotPoint;

use crate::app::plots::decimate::min_max;
use crate::app::plots::metrics::mib;
use crate::app::plots::running_mean::RunningMean;
use crate::study::{Arm, Phase, PhaseSpeed, Study, Trial, TrialId, TrialState, WindowScore};
use crate::telemetry::{GpuSample, HardwareSample, TelemetrySnapshot};

/// Where a series comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The trial that runs now.
    Running(TrialId),
    /// The record of a finished trial.
    Recorded(TrialId),
}

impl Source {
    /// The running trial, else the selected finished one; `None` when there is neither.
    pub fn choose(study: &Study, selected: Option<TrialId>) -> Option<Self> {
        let is_running = |id: &TrialId| {
            study.trials.get(id).is_some_and(|trial| trial.state == TrialState::Running) && study.ended.is_none()
        };
        if let Some(id) = study.live.trial.filter(is_running) {
            return Some(Self::Running(id));
        }
        let finished =
            |id: &TrialId| study.trials.get(id).is_some_and(|trial| matches!(trial.state, TrialState::Finished { .. }));
        selected.filter(finished).map(Self::Recorded)
    }

    /// The trial.
    pub fn trial(self) -> TrialId {
        match self {
            Self::Running(id) | Self::Recorded(id) => id,
        }
    }
}

/// A series with the middle of its values.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Band {
    /// Points to draw, decimated: sample number and milliseconds.
    pub points: Vec<PlotPoint>,
    /// Samples behind it.
    pub n: usize,
    /// Median, 10th and 90th percentile, in milliseconds; `None` without samples.
    pub middle: Option<[f64; 3]>,
}

impl Band {
    fn of(nanos: impl Iterator<Item = u64>, columns: usize) -> Self {
        let points: Vec<PlotPoint> =
            (1..).zip(nanos).map(|(number, nanos)| PlotPoint::new(f64::from(number), nanos as f64 / 1e6)).collect();
        let mut sorted: Vec<f64> = points.iter().map(|point| point.y).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted.get((share * (sorted.len().saturating_sub(1)) as f64).round() as usize).copied();
        let middle = at(0.5).zip(at(0.1)).zip(at(0.9)).map(|((median, low), high)| [median, low, high]);
        Self { n: points.len(), points: min_max(points, columns), middle }
    }
}

/// Latency sample by sample.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Latency {
    /// The trial's recipe.
    pub variant: Band,
    /// The checkpoint as it is, interleaved with it.
    pub reference: Band,
    /// Layers are simulated, so the time is not the format's own.
    pub simulated: bool,
    /// Samples above three times the slower arm's band, drawn at that height so that they do not flatten the rest.
    pub cut: Vec<PlotPoint>,
}

impl Latency {
    /// Samples of one timed phase.
    pub fn new(study: &Study, source: Source, phase: Phase, columns: usize) -> Self {
        let mut latency = match source {
            Source::Running(_) => {
                let series = if phase == Phase::Prefill { &study.live.prefill_nanos } else { &study.live.decode_nanos };
                let arm = |wanted: Arm| {
                    Band::of(series.iter().filter(|(arm, _)| *arm == wanted).map(|(_, nanos)| *nanos), columns)
                };
                Self { variant: arm(Arm::Variant), reference: arm(Arm::Reference), ..Self::default() }
            }
            Source::Recorded(id) => {
                let Some(speed) = recorded_phase(study, id, phase) else { return Self::default() };
                let simulated = study.trials[&id].measurements().is_some_and(|found| found.simulated_layers > 0);
                Self {
                    variant: Band::of(speed.samples_nanos.iter().copied(), columns),
                    reference: Band::of(speed.reference_nanos.iter().copied(), columns),
                    simulated,
                    cut: Vec::new(),
                }
            }
        };
        latency.cut_spikes();
        latency
    }

    /// Whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        self.variant.n == 0 && self.reference.n == 0
    }

    fn cut_spikes(&mut self) {
        let bands = [&mut self.variant, &mut self.reference];
        let high = bands.iter().filter_map(|band| band.middle).map(|[.., high]| high).fold(0.0, f64::max);
        let ceiling = 3.0 * high;
        for point in bands.into_iter().flat_map(|band| &mut band.points).filter(|point| point.y > ceiling) {
            point.y = ceiling;
            self.cut.push(*point);
        }
    }
}

fn recorded_phase(study: &Study, id: TrialId, phase: Phase) -> Option<&PhaseSpeed> {
    let speed = study.trials.get(&id)?.measurements()?.speed.as_ref()?;
    Some(if phase == Phase::Prefill { &speed.prefill } else { &speed.decode })
}

/// The timed phase that has something to show: the running one, else decode if it has samples.
pub fn shown_phase(study: &Study, source: Source) -> Phase {
    match source {
        Source::Running(_) => match study.live.progress {
            Some((phase, ..)) if phase.is_timed() => phase,
            _ if study.live.decode_nanos.is_empty() => Phase::Prefill,
            _ => Phase::Decode,
        },
        Source::Recorded(_) => Phase::Decode,
    }
}

/// A phase of a trial as a stretch of time, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PhaseSpan {
    /// The phase.
    pub phase: Phase,
    /// Its beginning.
    pub from_secs: f64,
    /// Its end, or now.
    pub to_secs: f64,
}

/// Memory of one GPU over time.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuMemoryCurve {
    /// Seconds and MiB.
    pub points: Vec<PlotPoint>,
    /// It is that of our processes; that of all where the driver does not tell them apart.
    pub is_own: bool,
}

/// Memory over time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MemoryCurve {
    /// Resident memory of the worker: seconds and MiB.
    pub worker: Vec<PlotPoint>,
    /// Memory in use on each GPU: only while the trial runs, and only with a GPU.
    pub gpus: Vec<GpuMemoryCurve>,
    /// Phases, where they were seen.
    pub phases: Vec<PhaseSpan>,
    /// The peak that the kernel counted, in MiB.
    pub peak_mib: Option<f64>,
}

impl MemoryCurve {
    /// The curve of one trial.
    pub fn new(study: &Study, source: Source, telemetry: &TelemetrySnapshot, columns: usize) -> Self {
        let curve = |series: &[(u64, u64)]| {
            let points = series.iter().map(|(millis, bytes)| PlotPoint::new(*millis as f64 / 1e3, mib(*bytes)));
            min_max(points.collect(), columns)
        };
        match source {
            Source::Running(_) => {
                let worker = curve(&study.live.memory);
                let now = worker.last().map_or(0.0, |point| point.x);
                Self {
                    gpus: gpu_curves(telemetry, now, columns),
                    phases: phase_spans(&study.live.phases, now),
                    worker,
                    peak_mib: None,
                }
            }
            Source::Recorded(id) => {
                let trial = study.trials.get(&id);
                let worker = match trial.map(|trial| &trial.state) {
                    Some(TrialState::Finished { memory_curve, .. }) => curve(memory_curve),
                    _ => Vec::new(),
                };
                let measured = trial.and_then(Trial::measurements);
                let peak_mib = measured.and_then(|found| found.memory.peak_rss_bytes).map(mib);
                Self { worker, peak_mib, ..Self::default() }
            }
        }
    }
}

fn phase_spans(begins: &[(u64, Phase)], now: f64) -> Vec<PhaseSpan> {
    let begin = |index: usize| begins.get(index).map(|(millis, _)| *millis as f64 / 1e3);
    (0..begins.len())
        .filter_map(|index| {
            let (from_secs, to_secs) = (begin(index)?, begin(index + 1).unwrap_or(now));
            (to_secs > from_secs).then_some(PhaseSpan { phase: begins[index].1, from_secs, to_secs })
        })
        .collect()
}

/// GPU memory with the clock of the trial: ours where the newest reading tells it, else that of all.
fn gpu_curves(telemetry: &TelemetrySnapshot, now: f64, columns: usize) -> Vec<GpuMemoryCurve> {
    let Some(newest) = telemetry.history.last() else { return Vec::new() };
    let own = |gpu: &GpuSample| gpu.own_memory_bytes.map(mib);
    let all = |gpu: &GpuSample| gpu.memory_used_bytes.map(mib);
    let curve = |(number, gpu): (usize, &GpuSample)| {
        let is_own = gpu.own_memory_bytes.is_some();
        let points = if is_own {
            gpu_curve(telemetry, number, now, columns, own)
        } else {
            gpu_curve(telemetry, number, now, columns, all)
        };
        GpuMemoryCurve { points, is_own }
    };
    newest.gpus.iter().enumerate().map(curve).filter(|curve| !curve.points.is_empty()).collect()
}

/// A quantity of one GPU with the clock of the trial.
fn gpu_curve(
    telemetry: &TelemetrySnapshot,
    number: usize,
    now: f64,
    columns: usize,
    read: impl Fn(&GpuSample) -> Option<f64>,
) -> Vec<PlotPoint> {
    on_trial_time(telemetry, now, columns, |sample| {
        let gpu = sample.gpus.get(number)?;
        Some((gpu.at_secs, read(gpu)?))
    })
}

/// Readings, each with its own moment, with the clock of the trial: the newest of both is taken as the same moment.
fn on_trial_time(
    telemetry: &TelemetrySnapshot,
    now: f64,
    columns: usize,
    read: impl Fn(&HardwareSample) -> Option<(f64, f64)>,
) -> Vec<PlotPoint> {
    let Some(newest) = telemetry.history.last() else { return Vec::new() };
    let points = telemetry.history.iter().filter_map(|sample| {
        let (at_secs, value) = read(sample)?;
        let at = now - (newest.at_secs - at_secs);
        (at >= 0.0).then(|| PlotPoint::new(at, value))
    });
    min_max(points.collect(), columns)
}

/// What the machine did while a trial ran, by quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Quantity {
    /// Memory of the worker and of GPUs, in MiB.
    #[default]
    Memory,
    /// Power of GPUs, in watts.
    Power,
    /// Clocks of the processor and of GPUs, in MHz.
    Clock,
}

/// Whose reading a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The processor.
    Processor,
    /// A GPU by its position.
    Gpu(usize),
    /// The memory of a GPU.
    GpuMemory(usize),
}

/// Power or clocks over the time of a trial.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MachineCurves {
    /// Seconds and watts or MHz, of each that is read.
    pub lines: Vec<(Owner, Vec<PlotPoint>)>,
    /// Phases, where they were seen.
    pub phases: Vec<PhaseSpan>,
}

impl MachineCurves {
    /// The curves of a trial that runs. Records keep none.
    pub fn new(
        study: &Study,
        source: Source,
        telemetry: &TelemetrySnapshot,
        quantity: Quantity,
        columns: usize,
    ) -> Self {
        if matches!(source, Source::Recorded(_)) {
            return Self::default();
        }
        let now = study.live.memory.last().map_or(0.0, |(millis, _)| *millis as f64 / 1e3);
        let gpu = |number, read: fn(&GpuSample) -> Option<f64>| gpu_curve(telemetry, number, now, columns, read);
        let mut lines = Vec::new();
        if quantity == Quantity::Clock {
            let clock = |sample: &HardwareSample| Some((sample.at_secs, sample.frequency_mhz?));
            lines.push((Owner::Processor, on_trial_time(telemetry, now, columns, clock)));
        }
        for number in 0..telemetry.history.last().map_or(0, |newest| newest.gpus.len()) {
            match quantity {
                Quantity::Memory => {}
                Quantity::Power => lines.push((Owner::Gpu(number), gpu(number, |gpu| gpu.power_watts))),
                Quantity::Clock => {
                    lines.push((Owner::Gpu(number), gpu(number, |gpu| gpu.sm_clock_mhz.map(f64::from))));
                    lines.push((Owner::GpuMemory(number), gpu(number, |gpu| gpu.memory_clock_mhz.map(f64::from))));
                }
            }
        }
        lines.retain(|(_, points)| !points.is_empty());
        Self { lines, phases: phase_spans(&study.live.phases, now) }
    }
}

/// Which quality is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QualityKind {
    /// Mean KL to the reference, in nats.
    #[default]
    Kl,
    /// Perplexity over the reference's.
    PerplexityRatio,
}

/// An estimate as it tightens, window by window.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Convergence {
    /// Number of windows.
    pub xs: Vec<f64>,
    /// The mean over them.
    pub mean: Vec<PlotPoint>,
    /// Lower ends of the 95 % interval.
    pub low: Vec<f64>,
    /// Upper ends of the 95 % interval.
    pub high: Vec<f64>,
    /// The newest mean and interval, once there are two windows.
    pub newest: Option<(f64, [f64; 2])>,
    /// The study's limit, if it has one for this quality.
    pub limit: Option<f64>,
    /// Windows scored.
    pub n: usize,
}

impl Convergence {
    /// The running estimate of one trial.
    pub fn new(study: &Study, source: Source, kind: QualityKind, columns: usize) -> Self {
        let windows: &[WindowScore] = match source {
            Source::Running(_) => &study.live.windows,
            Source::Recorded(id) => study
                .trials
                .get(&id)
                .and_then(Trial::measurements)
                .and_then(|found| found.quality.as_ref())
                .map_or(&[], |quality| &quality.windows),
        };
        let limits = study.header.as_ref().map(|header| header.spec.limits);
        let limit = limits.and_then(|limits| match kind {
            QualityKind::Kl => limits.max_kl,
            QualityKind::PerplexityRatio => limits.max_perplexity_ratio,
        });
        Self { limit, ..Self::of(windows, kind, columns) }
    }

    fn of(windows: &[WindowScore], kind: QualityKind, columns: usize) -> Self {
        let shown = |mean: f64| if kind == QualityKind::Kl { mean } else { mean.exp() };
        let mut running = RunningMean::default();
        let mut out = Self { n: windows.len(), ..Self::default() };
        // The band is smooth, so every k-th window tells the whole of it.
        let stride = windows.len().div_ceil(columns.max(100)).max(1);
        for (index, window) in windows.iter().enumerate() {
            running.push(match kind {
                QualityKind::Kl => window.kl,
                QualityKind::PerplexityRatio => window.nll - window.reference_nll,
            });
            let Some(ci95) = running.ci95() else { continue };
            // Bands of two or three windows are so wide that they would flatten the rest.
            if windows.len() > 8 && index < 3 {
                continue;
            }
            let last = index + 1 == windows.len();
            let (mean, ci95) = (shown(running.mean()), ci95.map(shown));
            if index % stride == 0 || last {
                out.xs.push((index + 1) as f64);
                out.mean.push(PlotPoint::new((index + 1) as f64, mean));
                out.low.push(if kind == QualityKind::Kl { ci95[0].max(0.0) } else { ci95[0] });
                out.high.push(ci95[1]);
            }
            if last {
                out.newest = Some((mean, ci95));
            }
        }
        out
    }

    /// Whether the limit is close enough to be drawn without flattening the band.
    pub fn limit_is_near(&self) -> bool {
        let low = self.low.iter().copied().fold(f64::INFINITY, f64::min);
        let high = self.high.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let reach = 4.0 * (high - low).max(0.0);
        self.limit.is_some_and(|limit| limit > low - reach && limit < high + reach)
    }
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;

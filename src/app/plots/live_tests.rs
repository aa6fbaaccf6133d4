use super::*;
use crate::app::plots::fixtures;

#[test]
fn the_running_trial_comes_before_the_selected_one() {
    let done = fixtures::study(4);
    assert_eq!(Source::choose(&done, None), None);
    assert_eq!(Source::choose(&done, Some(TrialId(2))), Some(Source::Recorded(TrialId(2))));
    assert_eq!(Source::choose(&done, Some(TrialId(99))), None);
    let running = fixtures::running(4);
    assert_eq!(Source::choose(&running, Some(TrialId(2))), Some(Source::Running(TrialId(4))));
    assert_eq!(shown_phase(&running, Source::Running(TrialId(4))), Phase::Decode);
}

#[test]
fn both_arms_have_median_and_band() {
    let study = fixtures::running(4);
    let latency = Latency::new(&study, Source::Running(TrialId(4)), Phase::Decode, 300);
    assert_eq!((latency.variant.n, latency.reference.n), (240, 240));
    let [median, low, high] = latency.variant.middle.unwrap();
    assert!(low < median && median < high && (1.2..1.4).contains(&median), "{median}");
    let recorded = Latency::new(&study, Source::Recorded(TrialId(3)), Phase::Decode, 300);
    assert!(recorded.simulated && !recorded.is_empty());
    let failed = fixtures::study(8);
    assert!(Latency::new(&failed, Source::Recorded(TrialId(6)), Phase::Decode, 300).is_empty());
}

#[test]
fn spikes_are_cut_off_and_counted() {
    let mut study = fixtures::running(4);
    study.live.decode_nanos.push((Arm::Variant, 90_000_000));
    let latency = Latency::new(&study, Source::Running(TrialId(4)), Phase::Decode, 300);
    let highest = latency.variant.points.iter().map(|point| point.y).fold(0.0, f64::max);
    assert!(highest < 20.0 && latency.cut.len() == 1, "{highest} {}", latency.cut.len());
    assert_eq!(latency.cut[0].y, highest);
}

#[test]
fn phases_fill_the_time_without_overlap() {
    let study = fixtures::running(4);
    let curve = MemoryCurve::new(&study, Source::Running(TrialId(4)), &TelemetrySnapshot::default(), 300);
    assert_eq!(curve.phases.len(), 5);
    assert!(curve.phases.windows(2).all(|pair| pair[0].to_secs == pair[1].from_secs));
    assert_eq!(curve.phases[4].to_secs, curve.worker.last().unwrap().x);
    assert!(curve.gpus.is_empty(), "no GPU, no series");
}

#[test]
fn gpu_memory_is_drawn_only_when_it_is_read() {
    let study = fixtures::running(4);
    let sample = |at_secs: f64, memory_used_bytes| HardwareSample {
        at_secs,
        gpus: vec![GpuSample { at_secs, memory_used_bytes, ..GpuSample::default() }],
        ..HardwareSample::default()
    };
    let with = |bytes| TelemetrySnapshot {
        history: (0..40).map(|step| sample(f64::from(step) * 0.1, bytes)).collect(),
        ..TelemetrySnapshot::default()
    };
    let source = Source::Running(TrialId(4));
    let curve = MemoryCurve::new(&study, source, &with(Some(3 << 20)), 300);
    assert_eq!(curve.gpus.len(), 1);
    let now = curve.worker.last().unwrap().x;
    assert_eq!((curve.gpus[0].points.last().unwrap(), curve.gpus[0].is_own), (&PlotPoint::new(now, 3.0), false));
    let mut own = with(Some(3 << 20));
    own.history.iter_mut().for_each(|sample| sample.gpus[0].own_memory_bytes = Some(1 << 20));
    let curve = MemoryCurve::new(&study, source, &own, 300);
    assert_eq!((curve.gpus[0].points.last().unwrap(), curve.gpus[0].is_own), (&PlotPoint::new(now, 1.0), true));
    assert!(MemoryCurve::new(&study, source, &with(None), 300).gpus.is_empty());
}

#[test]
fn power_and_clocks_lie_on_the_time_of_the_trial() {
    let study = fixtures::running(4);
    let sample = |step: u32| {
        let at_secs = f64::from(step) * 0.1;
        // The GPU is read by a clock of its own, here 20 ms before the host.
        let gpu = GpuSample { at_secs: at_secs - 0.02, power_watts: Some(300.0), ..GpuSample::default() };
        let second = GpuSample { at_secs, sm_clock_mhz: Some(1980), memory_clock_mhz: Some(3201), ..gpu.clone() };
        let second = GpuSample { power_watts: None, ..second };
        HardwareSample { at_secs, frequency_mhz: Some(2600.0), gpus: vec![gpu, second], ..HardwareSample::default() }
    };
    let telemetry = TelemetrySnapshot { history: (0..40).map(sample).collect(), ..TelemetrySnapshot::default() };
    let source = Source::Running(TrialId(4));
    let curves = |quantity| MachineCurves::new(&study, source, &telemetry, quantity, 300);
    let now = MemoryCurve::new(&study, source, &telemetry, 300).worker.last().unwrap().x;
    let power = curves(Quantity::Power);
    assert_eq!(power.lines.len(), 1, "the second tells no power");
    let (owner, points) = &power.lines[0];
    let last = points.last().unwrap();
    assert_eq!((*owner, last.y), (Owner::Gpu(0), 300.0));
    assert!((last.x - (now - 0.02)).abs() < 1e-9);
    let owners: Vec<Owner> = curves(Quantity::Clock).lines.into_iter().map(|(owner, _)| owner).collect();
    assert_eq!(owners, [Owner::Processor, Owner::Gpu(1), Owner::GpuMemory(1)]);
    assert_eq!(power.phases, MemoryCurve::new(&study, source, &telemetry, 300).phases);
    let recorded = MachineCurves::new(&study, Source::Recorded(TrialId(1)), &telemetry, Quantity::Power, 300);
    assert_eq!(recorded, MachineCurves::default());
}

#[test]
fn a_recorded_curve_has_the_kernels_peak() {
    let study = fixtures::study(2);
    let curve = MemoryCurve::new(&study, Source::Recorded(TrialId(1)), &TelemetrySnapshot::default(), 300);
    assert_eq!(curve.worker.len(), 64);
    assert!(curve.peak_mib.is_some_and(|peak| (156.0..157.0).contains(&peak)));
}

#[test]
fn the_band_narrows_around_the_mean() {
    let study = fixtures::running(2);
    for kind in [QualityKind::Kl, QualityKind::PerplexityRatio] {
        let found = Convergence::new(&study, Source::Running(TrialId(2)), kind, 300);
        assert_eq!((found.n, found.mean.len()), (24, 21), "the band begins with the fourth window");
        let width = |index: usize| found.high[index] - found.low[index];
        assert!(width(20) < 0.5 * width(2));
        let (mean, [low, high]) = found.newest.unwrap();
        assert!(low < mean && mean < high);
        assert!(found.limit.is_some());
        assert!(found.limit_is_near(), "q4_0 loses about as much as is allowed");
    }
}

#[test]
fn a_far_limit_does_not_flatten_the_band() {
    let study = fixtures::running(1);
    let found = Convergence::new(&study, Source::Running(TrialId(1)), QualityKind::Kl, 300);
    assert!(found.limit == Some(0.1) && !found.limit_is_near());
}

#[test]
fn one_window_and_equal_windows_have_no_false_band() {
    let window = WindowScore { nll: 1.0, reference_nll: 1.0, kl: 0.0, top1: 1.0 };
    assert_eq!(Convergence::of(&[window], QualityKind::Kl, 300).newest, None);
    let equal = Convergence::of(&[window; 9], QualityKind::PerplexityRatio, 300);
    assert_eq!(equal.newest, Some((1.0, [1.0, 1.0])));
    assert!(!equal.limit_is_near());
    let many = Convergence::of(&vec![window; 20_000], QualityKind::Kl, 300);
    assert!(many.mean.len() <= 302 && many.mean.last().unwrap().x == 20_000.0);
}

//! The threads that read the sensors: one the host, one the GPUs, so that neither waits for the other.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::telemetry::gpu::{GpuSource, Gpus};
use crate::telemetry::host::Host;
use crate::telemetry::nvml::NvmlSource;
use crate::telemetry::process::Kernel;
use crate::telemetry::{GpuDevice, GpuSample, HardwareSample, TelemetrySnapshot};

/// Time between readings.
const PERIOD: Duration = Duration::from_millis(100);

/// Time between readings of the GPUs: some are left of ten a second when one is late.
const GPU_PERIOD: Duration = Duration::from_millis(90);

/// How long the first reading waits for that of the GPUs: a driver that nobody uses takes a second or two to begin.
const FIRST_GPU: Duration = Duration::from_secs(3);

/// After which a reading of the GPUs is no longer the present: the driver hangs.
const GPU_STALE_SECS: f64 = 2.0;

/// How long the end waits for a reading of the GPUs that has begun.
const GPU_END: Duration = Duration::from_millis(500);

/// Readings between two calls of `wake`: each may cost a frame, and frames disturb what is being measured.
const WAKE_EVERY: u64 = 5;

/// Readings between two of the slow sensors.
const SLOW_EVERY: u64 = 10;

/// Readings of the newest minute, all kept.
const MAX_FINE: usize = 600;

/// Readings of the nine minutes before it, one a second.
const MAX_COARSE: usize = 540;

/// Reads host and GPUs ten times a second on threads of its own, which end when this is dropped.
pub struct Telemetry {
    latest: Arc<Mutex<Arc<TelemetrySnapshot>>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    gpu_ended: Receiver<()>,
}

/// What the GPUs' thread found last.
#[derive(Debug, Default)]
struct GpuState {
    devices: Vec<GpuDevice>,
    samples: Vec<GpuSample>,
    no_gpu: Option<String>,
}

impl Telemetry {
    /// Starts the threads. `wake` is called on one of them twice a second, after a reading; it must not block.
    ///
    /// When no thread can be started, the snapshot stays empty.
    pub fn start(wake: Option<Arc<dyn Fn() + Send + Sync>>) -> Self {
        Self::start_with(wake, || NvmlSource::open().map(|source| Box::new(source) as Box<dyn GpuSource>))
    }

    /// As [`Self::start`], with GPUs that `open` names on their thread.
    fn start_with(
        wake: Option<Arc<dyn Fn() + Send + Sync>>,
        open: impl FnOnce() -> Result<Box<dyn GpuSource>, String> + Send + 'static,
    ) -> Self {
        let latest = Arc::new(Mutex::new(Arc::new(TelemetrySnapshot::default())));
        let (stop, stopped) = bounded(0);
        let (ended, gpu_ended) = bounded(0);
        let (first, read) = bounded(1);
        let started = Instant::now();
        let gpus = Arc::new(Mutex::new(GpuState::default()));
        let (slot, gpu_slot, gpu_stopped) = (Arc::clone(&latest), Arc::clone(&gpus), stopped.clone());
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
            thread.inspect_err(|error| log::warn!("no hardware readings: a thread could not be started: {error}")).ok()
        };
        // Not joined: a driver that hangs must not hold up the window's end.
        spawn(
            "telemetry-gpu",
            Box::new(move || {
                let _ended = ended;
                read_gpus(open, started, &gpu_slot, &first, &gpu_stopped);
            }),
        );
        let thread = spawn(
            "telemetry",
            Box::new(move || {
                // A thread that could not be started has dropped its end.
                let _first = read.recv_timeout(FIRST_GPU);
                read_until(&stopped, started, &slot, &gpus, wake.as_deref());
            }),
        );
        Self { latest, stop: Some(stop), thread, gpu_ended }
    }

    /// The newest readings. Never waits for a sensor.
    pub fn snapshot(&self) -> Arc<TelemetrySnapshot> {
        Arc::clone(&self.latest.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::warn!("the telemetry thread panicked: its last readings were old");
        }
        if self.gpu_ended.recv_timeout(GPU_END) == Err(RecvTimeoutError::Timeout) {
            log::warn!("the NVIDIA driver does not answer: its reading was left behind");
        }
    }
}

/// Reads the GPUs until told to stop; says with the first reading, or its absence, that there is something to see.
fn read_gpus(
    open: impl FnOnce() -> Result<Box<dyn GpuSource>, String>,
    started: Instant,
    slot: &Mutex<GpuState>,
    first: &Sender<()>,
    stopped: &Receiver<()>,
) {
    let put = |state: GpuState| *slot.lock().unwrap_or_else(PoisonError::into_inner) = state;
    let mut gpus = match open().and_then(Gpus::open) {
        Ok(gpus) => gpus,
        Err(reason) => {
            put(GpuState { no_gpu: Some(reason), ..GpuState::default() });
            let _full = first.try_send(());
            return;
        }
    };
    let mut next = Instant::now();
    loop {
        let samples = gpus.read(started.elapsed().as_secs_f64(), &Kernel);
        put(GpuState { devices: gpus.devices(), samples, no_gpu: None });
        let _full = first.try_send(());
        next = (next + GPU_PERIOD).max(Instant::now());
        if stopped.recv_deadline(next) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

fn read_until(
    stopped: &Receiver<()>,
    started: Instant,
    slot: &Mutex<Arc<TelemetrySnapshot>>,
    gpus: &Mutex<GpuState>,
    wake: Option<&(dyn Fn() + Send + Sync)>,
) {
    let mut host = Host::open();
    let cpu_model = host.cpu_model();
    let mut history = History::default();
    for tick in 1_u64.. {
        if tick.is_multiple_of(SLOW_EVERY) {
            host.refresh_slow();
        }
        let at_secs = started.elapsed().as_secs_f64();
        let mut sample = host.sample(at_secs);
        let (devices, no_gpu);
        (devices, sample.gpus, no_gpu) = present(&gpus.lock().unwrap_or_else(PoisonError::into_inner), at_secs);
        history.push(sample);
        let snapshot = Arc::new(TelemetrySnapshot {
            cpu_model: cpu_model.clone(),
            n_cores: host.n_cores(),
            history: history.to_vec(),
            gpus: devices,
            no_gpu,
        });
        // The old snapshot is freed after the lock, so that a reader waits for one pointer at most.
        let old = std::mem::replace(&mut *slot.lock().unwrap_or_else(PoisonError::into_inner), snapshot);
        drop(old);
        if let Some(wake) = wake
            && tick % WAKE_EVERY == 1
        {
            wake();
        }
        if stopped.recv_timeout(PERIOD) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// The GPUs as they are at `at_secs`: what was read too long ago is absent, and the reason is told.
fn present(state: &GpuState, at_secs: f64) -> (Vec<GpuDevice>, Vec<GpuSample>, Option<String>) {
    let is_stale = |sample: &GpuSample| at_secs - sample.at_secs > GPU_STALE_SECS;
    let samples: Vec<GpuSample> = state
        .samples
        .iter()
        .map(|sample| if is_stale(sample) { GpuSample { at_secs, ..GpuSample::default() } } else { sample.clone() })
        .collect();
    let hangs = state.samples.iter().any(is_stale).then(|| "the NVIDIA driver does not answer".to_owned());
    (state.devices.clone(), samples, state.no_gpu.clone().or(hangs))
}

/// Ten minutes of readings: the newest minute as it was read, the rest thinned to one a second.
#[derive(Default)]
struct History {
    coarse: VecDeque<HardwareSample>,
    fine: VecDeque<HardwareSample>,
}

impl History {
    fn push(&mut self, sample: HardwareSample) {
        self.fine.push_back(sample);
        if self.fine.len() <= MAX_FINE {
            return;
        }
        let Some(old) = self.fine.pop_front() else { return };
        let same_second =
            self.coarse.back().is_some_and(|kept| kept.at_secs.floor() as u64 == old.at_secs.floor() as u64);
        if !same_second {
            self.coarse.push_back(old);
        }
        if self.coarse.len() > MAX_COARSE {
            self.coarse.pop_front();
        }
    }

    fn to_vec(&self) -> Vec<HardwareSample> {
        self.coarse.iter().chain(&self.fine).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_keeps_ten_minutes_and_thins_the_old_ones() {
        let mut history = History::default();
        for tick in 0..20_000 {
            history.push(HardwareSample { at_secs: f64::from(tick) * 0.1 + 0.01, ..HardwareSample::default() });
        }
        let kept = history.to_vec();
        assert_eq!(kept.len(), MAX_FINE + MAX_COARSE);
        assert!(kept.windows(2).all(|pair| pair[0].at_secs < pair[1].at_secs));
        let (first, last) = (kept[0].at_secs, kept[kept.len() - 1].at_secs);
        assert!((598.0..=601.0).contains(&(last - first)), "{}", last - first);
    }

    #[test]
    fn readings_arrive_and_the_thread_ends_with_its_owner() {
        let (sender, woken) = bounded(1);
        let telemetry = Telemetry::start(Some(Arc::new(move || {
            let _full = sender.try_send(());
        })));
        woken.recv_timeout(Duration::from_secs(30)).unwrap();
        let snapshot = telemetry.snapshot();
        assert!(!snapshot.history.is_empty());
        assert!(snapshot.n_cores > 0);
        assert_eq!(snapshot.no_gpu.is_some(), snapshot.history[0].gpus.is_empty());
        assert_eq!(snapshot.gpus.len(), snapshot.history[0].gpus.len());
        drop(telemetry);
        // The thread owned the sender: once it has ended, nothing can come any more.
        while woken.try_recv().is_ok() {}
        assert_eq!(woken.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected));
    }

    #[test]
    fn a_driver_that_hangs_has_no_present_readings() {
        let read = |at_secs| GpuSample { at_secs, power_watts: Some(70.0), ..GpuSample::default() };
        let state = GpuState { samples: vec![read(10.0)], ..GpuState::default() };
        assert_eq!(present(&state, 11.9).1, [read(10.0)]);
        assert_eq!(present(&state, 11.9).2, None);
        let (_, samples, reason) = present(&state, 12.1);
        assert_eq!(samples, [GpuSample { at_secs: 12.1, ..GpuSample::default() }]);
        assert_eq!(reason.as_deref(), Some("the NVIDIA driver does not answer"));
    }

    #[test]
    fn the_end_does_not_wait_for_a_driver_that_hangs() {
        let (release, held) = bounded::<()>(0);
        let (sender, woken) = bounded(1);
        let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
            let _full = sender.try_send(());
        });
        let telemetry = Telemetry::start_with(Some(wake), move || {
            let _never_sent = held.recv();
            Err("released".to_owned())
        });
        // The host is read although the driver has not answered.
        woken.recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(telemetry.snapshot().gpus.is_empty() && telemetry.snapshot().n_cores > 0);
        drop(telemetry);
        drop(release);
    }
}

//! The thread that reads the sensors.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::telemetry::gpu::Gpus;
use crate::telemetry::host::Host;
use crate::telemetry::{HardwareSample, TelemetrySnapshot};

/// Time between readings.
const PERIOD: Duration = Duration::from_millis(100);

/// Readings between two calls of `wake`: each may cost a frame, and frames disturb what is being measured.
const WAKE_EVERY: u64 = 5;

/// Readings between two of the slow sensors.
const SLOW_EVERY: u64 = 10;

/// Readings of the newest minute, all kept.
const MAX_FINE: usize = 600;

/// Readings of the nine minutes before it, one a second.
const MAX_COARSE: usize = 540;

/// Reads host and GPUs ten times a second on a thread of its own, which ends when this is dropped.
pub struct Telemetry {
    latest: Arc<Mutex<Arc<TelemetrySnapshot>>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Telemetry {
    /// Starts the thread. `wake` is called on it twice a second, after a reading; it must not block.
    ///
    /// When no thread can be started, the snapshot stays empty.
    pub fn start(wake: Option<Arc<dyn Fn() + Send + Sync>>) -> Self {
        let latest = Arc::new(Mutex::new(Arc::new(TelemetrySnapshot::default())));
        let (stop, stopped) = bounded(0);
        let slot = Arc::clone(&latest);
        let thread = std::thread::Builder::new()
            .name("telemetry".to_owned())
            .spawn(move || read_until(&stopped, &slot, wake.as_deref()));
        let thread = match thread {
            Ok(thread) => Some(thread),
            Err(error) => {
                log::warn!("no hardware readings: the thread could not be started: {error}");
                None
            }
        };
        Self { latest, stop: Some(stop), thread }
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
    }
}

fn read_until(stopped: &Receiver<()>, slot: &Mutex<Arc<TelemetrySnapshot>>, wake: Option<&(dyn Fn() + Send + Sync)>) {
    let started = Instant::now();
    let mut host = Host::open();
    let (gpus, no_gpu) = match Gpus::open() {
        Ok(gpus) => (Some(gpus), None),
        Err(reason) => (None, Some(reason)),
    };
    let cpu_model = host.cpu_model();
    let mut history = History::default();
    for tick in 1_u64.. {
        if tick.is_multiple_of(SLOW_EVERY) {
            host.refresh_slow();
        }
        let mut sample = host.sample(started.elapsed().as_secs_f64());
        sample.gpus = gpus.as_ref().map(Gpus::sample).unwrap_or_default();
        history.push(sample);
        let snapshot = Arc::new(TelemetrySnapshot {
            cpu_model: cpu_model.clone(),
            n_cores: host.n_cores(),
            history: history.to_vec(),
            no_gpu: no_gpu.clone(),
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
        drop(telemetry);
        // The thread owned the sender: once it has ended, nothing can come any more.
        while woken.try_recv().is_ok() {}
        assert_eq!(woken.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected));
    }
}

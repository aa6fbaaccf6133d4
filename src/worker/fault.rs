//! An executor that fails on request, to test the host against a real child process. Debug builds only.
//!
//! `TRIMTAB_FAULT=panic@1,hang@2` panics in trial 1 and hangs in trial 2; every other trial ends at once, with nothing
//! measured.

use std::io::Write as _;
use std::path::Path;

use crossbeam_channel::Sender;
use rustix::process::{Signal, getpid, kill_process};

use crate::study::{
    Caution, Ceilings, Conditions, Failure, FailureKind, Measurements, Memory, Phase, ProfileReport, ProfileWorkload,
    StudyEvent, TrialId, TrialSpec,
};
use crate::worker::frame::MAX_LEN;
use crate::worker::host::leave_child;
use crate::worker::protocol::Report;
use crate::worker::serve::{Executor, Outgoing, Sink};

pub(super) struct FaultExecutor {
    /// (trial, mode)
    plan: Vec<(u32, String)>,
    reports: Sender<Outgoing>,
}

impl FaultExecutor {
    pub(super) fn from_env(reports: &Sender<Outgoing>) -> Option<Self> {
        let text = std::env::var("TRIMTAB_FAULT").ok()?;
        let entry = |entry: &str| {
            let (mode, trial) = entry.split_once('@')?;
            Some((trial.parse().ok()?, mode.to_owned()))
        };
        Some(Self { plan: text.split(',').filter_map(entry).collect(), reports: reports.clone() })
    }

    fn raw(&self, bytes: Vec<u8>) {
        self.reports.send(Outgoing::Raw(bytes)).expect("the reporter lives as long as the process");
        park();
    }
}

impl Executor for FaultExecutor {
    fn profile(
        &mut self,
        spec: &TrialSpec,
        _workload: ProfileWorkload,
        sink: &Sink,
    ) -> Result<(Measurements, Vec<Caution>, ProfileReport), Failure> {
        let (measurements, cautions) = self.run(spec, sink)?;
        let reads = Vec::new();
        let ceilings = Ceilings {
            reads,
            float_flops: 0.0,
            int8_ops: None,
            hand_over_secs: 0.0,
            threads: 1,
            instructions: String::new(),
            tensor_flops: None,
            tensor_int8_ops: None,
            card: None,
        };
        let profile = ProfileReport { passes: Vec::new(), ceilings, conditions: Conditions::default() };
        Ok((measurements, cautions, profile))
    }

    fn make(&mut self, spec: &TrialSpec, _out: &Path, sink: &Sink) -> Result<(Measurements, Vec<Caution>), Failure> {
        self.run(spec, sink)
    }

    fn run(&mut self, spec: &TrialSpec, sink: &Sink) -> Result<(Measurements, Vec<Caution>), Failure> {
        let trial = spec.id;
        let mode = self.plan.iter().find(|(at, _)| *at == trial.0).map_or("", |(_, mode)| mode.as_str());
        let step = |done| StudyEvent::Progress { trial, phase: Phase::Decode, done, total: 2 };
        sink.event(step(0));
        sink.event(step(1));
        match mode {
            "panic" => panic!("a fault on request in trial {trial}"),
            "alloc" => std::alloc::handle_alloc_error(std::alloc::Layout::new::<[u8; 1 << 40]>()),
            "abort" => std::process::abort(),
            // The runtime's handler, which looks for stack overflows, takes the first one.
            "segv" => (0..2).for_each(|_| signal_self(Signal::SEGV)),
            "kill" => signal_self(Signal::KILL),
            "freeze" => signal_self(Signal::STOP),
            "exit0" => exit_silently(),
            "hang" => park(),
            "wait" => {
                while !sink.is_cancelled() {
                    std::thread::yield_now();
                }
                return Err(Failure::new(FailureKind::Cancelled, "cancelled"));
            }
            "garbage" => self.raw(b"this is not a frame at all".to_vec()),
            "oversize" => self.raw([(MAX_LEN as u32 + 1).to_le_bytes(), [0; 4]].concat()),
            "flood" => (0..2_000_000).for_each(|done| sink.event(step(done))),
            "noise" => print_noise(),
            "stray" => {
                let failure = Failure::new(FailureKind::Data, "of another trial");
                let outcome = crate::study::Outcome::Failed(failure);
                let report = Report::Finished { trial: TrialId(trial.0 + 1), outcome, cautions: Vec::new() };
                self.reports.send(Outgoing::Report(report)).expect("the reporter lives as long as the process");
                park();
            }
            // A child of its own keeps the pipes open after the worker has gone.
            "fork" => {
                leave_child().expect("`sleep` can be started");
                exit_silently();
            }
            "oom" => return Err(Failure::new(FailureKind::OutOfMemory, "the device has no memory left")),
            "nonfinite" => return Ok((measurements(f64::NAN), Vec::new())),
            _ => {}
        }
        Ok((measurements(0.0), Vec::new()))
    }
}

fn signal_self(signal: Signal) {
    kill_process(getpid(), signal).expect("a process may signal itself");
}

fn park() -> ! {
    loop {
        std::thread::park();
    }
}

#[expect(clippy::exit, reason = "the fault is a silent exit")]
fn exit_silently() {
    std::process::exit(0)
}

/// What a library that prints does.
fn print_noise() {
    let mut out = std::io::stdout().lock();
    for _ in 0..1000 {
        out.write_all(b"skipping a tensor of an unknown type\n").expect("standard output leads to standard error");
    }
    out.flush().expect("standard output leads to standard error");
}

fn measurements(bits_per_weight: f64) -> Measurements {
    Measurements {
        quality: None,
        dequantized_quality: None,
        speed: None,
        memory: Memory {
            weight_bytes: 0,
            held_bytes: 0,
            peak_rss_bytes: None,
            peak_gpu_bytes: None,
            predicted_peak_bytes: None,
        },
        energy: None,
        bits_per_weight,
        simulated_layers: 0,
        products: std::collections::BTreeMap::new(),
        compressed_layers: 0,
        compress_secs: 0.0,
        compression: None,
        sample_text: None,
        conditions: Conditions::default(),
    }
}

//! Energy of one trial.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::device::DeviceSpec;
use crate::measure::{Stretch, joules_per_token};
use crate::study::{Arm, Energy, SpeedWorkload};
use crate::telemetry::EnergyMeter;

/// The device's counter from the beginning of a trial to its end.
pub(super) struct TrialEnergy {
    meter: Mutex<Result<EnergyMeter, String>>,
    began: Instant,
}

/// What the variant's repetitions took, by phase.
#[derive(Debug, Default)]
pub(super) struct Stretches {
    pub(super) prefill: Vec<Stretch>,
    pub(super) decode: Vec<Stretch>,
}

impl Stretches {
    /// Takes in a repetition of `arm` with the readings before its prompt, after it and after its last token, where there are
    /// all.
    pub(super) fn push(&mut self, arm: Arm, marks: [Option<Mark>; 3]) {
        if let (Arm::Variant, [Some(start), Some(prompt), Some(end)]) = (arm, marks) {
            self.prefill.push(start.until(prompt));
            self.decode.push(prompt.until(end));
        }
    }
}

/// A reading with its moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    joules: f64,
    at: Instant,
}

impl Mark {
    /// What was taken from `self` to `end`.
    fn until(self, end: Self) -> Stretch {
        Stretch { joules: end.joules - self.joules, secs: (end.at - self.at).as_secs_f64() }
    }
}

impl TrialEnergy {
    /// Begins to count, where the device tells.
    ///
    /// - `uuid`: the identity of a GPU
    pub(super) fn begin(device: DeviceSpec, uuid: Option<&str>) -> Self {
        Self { meter: Mutex::new(EnergyMeter::open(device, uuid)), began: Instant::now() }
    }

    /// Keeps up with a counter that wraps. Does not wait for another thread that does the same.
    pub(super) fn touch(&self) {
        if let Ok(mut meter) = self.meter.try_lock()
            && let Ok(meter) = meter.as_mut()
        {
            meter.touch();
        }
    }

    /// The counter now; `None` where there is none.
    pub(super) fn mark(&self) -> Option<Mark> {
        let joules = self.meter.lock().ok()?.as_mut().ok()?.joules()?;
        Some(Mark { joules, at: Instant::now() })
    }

    /// The trial's energy, or why it is not known.
    pub(super) fn finish(self, stretches: Option<&Stretches>, speed: Option<&SpeedWorkload>) -> Result<Energy, String> {
        let end = self.mark();
        // Nothing panics while it holds the meter; what it holds is whole even then.
        let meter = self.meter.into_inner().unwrap_or_else(PoisonError::into_inner)?;
        let end = end.ok_or("the counter of energy could not be followed to the end")?;
        let refresh_secs = meter.refresh_secs();
        let per_token = |stretches: &[Stretch], tokens| joules_per_token(stretches, tokens, refresh_secs);
        let (prefill, decode) = stretches.map_or((&[][..], &[][..]), |found| (&found.prefill[..], &found.decode[..]));
        let secs = |stretches: &[Stretch]| stretches.iter().map(|stretch| stretch.secs).sum();
        Ok(Energy {
            source: meter.source(),
            refresh_secs,
            prefill_joules_per_token: speed.and_then(|speed| per_token(prefill, speed.prompt)),
            decode_joules_per_token: speed.and_then(|speed| per_token(decode, speed.decode)),
            prefill_secs: secs(prefill),
            decode_secs: secs(decode),
            trial_joules: end.joules,
            trial_secs: (end.at - self.began).as_secs_f64(),
        })
    }
}

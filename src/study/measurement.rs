//! What a finished trial knows, each number with its interval and the conditions it was taken under.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::study::{CompressionReport, DecodeLimits, Energy};

/// A statistic with its uncertainty. Every field is finite.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The median for times and rates, the mean for quality.
    pub value: f64,
    /// 95 % confidence interval; with one sample there is none and both bounds are the value.
    pub ci95: [f64; 2],
    /// Samples behind it.
    pub n: u32,
}

impl Estimate {
    /// The 95 % confidence interval; `None` from a single sample, which says nothing about the spread.
    pub fn interval(&self) -> Option<[f64; 2]> {
        (self.n > 1).then_some(self.ci95)
    }
}

/// A ratio with its own interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Variant over reference; above 1 is faster for rates.
    pub value: f64,
    /// 95 % confidence interval over paired blocks.
    pub ci95: [f64; 2],
    /// Pairs behind it.
    pub n_pairs: u32,
}

impl Ratio {
    /// Whether the interval excludes 1.
    pub fn is_resolved(&self) -> bool {
        self.ci95[0] > 1.0 || self.ci95[1] < 1.0
    }
}

/// Everything measured in one trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurements {
    /// Quality against the reference, if asked for.
    pub quality: Option<Quality>,
    /// Quality of the weights alone, GGML blocks dequantized to f32, if asked for: the deployed product also quantizes
    /// activations, which `quality` includes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dequantized_quality: Option<Quality>,
    /// Speed beside the reference, if asked for.
    pub speed: Option<Speed>,
    /// Bytes and peak memory.
    pub memory: Memory,
    /// Energy, where the device tells it; [`Conditions::no_energy`] says why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<Energy>,
    /// Effective bits per weight, scales and minimums included; see [`crate::recipe::Plan::bits_per_weight`].
    pub bits_per_weight: f64,
    /// Layers whose format has no product on the device: their speed and resident memory are not the format's.
    pub simulated_layers: u32,
    /// What ran: product path (`trimtab q8_0 (avx512-vnni)`, `candle q8_0` in older studies) and the number of layers on it.
    pub products: BTreeMap<String, u32>,
    /// Layers compressed for this trial; the others were kept from earlier trials.
    pub compressed_layers: u32,
    /// Time of compressing them.
    pub compress_secs: f64,
    /// How the variant was made, where some layer was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<CompressionReport>,
    /// Text sampled from the variant, if asked for.
    pub sample_text: Option<String>,
    /// Conditions during the trial.
    pub conditions: Conditions,
}

/// Quality on a protocol, beside the reference on the same windows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Protocol with its context: `gptq-256`. Numbers of different protocols are not compared.
    pub protocol: String,
    /// Name of the text: its file stem.
    pub split: String,
    /// Scored tokens over all windows.
    pub tokens: u64,
    /// exp of the mean negative log likelihood.
    pub perplexity: Estimate,
    /// The reference's perplexity on the same windows.
    pub reference_perplexity: f64,
    /// ln perplexity minus the reference's, paired by window.
    pub log_perplexity_difference: Estimate,
    /// Mean KL(reference ‖ variant) in nats over scored positions, clustered by window.
    pub kl_mean: Estimate,
    /// Median over positions, in nats.
    pub kl_median: f64,
    /// 99th percentile over positions, in nats.
    pub kl_p99: f64,
    /// Largest over positions, in nats.
    pub kl_max: f64,
    /// Share of positions where both name the same most likely token.
    pub top1_agreement: Estimate,
    /// Each window's means, in order.
    pub windows: Vec<WindowScore>,
}

/// Means over the scored positions of one window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WindowScore {
    /// Mean negative log likelihood of the variant, in nats.
    pub nll: f64,
    /// Mean negative log likelihood of the reference, in nats.
    pub reference_nll: f64,
    /// Mean KL(reference ‖ variant), in nats.
    pub kl: f64,
    /// Share of positions with the same most likely token.
    pub top1: f64,
}

/// Speed of both phases, interleaved with the reference (ABBA).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens decoded one by one after it; after less of it where both do not fit the model's context.
    pub decode_tokens: u32,
    /// The whole prompt in one pass.
    pub prefill: PhaseSpeed,
    /// One token at a time.
    pub decode: PhaseSpeed,
    /// What a token would take at the card's own limits; absent on the processor and in older studies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<DecodeLimits>,
}

/// Speed of one phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseSpeed {
    /// Median rate.
    pub tokens_per_second: Estimate,
    /// Median time of the whole prompt (prefill) or of one token (decode), in seconds.
    pub latency_secs: Estimate,
    /// 50th percentile of the latency, in seconds.
    pub p50_secs: f64,
    /// 90th percentile of the latency, in seconds.
    pub p90_secs: f64,
    /// 99th percentile, only with at least 1,000 samples, in seconds.
    pub p99_secs: Option<f64>,
    /// Rate over the reference's, from paired repetitions; `None` when the trial is the reference itself.
    pub ratio: Option<Ratio>,
    /// Every sample of the variant: one a repetition (prefill) or a token (decode), in nanoseconds.
    pub samples_nanos: Vec<u64>,
    /// Every sample of the reference beside it, in nanoseconds.
    pub reference_nanos: Vec<u64>,
}

/// Bytes and peak memory.
#[expect(clippy::struct_field_names, reason = "a quantity ends in its unit")]
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// Bytes of all tensors as packed: what an exported file holds.
    pub weight_bytes: u64,
    /// Bytes of the variant's tensors as the worker holds them to run.
    pub held_bytes: u64,
    /// Peak resident memory of the worker while the variant was scored and timed, from the kernel; absent where it cannot be read.
    pub peak_rss_bytes: Option<u64>,
    /// Peak memory on the GPU, as the buffers of the worker count it; absent on the processor.
    pub peak_gpu_bytes: Option<u64>,
    /// What the peak was predicted to be, from headers and settings: `peak_gpu_bytes` on a card, see
    /// [`crate::study::CardMemoryEstimate`], else `peak_rss_bytes`, see [`crate::study::MemoryEstimate`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_peak_bytes: Option<u64>,
}

impl Memory {
    /// The measured peak of the device's memory: the card's on a card, else the worker's resident one.
    pub fn peak_bytes(&self) -> Option<u64> {
        self.peak_gpu_bytes.or(self.peak_rss_bytes)
    }

    /// The predicted peak over the measured one.
    pub fn prediction_ratio(&self) -> Option<f64> {
        let measured = self.peak_bytes().filter(|bytes| *bytes > 0)?;
        Some(self.predicted_peak_bytes? as f64 / measured as f64)
    }
}

/// Conditions under which the numbers were taken. Absent readings are absent, not zero.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Conditions {
    /// The processor's name.
    pub cpu_model: Option<String>,
    /// Threads that the products used.
    pub threads: u16,
    /// Load average over one minute at the end of the trial.
    pub load_1min: Option<f64>,
    /// Mean clock over the cores, in MHz.
    pub frequency_mhz: Option<f64>,
    /// Hottest sensor of the processor, in °C.
    pub temperature_celsius: Option<f64>,
    /// Other processes that used more than a tenth of a core: name and cores used.
    pub busy_processes: Vec<(String, f64)>,
    /// Timed sections that were made again because something else took or slowed the machine.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repeated_sections: u32,
    /// Why no energy was read, where none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_energy: Option<String>,
    /// The program and a hash of its sources: `trimtab 0.1.0 (1f0c…)`; in older studies the products it was built with.
    pub build: String,
}

/// What else happened on the machine while something was timed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Disturbance {
    /// Other processes that used more than a tenth of a core: name and cores used.
    pub processes: Vec<(String, f64)>,
    /// Heat, or what supplies the power, slowed the clocks.
    pub is_throttled: bool,
    /// The machine slept.
    pub has_slept: bool,
}

impl Disturbance {
    /// Whether nothing was seen.
    pub fn is_quiet(&self) -> bool {
        self.processes.is_empty() && !self.is_throttled && !self.has_slept
    }

    /// Both together; of a process seen in both, the larger use.
    pub fn join(&mut self, other: Self) {
        for (name, cores) in other.processes {
            match self.processes.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = known.max(cores),
                None => self.processes.push((name, cores)),
            }
        }
        self.is_throttled |= other.is_throttled;
        self.has_slept |= other.has_slept;
    }
}

/// Something that the reader of a number must know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Caution {
    /// So many layers have no product for their format on this device: quality and bytes are the format's own, speed and
    /// resident memory are not.
    Simulated {
        /// How many.
        layers: u32,
    },
    /// Pruned weights are kept as zeros in dense tensors: not smaller and not faster.
    Masked {
        /// How many layers.
        layers: u32,
    },
    /// The checkpoint's half precision was widened to f32 to run. Older studies have it.
    Widened {
        /// How many layers.
        layers: u32,
    },
    /// Something else took or slowed the machine while the speed was measured, and went on while it was measured again.
    Disturbed {
        /// Names and cores used.
        processes: Vec<(String, f64)>,
        /// Heat, or what supplies the power, slowed the clocks.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_throttled: bool,
        /// The machine slept.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        has_slept: bool,
        /// Timed sections that were made again before; 0 in older studies.
        #[serde(default, skip_serializing_if = "is_zero")]
        repeats: u32,
    },
    /// Fewer windows than the text has were scored.
    PartOfSplit {
        /// Windows scored.
        scored: u32,
        /// Windows in the text.
        available: u32,
    },
    /// Live samples were dropped on the way to the plots; the trial's own record is complete.
    LostLiveSamples {
        /// How many.
        n: u64,
    },
    /// So many layers saw fewer calibration tokens than they have input features: their sums are of deficient rank.
    ThinCalibration {
        /// How many.
        layers: u32,
        /// Tokens that each saw.
        tokens: u64,
    },
    /// The calibration text is shorter than the windows that were asked for.
    ShortCalibration {
        /// Windows read.
        windows: u32,
        /// Windows asked for.
        asked: u32,
    },
    /// The variant was calibrated on the text that it is scored on: its quality looks better than it is.
    CalibratedOnScored,
    /// Compression of so many layers did not go as asked; the notes of each layer say how.
    Noted {
        /// How many.
        layers: u32,
    },
    /// The two thin products of so many low-rank layers are more work than the one product they replace.
    SlowLowRank {
        /// How many.
        layers: u32,
    },
    /// A token on a card takes more than twice as long as its bytes need at the measured bandwidth.
    FarFromBandwidth {
        /// Least time by bytes over the time.
        bandwidth_share: f64,
        /// Kernels of a token.
        launches: u64,
        /// What as many empty kernels take, over the time.
        launch_share: f64,
    },
    /// The worker before this one ended unexpectedly and was replaced.
    FreshWorker,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde wants")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl fmt::Display for Caution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simulated { layers } => {
                write!(f, "{layers} layers simulated in f32; speed and resident memory are not the format's")
            }
            Self::Masked { layers } => {
                write!(f, "{layers} layers masked; zeros are kept, so not smaller and not faster")
            }
            Self::Widened { layers } => write!(f, "{layers} layers widened to f32 to run"),
            Self::Disturbed { processes, is_throttled, has_slept, repeats } => {
                let named = processes
                    .iter()
                    .map(|(name, cores)| format!("{name} ({} cores)", crate::units::significant(*cores, 2)));
                let heat = is_throttled.then(|| "clocks slowed by heat or power".to_owned());
                let sleep = has_slept.then(|| "sleep of the machine".to_owned());
                let causes: Vec<String> = named.chain(heat).chain(sleep).collect();
                write!(f, "disturbed by {}", causes.join(", "))?;
                match repeats {
                    0 => Ok(()),
                    1 => write!(f, ", also when timed once more"),
                    n => write!(f, ", also when timed {n} times more"),
                }
            }
            Self::PartOfSplit { scored, available } => write!(f, "{scored} of {available} windows scored"),
            Self::LostLiveSamples { n } => write!(f, "{n} live samples not drawn; the record is complete"),
            Self::ThinCalibration { layers, tokens } => {
                let tokens = crate::units::count(*tokens);
                write!(f, "{layers} layers calibrated on {tokens} tokens, fewer than their input features")
            }
            Self::ShortCalibration { windows, asked } => {
                write!(f, "calibrated on {windows} windows, all that the text has; {asked} were asked for")
            }
            Self::CalibratedOnScored => {
                write!(f, "calibrated on the text that it is scored on; score another text to judge it")
            }
            Self::Noted { layers } => write!(f, "{layers} layers did not go as asked; see their notes"),
            Self::SlowLowRank { layers } => {
                write!(f, "{layers} low-rank layers cost more than one product; lower their rank to gain speed")
            }
            Self::FarFromBandwidth { bandwidth_share, launches, launch_share } => {
                let [bytes, launched] = [*bandwidth_share, *launch_share].map(crate::units::percent);
                let launches = crate::units::count(*launches);
                let shown = format!("bytes explain {bytes} of a decoded token's time, {launches} launches {launched}");
                if *launch_share >= 0.5 {
                    write!(
                        f,
                        "{shown}: launches, not bytes, set the speed; a smaller format will hardly be faster here"
                    )
                } else {
                    write!(f, "{shown}: bytes do not set the speed; a profile shows what does")
                }
            }
            Self::FreshWorker => write!(f, "measured by a fresh worker after a fault"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disturbance_names_its_causes_and_how_often_it_was_tried() {
        let check = |is_throttled, has_slept, repeats, expected: &str| {
            let processes = vec![("cc1".to_owned(), 0.93)];
            let caution = Caution::Disturbed { processes, is_throttled, has_slept, repeats };
            assert_eq!(caution.to_string(), expected);
        };
        check(false, false, 0, "disturbed by cc1 (0.93 cores)");
        check(
            true,
            false,
            1,
            "disturbed by cc1 (0.93 cores), clocks slowed by heat or power, also when timed once more",
        );
        check(false, true, 5, "disturbed by cc1 (0.93 cores), sleep of the machine, also when timed 5 times more");
    }

    #[test]
    fn a_disturbance_of_an_older_study_opens_and_is_written_as_it_was() {
        let old = r#"{"disturbed":{"processes":[["cc1",0.5]]}}"#;
        let caution: Caution = serde_json::from_str(old).unwrap();
        assert_eq!(caution.to_string(), "disturbed by cc1 (0.50 cores)");
        assert_eq!(serde_json::to_string(&caution).unwrap(), old);
    }

    #[test]
    fn disturbances_join_to_their_largest() {
        let mut both = Disturbance { processes: vec![("a".to_owned(), 0.2)], ..Disturbance::default() };
        assert!(!both.is_quiet() && Disturbance::default().is_quiet());
        let processes = vec![("a".to_owned(), 0.7), ("b".to_owned(), 0.1)];
        both.join(Disturbance { processes: processes.clone(), has_slept: true, is_throttled: false });
        assert_eq!(both, Disturbance { processes, has_slept: true, is_throttled: false });
    }
}

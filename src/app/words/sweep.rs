//! Words of the sweep's form.

use crate::app::sweep::{Incomplete, SweepKind};
use crate::study::Phase;

/// Words of the sweep's form.
#[derive(Debug)]
#[expect(missing_docs, reason = "one label a control; `_value` is the accessible name of the number behind a tick box")]
pub struct SweepWords {
    pub strategy: &'static str,
    pub this_recipe: &'static str,
    pub presets: &'static str,
    pub grid: &'static str,
    pub ladder_sparsity: &'static str,
    pub ladder_formats: &'static str,
    pub explain_this_recipe: &'static str,
    pub explain_presets: &'static str,
    pub explain_grid: &'static str,
    pub explain_ladder_sparsity: &'static str,
    pub explain_ladder_formats: &'static str,
    pub formats: &'static str,
    pub roundings: &'static str,
    pub as_recipe: &'static str,
    pub sparsities: &'static str,
    pub pruned_by: &'static str,
    pub no_method: &'static str,
    pub layers: &'static str,
    pub none: &'static str,
    pub percent_name: fn(&str) -> String,
    /// First rung, last rung, step.
    pub ladder: [&'static str; 3],
    pub measure: &'static str,
    pub quality: &'static str,
    pub choose_data: &'static str,
    pub data_hint: &'static str,
    pub protocol_hint: &'static str,
    pub context: &'static str,
    pub windows: &'static str,
    pub windows_value: &'static str,
    pub speed: &'static str,
    pub prompt_tokens: &'static str,
    pub decode_tokens: &'static str,
    pub repetitions: &'static str,
    pub sample: &'static str,
    pub sample_prompt: &'static str,
    pub sample_tokens: &'static str,
    pub stop: &'static str,
    pub limits: &'static str,
    pub max_kl: &'static str,
    pub max_kl_value: &'static str,
    pub max_ratio: &'static str,
    pub max_ratio_value: &'static str,
    pub budget: &'static str,
    pub max_trials: &'static str,
    pub max_trials_value: &'static str,
    pub max_minutes: &'static str,
    pub max_minutes_value: &'static str,
    pub trials: fn(usize) -> String,
    pub more: fn(usize) -> String,
    pub about: fn(&str) -> String,
    pub time_unknown: &'static str,
    pub time_hint: &'static str,
    pub peak: fn(&str) -> String,
    pub peak_short: fn(&str, &str) -> String,
    pub peak_hint: fn(&str) -> String,
    pub refused: fn(usize) -> String,
    pub elapsed: fn(&str) -> String,
    pub phase: fn(&str, u32, u32) -> String,
    /// Names of the steps of a trial, in their order.
    pub phases: [&'static str; 8],
    pub ended_stopped: &'static str,
    pub ended_time: &'static str,
    pub ended_trials: &'static str,
    pub ended_failing: fn(&str) -> String,
    pub already_running: &'static str,
    pub draft_refused: &'static str,
    pub missing_data: &'static str,
    pub missing_workload: &'static str,
    pub missing_choice: &'static str,
    pub missing_limit: &'static str,
    pub missing_change: &'static str,
}

impl SweepWords {
    /// English.
    pub const EN: Self = Self {
        strategy: "Strategy",
        this_recipe: "This recipe",
        presets: "Presets",
        grid: "Grid",
        ladder_sparsity: "Progressive: sparsity",
        ladder_formats: "Progressive: formats",
        explain_this_recipe: "Measures the recipe being edited beside the reference",
        explain_presets: "Measures the ticked presets, one trial each",
        explain_grid: "Every format with every way of rounding and every sparsity, laid over this recipe",
        explain_ladder_sparsity: "Raises sparsity over this recipe, step by step, until a limit is crossed",
        explain_ladder_formats: "From many bits to few over this recipe, until a limit is crossed",
        formats: "Formats",
        roundings: "Rounding",
        as_recipe: "as the recipe",
        sparsities: "Sparsity",
        pruned_by: "pruned by",
        no_method: "left out: tick a method to prune by",
        layers: "Layers",
        none: "none",
        percent_name: |percent| format!("Sparsity {percent}"),
        ladder: ["from", "to", "step"],
        measure: "Measure in each trial",
        quality: "Quality",
        choose_data: "Choose text…",
        data_hint: "JSON lines, each with a \"text\". Search on one split, report from another",
        protocol_hint: "One BOS before each text, all concatenated, non-overlapping windows; every token but a window's first is scored",
        context: "Tokens a window",
        windows: "Windows",
        windows_value: "Number of windows",
        speed: "Speed",
        prompt_tokens: "prompt",
        decode_tokens: "decode",
        repetitions: "repeat",
        sample: "Text",
        sample_prompt: "Prompt of the sampled text",
        sample_tokens: "tokens",
        stop: "Keep and stop",
        limits: "Limits",
        max_kl: "KL ≤",
        max_kl_value: "Largest mean KL",
        max_ratio: "Perplexity ≤",
        max_ratio_value: "Largest perplexity over the reference's",
        budget: "Budget",
        max_trials: "Trials ≤",
        max_trials_value: "Largest number of trials",
        max_minutes: "Time ≤",
        max_minutes_value: "Longest time",
        trials: |n| {
            if n == 1 { "1 trial and the reference".to_owned() } else { format!("{n} trials and the reference") }
        },
        more: |n| format!("and {n} more"),
        about: |time| format!("about {time}"),
        time_unknown: "time is known after the first trial",
        time_hint: "From the mean of the trials of this study with the same workload",
        peak: |bytes| format!("up to {bytes} of memory"),
        peak_short: |bytes, free| format!("up to {bytes} of memory, {free} free: a trial may be ended by the system"),
        peak_hint: |recipe| {
            format!("The most that a worker takes, from the model's headers and the settings. The largest is {recipe}")
        },
        refused: |n| {
            if n == 1 {
                "1 of them cannot run on this model and device".to_owned()
            } else {
                format!("{n} of them cannot run on this model and device")
            }
        },
        elapsed: |time| format!("{time} so far"),
        phase: |phase, done, total| format!("{phase} {done}/{total}"),
        phases: [
            "Loading",
            "Calibrating",
            "Compressing",
            "Scoring the reference",
            "Scoring",
            "Timing prefill",
            "Timing decode",
            "Sampling",
        ],
        ended_stopped: "The study shown was stopped; Continue goes on with it",
        ended_time: "The study shown used up its time",
        ended_trials: "The study shown used up its trials",
        ended_failing: |text| format!("The study shown stopped because its trials kept failing: {text}"),
        already_running: "A study is running; stop it first",
        draft_refused: "Solve the problems listed under the recipe first",
        missing_data: "Choose a text to measure quality on",
        missing_workload: "Tick something to measure",
        missing_choice: "Tick something to try",
        missing_limit: "A progressive sweep needs a limit to stop at",
        missing_change: "This recipe changes nothing yet; edit a layer or take a preset",
    };

    /// The name of a strategy.
    pub const fn kind(&self, kind: SweepKind) -> &'static str {
        match kind {
            SweepKind::ThisRecipe => self.this_recipe,
            SweepKind::Presets => self.presets,
            SweepKind::Grid => self.grid,
            SweepKind::LadderSparsity => self.ladder_sparsity,
            SweepKind::LadderFormats => self.ladder_formats,
        }
    }

    /// What a strategy does.
    pub const fn explain(&self, kind: SweepKind) -> &'static str {
        match kind {
            SweepKind::ThisRecipe => self.explain_this_recipe,
            SweepKind::Presets => self.explain_presets,
            SweepKind::Grid => self.explain_grid,
            SweepKind::LadderSparsity => self.explain_ladder_sparsity,
            SweepKind::LadderFormats => self.explain_ladder_formats,
        }
    }

    /// The name of a step of a trial.
    pub const fn phase_name(&self, phase: Phase) -> &'static str {
        match phase {
            Phase::Load => self.phases[0],
            Phase::Calibrate => self.phases[1],
            Phase::Compress => self.phases[2],
            Phase::Reference => self.phases[3],
            Phase::Quality => self.phases[4],
            Phase::Prefill => self.phases[5],
            Phase::Decode => self.phases[6],
            Phase::Sample => self.phases[7],
        }
    }

    /// Why the form does not make a study yet.
    pub const fn missing(&self, missing: Incomplete) -> &'static str {
        match missing {
            Incomplete::Data => self.missing_data,
            Incomplete::Workload => self.missing_workload,
            Incomplete::Nothing => self.missing_choice,
            Incomplete::Limit => self.missing_limit,
            Incomplete::Reference => self.missing_change,
        }
    }
}

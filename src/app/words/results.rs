//! Words of the plots, the table of trials and the comparison.

use crate::app::plots::compare::Verdict;
use crate::app::plots::live::Owner;
use crate::app::plots::metrics::Metric;
use crate::app::plots::table::Column;
use crate::app::words::HardwareWords;
use crate::study::{Objective, Phase};

/// Words of the plots, the table of trials, the comparison and the hardware tile.
#[derive(Debug)]
#[expect(missing_docs, reason = "the English text is the documentation")]
pub struct ResultsWords {
    /// Shown where no trial has run yet.
    pub no_trials: &'static str,
    /// What to do then.
    pub no_trials_hint: &'static str,
    pub measured: &'static str,
    pub simulated: &'static str,
    pub reference: &'static str,
    pub variant: &'static str,
    pub failed: &'static str,
    pub running: &'static str,
    pub done: &'static str,
    pub none: &'static str,
    /// An objective with its unit, for an axis.
    pub objective: fn(Objective) -> &'static str,
    /// A metric with its unit, for a header.
    pub metric: fn(Metric) -> &'static str,
    /// What a metric means.
    pub metric_hint: fn(Metric) -> &'static str,
    pub trade_off: TradeOffWords,
    pub live: LiveWords,
    pub trials: TrialsWords,
    pub compare: CompareWords,
    pub hardware: HardwareWords,
}

/// Words of the trade-off plot.
#[derive(Debug)]
#[expect(missing_docs, reason = "the English text is the documentation")]
pub struct TradeOffWords {
    pub x_axis: &'static str,
    pub y_axis: &'static str,
    pub copy: &'static str,
    pub copy_hint: &'static str,
    pub reset: &'static str,
    pub reset_hint: &'static str,
    pub plot: &'static str,
    pub unread: fn(Option<&str>) -> String,
    pub no_points: &'static str,
    pub no_points_hint: &'static str,
    pub no_results: &'static str,
    pub no_results_hint: &'static str,
    pub front: &'static str,
    pub n_failed: fn(usize) -> String,
    pub n_simulated: fn(usize) -> String,
    pub simulated_reason: &'static str,
    pub n_masked: fn(usize) -> String,
    pub masked_reason: &'static str,
    pub n_unmeasured: fn(usize) -> String,
    pub unmeasured_reason: &'static str,
    pub n_thinned: fn(usize) -> String,
    pub thinned_reason: &'static str,
    pub n_more: fn(usize) -> String,
    pub select: fn(&str) -> String,
    pub click_hint: &'static str,
    pub load: &'static str,
    pub changes_nothing: &'static str,
    pub weights_alone: &'static str,
    pub predicted_peak: &'static str,
    pub trial_energy: &'static str,
    pub threads: fn(u16) -> String,
    pub load_average: fn(&str) -> String,
    pub megahertz: fn(&str) -> String,
    pub celsius: fn(&str) -> String,
    pub text_of: fn(&str, &str) -> String,
}

/// Words of the live plots.
#[derive(Debug)]
#[expect(missing_docs, reason = "the English text is the documentation")]
pub struct LiveWords {
    pub nothing: &'static str,
    pub latency_hint: &'static str,
    pub memory_hint: &'static str,
    pub quality_hint: &'static str,
    pub waiting: &'static str,
    pub latency_waiting: &'static str,
    pub memory_waiting: &'static str,
    pub quality_waiting: &'static str,
    pub not_recorded: &'static str,
    pub latency_absent: &'static str,
    pub memory_absent: &'static str,
    pub quality_absent: &'static str,
    pub running: &'static str,
    pub recorded: &'static str,
    pub phase: &'static str,
    pub quality: &'static str,
    pub latency_plot: &'static str,
    pub memory_plot: &'static str,
    pub quality_plot: &'static str,
    pub kl: &'static str,
    pub ratio: &'static str,
    pub n_samples: fn(&str) -> String,
    pub n_windows: fn(&str) -> String,
    pub n_cut: fn(usize) -> String,
    pub cut_hint: &'static str,
    pub band_hint: &'static str,
    pub ci_hint: &'static str,
    pub limit: fn(&str) -> String,
    pub worker: &'static str,
    pub quantity: &'static str,
    pub memory: &'static str,
    pub power: &'static str,
    pub clock: &'static str,
    pub power_plot: &'static str,
    pub clock_plot: &'static str,
    pub machine_hint: &'static str,
    pub machine_waiting: &'static str,
    pub machine_absent: &'static str,
    pub owner: fn(Owner) -> String,
    pub gpu: fn(usize, bool) -> String,
    pub gpu_hint: &'static str,
    pub peak: fn(&str) -> String,
    pub peak_hint: &'static str,
    pub simulated: &'static str,
    pub load: &'static str,
    pub calibrate: &'static str,
    pub compress: &'static str,
    pub reference: &'static str,
    pub prefill: &'static str,
    pub decode: &'static str,
    pub sample: &'static str,
    pub quality_phase: &'static str,
    pub copy: &'static str,
    pub copy_hint: &'static str,
}

/// Words of the table of trials.
#[derive(Debug)]
#[expect(missing_docs, reason = "the English text is the documentation")]
pub struct TrialsWords {
    pub filter: &'static str,
    pub clear: &'static str,
    pub n_shown: fn(&str, &str) -> String,
    pub no_match: &'static str,
    pub no_match_hint: &'static str,
    pub number: &'static str,
    pub recipe: &'static str,
    pub cautions: &'static str,
    pub state: &'static str,
    pub actions: &'static str,
    pub sort_by: fn(&str) -> String,
    pub pin_a: fn(&str) -> String,
    pub pin_b: fn(&str) -> String,
    pub load: fn(&str) -> String,
    pub copy: fn(&str) -> String,
    pub load_short: &'static str,
    pub copy_short: &'static str,
    pub keys_hint: &'static str,
}

/// Words of the comparison.
#[derive(Debug)]
#[expect(missing_docs, reason = "the English text is the documentation")]
pub struct CompareWords {
    pub nothing: &'static str,
    pub nothing_hint: &'static str,
    pub side_a: &'static str,
    pub side_b: &'static str,
    pub swap: &'static str,
    pub unpin_a: &'static str,
    pub unpin_b: &'static str,
    pub pinned: &'static str,
    pub by_default: &'static str,
    pub settings: &'static str,
    pub same_settings: &'static str,
    pub no_graph: &'static str,
    pub metrics: &'static str,
    pub change: &'static str,
    pub text: &'static str,
    pub prompt: fn(&str) -> String,
    pub same_text: &'static str,
    pub no_text: &'static str,
    pub better: &'static str,
    pub worse: &'static str,
    pub not_resolved: &'static str,
    pub not_resolved_hint: &'static str,
    pub same: &'static str,
    pub unjudged_hint: &'static str,
    pub simulated_hint: &'static str,
    pub masked: &'static str,
    pub masked_hint: &'static str,
    pub different_protocol: &'static str,
    pub different_protocol_hint: &'static str,
    pub missing: &'static str,
}

impl ResultsWords {
    /// English.
    pub const EN: Self = Self {
        no_trials: "No trials yet",
        no_trials_hint: "Run measures the reference first, then every recipe of the sweep. Each appears here when it ends",
        measured: "measured",
        simulated: "simulated",
        reference: "reference",
        variant: "variant",
        failed: "failed",
        running: "running",
        done: "done",
        none: "—",
        objective: |objective| match objective {
            Objective::Kl => "KL, nats",
            Objective::PerplexityIncrease => "perplexity increase, %",
            Objective::DecodeLatency => "decode, ms a token",
            Objective::PrefillLatency => "prefill, ms a prompt",
            Objective::WeightBytes => "size, MiB",
            Objective::PeakMemory => "peak memory, MiB",
            Objective::DecodeEnergy => "energy, mJ a token",
        },
        metric: |metric| match metric {
            Metric::Perplexity => "perplexity",
            Metric::Kl => "KL, nats",
            Metric::Top1 => "top-1, %",
            Metric::Prefill => "prefill, tok/s",
            Metric::Decode => "decode, tok/s",
            Metric::Bytes => "size, MiB",
            Metric::Bits => "bits/w",
            Metric::Peak => "peak, MiB",
            Metric::Energy => "mJ/tok",
        },
        metric_hint: |metric| match metric {
            Metric::Perplexity => "exp of the mean negative log likelihood, with its 95 % interval",
            Metric::Kl => "Mean KL(reference ‖ variant) over scored positions, with its 95 % interval",
            Metric::Top1 => "Share of positions where both name the same most likely token",
            Metric::Prefill => "Median rate of the prompt, and its ratio to the reference. n.r. is not resolved",
            Metric::Decode => "Median rate of single tokens, and its ratio to the reference. n.r. is not resolved",
            Metric::Bytes => "All tensors as packed: what an exported file holds",
            Metric::Bits => "Effective bits per weight, scales and minimums included",
            Metric::Peak => "Peak resident memory of the worker",
            Metric::Energy => "Energy of a decoded token, all that the device took, with its 95 % interval",
        },
        trade_off: TradeOffWords::EN,
        live: LiveWords::EN,
        trials: TrialsWords::EN,
        compare: CompareWords::EN,
        hardware: HardwareWords::EN,
    };

    /// The header of a column.
    pub fn column(&self, column: Column) -> &'static str {
        match column {
            Column::Number => self.trials.number,
            Column::Recipe => self.trials.recipe,
            Column::Metric(metric) => (self.metric)(metric),
            Column::Cautions => self.trials.cautions,
            Column::State => self.trials.state,
        }
    }

    /// A step of a trial.
    pub const fn phase(&self, phase: Phase) -> &'static str {
        match phase {
            Phase::Load => self.live.load,
            Phase::Calibrate => self.live.calibrate,
            Phase::Compress => self.live.compress,
            Phase::Reference => self.live.reference,
            Phase::Quality => self.live.quality_phase,
            Phase::Prefill => self.live.prefill,
            Phase::Decode => self.live.decode,
            Phase::Sample => self.live.sample,
        }
    }

    /// A verdict in a word or two, and what it means.
    pub const fn verdict(&self, verdict: Verdict) -> (&'static str, &'static str) {
        let words = &self.compare;
        match verdict {
            Verdict::Better => (words.better, ""),
            Verdict::Worse => (words.worse, ""),
            Verdict::NotResolved => (words.not_resolved, words.not_resolved_hint),
            Verdict::Same => (words.same, ""),
            Verdict::Unjudged => ("", words.unjudged_hint),
            Verdict::Simulated => (self.simulated, words.simulated_hint),
            Verdict::Masked => (words.masked, words.masked_hint),
            Verdict::DifferentProtocol => (words.different_protocol, words.different_protocol_hint),
            Verdict::Missing => (words.missing, ""),
        }
    }
}

impl TradeOffWords {
    const EN: Self = Self {
        x_axis: "x",
        y_axis: "y",
        copy: "Copy CSV",
        copy_hint: "Copies the plotted values, one trial a line",
        reset: "Reset view",
        reset_hint: "Shows every point again; a double-click on an empty place does the same",
        plot: "Trade-off plot",
        unread: |reason| match reason {
            Some(reason) => format!("No trial has it: {reason}"),
            None => "No trial has measured it".to_owned(),
        },
        no_points: "No trial has both values",
        no_points_hint: "Choose other axes, or run a sweep that measures them",
        no_results: "No trial has a result",
        no_results_hint: "Each appears here when it ends without a failure",
        front: "front",
        n_failed: |n| format!("{n} failed"),
        n_simulated: |n| format!("{n} simulated, not on these axes"),
        n_masked: |n| format!("{n} masked, not on these axes"),
        masked_reason: "Zeros are all that they change, and zeros stay in place: they run and weigh as the reference",
        simulated_reason: "Their format has no product on this device and is computed in f32: quality and bytes are the \
                           format's own, latency and memory are not. Choose quality and size to see them",
        n_unmeasured: |n| format!("{n} without a value"),
        unmeasured_reason: "The sweep that ran them did not measure one of the axes",
        n_thinned: |n| format!("{n} not drawn"),
        thinned_reason: "More points than can be told apart; the front and the selected trial are always drawn",
        n_more: |n| format!("and {n} more"),
        select: |trial| format!("Select failed trial {trial}"),
        click_hint: "Click selects · double-click loads the recipe",
        load: "Load recipe",
        changes_nothing: "changes no layer",
        weights_alone: "KL of the weights alone, nats",
        predicted_peak: "predicted peak, MiB",
        trial_energy: "whole trial, J",
        threads: |n| if n == 1 { "1 thread".to_owned() } else { format!("{n} threads") },
        load_average: |load| format!("load {load}"),
        megahertz: |clock| format!("{clock} MHz"),
        celsius: |degrees| format!("{degrees} °C"),
        text_of: |protocol, split| format!("{protocol} on {split}"),
    };
}

impl LiveWords {
    const EN: Self = Self {
        nothing: "No trial is running",
        latency_hint: "Latency appears here sample by sample. Select a finished trial to see its record",
        memory_hint: "Memory of the worker appears here over time. Select a finished trial to see its record",
        quality_hint: "Quality appears here window by window as it tightens. Select a finished trial to see its record",
        waiting: "Nothing to draw yet",
        latency_waiting: "The timed phases come after quality",
        memory_waiting: "The worker has not reported its memory yet",
        quality_waiting: "The second scored window gives the first interval",
        not_recorded: "Nothing was recorded",
        latency_absent: "This trial has no timed samples",
        memory_absent: "This trial has no memory readings",
        quality_absent: "This trial has no scored windows",
        running: "running",
        recorded: "recorded",
        phase: "Timed phase",
        quality: "Quality",
        latency_plot: "Latency plot",
        memory_plot: "Memory plot",
        quality_plot: "Quality plot",
        kl: "KL",
        ratio: "ppl ratio",
        n_samples: |n| format!("{n} samples"),
        n_windows: |n| format!("{n} windows"),
        n_cut: |n| format!("{n} spikes cut"),
        cut_hint: "Samples above three times the band are drawn at its top; the numbers count them in full",
        band_hint: "Milliseconds by sample. Line: median. Band: 10th to 90th percentile",
        ci_hint: "Mean over the windows scored so far, with its 95 % interval",
        limit: |limit| format!("limit {limit}"),
        worker: "worker",
        quantity: "Quantity",
        memory: "memory",
        power: "power",
        clock: "clock",
        power_plot: "Power plot",
        clock_plot: "Clock plot",
        machine_hint: "By second of the trial, as the sensors tell it",
        machine_waiting: "No sensor of this machine tells it",
        machine_absent: "Power and clocks are shown while a trial runs; records keep memory",
        owner: |owner| match owner {
            Owner::Processor => "processor".to_owned(),
            Owner::Gpu(number) => format!("GPU {number}"),
            Owner::GpuMemory(number) => format!("GPU {number} memory"),
        },
        gpu: |number, is_own| if is_own { format!("GPU {number}, ours") } else { format!("GPU {number}, all") },
        gpu_hint: "GPU memory of all processes: the driver does not tell ours apart",
        peak: |mib| format!("peak {mib} MiB"),
        peak_hint: "MiB by second. The peak is the kernel's own count",
        simulated: "simulated: not the format's speed",
        load: "load",
        calibrate: "calibrate",
        compress: "compress",
        reference: "reference",
        prefill: "prefill",
        decode: "decode",
        sample: "sample",
        quality_phase: "quality",
        copy: "copy",
        copy_hint: "Copy the whole series as CSV",
    };
}

impl TrialsWords {
    const EN: Self = Self {
        filter: "Filter trials",
        clear: "Clear the filter",
        n_shown: |shown, all| if shown == all { format!("{all} trials") } else { format!("{shown} of {all} trials") },
        no_match: "No trial matches",
        no_match_hint: "The filter looks at number, recipe, state, failure and cautions",
        number: "#",
        recipe: "recipe",
        cautions: "cautions",
        state: "state",
        actions: "actions",
        sort_by: |column| format!("Sort by {column}"),
        pin_a: |trial| format!("Pin {trial} as A"),
        pin_b: |trial| format!("Pin {trial} as B"),
        load: |trial| format!("Load the recipe of {trial}"),
        copy: |trial| format!("Copy the row of {trial}"),
        load_short: "load",
        copy_short: "copy",
        keys_hint: "↑ ↓ select · P pins",
    };
}

impl CompareWords {
    const EN: Self = Self {
        nothing: "Nothing to compare yet",
        nothing_hint: "Select a finished trial to see it beside the reference, or pin any two as A and B",
        side_a: "Side A",
        side_b: "Side B",
        swap: "Swap sides",
        unpin_a: "Unpin A",
        unpin_b: "Unpin B",
        pinned: "pinned",
        by_default: "follows the selection",
        settings: "Settings that differ",
        same_settings: "Both have the same settings on every layer",
        no_graph: "The study does not name its layers",
        metrics: "Metrics",
        change: "A → B",
        text: "Generated text",
        prompt: |prompt| format!("after “{prompt}”"),
        same_text: "both wrote the same",
        no_text: "no text was sampled",
        better: "better",
        worse: "worse",
        not_resolved: "not resolved",
        not_resolved_hint: "The 95 % interval contains no difference. More windows or repetitions narrow it",
        same: "same",
        unjudged_hint: "A single reading without an interval",
        masked: "masked",
        masked_hint: "Zeros are all that differs, and zeros stay in place: a difference in speed is the machine's",
        simulated_hint: "Layers of a side run in f32: its speed and memory are not the format's own",
        different_protocol: "not comparable",
        different_protocol_hint: "The two were measured on different texts, windows or protocols",
        missing: "not measured",
    };
}

//! Words of the panel that takes forward passes apart.

use crate::measure::roofline::Bound;
use crate::model::{Operation, OperationGroup};

/// Words of the panel that takes forward passes apart.
#[derive(Debug)]
#[expect(missing_docs, reason = "one label or sentence each; `_hint` explains the label before it")]
pub struct ProfileWords {
    pub nothing: &'static str,
    pub nothing_hint: &'static str,
    pub needs_model: &'static str,
    pub needs_model_hint: &'static str,
    pub source: &'static str,
    pub current: &'static str,
    pub trial: fn(&str) -> String,
    pub prompt: &'static str,
    pub prompt_hint: &'static str,
    pub context: &'static str,
    pub context_hint: &'static str,
    pub repetitions: &'static str,
    pub repetitions_hint: &'static str,
    pub begin: &'static str,
    pub begin_hint: &'static str,
    pub busy: &'static str,
    pub refused: fn(&str) -> String,
    pub running: &'static str,
    pub step: fn(&str, u32, u32) -> String,
    pub cancel: &'static str,
    pub cancelled: &'static str,
    pub of: fn(&str) -> String,
    pub pass: &'static str,
    pub prefill: fn(&str) -> String,
    pub decode: fn(&str) -> String,
    pub times: fn(&str, &str) -> String,
    pub host: fn(&str) -> String,
    pub host_hint: &'static str,
    pub overhead: fn(&str) -> String,
    pub overhead_hint: &'static str,
    pub copy: &'static str,
    pub export_csv: &'static str,
    pub export_trace: &'static str,
    pub export_trace_hint: &'static str,
    pub section: &'static str,
    pub operations: &'static str,
    pub blocks: &'static str,
    pub roofline: &'static str,
    pub operation_column: &'static str,
    pub time: &'static str,
    pub share: &'static str,
    pub flops: &'static str,
    pub bytes: &'static str,
    pub ceiling: &'static str,
    pub ceiling_hint: &'static str,
    pub bound_by: &'static str,
    pub sort_by: fn(&str) -> String,
    pub block: fn(u16) -> String,
    pub outside: &'static str,
    pub blocks_name: &'static str,
    pub plot: &'static str,
    pub intensity: &'static str,
    pub rate: &'static str,
    pub operation: fn(Operation) -> &'static str,
    pub group: fn(OperationGroup) -> &'static str,
    pub bound: fn(Bound) -> &'static str,
    /// Where there is little room.
    pub bound_short: fn(Bound) -> &'static str,
    /// Share of the time, what is reached and the ceiling over it where there are such, and the cost of a launch.
    pub bottleneck: fn(Bound, &str, Option<[&str; 2]>, &str) -> String,
    pub ceilings: fn(&str) -> String,
}

impl ProfileWords {
    /// English.
    pub const EN: Self = Self {
        nothing: "No profile yet",
        nothing_hint: "A prompt and a single token of the recipe run with a clock between operations: where their time \
                       goes, and what limits it.",
        needs_model: "No model is open",
        needs_model_hint: "Open a model to profile a recipe on it.",
        source: "Recipe to profile",
        current: "current recipe",
        trial: |id| format!("trial {id}"),
        prompt: "prompt",
        prompt_hint: "Tokens of the prompt, in one pass",
        context: "context",
        context_hint: "Tokens in the cache before the one that is decoded",
        repetitions: "repetitions",
        repetitions_hint: "Passes with the clock, and as many without it, turn about",
        begin: "Run profile",
        begin_hint: "Makes the variant in a worker of its own and takes its passes apart",
        busy: "A study is running: a profile would disturb its timing. Stop it or wait for its end.",
        refused: |reason| format!("This recipe cannot run: {reason}"),
        running: "making the variant",
        step: |phase, done, total| format!("{phase} {done} of {total}"),
        cancel: "Cancel",
        cancelled: "cancelled",
        of: |recipe| format!("profile of {recipe}"),
        pass: "Pass",
        prefill: |tokens| format!("prefill of {tokens}"),
        decode: |context| format!("decode behind {context}"),
        times: |plain, passes| format!("{plain} a pass, median of {passes}"),
        host: |share| format!("host {share}"),
        host_hint: "Share of a pass without the clock in which the card is without work",
        overhead: |ratio| format!("clock {ratio}"),
        overhead_hint: "Time of a pass with the clock between operations over the time without it, with its 95 % interval",
        copy: "Copy CSV",
        export_csv: "CSV…",
        export_trace: "Trace…",
        export_trace_hint: "Writes a timeline as Chrome trace events, which ui.perfetto.dev opens",
        section: "Shown",
        operations: "Operations",
        blocks: "Blocks",
        roofline: "Roofline",
        operation_column: "operation",
        time: "time",
        share: "share",
        flops: "GFLOP/s",
        bytes: "GB/s",
        ceiling: "of ceiling",
        ceiling_hint: "The least time at the measured ceilings over the time it took. Bytes and operations are counted \
                       from shapes.",
        bound_by: "bound by",
        sort_by: |column| format!("Sort by {column}"),
        block: |block| format!("block {block}"),
        outside: "outside",
        blocks_name: "Time of each block",
        plot: "Roofline plot",
        intensity: "FLOP a byte",
        rate: "GFLOP/s",
        operation: Operation::name,
        group: OperationGroup::name,
        bound: Bound::name,
        bound_short: |bound| match bound {
            Bound::Memory => "memory",
            Bound::Cache => "cache",
            Bound::Compute => "compute",
            Bound::Overhead => "overhead",
            Bound::Launches => "launches",
            Bound::Host => "host",
        },
        bottleneck: |bound, time, figures, launch| {
            let figures = figures.map_or_else(String::new, |[reached, ceiling]| format!(" at {reached} of {ceiling}"));
            match bound {
                Bound::Memory => format!("Memory bandwidth: {time} of the time waits for memory{figures}"),
                Bound::Cache => format!("Cache bandwidth: {time} of the time waits for caches{figures}"),
                Bound::Compute => format!("Compute: {time} of the time multiplies{figures}"),
                Bound::Overhead => {
                    format!("Host overhead: {time} of the time goes to operations too short to come near a ceiling")
                }
                Bound::Launches => {
                    format!("Launches: {time} of the time goes to operations too short for a launch of {launch}")
                }
                Bound::Host => format!("Host: the card is without work for {time} of the time"),
            }
        },
        ceilings: |device| format!("ceilings measured on {device}, best of several runs"),
    };
}

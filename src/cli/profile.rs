//! `trimtab profile`: where the time of a variant's passes goes, and what limits it.

use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::cli::args::ProfileArgs;
use crate::cli::out::{Out, quoted, say};
use crate::cli::table::{Column, numbers, table, words};
use crate::cli::trial::{self, Profiled, say_cautions};
use crate::cli::{Verdict, open};
use crate::export::{profile, tables};
use crate::measure::roofline::{self, Bottleneck, Bound, Effort};
use crate::model::OperationGroup;
use crate::study::{Ceilings, PassProfile, ProfileReport, ProfileWorkload};
use crate::units::{bytes, duration, per_second, percent, significant};

/// Tokens of a prompt and of a context when the command names none and the model has room.
const TOKENS: u32 = 256;
/// Letters of the longest bar.
const BAR: f64 = 48.0;

const OPERATIONS: [Column; 8] = [
    words("operation"),
    numbers("calls"),
    numbers("time"),
    numbers("share"),
    numbers("GFLOP/s"),
    numbers("GB/s"),
    numbers("of ceiling"),
    words("bound by"),
];
const GROUPS: [Column; 4] = [words("part"), numbers("time"), numbers("share"), words("")];

pub(super) fn run(args: &ProfileArgs, out: &mut Out) -> anyhow::Result<Verdict> {
    if let Some(path) = args.trace.as_deref().filter(|path| !args.replace && path.symlink_metadata().is_ok()) {
        bail!("{} exists; --replace writes over it", quoted(path));
    }
    let folder = args.trace.as_deref().and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        bail!("{}: there is no such folder to write the trace into", quoted(folder));
    }
    let checkpoint = open::model_or_shape(&args.model)?;
    let max_context = u32::try_from(checkpoint.graph().family.max_context()).unwrap_or(u32::MAX);
    let workload = ProfileWorkload {
        prompt: args.prompt.unwrap_or_else(|| TOKENS.min(max_context)),
        context: args.context.unwrap_or_else(|| TOKENS.min(max_context.saturating_sub(1))),
        repetitions: args.repetitions,
    };
    check(workload, max_context)?;
    let ran = trial::profile(&checkpoint, &args.variant, workload)?;
    let report = match &ran.result {
        Ok(found) => found,
        Err(failure) => {
            if args.json {
                out.json(&json!({ "recipe": ran.recipe.name, "failure": failure }))?;
            }
            say(&format!("failed: {}: {}", failure.kind.label(), failure.message));
            return Ok(Verdict::Missed);
        }
    };
    if let Some(path) = &args.trace {
        let title = format!("{}: {}", checkpoint.graph().name, ran.recipe.name);
        let text = profile::trace(report, &title);
        tables::write(path, text.as_bytes()).with_context(|| format!("write {}", quoted(path)))?;
        say(&format!("wrote {} ({}); ui.perfetto.dev opens it", quoted(path), bytes(text.len() as u64)));
    }
    if args.json {
        out.json(&as_json(&ran, report)?)?;
    } else {
        out.data(&as_text(&ran.recipe.name, report))?;
    }
    say_cautions(&ran.cautions);
    Ok(Verdict::Done)
}

fn check(workload: ProfileWorkload, max_context: u32) -> anyhow::Result<()> {
    let ProfileWorkload { prompt, context, .. } = workload;
    if prompt > max_context {
        bail!("prompt {prompt}: the model's context is {max_context} tokens");
    }
    if context >= max_context {
        bail!("context {context}: one more token does not fit the model's context of {max_context}");
    }
    Ok(())
}

fn as_json(ran: &Profiled, report: &ProfileReport) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(report)?;
    let derived = report.passes.iter().map(|pass| pass_json(pass, &report.ceilings));
    if let Some(passes) = value["passes"].as_array_mut() {
        for (pass, derived) in passes.iter_mut().zip(derived) {
            pass["roofline"] = derived;
        }
    }
    value["recipe"] = json!(ran.recipe.name);
    value["cautions"] = json!(ran.cautions.iter().map(ToString::to_string).collect::<Vec<_>>());
    Ok(value)
}

fn pass_json(pass: &PassProfile, ceilings: &Ceilings) -> Value {
    let by_operation = roofline::by_operation(pass, ceilings);
    let by_group = roofline::by_group(pass, ceilings);
    let bottleneck = roofline::bottleneck(pass, ceilings).map(|found| {
        json!({
            "bound": found.bound.name(),
            "time_share": found.time_share,
            "reached_per_second": found.reached,
            "ceiling_per_second": found.ceiling,
        })
    });
    json!({
        "by_operation": by_operation.iter().map(|(operation, effort)| {
            effort_json("operation", json!(operation), effort)
        }).collect::<Vec<_>>(),
        "by_group": by_group.iter().map(|(group, effort)| {
            effort_json("group", json!(group), effort)
        }).collect::<Vec<_>>(),
        "bottleneck": bottleneck,
    })
}

fn effort_json(key: &str, name: Value, effort: &Effort) -> Value {
    let mut value = json!({
        "calls": effort.n,
        "secs": effort.secs,
        "flops": effort.flops,
        "bytes": effort.bytes,
        "flops_per_byte": effort.intensity(),
        "flops_per_second": effort.flops_per_second(),
        "bytes_per_second": effort.bytes_per_second(),
        "ceiling_share": effort.ceiling_share(),
        "bound": effort.bound().name(),
    });
    value[key] = name;
    value
}

fn as_text(recipe: &str, report: &ProfileReport) -> String {
    let mut parts = vec![format!("recipe  {recipe}")];
    parts.extend(report.passes.iter().map(|pass| pass_text(pass, &report.ceilings)));
    parts.push(ceilings_text(&report.ceilings));
    parts.join("\n\n")
}

fn pass_text(pass: &PassProfile, ceilings: &Ceilings) -> String {
    let all = roofline::total(pass, ceilings);
    let [plain, profiled] = [pass.plain_nanos, pass.profiled_nanos].map(|nanos| duration(nanos as f64 * 1e-9));
    let overhead = pass.overhead.map_or_else(String::new, |ratio| {
        let [low, high] = ratio.ci95.map(|bound| significant(bound, 4));
        format!(": {} × ({low} to {high})", significant(ratio.value, 4))
    });
    let mut lines = vec![format!(
        "{}: {plain}, with the clock between operations {profiled}{overhead}; medians of {} passes each",
        pass.kind.label(),
        pass.repetitions
    )];
    lines.extend(pass.card_nanos.zip(roofline::host_share(pass)).map(|(nanos, host)| {
        let time = duration(nanos as f64 * 1e-9);
        format!("on the card {time} from the first request on; the host takes {} of a pass alone", percent(host))
    }));
    lines.extend(
        roofline::bottleneck(pass, ceilings).map(|found| format!("bottleneck: {}", bottleneck(&found, ceilings))),
    );
    let share = |effort: &Effort| percent(effort.secs / all.secs.max(f64::MIN_POSITIVE));
    let rows = roofline::by_operation(pass, ceilings).into_iter().map(|(operation, effort)| {
        let giga = |rate: Option<f64>| rate.map_or_else(String::new, |rate| significant(rate / 1e9, 3));
        vec![
            operation.name().to_owned(),
            effort.n.to_string(),
            duration(effort.secs),
            share(&effort),
            giga(effort.flops_per_second()),
            giga(effort.bytes_per_second()),
            effort.ceiling_share().map_or_else(String::new, percent),
            effort.bound().name().to_owned(),
        ]
    });
    lines.push(table(&OPERATIONS, rows));
    let groups = roofline::by_group(pass, ceilings);
    let rows = groups.iter().map(|(group, effort)| {
        vec![group.name().to_owned(), duration(effort.secs), share(effort), letter(*group).to_string()]
    });
    lines.push(String::new());
    lines.push(table(&GROUPS, rows));
    lines.push(String::new());
    lines.extend(bars(pass, ceilings));
    lines.join("\n")
}

/// What limits a pass, in words.
fn bottleneck(found: &Bottleneck, ceilings: &Ceilings) -> String {
    let time = percent(found.time_share);
    let figures = |unit| match (found.reached, found.ceiling) {
        (Some(reached), Some(ceiling)) => format!("{} of {}", per_second(reached, unit), per_second(ceiling, unit)),
        _ => String::new(),
    };
    let name = found.bound.name();
    match found.bound {
        Bound::Memory => format!("{name}: {time} of the time waits for memory, at {}", figures("B/s")),
        Bound::Cache => format!("{name}: {time} of the time waits for caches, at {}", figures("B/s")),
        Bound::Compute => format!("{name}: {time} of the time multiplies, at {}", figures("FLOP/s")),
        Bound::Overhead => {
            format!("{name}: {time} of the time goes to operations too short to come near a ceiling")
        }
        Bound::Launches => {
            let launch = duration(ceilings.hand_over_secs);
            format!("{name}: {time} of the time goes to operations too short for a launch of {launch}")
        }
        Bound::Host => format!("{name}: the card is without work for {time} of the time"),
    }
}

/// The mark of a part in the bars.
const fn letter(group: OperationGroup) -> char {
    match group {
        OperationGroup::Attention => '█',
        OperationGroup::Mlp => '▓',
        OperationGroup::Norms => '▒',
        OperationGroup::Head => '░',
        OperationGroup::Other => '·',
    }
}

/// A bar a block, and one for what lies outside of the blocks; the longest is [`BAR`].
fn bars(pass: &PassProfile, ceilings: &Ceilings) -> Vec<String> {
    let parts = roofline::by_block(pass, ceilings);
    let rows: Vec<_> = parts.chunk_by(|a, b| a.0.0 == b.0.0).collect();
    let secs = |row: &[((Option<u16>, OperationGroup), Effort)]| row.iter().map(|(_, part)| part.secs).sum::<f64>();
    let longest = rows.iter().map(|row| secs(row)).fold(f64::MIN_POSITIVE, f64::max);
    let bar = |row: &&[((Option<u16>, OperationGroup), Effort)]| {
        let name = row[0].0.0.map_or_else(|| "outside".to_owned(), |block| format!("block {block}"));
        // Ends are rounded, not lengths: the whole bar has the right length.
        let (mut bar, mut end, mut drawn) = (String::new(), 0.0, 0);
        for ((_, group), part) in *row {
            end += part.secs;
            let until = (end / longest * BAR).round() as usize;
            bar.extend(std::iter::repeat_n(letter(*group), until - drawn));
            drawn = until;
        }
        format!("{name:<10} {bar} {}", duration(secs(row)))
    };
    rows.iter().map(bar).collect()
}

fn ceilings_text(ceilings: &Ceilings) -> String {
    let mut lines = vec![format!("ceilings of {}, best of several runs", ceilings.label())];
    for read in &ceilings.reads {
        let holds = read.capacity_bytes.map_or_else(String::new, |capacity| format!(", holds {}", bytes(capacity)));
        let buffer = bytes(read.buffer_bytes);
        let rate = per_second(read.bytes_per_second, "B/s");
        lines.push(format!("  {:<13} {rate} (read {buffer} again and again{holds})", read.memory.label()));
    }
    let hand_over = if ceilings.card.is_some() { "launch" } else { "hand-over" };
    lines.push(format!("  {hand_over:<13} {}", duration(ceilings.hand_over_secs)));
    lines.extend(
        ceilings.card.as_ref().map(|card| {
            format!("  {:<13} {} in the recorded step of a token", "", duration(card.recorded_launch_secs))
        }),
    );
    lines.push(format!("  {:<13} {}", "f32", per_second(ceilings.float_flops, "FLOP/s")));
    lines.extend(ceilings.int8_ops.map(|ops| format!("  {:<13} {}", "int8", per_second(ops, "OP/s"))));
    lines.extend(ceilings.tensor_flops.map(|ops| format!("  {:<13} {}", "tensor cores", per_second(ops, "FLOP/s"))));
    lines.extend(ceilings.tensor_int8_ops.map(|ops| format!("  {:<13} {}", "  with int8", per_second(ops, "OP/s"))));
    lines.join("\n")
}

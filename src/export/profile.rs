//! A profile for other programs: a timeline that Perfetto opens, and a table.

use serde_json::{Value, json};

use crate::export::tables::push_line;
use crate::model::Arithmetic;
use crate::study::{OperationProfile, PassProfile, ProfileReport};

/// The process of all events: a profile has one.
const PROCESS: u32 = 1;

/// The timeline in the JSON of Chrome's trace events, as Perfetto and `chrome://tracing` open it.
///
/// One track for each kind of pass, and on it the pass, its blocks and their operations, nested. Times are those of the
/// recorded pass whose duration is the median one.
///
/// Format: Trace Event Format, Google, 2016; complete events (`X`) with times in microseconds.
pub fn trace(report: &ProfileReport, title: &str) -> String {
    let mut events = vec![name("process_name", 0, title)];
    for (index, pass) in report.passes.iter().enumerate() {
        let thread = index as u32 + 1;
        events.push(name("thread_name", thread, &pass.kind.label()));
        let sort = json!({ "sort_index": thread });
        events.push(json!({ "ph": "M", "name": "thread_sort_index", "pid": PROCESS, "tid": thread, "args": sort }));
        track(pass, thread, &mut events);
    }
    let other = json!({ "conditions": report.conditions, "ceilings": report.ceilings });
    json!({ "traceEvents": events, "displayTimeUnit": "ns", "otherData": other }).to_string()
}

fn name(what: &str, thread: u32, name: &str) -> Value {
    json!({ "ph": "M", "name": what, "pid": PROCESS, "tid": thread, "args": { "name": name } })
}

fn track(pass: &PassProfile, thread: u32, events: &mut Vec<Value>) {
    let Some(last) = pass.operations.last() else { return };
    let summary = json!({
        "repetitions": pass.repetitions,
        "median_profiled_us": micros(pass.profiled_nanos),
        "median_plain_us": micros(pass.plain_nanos),
        "median_card_us": pass.card_nanos.map(micros),
    });
    events.push(complete(&pass.kind.label(), "pass", thread, [0, last.span_nanos[1]], summary));
    for operations in pass.operations.chunk_by(|a, b| a.block == b.block) {
        let (first, last) = (&operations[0], &operations[operations.len() - 1]);
        if let Some(block) = first.block {
            let span = [first.span_nanos[0], last.span_nanos[1]];
            events.push(complete(&format!("block {block}"), "block", thread, span, json!({ "block": block })));
        }
        for operation in operations {
            let args = json!({
                "flops": operation.flops,
                "bytes": operation.bytes(),
                "streamed_bytes": operation.streamed_bytes,
                "activation_bytes": operation.activation_bytes,
                "median_us": micros(operation.nanos),
                "product": operation.product,
            });
            let (name, group) = (operation.operation.name(), operation.operation.group().name());
            events.push(complete(name, group, thread, operation.span_nanos, args));
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the arguments become part of the event")]
fn complete(name: &str, category: &str, thread: u32, [begin, end]: [u64; 2], args: Value) -> Value {
    json!({
        "ph": "X", "name": name, "cat": category, "pid": PROCESS, "tid": thread,
        "ts": micros(begin), "dur": micros(end.saturating_sub(begin)), "args": args,
    })
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

const COLUMNS: [&str; 12] = [
    "pass",
    "tokens",
    "block",
    "operation",
    "group",
    "median_nanos",
    "flops",
    "streamed_bytes",
    "activation_bytes",
    "arithmetic",
    "product",
    "repetitions",
];

/// Every operation of every pass as one row of CSV (RFC 4180, a header row, lines end with CRLF), with raw values.
pub fn csv(report: &ProfileReport) -> String {
    let mut out = String::new();
    push_line(&mut out, COLUMNS.into_iter());
    for pass in &report.passes {
        for operation in &pass.operations {
            let row = row(pass, operation);
            push_line(&mut out, row.iter().map(String::as_str));
        }
    }
    out
}

fn row(pass: &PassProfile, operation: &OperationProfile) -> [String; COLUMNS.len()] {
    let arithmetic = match operation.arithmetic {
        Arithmetic::Float => "float",
        Arithmetic::Int8 => "int8",
        Arithmetic::TensorFloat => "tensor_float",
        Arithmetic::TensorInt8 => "tensor_int8",
    };
    [
        pass.kind.name().to_owned(),
        pass.kind.tokens().to_string(),
        operation.block.map_or_else(String::new, |block| block.to_string()),
        operation.operation.name().to_owned(),
        operation.operation.group().name().to_owned(),
        operation.nanos.to_string(),
        operation.flops.to_string(),
        operation.streamed_bytes.to_string(),
        operation.activation_bytes.to_string(),
        arithmetic.to_owned(),
        operation.product.clone().unwrap_or_default(),
        pass.repetitions.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Operation;
    use crate::study::{Ceilings, Conditions, PassKind};

    fn report() -> ProfileReport {
        let mut end = 0;
        let mut operation = |block, operation, nanos| {
            let begin = end;
            end += nanos;
            OperationProfile {
                block,
                operation,
                nanos,
                span_nanos: [begin, end],
                flops: 10,
                streamed_bytes: 20,
                activation_bytes: 5,
                arithmetic: Arithmetic::Int8,
                product: Some("a, \"b\"".to_owned()),
            }
        };
        let operations = vec![
            operation(None, Operation::Embedding, 1_001),
            operation(Some(0), Operation::Query, 7),
            operation(Some(0), Operation::Down, 2_500),
            operation(Some(1), Operation::Gate, 333),
            operation(None, Operation::Head, 40),
        ];
        let pass = PassProfile {
            kind: PassKind::Decode { context: 9 },
            repetitions: 3,
            profiled_nanos: 3_900,
            plain_nanos: 3_800,
            card_nanos: None,
            overhead: None,
            operations,
        };
        let ceilings = Ceilings {
            reads: Vec::new(),
            float_flops: 1e9,
            int8_ops: None,
            hand_over_secs: 1e-6,
            threads: 1,
            instructions: "portable".to_owned(),
            tensor_flops: None,
            tensor_int8_ops: None,
            card: None,
        };
        let prefill = PassProfile { kind: PassKind::Prefill { tokens: 4 }, ..pass.clone() };
        ProfileReport { passes: vec![prefill, pass], ceilings, conditions: Conditions::default() }
    }

    #[test]
    fn events_are_nested_and_follow_each_other() {
        let trace: Value = serde_json::from_str(&trace(&report(), "a model")).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let names = events.iter().filter(|event| event["ph"] == "M" && event["name"] == "thread_name");
        let names: Vec<&str> = names.map(|event| event["args"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["prefill of 4 tokens", "decode behind 9 tokens"]);
        for thread in [1, 2] {
            let of = |category: &'static str| {
                let is_so = move |event: &&Value| {
                    let is_operation = !matches!(event["cat"].as_str(), Some("pass" | "block"));
                    event["tid"] == thread
                        && event["ph"] == "X"
                        && if category == "operation" { is_operation } else { event["cat"] == category }
                };
                let span = |event: &Value| {
                    let nanos = |key: &str| (event[key].as_f64().unwrap() * 1e3).round() as u64;
                    (nanos("ts"), nanos("ts") + nanos("dur"))
                };
                events.iter().filter(is_so).map(span).collect::<Vec<_>>()
            };
            let (passes, blocks, operations) = (of("pass"), of("block"), of("operation"));
            assert_eq!((passes.len(), blocks.len(), operations.len()), (1, 2, 5));
            assert_eq!(passes[0], (0, 3_881));
            assert_eq!(blocks, [(1_001, 3_508), (3_508, 3_841)]);
            assert!(operations.windows(2).all(|pair| pair[0].1 == pair[1].0), "{operations:?}");
            for (begin, end) in operations {
                let crosses = |block: &&(u64, u64)| begin < block.1 && end > block.0;
                assert!(blocks.iter().filter(crosses).all(|block| block.0 <= begin && end <= block.1));
            }
        }
        let head = events.iter().find(|event| event["name"] == "head").unwrap();
        assert_eq!((&head["args"]["bytes"], &head["args"]["flops"]), (&json!(25), &json!(10)));
    }

    #[test]
    fn the_table_has_every_operation_with_raw_values() {
        let csv = csv(&report());
        let lines: Vec<&str> = csv.split_terminator("\r\n").collect();
        assert_eq!(lines.len(), 1 + 2 * 5);
        assert_eq!(lines[0], COLUMNS.join(","));
        assert_eq!(lines[7], "decode,9,0,query,attention,7,10,20,5,int8,\"a, \"\"b\"\"\",3");
        assert!(lines[6].starts_with("decode,9,,embedding,other,1001,"), "{}", lines[6]);
    }
}

//! Why a worker ended, from what can be seen of it. Pure.

use crate::study::{Failure, FailureKind, Phase};

/// What the host did to the worker before it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HostAction {
    /// Nothing.
    Nothing,
    /// Killed because the user cancelled and the worker did not end the trial in time.
    Cancelled,
    /// Killed because nothing happened for too long; the text says what was waited for.
    TimedOut(String),
    /// Killed because it sent something that is not the protocol; the text says what.
    Refused(String),
}

/// What is known of a worker that ended.
#[derive(Debug, Clone)]
pub(super) struct Remains<'a> {
    /// Exit code, if it exited.
    pub(super) code: Option<i32>,
    /// Signal, if one ended it.
    pub(super) signal: Option<i32>,
    /// The end of what it wrote on standard error.
    pub(super) stderr: &'a str,
    /// The last step that it reported.
    pub(super) phase: Option<Phase>,
    /// The last resident memory that it reported.
    pub(super) rss_bytes: Option<u64>,
    /// Whether it answered the first exchange.
    pub(super) was_ready: bool,
}

/// The failure of the trial that the worker was running.
pub(super) fn classify(remains: &Remains<'_>, action: &HostAction) -> Failure {
    let place = place(remains);
    match action {
        HostAction::Cancelled => {
            return Failure::new(FailureKind::Cancelled, format!("cancelled{place}; the worker was ended"));
        }
        HostAction::TimedOut(what) => {
            let message = format!("{what}{place}; the worker was ended. Try a smaller workload or another device");
            return Failure::new(FailureKind::TimedOut, message);
        }
        HostAction::Refused(what) => {
            let message = format!("the worker sent a garbled report{place} ({what}) and was ended; report this bug");
            return Failure::new(FailureKind::Protocol, message);
        }
        HostAction::Nothing => {}
    }
    if let Some(bytes) = failed_allocation(remains.stderr) {
        let wanted = crate::units::bytes(bytes);
        let message =
            format!("no memory for another {wanted}{place}. Try fewer windows, a shorter prompt or a smaller model");
        return Failure::new(FailureKind::OutOfMemory, message);
    }
    if let Some(text) = panic_text(remains.stderr) {
        return Failure::new(FailureKind::Panicked, format!("the worker panicked{place}: {text}"));
    }
    if let Some(signal) = remains.signal {
        return Failure::new(FailureKind::Killed, signal_message(signal, remains, &place));
    }
    let said = last_line(remains.stderr).map_or_else(String::new, |line| format!(": {line}"));
    let code = remains.code.map_or_else(String::new, |code| format!(" with code {code}"));
    if remains.was_ready {
        Failure::new(FailureKind::Exited, format!("the worker ended{code} without a result{place}{said}"))
    } else {
        Failure::new(FailureKind::Spawn, format!("the worker ended{code} before it was ready{said}"))
    }
}

fn place(remains: &Remains<'_>) -> String {
    let doing = match remains.phase {
        None => return String::new(),
        Some(Phase::Load) => "reading the model",
        Some(Phase::Calibrate) => "reading the calibration text",
        Some(Phase::Compress) => "compressing layers",
        Some(Phase::Reference) => "scoring the reference",
        Some(Phase::Quality) => "scoring the variant",
        Some(Phase::Prefill) => "timing the prompt",
        Some(Phase::Decode) => "timing single tokens",
        Some(Phase::Sample) => "sampling text",
    };
    format!(" while {doing}")
}

fn signal_message(signal: i32, remains: &Remains<'_>, place: &str) -> String {
    let name = signal_name(signal);
    match signal {
        9 => {
            let held =
                remains.rss_bytes.map_or_else(String::new, |rss| format!(" It held {}.", crate::units::bytes(rss)));
            format!(
                "the worker was killed by {name}{place}, most likely because the system ran out of memory.{held} \
                 Close other programs, or try fewer windows or a smaller model"
            )
        }
        6 if remains.stderr.contains("has overflowed its stack") => format!("the worker overflowed its stack{place}"),
        _ => {
            let said = last_line(remains.stderr).map_or_else(String::new, |line| format!(": {line}"));
            format!("the worker was ended by {name}{place}{said}")
        }
    }
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        _ => return format!("signal {signal}"),
    };
    format!("signal {signal} ({name})")
}

/// Bytes of `memory allocation of N bytes failed`, the last words of a Rust program without memory.
fn failed_allocation(stderr: &str) -> Option<u64> {
    let (_, rest) = stderr.rsplit_once("memory allocation of ")?;
    let (digits, rest) = rest.split_once(' ')?;
    rest.starts_with("bytes failed").then(|| digits.parse().ok())?
}

/// Text and place of the last panic: `index out of bounds … (src/nn/llama.rs:10:5)`.
fn panic_text(stderr: &str) -> Option<String> {
    let (_, rest) = stderr.rsplit_once(" panicked at ")?;
    let (location, rest) = rest.split_once('\n').unwrap_or((rest, ""));
    let text: Vec<&str> = rest
        .lines()
        .take_while(|line| !line.starts_with("note: ") && !line.starts_with("stack backtrace:"))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    Some(shortened(&format!("{} ({})", text.join(" "), location.trim_end_matches([':', ' ']))))
}

fn last_line(stderr: &str) -> Option<String> {
    stderr.lines().map(str::trim).rfind(|line| !line.is_empty()).map(shortened)
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 400;
    match text.char_indices().nth(LONGEST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PANIC: &str = "\nthread 'main' (77) panicked at src/nn/llama.rs:10:5:\nindex out of bounds: the len is 3 but \
                         the index is 7\nnote: run with `RUST_BACKTRACE=1`\n";
    const TWO_LINES: &str =
        "thread '<unnamed>' panicked at a.rs:1:2:\nassertion failed\n  left: 1\nstack backtrace:\n0: x";

    fn exited(code: i32, stderr: &str) -> Remains<'_> {
        Remains { code: Some(code), signal: None, stderr, phase: None, rss_bytes: None, was_ready: true }
    }

    fn signalled(signal: i32, stderr: &str) -> Remains<'_> {
        Remains { code: None, signal: Some(signal), ..exited(0, stderr) }
    }

    fn check(remains: &Remains<'_>, action: &HostAction, kind: FailureKind, parts: &[&str]) {
        let failure = classify(remains, action);
        assert_eq!(failure.kind, kind, "{failure:?}");
        for part in parts {
            assert!(failure.message.contains(part), "{part:?} is not in {:?}", failure.message);
        }
    }

    #[test]
    fn what_the_worker_did_itself() {
        use FailureKind::{Exited, Killed, OutOfMemory, Panicked, Spawn};
        let none = HostAction::Nothing;
        check(&exited(101, PANIC), &none, Panicked, &["index out of bounds: the len is 3", "(src/nn/llama.rs:10:5)"]);
        check(&exited(101, TWO_LINES), &none, Panicked, &["assertion failed left: 1 (a.rs:1:2)"]);
        check(&signalled(6, PANIC), &none, Panicked, &["index out of bounds"]);
        check(&signalled(6, "memory allocation of 1099511627776 bytes failed\n"), &none, OutOfMemory, &["1.00 TiB"]);
        check(&signalled(6, "memory allocation of many bytes failed"), &none, Killed, &["SIGABRT"]);
        check(&signalled(6, "thread 'main' has overflowed its stack\n"), &none, Killed, &["overflowed its stack"]);
        check(&signalled(11, ""), &none, Killed, &["signal 11 (SIGSEGV)"]);
        check(&signalled(7, "noise\n\n"), &none, Killed, &["signal 7 (SIGBUS): noise"]);
        check(&signalled(33, ""), &none, Killed, &["signal 33"]);
        check(&exited(0, ""), &none, Exited, &["code 0 without a result"]);
        check(&exited(3, "cannot go on\n"), &none, Exited, &["code 3", "cannot go on"]);
        check(&Remains { was_ready: false, ..exited(127, "no such library\n") }, &none, Spawn, &["no such library"]);
        let told = Remains { phase: Some(Phase::Decode), rss_bytes: Some(1 << 30), ..signalled(9, "") };
        check(&told, &none, Killed, &["ran out of memory", "1.00 GiB", "while timing single tokens"]);
    }

    #[test]
    fn what_the_host_did_comes_first() {
        let timed_out = HostAction::TimedOut("no progress for 30.0 s".to_owned());
        let refused = HostAction::Refused("checksum".to_owned());
        check(&signalled(9, PANIC), &HostAction::Cancelled, FailureKind::Cancelled, &["cancelled"]);
        check(&signalled(9, ""), &timed_out, FailureKind::TimedOut, &["no progress for 30.0 s"]);
        check(&signalled(9, ""), &refused, FailureKind::Protocol, &["garbled", "checksum"]);
    }

    #[test]
    fn long_last_words_are_shortened_at_a_character() {
        let noise = "ä".repeat(70_000);
        let failure = classify(&exited(1, &noise), &HostAction::Nothing);
        assert!(failure.message.chars().count() < 500 && failure.message.ends_with('…'));
    }
}

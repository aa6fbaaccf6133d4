//! The only place that turns numbers into text for people.
//!
//! Imports std only. Everything here is pure; machine-readable output (JSON, CSV) never passes through this file.

/// Bytes with a binary prefix and three significant digits: `28.9 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", significant(value, 3), UNITS[unit])
}

/// A signed difference of bytes: `−19.5 MiB`.
pub fn bytes_delta(from: u64, to: u64) -> String {
    if to >= from { format!("+{}", bytes(to - from)) } else { format!("−{}", bytes(from - to)) }
}

/// `value` with `digits` significant digits and no exponent between 1e-4 and 1e7.
///
/// Non-finite values give `n/a`, so a bad number can be seen and never looks like a result.
pub fn significant(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return "n/a".to_owned();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let magnitude = value.abs().log10().floor() as i32;
    if !(-4..7).contains(&magnitude) {
        return format!("{value:.*e}", digits.saturating_sub(1));
    }
    let decimals = (i32::try_from(digits).unwrap_or(i32::MAX) - 1 - magnitude).max(0) as usize;
    format!("{value:.decimals$}")
}

/// A number as people type it: whole ones in full, others with seven significant digits at most and no zeros behind them.
/// Reading it back gives what it shows.
pub fn number(value: f64) -> String {
    let value = if value.fract() == 0.0 { value } else { format!("{value:.6e}").parse().unwrap_or(value) };
    if value != 0.0 && value.abs() < 1e-4 { format!("{value:e}") } else { value.to_string() }
}

/// A count with thousands separated by a thin comma: `89,143`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count of parameters: `15.2 M`.
pub fn parameters(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{} K", significant(n as f64 / 1e3, 3)),
        1_000_000..1_000_000_000 => format!("{} M", significant(n as f64 / 1e6, 3)),
        _ => format!("{} B", significant(n as f64 / 1e9, 3)),
    }
}

/// A duration for people: `0.84 ms`, `12.3 s`, `1:35`, `2:03:10`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "n/a".to_owned();
    }
    if seconds < 1e-3 {
        return format!("{} µs", significant(seconds * 1e6, 3));
    }
    if seconds < 1.0 {
        return format!("{} ms", significant(seconds * 1e3, 3));
    }
    if seconds < 59.95 {
        return format!("{} s", significant(seconds, 3));
    }
    let whole = seconds.round() as u64;
    let (hours, minutes, secs) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{secs:02}") } else { format!("{minutes}:{secs:02}") }
}

/// Milliseconds without the unit, for table cells whose header names it.
pub fn millis(seconds: f64) -> String {
    significant(seconds * 1e3, 3)
}

/// A rate in tokens a second, without the unit.
pub fn rate(per_second: f64) -> String {
    significant(per_second, 3)
}

/// A rate with a decimal prefix and three significant digits: `42.0 GB/s` of `B/s`.
pub fn per_second(value: f64, unit: &str) -> String {
    let prefixes = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let prefix = prefixes.into_iter().find(|(factor, _)| value.abs() >= *factor);
    let (factor, prefix) = prefix.unwrap_or((1.0, ""));
    format!("{} {prefix}{unit}", significant(value / factor, 3))
}

/// A fraction (0 to 1) as per cent: `30 %`.
pub fn percent(fraction: f64) -> String {
    format!("{} %", significant(fraction * 100.0, 3))
}

/// A relative change as signed per cent: `+1.23 %`.
pub fn change(ratio: f64) -> String {
    let delta = (ratio - 1.0) * 100.0;
    if !delta.is_finite() {
        return "n/a".to_owned();
    }
    let sign = if delta < 0.0 { "−" } else { "+" };
    format!("{sign}{} %", significant(delta.abs(), 3))
}

/// A ratio: `1.84 ×`.
pub fn ratio(value: f64) -> String {
    format!("{} ×", significant(value, 3))
}

/// A value with the half width of its 95 % interval: `3.357 ± 0.012`; the value alone where there is no interval.
///
/// The value has the decimals of the interval and at least four significant digits: a wide interval does not hide it.
pub fn interval(value: f64, ci95: [f64; 2]) -> String {
    let half = (ci95[1] - ci95[0]) / 2.0;
    if !half.is_finite() || !value.is_finite() {
        return "n/a".to_owned();
    }
    if half <= 0.0 {
        return significant(value, 4);
    }
    let decimals = (1 - half.log10().floor() as i32).clamp(0, 12);
    let is_hidden = value != 0.0 && value.abs() < 10_f64.powi(3 - decimals);
    let decimals = decimals as usize;
    let shown = if is_hidden { significant(value, 4) } else { format!("{value:.decimals$}") };
    format!("{shown} ± {half:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_use_binary_prefixes() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (30_389_512, "29.0 MiB"),
            (1_048_000, "0.999 MiB"),
            (u64::MAX, "16384 PiB"),
        ];
        for (n, expected) in cases {
            assert_eq!(bytes(n), expected);
        }
    }

    #[test]
    fn numbers_are_typed_as_they_read() {
        let cases = [
            (0.0, "0"),
            (100.0 * 0.07, "7"),
            (99.999, "99.999"),
            (1.0 / 3.0, "0.3333333"),
            (1e-8, "1e-8"),
            (0.01, "0.01"),
            (16_777_217.0, "16777217"),
            (-2.5, "-2.5"),
        ];
        for (value, expected) in cases {
            assert_eq!(number(value), expected);
            assert_eq!(number(expected.parse().unwrap()), expected);
        }
    }

    #[test]
    fn durations_and_counts_read_well() {
        assert_eq!(duration(0.00084), "840 µs");
        assert_eq!(duration(0.84), "840 ms");
        assert_eq!(duration(12.34), "12.3 s");
        assert_eq!(duration(95.0), "1:35");
        assert_eq!(duration(7390.0), "2:03:10");
        assert_eq!(duration(f64::NAN), "n/a");
        assert_eq!(per_second(42e9, "B/s"), "42.0 GB/s");
        assert_eq!(per_second(1_234_000.0, "B/s"), "1.23 MB/s");
        assert_eq!(per_second(12.0, "FLOP/s"), "12.0 FLOP/s");
        assert_eq!(count(89_143), "89,143");
        assert_eq!(count(7), "7");
        assert_eq!(parameters(15_191_712), "15.2 M");
    }

    #[test]
    fn intervals_show_two_digits_of_uncertainty() {
        assert_eq!(interval(3.35707, [3.34507, 3.36907]), "3.357 ± 0.012");
        assert_eq!(interval(0.18171, [0.18, 0.18342]), "0.1817 ± 0.0017");
        assert_eq!(interval(712.0, [696.0, 728.0]), "712.0 ± 16");
        assert_eq!(interval(3.2134, [-301.0, 307.4]), "3.213 ± 304");
        assert_eq!(interval(-0.0012345, [-0.05, 0.0475]), "-0.001234 ± 0.049");
        assert_eq!(interval(12345.6, [12045.0, 12646.0]), "12346 ± 300");
        assert_eq!(interval(0.0, [-0.02, 0.02]), "0.000 ± 0.020");
        assert_eq!(interval(3.2134, [3.2134, 3.2134]), "3.213");
        assert_eq!(change(1.012), "+1.20 %");
    }
}

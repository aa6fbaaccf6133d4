use super::*;
use crate::export::report::fixtures::small_study;
use crate::study::{DecodeLimits, Energy, EnergySource, MemoryLevel};

const NAMES: [&str; 5] = ["=1+1", "comma, \"quote\"", "line\nbreak", "-minus", "plain"];

/// A CSV reader by the letter of RFC 4180.
fn parse(text: &str) -> Vec<Vec<String>> {
    let mut rows = vec![vec![String::new()]];
    let mut letters = text.chars().peekable();
    let mut quoted = false;
    while let Some(letter) = letters.next() {
        let cell = rows.last_mut().unwrap().last_mut().unwrap();
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                cell.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => rows.last_mut().unwrap().push(String::new()),
            '\r' if !quoted && letters.peek() == Some(&'\n') => {
                letters.next();
                rows.push(vec![String::new()]);
            }
            _ => cell.push(letter),
        }
    }
    assert_eq!(rows.pop(), Some(vec![String::new()]), "the last line ends");
    rows
}

fn cell<'a>(rows: &'a [Vec<String>], row: usize, column: &str) -> &'a str {
    let index = rows[0].iter().position(|name| name == column).unwrap_or_else(|| panic!("a column {column}"));
    &rows[row + 1][index]
}

#[test]
fn every_trial_is_a_row_with_every_column() {
    let rows = parse(&csv(&small_study(NAMES)));
    assert_eq!(rows.len(), 6);
    assert!(rows.iter().all(|row| row.len() == rows[0].len()));
    let cases = [
        (0, "name", "'=1+1"),
        (1, "name", "comma, \"quote\""),
        (2, "name", "line\nbreak"),
        (3, "name", "'-minus"),
        (3, "status", "failed"),
        (3, "failure", "out of memory"),
        (3, "perplexity", ""),
        (4, "status", "running"),
        (4, "elapsed_secs", ""),
        (2, "kl_mean", "0.09"),
        (2, "simulated_layers", "42"),
        (2, "cautions", "42 layers simulated in f32; speed and resident memory are not the format's"),
        (1, "weight_bytes", "16000000"),
        (1, "peak_gpu_bytes", ""),
        (1, "decode_ratio_resolved", "false"),
        (1, "protocol", "gptq-256"),
        (1, "split", "report"),
    ];
    for (row, column, expected) in cases {
        assert_eq!(cell(&rows, row, column), expected, "row {row}, {column}");
    }
    let low: f64 = cell(&rows, 2, "kl_mean_ci95_low").parse().unwrap();
    let high: f64 = cell(&rows, 2, "kl_mean_ci95_high").parse().unwrap();
    assert!(low < 0.09 && 0.09 < high);
}

#[test]
fn energy_is_in_joules_and_its_absence_has_a_reason() {
    let mut study = small_study(NAMES);
    let mut change = |id: u32, change: &dyn Fn(&mut Measurements)| {
        let state = &mut study.trials.get_mut(&TrialId(id)).unwrap().state;
        let TrialState::Finished { outcome: Outcome::Done(measured), .. } = state else { panic!("it is done") };
        change(measured);
    };
    change(1, &|measured| {
        measured.energy = Some(Energy {
            source: EnergySource::RaplPackage,
            refresh_secs: 0.001,
            prefill_joules_per_token: None,
            decode_joules_per_token: Some(Estimate { value: 0.25, ci95: [0.2, 0.3], n: 8 }),
            prefill_secs: 0.1,
            decode_secs: 2.0,
            trial_joules: 1234.5,
            trial_secs: 60.0,
        });
    });
    change(2, &|measured| measured.conditions.no_energy = Some("only root may read it".to_owned()));
    let rows = parse(&csv(&study));
    for (row, column, expected) in [
        (1, "decode_joules_per_token", "0.25"),
        (1, "decode_joules_per_token_ci95_high", "0.3"),
        (1, "prefill_joules_per_token", ""),
        (1, "trial_joules", "1234.5"),
        (1, "energy_source", "counters of the processor's packages"),
        (1, "no_energy", ""),
        (2, "trial_joules", ""),
        (2, "no_energy", "only root may read it"),
    ] {
        assert_eq!(cell(&rows, row, column), expected, "row {row}, {column}");
    }
    let line = json_lines(&study).lines().nth(1).map(str::to_owned).unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["outcome"]["done"]["energy"]["trial_joules"], 1234.5);
}

#[test]
fn a_card_s_limits_stand_beside_the_speed_of_decoding() {
    let mut study = small_study(NAMES);
    let state = &mut study.trials.get_mut(&TrialId(1)).unwrap().state;
    let TrialState::Finished { outcome: Outcome::Done(measured), .. } = state else { panic!("it is done") };
    let speed = measured.speed.as_mut().unwrap();
    speed.decode.latency_secs.value = 0.001;
    speed.limits = Some(DecodeLimits {
        bytes_per_token: 2_000_000_000,
        memory: MemoryLevel::Main,
        bytes_per_second: 4e12,
        launches_per_token: 100,
        launch_secs: 2e-6,
    });
    let rows = parse(&csv(&study));
    for (row, column, expected) in [
        (1, "decode_bytes_per_token", "2000000000"),
        (1, "decode_ceiling_bytes_per_second", "4000000000000"),
        (1, "decode_bandwidth_share", "0.5"),
        (1, "decode_launches_per_token", "100"),
        (1, "decode_launch_share", "0.19999999999999998"),
        (2, "decode_bandwidth_share", ""),
    ] {
        assert_eq!(cell(&rows, row, column), expected, "row {row}, {column}");
    }
}

#[test]
fn an_empty_study_has_a_header_row() {
    assert_eq!(parse(&csv(&Study::default())).len(), 1);
    assert_eq!(json_lines(&Study::default()), "");
}

#[test]
fn json_lines_give_back_what_was_measured() {
    let study = small_study(NAMES);
    let lines: Vec<serde_json::Value> =
        json_lines(&study).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[0]["study"], "small study");
    assert_eq!(lines[2]["spec"]["recipe"]["name"], "line\nbreak");
    assert_eq!(lines[2]["outcome"]["done"]["quality"]["kl_mean"]["value"], 0.09);
    assert_eq!(lines[3]["outcome"]["failed"]["kind"], "out_of_memory");
    assert_eq!(lines[4]["outcome"], serde_json::Value::Null);
    let outcome: Outcome = serde_json::from_value(lines[1]["outcome"].clone()).unwrap();
    let TrialState::Finished { outcome: expected, .. } = &study.trials[&TrialId(1)].state else { panic!("finished") };
    assert_eq!(&outcome, expected);
}

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::device::{DeviceInfo, DeviceSpec};
use crate::model::ModelSource;
use crate::model::fixtures::tiny_graph;
use crate::recipe::Recipe;
use crate::study::journal::line::encode;
use crate::study::journal::scan::{ScanError, scan};
use crate::study::{
    Budget, EndReason, Failure, FailureKind, Limits, Outcome, StrategySpec, StudyHeader, StudySpec, TrialId, TrialSpec,
    Workload,
};

/// A header and then `n - 1` records that differ from each other, mostly short ones.
pub(super) fn events(n: usize) -> Vec<StudyEvent> {
    let event = |at: usize| match at {
        0 => StudyEvent::StudyCreated { header: Box::new(header()) },
        _ if at.is_multiple_of(7) => StudyEvent::TrialStarted { spec: Box::new(spec(at as u32)) },
        _ if at.is_multiple_of(5) => finished(at as u32),
        _ if at.is_multiple_of(5) => {
            let budget = Budget { trials: Some(at as u32), secs: None };
            StudyEvent::StudyResumed { limits: Limits::default(), budget }
        }
        _ => StudyEvent::StudyEnded { reason: EndReason::Failing(format!("{at}")) },
    };
    (0..n).map(event).collect()
}

pub(super) fn finished(trial: u32) -> StudyEvent {
    StudyEvent::TrialFinished {
        trial: TrialId(trial),
        outcome: Outcome::Failed(Failure::new(FailureKind::TimedOut, "no step in 30 s")),
        cautions: vec![],
        elapsed_secs: 0.1 + f64::from(trial) / 3.0,
        memory_curve: vec![(0, u64::MAX)],
    }
}

fn spec(id: u32) -> TrialSpec {
    let device = DeviceSpec::Cpu { threads: 2 };
    TrialSpec { id: TrialId(id), recipe: Recipe::reference(), device, workload: Workload::default(), seed: 7 }
}

fn header() -> StudyHeader {
    let mut graph = tiny_graph();
    graph.layers.truncate(1);
    let device = DeviceSpec::Cpu { threads: 2 };
    StudyHeader {
        app_version: "0.1.0".to_owned(),
        spec: StudySpec {
            name: "test".to_owned(),
            model: ModelSource::Gguf { file: PathBuf::from("model.gguf") },
            device,
            also_on: Vec::new(),
            workload: Workload::default(),
            strategy: StrategySpec::List { recipes: vec![] },
            limits: Limits::default(),
            budget: Budget::default(),
            seed: 0,
        },
        graph,
        device: DeviceInfo::named(device, "CPU"),
        created_unix_secs: 0,
        data_hash: None,
    }
}

/// A new journal with `events`, and its bytes.
fn written(folder: &Path, events: &[StudyEvent]) -> (PathBuf, Vec<u8>) {
    let path = folder.join("a.study");
    let mut writer = JournalWriter::create(&path).unwrap();
    for event in events {
        writer.append(event).unwrap();
    }
    let bytes = fs::read(&path).unwrap();
    (path, bytes)
}

fn bytes_of(events: &[StudyEvent]) -> Vec<u8> {
    written(tempfile::tempdir().unwrap().path(), events).1
}

fn is_subsequence(part: &[StudyEvent], whole: &[StudyEvent]) -> bool {
    let mut rest = whole.iter();
    part.iter().all(|event| rest.any(|other| other == event))
}

/// What a writer makes of a file: the tail cut off, then one more record.
fn appended_after_open(bytes: &[u8], event: &StudyEvent) -> Vec<u8> {
    let found = scan(bytes).unwrap();
    let mut text = bytes[..found.torn_from.map_or(bytes.len(), |start| start as usize)].to_vec();
    if found.unended {
        text.push(b'\n');
    }
    text.extend(encode(found.next_seq, found.last_crc, &serde_json::to_vec(event).unwrap()).0);
    text
}

#[test]
fn every_prefix_opens_and_can_be_appended_to() {
    let events = events(200);
    let bytes = bytes_of(&events);
    let line_ends: Vec<usize> =
        bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
    let extra = finished(1_000);
    for cut in 0..=bytes.len() {
        let whole = line_ends.iter().filter(|end| **end <= cut).count();
        let found = scan(&bytes[..cut]).unwrap();
        assert_eq!(found.events, events[..whole], "cut at {cut}");
        assert!(found.damaged.is_empty());
        let again = scan(appended_after_open(&bytes[..cut], &extra).as_slice()).unwrap();
        assert!(again.damage_in_words().is_empty(), "cut at {cut}: {:?}", again.damage_in_words());
        assert_eq!((&again.events[..whole], &again.events[whole..]), (&events[..whole], &[extra.clone()][..]));
    }
}

#[test]
fn every_prefix_of_a_file_is_resumed() {
    let events = [finished(1), finished(2), finished(3)];
    let bytes = bytes_of(&events);
    let folder = tempfile::tempdir().unwrap();
    for cut in 0..=bytes.len() {
        let path = folder.path().join(format!("{cut}.study"));
        fs::write(&path, &bytes[..cut]).unwrap();
        let (mut writer, opened) = JournalWriter::resume(&path).unwrap();
        let whole = opened.events.len();
        assert_eq!(opened.events, events[..whole]);
        writer.append(&finished(9)).unwrap();
        let again = read(&path).unwrap();
        assert!(again.damage.is_empty(), "{:?}", again.damage);
        assert_eq!(again.events[whole], finished(9));
        // Whatever was cut off lies beside the journal.
        let kept = fs::metadata(folder.path().join(format!("{cut}.study.torn-1"))).map_or(0, |file| file.len());
        assert_eq!(kept > 0, !opened.damage.is_empty());
    }
}

#[test]
fn no_flipped_bit_makes_a_wrong_record() {
    let events = events(20);
    let bytes = bytes_of(&events);
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let found = scan(damaged.as_slice()).unwrap();
        assert!(is_subsequence(&found.events, &events), "bit {bit}");
        assert!(found.events.len() >= events.len() - 1, "bit {bit}: {} records", found.events.len());
        assert!(!found.damage_in_words().is_empty() || found.unended, "bit {bit}");
        let again = scan(appended_after_open(&damaged, &finished(99)).as_slice()).unwrap();
        assert_eq!(again.events.last(), Some(&finished(99)), "bit {bit}");
        assert_eq!(again.events.len(), found.events.len() + 1, "bit {bit}");
    }
}

#[test]
fn what_other_programs_do_to_the_file_is_survived() {
    let events = events(9);
    let bytes = bytes_of(&events);
    let text = String::from_utf8(bytes.clone()).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let check = |name: &str, changed: String, n_kept: usize, words: &str| {
        let found = scan(changed.as_bytes()).unwrap();
        assert!(is_subsequence(&found.events, &events), "{name}");
        assert_eq!(found.events.len(), n_kept, "{name}");
        let damage = found.damage_in_words().join("; ");
        assert!(damage.contains(words), "{name}: {damage}");
        let again = scan(appended_after_open(changed.as_bytes(), &finished(99)).as_slice()).unwrap();
        assert_eq!(again.events.len(), n_kept + 1, "{name}");
    };
    check("converted line ends", text.replace('\n', "\r\n"), 9, "line ends");
    check("a byte order mark", format!("\u{FEFF}{text}"), 9, "byte order mark");
    check("four lines glued", text.replacen('\n', "", 3), 9, "");
    check("a torn line glued to the next", format!("{}{}", &lines[0][..40], lines[1..].concat()), 8, "no record");
    check("a segment repeated", format!("{text}{}", lines[3..6].concat()), 9, "3 records are repeated");
    check("a segment repeated inside", [&lines[..6], &lines[3..6], &lines[6..]].concat().concat(), 9, "3 records");
    check("a line lost", [&lines[..4], &lines[5..]].concat().concat(), 8, "record 4 is missing");
    check("lines lost", [&lines[..2], &lines[5..]].concat().concat(), 6, "records 2 to 4 are missing");
    check("two lines swapped", [lines[0], lines[2], lines[1]].concat(), 2, "repeated");
    check("an empty line", format!("{}\n{}", lines[0], lines[1..].concat()), 9, "1 B at byte");
    check("a long line of zeros", format!("{}{}\n{}", lines[0], "0".repeat(1 << 20), lines[1..].concat()), 9, "MiB");
    let alien = String::from_utf8(encode(2, 0x1234, b"{}").0).unwrap();
    check(
        "a record of another journal",
        format!("{}{alien}{}", lines[..2].concat(), lines[2..].concat()),
        9,
        "another",
    );
}

#[test]
fn later_formats_and_other_files_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let first = encode(0, 0, br#"{"format":2,"event":"study_created"}"#);
    let (known, crc) = encode(0, 0, &serde_json::to_vec(&finished(1)).unwrap());
    let later = encode(1, crc, br#"{"format":3,"event":"trial_finished"}"#).0;
    let check = |content: &[u8], expected: &str| {
        let path = folder.path().join("a.study");
        fs::write(&path, content).unwrap();
        for message in [read(&path).unwrap_err().to_string(), JournalWriter::resume(&path).unwrap_err().to_string()] {
            assert!(message.contains(expected), "{message}");
        }
        assert_eq!(fs::read(&path).unwrap(), content);
    };
    check(&first.0, "format 2 is later than 1");
    check(&[known.clone(), later].concat(), "format 3 is later than 1");
    check(b"{\"format\": 1}\n", "not a study");
    check(&[0; 4096], "not a study");
    check(&b"0".repeat(100), "not a study");
    // Not known, not later: kept in place, said, and the study goes on.
    let odd = [known, encode(1, crc, br#"{"event":"trial_paused","of":"a fork"}"#).0].concat();
    let path = folder.path().join("odd.study");
    fs::write(&path, &odd).unwrap();
    let (mut writer, opened) = JournalWriter::resume(&path).unwrap();
    assert!(
        opened.damage[0].contains("record 1") && opened.damage[0].contains("not understood"),
        "{:?}",
        opened.damage
    );
    writer.append(&finished(2)).unwrap();
    assert!(fs::read(&path).unwrap().starts_with(&odd));
    assert_eq!(read(&path).unwrap().events, [finished(1), finished(2)]);
}

#[test]
fn fields_of_the_future_are_ignored() {
    let mut json = serde_json::to_value(finished(4)).unwrap();
    json["colour"] = serde_json::json!({ "deep": [1, 2] });
    let line = encode(0, 0, json.to_string().as_bytes()).0;
    let found = scan(line.as_slice()).unwrap();
    assert_eq!(found.events, [finished(4)]);
    assert!(found.damage_in_words().is_empty());
}

#[test]
fn a_line_without_end_is_not_read_whole() {
    /// Gives `left` zeros and counts the largest buffer asked for.
    struct Zeros(u64);
    impl std::io::Read for Zeros {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let n = self.0.min(buffer.len() as u64);
            buffer[..n as usize].fill(b'0');
            self.0 -= n;
            Ok(n as usize)
        }
    }
    let (line, _) = encode(0, 0, &serde_json::to_vec(&finished(1)).unwrap());
    let n_zeros = MAX_LINE_BYTES as u64 * 3;
    let reader = std::io::Read::chain(line.as_slice(), Zeros(n_zeros));
    let found = scan(BufReader::with_capacity(1 << 20, reader)).unwrap();
    assert_eq!(found.events, [finished(1)]);
    assert_eq!(found.torn_from, Some(line.len() as u64));
    assert_eq!(found.len, line.len() as u64 + n_zeros);
    assert!(matches!(scan(BufReader::new(Zeros(n_zeros))), Err(ScanError::NotAJournal)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// A journal against a vector: append, close and open, lose the end.
    #[test]
    fn a_journal_is_a_vector(steps in prop::collection::vec((0_u8..4, 0_usize..4096), 1..24)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.study");
        let mut model: Vec<StudyEvent> = Vec::new();
        let mut writer = Some(JournalWriter::create(&path).unwrap());
        for (step, (what, size)) in steps.into_iter().enumerate() {
            match what {
                0 | 1 => {
                    let event = finished(step as u32);
                    writer.as_mut().unwrap().append(&event).unwrap();
                    model.push(event);
                }
                2 => {}
                _ => {
                    // The end is lost as after a power cut: a prefix of the records stays.
                    let len = fs::metadata(&path).unwrap().len();
                    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
                    file.set_len(len.saturating_sub(size as u64 % 400)).unwrap();
                    let kept = read(&path).unwrap().events;
                    prop_assert_eq!(&model[..kept.len()], &kept[..]);
                    model.truncate(kept.len());
                }
            }
            if what >= 2 {
                drop(writer.take());
                let (next, opened) = JournalWriter::resume(&path).unwrap();
                prop_assert_eq!(&opened.events, &model);
                writer = Some(next);
            }
        }
        let opened = read(&path).unwrap();
        prop_assert_eq!(opened.events, model);
        prop_assert!(opened.damage.is_empty());
    }
}

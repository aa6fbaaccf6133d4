use std::fs;

use super::*;
use crate::study::journal::read;
use crate::study::journal::tests::{events, finished};
use crate::study::{EndReason, TrialId};

/// A writer over any file, to see what it does with faults.
fn over(path: &Path, file: File) -> JournalWriter {
    let lock = tempfile::tempfile().unwrap();
    JournalWriter::at_end(path, file, lock, &Scan::default())
}

#[test]
fn a_second_writer_is_told_who_holds_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.study");
    let mut first = JournalWriter::create(&path).unwrap();
    for refused in [JournalWriter::resume(&path).unwrap_err(), JournalWriter::create(&path).unwrap_err()] {
        let message = refused.to_string();
        assert!(message.contains(&format!("process {} on ", std::process::id())), "{message}");
    }
    first.append(&finished(0)).unwrap();
    assert_eq!(read(&path).unwrap().events.len(), 1);
    drop(first);
    assert!(matches!(JournalWriter::create(&path), Err(JournalError::Exists { .. })));
    JournalWriter::resume(&path).unwrap().0.append(&finished(1)).unwrap();
    assert_eq!(read(&path).unwrap().events.len(), 2);
}

#[test]
fn of_many_writers_at_once_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.study");
    drop(JournalWriter::create(&path).unwrap());
    for _ in 0..50 {
        let start = std::sync::Barrier::new(4);
        let winners: Vec<JournalWriter> = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        JournalWriter::resume(&path).ok().map(|(writer, _)| writer)
                    })
                })
                .collect();
            tries.into_iter().filter_map(|tried| tried.join().unwrap()).collect()
        });
        assert_eq!(winners.len(), 1);
    }
}

#[test]
fn only_records_are_written_and_the_first_names_the_format() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.study");
    let mut writer = JournalWriter::create(&path).unwrap();
    writer.append(&StudyEvent::MemorySampled { trial: TrialId(0), at_millis: 1, rss_bytes: 2 }).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"");
    for event in events(3) {
        writer.append(&event).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.matches("\"format\":1").count(), 1);
    assert!(text.lines().next().unwrap().contains(r#"{"format":1,"event":"study_created","#));
    assert_eq!(read(&path).unwrap().events, events(3));
}

#[test]
fn a_full_disk_or_a_failed_sync_ends_the_writer() {
    let check = |path: &Path, file: File, expected: &str| {
        let mut writer = over(path, file);
        let message = writer.append(&finished(0)).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        assert!(matches!(writer.append(&finished(1)), Err(JournalError::Dead { .. })));
        let live = StudyEvent::MemorySampled { trial: TrialId(0), at_millis: 1, rss_bytes: 2 };
        writer.append(&live).unwrap();
    };
    if cfg!(target_os = "linux") {
        let full = Path::new("/dev/full");
        check(full, OpenOptions::new().append(true).open(full).unwrap(), "append to the journal: No space left");
        // Writes to a pipe succeed and its sync fails.
        let (_reader, pipe) = std::io::pipe().unwrap();
        #[cfg(target_os = "linux")]
        {
            use std::os::fd::AsRawFd as _;
            let path = PathBuf::from(format!("/proc/self/fd/{}", pipe.as_raw_fd()));
            check(&path, File::from(std::os::fd::OwnedFd::from(pipe)), "sync the journal: ");
        }
    }
}

#[test]
fn a_journal_that_is_not_ours_any_more_is_not_written() {
    let check = |name: &str, disturb: fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.study");
        let mut writer = JournalWriter::create(&path).unwrap();
        writer.append(&finished(0)).unwrap();
        disturb(&path);
        let before = fs::read(&path).ok();
        assert!(matches!(writer.append(&finished(1)), Err(JournalError::Replaced { .. })), "{name}");
        assert!(matches!(writer.append(&finished(2)), Err(JournalError::Dead { .. })), "{name}");
        assert_eq!(fs::read(&path).ok(), before, "{name}");
    };
    check("deleted", |path| fs::remove_file(path).unwrap());
    check("moved", |path| fs::rename(path, path.with_extension("old")).unwrap());
    check("cut", |path| File::options().write(true).open(path).unwrap().set_len(10).unwrap());
    check("longer", |path| File::options().append(true).open(path).unwrap().write_all(b"x").unwrap());
    check("replaced by a copy", |path| {
        let other = path.with_extension("new");
        fs::copy(path, &other).unwrap();
        fs::rename(other, path).unwrap();
    });
}

#[test]
fn what_would_not_come_back_is_refused_before_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.study");
    let mut writer = JournalWriter::create(&path).unwrap();
    let StudyEvent::TrialFinished { trial, outcome, cautions, memory_curve, .. } = finished(0) else { unreachable!() };
    let broken = StudyEvent::TrialFinished { trial, outcome, cautions, elapsed_secs: f64::NAN, memory_curve };
    assert!(matches!(writer.append(&broken), Err(JournalError::Unwritable { .. })));
    let long = StudyEvent::StudyEnded { reason: EndReason::Failing("x".repeat(MAX_LINE_BYTES)) };
    assert!(matches!(writer.append(&long), Err(JournalError::Unwritable { .. })));
    writer.append(&finished(1)).unwrap();
    assert_eq!(read(&path).unwrap().events, [finished(1)]);
}

#[test]
fn damage_is_copied_before_anything_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.study");
    let mut writer = JournalWriter::create(&path).unwrap();
    for event in events(6) {
        writer.append(&event).unwrap();
    }
    drop(writer);
    let mut bytes = fs::read(&path).unwrap();
    let second = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    bytes[second + 30] ^= 1;
    bytes.extend_from_slice(b"a torn end");
    fs::write(&path, &bytes).unwrap();
    for _ in 0..2 {
        let (writer, opened) = JournalWriter::resume(&path).unwrap();
        drop(writer);
        assert_eq!(opened.events.len(), 5);
        assert!(opened.damage.iter().any(|words| words.contains("other records are kept")), "{:?}", opened.damage);
    }
    assert_eq!(fs::read(beside(&path, ".torn-1")).unwrap(), b"a torn end");
    assert!(!beside(&path, ".torn-2").exists());
    let aside = fs::read(beside(&path, &format!(".damaged-{second}"))).unwrap();
    assert!(bytes[second..].starts_with(&aside) && aside.ends_with(b"\n"));
    assert_eq!(fs::read(&path).unwrap(), bytes[..bytes.len() - 10]);
}

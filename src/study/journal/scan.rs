//! Reads every intact record of a journal and says where the rest is damaged.

use std::io::{self, BufRead, Read as _};
use std::ops::Range;
use std::path::Path;

use crate::study::StudyEvent;
use crate::study::journal::line::{Line, declared_format, decode, may_begin_journal};
use crate::study::journal::{FORMAT, JournalError, MAX_LINE_BYTES};
use crate::units;

/// Places in a damaged line where a whole record is looked for; more are not tried, so that no file costs hours.
const MAX_RESYNC_TRIES: usize = 256;

/// Most sentences about damage; the rest is counted.
const MAX_WORDS: usize = 20;

/// What a journal holds.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Every intact event, in order.
    pub(super) events: Vec<StudyEvent>,
    /// The number of the next record.
    pub(super) next_seq: u64,
    /// Checksum of the last record, 0 before the first.
    pub(super) last_crc: u32,
    /// Bytes of the file.
    pub(super) len: u64,
    /// Bytes that are no record, in order and disjoint, the torn tail not among them.
    pub(super) damaged: Vec<Range<u64>>,
    /// Where the tail begins that is no record.
    pub(super) torn_from: Option<u64>,
    /// Whether the last record lacks its line end.
    pub(super) unended: bool,
    notes: Vec<String>,
    n_out_of_order: u64,
    not_understood: Option<(u64, String)>,
    n_not_understood: u64,
    crlf: bool,
    rejected_crc: Option<u32>,
    n_intact: u64,
}

/// A file that is not scanned to its end.
#[derive(Debug)]
pub(super) enum ScanError {
    Io(io::Error),
    Version(u32),
    NotAJournal,
}

impl ScanError {
    /// The error for people, about the journal at `path`.
    pub(super) fn at(self, path: &Path) -> JournalError {
        let path = path.to_owned();
        match self {
            Self::Io(source) => JournalError::Io { action: "read", source, path },
            Self::Version(found) => JournalError::Version { found, path },
            Self::NotAJournal => JournalError::NotAJournal { path },
        }
    }
}

/// Scans a journal. Holds one line at a time, of at most [`MAX_LINE_BYTES`].
pub(super) fn scan(mut reader: impl BufRead) -> Result<Scan, ScanError> {
    let mut found = Scan::default();
    let mut line = Vec::new();
    let mut may_be_journal = true;
    loop {
        let start = found.len;
        let consumed = read_line(&mut reader, &mut line).map_err(ScanError::Io)?;
        if consumed == 0 {
            break;
        }
        found.len += consumed;
        if start == 0 {
            may_be_journal = may_begin_journal(line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line));
        }
        if consumed > line.len() as u64 {
            found.damaged(start..found.len);
        } else {
            found.take_line(&line, start)?;
        }
    }
    if found.n_intact == 0 && !may_be_journal {
        return Err(ScanError::NotAJournal);
    }
    found.torn_from = found.damaged.pop_if(|range| range.end == found.len).map(|range| range.start);
    Ok(found)
}

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Reads a line with its end into `line` and returns the bytes consumed: more than the line has when it is too long.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    line.clear();
    let limit = MAX_LINE_BYTES as u64 + 128;
    let mut consumed = reader.by_ref().take(limit).read_until(b'\n', line)? as u64;
    if consumed < limit || line.ends_with(b"\n") {
        return Ok(consumed);
    }
    line.truncate(64);
    loop {
        let ahead = reader.fill_buf()?;
        let end = ahead.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let taken = end.unwrap_or(ahead.len());
        reader.consume(taken);
        consumed += taken as u64;
        if end.is_some() || taken == 0 {
            return Ok(consumed);
        }
    }
}

impl Scan {
    /// What is wrong, in words.
    pub(super) fn damage_in_words(&self) -> Vec<String> {
        let mut words = self.notes.clone();
        for range in &self.damaged {
            words.push(format!(
                "{} at byte {} are no record; the other records are kept",
                units::bytes(range.end - range.start),
                units::count(range.start)
            ));
        }
        if let Some(start) = self.torn_from {
            words.push(format!("the last {} are no whole record", units::bytes(self.len - start)));
        }
        if self.n_out_of_order > 0 {
            words.push(format!("{} records are repeated or from another journal", units::count(self.n_out_of_order)));
        }
        if let Some((seq, reason)) = &self.not_understood {
            let others = self.n_not_understood - 1;
            words.push(format!("record {seq} and {others} others are not understood by this version: {reason}"));
        }
        if self.crlf {
            words.push("another program changed the line ends; the records are whole".to_owned());
        }
        if words.len() > MAX_WORDS {
            let more = words.len() - MAX_WORDS;
            words.truncate(MAX_WORDS);
            words.push(format!("and {} more places", units::count(more as u64)));
        }
        words
    }

    fn take_line(&mut self, line: &[u8], start: u64) -> Result<(), ScanError> {
        let mut at = 0;
        if start == 0 && line.starts_with(BYTE_ORDER_MARK) {
            self.notes.push("another program put a byte order mark before the first record".to_owned());
            at = BYTE_ORDER_MARK.len();
        }
        while at < line.len() {
            let Some(record) = decode(&line[at..]) else {
                let end = resync(line, at + 1);
                self.damaged(start + at as u64..start + end as u64);
                at = end;
                continue;
            };
            self.take_record(&record)?;
            at += record.len;
            match &line[at..] {
                b"\n" => return Ok(()),
                b"\r\n" => {
                    self.crlf = true;
                    return Ok(());
                }
                // The end of the file, or two lines glued together: the second is found again by its checksum.
                _ => self.unended = true,
            }
        }
        Ok(())
    }

    fn take_record(&mut self, line: &Line<'_>) -> Result<(), ScanError> {
        self.n_intact += 1;
        self.unended = false;
        if let Some(found) = declared_format(line.json)
            && found > FORMAT
        {
            return Err(ScanError::Version(found));
        }
        let follows = line.seq == self.next_seq && line.previous_crc == self.last_crc;
        let after_gap = line.seq > self.next_seq && self.rejected_crc != Some(line.previous_crc);
        if !follows && !after_gap {
            self.n_out_of_order += 1;
            self.rejected_crc = Some(line.crc);
            return Ok(());
        }
        if !follows {
            let (first, last) = (self.next_seq, line.seq - 1);
            self.notes.push(if first == last {
                format!("record {first} is missing")
            } else {
                format!("records {first} to {last} are missing")
            });
        }
        self.next_seq = line.seq + 1;
        self.last_crc = line.crc;
        self.rejected_crc = None;
        match serde_json::from_slice(line.json) {
            Ok(event) => self.events.push(event),
            Err(error) => {
                self.n_not_understood += 1;
                self.not_understood.get_or_insert((line.seq, error.to_string()));
            }
        }
        Ok(())
    }

    /// Neighbouring damage is one range.
    fn damaged(&mut self, range: Range<u64>) {
        match self.damaged.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.damaged.push(range),
        }
    }
}

/// Where the next whole record begins in `line` at or after `from`; the line's end when there is none.
fn resync(line: &[u8], from: usize) -> usize {
    let is_candidate = |at: &usize| line.get(at + 8) == Some(&b' ') && may_begin_journal(&line[*at..at + 8]);
    (from..line.len())
        .filter(is_candidate)
        .take(MAX_RESYNC_TRIES)
        .find(|at| decode(&line[*at..]).is_some())
        .unwrap_or(line.len())
}

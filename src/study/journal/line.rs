//! One line: a record with its checksum, number, link to the line before, and length.

use crate::study::journal::MAX_LINE_BYTES;

/// A line whose checksum is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) crc: u32,
    pub(super) seq: u64,
    pub(super) previous_crc: u32,
    pub(super) json: &'a [u8],
    /// Bytes of the line without its end.
    pub(super) len: usize,
}

/// The line with its end, and its checksum.
pub(super) fn encode(seq: u64, previous_crc: u32, json: &[u8]) -> (Vec<u8>, u32) {
    let mut body = format!("{seq} {previous_crc:08x} {} ", json.len()).into_bytes();
    body.extend_from_slice(json);
    let crc = crc32c::crc32c(&body);
    let mut line = format!("{crc:08x} ").into_bytes();
    line.append(&mut body);
    line.push(b'\n');
    (line, crc)
}

/// The line that `bytes` begin with, if its checksum is right. What follows it is not looked at.
pub(super) fn decode(bytes: &[u8]) -> Option<Line<'_>> {
    let (crc, body) = hex_field(bytes)?;
    let (seq, rest) = number_field(body)?;
    let (previous_crc, rest) = hex_field(rest)?;
    let (json_len, rest) = number_field(rest)?;
    let json_len = usize::try_from(json_len).ok().filter(|len| *len <= MAX_LINE_BYTES)?;
    let json = rest.get(..json_len)?;
    let body_len = body.len() - rest.len() + json_len;
    let right = crc32c::crc32c(&body[..body_len]) == crc;
    right.then_some(Line { crc, seq, previous_crc, json, len: bytes.len() - body.len() + body_len })
}

/// The later format that a record declares, if it does.
pub(super) fn declared_format(json: &[u8]) -> Option<u32> {
    let digits = json.strip_prefix(br#"{"format":"#)?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

/// Whether `bytes`, the beginning of a file, could begin a journal's first line.
pub(super) fn may_begin_journal(bytes: &[u8]) -> bool {
    bytes.iter().take(9 + 11).enumerate().all(|(at, byte)| match at {
        0..8 => is_hex(*byte),
        8 | 10 | 19 => *byte == b' ',
        _ => *byte == b'0',
    })
}

/// Eight hex digits and a space.
fn hex_field(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = bytes.split_at_checked(8)?;
    let rest = rest.strip_prefix(b" ")?;
    if !digits.iter().all(|byte| is_hex(*byte)) {
        return None;
    }
    Some((u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?, rest))
}

/// At most 15 digits and a space: no arithmetic on them can wrap.
fn number_field(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let end = bytes.iter().take(16).position(|byte| *byte == b' ')?;
    let digits = &bytes[..end];
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some((std::str::from_utf8(digits).ok()?.parse().ok()?, &bytes[end + 1..]))
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

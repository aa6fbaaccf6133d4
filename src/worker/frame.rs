//! Frames on a pipe: length, checksum, JSON.
//!
//! `len: u32 LE (≤ 16 MiB) · crc32c: u32 LE · payload`. The length is checked before anything is allocated, and the buffer
//! grows with what really arrives, so a garbled pipe costs neither memory nor a panic.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest payload, in bytes.
pub const MAX_LEN: usize = 16 << 20;

/// A frame that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The pipe failed.
    #[error("use the pipe: {0}")]
    Io(#[from] io::Error),
    /// The pipe ended inside a frame.
    #[error("read a frame: it ends after {got} of {expected} bytes")]
    Truncated {
        /// Bytes that arrived.
        got: usize,
        /// Bytes that the frame has.
        expected: usize,
    },
    /// The payload is longer than [`MAX_LEN`].
    #[error("use a frame of {0} bytes: at most {MAX_LEN} are allowed")]
    TooLong(u64),
    /// The payload is not what was sent.
    #[error("read a frame: its checksum does not fit")]
    Checksum,
    /// The payload is not a message.
    #[error("read a frame: {0}")]
    Json(#[from] serde_json::Error),
}

/// Writes one message and flushes.
///
/// # Errors
/// When the message is too long or the pipe is closed.
pub fn write<T: Serialize>(to: &mut impl Write, message: &T) -> Result<(), FrameError> {
    write_payload(to, &serde_json::to_vec(message)?)
}

fn write_payload(to: &mut impl Write, payload: &[u8]) -> Result<(), FrameError> {
    if payload.len() > MAX_LEN {
        return Err(FrameError::TooLong(payload.len() as u64));
    }
    let mut frame = Vec::with_capacity(8 + payload.len());
    frame.extend((payload.len() as u32).to_le_bytes());
    frame.extend(crc32c::crc32c(payload).to_le_bytes());
    frame.extend(payload);
    to.write_all(&frame)?;
    Ok(to.flush()?)
}

/// Reads one message; `None` when the pipe ended between two frames.
///
/// # Errors
/// When what arrives is not a whole, unchanged frame with a message of this type.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> Result<Option<T>, FrameError> {
    let Some(payload) = read_payload(from)? else { return Ok(None) };
    Ok(Some(serde_json::from_slice(&payload)?))
}

fn read_payload(from: &mut impl Read) -> Result<Option<Vec<u8>>, FrameError> {
    let header = read_up_to(from, 8)?;
    if header.is_empty() {
        return Ok(None);
    }
    let Some((len, checksum)) =
        header.split_first_chunk::<4>().and_then(|(len, rest)| Some((len, rest.first_chunk()?)))
    else {
        return Err(FrameError::Truncated { got: header.len(), expected: 8 });
    };
    let (len, checksum) = (u32::from_le_bytes(*len) as usize, u32::from_le_bytes(*checksum));
    if len > MAX_LEN {
        return Err(FrameError::TooLong(len as u64));
    }
    let payload = read_up_to(from, len)?;
    if payload.len() < len {
        return Err(FrameError::Truncated { got: payload.len(), expected: len });
    }
    if crc32c::crc32c(&payload) != checksum {
        return Err(FrameError::Checksum);
    }
    Ok(Some(payload))
}

fn read_up_to(from: &mut impl Read, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(len as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, &text).unwrap();
        bytes
    }

    #[test]
    fn an_oversized_length_is_refused_before_it_is_believed() {
        let mut bytes = u32::MAX.to_le_bytes().to_vec();
        bytes.extend([0; 64]);
        assert!(matches!(read::<String>(&mut bytes.as_slice()), Err(FrameError::TooLong(4_294_967_295))));
        let long = "x".repeat(MAX_LEN);
        assert!(matches!(write(&mut Vec::new(), &long), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn an_allowed_length_without_its_bytes_is_truncated() {
        let mut bytes = (MAX_LEN as u32).to_le_bytes().to_vec();
        bytes.extend([0; 5]);
        let error = read::<String>(&mut bytes.as_slice()).unwrap_err();
        assert!(matches!(error, FrameError::Truncated { got: 1, expected: MAX_LEN }), "{error}");
    }

    proptest! {
        #[test]
        fn messages_survive_the_pipe(texts in prop::collection::vec(".{0,200}", 0..8)) {
            let bytes: Vec<u8> = texts.iter().flat_map(|text| framed(text)).collect();
            let mut pipe = bytes.as_slice();
            for text in &texts {
                let got: Option<String> = read(&mut pipe).unwrap();
                prop_assert_eq!(got.as_ref(), Some(text));
            }
            prop_assert!(read::<String>(&mut pipe).unwrap().is_none());
        }

        #[test]
        fn every_proper_prefix_is_truncated_or_empty(text in ".{0,100}", cut in 0.0..1.0f64) {
            let bytes = framed(&text);
            let cut = (bytes.len() as f64 * cut) as usize;
            match read::<String>(&mut &bytes[..cut]) {
                Ok(None) => prop_assert_eq!(cut, 0),
                Err(FrameError::Truncated { .. }) => {}
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn a_flipped_bit_never_gives_another_message(text in ".{1,100}", at in 0usize..4096, bit in 0u8..8) {
            let mut bytes = framed(&text);
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let got: Result<Option<String>, _> = read(&mut bytes.as_slice());
            prop_assert!(got.is_err(), "{:?}", got);
        }

        #[test]
        fn garbage_is_an_error(bytes in prop::collection::vec(any::<u8>(), 1..256)) {
            prop_assert!(read::<String>(&mut bytes.as_slice()).is_err());
        }
    }
}

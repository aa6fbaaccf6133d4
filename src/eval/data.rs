//! Texts from JSON Lines.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Longest line, in bytes.
const MAX_LINE: u64 = 64 << 20;

/// A text that cannot be evaluated on.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file cannot be read.
    #[error("read the text: {source}: {path:?}")]
    Io {
        /// The system's reason.
        source: std::io::Error,
        /// The file.
        path: PathBuf,
    },
    /// A line is not what it should be.
    #[error("read the text: line {line}: {reason}; each line is a JSON object with a \"text\": {path:?}")]
    Line {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
        /// The file.
        path: PathBuf,
    },
    /// Not enough for one window.
    #[error(
        "cut the text: {tokens} tokens do not fill one window of {context}; use a shorter context or a longer text"
    )]
    TooShort {
        /// Tokens in the text.
        tokens: usize,
        /// Tokens a window.
        context: usize,
    },
    /// The tokenizer refused.
    #[error("tokenize text {index}: {reason}")]
    Tokenizer {
        /// The text, from 1.
        index: usize,
        /// The tokenizer's reason.
        reason: String,
    },
}

/// Reads one `{"text": "…"}` a line; empty lines are skipped, other fields ignored.
///
/// # Errors
/// [`DataError`] with the line.
pub fn read_texts(path: &Path) -> Result<Vec<String>, DataError> {
    #[derive(Deserialize)]
    struct Line {
        text: String,
    }
    let with_path = |source| DataError::Io { source, path: path.to_path_buf() };
    let mut reader = BufReader::new(File::open(path).map_err(with_path)?);
    let mut texts = Vec::new();
    let mut buffer = Vec::new();
    for line in 1.. {
        buffer.clear();
        let bad = |reason: String| DataError::Line { line, reason, path: path.to_path_buf() };
        let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut buffer).map_err(with_path)?;
        if read == 0 {
            break;
        }
        if read as u64 == MAX_LINE && buffer.last() != Some(&b'\n') {
            return Err(bad(format!("longer than {}", crate::units::bytes(MAX_LINE))));
        }
        if buffer.trim_ascii().is_empty() {
            continue;
        }
        let parsed: Line = serde_json::from_slice(&buffer).map_err(|error| bad(error.to_string()))?;
        texts.push(parsed.text);
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn check(content: &[u8], expected: Result<&[&str], &str>) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        match (read_texts(file.path()), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (found, _) => panic!("{found:?}"),
        }
    }

    #[test]
    fn lines_are_read_or_named() {
        check(b"", Ok(&[]));
        check(b"{\"text\":\"a\"}\n\n{\"text\":\"b\",\"id\":1}", Ok(&["a", "b"]));
        check(b"{\"text\":\"a\"}\n{\"txt\":\"b\"}\n", Err("line 2"));
        check(b"\xff\xfe\n", Err("line 1"));
        assert!(read_texts(Path::new("no/such/file")).unwrap_err().to_string().contains("no/such/file"));
    }
}

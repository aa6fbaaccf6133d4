//! Where the command line writes: data to standard output, words to standard error.

use std::io::{ErrorKind, Write as _};
use std::path::Path;

use anyhow::Context as _;

/// Standard output.
pub(super) struct Out {
    is_closed: bool,
}

impl Out {
    /// The process's own.
    pub(super) const fn new() -> Self {
        Self { is_closed: false }
    }

    /// Writes data and a line end. When nobody reads any more, this and later data is dropped.
    ///
    /// # Errors
    /// When the stream cannot take it for another reason: a full disk behind a redirection.
    pub(super) fn data(&mut self, text: &str) -> anyhow::Result<()> {
        if self.is_closed {
            return Ok(());
        }
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(())
            }
            written => written.context("write to standard output"),
        }
    }

    /// Writes a value as indented JSON.
    ///
    /// # Errors
    /// As [`Self::data`].
    pub(super) fn json(&mut self, value: &serde_json::Value) -> anyhow::Result<()> {
        self.data(&serde_json::to_string_pretty(value)?)
    }
}

/// Writes a line of words for people. A closed terminal is no reason to stop.
pub(super) fn say(words: &str) {
    writeln!(std::io::stderr().lock(), "{words}").unwrap_or_default();
}

/// A path in quotes, its odd characters escaped.
pub(super) fn quoted(path: &Path) -> String {
    format!("{:?}", path.to_string_lossy())
}

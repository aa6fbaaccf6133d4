//! The calibration text of a recipe as windows of tokens.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::eval;
use crate::recipe::Calibration;
use crate::runtime::CalibrationText;
use crate::study::{Failure, FailureKind};
use crate::worker::trial::{Open, data_failure};

/// The text of the last trial that calibrated, kept for the next.
#[derive(Default)]
pub(super) struct CalibrationTexts {
    current: Option<(Key, Arc<CalibrationText>)>,
}

/// What the windows of a text depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    data: PathBuf,
    modified: Option<SystemTime>,
    context: usize,
    windows: u32,
}

impl Open {
    /// Reads and cuts the text, unless the last trial did.
    pub(super) fn calibration(&mut self, wanted: &Calibration) -> Result<Arc<CalibrationText>, Failure> {
        let Some(data) = &wanted.data else {
            let message = "the recipe reads a calibration text; name one in its [calibration] data";
            return Err(Failure::new(FailureKind::Recipe, message));
        };
        let max_context = self.store.reference().config().max_context;
        let context = wanted.context_of(max_context);
        if context > max_context {
            let message = format!("a calibration context of {context} exceeds the model's {max_context}");
            return Err(Failure::new(FailureKind::Data, message));
        }
        let modified = std::fs::metadata(data).and_then(|data| data.modified()).ok();
        let key = Key { data: data.clone(), modified, context, windows: wanted.n_windows() };
        if let Some((current, text)) = &self.calibrations.current
            && *current == key
            && modified.is_some()
        {
            return Ok(text.clone());
        }
        self.calibrations.current = None;
        let unusable = |error: eval::DataError| {
            let failure = data_failure(&error);
            Failure::new(failure.kind, format!("calibration: {}", failure.message))
        };
        let texts = eval::read_texts(data).map_err(unusable)?;
        let bos = self.bos();
        let windows = eval::cut(&texts, self.tokenizer()?, bos, context, Some(key.windows)).map_err(unusable)?;
        let name = data.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let text = CalibrationText::new(name, windows.tokens, windows.available, key.windows);
        let text = Arc::new(text);
        self.calibrations.current = Some((key, text.clone()));
        Ok(text)
    }
}

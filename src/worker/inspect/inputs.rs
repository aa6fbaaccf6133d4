//! The inputs of one layer over a calibration text, as the dense model makes them.

use candle_core::Tensor;

use crate::compress::{Moments, SAMPLE_TOKENS};
use crate::device::DeviceSpec;
use crate::eval;
use crate::model::{Layer, LayerPath};
use crate::nn::{NnError, Observer, with_values};
use crate::recipe::Calibration;
use crate::runtime::ModelStore;
use crate::worker::inspection::{InputRanges, InspectSpec};

/// Sums over the inputs of `layer`, by the dense policy; reads the whole model. `progress` hears of windows done and in
/// all. The text says why there are none.
pub(super) fn moments(
    spec: &InspectSpec,
    layer: &Layer,
    calibration: &Calibration,
    progress: &mut dyn FnMut(u32, u32),
) -> Result<Moments, String> {
    let block = layer.block.ok_or("only layers of the blocks have inputs that methods calibrate on")?;
    let block = usize::from(block);
    let windows = windows(spec, calibration)?;
    let checkpoint = crate::checkpoint::open(&spec.source).map_err(|error| error.to_string())?;
    let store =
        ModelStore::load(checkpoint, DeviceSpec::all_cores(), &|_, _| true).map_err(|error| error.to_string())?;
    let model = store.reference();
    let (total, n_tokens) = (windows.len() as u32, windows.iter().map(Vec::len).sum::<usize>());
    let mut sums = Sums {
        layer: &layer.path,
        moments: Moments::new(layer.shape[1]),
        sample_every: n_tokens.div_ceil(SAMPLE_TOKENS),
        refused: None,
    };
    for (window, done) in windows.iter().zip(1..) {
        let mut run = || -> Result<(), NnError> {
            let state = model.run_blocks(0..block, &model.embed(window)?, None, None)?;
            model.run_blocks(block..block + 1, &state, None, Some(&mut sums))?;
            sums.refused.take().map_or(Ok(()), Err)
        };
        run().map_err(|error| error.to_string())?;
        progress(done, total);
    }
    let moments = sums.moments.finish();
    if moments.sum_squares().iter().chain(&moments.mean_abs()).any(|sum| !sum.is_finite()) {
        return Err("an input over the calibration text is not finite: the model overflows on it".to_owned());
    }
    Ok(moments)
}

/// The ranges that the window draws.
pub(super) fn ranges(moments: &Moments) -> InputRanges {
    InputRanges {
        n_tokens: moments.n_tokens(),
        max_abs: moments.max_abs().iter().map(|max| f64::from(*max)).collect(),
        mean_abs: moments.mean_abs(),
    }
}

/// The text's first windows of tokens.
fn windows(spec: &InspectSpec, calibration: &Calibration) -> Result<Vec<Vec<u32>>, String> {
    let data = calibration.data.as_ref().ok_or("no calibration text is named")?;
    let checkpoint = crate::checkpoint::open(&spec.source).map_err(|error| error.to_string())?;
    let config = checkpoint.config();
    let context = calibration.context_of(config.max_context);
    if context > config.max_context {
        return Err(format!("a calibration context of {context} exceeds the model's {}", config.max_context));
    }
    let tokenizer = checkpoint.tokenizer().map_err(|error| error.to_string())?;
    let limit = Some(calibration.n_windows());
    let cut = eval::read_texts(data).and_then(|texts| eval::cut(&texts, &tokenizer, config.bos_token, context, limit));
    cut.map(|windows| windows.tokens).map_err(|error| format!("calibration: {error}"))
}

/// Sums what one layer reads.
struct Sums<'a> {
    layer: &'a LayerPath,
    moments: Moments,
    sample_every: usize,
    refused: Option<NnError>,
}

impl Observer for Sums<'_> {
    fn input(&mut self, layer: &LayerPath, x: &Tensor) {
        if layer == self.layer {
            let seen = with_values(x, |x| self.moments.observe(x, self.sample_every));
            self.refused = self.refused.take().or(seen.err());
        }
    }
}

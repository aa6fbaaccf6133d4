//! Evenly spaced values: what a group of codes stands for in every integer and GGML format.

/// value = step · (code − bias) − min, for codes from `low` to `high`.
///
/// The arithmetic is in f32 and in this order, which is how GGML blocks and integer matrices are decoded: a value of a
/// line is the very number that the packed weight stands for.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Line {
    /// Distance of neighbours; may be negative, and 0 where every code has the same value.
    pub(crate) step: f32,
    /// What is taken from every value.
    pub(crate) min: f32,
    pub(crate) bias: u8,
    pub(crate) low: u8,
    pub(crate) high: u8,
}

impl Line {
    /// The code of the value nearest to `weight`, ties to even.
    pub(crate) fn code(&self, weight: f64) -> u8 {
        if self.step == 0.0 {
            return self.bias;
        }
        let code = ((weight + f64::from(self.min)) / f64::from(self.step)).round_ties_even() + f64::from(self.bias);
        code.clamp(f64::from(self.low), f64::from(self.high)) as u8
    }

    /// The value of `code`.
    pub(crate) fn value(&self, code: u8) -> f32 {
        self.step * (f32::from(code) - f32::from(self.bias)) - self.min
    }

    /// The value nearest to `weight`.
    pub(crate) fn nearest(&self, weight: f64) -> f64 {
        f64::from(self.value(self.code(weight)))
    }
}

//! Non-inferiority: whether a variant may have lost more than the user allows.

use crate::study::{Limits, Quality};
use crate::units;

impl Limits {
    /// Which limit `quality` misses, in words; `None` when it keeps them all.
    ///
    /// A limit is missed when the upper 95 % bound crosses it: a variant must be shown to be good enough, not merely not
    /// shown to be worse. One window shows nothing: every limit is missed then.
    pub fn exceeded_by(&self, quality: &Quality) -> Option<String> {
        let has_limits = self.max_kl.is_some() || self.max_perplexity_ratio.is_some();
        if has_limits && (quality.kl_mean.n < 2 || quality.log_perplexity_difference.n < 2) {
            return Some("not enough windows to judge: an interval needs at least 2".to_owned());
        }
        let crossed = |what: &str, upper: f64, limit: f64| {
            let (upper_text, limit_text) = (units::significant(upper, 4), units::significant(limit, 4));
            (upper > limit).then(|| format!("{what} may be as high as {upper_text}, over the limit of {limit_text}"))
        };
        let kl = self.max_kl.and_then(|limit| crossed("mean KL", quality.kl_mean.ci95[1], limit));
        kl.or_else(|| {
            let upper = quality.log_perplexity_difference.ci95[1].exp();
            self.max_perplexity_ratio.and_then(|limit| crossed("perplexity over the reference's", upper, limit))
        })
    }
}

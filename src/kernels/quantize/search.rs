//! The scales that leave the least squared error in sixteen runs.
//!
//! A candidate gives the codes of a run; for those codes the best scale (and minimum) is a least-squares fit in closed
//! form, and so is what it takes off the sum of squares. The candidate that takes off most wins, the first of equals.
#![expect(clippy::inline_always, reason = "the instructions of the caller are used only where it is inlined")]

use super::runs::{LANES, Lanes, Runs, each, ends, larger, nearest, smaller};

/// Steps s and offsets o of runs whose values are s · code + o.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lines {
    pub(super) steps: Lanes,
    pub(super) offsets: Lanes,
}

/// Whole multiples of the units of blocks: what a block keeps for each of its runs.
pub(super) struct Multiples {
    pub(super) scales: Lanes,
    /// Zeros in types without minimums.
    pub(super) mins: Lanes,
    /// What they take off the sum of squares of each run.
    pub(super) gains: Lanes,
}

/// Sums over one run's codes l and weights y, of sixteen runs.
struct LineSums {
    l: Lanes,
    ll: Lanes,
    yl: Lanes,
}

/// What codes, nearest to `y` · inverse + bias and from 0 to `high`, sum to.
#[inline(always)]
fn line_sums<const RUN: usize>(y: &Runs<RUN>, inverse: &Lanes, bias: &Lanes, high: f32) -> LineSums {
    let (mut l, mut ll, mut yl) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    for y in y {
        for lane in 0..LANES {
            let code = nearest(smaller(larger(y[lane] * inverse[lane] + bias[lane], 0.0), high));
            l[lane] += code;
            ll[lane] += code * code;
            yl[lane] += y[lane] * code;
        }
    }
    LineSums { l, ll, yl }
}

/// Runs above their minimum, for the types that keep one.
pub(super) struct AboveMin<const RUN: usize> {
    /// Weights less the lowest, or less 0 where that is lower.
    y: Runs<RUN>,
    sum: Lanes,
    low: Lanes,
    range: Lanes,
}

impl<const RUN: usize> AboveMin<RUN> {
    #[inline(always)]
    pub(super) fn new(runs: &Runs<RUN>) -> Self {
        let (low, high) = ends(runs);
        let mut y = [[0.0; LANES]; RUN];
        let mut sum = [0.0; LANES];
        for (y, entry) in y.iter_mut().zip(runs) {
            for lane in 0..LANES {
                y[lane] = entry[lane] - low[lane];
                sum[lane] += y[lane];
            }
        }
        let range = each(|lane| high[lane] - low[lane]);
        Self { y, sum, low, range }
    }

    /// The steps and offsets (at most 0) that the search finds for codes from 0 to `high`.
    #[inline(always)]
    pub(super) fn search(&self, high: f32, candidates: &[(f32, f32)], rounds: usize) -> Lines {
        let mut best = Lines { steps: [0.0; LANES], offsets: [0.0; LANES] };
        let mut most = [0.0; LANES];
        let per_range = inverses(&self.range);
        for (end, bias) in candidates {
            let inverse = each(|lane| end * per_range[lane]);
            self.fit(&inverse, &[*bias; LANES], high, &mut best, &mut most);
        }
        for _ in 0..rounds {
            let inverse = inverses(&best.steps);
            let bias = each(|lane| -best.offsets[lane] * inverse[lane]);
            self.fit(&inverse, &bias, high, &mut best, &mut most);
        }
        Lines { steps: best.steps, offsets: each(|lane| best.offsets[lane] + self.low[lane]) }
    }

    /// Fits lines to the codes of a candidate and keeps those that take off more than `most`. Offsets are above `low`.
    #[inline(always)]
    fn fit(&self, inverse: &Lanes, bias: &Lanes, high: f32, best: &mut Lines, most: &mut Lanes) {
        let n = RUN as f32;
        let sums = line_sums(&self.y, inverse, bias, high);
        for (lane, most) in most.iter_mut().enumerate() {
            let (l, ll, yl, y) = (sums.l[lane], sums.ll[lane], sums.yl[lane], self.sum[lane]);
            let determinant = n * ll - l * l;
            let step = (n * yl - y * l) / determinant;
            let offset = (ll * y - l * yl) / determinant;
            // A minimum is kept without its sign: where the fit crosses 0, or all codes are equal and there is none, the
            // best line through 0 is taken.
            let through = -self.low[lane];
            let is_below = offset <= through;
            let step = if is_below { step } else { (yl - through * l) / ll };
            let offset = if is_below { offset } else { through };
            let gain = taken_off(&sums, lane, y, n, step, offset);
            let is_better = gain > *most;
            *most = if is_better { gain } else { *most };
            best.steps[lane] = if is_better { step } else { best.steps[lane] };
            best.offsets[lane] = if is_better { offset } else { best.offsets[lane] };
        }
    }

    /// For given lines, what they take off the sum of squares (above the lowest) with the nearest codes.
    #[inline(always)]
    fn gain_of(&self, steps: &Lanes, offsets: &Lanes, high: f32) -> Lanes {
        let inverse = inverses(steps);
        let above = each(|lane| offsets[lane] - self.low[lane]);
        let bias = each(|lane| -above[lane] * inverse[lane]);
        let sums = line_sums(&self.y, &inverse, &bias, high);
        each(|lane| taken_off(&sums, lane, self.sum[lane], RUN as f32, steps[lane], above[lane]))
    }

    /// The whole multiples, from 0 to `most_scale`, of `step` and `min` near `lines` that leave the least error.
    ///
    /// - `step`, `min`: of each run's block
    /// - `reach`: how far from the nearest ones to look, for scales and for minimums
    #[inline(always)]
    pub(super) fn multiples(
        &self,
        lines: &Lines,
        (step, min): (&Lanes, &Lanes),
        (high, most_scale): (f32, f32),
        reach: (i8, i8),
    ) -> Multiples {
        let within = |scale: f32| smaller(larger(scale, 0.0), most_scale);
        let (per_step, per_min) = (inverses(step), inverses(min));
        let first = each(|lane| nearest(within(lines.steps[lane] * per_step[lane])));
        let mut best = Multiples { scales: first, mins: [0.0; LANES], gains: [f32::NEG_INFINITY; LANES] };
        for near in -reach.0..=reach.0 {
            let scales = each(|lane| within(first[lane] + f32::from(near)));
            let steps = each(|lane| scales[lane] * step[lane]);
            // A longer step wants a deeper minimum: the middle of the codes stays where it is.
            let offsets = each(|lane| lines.offsets[lane] + (lines.steps[lane] - steps[lane]) * (0.5 * high));
            let middle = each(|lane| nearest(within(-offsets[lane] * per_min[lane])));
            for near in -reach.1..=reach.1 {
                let mins = each(|lane| within(middle[lane] + f32::from(near)));
                let gains = self.gain_of(&steps, &each(|lane| -(mins[lane] * min[lane])), high);
                for lane in 0..LANES {
                    let is_better = gains[lane] > best.gains[lane];
                    best.gains[lane] = if is_better { gains[lane] } else { best.gains[lane] };
                    best.scales[lane] = if is_better { scales[lane] } else { best.scales[lane] };
                    best.mins[lane] = if is_better { mins[lane] } else { best.mins[lane] };
                }
            }
        }
        best
    }

    /// The step and the minimum of each block of `runs` runs that fit best with the codes of `found`.
    ///
    /// They replace `step` and `min`, where the fit has a solution.
    #[inline(always)]
    pub(super) fn refit(&self, found: &Multiples, step: &mut Lanes, min: &mut Lanes, high: f32, runs: usize) {
        let steps = each(|lane| found.scales[lane] * step[lane]);
        let inverse = inverses(&steps);
        let above = each(|lane| -(found.mins[lane] * min[lane]) - self.low[lane]);
        let bias = each(|lane| -above[lane] * inverse[lane]);
        let sums = line_sums(&self.y, &inverse, &bias, high);
        for first in (0..LANES).step_by(runs) {
            let (mut ss, mut sm, mut mm, mut sx, mut mx) = (0.0_f64, 0.0_f64, 0.0_f64, 0.0_f64, 0.0_f64);
            for lane in first..first + runs {
                let [scale, min, low] = [found.scales[lane], found.mins[lane], self.low[lane]].map(f64::from);
                let [l, ll, yl, y] = [sums.l[lane], sums.ll[lane], sums.yl[lane], self.sum[lane]].map(f64::from);
                ss += scale * scale * ll;
                sm -= scale * min * l;
                mm += min * min * RUN as f64;
                sx += scale * (yl + low * l);
                mx -= min * (y + low * RUN as f64);
            }
            let determinant = ss * mm - sm * sm;
            let (new_step, new_min) = if determinant > 1e-6 * ss * mm {
                ((sx * mm - mx * sm) / determinant, (mx * ss - sx * sm) / determinant)
            } else {
                (sx / ss, 0.0)
            };
            if new_step > 0.0 && new_min >= 0.0 {
                step[first..first + runs].fill(new_step as f32);
                min[first..first + runs].fill(new_min as f32);
            }
        }
    }
}

/// Σ y² less Σ (y − step · l − offset)².
#[inline(always)]
fn taken_off(sums: &LineSums, lane: usize, y: f32, n: f32, step: f32, offset: f32) -> f32 {
    let (l, ll, yl) = (sums.l[lane], sums.ll[lane], sums.yl[lane]);
    let along = step * (2.0 * yl - step * ll - 2.0 * offset * l);
    along + offset * (2.0 * y - n * offset)
}

/// Runs of the types without minimums: their values are step · code, for steps of either sign.
pub(super) struct AroundZero<const RUN: usize> {
    x: Runs<RUN>,
    /// The lowest and the highest code.
    ends: (f32, f32),
}

impl<const RUN: usize> AroundZero<RUN> {
    #[inline(always)]
    pub(super) fn new(x: Runs<RUN>, ends: (f32, f32)) -> Self {
        Self { x, ends }
    }

    /// The steps that the search finds.
    ///
    /// - `candidates`: codes that the weight of largest magnitude goes to
    #[inline(always)]
    pub(super) fn search(&self, candidates: &[f32], rounds: usize) -> Lanes {
        let (lowest, highest) = ends(&self.x);
        let largest = each(|lane| if -lowest[lane] > highest[lane] { lowest[lane] } else { highest[lane] });
        let per_largest = inverses(&largest);
        let (mut best, mut most) = ([0.0; LANES], [0.0; LANES]);
        for end in candidates {
            let inverse = each(|lane| end * per_largest[lane]);
            self.fit(&inverse, &mut best, &mut most);
        }
        for _ in 0..rounds {
            let inverse = inverses(&best);
            self.fit(&inverse, &mut best, &mut most);
        }
        best
    }

    /// Fits steps to the codes of a candidate and keeps those that take off more than `most`.
    #[inline(always)]
    fn fit(&self, inverse: &Lanes, best: &mut Lanes, most: &mut Lanes) {
        let (ll, xl) = self.sums(inverse);
        for lane in 0..LANES {
            let step = xl[lane] / ll[lane];
            let gain = step * xl[lane];
            let is_better = gain > most[lane];
            most[lane] = if is_better { gain } else { most[lane] };
            best[lane] = if is_better { step } else { best[lane] };
        }
    }

    /// The whole multiples of `unit`, within `scale_ends`, near `steps` that leave the least error.
    #[inline(always)]
    pub(super) fn multiples(&self, steps: &Lanes, unit: f32, scale_ends: (f32, f32), reach: i8) -> Multiples {
        let within = |scale: f32| smaller(larger(scale, scale_ends.0), scale_ends.1);
        let per_unit = if unit == 0.0 { 0.0 } else { 1.0 / unit };
        let first = each(|lane| nearest(within(steps[lane] * per_unit)));
        let mut best = Multiples { scales: first, mins: [0.0; LANES], gains: [f32::NEG_INFINITY; LANES] };
        for near in -reach..=reach {
            let scales = each(|lane| within(first[lane] + f32::from(near)));
            let steps = each(|lane| scales[lane] * unit);
            let (ll, xl) = self.sums(&inverses(&steps));
            for lane in 0..LANES {
                let gain = steps[lane] * (2.0 * xl[lane] - steps[lane] * ll[lane]);
                let is_better = gain > best.gains[lane];
                best.gains[lane] = if is_better { gain } else { best.gains[lane] };
                best.scales[lane] = if is_better { scales[lane] } else { best.scales[lane] };
            }
        }
        best
    }

    /// The unit that fits best with the codes of `found`; the same where there is none.
    #[inline(always)]
    pub(super) fn refit(&self, found: &Multiples, unit: f32) -> f32 {
        let (ll, xl) = self.sums(&inverses(&each(|lane| found.scales[lane] * unit)));
        let (mut ss, mut sx) = (0.0_f64, 0.0_f64);
        for lane in 0..LANES {
            let [scale, ll, xl] = [found.scales[lane], ll[lane], xl[lane]].map(f64::from);
            ss += scale * scale * ll;
            sx += scale * xl;
        }
        if ss > 0.0 { (sx / ss) as f32 } else { unit }
    }

    /// Σ l² and Σ x l of the nearest codes.
    #[inline(always)]
    fn sums(&self, inverse: &Lanes) -> (Lanes, Lanes) {
        let (low, high) = self.ends;
        let (mut ll, mut xl) = ([0.0; LANES], [0.0; LANES]);
        for x in &self.x {
            for lane in 0..LANES {
                let code = nearest(smaller(larger(x[lane] * inverse[lane], low), high));
                ll[lane] += code * code;
                xl[lane] += x[lane] * code;
            }
        }
        (ll, xl)
    }
}

/// 1 / x, 0 of zeros.
#[inline(always)]
fn inverses(x: &Lanes) -> Lanes {
    each(|lane| if x[lane] == 0.0 { 0.0 } else { 1.0 / x[lane] })
}

//! A mean that tightens as windows come in, with its 95 % interval.

/// Mean and variance of the values so far, by Welford's update.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunningMean {
    n: u32,
    mean: f64,
    squares: f64,
}

impl RunningMean {
    /// Takes in one value.
    pub fn push(&mut self, value: f64) {
        self.n += 1;
        let delta = value - self.mean;
        self.mean += delta / f64::from(self.n);
        self.squares += delta * (value - self.mean);
    }

    /// The mean of `values`.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut mean = Self::default();
        for value in values {
            mean.push(value);
        }
        mean
    }

    /// Values so far.
    pub fn n(&self) -> u32 {
        self.n
    }

    /// The mean; 0 without values.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// The mean's 95 % interval by Student's t over independent values; `None` with fewer than two.
    pub fn ci95(&self) -> Option<[f64; 2]> {
        if self.n < 2 {
            return None;
        }
        let variance = self.squares / f64::from(self.n - 1);
        let half = t_quantile(self.n - 1) * (variance / f64::from(self.n)).sqrt();
        Some([self.mean - half, self.mean + half])
    }
}

/// The 97.5 % quantile of Student's t with `df` degrees of freedom, exact for 1 and 2 and within 0.2 % above.
///
/// Paper: Abramowitz and Stegun, 26.7.5 (expansion around the normal quantile).
fn t_quantile(df: u32) -> f64 {
    const Z: f64 = 1.959_963_984_540_054;
    match df {
        0 => f64::INFINITY,
        1 => 12.706_204_736_432_1,
        2 => 4.302_652_729_696_14,
        _ => {
            let df = f64::from(df);
            let g1 = (Z.powi(3) + Z) / 4.0;
            let g2 = (5.0 * Z.powi(5) + 16.0 * Z.powi(3) + 3.0 * Z) / 96.0;
            let g3 = (3.0 * Z.powi(7) + 19.0 * Z.powi(5) + 17.0 * Z.powi(3) - 15.0 * Z) / 384.0;
            let g4 =
                (79.0 * Z.powi(9) + 776.0 * Z.powi(7) + 1482.0 * Z.powi(5) - 1920.0 * Z.powi(3) - 945.0 * Z) / 92_160.0;
            Z + g1 / df + g2 / df.powi(2) + g3 / df.powi(3) + g4 / df.powi(4)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_the_published_ones() {
        let table = [
            (1, 12.706),
            (2, 4.3027),
            (3, 3.1824),
            (4, 2.7764),
            (5, 2.5706),
            (10, 2.2281),
            (30, 2.0423),
            (120, 1.9799),
        ];
        for (df, expected) in table {
            assert!((t_quantile(df) / expected - 1.0).abs() < 2e-3, "{df}: {}", t_quantile(df));
        }
    }

    #[test]
    fn intervals_of_small_samples() {
        assert_eq!(RunningMean::of([]).ci95(), None);
        assert_eq!(RunningMean::of([3.0]).ci95(), None);
        assert_eq!(RunningMean::of([2.0; 5]).ci95(), Some([2.0, 2.0]));
        // Mean 3, standard error sqrt(2.5 / 5), t(4) = 2.7764.
        let [low, high] = RunningMean::of([1.0, 2.0, 3.0, 4.0, 5.0]).ci95().unwrap();
        assert!((low - 1.0368).abs() < 2e-3 && (high - 4.9632).abs() < 2e-3, "{low} {high}");
    }
}

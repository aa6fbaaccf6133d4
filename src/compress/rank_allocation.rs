//! Ranks of many layers under one budget of error.

use crate::recipe::{LowRank, LowRankMethod};

/// Combinations of counts that are tried around the greedy choice.
const MAX_COMBINATIONS: usize = 20_000;

/// The singular values of one layer.
#[derive(Debug, Clone, Copy)]
pub struct Spectrum<'a> {
    /// Falling.
    pub singular_values: &'a [f64],
    /// (`out_features`, `in_features`).
    pub shape: [usize; 2],
}

/// The ranks with the fewest parameters whose discarded energy keeps a budget.
///
/// The discarded share of the squared singular values, a mean over the layers, is at most `budget`; whitened values make
/// this an error of the outputs, without a forward pass.
///
/// Ranks are multiples of `align` or full, and at least 1. Within a layer later values gain less, so taking the largest
/// gain for each parameter is the best choice but for the last steps. Where few different shapes occur, all counts around
/// it are tried too, which makes the choice the best one for one shape, and for few layers of up to three.
pub fn allocate_ranks(layers: &[Spectrum<'_>], budget: f64, align: u16) -> Vec<usize> {
    let align = usize::from(align.max(1));
    let mut steps: Vec<Step> = Vec::new();
    let mut discarded = 0.0;
    for (layer, Spectrum { singular_values, shape }) in layers.iter().enumerate() {
        // From the smallest on, so that small ones are not lost beside the large.
        let total: f64 = singular_values.iter().rev().map(|value| value * value).sum();
        let cost = (shape[0] + shape[1]) * align;
        for chunk in singular_values.chunks(align).skip(1).filter(|_| total > 0.0) {
            let gain = chunk.iter().rev().map(|value| value * value).sum::<f64>() / total;
            discarded += gain;
            steps.push(Step { layer, gain, cost });
        }
    }
    let needed = discarded - budget * layers.len() as f64;
    steps.sort_by(|a, b| a.cost.cmp(&b.cost).then(b.gain.total_cmp(&a.gain)));
    let classes: Vec<Class<'_>> = steps.chunk_by(|a, b| a.cost == b.cost).map(Class::new).collect();
    let counts = refine(&classes, &greedy(&classes, needed), needed);
    let mut ranks = vec![align; layers.len()];
    for (class, count) in classes.iter().zip(counts) {
        class.steps[..count].iter().for_each(|step| ranks[step.layer] += align);
    }
    ranks.iter().zip(layers).map(|(rank, layer)| (*rank).min(layer.singular_values.len()).max(1)).collect()
}

/// Settings that give a layer of `shape` exactly `rank`: how an allocated rank goes on to the layer.
pub fn fixed_rank(method: LowRankMethod, [rows, row_len]: [usize; 2], rank: usize) -> LowRank {
    let ratio = (rank * (rows + row_len)) as f64 / (rows * row_len) as f64;
    // A ratio of exactly 1 would mean that the layer is left alone.
    LowRank::with_ratio(method, if ratio == 1.0 { ratio + f64::EPSILON } else { ratio })
}

/// The next singular values of one layer.
struct Step {
    layer: usize,
    /// Share of the layer's squares.
    gain: f64,
    /// Parameters.
    cost: usize,
}

/// Steps of the same cost, the largest gain first; those of one layer are in order.
struct Class<'a> {
    steps: &'a [Step],
    /// The gain of so many steps.
    gains: Vec<f64>,
}

impl<'a> Class<'a> {
    fn new(steps: &'a [Step]) -> Self {
        let mut gains = vec![0.0];
        for step in steps {
            gains.push(gains.last().copied().unwrap_or(0.0) + step.gain);
        }
        Self { steps, gains }
    }

    fn cost(&self, count: usize) -> usize {
        count * self.steps[0].cost
    }

    /// The fewest steps that gain `needed`, if they can.
    fn count_for(&self, needed: f64) -> Option<usize> {
        let count = self.gains.partition_point(|gain| *gain < needed);
        (count < self.gains.len()).then_some(count)
    }
}

/// Takes the largest gain for each parameter until enough is gained.
fn greedy(classes: &[Class<'_>], needed: f64) -> Vec<usize> {
    let mut counts = vec![0; classes.len()];
    let mut gained = 0.0;
    while gained < needed {
        let next = classes.iter().zip(&counts).enumerate().filter_map(|(class, (steps, count))| {
            steps.steps.get(*count).map(|step| (class, step.gain / step.cost as f64))
        });
        let Some((class, _)) = next.max_by(|a, b| a.1.total_cmp(&b.1)) else { break };
        counts[class] += 1;
        gained = classes.iter().zip(&counts).map(|(class, count)| class.gains[*count]).sum();
    }
    counts
}

/// The cheapest counts around `start` that gain enough; `start` when there are none.
fn refine(classes: &[Class<'_>], start: &[usize], needed: f64) -> Vec<usize> {
    let Some((last, free)) = classes.split_last() else { return Vec::new() };
    let n_combinations = |reach: usize| (2 * reach + 1).checked_pow(free.len() as u32);
    let reach = (1..).take_while(|reach| n_combinations(*reach).is_some_and(|n| n <= MAX_COMBINATIONS));
    let longest = classes.iter().map(|class| class.steps.len()).max().unwrap_or(0);
    let reach = reach.take(longest).last().unwrap_or(0);
    let ranges: Vec<(usize, usize)> = free
        .iter()
        .zip(start)
        .map(|(class, count)| (count.saturating_sub(reach), (count + reach).min(class.steps.len())))
        .collect();
    let mut counts: Vec<usize> = ranges.iter().map(|range| range.0).collect();
    let mut best: Option<(usize, Vec<usize>)> = None;
    loop {
        let gained: f64 = free.iter().zip(&counts).map(|(class, count)| class.gains[*count]).sum();
        if let Some(count) = last.count_for(needed - gained) {
            let cost = free.iter().zip(&counts).map(|(class, count)| class.cost(*count)).sum::<usize>();
            let cost = cost + last.cost(count);
            if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                best = Some((cost, counts.iter().copied().chain([count]).collect()));
            }
        }
        // The next combination, the first class fastest.
        let Some(at) = (0..counts.len()).find(|&at| counts[at] < ranges[at].1) else { break };
        counts[at] += 1;
        (0..at).for_each(|before| counts[before] = ranges[before].0);
    }
    best.map_or_else(|| start.to_vec(), |(_, counts)| counts)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;
    use crate::recipe::rank_of_ratio;

    fn parameters(layers: &[Spectrum<'_>], ranks: &[usize]) -> usize {
        layers.iter().zip(ranks).map(|(layer, rank)| (layer.shape[0] + layer.shape[1]) * rank).sum()
    }

    fn discarded(layers: &[Spectrum<'_>], ranks: &[usize]) -> f64 {
        let share = |(layer, rank): (&Spectrum<'_>, &usize)| {
            let squares = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>();
            squares(&layer.singular_values[*rank..]) / squares(layer.singular_values)
        };
        layers.iter().zip(ranks).map(share).sum::<f64>() / layers.len() as f64
    }

    fn cheapest(layers: &[Spectrum<'_>], budget: f64) -> usize {
        let full: Vec<usize> = layers.iter().map(|layer| layer.singular_values.len()).collect();
        let n_choices = full.iter().product::<usize>();
        let choice = |mut index: usize| -> Vec<usize> {
            let digits = full.iter().map(|n| {
                let digit = index % n;
                index /= n;
                digit + 1
            });
            digits.collect()
        };
        let fits = |ranks: &Vec<usize>| discarded(layers, ranks) <= budget;
        (0..n_choices).map(choice).filter(fits).map(|ranks| parameters(layers, &ranks)).min().unwrap()
    }

    #[test]
    fn no_choice_of_ranks_is_cheaper() {
        let mut random = StdRng::seed_from_u64(3);
        for case in 0..200 {
            let shapes = [[4, 6], [4, 6], [9, 5], [5, 5 + case % 3]];
            let values: Vec<Vec<f64>> = shapes
                .iter()
                .map(|shape| {
                    let mut values: Vec<f64> = (0..shape[0].min(shape[1])).map(|_| random.random::<f64>()).collect();
                    values.sort_by(|a, b| b.total_cmp(a));
                    values
                })
                .collect();
            let layers: Vec<Spectrum<'_>> =
                values.iter().zip(shapes).map(|(values, shape)| Spectrum { singular_values: values, shape }).collect();
            let budget = random.random_range(0.001..0.4);
            let ranks = allocate_ranks(&layers, budget, 1);
            assert!(discarded(&layers, &ranks) <= budget + 1e-12, "case {case}");
            assert_eq!(parameters(&layers, &ranks), cheapest(&layers, budget), "case {case}: {ranks:?}");
        }
    }

    #[test]
    fn ranks_keep_to_their_limits() {
        let values = [2.0, 1.0, 1.0, 0.5, 0.1];
        let layer = Spectrum { singular_values: &values, shape: [5, 8] };
        let zero = Spectrum { singular_values: &[0.0; 3], shape: [3, 3] };
        for (budget, align, expected) in [
            (0.5, 1, [1, 1]),
            (0.1, 1, [3, 1]),
            (1e-9, 1, [5, 1]),
            (0.1, 2, [4, 2]),
            (1e-9, 4, [5, 3]),
            (0.1, 9, [5, 3]),
        ] {
            assert_eq!(allocate_ranks(&[layer, zero], budget, align), expected, "{budget} {align}");
        }
        assert!(allocate_ranks(&[], 0.1, 1).is_empty());
    }

    #[test]
    fn many_layers_are_quick_and_close_to_the_bound() {
        let values: Vec<Vec<f64>> = (0..40_u32)
            .map(|layer| (0..300).map(|k| (-0.01 * f64::from(k * (1 + layer % 7))).exp()).collect())
            .collect();
        let layers: Vec<Spectrum<'_>> = values
            .iter()
            .zip(0_usize..)
            .map(|(values, n)| Spectrum { singular_values: values, shape: [300, 300 + 64 * (n % 5)] })
            .collect();
        let ranks = allocate_ranks(&layers, 0.05, 1);
        let found = discarded(&layers, &ranks);
        assert!(found <= 0.05 && found > 0.049, "{found}");
    }

    #[test]
    fn an_allocated_rank_survives_as_settings() {
        for shape in [[288, 288], [768, 288], [2, 2], [1, 7], [4096, 11_008]] {
            for rank in [1, 2, 17, 144, 288].into_iter().filter(|rank| *rank <= shape[0].min(shape[1])) {
                let settings = fixed_rank(LowRankMethod::Whitened, shape, rank);
                let crate::recipe::RankRule::Ratio(ratio) = settings.rank else { panic!("a ratio") };
                assert_eq!(
                    (rank_of_ratio(shape[0], shape[1], ratio, settings.align), settings.is_full()),
                    (rank, false)
                );
            }
        }
    }
}

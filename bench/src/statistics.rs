//! Medians and spreads.

use serde::Serialize;

/// The middle and the ends of some figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// # Panics
    /// If there is none.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        assert!(count > 0, "no figure has no median");
        let median = (sorted[(count - 1) / 2] + sorted[count / 2]) / 2.0;
        Self { median, min: sorted[0], max: sorted[count - 1] }
    }
}

/// Between which figures the median lies, in 95 of 100 such samples: by rank, whatever the distribution.
///
/// # Panics
/// If there is none.
pub(crate) fn median_interval(figures: &[f64]) -> [f64; 2] {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    assert!(count > 0, "no figure has no median");
    // The number of figures below the median is binomial with one half.
    let reach = 1.96 * (count as f64).sqrt() / 2.0;
    let below = (count as f64 / 2.0 - reach).floor().max(0.0) as usize;
    [sorted[below], sorted[count - 1 - below]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_many_figures_is_known_well() {
        let figures: Vec<f64> = (0..100).rev().map(f64::from).collect();
        assert_eq!(median_interval(&figures), [40.0, 59.0]);
        assert_eq!(median_interval(&[2.0, 1.0, 3.0]), [1.0, 3.0]);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(Spread::of([7.0]), Spread { median: 7.0, min: 7.0, max: 7.0 });
    }
}

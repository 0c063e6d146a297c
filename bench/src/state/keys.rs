//! Which keys are updated, and in which order.

use std::fmt;
use std::str::FromStr;

/// The exponent of the skewed distribution, as in YCSB.
const THETA: f64 = 0.99;

/// How keys are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// Each as often as any other.
    Uniform,
    /// A few of them most of the time, with the exponent 0.99.
    Zipf,
}

impl Distribution {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Uniform, Self::Zipf];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
        }
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no distribution's.
#[derive(Debug, thiserror::Error)]
#[error("there is no distribution \"{0}\"; keys are drawn uniform or zipf")]
pub struct UnknownDistribution(String);

impl FromStr for Distribution {
    type Err = UnknownDistribution;

    fn from_str(name: &str) -> Result<Self, UnknownDistribution> {
        let found = Self::ALL.into_iter().find(|distribution| distribution.name() == name);
        found.ok_or_else(|| UnknownDistribution(name.to_owned()))
    }
}

/// Steele, Lea and Flood's SplitMix64: one to one, so that numbered keys are different keys.
pub(crate) fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// All keys.
pub(super) fn all(keys: u64) -> impl Iterator<Item = u64> {
    (0..keys).map(mix)
}

/// The keys of so many operations. The same every time.
pub(super) fn draw(keys: u64, distribution: Distribution, operations: u64) -> Vec<u64> {
    // From 0 to below 1, by 53 bits.
    let evenly = |i: u64| (mix(i ^ 0x5eed) >> 11) as f64 / (1u64 << 53) as f64;
    let ranked = |rank: u64| mix(rank.min(keys - 1));
    match distribution {
        Distribution::Uniform => {
            (0..operations).map(|i| ranked((evenly(i) * keys as f64) as u64)).collect()
        }
        Distribution::Zipf => {
            let zipf = Zipf::new(keys);
            (0..operations).map(|i| ranked(zipf.rank(evenly(i)))).collect()
        }
    }
}

/// Gray et al., *Quickly generating billion-record synthetic databases* (SIGMOD 1994).
struct Zipf {
    keys: f64,
    of_all: f64,
    of_two: f64,
    alpha: f64,
    eta: f64,
}

impl Zipf {
    /// Complexity: linear in the number of keys.
    fn new(keys: u64) -> Self {
        let zeta = |n: u64| (1..=n).map(|i| (i as f64).powf(-THETA)).sum::<f64>();
        let (of_all, of_two) = (zeta(keys), zeta(2));
        let keys = keys as f64;
        let eta = (1.0 - (2.0 / keys).powf(1.0 - THETA)) / (1.0 - of_two / of_all);
        Self { keys, of_all, of_two, alpha: 1.0 / (1.0 - THETA), eta }
    }

    /// The rank, from 0, of a number from 0 to below 1.
    fn rank(&self, number: f64) -> u64 {
        let scaled = number * self.of_all;
        if scaled < 1.0 {
            0
        } else if scaled < self.of_two {
            1
        } else {
            (self.keys * (self.eta * number - self.eta + 1.0).powf(self.alpha)) as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn shares(distribution: Distribution) -> Vec<f64> {
        const OPERATIONS: u64 = 200_000;
        let mut counts = HashMap::<u64, u64>::new();
        for key in draw(1_000, distribution, OPERATIONS) {
            *counts.entry(key).or_default() += 1;
        }
        assert!(all(1_000).filter(|key| counts.contains_key(key)).count() == counts.len());
        let mut shares: Vec<f64> =
            counts.values().map(|count| *count as f64 / OPERATIONS as f64).collect();
        shares.sort_by(|a, b| b.total_cmp(a));
        shares
    }

    #[test]
    fn even_draws_are_even() {
        let shares = shares(Distribution::Uniform);
        assert_eq!(shares.len(), 1_000);
        assert!(shares[0] < 0.0016 && shares[999] > 0.0006, "{} {}", shares[0], shares[999]);
    }

    #[test]
    fn skewed_draws_fall_off_with_the_rank() {
        let shares = shares(Distribution::Zipf);
        // Of a thousand keys with the exponent 0.99 the first has 1 of 7.6, the second about half of it.
        assert!((shares[0] - 0.131).abs() < 0.01, "{}", shares[0]);
        assert!((shares[0] / shares[1] - 2.0).abs() < 0.2, "{}", shares[1]);
    }
}

//! Numbers that look random and are the same for the same seed.

/// Sebastiano Vigna's SplitMix64: eight bytes of state, so that each of a million listeners can
/// have one. It is written out here because a stream of events must stay what it is for its seed,
/// whatever a library's next version does.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    /// One of many independent streams of a seed.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        Self(hash(seed, stream))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `end`, which is above zero.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        // The upper half of the product; its bias is below end / 2^64.
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// A number from `start` up to, not including, `end`.
    pub(super) fn between(&mut self, start: i64, end: i64) -> i64 {
        start + self.below(end.abs_diff(start)) as i64
    }

    /// True `per_mille` times in a thousand.
    pub(super) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }

    /// An index below `end`, smaller ones more often: `i` with a probability of
    /// `ln((i + 2) / (i + 1)) / ln(end + 1)`, which is Zipf's law (1 / rank) but for its steps.
    pub(super) fn rank(&mut self, end: u64) -> u64 {
        let unit = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        let rank = ((end + 1) as f64).powf(unit) as u64;
        (rank - 1).min(end - 1)
    }
}

/// A number that depends on both arguments in no visible way.
pub(super) fn hash(a: u64, b: u64) -> u64 {
    mix(mix(a.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ b.wrapping_mul(0xd6e8_feb8_6659_fd93))
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_follow_zipfs_law() {
        let mut random = Random::new(1, 0);
        let mut counts = [0u32; 1_000];
        for _ in 0..100_000 {
            counts[random.rank(1_000) as usize] += 1;
        }
        let first = 2f64.ln() / 1_001f64.ln() * 100_000.0;
        assert!((f64::from(counts[0]) - first).abs() < 500.0, "{}", counts[0]);
        let (tenth, hundredth) = (counts[9], counts[90..110].iter().sum::<u32>() / 20);
        let ratio = f64::from(tenth) / f64::from(hundredth);
        assert!((7.0..14.0).contains(&ratio), "{tenth} / {hundredth}");
    }

    #[test]
    fn chances_are_what_they_say() {
        let mut random = Random::new(2, 7);
        let hits = (0..100_000).filter(|_| random.chance(250)).count();
        assert!((24_000..26_000).contains(&hits), "{hits}");
        assert!((0..1_000).all(|_| (-3..5).contains(&random.between(-3, 5))));
    }
}

//! How often and how soon a failed job starts again.
//!
//! Pure: the caller says when a failure happened and waits as long as it is told.
//!
//! # Invariants
//! - A delay is never longer than the strategy's longest.
//! - What gives up has given up for good: every later failure is answered alike.

use millstream_types::parse_duration;
use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// When a failed job is started again, and when it is given up.
///
/// Read from words, as in a setting: `none`, `fixed 3 1s` (attempts, delay), `exponential 1s 1m 2`
/// (first delay, longest, multiplier; then, if wanted, how long without a failure until the delay is
/// the first again, and the jitter: `exponential 1s 1m 2 10m 0.1`), `rate 3 5m 10s` (failures within
/// the interval that are borne, interval, delay).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RestartStrategy {
    /// The first failure ends the job.
    None,
    /// So many restarts in all, each after the same delay.
    FixedDelay {
        /// How many failures are borne.
        attempts_max: u32,
        /// How long to wait before each restart.
        delay: Duration,
    },
    /// Any number of restarts, each after a longer delay.
    ExponentialDelay {
        /// The first delay.
        initial: Duration,
        /// The longest delay, jitter included.
        delay_max: Duration,
        /// By how much a delay is longer than the one before; at least 1.
        multiplier: f64,
        /// After so long without a failure the delay is the first again.
        reset_after: Duration,
        /// By which part of itself a delay is made longer or shorter at random, 0 to 1, so that
        /// jobs that failed together do not start again together.
        jitter: f64,
    },
    /// As many restarts as failures do not come too thick.
    FailureRate {
        /// How many failures within the interval are borne.
        failures_max: u32,
        /// The interval.
        interval: Duration,
        /// How long to wait before each restart.
        delay: Duration,
    },
}

/// The answer to a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Start again after so long.
    After(Duration),
    /// Let the job fail.
    GiveUp {
        /// What the strategy has to say, to stand behind the failure itself.
        reason: String,
    },
}

/// A strategy and the failures so far.
#[derive(Clone, Debug)]
pub struct RestartPolicy {
    strategy: RestartStrategy,
    attempts: u32,
    last: Option<Duration>,
    delay: Duration,
    /// The failures that count, oldest first; bounded by the strategy's maximum.
    recent: VecDeque<Duration>,
    gave_up: Option<String>,
}

impl RestartPolicy {
    /// A policy that has seen no failure.
    pub fn new(strategy: RestartStrategy) -> Self {
        Self {
            strategy,
            attempts: 0,
            last: None,
            delay: Duration::ZERO,
            recent: VecDeque::new(),
            gave_up: None,
        }
    }

    /// The strategy.
    pub fn strategy(&self) -> RestartStrategy {
        self.strategy
    }

    /// The job has failed at `now`, which never goes back. `random`, at least 0 and below 1, decides
    /// the jitter.
    pub fn on_failure(&mut self, now: Duration, random: f64) -> Restart {
        if self.gave_up.is_none() {
            match self.decide(now, random) {
                Ok(delay) => {
                    self.last = Some(now);
                    return Restart::After(delay);
                }
                Err(reason) => self.gave_up = Some(reason),
            }
        }
        Restart::GiveUp { reason: self.gave_up.clone().unwrap_or_default() }
    }

    fn decide(&mut self, now: Duration, random: f64) -> Result<Duration, String> {
        match self.strategy {
            RestartStrategy::None => Err("the restart strategy is none".to_owned()),
            RestartStrategy::FixedDelay { attempts_max, delay } => {
                if self.attempts == attempts_max {
                    return Err(format!("it was restarted {attempts_max} times already"));
                }
                self.attempts += 1;
                Ok(delay)
            }
            RestartStrategy::ExponentialDelay {
                initial,
                delay_max,
                multiplier,
                reset_after,
                jitter,
            } => {
                let calm = self.last.is_none_or(|last| now.saturating_sub(last) >= reset_after);
                self.delay =
                    if calm { initial } else { scaled(self.delay, multiplier) }.min(delay_max);
                Ok(scaled(self.delay, 1.0 + jitter * (2.0 * random - 1.0)).min(delay_max))
            }
            RestartStrategy::FailureRate { failures_max, interval, delay } => {
                while self.recent.pop_front_if(|at| now.saturating_sub(*at) >= interval).is_some() {
                }
                if self.recent.len() >= failures_max as usize {
                    let times = self.recent.len() + 1;
                    return Err(format!("it failed {times} times within {interval:?}"));
                }
                self.recent.push_back(now);
                Ok(delay)
            }
        }
    }
}

/// `duration` times `factor`; the longest there is if it would be longer.
fn scaled(duration: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(duration.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}

/// The words name no restart strategy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseRestartStrategyError {
    /// The strategy is unknown, or has not as many words as it needs.
    #[error(
        "no restart strategy: `{0}`. Write none, `fixed ATTEMPTS DELAY` (fixed 3 1s), \
         `exponential FIRST LONGEST MULTIPLIER [RESET [JITTER]]` (exponential 1s 1m 2), or \
         `rate FAILURES INTERVAL DELAY` (rate 3 5m 10s)"
    )]
    Form(String),
    /// One word is not what stands at its place.
    #[error("restart strategy `{text}`: {what} cannot be `{word}`: {wanted}")]
    Word {
        /// The whole text.
        text: String,
        /// What the word stands for.
        what: &'static str,
        /// The word.
        word: String,
        /// What would be right.
        wanted: &'static str,
    },
}

impl FromStr for RestartStrategy {
    type Err = ParseRestartStrategyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let parse = Words { text };
        match words[..] {
            ["none"] => Ok(Self::None),
            ["fixed", attempts, delay] => Ok(Self::FixedDelay {
                attempts_max: parse.count("the number of attempts", attempts)?,
                delay: parse.duration("the delay", delay)?,
            }),
            ["exponential", initial, delay_max, multiplier, ref rest @ ..] if rest.len() <= 2 => {
                let initial = parse.duration("the first delay", initial)?;
                let longest = parse.duration("the longest delay", delay_max)?;
                if longest < initial {
                    let wanted = "it is not shorter than the first";
                    return Err(parse.wrong("the longest delay", delay_max, wanted));
                }
                let reset_after = match rest.first() {
                    Some(word) => parse.duration("the time until reset", word)?,
                    None => RESET_AFTER_DEFAULT.max(longest.saturating_mul(2)),
                };
                Ok(Self::ExponentialDelay {
                    initial,
                    delay_max: longest,
                    multiplier: parse.number("the multiplier", multiplier, 1.0, f64::MAX)?,
                    reset_after,
                    jitter: match rest.get(1) {
                        Some(word) => parse.number("the jitter", word, 0.0, 1.0)?,
                        None => JITTER_DEFAULT,
                    },
                })
            }
            ["rate", failures, interval, delay] => Ok(Self::FailureRate {
                failures_max: parse.count("the number of failures", failures)?,
                interval: parse.duration("the interval", interval)?,
                delay: parse.duration("the delay", delay)?,
            }),
            _ => Err(ParseRestartStrategyError::Form(text.to_owned())),
        }
    }
}

const RESET_AFTER_DEFAULT: Duration = Duration::from_secs(600);
const JITTER_DEFAULT: f64 = 0.1;

impl fmt::Display for RestartStrategy {
    /// The words from which it is read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::FixedDelay { attempts_max, delay } => write!(f, "fixed {attempts_max} {delay:?}"),
            Self::ExponentialDelay { initial, delay_max, multiplier, reset_after, jitter } => {
                write!(
                    f,
                    "exponential {initial:?} {delay_max:?} {multiplier} {reset_after:?} {jitter}"
                )
            }
            Self::FailureRate { failures_max, interval, delay } => {
                write!(f, "rate {failures_max} {interval:?} {delay:?}")
            }
        }
    }
}

/// Reads the words of one text, which stands in every error.
struct Words<'a> {
    text: &'a str,
}

impl Words<'_> {
    fn wrong(
        &self,
        what: &'static str,
        word: &str,
        wanted: &'static str,
    ) -> ParseRestartStrategyError {
        ParseRestartStrategyError::Word {
            text: self.text.to_owned(),
            what,
            word: word.to_owned(),
            wanted,
        }
    }

    fn count(&self, what: &'static str, word: &str) -> Result<u32, ParseRestartStrategyError> {
        let count = word.parse().ok().filter(|count| *count > 0);
        count.ok_or_else(|| self.wrong(what, word, "write a number of at least 1"))
    }

    fn number(
        &self,
        what: &'static str,
        word: &str,
        least: f64,
        most: f64,
    ) -> Result<f64, ParseRestartStrategyError> {
        let number = word.parse().ok().filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| {
            let wanted = if least > 0.0 {
                "write a number of at least 1"
            } else {
                "write a number between 0 and 1"
            };
            self.wrong(what, word, wanted)
        })
    }

    fn duration(
        &self,
        what: &'static str,
        word: &str,
    ) -> Result<Duration, ParseRestartStrategyError> {
        parse_duration(word)
            .ok_or_else(|| self.wrong(what, word, "write a duration such as 500ms or 10s"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy(text: &str) -> RestartPolicy {
        RestartPolicy::new(text.parse().unwrap())
    }

    fn gives_up(restart: &Restart) -> bool {
        matches!(restart, Restart::GiveUp { .. })
    }

    #[test]
    fn none_gives_up_at_once() {
        let mut policy = policy("none");
        let Restart::GiveUp { reason } = policy.on_failure(SECOND, 0.5) else { panic!() };
        assert_eq!(reason, "the restart strategy is none");
    }

    #[test]
    fn a_fixed_delay_is_the_same_each_time_and_ends_with_the_attempts() {
        let mut policy = policy("fixed 3 1s");
        for at in 0..3 {
            assert_eq!(policy.on_failure(SECOND * at, 0.5), Restart::After(SECOND));
        }
        let end = policy.on_failure(SECOND * 1000, 0.5);
        assert_eq!(end, Restart::GiveUp { reason: "it was restarted 3 times already".to_owned() });
    }

    #[test]
    fn an_exponential_delay_grows_to_its_longest_and_starts_over_after_a_calm_time() {
        let mut policy = policy("exponential 1s 5s 2 1m 0");
        let mut now = SECOND;
        for seconds in [1, 2, 4, 5, 5] {
            assert_eq!(policy.on_failure(now, 0.9), Restart::After(SECOND * seconds));
            now += SECOND * 30;
        }
        assert_eq!(policy.on_failure(now + SECOND * 60, 0.9), Restart::After(SECOND));
    }

    #[test]
    fn jitter_makes_a_delay_longer_or_shorter_by_its_part() {
        let delay = |random| policy("exponential 10s 1h 2 1m 0.2").on_failure(SECOND, random);
        assert_eq!(delay(0.0), Restart::After(SECOND * 8));
        assert_eq!(delay(0.5), Restart::After(SECOND * 10));
        assert_eq!(delay(0.75), Restart::After(SECOND * 11));
    }

    #[test]
    fn a_failure_rate_counts_what_is_within_the_interval() {
        let mut policy = policy("rate 2 10s 1s");
        for at in [0, 5, 10, 15, 20] {
            assert_eq!(policy.on_failure(SECOND * at, 0.5), Restart::After(SECOND), "at {at}");
        }
        let end = policy.on_failure(SECOND * 21, 0.5);
        assert_eq!(end, Restart::GiveUp { reason: "it failed 3 times within 10s".to_owned() });
        assert!(gives_up(&policy.on_failure(SECOND * 1000, 0.5)), "given up is given up");
    }

    #[test]
    fn strategies_are_read_as_they_are_written() {
        for text in [
            "none",
            "fixed 3 1.5s",
            "exponential 1s 1m 2",
            "rate 3 5m 10s",
            "exponential 1s 2s 1 3s 1",
        ] {
            let strategy: RestartStrategy = text.parse().unwrap();
            assert_eq!(strategy.to_string().parse(), Ok(strategy), "{text}");
        }
    }

    #[test]
    fn what_is_no_strategy_is_refused_in_words() {
        let error = |text: &str| text.parse::<RestartStrategy>().unwrap_err().to_string();
        assert!(error("often").starts_with("no restart strategy: `often`. Write none, "));
        assert!(error("fixed 3").contains("no restart strategy"));
        assert!(error("exponential 1s 1m 2 3m 0.1 7").contains("no restart strategy"));
        assert_eq!(
            error("fixed some 1s"),
            "restart strategy `fixed some 1s`: the number of attempts cannot be `some`: write a \
             number of at least 1"
        );
        assert!(error("fixed 0 1s").contains("at least 1"));
        assert!(error("fixed 3 1").contains("write a duration such as 500ms or 10s"));
        assert!(error("fixed 3 -1s").contains("the delay"));
        assert!(error("exponential 1m 1s 2").contains("not shorter than the first"));
        assert!(error("exponential 1s 1m 0.5").contains("at least 1"));
        assert!(error("exponential 1s 1m NaN").contains("the multiplier"));
        assert!(error("exponential 1s 1m 2 3m 1.5").contains("between 0 and 1"));
    }

    proptest! {
        #[test]
        fn delays_stay_within_their_bounds(
            initial in 0_u64..1000, longer in 0_u64..100_000, multiplier in 1.0_f64..10.0,
            jitter in 0.0_f64..=1.0,
            failures in proptest::collection::vec((0_u64..1_000_000, 0.0_f64..1.0), 1..50),
        ) {
            let millis = Duration::from_millis;
            let delay_max = millis(initial + longer);
            let mut policy = RestartPolicy::new(RestartStrategy::ExponentialDelay {
                initial: millis(initial), delay_max, multiplier,
                reset_after: millis(500_000), jitter,
            });
            let mut now = Duration::ZERO;
            for (gap, random) in failures {
                now += millis(gap);
                let Restart::After(delay) = policy.on_failure(now, random) else {
                    panic!("an exponential delay never gives up");
                };
                prop_assert!(delay <= delay_max);
            }
        }

        #[test]
        fn a_rate_gives_up_exactly_when_an_interval_holds_too_many(
            failures_max in 1_u32..5, gaps in proptest::collection::vec(0_u64..10, 1..40),
        ) {
            let interval = SECOND * 10;
            let strategy = RestartStrategy::FailureRate { failures_max, interval, delay: SECOND };
            let mut policy = RestartPolicy::new(strategy);
            let (mut now, mut seen, mut over) = (Duration::ZERO, Vec::new(), false);
            for gap in gaps {
                now += SECOND * gap as u32;
                seen.push(now);
                let within = seen.iter().filter(|at| now - **at < interval).count();
                over |= within > failures_max as usize;
                prop_assert_eq!(gives_up(&policy.on_failure(now, 0.5)), over);
            }
        }
    }
}

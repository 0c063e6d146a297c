//! Event time.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in time: nanoseconds since the Unix epoch, UTC.
///
/// All times inside the engine (event time, processing time, watermarks, timers, window bounds)
/// are of this type. Formats that count milliseconds convert at their boundary with
/// [`Timestamp::from_millis`] and [`Timestamp::as_millis`].
///
/// [`Timestamp::MIN`] means "none": the timestamp of a record that was given none, and the
/// watermark before the first one. [`Timestamp::MAX`] is the watermark after the end of input.
///
/// ```
/// use millstream_types::Timestamp;
/// use std::time::Duration;
/// let t = Timestamp::from_millis(1_500) + Duration::from_millis(500);
/// assert_eq!(t.as_millis(), 2_000);
/// assert_eq!(t.floor_to(Duration::from_secs(5), Duration::ZERO), Timestamp::from_millis(0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// No timestamp; also the watermark before any other.
    pub const MIN: Self = Self(i64::MIN);
    /// The watermark after the end of input: no record follows.
    pub const MAX: Self = Self(i64::MAX);

    /// From nanoseconds since the Unix epoch.
    #[inline]
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// From milliseconds since the Unix epoch. Saturates at [`Timestamp::MIN`] and
    /// [`Timestamp::MAX`].
    #[inline]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the Unix epoch.
    #[inline]
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Whole milliseconds since the Unix epoch, rounded towards the past.
    #[inline]
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// True unless this is [`Timestamp::MIN`].
    #[inline]
    pub const fn is_some(self) -> bool {
        self.0 != i64::MIN
    }

    /// The wall clock's time now.
    pub fn now() -> Self {
        let since =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }

    /// The greatest `offset + n × step` (n an integer) that is not after this time.
    ///
    /// # Panics
    /// If `step` is zero.
    #[inline]
    pub fn floor_to(self, step: Duration, offset: Duration) -> Self {
        let step = nanos(step);
        assert!(step > 0, "a step of zero divides nothing");
        let offset = nanos(offset);
        Self(self.0.saturating_sub(self.0.saturating_sub(offset).rem_euclid(step)))
    }

    /// The duration from `earlier` to this time; zero if `earlier` is later.
    #[inline]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// A duration as signed nanoseconds, saturating after 292 years.
#[inline]
fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    #[inline]
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    #[inline]
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }
}

/// `YYYY-MM-DD HH:MM:SS.mmm`, UTC (the proleptic Gregorian calendar).
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MIN => return f.write_str("none"),
            Self::MAX => return f.write_str("end of time"),
            _ => {}
        }
        let millis = self.as_millis();
        let (days, of_day) = (millis.div_euclid(86_400_000), millis.rem_euclid(86_400_000));
        let (year, month, day) = civil_from_days(days);
        write!(
            f,
            "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:03}",
            of_day / 3_600_000,
            of_day / 60_000 % 60,
            of_day / 1_000 % 60,
            of_day % 1_000
        )
    }
}

/// Year, month and day of a number of days since 1970-01-01, counted in 400-year eras that begin
/// on 1 March so that the leap day comes last.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    const DAYS_PER_ERA: i64 = 146_097;
    let days = days + 719_468;
    let era = days.div_euclid(DAYS_PER_ERA);
    let of_era = days.rem_euclid(DAYS_PER_ERA);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// A duration such as `20us`, `5ms`, `1.5s`, `2m`, `1h`; `None` if the text is none.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_the_calendar_date_in_utc() {
        assert_eq!(
            Timestamp::from_millis(1_436_918_400_581).to_string(),
            "2015-07-15 00:00:00.581"
        );
        assert_eq!(Timestamp::from_millis(951_782_400_000).to_string(), "2000-02-29 00:00:00.000");
        assert_eq!(Timestamp::from_millis(-1).to_string(), "1969-12-31 23:59:59.999");
    }

    #[test]
    fn arithmetic_saturates_at_the_ends_of_time() {
        assert_eq!(Timestamp::MAX + Duration::from_secs(1), Timestamp::MAX);
        assert_eq!(Timestamp::MIN - Duration::from_secs(1), Timestamp::MIN);
    }

    #[test]
    fn floor_counts_steps_from_the_offset_also_before_the_epoch() {
        let step = Duration::from_nanos(10);
        let floor = |n| Timestamp::from_nanos(n).floor_to(step, Duration::from_nanos(3)).as_nanos();
        assert_eq!([floor(3), floor(12), floor(13), floor(2), floor(-8)], [3, 3, 13, -7, -17]);
    }
}

//! Values of flags.

use millstream_runtime::config::parse_duration;
use std::time::Duration;

pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}; write a whole number")),
    }
}

/// A number of events per second, with k or M for thousands or millions.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1e3),
        None => text.strip_suffix(['m', 'M']).map_or((text, 1.0), |number| (number, 1e6)),
    };
    match number.parse::<f64>() {
        Ok(number) if (1.0..=1e9).contains(&(number * unit)) => Ok((number * unit) as u64),
        _ => Err("write events per second from 1 to 1000M, such as 200000, 200k or 1M".to_owned()),
    }
}

/// A number of things, with k or M for thousands or millions.
pub(super) fn number(text: &str) -> Result<u64, String> {
    rate(text).map_err(|_| "write a number from 1 to 1000M, such as 200000, 200k or 10M".to_owned())
}

/// A number of bytes, with KiB, MiB or GiB.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("B", 0), ("", 0)];
    let parsed = units.into_iter().find_map(|(unit, shift)| {
        let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        Some(number * f64::from(1u32 << shift))
    });
    match parsed {
        Some(bytes) if (1.0..=1e15).contains(&bytes) => Ok(bytes as u64),
        _ => Err("write a number of bytes such as 512KiB, 10MiB or 1.5GiB".to_owned()),
    }
}

/// A part of a whole: a number above 0 and up to 1, or a percentage.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let parsed = match text.strip_suffix('%') {
        Some(percentage) => percentage.trim().parse::<f64>().map(|number| number / 100.0),
        None => text.parse(),
    };
    match parsed {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("write a share above 0 and up to 1, such as 0.1 or 10%".to_owned()),
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write a duration such as 20s or 2m".to_owned())
}

/// For how long something is counted: in less there is too little of it.
pub(super) fn turn(text: &str) -> Result<Duration, String> {
    let turn = duration(text)?;
    let bounds = Duration::from_millis(100)..=Duration::from_secs(3_600);
    if bounds.contains(&turn) { Ok(turn) } else { Err("from 100ms to 1h".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_units() {
        for (text, expected) in
            [("1", 1), ("200k", 200_000), ("1M", 1_000_000), ("1.5m", 1_500_000)]
        {
            assert_eq!(rate(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "-1", "k", "1G", "1e12", "nan"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_units_of_1024() {
        for (text, expected) in
            [("10", 10), ("7B", 7), ("64KiB", 65_536), ("1.5MiB", 1_572_864), ("1GiB", 1 << 30)]
        {
            assert_eq!(size(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "-1MiB", "MiB", "1MB", "1TiB", "nan", "1e30"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shares_are_numbers_or_percentages() {
        for (text, expected) in [("0.1", 0.1), ("1", 1.0), ("25%", 0.25), ("100 %", 1.0)] {
            assert_eq!(share(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "-0.1", "1.1", "101%", "nan", "%"] {
            assert!(share(text).is_err(), "{text}");
        }
    }
}

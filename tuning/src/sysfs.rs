//! Reads the small text files of `/sys` and `/proc`.
//!
//! Containers hide parts of these trees and kernels differ in what they offer, so an absent or
//! unreadable file is `None`, never an error.

use std::fs;
use std::path::Path;
use std::str::FromStr;

/// The file's text without surrounding white space.
pub(crate) fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The file's text as a value.
pub(crate) fn read_value<T: FromStr>(path: impl AsRef<Path>) -> Option<T> {
    read(path)?.parse().ok()
}

/// The numbers of a kernel list such as `0-3,8,10-11`; `None` if it is malformed.
///
/// Ranges beyond [`LIST_VALUE_MAX`] are refused: the text comes from outside, and a bogus range
/// must not allocate without bound.
pub(crate) fn parse_list(text: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        if first > last || last > LIST_VALUE_MAX {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// The greatest CPU number believed.
const LIST_VALUE_MAX: usize = 1 << 16;

/// The bytes of a size such as `512K` or `32M`.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(digits) => (digits, text.as_bytes()[text.len() - 1]),
        None => (text, b' '),
    };
    let shift = match unit {
        b'K' => 10,
        b'M' => 20,
        b'G' => 30,
        _ => 0,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The value of `Name:  value` in the manner of `/proc/self/status`.
pub(crate) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key == name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_ranges_and_single_numbers() {
        assert_eq!(parse_list("0-3,8,10-11"), Some(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(parse_list("5"), Some(vec![5]));
        assert_eq!(parse_list(""), Some(vec![]));
    }

    #[test]
    fn malformed_lists_are_refused() {
        for text in ["a", "3-1", "1-", "-", "0-99999999999", "1-2-3"] {
            assert_eq!(parse_list(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_carry_a_unit() {
        assert_eq!(parse_size("512K"), Some(512 << 10));
        assert_eq!(parse_size("32M"), Some(32 << 20));
        assert_eq!(parse_size("1G"), Some(1 << 30));
        assert_eq!(parse_size("64"), Some(64));
        assert_eq!(parse_size("K"), None);
        assert_eq!(parse_size("99999999999999999999K"), None);
        assert_eq!(parse_size("9999999999999999999G"), None);
    }

    #[test]
    fn fields_match_whole_names() {
        let status = "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        assert_eq!(field(status, "Seccomp"), Some("2"));
        assert_eq!(field(status, "Sec"), None);
    }
}

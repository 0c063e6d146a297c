//! Names that become parts of paths and messages, so they are checked where they come in.

use serde::{Deserialize, Serialize};
use std::fmt;

const NAME_BYTES_MAX: usize = 64;
const SHA256_DIGITS: usize = 64;

/// A text is no name of its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {kind}: {wanted}")]
pub struct NameError {
    kind: &'static str,
    wanted: &'static str,
    text: String,
}

impl NameError {
    fn new(kind: &'static str, wanted: &'static str, text: &str) -> Self {
        let text = text.chars().take(NAME_BYTES_MAX).map(|c| if c.is_control() { '?' } else { c });
        Self { kind, wanted, text: text.collect() }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $wanted:literal, $holds:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks a text.
            ///
            /// # Errors
            /// If it is none.
            pub fn new(text: &str) -> Result<Self, NameError> {
                let holds: fn(&str) -> bool = $holds;
                if holds(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(NameError::new($kind, $wanted, text))
                }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A job's id. It is the name of a directory on workers.
    JobId, "job id", "it has 1 to 64 lower-case letters, digits and hyphens",
    |text| (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

name! {
    /// A worker's name. No two workers of a cluster have the same.
    WorkerName, "name of a worker",
    "it has 1 to 64 letters, digits, hyphens, underscores and dots, and begins with no dot",
    |text| (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

name! {
    /// What an executable is known by: the SHA-256 of its bytes.
    ArtifactId, "SHA-256", "it has 64 hexadecimal digits, in lower case",
    |text| text.len() == SHA256_DIGITS
        && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_leave_a_directory_is_no_name() {
        for wrong in ["", "..", "a/b", "../a", "A", "a b", "ä", &"a".repeat(65)] {
            assert!(JobId::new(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "..", ".hidden", "a/b", "a b", "a\n"] {
            assert!(WorkerName::new(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "..", &"A".repeat(64), &"a".repeat(63), &"g".repeat(64)] {
            assert!(ArtifactId::new(wrong).is_err(), "{wrong}");
        }
        assert!(JobId::new("word-count-0123abcd").is_ok());
        assert!(WorkerName::new("host-1.rack_2").is_ok());
        assert!(ArtifactId::new(&"0123456789abcdef".repeat(4)).is_ok());
    }

    #[test]
    fn the_error_says_what_is_wanted() {
        let error = JobId::new("a/b").unwrap_err().to_string();
        assert!(error.starts_with("`a/b` is no job id: it has 1 to 64 "), "{error}");
    }
}

//! What the system tells about a process.

use anyhow::{Context, Result, ensure};
use std::fs;

/// A process, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About(pub u32);

impl About {
    /// Its resident memory, in KiB.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn resident_kib(self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_ascii_whitespace().next());
        Ok(kib.context("a process without memory")?.parse()?)
    }

    /// How many sockets it has open.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn sockets(self) -> Result<usize> {
        let mut sockets = 0;
        for file in fs::read_dir(format!("/proc/{}/fd", self.0))? {
            // One that cannot be looked at has just been closed.
            let target = fs::read_link(file?.path()).unwrap_or_default();
            sockets += usize::from(target.to_string_lossy().starts_with("socket:"));
        }
        Ok(sockets)
    }

    /// Looks whether its arguments and its environment, which others may see, hide a secret.
    ///
    /// # Errors
    /// If they do not.
    pub fn check_hides(self, secret: &str) -> Result<()> {
        for file in ["cmdline", "environ"] {
            let bytes = fs::read(format!("/proc/{}/{file}", self.0))?;
            let words = String::from_utf8_lossy(&bytes);
            ensure!(!words.contains(secret), "the secret is in {file}");
        }
        Ok(())
    }
}

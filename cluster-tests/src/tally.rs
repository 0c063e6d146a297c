//! What the kills of a test have hit.

use crate::site::Site;
use anyhow::{Result, ensure};
use std::fmt;

/// Counts kills, by what the killed process left.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// All of them.
    pub kills: u32,
    /// After the first complete checkpoint, and before the last output was in its place.
    pub telling: u32,
    /// While a checkpoint was being written.
    pub in_checkpoint: u32,
    /// After the job's last checkpoint was complete, and before all outputs were in their places.
    pub in_commit: u32,
    /// Within the first moments of a resumed process.
    pub at_restore: u32,
}

impl Tally {
    /// Looks at what a killed process has left. True if that is all that there will be: its outputs are
    /// complete.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn note(&mut self, site: &Site, at_restore: bool) -> Result<bool> {
        let contents = site.contents()?;
        let (_, hidden) = site.outputs()?;
        let newest = contents.complete.last_key_value().map(|(newest, _)| *newest);
        let newest_incomplete = contents.incomplete.last_key_value().map(|(newest, _)| *newest);
        // The last thing that a commit does is to remove the pieces.
        let has_ended = hidden.is_empty() && newest.is_some();
        self.kills += 1;
        self.telling += u32::from(newest.is_some() && !has_ended);
        self.in_checkpoint += u32::from(newest_incomplete > newest);
        self.in_commit += u32::from(site.has_final_checkpoint()? && !has_ended);
        self.at_restore += u32::from(at_restore);
        Ok(has_ended)
    }

    /// Adds another.
    pub fn add(&mut self, other: Self) {
        self.kills += other.kills;
        self.telling += other.telling;
        self.in_checkpoint += other.in_checkpoint;
        self.in_commit += other.in_commit;
        self.at_restore += other.at_restore;
    }

    /// Whether the kills have tested what they should.
    ///
    /// # Errors
    /// If too few came between the first checkpoint and the end, or none in a checkpoint or at a restore.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.telling * 100 >= self.kills * 80,
            "{self}: too many of the kills come before the first checkpoint or after the end"
        );
        ensure!(
            self.in_checkpoint > 0 && self.at_restore > 0,
            "{self}: none came in a checkpoint, or none at a restore"
        );
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, telling, in_checkpoint, in_commit, at_restore } = self;
        write!(
            f,
            "{kills} kills, {telling} of them after the first checkpoint and before the end; \
             {in_checkpoint} in a checkpoint, {at_restore} at a restore, {in_commit} in a commit"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_that_test_nothing_do_not_count() {
        let good = Tally { kills: 100, telling: 80, in_checkpoint: 1, in_commit: 0, at_restore: 1 };
        good.check().unwrap();
        for bad in [
            Tally { telling: 79, ..good },
            Tally { in_checkpoint: 0, ..good },
            Tally { at_restore: 0, ..good },
        ] {
            bad.check().unwrap_err();
        }
    }
}

//! When a process is killed, or something else goes wrong.

use crate::process::{Process, until, until_at_once};
use crate::site::Site;
use crate::tally::Tally;
use anyhow::Result;
use millstream_protocol::manifest::layout;
use millstream_types::CheckpointId;
use rand::Rng;
use rand::rngs::SmallRng;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// A moment in the life of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// So long after its start: early ones fall into the restoring.
    AfterStart(Duration),
    /// So long after it has completed a checkpoint.
    AfterCheckpoint(Duration),
    /// So long after it has begun to write a checkpoint, and not completed it.
    InCheckpoint(Duration),
    /// So long after the manifest of the job's last checkpoint is there, whose outputs are then
    /// committed.
    InCommit(Duration),
    /// So long after the manifest of the next checkpoint is there. Where the job's last is its only
    /// one, this is when it is committed, and met more often.
    InNextCommit(Duration),
}

/// How a process came to its end.
#[derive(Debug)]
pub(crate) enum End {
    /// The moment has come.
    Killed,
    /// It was faster.
    ByItself(ExitStatus),
}

impl Moment {
    /// One at random, but of those that every trial must hit the ones that `hit` lacks go first.
    /// `is_first` for a job without checkpoints: then mostly after one.
    pub fn random(rng: &mut SmallRng, is_first: bool, hit: &Tally) -> Self {
        let mut micros = |most| Duration::from_micros(rng.gen_range(0..most));
        let (short, long) = (micros(3_000), micros(250_000));
        let early = micros(60_000);
        match (is_first, rng.gen_range(0..100)) {
            (true, 0..5) => Self::AfterStart(early),
            (true, _) => Self::AfterCheckpoint(long),
            (false, _) if hit.at_restore == 0 => Self::AfterStart(early),
            (false, _) if hit.in_checkpoint == 0 => Self::InCheckpoint(short),
            (false, 0..15) => Self::AfterStart(early),
            (false, 15..45) => Self::InCheckpoint(short),
            (false, 45..55) => Self::InCommit(short),
            (false, _) => Self::AfterCheckpoint(long),
        }
    }

    /// One in the commit of a job that takes no checkpoint but the last.
    pub fn in_next_commit(rng: &mut SmallRng) -> Self {
        Self::InNextCommit(Duration::from_micros(rng.gen_range(0..2_000)))
    }

    /// Waits for the moment and kills the process.
    pub(crate) fn kill(self, mut process: Process, site: &Site) -> Result<End> {
        if let Some(status) = self.wait(site, || process.ended())? {
            return Ok(End::ByItself(status));
        }
        let status = process.kill()?;
        Ok(match std::os::unix::process::ExitStatusExt::signal(&status) {
            Some(_) => End::Killed,
            None => End::ByItself(status),
        })
    }

    /// Waits for the moment, unless the job has `ended` before: then this is how.
    pub(crate) fn wait<E>(
        self,
        site: &Site,
        mut ended: impl FnMut() -> Result<Option<E>>,
    ) -> Result<Option<E>> {
        let before = seen(site)?;
        let mut since = match self {
            Self::AfterStart(_) => Some(Instant::now()),
            _ => None,
        };
        let (Self::AfterStart(delay)
        | Self::AfterCheckpoint(delay)
        | Self::InCheckpoint(delay)
        | Self::InCommit(delay)
        | Self::InNextCommit(delay)) = self;
        let look = || {
            if since.is_none() && self.has_come(site, before)? {
                since = Some(Instant::now());
            }
            if since.is_some_and(|since| since.elapsed() >= delay) {
                return Ok(Some(None));
            }
            Ok(ended()?.map(Some))
        };
        let what = "the moment for a fault";
        match self {
            Self::InNextCommit(_) => until_at_once(what, look),
            _ => until(what, look),
        }
    }

    fn has_come(self, site: &Site, before: Seen) -> Result<bool> {
        Ok(match self {
            Self::AfterStart(_) => true,
            Self::AfterCheckpoint(_) => seen(site)?.complete > before.complete,
            Self::InCheckpoint(_) => {
                let now = seen(site)?;
                now.incomplete > before.incomplete.max(now.complete)
            }
            Self::InCommit(_) => site.has_final_checkpoint()?,
            Self::InNextCommit(_) => {
                let newest = before.complete.max(before.incomplete);
                let next = CheckpointId(newest.map_or(0, |newest| newest.0) + 1);
                site.checkpoints().join(layout::manifest_path(next)).exists()
            }
        })
    }
}

/// The newest checkpoints of either kind.
#[derive(Clone, Copy)]
struct Seen {
    complete: Option<CheckpointId>,
    incomplete: Option<CheckpointId>,
}

fn seen(site: &Site) -> Result<Seen> {
    let contents = site.contents()?;
    Ok(Seen {
        complete: contents.complete.last_key_value().map(|(newest, _)| *newest),
        incomplete: contents.incomplete.last_key_value().map(|(newest, _)| *newest),
    })
}

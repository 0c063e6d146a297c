//! What must hold, and whether it does.

use crate::channel::Channel;
use crate::hosts::HostDisk;
use crate::message::Ghost;
use crate::names;
use crate::part::Part;
use crate::plan::Plan;
use crate::record::{Record, decode_rows};
use crate::stored::{Stored, View, newest_durable, newest_used};
use millstream_protocol::{CheckpointMode, SubtaskId};
use millstream_types::CheckpointId;
use std::collections::BTreeMap;
use std::fmt;

/// A promise that is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// A completed checkpoint that is kept can be restored, whatever happens to the machine: its
    /// manifest and every segment that it names are durable and intact. On several hosts the newest can,
    /// as long as no more of them are lost with their disks than there are copies.
    Restorable,
    /// No more is in flight between two hosts than was granted, and nothing waits that was.
    Credits,
    /// No checkpoint takes an id that was used before.
    EpochRegress,
    /// A checkpoint is a consistent cut: on every channel, what one side has sent before it is what
    /// the other side has received before it.
    Cut,
    /// Nothing is committed before a checkpoint that names it is durable.
    EarlyCommit,
    /// What was prepared for a completed checkpoint is there to be committed.
    LostTransaction,
    /// No more checkpoints are pending than allowed.
    Concurrency,
    /// The committed output is that of a run in which nothing fails.
    ExactlyOnce,
    /// Rows of a key are committed in the order in which they were emitted.
    Order,
    /// When faults have stopped, checkpoints complete, none is aborted, and the job comes to its end.
    Progress,
}

impl Check {
    pub(crate) fn violated(self, what: impl Into<String>) -> Violation {
        Violation { check: self, what: what.into() }
    }
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub check: Check,
    /// What was found.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.check, self.what)
    }
}

/// A completed checkpoint is durable with all that it names, in so many places.
pub(crate) fn is_restorable(
    checkpoint: CheckpointId,
    places: &[&HostDisk],
    copies: usize,
) -> Result<(), Violation> {
    match Stored::read(checkpoint, places, View::Durable, copies) {
        Ok(_) => Ok(()),
        Err(problem) => {
            let what = format!("checkpoint {checkpoint} could be lost: {problem}");
            Err(Check::Restorable.violated(what))
        }
    }
}

/// No file carries an id that is announced now.
pub(crate) fn epoch_is_new(
    checkpoint: CheckpointId,
    places: &[&HostDisk],
) -> Result<(), Violation> {
    let newest = newest_used(places);
    if newest < checkpoint {
        return Ok(());
    }
    let what = format!("checkpoint {checkpoint} is announced, and there are files of {newest}");
    Err(Check::EpochRegress.violated(what))
}

/// The parts of a checkpoint fit each other.
pub(crate) fn is_cut(
    checkpoint: CheckpointId,
    channels: &[Channel],
    parts: &BTreeMap<SubtaskId, (Part, Ghost)>,
    mode: CheckpointMode,
) -> Result<(), Violation> {
    for channel in channels {
        let id = (channel.from, channel.to);
        let sent = parts.get(&channel.from).and_then(|(_, ghost)| ghost.sent.get(&id));
        let received = parts.get(&channel.to).and_then(|(_, ghost)| ghost.received.get(&id));
        let fits = match (sent, received) {
            (Some(sent), Some(received)) if mode == CheckpointMode::AtLeastOnce => sent <= received,
            (Some(sent), Some(received)) => sent == received,
            _ => false,
        };
        if !fits {
            let what = format!(
                "checkpoint {checkpoint}: {} has sent {sent:?} records before its barrier, {} \
                 has received {received:?} before its snapshot",
                channel.from, channel.to
            );
            return Err(Check::Cut.violated(what));
        }
    }
    Ok(())
}

/// What has its final name belongs to a durable checkpoint.
pub(crate) fn is_committed_in_time(
    output: &str,
    outputs: &HostDisk,
    places: &[&HostDisk],
) -> Result<(), Violation> {
    if outputs.read(output).is_none() {
        return Ok(());
    }
    let newest = newest_durable(places);
    if newest.is_some_and(|newest| names::epoch(output) <= newest) {
        return Ok(());
    }
    let newest = newest.map_or("none".to_owned(), |newest| newest.to_string());
    let what = format!("{output} is committed, and the newest durable checkpoint is {newest}");
    Err(Check::EarlyCommit.violated(what))
}

/// The committed rows, ordered.
fn committed(plan: &Plan, disk: &HostDisk) -> Result<Vec<Record>, Violation> {
    let mut rows = Vec::new();
    for name in disk.list(names::OUTPUT) {
        let read = disk.read(name).and_then(decode_rows);
        let torn = || Check::ExactlyOnce.violated(format!("{name} ends within a row"));
        let read = read.ok_or_else(torn)?;
        if plan.settings.mode != CheckpointMode::AtLeastOnce {
            is_in_order(name, &read)?;
        }
        rows.extend(read);
    }
    rows.sort_unstable();
    Ok(rows)
}

/// The last stage counts each key up, and all rows of a key have one way.
fn is_in_order(name: &str, rows: &[Record]) -> Result<(), Violation> {
    let mut counts = BTreeMap::new();
    for row in rows {
        if let Some(before) = counts.insert(row.key, row.count)
            && before >= row.count
        {
            let what = format!("{name}: key {} has {before} before {}", row.key, row.count);
            return Err(Check::Order.violated(what));
        }
    }
    Ok(())
}

/// The committed rows are those of a run in which nothing fails; at-least-once, every key was counted
/// at least as often.
pub(crate) fn is_exactly_once(plan: &Plan, disk: &HostDisk) -> Result<(), Violation> {
    let (found, expected) = (committed(plan, disk)?, plan.oracle());
    if plan.settings.mode == CheckpointMode::AtLeastOnce {
        let (found, expected) = (highest(&found), highest(&expected));
        let short = expected.iter().find(|(key, count)| found.get(key).is_none_or(|n| n < count));
        return match short {
            None => Ok(()),
            Some((key, count)) => {
                let what = format!("key {key} was counted {:?} times, not {count}", found.get(key));
                Err(Check::ExactlyOnce.violated(what))
            }
        };
    }
    if found == expected {
        return Ok(());
    }
    let (mut missing, mut surplus) = (expected.clone(), Vec::new());
    for row in &found {
        match missing.iter().position(|one| one == row) {
            Some(at) => drop(missing.remove(at)),
            None => surplus.push(*row),
        }
    }
    let what = format!(
        "{} rows, {} expected; missing: {:?}, too many: {:?}",
        found.len(),
        expected.len(),
        &missing[..missing.len().min(5)],
        &surplus[..surplus.len().min(5)]
    );
    Err(Check::ExactlyOnce.violated(what))
}

fn highest(rows: &[Record]) -> BTreeMap<u64, u64> {
    let mut highest = BTreeMap::new();
    for row in rows {
        let count = highest.entry(row.key).or_default();
        *count = row.count.max(*count);
    }
    highest
}

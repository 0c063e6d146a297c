//! The names of files, each with the epoch in which it was begun.

use millstream_protocol::SubtaskId;
use millstream_types::CheckpointId;

pub(crate) const MANIFEST: &str = "manifest-";
pub(crate) const UNFINISHED_MANIFEST: &str = "unfinished-";
pub(crate) const SEGMENT: &str = "segment-";
/// Rows that are prepared.
pub(crate) const STAGED: &str = "staged-";
/// Rows that are committed.
pub(crate) const OUTPUT: &str = "output-";

pub(crate) fn manifest(checkpoint: CheckpointId) -> String {
    format!("{MANIFEST}{checkpoint:06}", checkpoint = checkpoint.0)
}

pub(crate) fn unfinished_manifest(checkpoint: CheckpointId) -> String {
    format!("{UNFINISHED_MANIFEST}{:06}", checkpoint.0)
}

pub(crate) fn segment(epoch: CheckpointId, owner: SubtaskId, number: u32) -> String {
    format!("{SEGMENT}{:06}-{}-{}-{number}", epoch.0, owner.vertex, owner.subtask)
}

pub(crate) fn staged(epoch: CheckpointId, owner: SubtaskId) -> String {
    format!("{STAGED}{:06}-{}", epoch.0, owner.subtask)
}

/// The name under which prepared rows are committed.
pub(crate) fn output(staged: &str) -> String {
    format!("{OUTPUT}{}", staged.trim_start_matches(STAGED))
}

/// The epoch in a name; 0 if it is none of these.
pub(crate) fn epoch(name: &str) -> CheckpointId {
    let number = name.split('-').nth(1).and_then(|number| number.parse().ok());
    CheckpointId(number.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_types::{SubtaskIndex, VertexId};

    #[test]
    fn every_name_tells_its_epoch() {
        let owner = SubtaskId { vertex: VertexId(1), subtask: SubtaskIndex(2) };
        let id = CheckpointId(7);
        let staged = staged(id, owner);
        assert_eq!(output(&staged), "output-000007-2");
        for name in [manifest(id), unfinished_manifest(id), segment(id, owner, 3), output(&staged)]
        {
            assert_eq!(epoch(&name), id, "{name}");
        }
    }
}

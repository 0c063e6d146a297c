//! The names of files, each with the epoch in which it was begun, and the attempt in which, so that no
//! name is given twice: where a host is lost, so may be the newest epoch. Those of checkpoints are
//! [`layout`](millstream_protocol::manifest::layout)'s.

use crate::hosts::AttemptId;
use millstream_protocol::SubtaskId;
use millstream_protocol::manifest::layout;
use millstream_types::CheckpointId;

/// Rows that are prepared.
pub(crate) const STAGED: &str = "staged-";
/// Rows that are committed.
pub(crate) const OUTPUT: &str = "output-";

/// A manifest that is being written.
pub(crate) fn unfinished_manifest(checkpoint: CheckpointId) -> String {
    layout::checkpoint_path(checkpoint, "MANIFEST.unfinished")
}

/// A segment, in the folder of state files.
pub(crate) fn segment(
    epoch: CheckpointId,
    owner: SubtaskId,
    attempt: AttemptId,
    number: u32,
) -> String {
    format!("segment-{:08}-{}-{}-{attempt}-{number}", epoch.0, owner.vertex, owner.subtask)
}

pub(crate) fn staged(epoch: CheckpointId, owner: SubtaskId, attempt: AttemptId) -> String {
    format!("{STAGED}{:08}-{}-{attempt}", epoch.0, owner.subtask)
}

/// The name under which prepared rows are committed.
pub(crate) fn output(staged: &str) -> String {
    format!("{OUTPUT}{}", staged.trim_start_matches(STAGED))
}

/// The epoch in a path; 0 if it is none of these.
pub(crate) fn epoch(path: &str) -> CheckpointId {
    let number = path.split(['-', '/']).find_map(|word| word.parse().ok());
    CheckpointId(number.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_types::{SubtaskIndex, VertexId};

    #[test]
    fn every_path_tells_its_epoch() {
        let owner = SubtaskId { vertex: VertexId(1), subtask: SubtaskIndex(2) };
        let id = CheckpointId(7);
        let staged = staged(id, owner, 5);
        assert_eq!(output(&staged), "output-00000007-2-5");
        let state = layout::state_path(&segment(id, owner, 5, 3));
        let manifest = layout::manifest_path(id);
        for path in [manifest, unfinished_manifest(id), state, output(&staged), staged] {
            assert_eq!(epoch(&path), id, "{path}");
        }
    }
}

//! What can go wrong with state, and how it reaches the one who can act on it.

use crate::{DecodeError, EncodeError, SegmentError, SnapshotError};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// A failure of keyed state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A key or a value cannot be archived.
    #[error("state {table:?}: a key or a value cannot be written")]
    Encode {
        /// The table's name.
        table: String,
        /// Why.
        source: EncodeError,
    },
    /// Stored bytes are not what the table's types say.
    #[error(
        "state {table:?}: a stored key or value cannot be read; if its type has changed since it \
         was written, give the new state another name"
    )]
    Decode {
        /// The table's name.
        table: String,
        /// Why.
        source: DecodeError,
    },
    /// A checkpoint has the table with other types.
    #[error(
        "state {table:?} was written as {written:?} and the program has it as {wanted:?}; give the \
         new state another name, or go on with the program that wrote it"
    )]
    Schema {
        /// The table's name.
        table: String,
        /// The types in the checkpoint.
        written: String,
        /// The types of the program.
        wanted: String,
    },
    /// A table of a kind that has no time to live was opened with one.
    #[error(
        "state {table:?} cannot have a time to live: of keyed state, values, lists and maps can; keep          it in one of those"
    )]
    NoTtl {
        /// The table's name.
        table: String,
    },
    /// A checkpoint was written with another number of key groups.
    #[error(
        "state {table:?} was written with max_parallelism {written}, and the job has {wanted}; it \
         cannot be changed: set max_parallelism to {written}"
    )]
    MaxParallelism {
        /// The table's name.
        table: String,
        /// That of the checkpoint.
        written: u16,
        /// That of the program.
        wanted: u16,
    },
    /// What a checkpoint has of the table cannot be read.
    #[error("state {table:?}: {source}")]
    Snapshot {
        /// The table's name.
        table: String,
        /// Why.
        source: SnapshotError,
    },
    /// Stored bytes do not have the structure that this version writes.
    #[error("state {table:?}: a stored entry is malformed ({reason})")]
    Malformed {
        /// The table's name.
        table: String,
        /// What is wrong with the entry.
        reason: &'static str,
    },
    /// The backend failed: disk, memory budget, peer.
    #[error("state backend {backend}: {operation} failed: {source}")]
    Backend {
        /// The backend's name.
        backend: String,
        /// What it was doing.
        operation: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StateError {
    /// The file of a checkpoint that is missing or is not what was written, if that is what this is
    /// about: an older checkpoint may do without it.
    pub fn damaged_file(&self) -> Option<&str> {
        let Self::Backend { source, .. } = self else { return None };
        match source.downcast_ref::<SegmentError>()? {
            SegmentError::Damaged { file, .. } => Some(file),
            SegmentError::Io { file, source, .. } if source.kind() == ErrorKind::NotFound => {
                Some(file)
            }
            _ => None,
        }
    }

    /// Ends the subtask: unwinds to the nearest [`StateError::catch`] without running the panic
    /// hook.
    ///
    /// Operators and user functions cannot do anything sensible about state that cannot be read, and
    /// one that carried on would break exactly-once; so the typed tables raise, and only the
    /// runtime, at the edge of a subtask, sees the error as a value. (salsa cancels queries in the
    /// same manner.) Nothing is raised while a table's own invariants are broken, but the
    /// operator's may be: a subtask that has raised is discarded and restored.
    pub fn raise(self) -> ! {
        resume_unwind(Box::new(self))
    }

    /// Runs `f` and returns the error that a table in it [raised](StateError::raise). Any other
    /// panic passes through.
    ///
    /// # Errors
    /// The raised error.
    pub fn catch<R>(f: impl FnOnce() -> R) -> Result<R, StateError> {
        catch_unwind(AssertUnwindSafe(f)).map_err(|payload| match payload.downcast::<Self>() {
            Ok(error) => *error,
            Err(payload) => resume_unwind(payload),
        })
    }
}

/// The value, or [`StateError::raise`].
pub(crate) fn or_raise<T>(result: Result<T, StateError>) -> T {
    result.unwrap_or_else(|error| error.raise())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raised_error_is_caught_as_a_value() {
        let caught = StateError::catch(|| -> u8 {
            StateError::Malformed { table: "t".into(), reason: "r" }.raise()
        });
        assert!(matches!(caught, Err(StateError::Malformed { reason: "r", .. })));
        assert_eq!(StateError::catch(|| 7).unwrap(), 7);
    }

    #[test]
    fn another_panic_is_not_mistaken_for_a_state_error() {
        let outer = catch_unwind(|| StateError::catch(|| resume_unwind(Box::new("user code"))));
        let payload = outer.expect_err("the panic passes through");
        assert_eq!(*payload.downcast::<&str>().unwrap(), "user code");
    }
}

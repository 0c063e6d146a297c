//! Whether a job can be resumed from a checkpoint.

use super::{Manifest, ManifestError, OperatorEntry};
use std::collections::BTreeSet;

/// How many missing operators an error names.
const NAMED_OPERATORS_MAX: usize = 5;

impl Manifest {
    /// Checks that a job may be resumed from this checkpoint: it has a place for all state in it.
    ///
    /// `operators` are the uids of the job's operators. Ones that the checkpoint does not know are
    /// new in the program, and begin empty. Parallelism plays no part: state moves by key group.
    ///
    /// # Errors
    /// [`ManifestError::OtherJob`], [`ManifestError::OtherMaxParallelism`] and
    /// [`ManifestError::OtherBackend`], in this order, each with what can be done.
    pub fn check_job<'a>(
        &self,
        operators: impl IntoIterator<Item = &'a str>,
        max_parallelism: u16,
        backend: &str,
    ) -> Result<(), ManifestError> {
        let known: BTreeSet<&str> = operators.into_iter().collect();
        let missing: Vec<&OperatorEntry> =
            self.operators.iter().filter(|one| !known.contains(one.uid.as_str())).collect();
        if !missing.is_empty() {
            return Err(ManifestError::OtherJob {
                checkpoint: self.checkpoint,
                job: self.job.clone(),
                operators: in_words(&missing),
            });
        }
        if max_parallelism != self.max_parallelism {
            return Err(ManifestError::OtherMaxParallelism {
                checkpoint: self.checkpoint,
                checkpointed: self.max_parallelism,
                requested: max_parallelism,
            });
        }
        if backend != self.backend {
            return Err(ManifestError::OtherBackend {
                checkpoint: self.checkpoint,
                checkpointed: self.backend.clone(),
                requested: backend.to_owned(),
            });
        }
        Ok(())
    }
}

fn in_words(operators: &[&OperatorEntry]) -> String {
    let named = operators.iter().take(NAMED_OPERATORS_MAX).map(|operator| {
        if operator.name == operator.uid {
            format!("\"{}\"", operator.uid)
        } else {
            format!("\"{}\" ({})", operator.uid, operator.name)
        }
    });
    let mut text = named.collect::<Vec<_>>().join(", ");
    if operators.len() > NAMED_OPERATORS_MAX {
        text.push_str(&format!(" and {} more", operators.len() - NAMED_OPERATORS_MAX));
    }
    text
}

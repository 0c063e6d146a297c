//! Where a job's checkpoints lie, as the process sees it that controls the job, or one of the others.

use crate::checkpoint::in_words;
use crate::config::CheckpointConfig;
use crate::error::JobError;
use crate::hosts::{Crew, Host, shortened};
use crate::metrics::JobCounters;
use millstream_protocol::manifest::layout;
use millstream_protocol::{CheckpointKind, Told};
use millstream_storage::{
    CheckpointDirectory, CheckpointError, DirectoryLock, LocalDirectory, LockError, Replicated,
    Storage,
};
use millstream_types::CheckpointId;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The directory of a job's checkpoints, locked.
pub(super) struct Directory {
    pub(super) checkpoints: CheckpointDirectory,
    /// The newest id that was in use there when it was opened, or has been since.
    pub(super) newest_used: Cell<CheckpointId>,
    /// Deletes what earlier runs have left.
    cleaning: Cell<Option<JoinHandle<()>>>,
    /// The job has ended before its time: what has not been deleted yet goes at the next start.
    stops_cleaning: Arc<AtomicBool>,
    _lock: DirectoryLock,
}

fn failed(error: &dyn std::error::Error) -> JobError {
    JobError::Restore(in_words(error))
}

fn lock_path(config: &CheckpointConfig) -> PathBuf {
    config.directory.join(layout::LOCK)
}

/// How long one may hold the directory whose place this process has taken, and who has not heard of it: he
/// waits for the others, as he can reach none of them.
const HOLDER_MAX: Duration = Duration::from_secs(600);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Locks the directory, if need be when it is let go of by whoever has controlled the job before.
fn acquire(
    path: &Path,
    host: Option<&Host>,
    goes_on: &dyn Fn() -> bool,
) -> Result<DirectoryLock, JobError> {
    let successor = host.filter(|host| host.takes_a_place());
    let begun = Instant::now();
    let mut waits = false;
    loop {
        match (DirectoryLock::acquire(path), successor) {
            (Ok(lock), _) => return Ok(lock),
            (Err(error @ LockError::Held { .. }), Some(host)) if begun.elapsed() < HOLDER_MAX => {
                if !std::mem::replace(&mut waits, true) {
                    let error = format!("waiting up to {HOLDER_MAX:?} for {error}");
                    tracing::warn!("{error}");
                    host.tell(Told::Restarting { error: shortened(error) });
                }
            }
            (Err(error), _) => return Err(failed(&error)),
        }
        if !goes_on() {
            return Err(JobError::Canceled);
        }
        std::thread::park_timeout(LOOK_INTERVAL);
    }
}

/// The directory on this host, with a folder for stores.
fn open_local(config: &CheckpointConfig) -> Result<LocalDirectory, JobError> {
    let local = LocalDirectory::create(&config.directory).map_err(|error| failed(&error))?;
    let state = config.stores();
    std::fs::create_dir_all(&state).map_err(|error| {
        JobError::Restore(format!("{} cannot be made: {error}", state.display()))
    })?;
    Ok(local)
}

/// With the second place, if there is one.
fn with_replica(
    storage: Arc<dyn Storage>,
    config: &CheckpointConfig,
) -> Result<CheckpointDirectory, JobError> {
    let storage = match &config.replica {
        None => storage,
        Some(replica) => {
            let replica = replica.storage().map_err(|error| failed(&error))?;
            Arc::new(Replicated::new(storage, replica))
        }
    };
    Ok(CheckpointDirectory::on(storage))
}

impl Directory {
    /// Opens the directory for the process that controls the job. With a crew, its members are asked
    /// whether they share it; if not, all their directories are one place.
    pub(super) fn open(
        config: &CheckpointConfig,
        crew: Option<&mut Crew>,
        counters: &Arc<JobCounters>,
        goes_on: impl Fn() -> bool,
    ) -> Result<Self, JobError> {
        let local = open_local(config)?;
        let host = crew.as_ref().map(|crew| crew.host());
        let lock = acquire(&lock_path(config), host, &goes_on)?;
        let storage: Arc<dyn Storage> = match crew {
            None if config.copies > 0 => {
                return Err(JobError::Invalid(format!(
                    "checkpoint_durability is replicated({}), and the job runs on one host; name several by --cluster FILE, or set it to local",
                    config.copies
                )));
            }
            None => Arc::new(local),
            Some(crew) => {
                crew.show_directory(lock.words());
                crew.gather(goes_on)?;
                match crew.shares_directory()? {
                    true => shared(local, config)?,
                    false => crew.host().fleet(Arc::new(local), config, counters)?,
                }
            }
        };
        let checkpoints = with_replica(storage, config)?;
        // Before what was left unfinished is removed, so that its id is not given again.
        let contents = checkpoints.contents().map_err(|error| failed(&error))?;
        let newest = contents.checkpoints().next_back();
        let newest_used = Cell::new(newest.unwrap_or_default());
        Ok(Self {
            checkpoints,
            newest_used,
            cleaning: Cell::default(),
            stops_cleaning: Arc::default(),
            _lock: lock,
        })
    }

    /// Deletes what earlier runs have left.
    pub(super) fn clean(&self) -> Result<(), CheckpointError> {
        self.checkpoints.delete_unfinished()?;
        self.clean_orphans()
    }

    /// Deletes what earlier attempts have left that no checkpoint needs, while the job begins: with many
    /// files that takes longer than to restore. Only when nothing is left of those attempts.
    pub(super) fn clean_orphans(&self) -> Result<(), CheckpointError> {
        if let Some(cleaning) = self.cleaning.take() {
            if !cleaning.is_finished() {
                // What it does not delete goes the next time.
                self.cleaning.set(Some(cleaning));
                return Ok(());
            }
            // It has said what it could not do.
            let _ = cleaning.join();
        }
        let orphans = self.checkpoints.orphans()?;
        if let Some(error) = &orphans.protected_by {
            tracing::warn!("no state files of earlier runs are deleted: {error}");
        }
        let checkpoints = self.checkpoints.clone();
        let stops = Arc::clone(&self.stops_cleaning);
        let goes_on = move || !stops.load(Ordering::Relaxed);
        let clean = move || match checkpoints.delete_orphans(&orphans, &goes_on) {
            Ok(()) => tracing::debug!("orphans of earlier runs: {orphans:?}"),
            Err(error) => {
                tracing::warn!("files of earlier runs stay, until the next start: {error}");
            }
        };
        match std::thread::Builder::new().name("cleaning".into()).spawn(clean) {
            Ok(cleaning) => self.cleaning.set(Some(cleaning)),
            Err(error) => {
                tracing::warn!("files of earlier runs stay, until the next start: {error}");
            }
        }
        Ok(())
    }

    /// The job has ended before its time.
    pub(super) fn stop_cleaning(&self) {
        self.stops_cleaning.store(true, Ordering::Relaxed);
    }

    /// Deletes the checkpoints that are not the user's.
    pub(super) fn delete_all(&self) {
        let directory = &self.checkpoints;
        let deleted = directory.list().and_then(|all| {
            let ours = all.iter().filter(|info| info.kind() != Some(CheckpointKind::Savepoint));
            ours.map(|info| info.checkpoint).try_for_each(|id| directory.delete(id).map(|_| ()))
        });
        if let Err(error) = deleted {
            tracing::warn!("checkpoints of the cancelled job are left: {}", in_words(&error));
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Some(cleaning) = self.cleaning.take() {
            // It has said what it could not do.
            let _ = cleaning.join();
        }
    }
}

fn shared(local: LocalDirectory, config: &CheckpointConfig) -> Result<Arc<dyn Storage>, JobError> {
    if config.copies > 0 {
        return Err(JobError::Invalid(format!(
            "checkpoint_durability is replicated({}), and all hosts share {}; give each a directory of its own, or set it to local",
            config.copies,
            config.directory.display()
        )));
    }
    Ok(Arc::new(local))
}

/// The directory of checkpoints as a member sees it that does not control the job.
pub(crate) struct MemberDirectory {
    pub(crate) checkpoints: CheckpointDirectory,
    /// It is the one that the first member has.
    pub(crate) is_shared: bool,
    _lock: Option<DirectoryLock>,
}

impl MemberDirectory {
    /// Opens it. `words` stand in the lock of the first member's directory: where they stand here, too,
    /// it is the same.
    pub(crate) fn open(
        config: &CheckpointConfig,
        host: &Host,
        counters: &Arc<JobCounters>,
        words: &str,
    ) -> Result<Self, JobError> {
        let local = open_local(config)?;
        let (storage, lock) = match DirectoryLock::acquire(&lock_path(config)) {
            Ok(lock) => {
                local.delete_unfinished().map_err(|error| failed(&error))?;
                (host.fleet(Arc::new(local), config, counters)?, Some(lock))
            }
            Err(LockError::Held { holder, .. }) if holder.words() == Some(words) => {
                (shared(local, config)?, None)
            }
            Err(error) => return Err(failed(&error)),
        };
        let checkpoints = with_replica(storage, config)?;
        Ok(Self { checkpoints, is_shared: lock.is_none(), _lock: lock })
    }
}

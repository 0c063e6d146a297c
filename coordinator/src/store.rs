//! What must outlive the coordinator's process: its jobs, and how often it has started.

use millstream_protocol::cluster::{JobId, JobRecord};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A job's record, as JSON, by its id.
const JOBS: TableDefinition<&str, &[u8]> = TableDefinition::new("jobs");
/// Numbers by name.
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
const STARTS: &str = "starts";
const FORMAT: &str = "format";
const FORMAT_VERSION: u64 = 1;
/// The database's pages in memory; jobs are small.
const CACHE_BYTES: usize = 1 << 20;

/// Why jobs cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened.
    #[error(
        "the jobs in {} cannot be opened: {source}; does another coordinator use the directory?",
        path.display()
    )]
    Open {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: Box<redb::DatabaseError>,
    },
    /// The file was written by a newer version of the program.
    #[error("the jobs were stored in format {found}, and this program knows {FORMAT_VERSION}")]
    Format {
        /// Theirs.
        found: u64,
    },
    /// The disk fails, or is full.
    #[error("jobs cannot be stored")]
    Database(#[source] Box<redb::Error>),
    /// A record is not understood.
    #[error("the record of job {job} is damaged")]
    Record {
        /// Which.
        job: String,
        /// Why.
        source: serde_json::Error,
    },
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

/// The file that jobs are stored in. It is locked against other processes.
pub(crate) struct Store(Database);

impl Store {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path);
        let database = database.map_err(|source| StoreError::Open {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        Ok(Self(database))
    }

    /// Counts one more start; its number, which no other start has, and all jobs. Numbers begin with the second in which
    /// the file was made: so they differ too from those of a file that it replaces, whose jobs have left
    /// directories on workers.
    pub(crate) fn begin(&self) -> Result<(u64, Vec<JobRecord>), StoreError> {
        let writes = self.0.begin_write()?;
        let starts = {
            let mut numbers = writes.open_table(NUMBERS)?;
            let number = |name| Ok::<_, StoreError>(numbers.get(name)?.map(|found| found.value()));
            let format = number(FORMAT)?.unwrap_or(FORMAT_VERSION);
            if format != FORMAT_VERSION {
                return Err(StoreError::Format { found: format });
            }
            let starts = match number(STARTS)? {
                Some(before) => before + 1,
                None => SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs(),
            };
            numbers.insert(FORMAT, FORMAT_VERSION)?;
            numbers.insert(STARTS, starts)?;
            writes.open_table(JOBS)?;
            starts
        };
        writes.commit()?;
        let mut jobs = Vec::new();
        for entry in self.0.begin_read()?.open_table(JOBS)?.iter()? {
            let (id, record) = entry?;
            let record = serde_json::from_slice(record.value());
            jobs.push(
                record
                    .map_err(|source| StoreError::Record { job: id.value().to_owned(), source })?,
            );
        }
        Ok((starts, jobs))
    }

    /// Durable when it returns, all of them or none. Of several of one job the last counts.
    pub(crate) fn put_all<'a>(
        &self,
        records: impl IntoIterator<Item = &'a JobRecord>,
    ) -> Result<(), StoreError> {
        let writes = self.0.begin_write()?;
        {
            let mut jobs = writes.open_table(JOBS)?;
            for record in records {
                let id = record.spec.id.as_str();
                let broken = |source| StoreError::Record { job: id.to_owned(), source };
                jobs.insert(id, serde_json::to_vec(record).map_err(broken)?.as_slice())?;
            }
        }
        Ok(writes.commit()?)
    }

    pub(crate) fn remove(&self, id: &JobId) -> Result<(), StoreError> {
        let writes = self.0.begin_write()?;
        writes.open_table(JOBS)?.remove(id.as_str())?;
        Ok(writes.commit()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_protocol::cluster::{
        ArtifactId, Cluster, ClusterSettings, Command, Event, JobSpec,
    };
    use std::time::Duration;

    fn record() -> JobRecord {
        let settings = ClusterSettings::default();
        let mut cluster = Cluster::recover(settings, 0, Vec::new(), Duration::ZERO);
        let spec = JobSpec {
            id: JobId::new("job").unwrap(),
            name: "job".into(),
            artifact: ArtifactId::new(&"0".repeat(64)).unwrap(),
            args: vec!["--rate".into()],
            slots: 3,
            parallelism: Some(3),
            from_checkpoint: Some("/checkpoints".into()),
            labels: Default::default(),
            restart: "none".into(),
            submitted_at_ms: 5,
        };
        let mut commands = Vec::new();
        cluster.on_event(Duration::ZERO, Event::Submit(spec), &mut commands).unwrap();
        match commands.remove(0) {
            Command::Persist(record) => record,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn jobs_and_starts_outlive_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("jobs");
        let record = record();
        let first;
        {
            let store = Store::open(&path).unwrap();
            let (start, jobs) = store.begin().unwrap();
            assert_eq!(jobs, []);
            assert!(start > 1_000_000_000, "no other store has begun with it");
            first = start;
            store.put_all([&record]).unwrap();
            assert!(matches!(Store::open(&path), Err(StoreError::Open { .. })), "it is locked");
        }
        let store = Store::open(&path).unwrap();
        assert_eq!(store.begin().unwrap(), (first + 1, vec![record.clone()]));
        store.remove(&record.spec.id).unwrap();
        assert_eq!(store.begin().unwrap(), (first + 2, Vec::new()));
    }
}

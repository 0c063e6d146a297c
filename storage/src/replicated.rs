//! Two copies of everything.

use crate::{Listed, Storage, StorageError};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// [`Storage`] in two places, such as directories on different disks.
///
/// # Invariants
/// - A write has succeeded when both places have it. What one place alone has, after a crash between
///   the two writes, counts as there: it is listed and read.
/// - A deletion has succeeded when neither place has the file.
///
/// A file is read from the replica if it cannot be read from the primary. Bytes that the primary
/// reads without an error are not compared with the replica's; checksums are above this level, which
/// asks for the [`copies`](Storage::copies) one by one.
pub struct Replicated {
    primary: Arc<dyn Storage>,
    replica: Arc<dyn Storage>,
}

impl Replicated {
    /// A storage that keeps all in both places.
    pub fn new(primary: Arc<dyn Storage>, replica: Arc<dyn Storage>) -> Self {
        Self { primary, replica }
    }

    /// What the primary says, or, if it cannot say it, the replica. If neither can, the primary's
    /// error.
    fn read<T>(
        &self,
        read: impl Fn(&dyn Storage) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        match read(&*self.primary) {
            Err(error) if !matches!(error, StorageError::BadPath { .. }) => {
                read(&*self.replica).map_err(|_| error)
            }
            result => result,
        }
    }
}

impl Storage for Replicated {
    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.primary.put(path, bytes)?;
        self.replica.put(path, bytes)
    }

    fn put_where_missing(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.primary.put_where_missing(path, bytes)?;
        self.replica.put_where_missing(path, bytes)
    }

    fn create_if_absent(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        // The primary decides between writers, but a file that it has lost is there all the same.
        match self.replica.len(path) {
            Err(error) if error.is_not_found() => {}
            Ok(_) => {
                let lost = self.primary.len(path).is_err();
                let place = if lost { &self.replica } else { &self.primary };
                return Err(StorageError::AlreadyExists { path: place.title(path) });
            }
            Err(error) => return Err(error),
        }
        self.primary.create_if_absent(path, bytes)?;
        self.replica.create_if_absent(path, bytes).inspect_err(|_| {
            // So that what has failed does not exist, as far as possible: the error that counts is
            // the first one.
            let _ = self.primary.delete(path);
        })
    }

    fn copy_from_local(&self, local: &Path, len: u64, path: &str) -> Result<(), StorageError> {
        self.primary.copy_from_local(local, len, path)?;
        self.replica.copy_from_local(local, len, path)
    }

    fn follow_local(&self, local: &Path, len: u64, path: &str) -> Result<(), StorageError> {
        self.primary.follow_local(local, len, path)?;
        self.replica.follow_local(local, len, path)
    }

    fn get(&self, path: &str) -> Result<Vec<u8>, StorageError> {
        self.read(|storage| storage.get(path))
    }

    fn read_range(&self, path: &str, offset: u64, len: usize) -> Result<Vec<u8>, StorageError> {
        self.read(|storage| storage.read_range(path, offset, len))
    }

    fn len(&self, path: &str) -> Result<u64, StorageError> {
        self.read(|storage| storage.len(path))
    }

    fn list(&self, folder: &str) -> Result<Vec<Listed>, StorageError> {
        // A place that is lost as a whole lists nothing, or cannot. If one has nothing and the other does not
        // answer, nobody knows whether there is nothing: a job that began anew would do everything twice.
        let (primary, replica) = (self.primary.list(folder), self.replica.list(folder));
        let listings = match (primary, replica) {
            (Ok(primary), Ok(replica)) => [replica, primary],
            (Ok(one), Err(_)) | (Err(_), Ok(one)) if !one.is_empty() => [one, Vec::new()],
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        let files: BTreeMap<String, u64> =
            listings.into_iter().flatten().map(|file| (file.path, file.len)).collect();
        Ok(files.into_iter().map(|(path, len)| Listed { path, len }).collect())
    }

    fn delete(&self, path: &str) -> Result<(), StorageError> {
        self.primary.delete(path)?;
        self.replica.delete(path)
    }

    fn delete_folder(&self, folder: &str) -> Result<(), StorageError> {
        self.primary.delete_folder(folder)?;
        self.replica.delete_folder(folder)
    }

    fn delete_unfinished(&self) -> Result<usize, StorageError> {
        Ok(self.primary.delete_unfinished()? + self.replica.delete_unfinished()?)
    }

    fn copies(&self) -> Vec<&dyn Storage> {
        let places = [&*self.primary, &*self.replica];
        let copies = places.map(|place| match place.copies() {
            none if none.is_empty() => vec![place],
            copies => copies,
        });
        copies.concat()
    }

    fn local_path(&self, path: &str) -> Option<PathBuf> {
        let here = |storage: &dyn Storage| storage.local_path(path).filter(|path| path.exists());
        here(&*self.primary).or_else(|| here(&*self.replica))
    }

    fn title(&self, path: &str) -> String {
        self.primary.title(path)
    }
}

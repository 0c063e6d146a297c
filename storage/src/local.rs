//! A directory of this host.

use crate::path::{self, PARTIAL};
use crate::{Listed, Storage, StorageError};
use millstream_types::Timestamp;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// [`Storage`] in a directory.
///
/// A file is written aside, synced, moved to its name, and then its directory is synced: after a
/// crash there is the whole file or none (POSIX promises a rename to be atomic, and nothing without
/// the syncs).
#[derive(Debug)]
pub struct LocalDirectory {
    root: PathBuf,
}

/// Counts the names that this process gave to what it was writing or deleting: no two are the same.
static PARTIAL_NAMES: AtomicU64 = AtomicU64::new(0);

impl LocalDirectory {
    /// The directory, which is made if it does not exist, with those that it lies in.
    ///
    /// # Errors
    /// If it cannot be made, or is no directory.
    pub fn create(root: impl Into<PathBuf>) -> Result<Self, StorageError> {
        let this = Self { root: root.into() };
        this.make_directories(&this.root)?;
        let this = Self::open(this.root)?;
        // What a process made that died before it could make it durable.
        sync_directory(&this.root)?;
        Ok(this)
    }

    /// A directory that exists.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] if it does not, and others if it is no directory or cannot be
    /// looked at.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StorageError> {
        let this = Self { root: root.into() };
        let found =
            fs::metadata(&this.root).map_err(|error| failed(&this.root, "open it", error))?;
        if !found.is_dir() {
            let error = io::Error::from(ErrorKind::NotADirectory);
            return Err(failed(&this.root, "use it", error));
        }
        Ok(this)
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Writes bytes to a file that only ever grows, from `offset` on, and makes them durable. The file is
    /// made if there is none; what it had behind `offset` is written over. If they cannot be made durable,
    /// the file is removed.
    ///
    /// # Errors
    /// [`StorageError::TooShort`] if the file ends before `offset`; or if it cannot be written.
    pub fn append(&self, path: &str, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let target = self.file(path)?;
        let not_written = |error| failed(&target, "write it", error);
        let folder = target.parent().expect("a file lies in the directory or below");
        if !folder.is_dir() {
            self.make_directories(folder)?;
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let file = options.open(&target).map_err(not_written)?;
        let found = file.metadata().map_err(not_written)?.len();
        if found < offset {
            let path = target.display().to_string();
            return Err(StorageError::TooShort { path, expected: offset, found });
        }
        // Before there is anything in it: who goes on with a file that has something need not do it again.
        if offset == 0 {
            sync_parent(&target)?;
        }
        file.write_all_at(bytes, offset).map_err(not_written)?;
        file.sync_data().map_err(|error| {
            // The system has dropped what it could not write, and the next sync would say that all is well:
            // nothing of the file may be taken for durable.
            let _ = fs::remove_file(&target);
            not_written(error)
        })
    }

    fn file(&self, path: &str) -> Result<PathBuf, StorageError> {
        path::check(path)?;
        Ok(self.root.join(path))
    }

    /// Makes a directory and those that it lies in, durably.
    fn make_directories(&self, directory: &Path) -> Result<(), StorageError> {
        match fs::create_dir(directory) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let parent = directory.parent().filter(|parent| *parent != Path::new(""));
                let Some(parent) = parent else {
                    return Err(failed(directory, "make the directory", error));
                };
                self.make_directories(parent)?;
                match fs::create_dir(directory) {
                    Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                        return Err(failed(directory, "make the directory", error));
                    }
                    _ => {}
                }
            }
            Err(error) => return Err(failed(directory, "make the directory", error)),
        }
        sync_parent(directory)
    }

    /// Writes a file beside its place and syncs it, then lets `publish` give it its name. `fill` is
    /// told where the file will lie.
    pub(crate) fn write(
        &self,
        path: &str,
        fill: impl FnOnce(&mut File, &Path) -> Result<(), StorageError>,
        publish: impl FnOnce(&Path, &Path) -> io::Result<()>,
    ) -> Result<(), StorageError> {
        let target = self.file(path)?;
        let folder = target.parent().expect("a file lies in the directory or below");
        if !folder.is_dir() {
            self.make_directories(folder)?;
        }
        let partial = partial_name(folder);
        let not_written = |error| failed(&target, "write it", error);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        let written = options.open(&partial).map_err(not_written).and_then(|mut file| {
            fill(&mut file, &target)?;
            file.sync_all().and_then(|()| publish(&partial, &target)).map_err(not_written)
        });
        if let Err(error) = written {
            // Best effort: the error that counts is the first one.
            let _ = fs::remove_file(&partial);
            return Err(error);
        }
        sync_parent(&target)
    }

    /// Visits all files below: where each lies, whether it is unfinished or was being deleted (a
    /// whole folder then, maybe), and its path here.
    fn walk(
        &self,
        directory: &Path,
        path: &str,
        visit: &mut dyn FnMut(&Path, bool, &str) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(directory, "list it", error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| failed(directory, "list it", error))?;
            let Ok(name) = entry.file_name().into_string() else {
                // Nobody wrote it here.
                continue;
            };
            let inner = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            let kind = match entry.file_type() {
                Ok(kind) => kind,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(&entry.path(), "look at it", error)),
            };
            let is_partial = name.starts_with(PARTIAL);
            if is_partial || kind.is_file() {
                visit(&entry.path(), is_partial, &inner)?;
            } else if kind.is_dir() {
                self.walk(&entry.path(), &inner, visit)?;
            }
        }
        Ok(())
    }
}

impl Storage for LocalDirectory {
    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.write(path, all_of(bytes), |from, to| fs::rename(from, to))
    }

    fn create_if_absent(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.write(path, all_of(bytes), rename_to_absent)
    }

    fn copy_from_local(&self, local: &Path, len: u64, path: &str) -> Result<(), StorageError> {
        let source = File::open(local).map_err(|error| failed(local, "open it", error))?;
        let found = source.metadata().map_err(|error| failed(local, "look at it", error))?;
        if found.len() < len {
            let (path, found) = (local.display().to_string(), found.len());
            return Err(StorageError::TooShort { path, expected: len, found });
        }
        let target = self.file(path)?;
        let there = fs::metadata(&target).ok();
        if there.is_some_and(|there| (there.dev(), there.ino()) == (found.dev(), found.ino())) {
            // A store writes its files where they stay.
            source.sync_all().map_err(|error| failed(&target, "sync it", error))?;
            return sync_parent(&target);
        }
        let fill = |file: &mut File, target: &Path| {
            match io::copy(&mut (&source).take(len), file) {
                Ok(copied) if copied == len => Ok(()),
                Ok(found) => {
                    // Cut off meanwhile.
                    let path = local.display().to_string();
                    Err(StorageError::TooShort { path, expected: len, found })
                }
                Err(error) => Err(failed(target, "write it", error)),
            }
        };
        self.write(path, fill, |from, to| fs::rename(from, to))
    }

    fn get(&self, path: &str) -> Result<Vec<u8>, StorageError> {
        let file = self.file(path)?;
        fs::read(&file).map_err(|error| failed(&file, "read it", error))
    }

    fn read_range(&self, path: &str, offset: u64, len: usize) -> Result<Vec<u8>, StorageError> {
        let target = self.file(path)?;
        let file = File::open(&target).map_err(|error| failed(&target, "open it", error))?;
        let found = file.metadata().map_err(|error| failed(&target, "look at it", error))?.len();
        let expected = offset.saturating_add(len as u64);
        let too_short = || StorageError::TooShort { path: self.title(path), expected, found };
        // Before memory is taken for a length that came out of a damaged file.
        if found < expected {
            return Err(too_short());
        }
        let mut bytes = vec![0; len];
        match file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(too_short()),
            Err(error) => Err(failed(&target, "read it", error)),
        }
    }

    fn len(&self, path: &str) -> Result<u64, StorageError> {
        let file = self.file(path)?;
        Ok(fs::metadata(&file).map_err(|error| failed(&file, "look at it", error))?.len())
    }

    fn list(&self, folder: &str) -> Result<Vec<Listed>, StorageError> {
        path::check_folder(folder)?;
        let mut files = Vec::new();
        self.walk(&self.root.join(folder), folder, &mut |file, is_partial, path| {
            if is_partial {
                return Ok(());
            }
            match fs::metadata(file) {
                Ok(found) => files.push(Listed { path: path.to_owned(), len: found.len() }),
                // Deleted meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(failed(file, "look at it", error)),
            }
            Ok(())
        })?;
        files.sort_unstable();
        Ok(files)
    }

    fn delete(&self, path: &str) -> Result<(), StorageError> {
        let file = self.file(path)?;
        match fs::remove_file(&file) {
            Ok(()) => sync_parent(&file),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(&file, "delete it", error)),
        }
    }

    fn delete_folder(&self, folder: &str) -> Result<(), StorageError> {
        let folder = self.file(folder)?;
        // Out of sight first, so that no half of a folder is seen, and none stays for ever.
        let partial = partial_name(folder.parent().expect("a folder lies in the directory"));
        match fs::rename(&folder, &partial) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(&folder, "delete it", error)),
        }
        sync_parent(&folder)?;
        fs::remove_dir_all(&partial).map_err(|error| failed(&partial, "delete it", error))
    }

    fn delete_unfinished(&self) -> Result<usize, StorageError> {
        let mut count = 0;
        self.walk(&self.root, "", &mut |path, is_partial, _| {
            if is_partial {
                let deleted =
                    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
                deleted.map_err(|error| failed(path, "delete it", error))?;
                count += 1;
            }
            Ok(())
        })?;
        Ok(count)
    }

    fn local_path(&self, path: &str) -> Option<PathBuf> {
        Some(self.root.join(path))
    }

    fn title(&self, path: &str) -> String {
        let file = if path.is_empty() { self.root.clone() } else { self.root.join(path) };
        file.display().to_string()
    }
}

pub(crate) fn failed(path: &Path, action: &'static str, error: io::Error) -> StorageError {
    StorageError::io(path.display().to_string(), action, error)
}

/// A name in `folder` for what is not seen, that no other process has used: where process ids begin
/// anew, as in containers, the time makes the difference.
fn partial_name(folder: &Path) -> PathBuf {
    static FIRST_USE: LazyLock<i64> = LazyLock::new(|| Timestamp::now().as_nanos());
    let number = PARTIAL_NAMES.fetch_add(1, Ordering::Relaxed);
    folder.join(format!("{PARTIAL}{}-{:x}-{number}", std::process::id(), *FIRST_USE))
}

/// Fills a file with these bytes.
fn all_of(bytes: &[u8]) -> impl FnOnce(&mut File, &Path) -> Result<(), StorageError> {
    |file, target| file.write_all(bytes).map_err(|error| failed(target, "write it", error))
}

/// Gives `from` the name `to` unless a file has it.
fn rename_to_absent(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // NFS and others cannot; a link is as atomic, and there are file systems without links.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        other => Ok(other?),
    }
}

/// Makes durable that a name was given or taken away.
fn sync_parent(path: &Path) -> Result<(), StorageError> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    sync_directory(parent)
}

fn sync_directory(path: &Path) -> Result<(), StorageError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|error| failed(path, "sync the directory", error))
}

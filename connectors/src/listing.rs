//! Which files a path stands for.

use crate::error::ReadError;
use std::fs::{self, File, FileType};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a file's bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// By a path's extension, `.gz` or `.zst`.
    pub(crate) fn of_path(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(gz) if gz.eq_ignore_ascii_case("gz") => Self::Gzip,
            Some(zst) if zst.eq_ignore_ascii_case("zst") => Self::Zstd,
            _ => Self::None,
        }
    }

    /// By the first bytes. No text starts with these: neither sequence is UTF-8.
    fn of_magic(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// A file to be read.
#[derive(Clone, Debug)]
pub(crate) struct InputFile {
    pub(crate) path: PathBuf,
    /// The path as messages and records show it.
    pub(crate) name: Arc<str>,
    /// Zero for pipes and devices.
    pub(crate) size_bytes: u64,
    /// False for pipes and devices: read once, from front to end, by waiting.
    pub(crate) is_regular: bool,
    pub(crate) compression: Compression,
}

/// The files that `path` stands for: itself, all files in it if it is a directory (sorted, hidden
/// ones and subdirectories skipped), or all that match if it is a pattern (`*`, `?`, `[…]`, `**`).
/// Each is opened once, so that what cannot be read is known before a job starts.
pub(crate) fn list(path: &Path) -> Result<Vec<InputFile>, ReadError> {
    let shown = path.display().to_string();
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            let files = in_directory(path).map_err(|error| ReadError::Io {
                name: shown.clone(),
                action: "list the directory",
                error,
            })?;
            if files.is_empty() {
                return Err(ReadError::EmptyDirectory { path: shown });
            }
            files.into_iter().map(inspect).collect()
        }
        Ok(_) => Ok(vec![inspect(path.to_owned())?]),
        Err(_) if shown.contains(['*', '?', '[']) => {
            let files = matching(&shown)?;
            if files.is_empty() {
                return Err(ReadError::NoMatch { pattern: shown });
            }
            files.into_iter().map(inspect).collect()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = std::env::current_dir().unwrap_or_default().display().to_string();
            Err(ReadError::NotFound { path: shown, directory })
        }
        Err(error) => Err(ReadError::Io { name: shown, action: "open it", error }),
    }
}

fn in_directory(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        // Through `metadata`, so that links to files count as files.
        if !hidden && fs::metadata(entry.path())?.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn matching(pattern: &str) -> Result<Vec<PathBuf>, ReadError> {
    let options = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    let paths = glob::glob_with(pattern, options).map_err(|error| ReadError::BadPattern {
        pattern: pattern.to_owned(),
        reason: error.to_string(),
    })?;
    let mut files = Vec::new();
    for path in paths {
        let path = path.map_err(|error| ReadError::Io {
            name: error.path().display().to_string(),
            action: "list the directory",
            error: error.into(),
        })?;
        if !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// What there is to know of one file; opens it once.
pub(crate) fn inspect(path: PathBuf) -> Result<InputFile, ReadError> {
    let name: Arc<str> = path.display().to_string().into();
    let failed = |action, error| ReadError::Io { name: name.to_string(), action, error };
    let metadata = fs::metadata(&path).map_err(|error| failed("open it", error))?;
    let mut compression = Compression::of_path(&path);
    let is_regular = FileType::is_file(&metadata.file_type());
    if is_regular {
        // Opening a pipe would wait for its writer, and reading would take its bytes.
        let file = File::open(&path).map_err(|error| failed("open it", error))?;
        let mut head = Vec::with_capacity(4);
        file.take(4).read_to_end(&mut head).map_err(|error| failed("read it", error))?;
        if compression == Compression::None {
            compression = Compression::of_magic(&head);
        }
    }
    let size_bytes = if is_regular { metadata.len() } else { 0 };
    Ok(InputFile { path, name, size_bytes, is_regular, compression })
}

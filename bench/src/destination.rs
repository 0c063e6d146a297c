//! Where results are written: a file that is whole or not there, or standard output.

use crate::BenchError;
use flate2::write::GzEncoder;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

const BUFFER_BYTES: usize = 1 << 20;

/// Where to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output, written `-`.
    Stdout,
    /// A file; compressed if its name ends in `.gz` or `.zst`.
    File(PathBuf),
}

impl From<&str> for Destination {
    fn from(text: &str) -> Self {
        match text {
            "-" => Self::Stdout,
            path => Self::File(path.into()),
        }
    }
}

impl Destination {
    /// False for standard output and for what exists and is no regular file or folder.
    pub(crate) fn is_file(&self) -> bool {
        match self {
            Self::Stdout => false,
            Self::File(path) => {
                fs::metadata(path).map_or(true, |there| there.is_file() || there.is_dir())
            }
        }
    }

    /// Begins to write.
    ///
    /// A file is written beside its final place and comes there with [`Output::commit`]; a device
    /// or a pipe is written as it is.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn create(&self) -> Result<Output, BenchError> {
        let Self::File(path) = self else {
            let name = "standard output".to_owned();
            return Ok(Output { name, stream: Stream::Stdout(buffered(io::stdout())), file: None });
        };
        let name = path.display().to_string();
        let failed = |source| BenchError::write(&name, "create it", source);
        let there = fs::metadata(path).ok();
        if there.as_ref().is_some_and(fs::Metadata::is_dir) {
            let reason = format!("{name}: is a directory; give the name of a file in it");
            return Err(BenchError::Usage(reason));
        }
        let is_special = there.is_some_and(|there| !there.is_file());
        let (target, file) = if is_special {
            (path.clone(), None)
        } else {
            let file = Temporary::beside(path);
            (file.temporary.clone(), Some(file))
        };
        let created = File::create(&target).map_err(failed)?;
        Ok(Output { stream: Stream::of_path(path, created).map_err(failed)?, name, file })
    }
}

/// Something that is being written. Dropped without [`commit`](Self::commit), a file is removed.
pub struct Output {
    name: String,
    stream: Stream,
    file: Option<Temporary>,
}

impl Output {
    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// If they cannot be written, in words; [`BenchError::OutputClosed`] if nobody reads them.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BenchError> {
        let written = match &mut self.stream {
            Stream::Stdout(out) => out.write_all(bytes),
            Stream::Plain(out) => out.write_all(bytes),
            Stream::Gzip(out) => out.write_all(bytes),
            Stream::Zstd(out) => out.write_all(bytes),
        };
        written.map_err(|source| BenchError::write(&self.name, "write it", source))
    }

    /// Completes what was written and puts the file under its name.
    ///
    /// # Errors
    /// If that cannot be done; then there is no file under its name, or the one that was there.
    pub fn commit(self) -> Result<(), BenchError> {
        let Self { name, stream, file } = self;
        let failed = |action| {
            let name = name.clone();
            move |source| BenchError::write(&name, action, source)
        };
        let written = stream.finish().map_err(failed("write it"))?;
        if let (Some(written), Some(file)) = (written, file) {
            written.sync_all().map_err(failed("write it"))?;
            fs::rename(&file.temporary, &file.path).map_err(failed("give it its name"))?;
        }
        Ok(())
    }
}

/// A file that does not yet have its name. Removed when dropped, if it is still there.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    temporary: PathBuf,
}

impl Temporary {
    fn beside(path: &Path) -> Self {
        // Through a link to what it stands for: a rename would replace the link itself.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // With the process in its name, so that two runs at once do not write one file.
        let temporary = path.with_file_name(format!(".{name}.partial-{}", std::process::id()));
        Self { path, temporary }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It is gone if it was renamed; and nothing can be done about any other failure.
        let _ = fs::remove_file(&self.temporary);
    }
}

enum Stream {
    Stdout(BufWriter<io::Stdout>),
    Plain(BufWriter<File>),
    Gzip(GzEncoder<BufWriter<File>>),
    Zstd(zstd::stream::write::Encoder<'static, BufWriter<File>>),
}

impl Stream {
    fn of_path(path: &Path, file: File) -> io::Result<Self> {
        let file = buffered(file);
        Ok(match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz") => Self::Gzip(GzEncoder::new(file, flate2::Compression::default())),
            Some("zst") => Self::Zstd(zstd::stream::write::Encoder::new(
                file,
                zstd::DEFAULT_COMPRESSION_LEVEL,
            )?),
            _ => Self::Plain(file),
        })
    }

    /// Writes out all that is buffered.
    fn finish(self) -> io::Result<Option<File>> {
        let file = match self {
            Self::Stdout(mut out) => return out.flush().map(|()| None),
            Self::Plain(out) => out,
            Self::Gzip(out) => out.finish()?,
            Self::Zstd(out) => out.finish()?,
        };
        file.into_inner().map(Some).map_err(|error| error.into_error())
    }
}

fn buffered<W: Write>(out: W) -> BufWriter<W> {
    BufWriter::with_capacity(BUFFER_BYTES, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.txt");
        let destination = Destination::File(path.clone());
        let files = || fs::read_dir(folder.path()).unwrap().count();

        let mut given_up = destination.create().unwrap();
        given_up.write(b"half").unwrap();
        assert!(!path.exists());
        drop(given_up);
        assert_eq!(files(), 0, "nothing is left behind");

        let mut output = destination.create().unwrap();
        output.write(b"whole").unwrap();
        output.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(files(), 1);
    }

    #[test]
    fn names_choose_the_compression() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["rows.gz", "rows.zst"] {
            let path = folder.path().join(name);
            let mut output = Destination::File(path.clone()).create().unwrap();
            output.write(b"text").unwrap();
            output.commit().unwrap();
            let file = File::open(&path).unwrap();
            let mut text = String::new();
            match name {
                "rows.gz" => flate2::read::GzDecoder::new(file).read_to_string(&mut text),
                _ => zstd::stream::read::Decoder::new(file).unwrap().read_to_string(&mut text),
            }
            .unwrap();
            assert_eq!(text, "text", "{name}");
        }
    }

    #[test]
    fn a_full_device_and_a_missing_directory_are_named() {
        let mut full = Destination::from("/dev/full").create().unwrap();
        full.write(b"x").unwrap();
        let error = full.commit().unwrap_err().to_string();
        assert!(error.contains("/dev/full") && error.contains("free some space"), "{error}");

        let error = Destination::from("no/such/folder/x").create().err().unwrap().to_string();
        assert!(error.contains("does its directory exist?"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let error = Destination::File(folder.path().to_owned()).create().err().unwrap();
        assert_eq!(error.exit(), millstream_ops::Exit::Usage, "{error}");
    }
}

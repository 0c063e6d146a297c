//! Where events come from: the made-up service, or files.

use crate::DemoError;
use crate::event::Event;
use crate::service::{Pace, ServiceReader, ServiceSource};
use clap::ValueEnum;
use millstream::connector::{
    BoxError, Source, SourceContext, SourceOutput, SourceReader, SourceStatus,
};
use millstream_connectors::{Csv, FileSource, JsonLines, OnMalformed, RecordReader};
use std::path::Path;

/// How events are written in files; see [`crate::event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FileFormat {
    /// A JSON object per line
    Json,
    /// Comma-separated values under a header
    Csv,
}

impl FileFormat {
    /// By the file's name, without the ending of a compression.
    pub fn of_name(path: &Path) -> Self {
        let compressed = path.extension().is_some_and(|ending| ending == "gz" || ending == "zst");
        let plain = if compressed { path.with_extension("") } else { path.to_owned() };
        match plain.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv")) {
            true => Self::Csv,
            false => Self::Json,
        }
    }

    /// By the name of a file or a pattern, or by those of the files in a folder.
    ///
    /// # Errors
    /// If a folder has files of both formats.
    pub(crate) fn of_input(path: &Path) -> Result<Self, DemoError> {
        // What cannot be listed is for the source to tell, which says it in more words.
        let Ok(entries) = path.read_dir() else { return Ok(Self::of_name(path)) };
        let files: Vec<_> = entries
            .filter_map(|entry| entry.ok())
            .filter(|entry| entry.path().is_file())
            .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
            .collect();
        let csv = files.iter().filter(|file| Self::of_name(&file.path()) == Self::Csv).count();
        match csv {
            0 => Ok(Self::Json),
            csv if csv == files.len() => Ok(Self::Csv),
            _ => Err(DemoError::Usage(format!(
                "{0}: some of its files are CSV, others are not; choose some by a pattern such as \
                 '{0}/*.csv', or say what they are with --format",
                path.display()
            ))),
        }
    }
}

/// A source of events: one type, so that the job is compiled once.
#[derive(Clone, Debug)]
pub enum EventSource {
    /// The made-up service.
    Service(ServiceSource),
    /// Files of JSON lines.
    Json(FileSource<JsonLines<Event>>),
    /// Files of comma-separated values.
    Csv(FileSource<Csv<Event>>),
}

impl EventSource {
    /// Files of this format.
    pub fn files(path: &Path, format: FileFormat) -> Self {
        match format {
            FileFormat::Json => Self::Json(FileSource::new(path, JsonLines::new())),
            // No title of a song has a line break, so that a large file can be shared.
            FileFormat::Csv => Self::Csv(FileSource::new(path, Csv::new().one_record_per_line())),
        }
    }

    /// Skips and counts what is no event; without, the first such record fails the job.
    pub fn skipping_malformed(self) -> Self {
        match self {
            Self::Service(_) => self,
            Self::Json(source) => Self::Json(source.on_malformed(OnMalformed::Skip)),
            Self::Csv(source) => Self::Csv(source.on_malformed(OnMalformed::Skip)),
        }
    }

    /// How fast the events' time runs, if they are made up.
    pub fn pace(&self) -> Option<Pace> {
        match self {
            Self::Service(source) => Some(source.pace()),
            Self::Json(_) | Self::Csv(_) => None,
        }
    }
}

impl Source for EventSource {
    type Out = Event;
    type Reader = EventReader;

    fn validate(&self) -> Result<(), BoxError> {
        match self {
            Self::Service(source) => source.validate(),
            Self::Json(source) => source.validate(),
            Self::Csv(source) => source.validate(),
        }
    }

    fn parallelism(&self) -> Option<u32> {
        match self {
            Self::Service(source) => source.parallelism(),
            Self::Json(source) => source.parallelism(),
            Self::Csv(source) => source.parallelism(),
        }
    }

    fn open(self, context: &SourceContext) -> Result<EventReader, BoxError> {
        Ok(match self {
            Self::Service(source) => EventReader::Service(Box::new(source.open(context)?)),
            Self::Json(source) => EventReader::Json(Box::new(source.open(context)?)),
            Self::Csv(source) => EventReader::Csv(Box::new(source.open(context)?)),
        })
    }
}

/// Reads an [`EventSource`].
pub enum EventReader {
    /// The made-up service.
    Service(Box<ServiceReader>),
    /// Files of JSON lines.
    Json(Box<RecordReader<JsonLines<Event>, millstream_connectors::Records>>),
    /// Files of comma-separated values.
    Csv(Box<RecordReader<Csv<Event>, millstream_connectors::Records>>),
}

impl SourceReader for EventReader {
    type Out = Event;

    fn poll(&mut self, out: &mut impl SourceOutput<Event>) -> Result<SourceStatus, BoxError> {
        match self {
            Self::Service(reader) => reader.poll(out),
            Self::Json(reader) => reader.poll(out),
            Self::Csv(reader) => reader.poll(out),
        }
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, BoxError> {
        match self {
            Self::Service(reader) => reader.snapshot(),
            Self::Json(reader) => reader.snapshot(),
            Self::Csv(reader) => reader.snapshot(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_format() {
        for (name, format) in [
            ("events.csv", FileFormat::Csv),
            ("a/events.CSV.zst", FileFormat::Csv),
            ("logs/*.csv.gz", FileFormat::Csv),
            ("events.jsonl.gz", FileFormat::Json),
            ("events", FileFormat::Json),
        ] {
            assert_eq!(FileFormat::of_name(Path::new(name)), format, "{name}");
        }
    }

    #[test]
    fn a_folder_has_the_format_of_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let add = |name: &str| std::fs::write(folder.path().join(name), "").unwrap();
        add("a.csv");
        add(".hidden");
        assert_eq!(FileFormat::of_input(folder.path()).unwrap(), FileFormat::Csv);
        add("b.jsonl");
        let error = FileFormat::of_input(folder.path()).unwrap_err().to_string();
        assert!(error.contains("*.csv") && error.contains("--format"), "{error}");
    }
}

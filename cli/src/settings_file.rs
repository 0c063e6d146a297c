//! Settings of a coordinator or worker from a file. Flags and variables of the environment win over it.

use crate::Failure;
use millstream_ops::Exit;
use serde::de::DeserializeOwned;
use std::path::Path;

/// Reads a TOML file; nothing is set if there is none.
pub(crate) fn read<T: DeserializeOwned + Default>(path: Option<&Path>) -> Result<T, Failure> {
    let Some(path) = path else { return Ok(T::default()) };
    let failed = |why: String| Failure {
        exit: Exit::Usage,
        message: format!("--config {}: {why}", path.display()),
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    toml::from_str(&text).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        slots: Option<u32>,
    }

    #[test]
    fn a_file_is_read_and_what_is_misspelled_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "slots = 3\n").unwrap();
        let read_it = || read::<Settings>(Some(file.path()));
        assert_eq!(read_it().ok().unwrap().slots, Some(3));
        std::fs::write(file.path(), "slott = 3\n").unwrap();
        let failure = read_it().err().unwrap();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("slott"), "{}", failure.message);
        assert!(read::<Settings>(None).ok().unwrap().slots.is_none());
    }
}

//! Which paths there may be.

use crate::StorageError;

/// How the names of files begin that are being written.
pub(crate) const PARTIAL: &str = ".partial-";

/// Refuses paths that are not plain and relative.
pub(crate) fn check(path: &str) -> Result<(), StorageError> {
    let refused = |reason| Err(StorageError::BadPath { path: path.to_owned(), reason });
    for part in path.split('/') {
        match part {
            "" => return refused("a part of it is empty"),
            "." | ".." => return refused("it leads through . or .."),
            _ if part.starts_with(PARTIAL) => {
                return refused("it looks like a file that is being written");
            }
            _ if part.contains('\0') => return refused("it holds a zero byte"),
            _ => {}
        }
    }
    Ok(())
}

/// As [`check`], for a folder, which may be `""`: all there is.
pub(crate) fn check_folder(folder: &str) -> Result<(), StorageError> {
    if folder.is_empty() { Ok(()) } else { check(folder) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        for path in ["", "/a", "a/", "a//b", "../a", "a/..", "a/./b", "a/.partial-1", "a\0"] {
            let error = check(path).expect_err(path);
            assert!(matches!(error, StorageError::BadPath { .. }), "{error}");
        }
        for path in ["a", "a/b", ".hidden", "a..b/...", "größe"] {
            check(path).expect(path);
        }
        assert!(check_folder("").is_ok() && check_folder("/").is_err());
    }
}

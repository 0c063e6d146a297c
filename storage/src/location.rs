//! Where a storage is, in one text.

use crate::{LocalDirectory, Storage, StorageError};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// A place for checkpoints, as it is named in settings and on command lines.
///
/// - `s3://bucket/prefix?endpoint=http://host:9000&region=us-east-1`: S3, or what is compatible with
///   it at the endpoint. Credentials come from the environment (`AWS_ACCESS_KEY_ID`,
///   `AWS_SECRET_ACCESS_KEY`, …) or from the host that this runs on. Needs the cargo feature
///   `object-store`.
/// - `file:///directory`, or a path: a directory of this host.
///
/// ```
/// use millstream_storage::Location;
/// let location: Location = "file:///var/lib/job%201".parse()?;
/// assert_eq!(location.directory(), Some("/var/lib/job 1".as_ref()));
/// assert_eq!("s3://bucket/job".parse::<Location>()?.directory(), None);
/// assert!("ftp://host/job".parse::<Location>().is_err());
/// # Ok::<(), millstream_storage::StorageError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    text: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Directory(PathBuf),
    S3(S3Location),
}

impl Location {
    /// The directory of this host, if it is one.
    pub fn directory(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Directory(path) => Some(path),
            Kind::S3(_) => None,
        }
    }

    /// The storage there. A directory is made if it does not exist; an object store is not asked
    /// yet whether it does.
    ///
    /// # Errors
    /// If the directory cannot be made, or the program was built without object stores.
    pub fn storage(&self) -> Result<Arc<dyn Storage>, StorageError> {
        match &self.kind {
            Kind::Directory(path) => Ok(Arc::new(LocalDirectory::create(path)?)),
            #[cfg(feature = "object-store")]
            Kind::S3(place) => Ok(Arc::new(crate::ObjectStorage::s3(&self.text, place)?)),
            #[cfg(not(feature = "object-store"))]
            Kind::S3(_) => Err(StorageError::BadLocation {
                location: self.text.clone(),
                reason: "this program was built without object stores: build it with the feature \
                         object-store of millstream-storage"
                    .to_owned(),
            }),
        }
    }
}

impl FromStr for Location {
    type Err = StorageError;

    fn from_str(text: &str) -> Result<Self, StorageError> {
        let kind = match text.split_once("://") {
            None if text.is_empty() => Err("it is empty".to_owned()),
            None => Ok(Kind::Directory(text.into())),
            Some(("file", path)) if path.starts_with('/') => match decoded(path) {
                Some(path) => Ok(Kind::Directory(path.into())),
                None => Err("a % stands before no code".to_owned()),
            },
            Some(("file", _)) => Err("after file:// comes a path that begins with /".to_owned()),
            Some(("s3", place)) => S3Location::parse(place).map(Kind::S3),
            Some(_) => Err("it should begin with s3:// or file://, or be a path".to_owned()),
        };
        match kind {
            Ok(kind) => Ok(Self { text: text.to_owned(), kind }),
            Err(reason) => Err(StorageError::BadLocation { location: text.to_owned(), reason }),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What stands in an address of S3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct S3Location {
    pub(crate) bucket: String,
    /// Without `/` at its ends; may be empty.
    pub(crate) prefix: String,
    pub(crate) endpoint: Option<String>,
    pub(crate) region: Option<String>,
}

impl S3Location {
    /// Reads what follows after `s3://`.
    pub(crate) fn parse(place: &str) -> Result<Self, String> {
        let (path, query) = place.split_once('?').unwrap_or((place, ""));
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        let prefix = prefix.trim_matches('/');
        if bucket.is_empty() {
            return Err("after s3:// comes the name of a bucket".to_owned());
        }
        if crate::path::check_folder(prefix).is_err() {
            return Err("its prefix has a part that is empty, . or ..".to_owned());
        }
        let mut location = Self {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: None,
            region: None,
        };
        for setting in query.split('&').filter(|setting| !setting.is_empty()) {
            let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
            let value =
                decoded(value).ok_or_else(|| format!("{name}: a % stands before no code"))?;
            match name {
                "endpoint" => location.endpoint = Some(value),
                "region" => location.region = Some(value),
                _ => return Err(format!("{name} is no setting; there are endpoint and region")),
            }
        }
        Ok(location)
    }
}

/// The text that is meant by one with codes such as `%20` in it.
fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let code = part.get(..2).filter(|code| code.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_s3_are_taken_apart() {
        let parsed = |place| S3Location::parse(place);
        let plain = S3Location {
            bucket: "b".to_owned(),
            prefix: String::new(),
            endpoint: None,
            region: None,
        };
        assert_eq!(parsed("b"), Ok(plain.clone()));
        assert_eq!(parsed("b/?"), Ok(plain.clone()));
        assert_eq!(
            parsed("b/jobs/one/?endpoint=http://[::1]:9000&region=eu%2Dwest-1"),
            Ok(S3Location {
                prefix: "jobs/one".to_owned(),
                endpoint: Some("http://[::1]:9000".to_owned()),
                region: Some("eu-west-1".to_owned()),
                ..plain
            })
        );
        for (place, words) in [
            ("", "name of a bucket"),
            ("/x", "name of a bucket"),
            ("b/x//y", "prefix"),
            ("b/../y", "prefix"),
            ("b?key=1", "key is no setting"),
            ("b?endpoint=%zz", "endpoint: a %"),
        ] {
            let reason = parsed(place).expect_err(place);
            assert!(reason.contains(words), "{place}: {reason}");
        }
    }

    #[test]
    fn directories_have_paths_or_addresses() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display();
        let storage = |location: String| location.parse::<Location>().unwrap().storage().unwrap();
        storage(format!("file://{at}/a%20b")).put("x", b"1").unwrap();
        assert_eq!(storage(format!("{at}/a b")).get("x").unwrap(), b"1");
        for (location, words) in [
            ("", "it is empty"),
            ("file://relative", "begins with /"),
            ("file:///a%2", "a % stands"),
            ("ftp://x", "s3:// or file://"),
            ("s3://", "name of a bucket"),
        ] {
            let error = location.parse::<Location>().unwrap_err().to_string();
            assert!(error.contains(words), "{location}: {error}");
        }
    }

    #[test]
    #[cfg(not(feature = "object-store"))]
    fn without_object_stores_it_is_said_how_to_get_them() {
        let location: Location = "s3://bucket".parse().unwrap();
        let error = location.storage().err().unwrap().to_string();
        assert!(error.contains("feature object-store"), "{error}");
    }
}

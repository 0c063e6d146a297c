//! Names of storages, as they stand in settings.

use crate::{LocalDirectory, Storage, StorageError};
use std::sync::Arc;

/// The storage that a text names.
///
/// - `s3://bucket/prefix?endpoint=http://host:9000&region=us-east-1`: S3, or what is compatible with
///   it at the endpoint. Credentials come from the environment (`AWS_ACCESS_KEY_ID`,
///   `AWS_SECRET_ACCESS_KEY`, …) or from the host that this runs on. Needs the cargo feature
///   `object-store`.
/// - `file:///directory`, or a path: a directory of this host, which is made if it does not exist.
///
/// # Errors
/// If the text names nothing of this kind, or the directory cannot be made. An object store is not
/// asked yet whether it exists.
pub fn open_location(location: &str) -> Result<Arc<dyn Storage>, StorageError> {
    match location.split_once("://") {
        None if location.is_empty() => Err(bad(location, "it is empty")),
        None => Ok(Arc::new(LocalDirectory::create(location)?)),
        Some(("file", path)) if path.starts_with('/') => {
            let path = decoded(path).ok_or_else(|| bad(location, "a % stands before no code"))?;
            Ok(Arc::new(LocalDirectory::create(path)?))
        }
        Some(("file", _)) => Err(bad(location, "after file:// comes a path that begins with /")),
        Some(("s3", place)) => s3(location, place),
        Some(_) => Err(bad(location, "it should begin with s3:// or file://, or be a path")),
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

#[cfg(feature = "object-store")]
fn s3(location: &str, place: &str) -> Result<Arc<dyn Storage>, StorageError> {
    let place = S3Location::parse(place).map_err(|reason| bad(location, &reason))?;
    Ok(Arc::new(crate::ObjectStorage::s3(location, place)?))
}

#[cfg(not(feature = "object-store"))]
fn s3(location: &str, place: &str) -> Result<Arc<dyn Storage>, StorageError> {
    S3Location::parse(place).map_err(|reason| bad(location, &reason))?;
    Err(bad(
        location,
        "this program was built without object stores: build it with the feature object-store of \
         millstream-storage",
    ))
}

fn bad(location: &str, reason: &str) -> StorageError {
    StorageError::BadLocation { location: location.to_owned(), reason: reason.to_owned() }
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
        open_location(&format!("file://{at}/a%20b")).unwrap().put("x", b"1").unwrap();
        let storage = open_location(&format!("{at}/a b")).unwrap();
        assert_eq!(storage.get("x").unwrap(), b"1");
        for (location, words) in [
            ("", "it is empty"),
            ("file://relative", "begins with /"),
            ("file:///a%2", "a % stands"),
            ("ftp://x", "s3:// or file://"),
            ("s3://", "name of a bucket"),
        ] {
            let error = open_location(location).err().expect(location).to_string();
            assert!(error.contains(words), "{location}: {error}");
        }
    }

    #[test]
    #[cfg(not(feature = "object-store"))]
    fn without_object_stores_it_is_said_how_to_get_them() {
        let error = open_location("s3://bucket").err().unwrap().to_string();
        assert!(error.contains("feature object-store"), "{error}");
    }
}

//! Object stores: S3 and what is compatible with it.

use crate::location::S3Location;
use crate::path;
use crate::{Listed, Storage, StorageError};
use futures_util::TryStreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path as ObjectPath;
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig,
    WriteMultipart,
};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;

/// The size of a part of a long file, and the most that is written in one request.
const PART_BYTES: usize = 8 << 20;
/// How many parts are on their way at once.
const PARTS_IN_FLIGHT_MAX: usize = 4;
/// How often a request is tried again, and for how long at most: a checkpoint fails then.
const RETRIES_MAX: usize = 5;
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

/// [`Storage`] in a bucket, below a prefix.
///
/// A file is created by a conditional put (`If-None-Match: *`), which S3 has had since 2024, as have
/// MinIO and R2. Requests run on a runtime of this value's own, in the thread that calls.
///
/// # Panics
/// All methods, and dropping it, panic in a thread that is driving a tokio runtime: there they would
/// block it.
#[derive(Debug)]
pub struct ObjectStorage {
    store: AmazonS3,
    prefix: String,
    title: String,
    runtime: Runtime,
}

impl ObjectStorage {
    /// The storage at an address, which was taken apart. Nothing is sent yet.
    pub(crate) fn s3(location: &str, place: &S3Location) -> Result<Self, StorageError> {
        let bad =
            |reason: String| StorageError::BadLocation { location: location.to_owned(), reason };
        let retry = RetryConfig {
            max_retries: RETRIES_MAX,
            retry_timeout: RETRY_TIMEOUT,
            ..RetryConfig::default()
        };
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&place.bucket)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(retry);
        if let Some(endpoint) = &place.endpoint {
            // Whoever writes http:// wants it: within one network, or to this host.
            let allow_http = endpoint.starts_with("http://");
            builder = builder.with_endpoint(endpoint).with_allow_http(allow_http);
        }
        if let Some(region) = &place.region {
            builder = builder.with_region(region);
        }
        let store = builder.build().map_err(|error| bad(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| bad(format!("no runtime for requests: {error}")))?;
        let title = format!("s3://{}", place.bucket);
        Ok(Self { store, prefix: place.prefix.clone(), title, runtime })
    }

    fn object(&self, path: &str) -> Result<ObjectPath, StorageError> {
        path::check(path)?;
        let parsed = match self.prefix.as_str() {
            "" => ObjectPath::parse(path),
            prefix => ObjectPath::parse(format!("{prefix}/{path}")),
        };
        parsed.map_err(|_| StorageError::BadPath {
            path: path.to_owned(),
            reason: "an object store has no such names",
        })
    }

    fn put_with(&self, path: &str, bytes: &[u8], mode: PutMode) -> Result<(), StorageError> {
        let object = self.object(path)?;
        let put = self.store.put_opts(&object, PutPayload::from(bytes.to_vec()), mode.into());
        self.runtime.block_on(put).map_err(|error| self.failed(path, "write it", error))?;
        Ok(())
    }

    /// Sends `len` bytes of a file in parts, so that little of it is in memory.
    async fn upload(
        &self,
        path: &str,
        object: &ObjectPath,
        local: &Path,
        source: &mut File,
        mut len: u64,
    ) -> Result<(), StorageError> {
        let failed = |error| self.failed(path, "write it", error);
        let parts = self.store.put_multipart(object).await.map_err(failed)?;
        let mut upload = WriteMultipart::new_with_chunk_size(parts, PART_BYTES);
        let mut part = vec![0; PART_BYTES];
        while len > 0 {
            let now = usize::try_from(len).unwrap_or(PART_BYTES).min(PART_BYTES);
            let sent = match source.read_exact(&mut part[..now]) {
                Ok(()) => upload.wait_for_capacity(PARTS_IN_FLIGHT_MAX).await.map_err(failed),
                Err(error) => Err(StorageError::io(local.display().to_string(), "read it", error)),
            };
            if let Err(error) = sent {
                // Best effort: parts that are left cost space until the bucket's rules delete them.
                let _ = upload.abort().await;
                return Err(error);
            }
            upload.write(&part[..now]);
            len -= now as u64;
        }
        upload.finish().await.map_err(failed)?;
        Ok(())
    }

    fn failed(&self, path: &str, action: &'static str, error: object_store::Error) -> StorageError {
        use object_store::Error::*;
        let path = self.title(path);
        let advice = match &error {
            NotFound { .. } => return StorageError::NotFound { path },
            AlreadyExists { .. } => return StorageError::AlreadyExists { path },
            PermissionDenied { .. } => "; give the access key this right, or use another key",
            Unauthenticated { .. } => {
                "; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to a key that is valid there"
            }
            NotImplemented { .. } | NotSupported { .. } => {
                "; the store does not know this operation: choose another store"
            }
            _ => "; is the endpoint right, and does it answer?",
        };
        StorageError::Remote { path, action, advice, source: Box::new(error) }
    }
}

impl Storage for ObjectStorage {
    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.put_with(path, bytes, PutMode::Overwrite)
    }

    fn create_if_absent(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.put_with(path, bytes, PutMode::Create)
    }

    fn copy_from_local(&self, local: &Path, len: u64, path: &str) -> Result<(), StorageError> {
        let object = self.object(path)?;
        let io = |action| move |error| StorageError::io(local.display().to_string(), action, error);
        let mut source = File::open(local).map_err(io("open it"))?;
        let found = source.metadata().map_err(io("look at it"))?.len();
        if found < len {
            let path = local.display().to_string();
            return Err(StorageError::TooShort { path, expected: len, found });
        }
        match usize::try_from(len) {
            Ok(len) if len <= PART_BYTES => {
                let mut bytes = vec![0; len];
                source.read_exact(&mut bytes).map_err(io("read it"))?;
                self.put(path, &bytes)
            }
            _ => self.runtime.block_on(self.upload(path, &object, local, &mut source, len)),
        }
    }

    fn get(&self, path: &str) -> Result<Vec<u8>, StorageError> {
        let object = self.object(path)?;
        let bytes = self.runtime.block_on(async { self.store.get(&object).await?.bytes().await });
        Ok(bytes.map_err(|error| self.failed(path, "read it", error))?.into())
    }

    fn read_range(&self, path: &str, offset: u64, len: usize) -> Result<Vec<u8>, StorageError> {
        let object = self.object(path)?;
        let expected = offset.saturating_add(len as u64);
        let too_short = |found| StorageError::TooShort { path: self.title(path), expected, found };
        if len > 0 {
            let range = GetRange::Bounded(offset..expected);
            let options = GetOptions { range: Some(range), ..GetOptions::default() };
            let read = self.runtime.block_on(async {
                let found = self.store.get_opts(&object, options).await?;
                let size = found.meta.size;
                Ok((size, found.bytes().await?))
            });
            match read {
                Ok((_, bytes)) if bytes.len() == len => return Ok(bytes.into()),
                Ok((size, _)) => return Err(too_short(size)),
                Err(error @ object_store::Error::NotFound { .. }) => {
                    return Err(self.failed(path, "read it", error));
                }
                // A range beyond the end is an error of no kind of its own.
                Err(error) => match self.len(path) {
                    Ok(size) if size < expected => return Err(too_short(size)),
                    _ => return Err(self.failed(path, "read it", error)),
                },
            }
        }
        match self.len(path)? {
            size if size < expected => Err(too_short(size)),
            _ => Ok(Vec::new()),
        }
    }

    fn len(&self, path: &str) -> Result<u64, StorageError> {
        let object = self.object(path)?;
        let found = self.runtime.block_on(self.store.head(&object));
        Ok(found.map_err(|error| self.failed(path, "look at it", error))?.size)
    }

    fn list(&self, folder: &str) -> Result<Vec<Listed>, StorageError> {
        path::check_folder(folder)?;
        let prefix = match (folder, self.prefix.as_str()) {
            ("", "") => None,
            ("", prefix) => ObjectPath::parse(prefix).ok(),
            _ => Some(self.object(folder)?),
        };
        let listing = self.store.list(prefix.as_ref()).try_collect::<Vec<_>>();
        let listing = self.runtime.block_on(listing);
        let listing = listing.map_err(|error| self.failed(folder, "list it", error))?;
        let inside = |location: &str| {
            let inside = location.strip_prefix(self.prefix.as_str())?;
            Some(inside.strip_prefix('/').unwrap_or(inside).to_owned())
        };
        let mut files: Vec<Listed> = listing
            .into_iter()
            .filter_map(|object| {
                Some(Listed { path: inside(object.location.as_ref())?, len: object.size })
            })
            .collect();
        files.sort_unstable();
        Ok(files)
    }

    fn delete(&self, path: &str) -> Result<(), StorageError> {
        let object = self.object(path)?;
        match self.runtime.block_on(self.store.delete(&object)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(path, "delete it", error)),
        }
    }

    fn delete_folder(&self, folder: &str) -> Result<(), StorageError> {
        path::check(folder)?;
        self.list(folder)?.into_iter().try_for_each(|file| self.delete(&file.path))
    }

    fn title(&self, path: &str) -> String {
        let parts = [self.title.as_str(), &self.prefix, path];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
    }
}

//! The executables of jobs, each under the SHA-256 of its bytes.
//!
//! # Invariants
//! - What lies under a hash has it: a file is written aside, and renamed when it is whole.

use millstream_control::client::{ARTIFACT_BYTES_MAX, named};
use millstream_protocol::cluster::ArtifactId;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio_stream::{Stream, StreamExt};

/// The next piece of an upload is to come within this time.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);
/// What was written within this time stays, whether a job needs it or not.
const FRESH: Duration = Duration::from_secs(3600);

/// Why an upload is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("the upload has the SHA-256 {found}, and was announced as {announced}")]
    Hash { found: ArtifactId, announced: ArtifactId },
    #[error("the upload has more than {ARTIFACT_BYTES_MAX} bytes")]
    Size,
    #[error("nothing more came of the upload for {PIECE_TIMEOUT:?}")]
    Timeout,
    #[error("the upload broke off: {0}")]
    Broken(String),
    #[error("the upload could not be stored: {0}")]
    Io(#[from] io::Error),
}

#[derive(Clone, Debug)]
pub(crate) struct Artifacts {
    directory: PathBuf,
    uploads: Arc<AtomicU64>,
}

impl Artifacts {
    pub(crate) fn open(directory: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&directory)?;
        Ok(Self { directory, uploads: Arc::default() })
    }

    pub(crate) fn path(&self, id: &ArtifactId) -> PathBuf {
        self.directory.join(id.as_str())
    }

    pub(crate) fn has(&self, id: &ArtifactId) -> bool {
        self.path(id).is_file()
    }

    /// Deletes what no job needs, and what is left of uploads that broke off; but nothing that was written
    /// within [`FRESH`]: it is being uploaded, or its job is submitted next.
    pub(crate) fn keep_only(&self, needed: &BTreeSet<ArtifactId>) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|name| ArtifactId::new(name).ok());
            // One of the future is as fresh as can be.
            let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
            if age >= FRESH && id.is_none_or(|id| !needed.contains(&id)) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Stores an upload if it has the hash that it should have.
    pub(crate) async fn put<B, E>(
        &self,
        id: &ArtifactId,
        pieces: impl Stream<Item = Result<B, E>>,
    ) -> Result<(), UploadError>
    where
        B: AsRef<[u8]>,
        E: std::fmt::Display,
    {
        let number = self.uploads.fetch_add(1, Ordering::Relaxed);
        let aside = self.directory.join(format!("upload-{number}"));
        let written = self.write(id, &aside, pieces).await;
        if written.is_err() {
            // Whatever there is of it; what was refused is the error to tell.
            let _ = tokio::fs::remove_file(&aside).await;
        }
        written
    }

    async fn write<B, E>(
        &self,
        id: &ArtifactId,
        aside: &PathBuf,
        pieces: impl Stream<Item = Result<B, E>>,
    ) -> Result<(), UploadError>
    where
        B: AsRef<[u8]>,
        E: std::fmt::Display,
    {
        let mut file = File::create(aside).await?;
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        let mut pieces = std::pin::pin!(pieces);
        loop {
            let piece = tokio::time::timeout(PIECE_TIMEOUT, pieces.next()).await;
            let Some(piece) = piece.map_err(|_| UploadError::Timeout)? else { break };
            let piece = piece.map_err(|error| UploadError::Broken(error.to_string()))?;
            bytes += piece.as_ref().len() as u64;
            if bytes > ARTIFACT_BYTES_MAX {
                return Err(UploadError::Size);
            }
            hash.update(piece.as_ref());
            file.write_all(piece.as_ref()).await?;
        }
        let found = named(hash)?;
        if found != *id {
            return Err(UploadError::Hash { found, announced: id.clone() });
        }
        file.sync_all().await?;
        tokio::fs::rename(aside, self.path(id)).await?;
        File::open(&self.directory).await?.sync_all().await?;
        Ok(())
    }
}

//! Executables of jobs, fetched once and checked whenever they are used.

use millstream_control::client::{artifact_id, named};
use millstream_control::rpc::ArtifactRequest;
use millstream_control::rpc::coordinator_client::CoordinatorClient;
use millstream_protocol::cluster::ArtifactId;
use sha2::{Digest, Sha256};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tonic::transport::Channel;

/// The next piece is to come within this time.
const PIECE_TIMEOUT: Duration = Duration::from_secs(10);
/// So many executables are kept; those that were not used for the longest time go.
const KEPT_MAX: usize = 16;

/// Where an executable is, when it is there and whole. `run` is a number that no other call has.
pub(crate) async fn fetch(
    directory: PathBuf,
    id: ArtifactId,
    run: u64,
    client: CoordinatorClient<Channel>,
) -> Result<PathBuf, String> {
    let path = directory.join(id.as_str());
    let failed = |error: io::Error| format!("the executable {id} could not be kept: {error}");
    std::fs::create_dir_all(&directory).map_err(failed)?;
    let (known, wanted) = (path.clone(), id.clone());
    let whole = tokio::task::spawn_blocking(move || is_whole(&known, &wanted)).await;
    if !whole.unwrap_or(false) {
        let aside = directory.join(format!("fetch-{run}"));
        let fetched = download(&aside, &path, &id, client).await;
        if fetched.is_err() {
            // Whatever there is of it; why it was refused is the error to tell.
            let _ = std::fs::remove_file(&aside);
        }
        fetched?;
    }
    keep_newest(&directory, &id).map_err(failed)?;
    Ok(path)
}

/// Whether a file is what its name says, and marks it as used.
fn is_whole(path: &Path, id: &ArtifactId) -> bool {
    let Ok(mut file) = std::fs::File::open(path) else { return false };
    let now = std::time::SystemTime::now();
    let _ = file.set_modified(now);
    artifact_id(&mut file).is_ok_and(|found| found == *id)
}

async fn download(
    aside: &Path,
    path: &Path,
    id: &ArtifactId,
    mut client: CoordinatorClient<Channel>,
) -> Result<(), String> {
    let io = |error: io::Error| format!("the executable {id} could not be kept: {error}");
    let broken = |why: &str| format!("the executable {id} could not be fetched: {why}");
    let request = ArtifactRequest { sha256: id.to_string() };
    let pieces = client.fetch_artifact(request).await;
    let mut pieces = pieces.map_err(|status| broken(status.message()))?.into_inner();
    let mut file = tokio::fs::File::create(aside).await.map_err(io)?;
    let mut hash = Sha256::new();
    loop {
        let piece = tokio::time::timeout(PIECE_TIMEOUT, pieces.message()).await;
        let piece = piece.map_err(|_| broken("nothing more came"))?;
        let Some(piece) = piece.map_err(|status| broken(status.message()))? else { break };
        hash.update(&piece.data);
        file.write_all(&piece.data).await.map_err(io)?;
    }
    if named(hash).map_err(io)? != *id {
        return Err(broken("what came has another SHA-256"));
    }
    file.set_permissions(PermissionsExt::from_mode(0o755)).await.map_err(io)?;
    file.sync_all().await.map_err(io)?;
    // A file that is open for writing cannot be executed.
    drop(file.into_std().await);
    tokio::fs::rename(aside, path).await.map_err(io)
}

fn keep_newest(directory: &Path, id: &ArtifactId) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if ArtifactId::new(&entry.file_name().to_string_lossy()).is_ok_and(|other| other != *id) {
            files.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    files.sort();
    let over = (files.len() + 1).saturating_sub(KEPT_MAX);
    // A process that runs keeps its executable, whether it has a name or not.
    files.iter().take(over).try_for_each(|(_, path)| std::fs::remove_file(path))
}

//! The programs that there are to compare with.

use super::Options;
use millstream_workloads::throughput::Workload;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program with settings.
pub(super) struct Peer {
    pub(super) name: &'static str,
    path: PathBuf,
    /// What it calls a workload, if it does it with so many workers.
    query: fn(Workload, u32) -> Option<&'static str>,
    settings: &'static [(&'static str, &'static str)],
}

impl Peer {
    pub(super) fn query(&self, workload: Workload, workers: u32) -> Option<&'static str> {
        (self.query)(workload, workers)
    }

    pub(super) fn command(&self, query: &str, workers: u32, options: &Options) -> Command {
        let mut command = Command::new(&self.path);
        command
            .args([query, &workers.to_string()])
            .env("INTERACTIVE", "1")
            .env("PEERS_DATA", &options.data)
            .env("N", options.events.to_string())
            .env_remove("TEXT")
            .env_remove("RENOIR_BATCH")
            .envs(self.settings.iter().copied());
        command
    }
}

/// Ours, which takes its settings from `MILLSTREAM_*` variables.
pub(super) fn ours(options: &Options, workload: Workload, workers: u32) -> Command {
    let mut command = Command::new(&options.ours);
    command
        .args(["bench", "throughput", "--interactive", "--workload", workload.name()])
        .args(["--slots", &workers.to_string(), "--events", &options.events.to_string()])
        .arg("--data")
        .arg(&options.data)
        // Several processes cannot serve at one address.
        .env_remove("MILLSTREAM_METRICS");
    command
}

/// Those whose programs are in the folder, or were built in it.
pub(super) fn built(folder: &Path, best_settings: bool) -> Vec<Peer> {
    let peer = |name, program: &str, query, settings| Peer {
        name,
        path: find(folder, program).unwrap_or_default(),
        query,
        settings,
    };
    let mut peers = vec![
        peer("hand-written", "roofline", hand_written as _, &[] as &[_]),
        peer("renoir", "renoir_b", same_name, &[]),
        peer("timely", "timely_b", same_name, &[]),
    ];
    if best_settings {
        let large_batches = &[("RENOIR_BATCH", "fixed:16384")];
        peers.push(peer("renoir 16k", "renoir_b", renoir_best, large_batches));
    }
    peers.retain(|peer| peer.path.is_file());
    peers
}

/// Where a program is, in a folder or built in it.
pub(super) fn find(folder: &Path, program: &str) -> Option<PathBuf> {
    let places = [folder.to_owned(), folder.join("target/release")];
    let found = places.iter().map(|place| place.join(program)).find(|path| path.is_file())?;
    // With its whole path, or a bare name would be looked for in PATH.
    found.canonicalize().ok()
}

fn same_name(workload: Workload, _: u32) -> Option<&'static str> {
    Some(workload.name())
}

/// The loops exist for one thread, and where nothing must be brought together, or a shuffle was
/// written for them, for two.
fn hand_written(workload: Workload, workers: u32) -> Option<&'static str> {
    use Workload::{Count, Countp, Q0, Q1, Q2};
    let able = match workload {
        Q0 | Q1 | Q2 => true,
        Count | Countp => workers <= 2,
        _ => workers == 1,
    };
    able.then_some(workload.name())
}

/// Word count in two phases.
fn renoir_best(workload: Workload, _: u32) -> Option<&'static str> {
    Some(if workload == Workload::Wc { "wca" } else { workload.name() })
}

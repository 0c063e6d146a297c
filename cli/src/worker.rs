//! `millstream worker`: offers a host's slots to a coordinator.

use crate::client::label;
use crate::{Failure, settings_file};
use clap::Args;
use millstream_control::RPC_PORT;
use millstream_control::secret::ClusterSecret;
use millstream_ops::{Exit, Interrupt};
use millstream_protocol::cluster::WorkerName;
use millstream_worker::Settings;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

const DATA_DIRECTORY: &str = "millstream-worker";
const JOBS_KEPT: usize = 20;
const JOB_LOG_MIB: u64 = 16;
const CORE_LEASES: &str = "/run/lock/millstream";

#[derive(Args)]
#[command(after_help = "\
Examples:
  millstream worker
  millstream worker --coordinator 10.0.0.1:7411 --bind 10.0.0.2 --slots 8 --secret-file secret

The processes of jobs run as the user of the worker, or as that of --run-as, which takes root. Each has
a directory of its own, jobs/ID in the data directory, with what it writes to its standard streams. When the
job has ended, the worker deletes what it has written there itself, after a while, and never what is the job's own,
such as checkpoints: delete those yourself when nobody is to go on from them.")]
pub(crate) struct WorkerArgs {
    /// Where the coordinator listens to workers [default: 127.0.0.1:7411]
    #[arg(long, value_name = "HOST:PORT", env = "MILLSTREAM_COORDINATOR")]
    coordinator: Option<String>,

    /// How many slots it offers [default: as many as cores]
    #[arg(long, value_name = "N", env = "MILLSTREAM_WORKER_SLOTS")]
    slots: Option<u32>,

    /// Where it keeps executables, state and logs of jobs [default: millstream-worker]
    #[arg(long, value_name = "DIR", env = "MILLSTREAM_WORKER_DATA_DIR")]
    data_dir: Option<PathBuf>,

    /// Its name, which no other worker has [default: the host's]
    #[arg(long, value_name = "NAME", env = "MILLSTREAM_WORKER_NAME")]
    name: Option<WorkerName>,

    /// The address or name at which other hosts reach the processes of jobs [default: 127.0.0.1]
    #[arg(long, value_name = "HOST", env = "MILLSTREAM_WORKER_BIND")]
    bind: Option<String>,

    /// What jobs may ask for, such as zone=north; copies of checkpoints go to workers of another rack=NAME
    /// first; can be repeated
    #[arg(long = "labels", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,

    /// A file with the cluster's secret, needed unless all addresses are of the loopback interface
    #[arg(long, value_name = "FILE", env = "MILLSTREAM_SECRET_FILE")]
    secret_file: Option<PathBuf>,

    /// The user and group that processes of jobs run as [default: those of the worker]
    #[arg(long, value_name = "UID:GID", value_parser = user_and_group, env = "MILLSTREAM_WORKER_RUN_AS")]
    run_as: Option<(u32, u32)>,

    /// Of how many jobs the logs are kept, those that have ended last [default: 20]. What a job has stored is never
    /// deleted: delete jobs/ID in --data-dir yourself when job ID has ended, and no other job was submitted with
    /// a --from-checkpoint in there
    #[arg(long, value_name = "N", env = "MILLSTREAM_WORKER_JOBS_KEPT")]
    jobs_kept: Option<usize>,

    /// About how many MiB a log of a job has at the most; there are two for each standard stream [default: 16]
    #[arg(long, value_name = "N", env = "MILLSTREAM_WORKER_JOB_LOG_MIB")]
    job_log_mib: Option<u64>,

    /// Where the workers of this host note which core is taken [default: /run/lock/millstream]
    #[arg(long, value_name = "DIR", env = "MILLSTREAM_WORKER_CORE_LEASE_DIR")]
    core_lease_dir: Option<PathBuf>,

    /// A TOML file with these settings, such as slots = 8; flags and variables win over it
    #[arg(long, value_name = "FILE", env = "MILLSTREAM_WORKER_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSettings {
    coordinator: Option<String>,
    slots: Option<u32>,
    data_dir: Option<PathBuf>,
    name: Option<WorkerName>,
    bind: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    secret_file: Option<PathBuf>,
    run_as: Option<String>,
    jobs_kept: Option<usize>,
    job_log_mib: Option<u64>,
    core_lease_dir: Option<PathBuf>,
}

impl WorkerArgs {
    pub(crate) fn run(self, interrupt: &Interrupt) -> Result<(), Failure> {
        let file: FileSettings = settings_file::read(self.config.as_deref())?;
        let usage = |message: String| Failure { exit: Exit::Usage, message };
        let secret_file = self.secret_file.or(file.secret_file);
        let secret = ClusterSecret::find(secret_file.as_deref());
        let name = match self.name.or(file.name) {
            Some(name) => name,
            None => host_name()?,
        };
        let run_as = match (self.run_as, file.run_as) {
            (Some(run_as), _) => Some(run_as),
            (None, Some(text)) => Some(user_and_group(&text).map_err(usage)?),
            (None, None) => None,
        };
        let mut labels = file.labels;
        labels.extend(self.labels);
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        let settings = Settings {
            coordinator: self
                .coordinator
                .or(file.coordinator)
                .unwrap_or_else(|| format!("127.0.0.1:{RPC_PORT}")),
            name,
            host: self.bind.or(file.bind).unwrap_or_else(|| "127.0.0.1".to_owned()),
            slots: self.slots.or(file.slots).unwrap_or(cores),
            labels,
            data_directory: self
                .data_dir
                .or(file.data_dir)
                .unwrap_or_else(|| DATA_DIRECTORY.into()),
            secret: secret.map_err(|error| Failure::usage(&error))?,
            core_lease_directory: self
                .core_lease_dir
                .or(file.core_lease_dir)
                .unwrap_or_else(|| CORE_LEASES.into()),
            run_as,
            jobs_kept: self.jobs_kept.or(file.jobs_kept).unwrap_or(JOBS_KEPT),
            job_log_bytes_max: self
                .job_log_mib
                .or(file.job_log_mib)
                .unwrap_or(JOB_LOG_MIB)
                .saturating_mul(1 << 20),
        };
        if settings.slots == 0 {
            return Err(usage("--slots 0: offer one slot at least".to_owned()));
        }
        eprintln!(
            "The worker {} offers {} slots to the coordinator at {}",
            settings.name, settings.slots, settings.coordinator
        );
        let done = millstream_worker::run(settings, || interrupt.is_raised());
        done.map_err(|error| Failure::usage(&error))
    }
}

fn host_name() -> Result<WorkerName, Failure> {
    let host = rustix::system::uname();
    WorkerName::new(&host.nodename().to_string_lossy()).map_err(|error| Failure {
        exit: Exit::Usage,
        message: format!("the host's name does not do, give one with --name: {error}"),
    })
}

fn user_and_group(text: &str) -> Result<(u32, u32), String> {
    let numbers = text
        .split_once(':')
        .and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)));
    numbers.ok_or_else(|| format!("`{text}`: write the numbers UID:GID, for example 1000:1000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_numbers() {
        assert_eq!(user_and_group("1000:100"), Ok((1000, 100)));
        for wrong in ["1000", "me:us", "1:", ":1", "-1:1"] {
            assert!(user_and_group(wrong).is_err(), "{wrong}");
        }
    }
}

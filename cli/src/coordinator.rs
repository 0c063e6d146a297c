//! `millstream coordinator`: keeps the jobs of a cluster and places them on workers.

use crate::{Failure, settings_file, with_causes};
use clap::Args;
use millstream_control::secret::ClusterSecret;
use millstream_control::{REST_PORT, RPC_PORT};
use millstream_coordinator::{CoordinatorError, Settings};
use millstream_ops::{Exit, Interrupt};
use millstream_protocol::cluster::ClusterSettings;
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

const DATA_DIRECTORY: &str = "millstream-coordinator";

#[derive(Args)]
#[command(after_help = "\
Examples:
  millstream coordinator
  openssl rand -hex 32 > secret && chmod 600 secret
  millstream coordinator --bind 10.0.0.1:7411 --rest 10.0.0.1:7410 --secret-file secret

What it stores is in the data directory; killed and started again there, it finds its jobs, and what
runs goes on. A secret can also be given in the variable MILLSTREAM_SECRET.")]
pub(crate) struct CoordinatorArgs {
    /// Where it listens to workers [default: 127.0.0.1:7411]
    #[arg(long, value_name = "ADDR", env = "MILLSTREAM_COORDINATOR_BIND")]
    bind: Option<SocketAddr>,

    /// Where it listens to clients [default: 127.0.0.1:7410]
    #[arg(long, value_name = "ADDR", env = "MILLSTREAM_COORDINATOR_REST")]
    rest: Option<SocketAddr>,

    /// Where it stores jobs and their executables [default: millstream-coordinator]
    #[arg(long, value_name = "DIR", env = "MILLSTREAM_COORDINATOR_DATA_DIR")]
    data_dir: Option<PathBuf>,

    /// A file with the cluster's secret, needed unless all addresses are of the loopback interface
    #[arg(long, value_name = "FILE", env = "MILLSTREAM_SECRET_FILE")]
    secret_file: Option<PathBuf>,

    /// A TOML file with these settings, such as data_dir = "..."; flags and variables win over it
    #[arg(long, value_name = "FILE", env = "MILLSTREAM_COORDINATOR_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSettings {
    bind: Option<SocketAddr>,
    rest: Option<SocketAddr>,
    data_dir: Option<PathBuf>,
    secret_file: Option<PathBuf>,
}

impl CoordinatorArgs {
    pub(crate) fn run(self, interrupt: &Interrupt) -> Result<(), Failure> {
        let file: FileSettings = settings_file::read(self.config.as_deref())?;
        let secret_file = self.secret_file.or(file.secret_file);
        let secret = ClusterSecret::find(secret_file.as_deref());
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let settings = Settings {
            bind: self.bind.or(file.bind).unwrap_or_else(|| loopback(RPC_PORT)),
            rest: self.rest.or(file.rest).unwrap_or_else(|| loopback(REST_PORT)),
            data_directory: self
                .data_dir
                .or(file.data_dir)
                .unwrap_or_else(|| DATA_DIRECTORY.into()),
            secret: secret.map_err(|error| Failure::usage(&error))?,
            cluster: ClusterSettings::default(),
        };
        let started = |coordinator: &millstream_coordinator::Coordinator| {
            eprintln!(
                "The coordinator listens: workers at {}, clients at http://{}",
                coordinator.bind_address(),
                coordinator.rest_address()
            );
        };
        let done = millstream_coordinator::run(settings, started, || interrupt.is_raised());
        done.map_err(|error| {
            let exit = match error {
                CoordinatorError::Store(_) | CoordinatorError::Service(_) => Exit::Failed,
                _ => Exit::Usage,
            };
            Failure { exit, message: with_causes(&error) }
        })
    }
}

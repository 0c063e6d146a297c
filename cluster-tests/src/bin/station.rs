//! A coordinator or a worker of a cluster, until it is told to end or is killed.
#![forbid(unsafe_code)]

use clap::Parser;
use millstream_control::secret::ClusterSecret;
use millstream_ops::Interrupt;
use millstream_protocol::cluster::{ClusterSettings, WorkerName};
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// A coordinator, or a worker.
#[derive(Parser)]
struct Station {
    /// Where the coordinator listens to workers
    #[arg(long)]
    coordinator: SocketAddr,

    /// Where it listens to clients; this process is it then
    #[arg(long)]
    rest: Option<SocketAddr>,

    /// The file with the cluster's secret
    #[arg(long)]
    secret_file: PathBuf,

    /// What is its own
    #[arg(long)]
    data_dir: PathBuf,

    /// The worker's name
    #[arg(long, default_value = "worker")]
    name: WorkerName,

    /// Where others reach it
    #[arg(long, default_value = "127.0.0.1")]
    bind: IpAddr,

    /// How many slots it has
    #[arg(long, default_value_t = 1)]
    slots: u32,
}

fn main() -> Result<(), Box<dyn Error>> {
    let station = Station::parse();
    let interrupt = Interrupt::install();
    let secret = Some(ClusterSecret::read(&station.secret_file)?);
    if let Some(rest) = station.rest {
        let settings = millstream_coordinator::Settings {
            bind: station.coordinator,
            rest,
            data_directory: station.data_dir,
            secret,
            cluster: ClusterSettings::default(),
        };
        millstream_coordinator::run(settings, |_| {}, || interrupt.is_raised())?;
    } else {
        let settings = millstream_worker::Settings {
            coordinator: station.coordinator.to_string(),
            name: station.name,
            host: station.bind.to_string(),
            slots: station.slots,
            labels: Default::default(),
            core_lease_directory: station.data_dir.join("cores"),
            data_directory: station.data_dir,
            secret,
            run_as: None,
            jobs_kept: 1,
            job_log_bytes_max: 64 << 20,
        };
        millstream_worker::run(settings, || interrupt.is_raised())?;
    }
    Ok(())
}

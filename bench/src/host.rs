//! What figures depend on: the machine and what else it does.

use millstream_tuning::{CoreId, Topology};
use serde::Serialize;
use std::fs;

/// The machine, as reports name it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Host {
    processor: String,
    cores: usize,
    kernel: String,
    millstream: &'static str,
}

impl Host {
    pub(crate) fn probe() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo")
            .lines()
            .find(|line| line.starts_with("model name"))
            .and_then(|line| line.split_once(':'))
            .map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned());
        Self {
            processor,
            cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            millstream: env!("CARGO_PKG_VERSION"),
        }
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} cores of {}, Linux {}", self.cores, self.processor, self.kernel)
    }
}

/// One of the cores that this thread, which must not be pinned yet, may run on; there may be fewer.
pub(crate) fn core(number: usize) -> CoreId {
    let topology = Topology::detect();
    topology.cores()[number % topology.cores().len()].id
}

/// Says so if other programs keep the machine busy: figures taken then mean little.
pub(crate) fn warn_if_busy() {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().and_then(|load| load.parse::<f64>().ok());
    if let Some(load) = load.filter(|load| *load > 0.5) {
        eprintln!(
            "warning: other programs are running (load {load}); figures need a quiet machine"
        );
    }
}

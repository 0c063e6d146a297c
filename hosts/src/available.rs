//! Whether hosts can be made on this machine.

use crate::error::HostsError;
use crate::set::Hosts;
use crate::tool;
use rustix::process::geteuid;
use std::error::Error;
use std::process::Command;
use std::time::Duration;

/// The programs that are used: how they tell that they are there, and the package that has them.
const PROGRAMS: &[(&str, &str, &str)] = &[
    ("ip", "-V", "iproute2"),
    ("tc", "-V", "iproute2"),
    ("nft", "--version", "nftables"),
    ("nsenter", "--version", "util-linux"),
];

/// Why there can be no hosts here.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// The process is not root.
    #[error("hosts are network namespaces, which need root")]
    Root,
    /// A program is not installed, or does not run.
    #[error("the program {program} does not run: is the package {package} installed?")]
    Program {
        /// Its name.
        program: &'static str,
        /// What to install.
        package: &'static str,
    },
    /// The system does not do it.
    #[error("the system makes no hosts: {}", chain(.0))]
    Refused(#[source] HostsError),
}

/// An error with its causes.
fn chain(error: &HostsError) -> String {
    let causes = std::iter::successors(error.source(), |error| (*error).source());
    causes.fold(error.to_string(), |words, cause| format!("{words}: {cause}"))
}

pub(crate) fn all() -> Result<(), Missing> {
    attempt(|hosts| {
        hosts.loss(0, 1.0)?.heal()?;
        hosts.bandwidth(0, 1_000_000)?.heal()
    })
}

pub(crate) fn with_delay() -> Result<(), Missing> {
    all()?;
    attempt(|hosts| hosts.delay(0, 1, Duration::from_millis(1))?.heal())
}

fn attempt(faults: impl FnOnce(&Hosts) -> Result<(), HostsError>) -> Result<(), Missing> {
    if !geteuid().is_root() {
        return Err(Missing::Root);
    }
    for &(program, version, package) in PROGRAMS {
        tool::run(Command::new(program).arg(version), "")
            .map_err(|_| Missing::Program { program, package })?;
    }
    // Containers and kernels lack one thing or the other: only an attempt tells.
    Hosts::new(2).and_then(|hosts| faults(&hosts)).map_err(Missing::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_names_its_causes() {
        let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let error = HostsError::Io { operation: "opening", path: "/dev/net/tun".into(), source };
        let words = Missing::Refused(error).to_string();
        assert_eq!(words, "the system makes no hosts: opening /dev/net/tun: permission denied");
    }
}

//! Hosts that are joined by a bridge.

use crate::available::{self, Missing};
use crate::error::HostsError;
use crate::host::{self, CARD, Host};
use crate::leftovers;
use crate::namespace::Namespace;
use crate::tool;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::process::Command;

/// How many hosts a set may have.
pub const HOSTS_MAX: usize = 64;
/// The bridge, also a router for packets on a detour.
pub(crate) const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);

/// Some hosts on one network, `10.77.0.0/24`. They end with this value.
///
/// Each set has a bridge of its own: sets of one or several processes do not see each other.
#[derive(Debug)]
pub struct Hosts {
    hosts: Vec<Host>,
    bridge: Namespace,
}

impl Hosts {
    /// So many hosts, all of which reach each other. Host `i` has the address `10.77.0.(i+1)`.
    ///
    /// Also removes what sets have left whose owners were killed.
    ///
    /// # Errors
    /// If there are none or more than [`HOSTS_MAX`], or the system does not make them: see
    /// [`Hosts::available`].
    pub fn new(count: usize) -> Result<Self, HostsError> {
        if !(1..=HOSTS_MAX).contains(&count) {
            return Err(HostsError::Count { count, max: HOSTS_MAX });
        }
        leftovers::remove();
        let set = leftovers::new_set();
        let hosts = (1..).zip(0..count).map(|(last, index)| Host {
            index,
            namespace: Namespace::named(format!("{set}-h{index}")),
            address: Ipv4Addr::new(10, 77, 0, last),
        });
        // Whatever fails from here on, what is there by then is removed.
        let hosts =
            Self { hosts: hosts.collect(), bridge: Namespace::named(format!("{set}-bridge")) };
        hosts.set_up()?;
        Ok(hosts)
    }

    /// Tries out whether hosts and faults can be made here.
    ///
    /// # Errors
    /// What is missing, in words for whoever may install or allow it.
    pub fn available() -> Result<(), Missing> {
        available::all()
    }

    /// As [`Hosts::available`], for [`Hosts::delay`] and [`Hosts::jitter`] too.
    ///
    /// # Errors
    /// As [`Hosts::available`].
    pub fn delay_available() -> Result<(), Missing> {
        available::with_delay()
    }

    /// All hosts, by index.
    pub fn all(&self) -> &[Host] {
        &self.hosts
    }

    /// One host.
    ///
    /// # Panics
    /// If the set has no such host.
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    pub(crate) fn bridge(&self) -> &Namespace {
        &self.bridge
    }

    fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.hosts.iter().map(|host| &host.namespace).chain([&self.bridge])
    }

    fn set_up(&self) -> Result<(), HostsError> {
        let mut lines = String::new();
        for namespace in self.namespaces() {
            let _ = writeln!(lines, "netns add {}", namespace.name());
        }
        tool::run(Command::new("ip").args(["-batch", "-"]), &lines)?;
        for namespace in self.namespaces() {
            host::prepare(namespace, *namespace == self.bridge)?;
        }
        let mut lines = format!(
            "link add br0 type bridge\n\
             addr add {ROUTER}/24 dev br0\n\
             link set br0 up\n"
        );
        for host in &self.hosts {
            let (port, name) = (port(host), host.name());
            let _ = writeln!(lines, "link add {port} type veth peer name {CARD} netns {name}");
            let _ = writeln!(lines, "link set {port} master br0 up");
        }
        self.bridge.ip(&lines)?;
        self.hosts.iter().try_for_each(Host::set_up)
    }
}

/// The bridge's end of the line to a host.
pub(crate) fn port(host: &Host) -> String {
    format!("port{}", host.index)
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for namespace in self.namespaces() {
            // What is left shows in the list of namespaces, and the next process removes it.
            let _ = namespace.remove();
        }
    }
}

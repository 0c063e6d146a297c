//! One host of a set.

use crate::error::HostsError;
use crate::namespace::Namespace;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::process::Command;

/// The network card of each host, as the host sees it.
pub(crate) const CARD: &str = "eth0";

/// A card that drops what is sent by it, and the address of nobody behind it.
const DROPPING_CARD: &str = "ifb0";
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);

/// A host: a network of its own, and all else as it is here.
#[derive(Debug)]
pub struct Host {
    pub(crate) index: usize,
    pub(crate) namespace: Namespace,
    pub(crate) address: Ipv4Addr,
}

impl Host {
    /// Where it is reached by the hosts of its set.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The name of its network namespace: `nsenter --net=/run/netns/NAME` is how to look around in it.
    pub fn name(&self) -> &str {
        self.namespace.name()
    }

    /// A program on this host; add arguments and start it. Its process has the number of the child,
    /// so signals to that reach it, and is killed at the latest when the set of hosts ends.
    ///
    /// Between here and the program is `nsenter`: a program that does not exist is not an error at
    /// the start, but a process that ends with status 127.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.namespace.command(program)
    }

    /// Runs code on this host, in a thread of its own. Sockets that it opens stay on this host,
    /// wherever they are used; threads and processes that it starts are on this host too. The code
    /// must end by itself.
    ///
    /// # Errors
    /// If the host is gone.
    ///
    /// # Panics
    /// If the code does.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, HostsError> {
        self.namespace.within(work)
    }

    /// Adds a network card that drops all that is sent by it, as late as its driver can: nothing is copied on
    /// the way there. Packets to the address that is returned, up to 64 KiB at once, leave by it. A host has
    /// one at the most.
    ///
    /// # Errors
    /// If the system makes none: its kernel needs `ifb`.
    pub fn add_dropping_card(&self) -> Result<Ipv4Addr, HostsError> {
        self.namespace.ip(&format!(
            "link add {DROPPING_CARD} type ifb\n\
             link set {DROPPING_CARD} mtu 65535 up\n\
             addr add {}/24 dev {DROPPING_CARD}\n\
             neigh add {NOBODY} lladdr 02:00:00:00:00:02 dev {DROPPING_CARD} nud permanent\n",
            Ipv4Addr::new(10, 78, 0, 1)
        ))?;
        Ok(NOBODY)
    }

    /// Lets its card carry packets. The bridge must have the other end.
    pub(crate) fn set_up(&self) -> Result<(), HostsError> {
        self.namespace.ip(&format!(
            "link set lo up\n\
             addr add {}/24 dev {CARD}\n\
             link set {CARD} up\n",
            self.address
        ))
    }
}

/// Settings of a fresh namespace, before there are cards in it.
///
/// Its cards speak IPv4 alone: the faults know of nothing else.
pub(crate) fn prepare(namespace: &Namespace, forwards: bool) -> Result<(), HostsError> {
    let set = |path: &str, value: &str| match fs::write(path, value) {
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(HostsError::io("writing", path)),
    };
    namespace.within(|| {
        set("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")?;
        // Packets on a detour come in by another card than answers leave by.
        set("/proc/sys/net/ipv4/conf/all/rp_filter", "0")?;
        set("/proc/sys/net/ipv4/conf/default/rp_filter", "0")?;
        set("/proc/sys/net/ipv4/ip_forward", if forwards { "1" } else { "0" })
    })?
}

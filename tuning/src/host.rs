//! Probes of the host, each a plain value.

use crate::syscall::{self, Resource};
use crate::{Topology, memory, sysfs};
use std::fmt;
use std::io;

/// What was found on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostReport {
    /// The kernel's version; `None` if it cannot be read.
    pub kernel: Option<KernelVersion>,
    /// Whether rings can be made.
    pub io_uring: IoUring,
    /// How much memory may be locked.
    pub locked_memory: LockedMemory,
    /// How many file descriptors may be open.
    pub open_files: Limit,
    /// Whether anonymous memory gets huge pages.
    pub huge_pages: HugePages,
    /// The cores in this process's cpuset.
    pub cores: usize,
    /// See [`Topology::cpu_quota`].
    pub cpu_quota: Option<usize>,
    /// The memory of the host, or what the cgroup grants if that is less, in bytes; `None` if it
    /// cannot be read.
    pub memory_bytes: Option<u64>,
}

impl HostReport {
    /// Probes the host. Makes and closes one small ring; changes nothing.
    pub fn probe(topology: &Topology) -> Self {
        let status = sysfs::read("/proc/thread-self/status").unwrap_or_default();
        Self {
            kernel: sysfs::read("/proc/sys/kernel/osrelease")
                .and_then(|s| KernelVersion::parse(&s)),
            io_uring: IoUring::probe(&status),
            locked_memory: LockedMemory {
                limit: Limit::of(Resource::LockedMemory),
                exempt: has_capability(&status, CAP_IPC_LOCK),
            },
            open_files: Limit::of(Resource::OpenFiles),
            huge_pages: HugePages::parse(
                &sysfs::read("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default(),
            ),
            cores: topology.cores().len(),
            cpu_quota: topology.cpu_quota(),
            memory_bytes: memory::bytes_max(),
        }
    }
}

/// Raises the soft limits on locked memory and open files to the hard ones, which needs no
/// privilege. Call it before the first executor is made, and before [`HostReport::probe`].
///
/// # Errors
/// The first limit that the kernel refuses to raise; the process runs on with what it has.
pub fn raise_limits() -> io::Result<()> {
    syscall::raise_soft_limit(Resource::LockedMemory)
        .and(syscall::raise_soft_limit(Resource::OpenFiles))
}

/// A kernel's version, of which only the first two numbers count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl KernelVersion {
    /// Reads a release such as `6.1.0-13-amd64`; `None` if it does not start with two numbers.
    pub fn parse(release: &str) -> Option<Self> {
        let mut parts = release.splitn(3, '.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?;
        let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
        Some(Self { major, minor: minor[..digits].parse().ok()? })
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Whether io_uring works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoUring {
    /// A ring could be made.
    Available,
    /// The kernel does not know the call, or a seccomp filter pretends so.
    Missing {
        /// True if this process runs under a seccomp filter.
        filtered: bool,
    },
    /// The call exists and is forbidden.
    Forbidden(IoUringBlock),
    /// A ring does not fit the limit on locked memory (kernels before 5.12 count rings in it).
    LockedMemoryExhausted,
    /// This process, or the host, has no file descriptor left.
    FilesExhausted,
    /// The call failed otherwise.
    Failed {
        /// The kernel's error number.
        errno: i32,
    },
}

/// What forbids io_uring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoUringBlock {
    /// The sysctl `kernel.io_uring_disabled` is 2.
    Everyone,
    /// The sysctl `kernel.io_uring_disabled` is 1 and this process is neither privileged nor in the
    /// group that `kernel.io_uring_group` names.
    Unprivileged,
    /// A seccomp filter: the default profile of container runtimes, or a service manager's.
    Seccomp,
    /// Neither explains it: a security module, most likely.
    Unknown,
}

impl IoUring {
    fn probe(status: &str) -> Self {
        match syscall::io_uring_setup() {
            Ok(()) => Self::Available,
            Err(error) => Self::from_errno(
                error.raw_os_error().unwrap_or(0),
                sysfs::read_value("/proc/sys/kernel/io_uring_disabled"),
                sysfs::field(status, "Seccomp") == Some("2"),
            ),
        }
    }

    /// Explains a failed `io_uring_setup`: by its error number, the sysctl
    /// `kernel.io_uring_disabled` where it exists (6.6 and later), and whether a seccomp filter
    /// holds. The sysctl is looked at first, because it forbids whatever the filter allows.
    pub fn from_errno(errno: i32, disabled: Option<u32>, filtered: bool) -> Self {
        match errno {
            libc::ENOSYS => Self::Missing { filtered },
            libc::EPERM | libc::EACCES => Self::Forbidden(match (disabled, filtered) {
                (Some(2..), _) => IoUringBlock::Everyone,
                (Some(1), _) => IoUringBlock::Unprivileged,
                (_, true) => IoUringBlock::Seccomp,
                (_, false) => IoUringBlock::Unknown,
            }),
            libc::ENOMEM => Self::LockedMemoryExhausted,
            libc::EMFILE | libc::ENFILE => Self::FilesExhausted,
            errno => Self::Failed { errno },
        }
    }
}

/// A resource limit; `u64::MAX` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What holds now.
    pub soft: u64,
    /// What the process may raise `soft` to.
    pub hard: u64,
}

impl Limit {
    /// No limit at all.
    pub const NONE: Self = Self { soft: u64::MAX, hard: u64::MAX };

    /// What cannot be asked for is taken to be unlimited: the call that then fails says more.
    fn of(resource: Resource) -> Self {
        syscall::resource_limit(resource).map_or(Self::NONE, |(soft, hard)| Self { soft, hard })
    }
}

/// How much memory this process may lock, which registered buffers count as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockedMemory {
    /// `RLIMIT_MEMLOCK` in bytes.
    pub limit: Limit,
    /// True with `CAP_IPC_LOCK` (root has it): the kernel then ignores the limit.
    pub exempt: bool,
}

impl LockedMemory {
    /// The bytes that may be locked; `u64::MAX` if there is no bound.
    pub fn bytes_max(&self) -> u64 {
        if self.exempt { u64::MAX } else { self.limit.soft }
    }
}

/// The host's setting for transparent huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// Wherever they fit.
    Always,
    /// Where a program asks for them with `madvise`.
    OnRequest,
    /// Never.
    Never,
    /// The kernel has none, or does not say.
    Unknown,
}

impl HugePages {
    /// Reads `/sys/kernel/mm/transparent_hugepage/enabled`, which puts the choice in brackets.
    pub fn parse(text: &str) -> Self {
        let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        match chosen.map(|(word, _)| word) {
            Some("always") => Self::Always,
            Some("madvise") => Self::OnRequest,
            Some("never") => Self::Never,
            _ => Self::Unknown,
        }
    }
}

/// The bit of the capability to lock memory without limit.
const CAP_IPC_LOCK: u32 = 14;

fn has_capability(status: &str, bit: u32) -> bool {
    sysfs::field(status, "CapEff")
        .and_then(|hex| u64::from_str_radix(hex, 16).ok())
        .is_some_and(|set| set >> bit & 1 == 1)
}

#[cfg(test)]
mod tests;

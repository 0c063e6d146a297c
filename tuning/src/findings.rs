//! Judges a host: what is wrong, what follows from it, what to do.
//!
//! Pure: [`check`] looks at nothing but its arguments.

use crate::{HostReport, HugePages, IoUring, IoUringBlock, KernelVersion};
use std::fmt;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing when looking for speed; log it at level info.
    Note,
    /// It runs, with less than it could have.
    Warning,
    /// It cannot run here.
    Refusal,
}

/// Something that the host lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What is wrong and what follows from it: a sentence without its full stop.
    pub problem: String,
    /// What to do about it: a sentence without its full stop.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. {}.", self.problem, self.remedy)
    }
}

impl Finding {
    fn new(severity: Severity, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity, problem: problem.into(), remedy: remedy.into() }
    }
}

/// The I/O memory of a slot's executor, in bytes: the least there can be. Slots do no file I/O
/// through their executors.
pub const SLOT_IO_MEMORY_BYTES: usize = 64 << 10;

/// The rings of a slot's executor; with each it registers its I/O memory.
const RINGS_PER_SLOT: u64 = 3;

/// The memory of all channels between a job's subtasks. What records own elsewhere, such as the
/// text of strings, is not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelMemory {
    /// How many channels there are.
    pub channels: u64,
    /// Bytes with one batch in each channel, as there is from the start.
    pub bytes_at_start: u64,
    /// Bytes with all batches that credits allow, as there may be under backpressure.
    pub bytes_max: u64,
}

/// What a worker wants of its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirements {
    /// Task slots.
    pub slots: usize,
    /// The kernel below which nothing runs.
    pub kernel_required: KernelVersion,
    /// The kernel below which not everything has been tried.
    pub kernel_wanted: KernelVersion,
    /// The limit on locked memory below which no ring is made, in bytes. It holds for the limit as
    /// such, also where the process is exempt from it.
    pub locked_limit_required_bytes: u64,
    /// Memory that each slot registers with its rings, in bytes.
    pub locked_per_slot_bytes: u64,
    /// File descriptors, whatever the slots: standard streams, files of the job, sockets.
    pub open_files_fixed: u64,
    /// File descriptors of each slot: rings and their wake-up descriptors.
    pub open_files_per_slot: u64,
    /// What the job's channels take.
    pub channels: ChannelMemory,
}

impl Requirements {
    /// What an engine with this many slots wants.
    ///
    /// - Linux 5.8 is what the slots' executor needs. What first needs 6.1 is a ring whose
    ///   completions are handled on the slot's own time (`DEFER_TASKRUN`), and without it slots
    ///   still run correctly: so an older kernel is a warning, not a refusal.
    /// - The executor refuses to start under a limit of 512 KiB, and registers its I/O memory,
    ///   [`SLOT_IO_MEMORY_BYTES`], with three rings.
    ///
    /// Without channels: see [`Requirements::channels`].
    pub fn for_slots(slots: usize) -> Self {
        Self {
            slots,
            kernel_required: KernelVersion { major: 5, minor: 8 },
            kernel_wanted: KernelVersion { major: 6, minor: 1 },
            locked_limit_required_bytes: 512 << 10,
            locked_per_slot_bytes: RINGS_PER_SLOT * SLOT_IO_MEMORY_BYTES as u64,
            open_files_fixed: 64,
            open_files_per_slot: 16,
            channels: ChannelMemory::default(),
        }
    }
}

/// Compares a host with what is wanted of it: refusals first, then warnings, then notes.
///
/// An empty result means that nothing is lacking.
pub fn check(host: &HostReport, wanted: &Requirements) -> Vec<Finding> {
    let mut findings: Vec<Finding> = [
        kernel(host, wanted),
        io_uring(host),
        locked_memory(host, wanted),
        open_files(host, wanted),
        cores(host, wanted),
        channel_memory(host, wanted.channels),
        huge_pages(host),
    ]
    .into_iter()
    .flatten()
    .collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

fn kernel(host: &HostReport, wanted: &Requirements) -> Option<Finding> {
    let Some(kernel) = host.kernel else {
        return Some(Finding::new(
            Severity::Warning,
            "the kernel's version cannot be read from /proc/sys/kernel/osrelease",
            format!("Make sure that it is Linux {} or newer", wanted.kernel_wanted),
        ));
    };
    let remedy = format!("Use Linux {} or newer", wanted.kernel_wanted);
    if kernel < wanted.kernel_required {
        let problem = format!(
            "Linux {kernel} is too old: task slots need at least {}",
            wanted.kernel_required
        );
        Some(Finding::new(Severity::Refusal, problem, remedy))
    } else if kernel < wanted.kernel_wanted {
        let problem = format!(
            "Linux {kernel} is older than {}: slots run, but slower, and untested",
            wanted.kernel_wanted
        );
        Some(Finding::new(Severity::Warning, problem, remedy))
    } else {
        None
    }
}

fn io_uring(host: &HostReport) -> Option<Finding> {
    const CONTAINER: &str = "Run the container with a seccomp profile that allows io_uring_setup, \
         io_uring_enter and io_uring_register (Docker, Podman: --security-opt \
         seccomp=PROFILE.json, or seccomp=unconfined where the job is trusted; Kubernetes: \
         securityContext.seccompProfile; systemd: SystemCallFilter)";
    let (problem, remedy) = match host.io_uring {
        IoUring::Available => return None,
        IoUring::Missing { filtered: true } => (
            "io_uring is blocked: the call is answered with `not implemented` and this process \
             runs under a seccomp filter, most likely its container's"
                .to_owned(),
            CONTAINER.to_owned(),
        ),
        IoUring::Missing { filtered: false } => (
            "this kernel has no io_uring (it is older than 5.1, or built without CONFIG_IO_URING)"
                .to_owned(),
            "Use a kernel with io_uring, outside of sandboxes such as gVisor which have none"
                .to_owned(),
        ),
        IoUring::Forbidden(IoUringBlock::Seccomp) => (
            "io_uring is blocked by a seccomp filter; the default profile of container runtimes \
             does that"
                .to_owned(),
            CONTAINER.to_owned(),
        ),
        IoUring::Forbidden(IoUringBlock::Everyone) => (
            "io_uring is switched off on this host: the sysctl kernel.io_uring_disabled is 2"
                .to_owned(),
            "Have an administrator run `sysctl -w kernel.io_uring_disabled=0`, and write it to \
             /etc/sysctl.d to last"
                .to_owned(),
        ),
        IoUring::Forbidden(IoUringBlock::Unprivileged) => (
            "io_uring is reserved for privileged processes: the sysctl kernel.io_uring_disabled \
             is 1"
                .to_owned(),
            "Have an administrator add this user to the group that kernel.io_uring_group names, \
             or run `sysctl -w kernel.io_uring_disabled=0`"
                .to_owned(),
        ),
        IoUring::Forbidden(IoUringBlock::Unknown) => (
            "io_uring is forbidden to this process, neither by the sysctl \
             kernel.io_uring_disabled nor by a seccomp filter of its own"
                .to_owned(),
            "Look for a security module's denial in the kernel's log (SELinux, AppArmor), and \
             allow it there"
                .to_owned(),
        ),
        IoUring::LockedMemoryExhausted => (
            "no io_uring could be made: out of memory, or beyond the limit on locked memory"
                .to_owned(),
            RAISE_MEMLOCK.to_owned(),
        ),
        IoUring::FilesExhausted => (
            "no io_uring could be made: no file descriptor is left".to_owned(),
            RAISE_NOFILE.to_owned(),
        ),
        IoUring::Failed { errno } => (
            format!("io_uring does not work: {}", std::io::Error::from_raw_os_error(errno)),
            "Try another kernel, and tell us which one this is".to_owned(),
        ),
    };
    Some(Finding::new(Severity::Refusal, problem, remedy))
}

const RAISE_MEMLOCK: &str = "Raise the limit: `ulimit -l`, or memlock in \
     /etc/security/limits.conf, or LimitMEMLOCK= of the systemd unit, or --ulimit memlock=-1 of \
     the container";
const RAISE_NOFILE: &str = "Raise the limit: `ulimit -n`, or nofile in \
     /etc/security/limits.conf, or LimitNOFILE= of the systemd unit, or --ulimit nofile=65536 of \
     the container";

fn locked_memory(host: &HostReport, wanted: &Requirements) -> Option<Finding> {
    let limit = host.locked_memory.limit.soft;
    if limit < wanted.locked_limit_required_bytes {
        let problem = format!(
            "only {} of memory may be locked, and a slot's executor starts from {} on",
            bytes(limit),
            bytes(wanted.locked_limit_required_bytes)
        );
        return Some(Finding::new(Severity::Refusal, problem, RAISE_MEMLOCK));
    }
    let needed = wanted.locked_per_slot_bytes.saturating_mul(wanted.slots as u64);
    (host.locked_memory.bytes_max() < needed).then(|| {
        let problem = format!(
            "only {} of memory may be locked, and {} slots register {}: some slots' \
             executors start without registered buffers",
            bytes(limit),
            wanted.slots,
            bytes(needed)
        );
        Finding::new(Severity::Warning, problem, RAISE_MEMLOCK)
    })
}

fn open_files(host: &HostReport, wanted: &Requirements) -> Option<Finding> {
    let needed = wanted
        .open_files_per_slot
        .saturating_mul(wanted.slots as u64)
        .saturating_add(wanted.open_files_fixed);
    (host.open_files.soft < needed).then(|| {
        let problem = format!(
            "only {} files may be open, and {} slots need {needed} file descriptors",
            host.open_files.soft, wanted.slots
        );
        Finding::new(Severity::Refusal, problem, RAISE_NOFILE)
    })
}

fn cores(host: &HostReport, wanted: &Requirements) -> Option<Finding> {
    if wanted.slots > host.cores {
        let problem = format!(
            "{} slots share {}: they take turns, and a record waits for its slot's turn",
            wanted.slots,
            count(host.cores, "core")
        );
        let remedy = format!("For the best latency use at most {}", count(host.cores, "slot"));
        return Some(Finding::new(Severity::Warning, problem, remedy));
    }
    let quota = host.cpu_quota.filter(|quota| wanted.slots > *quota)?;
    let problem = format!(
        "{} slots run under a CPU quota of {}: the kernel stops them all whenever it is used up",
        wanted.slots,
        count(quota, "core")
    );
    let remedy = format!(
        "Use at most {}, or grant whole cores (a cpuset) in place of a quota",
        count(quota, "slot")
    );
    Some(Finding::new(Severity::Warning, problem, remedy))
}

/// What channels take from the start must fit; what they may take under backpressure should leave
/// half of the memory to state and all else.
fn channel_memory(host: &HostReport, wanted: ChannelMemory) -> Option<Finding> {
    let memory = host.memory_bytes?;
    let ChannelMemory { channels, bytes_at_start, bytes_max } = wanted;
    let remedy = "Lower the parallelism of operators behind an exchange (set_parallelism), or the \
                  settings batch_bytes or credits";
    if bytes_at_start > memory {
        let problem = format!(
            "the job's {channels} channels take {} from the start, and there is {} of memory",
            about(bytes_at_start),
            about(memory)
        );
        return Some(Finding::new(Severity::Refusal, problem, remedy));
    }
    (bytes_max > memory / 2).then(|| {
        let problem = format!(
            "the job's {channels} channels may take {} when receivers are slow, and there is {} of \
             memory",
            about(bytes_max),
            about(memory)
        );
        Finding::new(Severity::Warning, problem, remedy)
    })
}

fn huge_pages(host: &HostReport) -> Option<Finding> {
    matches!(host.huge_pages, HugePages::Never | HugePages::Unknown).then(|| {
        Finding::new(
            Severity::Note,
            "this host has no transparent huge pages: large state costs more misses in the TLB",
            "Have an administrator write madvise to /sys/kernel/mm/transparent_hugepage/enabled",
        )
    })
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// A size in the largest unit that divides it.
fn bytes(size: u64) -> String {
    match size {
        u64::MAX => "any amount".to_owned(),
        _ if size >= 1 << 20 && size.is_multiple_of(1 << 20) => format!("{} MiB", size >> 20),
        _ if size >= 1 << 10 && size.is_multiple_of(1 << 10) => format!("{} KiB", size >> 10),
        _ => format!("{size} bytes"),
    }
}

/// A size to be read, not to be reckoned with.
fn about(size: u64) -> String {
    if size >= 10 << 30 { format!("{} GiB", size >> 30) } else { format!("{} MiB", size >> 20) }
}

#[cfg(test)]
mod tests;

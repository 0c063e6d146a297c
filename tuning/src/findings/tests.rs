use super::*;
use crate::{Limit, LockedMemory, Topology};

/// A host that lacks nothing for two slots.
fn good_host() -> HostReport {
    HostReport {
        kernel: Some(KernelVersion { major: 6, minor: 1 }),
        io_uring: IoUring::Available,
        locked_memory: LockedMemory { limit: Limit::NONE, exempt: false },
        open_files: Limit { soft: 1024, hard: 1024 },
        huge_pages: HugePages::OnRequest,
        cores: 2,
        cpu_quota: None,
        memory_bytes: Some(16 << 30),
    }
}

fn only_finding(host: &HostReport) -> Finding {
    let mut findings = check(host, &Requirements::for_slots(2));
    assert_eq!(findings.len(), 1, "{findings:?}");
    findings.remove(0)
}

#[track_caller]
fn assert_finding(finding: &Finding, severity: Severity, words: &[&str]) {
    let text = finding.to_string();
    assert_eq!(finding.severity, severity, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing: {text}");
    }
}

#[test]
fn a_good_host_has_no_findings() {
    assert_eq!(check(&good_host(), &Requirements::for_slots(2)), []);
}

#[test]
fn blocked_io_uring_is_refused_with_its_cause_and_remedy() {
    use IoUringBlock::{Everyone, Seccomp, Unknown, Unprivileged};
    let table: [(IoUring, &[&str]); 9] = [
        (IoUring::Forbidden(Seccomp), &["seccomp", "container", "--security-opt"]),
        (IoUring::Forbidden(Everyone), &["kernel.io_uring_disabled is 2", "sysctl -w"]),
        (
            IoUring::Forbidden(Unprivileged),
            &["kernel.io_uring_disabled is 1", "kernel.io_uring_group"],
        ),
        (IoUring::Forbidden(Unknown), &["security module"]),
        (IoUring::Missing { filtered: true }, &["seccomp", "--security-opt"]),
        (IoUring::Missing { filtered: false }, &["CONFIG_IO_URING", "gVisor"]),
        (IoUring::LockedMemoryExhausted, &["ulimit -l"]),
        (IoUring::FilesExhausted, &["ulimit -n"]),
        (IoUring::Failed { errno: libc::EINVAL }, &["Invalid argument"]),
    ];
    for (io_uring, words) in table {
        let finding = only_finding(&HostReport { io_uring, ..good_host() });
        assert_finding(&finding, Severity::Refusal, words);
        assert!(finding.problem.contains("io_uring"), "{finding}");
    }
}

#[test]
fn old_kernels_are_warned_about_and_older_ones_refused() {
    let table = [
        ((6, 1), None),
        ((7, 0), None),
        ((6, 0), Some(Severity::Warning)),
        ((5, 10), Some(Severity::Warning)),
        ((5, 8), Some(Severity::Warning)),
        ((5, 7), Some(Severity::Refusal)),
        ((4, 18), Some(Severity::Refusal)),
    ];
    for ((major, minor), expected) in table {
        let kernel = Some(KernelVersion { major, minor });
        let findings = check(&HostReport { kernel, ..good_host() }, &Requirements::for_slots(2));
        assert_eq!(findings.first().map(|finding| finding.severity), expected);
        for finding in findings {
            assert_finding(&finding, expected.unwrap(), &[&format!("{major}.{minor}"), "6.1"]);
        }
    }
    let unknown = only_finding(&HostReport { kernel: None, ..good_host() });
    assert_finding(&unknown, Severity::Warning, &["osrelease"]);
}

#[test]
fn little_locked_memory_degrades_an_ordinary_user_alone() {
    let with = |soft: u64, exempt, slots| {
        let limit = Limit { soft, hard: soft };
        let host = HostReport {
            locked_memory: LockedMemory { limit, exempt },
            cores: 64,
            open_files: Limit::NONE,
            ..good_host()
        };
        check(&host, &Requirements::for_slots(slots))
    };
    assert_eq!(with(8 << 20, false, 42), []);
    assert_eq!(with(8 << 20, true, 64), []);
    let warned = with(8 << 20, false, 64);
    assert_finding(&warned[0], Severity::Warning, &["8 MiB", "12 MiB", "64 slots", "memlock"]);
    assert_eq!(warned.len(), 1, "one warning");
    for exempt in [false, true] {
        let refused = with(64 << 10, exempt, 1);
        assert_finding(&refused[0], Severity::Refusal, &["64 KiB", "512 KiB", "ulimit -l"]);
        assert_eq!(refused.len(), 1);
    }
}

#[test]
fn too_few_file_descriptors_are_refused() {
    let finding =
        only_finding(&HostReport { open_files: Limit { soft: 95, hard: 95 }, ..good_host() });
    assert_finding(&finding, Severity::Refusal, &["95 files", "96", "ulimit -n"]);
}

#[test]
fn channels_that_do_not_fit_the_memory_are_warned_of_or_refused() {
    let with = |memory_bytes, bytes_at_start, bytes_max| {
        let channels = ChannelMemory { channels: 262_144, bytes_at_start, bytes_max };
        let wanted = Requirements { channels, ..Requirements::for_slots(2) };
        check(&HostReport { memory_bytes, ..good_host() }, &wanted)
    };
    let memory = Some(16 << 30);
    assert_eq!(with(memory, 1 << 30, 8 << 30), []);
    assert_eq!(with(None, u64::MAX, u64::MAX), [], "nothing is known of the memory");
    let warned = with(memory, 8 << 30, 64 << 30);
    let words = ["262144 channels", "64 GiB when", "16 GiB", "set_parallelism", "credits"];
    assert_finding(&warned[0], Severity::Warning, &words);
    let refused = with(Some(512 << 20), (512 << 20) + 1, u64::MAX);
    assert_finding(&refused[0], Severity::Refusal, &["512 MiB from the start", "batch_bytes"]);
    assert_eq!((warned.len(), refused.len()), (1, 1));
}

#[test]
fn more_slots_than_cores_or_quota_are_one_warning() {
    let shared = only_finding(&HostReport { cores: 1, ..good_host() });
    assert_finding(&shared, Severity::Warning, &["2 slots share 1 core:", "at most 1 slot."]);
    let quota = only_finding(&HostReport { cores: 8, cpu_quota: Some(1), ..good_host() });
    assert_finding(&quota, Severity::Warning, &["quota of 1 core:", "cpuset"]);
    let both = only_finding(&HostReport { cores: 1, cpu_quota: Some(1), ..good_host() });
    assert_finding(&both, Severity::Warning, &["share 1 core"]);
}

#[test]
fn missing_huge_pages_are_a_note() {
    for huge_pages in [HugePages::Never, HugePages::Unknown] {
        let finding = only_finding(&HostReport { huge_pages, ..good_host() });
        assert_finding(&finding, Severity::Note, &["huge pages", "madvise"]);
    }
}

#[test]
fn refusals_come_first() {
    let host = HostReport {
        kernel: Some(KernelVersion { major: 5, minor: 10 }),
        io_uring: IoUring::Forbidden(IoUringBlock::Seccomp),
        huge_pages: HugePages::Never,
        ..good_host()
    };
    let severities: Vec<_> =
        check(&host, &Requirements::for_slots(2)).iter().map(|f| f.severity).collect();
    assert_eq!(severities, [Severity::Refusal, Severity::Warning, Severity::Note]);
}

#[test]
fn this_host_can_be_judged() {
    let topology = Topology::detect();
    let host = HostReport::probe(&topology);
    for finding in check(&host, &Requirements::for_slots(topology.slots_max())) {
        println!("{:?}: {finding}", finding.severity);
        assert!(!finding.problem.ends_with('.') && !finding.remedy.ends_with('.'));
    }
}

use super::*;

#[test]
fn kernel_releases_are_read_up_to_the_second_number() {
    let table = [
        ("6.1.0-13-amd64", Some((6, 1))),
        ("5.15.0", Some((5, 15))),
        ("6.18", Some((6, 18))),
        ("7.0-rc1", Some((7, 0))),
        ("4.18.0-553.el8_10.x86_64", Some((4, 18))),
        ("6", None),
        ("six.one", None),
        ("6.x", None),
        ("", None),
        ("99999999999.1", None),
    ];
    for (release, expected) in table {
        let read = KernelVersion::parse(release).map(|version| (version.major, version.minor));
        assert_eq!(read, expected, "{release:?}");
    }
}

#[test]
fn kernel_versions_compare_by_number() {
    assert!(KernelVersion::parse("5.19") < KernelVersion::parse("6.1"));
    assert!(KernelVersion::parse("6.10") > KernelVersion::parse("6.2"));
}

#[test]
fn a_failed_ring_is_explained() {
    use IoUringBlock::{Everyone, Seccomp, Unknown, Unprivileged};
    let table = [
        ((libc::ENOSYS, None, false), IoUring::Missing { filtered: false }),
        ((libc::ENOSYS, Some(0), true), IoUring::Missing { filtered: true }),
        ((libc::EPERM, Some(2), false), IoUring::Forbidden(Everyone)),
        ((libc::EPERM, Some(2), true), IoUring::Forbidden(Everyone)),
        ((libc::EPERM, Some(1), false), IoUring::Forbidden(Unprivileged)),
        ((libc::EPERM, Some(0), true), IoUring::Forbidden(Seccomp)),
        ((libc::EPERM, None, true), IoUring::Forbidden(Seccomp)),
        ((libc::EACCES, None, false), IoUring::Forbidden(Unknown)),
        ((libc::ENOMEM, None, false), IoUring::LockedMemoryExhausted),
        ((libc::EMFILE, None, false), IoUring::FilesExhausted),
        ((libc::EINVAL, None, false), IoUring::Failed { errno: libc::EINVAL }),
    ];
    for ((errno, disabled, filtered), expected) in table {
        assert_eq!(IoUring::from_errno(errno, disabled, filtered), expected);
    }
}

#[test]
fn huge_pages_are_what_stands_in_brackets() {
    let table = [
        ("[always] madvise never", HugePages::Always),
        ("always [madvise] never", HugePages::OnRequest),
        ("always madvise [never]", HugePages::Never),
        ("always madvise never", HugePages::Unknown),
        ("", HugePages::Unknown),
    ];
    for (text, expected) in table {
        assert_eq!(HugePages::parse(text), expected, "{text:?}");
    }
}

#[test]
fn the_capability_to_lock_memory_is_bit_14() {
    assert!(has_capability("CapEff:\t000001ffffffffff", CAP_IPC_LOCK));
    assert!(has_capability("CapEff:\t0000000000004000", CAP_IPC_LOCK));
    assert!(!has_capability("CapEff:\t0000000000000000", CAP_IPC_LOCK));
    assert!(!has_capability("CapEff:\tnonsense", CAP_IPC_LOCK));
    assert!(!has_capability("", CAP_IPC_LOCK));
}

#[test]
fn exempt_processes_lock_without_bound() {
    let limit = Limit { soft: 8 << 20, hard: 8 << 20 };
    assert_eq!(LockedMemory { limit, exempt: false }.bytes_max(), 8 << 20);
    assert_eq!(LockedMemory { limit, exempt: true }.bytes_max(), u64::MAX);
}

#[test]
fn raised_limits_reach_the_hard_ones() {
    raise_limits().unwrap();
    let report = HostReport::probe(&Topology::detect());
    assert_eq!(report.open_files.soft, report.open_files.hard);
    assert_eq!(report.locked_memory.limit.soft, report.locked_memory.limit.hard);
    assert!(report.kernel.is_some(), "this host's kernel release is readable");
}

/// The real thing: a filter that forbids the call as container runtimes do. It holds for the thread
/// that installs it and cannot be taken off, so the probe runs on a thread of its own.
#[test]
fn a_seccomp_filter_is_recognised() {
    if IoUring::probe("") != IoUring::Available {
        println!("skipped: this host has no io_uring to forbid");
        return;
    }
    let probed = |errno: i32| {
        std::thread::spawn(move || {
            forbid_io_uring(errno);
            HostReport::probe(&Topology::detect()).io_uring
        })
        .join()
        .unwrap()
    };
    assert_eq!(probed(libc::EPERM), IoUring::Forbidden(IoUringBlock::Seccomp));
    assert_eq!(probed(libc::ENOSYS), IoUring::Missing { filtered: true });
}

/// Installs a seccomp filter on the calling thread: `io_uring_setup` fails with `errno`, everything
/// else is allowed.
fn forbid_io_uring(errno: i32) {
    let instruction =
        |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        // The system call's number is the first word of `seccomp_data`.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            libc::SYS_io_uring_setup as u32,
        ),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: both calls change only this thread's privileges; the program and its instructions
    // outlive the second, which copies them.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) == 0
    };
    assert!(installed, "{}", io::Error::last_os_error());
}

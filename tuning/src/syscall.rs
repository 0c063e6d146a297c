//! The system calls that the standard library does not offer: all of this crate's unsafe code.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// A resource limit of this process.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Resource {
    /// Bytes of locked memory.
    LockedMemory,
    /// Open file descriptors.
    OpenFiles,
}

impl Resource {
    fn number(self) -> libc::__rlimit_resource_t {
        match self {
            Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
            Resource::OpenFiles => libc::RLIMIT_NOFILE,
        }
    }
}

/// The soft and the hard limit; no limit is `u64::MAX`.
pub(crate) fn resource_limit(resource: Resource) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live `rlimit`, which the kernel fills in.
    if unsafe { libc::getrlimit(resource.number(), &mut limit) } == 0 {
        Ok((limit.rlim_cur, limit.rlim_max))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Raises the soft limit to the hard one.
pub(crate) fn raise_soft_limit(resource: Resource) -> io::Result<()> {
    let (soft, hard) = resource_limit(resource)?;
    if soft == hard {
        return Ok(());
    }
    let limit = libc::rlimit { rlim_cur: hard, rlim_max: hard };
    // SAFETY: the pointer is to a live `rlimit`, which the kernel only reads.
    if unsafe { libc::setrlimit(resource.number(), &limit) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes an io_uring with two entries and closes it again.
pub(crate) fn io_uring_setup() -> io::Result<()> {
    /// The size of the kernel's `struct io_uring_params`, all of whose fields may be zero on entry.
    const PARAMS_SIZE_BYTES: usize = 120;
    #[repr(C, align(8))]
    struct Params([u8; PARAMS_SIZE_BYTES]);

    let entries: libc::c_uint = 2;
    let mut params = Params([0; PARAMS_SIZE_BYTES]);
    // SAFETY: the pointer is to as many writable, aligned bytes as the kernel's structure has; the
    // call keeps no reference to them.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, params.0.as_mut_ptr()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor and nothing else owns it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

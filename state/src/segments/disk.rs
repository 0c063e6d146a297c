//! Writing files: with io_uring and direct I/O where the host has them.
#![expect(unsafe_code, reason = "the kernel reads memory while a write is in flight")]

use io_uring::{IoUring, opcode, types};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// A write is cut into chunks of this size, of which several are in flight: measured 1.3 GB/s on a
/// disk that gives 0.3 to buffered writes.
const CHUNK: usize = 1 << 20;
const DEPTH: u32 = 16;

/// Writes files from one thread.
pub(super) struct Disk {
    /// `None` where the host forbids io_uring, as the seccomp filters of containers do.
    ring: Option<IoUring>,
}

impl Disk {
    pub fn new() -> Self {
        Self { ring: IoUring::new(DEPTH).ok() }
    }

    /// Makes a file that is not there, for writes of aligned pages.
    pub fn create(path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        match options.clone().custom_flags(libc::O_DIRECT).open(path) {
            // A file system without direct I/O says so here, and may have made the file.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                options.create_new(false).create(true).truncate(true).open(path)
            }
            result => result,
        }
    }

    /// Writes all of `data`, which begins and ends at page boundaries in memory and in the file.
    pub fn write(&mut self, file: &File, data: &[u8], offset: u64) -> io::Result<()> {
        let result = match &mut self.ring {
            Some(ring) => write_with(ring, file, data, offset),
            None => file.write_all_at(data, offset),
        };
        let mut flags = rustix::fs::fcntl_getfl(file)?;
        match result {
            // Some file systems take the flag and refuse the write.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                flags -= rustix::fs::OFlags::DIRECT;
                rustix::fs::fcntl_setfl(file, flags)?;
                file.write_all_at(data, offset)?;
            }
            result => result?,
        }
        if !flags.contains(rustix::fs::OFlags::DIRECT) {
            // What waits in the page cache is memory that nothing counts.
            file.sync_data()?;
            let _ = rustix::fs::fadvise(
                file,
                offset,
                std::num::NonZeroU64::new(data.len() as u64),
                rustix::fs::Advice::DontNeed,
            );
        }
        Ok(())
    }
}

fn write_with(ring: &mut IoUring, file: &File, data: &[u8], offset: u64) -> io::Result<()> {
    let fd = types::Fd(file.as_raw_fd());
    let (mut next, mut in_flight, mut result) = (0, 0u32, Ok(()));
    while in_flight > 0 || (next < data.len() && result.is_ok()) {
        while in_flight < DEPTH && next < data.len() && result.is_ok() {
            let chunk = &data[next..data.len().min(next + CHUNK)];
            let entry = opcode::Write::new(fd, chunk.as_ptr(), chunk.len() as u32)
                .offset(offset + next as u64)
                .build()
                .user_data(next as u64);
            // SAFETY: `data` and `file` outlive the operation: this function returns when all are
            // completed. (If waiting fails it returns before; the kernel then reads memory and
            // writes none of ours, and the caller does not use the file any more.)
            unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
            next += chunk.len();
            in_flight += 1;
        }
        match ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
                ) => {}
            Err(error) => return Err(error),
        }
        let completed: Vec<_> =
            ring.completion().map(|c| (c.user_data() as usize, c.result())).collect();
        for (start, written) in completed {
            in_flight -= 1;
            let chunk = &data[start..data.len().min(start + CHUNK)];
            let outcome = match usize::try_from(written) {
                Ok(written) if written == chunk.len() => continue,
                // A short write is rare; the rest goes the plain way.
                Ok(written) => {
                    file.write_all_at(&chunk[written..], offset + (start + written) as u64)
                }
                Err(_) if -written == libc::EINTR || -written == libc::EAGAIN => {
                    file.write_all_at(chunk, offset + start as u64)
                }
                Err(_) => Err(io::Error::from_raw_os_error(-written)),
            };
            if result.is_ok() {
                result = outcome;
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::super::memory::Buffer;
    use super::*;

    fn writes(disk: &mut Disk, folder: &Path) {
        let mut buffer = Buffer::new((19 << 20) + 4096).unwrap();
        for (i, byte) in buffer.as_mut_slice().iter_mut().enumerate() {
            *byte = ((i * i) >> 7) as u8;
        }
        let path = folder.join("file");
        let file = Disk::create(&path).unwrap();
        disk.write(&file, &buffer.as_mut_slice()[..4096], 0).unwrap();
        let data = &buffer.as_mut_slice()[4096..];
        disk.write(&file, data, 4096).unwrap();
        assert!(std::fs::read(&path).unwrap() == buffer.as_mut_slice());
        assert!(Disk::create(&path).is_err(), "a file is never written twice");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_written_can_be_read() {
        let on_disk = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        for folder in [on_disk.path(), Path::new("/dev/shm")] {
            if let Ok(folder) = tempfile::tempdir_in(folder) {
                writes(&mut Disk::new(), folder.path());
                writes(&mut Disk { ring: None }, folder.path());
            }
        }
    }

    #[test]
    fn a_full_device_is_an_error() {
        let Ok(full) = OpenOptions::new().write(true).open("/dev/full") else { return };
        let buffer = Buffer::new(3 << 20).unwrap();
        let mut buffer = buffer;
        for mut disk in [Disk::new(), Disk { ring: None }] {
            let error = disk.write(&full, buffer.as_mut_slice(), 0).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        }
    }
}

//! A network card that is played by a program: what the system sends over it is read from a file,
//! and what is written there the system receives. All of this crate's unsafe code.

use crate::error::HostsError;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, read, write};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use std::ffi::{c_int, c_short};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const DEVICE: &str = "/dev/net/tun";
/// `TUNSETIFF` of `linux/if_tun.h`.
const SET_INTERFACE: Opcode = opcode::write::<c_int>(b'T', 202);
/// `IFF_TUN`: packets, not frames.
const PACKETS: c_short = 0x0001;
/// `IFF_NO_PI`: nothing in front of them.
const PLAIN: c_short = 0x1000;
/// `IFNAMSIZ`: the longest name, with a zero behind it.
const NAME_SIZE: usize = 16;

/// `struct ifreq` of `linux/if.h`: a name, and a union of which this call uses the flags.
#[repr(C, align(8))]
struct InterfaceRequest {
    name: [u8; NAME_SIZE],
    flags: c_short,
    rest: [u8; 22],
}

/// The card, which ends with this value.
#[derive(Debug)]
pub(crate) struct Tun {
    file: OwnedFd,
}

impl Tun {
    /// A new card in the network of this thread, switched off.
    pub(crate) fn open(name: &str) -> Result<Self, HostsError> {
        Self::new(name).map_err(HostsError::io("making a card by", DEVICE))
    }

    fn new(name: &str) -> Result<Self, Errno> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = open(DEVICE, flags, Mode::empty())?;
        let mut request =
            InterfaceRequest { name: [0; NAME_SIZE], flags: PACKETS | PLAIN, rest: [0; 22] };
        if name.len() >= NAME_SIZE {
            return Err(Errno::NAMETOOLONG);
        }
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, whatever its opcode says. This one
        // is as large (40 bytes, aligned to 8, asserted below), has no padding, and any bytes that
        // the kernel writes are valid for it.
        let call = unsafe { Updater::<SET_INTERFACE, _>::new(&mut request) };
        // SAFETY: the file is the tun device, to which this opcode belongs; the argument is right as
        // argued above.
        unsafe { ioctl(&file, call) }?;
        Ok(Self { file })
    }

    /// The next packet; none if there is none now.
    pub(crate) fn receive(&self, packet: &mut [u8]) -> Option<usize> {
        read(&self.file, packet).ok().filter(|length| *length > 0)
    }

    /// Sends a packet. One that the system does not take is lost, as on any network.
    pub(crate) fn send(&self, packet: &[u8]) {
        let _ = write(&self.file, packet);
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

const _: () = assert!(size_of::<InterfaceRequest>() == 40 && align_of::<InterfaceRequest>() == 8);

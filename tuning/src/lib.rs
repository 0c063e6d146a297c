//! What the host is: its cores and caches, what the kernel allows, and what is missing.
//!
//! Probing and judging are apart. [`Topology::detect`] and [`HostReport::probe`] read the host and
//! return plain values; [`Topology::assign`] and [`check`] decide from such values alone, so that
//! tests can feed them any host. Nothing here changes the host, except that [`pin_current_thread`],
//! [`BackgroundCores`] and [`raise_limits`] act on the calling thread and process.
//!
//! All unsafe code is in `syscall`.

mod affinity;
mod findings;
mod host;
mod memory;
mod placement;
mod syscall;
mod sysfs;
mod topology;

pub use affinity::{BackgroundCores, PinError, pin_current_thread};
pub use findings::{ChannelMemory, Finding, Requirements, SLOT_IO_MEMORY_BYTES, Severity, check};
pub use host::{
    HostReport, HugePages, IoUring, IoUringBlock, KernelVersion, Limit, LockedMemory, raise_limits,
};
pub use placement::Placement;
pub use topology::{Cache, Core, CoreId, Topology};

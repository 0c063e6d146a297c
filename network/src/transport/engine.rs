//! The ring, and all that the kernel refers to while it works on an operation.
//!
//! # Invariants
//! - What an operation refers to stays where it is until it is over: buffers that are sent are owned
//!   here, buffers that are received into by a pool that is owned here.
//! - A buffer that is sent without copying is changed only after the kernel has said that it is done
//!   with it. It may be unmapped before: the kernel holds the pages by itself then.
//! - When the engine is dropped it cancels what is under way and waits for its end; if that does not
//!   come, the memory is leaked.
#![expect(unsafe_code, reason = "operations that refer to memory")]

use super::alarm::Alarm;
use super::receive::{ReceivePool, Received};
use super::send::{SendBuffer, SendBuffers, SendPool};
use super::{TransportFeatures, TransportSettings};
use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use std::io;
use std::mem::ManuallyDrop;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

/// Operations that are queued at once; more are handed over in several calls.
const ENTRIES: u32 = 256;
/// `IORING_SEND_ZC_REPORT_USAGE`: the notification says whether the kernel has copied.
const REPORT_USAGE: u16 = 1 << 3;
/// `IORING_NOTIF_USAGE_ZC_COPIED`, in the result of a notification.
const COPIED: u32 = 1 << 31;
/// Operations that are cancelled end within microseconds.
const END_TIMEOUT: Timespec = Timespec::new().sec(1);
/// Marks the number of an operation that receives; the rest is its tag. One that sends has its place
/// among `sending` for a number.
const RECEIVE: u64 = 1 << 32;
/// The number of the operation that waits for the alarm.
const ALARM: u64 = 1 << 33;

/// Enough to see whether buffers can be registered.
const PROBE_BYTES: usize = 4096;

/// For nobody any more.
const NOBODY: u32 = u32::MAX;

/// What the kernel has done. The tag says for whom.
pub(super) enum Completion {
    /// Bytes have come, none at the end of the stream; no more will if the operation is over.
    Received { tag: u32, result: io::Result<Option<Received>>, is_over: bool },
    /// A buffer was sent to its end, or not.
    Sent { tag: u32, result: io::Result<usize> },
    /// A buffer that was to be sent without copying is not needed any more.
    Notified { copied: bool, tag: u32 },
}

/// A buffer that the kernel reads.
struct Sending {
    tag: u32,
    /// `None` when nothing is left to send.
    stream: Option<Rc<TcpStream>>,
    buffer: SendBuffer,
    zero_copy: bool,
    sent: usize,
    /// Completions that are still to come.
    awaited: u32,
}

pub(super) struct Engine {
    ring: ManuallyDrop<IoUring>,
    /// By tag.
    receive: ManuallyDrop<Vec<Option<ReceivePool>>>,
    receive_buffers: u16,
    receive_buffer_bytes: usize,
    send: ManuallyDrop<Rc<SendPool>>,
    is_deferred: bool,
    is_incremental: bool,
    sending: Vec<Option<Sending>>,
    /// Rung by who wants a wait to end.
    alarm: Option<Alarm>,
    /// Operations that are not over: the kernel may use memory by its address.
    pending: usize,
    /// The kernel can say whether it has copied.
    can_report: bool,
    /// What the kernel has said and was not looked at: number, result, flags.
    said: Vec<(u64, i32, u32)>,
}

impl Engine {
    pub fn open(settings: &TransportSettings) -> io::Result<Self> {
        let deferred = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(4 * ENTRIES)
            .build(ENTRIES);
        let (ring, is_deferred) = match deferred {
            Ok(ring) => (ring, true),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                (IoUring::builder().setup_cqsize(4 * ENTRIES).build(ENTRIES)?, false)
            }
            Err(error) => return Err(error),
        };
        let submitter = ring.submitter();
        // Whether the host has what is needed shows now, not when the first peer connects.
        let probe = ReceivePool::register(&submitter, 0, 1, PROBE_BYTES)?;
        let is_incremental = probe.is_incremental();
        submitter.unregister_buf_ring(0)?;
        drop(probe);
        let send =
            SendPool::register(&submitter, settings.send_buffers, settings.send_buffer_bytes)?;
        Ok(Self {
            ring: ManuallyDrop::new(ring),
            receive: ManuallyDrop::default(),
            receive_buffers: settings.receive_buffers,
            receive_buffer_bytes: settings.receive_buffer_bytes,
            is_incremental,
            send: ManuallyDrop::new(send),
            is_deferred,
            sending: Vec::new(),
            alarm: None,
            pending: 0,
            can_report: true,
            said: Vec::new(),
        })
    }

    pub fn features(&self) -> TransportFeatures {
        TransportFeatures {
            deferred: self.is_deferred,
            incremental_buffers: self.is_incremental,
            registered_buffers: self.send.is_registered(),
        }
    }

    /// Buffers to fill and [send](Self::send).
    pub fn buffers(&self) -> SendBuffers {
        SendBuffers::new(Rc::clone(&self.send))
    }

    /// What ends a wait from elsewhere.
    pub fn alarm(&mut self) -> io::Result<Alarm> {
        if let Some(alarm) = &self.alarm {
            return Ok(alarm.clone());
        }
        let alarm = self.alarm.insert(Alarm::new()?).clone();
        self.arm()?;
        Ok(alarm)
    }

    /// Has the kernel say when the alarm rings.
    fn arm(&mut self) -> io::Result<()> {
        let Some(alarm) = &self.alarm else { return Ok(()) };
        let entry = opcode::PollAdd::new(Fd(alarm.fd()), libc::POLLIN as u32).build();
        self.push(entry.user_data(ALARM))
    }

    /// Makes memory to receive into for a tag.
    pub fn add(&mut self, tag: u32) -> io::Result<()> {
        // Numbers of connections are given again, and there are far fewer than buffers' groups.
        let group = u16::try_from(tag).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let (count, bytes) = (self.receive_buffers, self.receive_buffer_bytes);
        let pool = ReceivePool::register(&self.ring.submitter(), group, count, bytes)?;
        let at = tag as usize;
        if self.receive.len() <= at {
            self.receive.resize_with(at + 1, || None);
        }
        self.receive[at] = Some(pool);
        Ok(())
    }

    fn pool(&mut self, tag: u32) -> Option<&mut ReceivePool> {
        self.receive.get_mut(tag as usize)?.as_mut()
    }

    /// How many buffers there are for a tag to receive into, after those that are not used any more
    /// have been given back.
    pub fn can_receive(&mut self, tag: u32) -> u16 {
        self.pool(tag).map_or(0, |pool| {
            pool.reclaim();
            pool.free()
        })
    }

    /// Nothing is under way for this tag, which may be used for another stream now: what the kernel
    /// still says about buffers that it has sent is for nobody.
    pub fn forget(&mut self, tag: u32) {
        if let Some(pool) = self.receive.get_mut(tag as usize).and_then(Option::take) {
            // Nothing receives into it. If the kernel does not let go of it, its memory must stay.
            if self.ring.submitter().unregister_buf_ring(pool.group()).is_err() {
                std::mem::forget(pool);
            }
        }
        for sending in self.sending.iter_mut().flatten().filter(|sending| sending.tag == tag) {
            (sending.tag, sending.stream) = (NOBODY, None);
        }
    }

    /// Operations that are under way.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Queues the receiving of all that comes.
    pub fn receive(&mut self, tag: u32, stream: &TcpStream) -> io::Result<()> {
        let entry = opcode::RecvMulti::new(Fd(stream.as_raw_fd()), tag as u16).build();
        self.push(entry.user_data(RECEIVE | u64::from(tag)))
    }

    /// Queues the sending of a buffer, all of it. One for each stream at a time, or their parts mix.
    pub fn send(
        &mut self,
        tag: u32,
        stream: &Rc<TcpStream>,
        buffer: SendBuffer,
        zero_copy: bool,
    ) -> io::Result<()> {
        // Unregistered, each send would be charged to the limit that has refused the registration.
        let zero_copy = zero_copy && self.can_report && buffer.index().is_some();
        let stream = Some(Rc::clone(stream));
        let sending = Sending { tag, stream, buffer, zero_copy, sent: 0, awaited: 0 };
        let free = self.sending.iter().position(Option::is_none);
        let number = free.unwrap_or_else(|| {
            self.sending.push(None);
            self.sending.len() - 1
        });
        self.sending[number] = Some(sending);
        self.send_rest(number)
    }

    /// Queues the sending of what is left of a buffer.
    fn send_rest(&mut self, number: usize) -> io::Result<()> {
        let Some(sending) = &mut self.sending[number] else { return Ok(()) };
        let Some(stream) = &sending.stream else { return Ok(()) };
        let left = &sending.buffer[sending.sent..];
        let (fd, start, len) = (Fd(stream.as_raw_fd()), left.as_ptr(), left.len() as u32);
        // The kernel goes on by itself where it could send a part.
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let entry = if sending.zero_copy {
            opcode::SendZc::new(fd, start, len)
                .buf_index(sending.buffer.index())
                .flags(flags)
                .zc_flags(REPORT_USAGE)
                .build()
        } else {
            opcode::Send::new(fd, start, len).flags(flags).build()
        };
        let queued = self.push(entry.user_data(number as u64));
        let place = &mut self.sending[number];
        if let Some(sending) = place {
            sending.awaited += u32::from(queued.is_ok());
            if sending.awaited == 0 {
                *place = None;
            }
        }
        queued
    }

    fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        // SAFETY: the memory that the entry refers to is in `sending` or the pool to receive into, and
        // stays there until the operation is over, as the module's invariants say.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            unless_it_passes(self.ring.submit())?;
            // The kernel takes no more while what it has said is not looked at.
            self.listen();
        }
        self.pending += 1;
        Ok(())
    }

    /// Hands over what is queued, and lets the kernel say what is done. Waits for nothing. Where nothing is
    /// queued, and the kernel has nothing to say that takes a call, it is not called.
    pub fn submit(&mut self) -> io::Result<()> {
        // SAFETY: the queue is looked at by this thread only.
        let queue = unsafe { self.ring.submission_shared() };
        let queued = queue.len() as u32;
        if queued == 0 && !queue.taskrun() && !queue.cq_overflow() {
            return Ok(());
        }
        // SAFETY: no argument is passed; for what the entries refer to see `push`.
        let entered = unsafe {
            let flags = EnterFlags::GETEVENTS.bits();
            self.ring.submitter().enter::<libc::sigset_t>(queued, 0, flags, None)
        };
        unless_it_passes(entered)
    }

    /// As [`Self::submit`], but waits for something to be done, so long at the most.
    pub fn submit_and_wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if !self.said.is_empty() {
            return self.submit();
        }
        let Some(timeout) = timeout.map(Timespec::from) else {
            return unless_it_passes(self.ring.submitter().submit_and_wait(1));
        };
        let arguments = SubmitArgs::new().timespec(&timeout);
        unless_it_passes(self.ring.submitter().submit_with_args(1, &arguments))
    }

    /// Takes note of what the kernel has said.
    fn listen(&mut self) {
        let news = self.ring.completion();
        let before = self.said.len();
        self.said.extend(news.map(|one| (one.user_data(), one.result(), one.flags())));
        let over = self.said[before..].iter().filter(|(number, _, flags)| {
            let is_one_of_many = number & (RECEIVE | ALARM) != 0;
            if is_one_of_many { !cqueue::more(*flags) } else { !cqueue::notif(*flags) }
        });
        self.pending -= over.count();
    }

    /// What is done.
    ///
    /// # Errors
    /// If the alarm cannot be armed anew.
    pub fn completions(&mut self, out: &mut Vec<Completion>) -> io::Result<()> {
        self.listen();
        let mut said = std::mem::take(&mut self.said);
        let mut rung = Ok(());
        for (number, result, flags) in said.drain(..) {
            if number == ALARM {
                if let Some(alarm) = &self.alarm {
                    alarm.silence();
                }
                rung = self.arm();
            } else if number & RECEIVE != 0 {
                out.push(self.received((number ^ RECEIVE) as u32, result, flags));
            } else {
                out.extend(self.sent(number as usize, result, flags));
            }
        }
        // Nothing was said meanwhile, but for what a full queue has made us listen to.
        said.append(&mut self.said);
        self.said = said;
        rung
    }

    fn received(&mut self, tag: u32, result: i32, flags: u32) -> Completion {
        let result = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
        let len = result.as_ref().copied().unwrap_or(0);
        let bytes = cqueue::buffer_select(flags)
            .and_then(|id| Some(self.pool(tag)?.take(id, len, cqueue::buffer_more(flags))));
        let result = result.map(|_| bytes.filter(|bytes| !bytes.is_empty()));
        Completion::Received { tag, result, is_over: !cqueue::more(flags) }
    }

    fn sent(&mut self, number: usize, result: i32, flags: u32) -> Option<Completion> {
        let sending = self.sending.get_mut(number)?.as_mut()?;
        let tag = sending.tag;
        sending.awaited -= u32::from(!cqueue::more(flags));
        let (is_last, len) = (sending.awaited == 0, sending.buffer.len());
        let completion = if cqueue::notif(flags) {
            Some(Completion::Notified { tag, copied: result as u32 & COPIED != 0 })
        } else if result == -libc::EINVAL && sending.zero_copy {
            // Before Linux 6.2.
            (sending.zero_copy, self.can_report) = (false, false);
            let failure = self.send_rest(number).err();
            return failure.map(|error| Completion::Sent { tag, result: Err(error) });
        } else {
            let result = match usize::try_from(result) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => {
                    sending.sent += sent;
                    Ok(sending.sent)
                }
                Err(_) => Err(io::Error::from_raw_os_error(-result)),
            };
            match result {
                // A part of it: there is room in the queue, or there soon is.
                Ok(sent) if sent < len => {
                    let failure = self.send_rest(number).err();
                    return failure.map(|error| Completion::Sent { tag, result: Err(error) });
                }
                result => Some(Completion::Sent { tag, result }),
            }
        };
        if is_last {
            self.sending[number] = None;
        }
        completion
    }

    /// Waits until the kernel has let go of everything; false if it does not.
    fn settle(&mut self) -> bool {
        let cancelled = self.ring.submit().and_then(|_| {
            self.ring.submitter().register_sync_cancel(Some(END_TIMEOUT), CancelBuilder::any())
        });
        if cancelled.is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
            return false;
        }
        self.listen();
        while self.pending > 0 {
            let arguments = SubmitArgs::new().timespec(&END_TIMEOUT);
            let waited = self.ring.submitter().submit_with_args(1, &arguments);
            if waited.is_err_and(|error| error.kind() != io::ErrorKind::Interrupted) {
                return false;
            }
            self.listen();
        }
        true
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.settle() {
            // SAFETY: each is dropped once and not used afterwards, and the kernel refers to none of
            // it. The ring goes first.
            unsafe {
                ManuallyDrop::drop(&mut self.ring);
                ManuallyDrop::drop(&mut self.receive);
                ManuallyDrop::drop(&mut self.send);
            }
        } else {
            // Each keeps its pool.
            self.sending.drain(..).for_each(std::mem::forget);
        }
    }
}

/// What has kept the kernel from taking operations, or has ended a wait, but is over: the next call
/// tries again.
fn unless_it_passes(result: io::Result<usize>) -> io::Result<()> {
    let passes = [libc::EINTR, libc::EAGAIN, libc::EBUSY, libc::ETIME];
    match result {
        Err(error) if error.raw_os_error().is_none_or(|code| !passes.contains(&code)) => Err(error),
        _ => Ok(()),
    }
}

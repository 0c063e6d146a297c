//! What an agent knows of one job.

use crate::cores::Lease;
use crate::process;
use crate::socket::Orders;
use millstream_control::rpc::from_worker::Message as Say;
use millstream_protocol::{Deployment, Order};
use std::net::TcpListener;
use std::time::Duration;
use tokio::time::Instant;

/// What was ordered to exit is killed after this time.
pub(super) const EXIT_TIMEOUT: Duration = Duration::from_secs(3);
/// What a process that has ended has told before is heard within this time.
pub(super) const HEARD_TIMEOUT: Duration = Duration::from_millis(500);

/// A job on this worker.
#[derive(Debug)]
pub(super) struct Entry {
    /// No other start has this number.
    pub(super) run: u64,
    /// The deployment that it was told of last.
    pub(super) generation: u64,
    pub(super) member: u32,
    pub(super) slots: u32,
    pub(super) stage: Stage,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// A port is kept.
    Reserved(TcpListener),
    /// The executable is being fetched.
    Fetching {
        port: TcpListener,
        args: Vec<String>,
        deployment: Box<Deployment>,
    },
    Runs(Box<Process>),
    /// It has ended while there was no coordinator to hear it.
    Ended {
        pid: u32,
        running: bool,
        says: Vec<Say>,
    },
}

#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) lease: Lease,
    pub(super) connection: Option<(u64, Orders)>,
    /// The deployment that it has said to follow, and its number there.
    pub(super) follows: (u64, u32),
    pub(super) running: bool,
    /// What it has told last, if that is how the job has ended.
    pub(super) ended: Option<Say>,
    pub(super) kill_at: Option<Instant>,
    /// It has closed its connection: all that it told was heard.
    pub(super) hung: bool,
    /// How it has ended, and until when what it told last is waited for.
    pub(super) exited: Option<(String, Instant)>,
    /// A port is to be kept for this deployment when it has ended.
    pub(super) reserve_next: Option<u64>,
}

impl Entry {
    /// Asks a process to end, and sees to it that it does.
    pub(super) fn end(&mut self) {
        let Stage::Runs(process) = &mut self.stage else { return };
        if process.kill_at.is_some() {
            return;
        }
        let asked = match &process.connection {
            Some((_, orders)) => orders.try_send(Order::Exit).is_ok(),
            None => false,
        };
        if !asked {
            process.kill();
        }
        process.kill_at = Some(Instant::now() + EXIT_TIMEOUT);
    }
}

impl Process {
    /// Ends it at once, unless it has ended: its number may be another's by now.
    pub(super) fn kill(&self) {
        if self.exited.is_none() {
            process::kill(self.pid);
        }
    }
}

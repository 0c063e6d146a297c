//! Where those reach a job's control who want something of it: its handle, and the agent that has started the
//! process.

use super::attempt;
use crate::checkpoint::Report;
use crate::hosts::Host;
use crate::slot::SlotFailure;
use millstream_protocol::{DEPLOYMENT_VARIABLE, Deployment, Order};
use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What is wanted of a job, by whoever has its handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wanted {
    Running,
    /// To take a last checkpoint and end.
    Stopped,
    /// To end at once.
    Canceled,
}

/// Ends the process, and nothing else: another has its place, or will have it. To cancel the job, here, would
/// take away what that goes on with.
#[expect(
    clippy::disallowed_methods,
    reason = "threads are to be cut off, and what they write to stay"
)]
fn end_as_killed() -> ! {
    std::process::exit(1)
}

/// Becomes a process of another deployment: begins anew as the same program, with its number. Whatever it
/// has begun to write is as if it had been killed.
pub(super) fn begin_anew(deployment: &Deployment) -> ! {
    let Err(error) = become_member(deployment);
    tracing::error!("another deployment cannot be followed: {error}");
    end_as_killed()
}

fn become_member(deployment: &Deployment) -> io::Result<Infallible> {
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let path = std::env::var_os(DEPLOYMENT_VARIABLE).ok_or_else(missing)?;
    let new = Path::new(&path).with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(&new)?.write_all(&serde_json::to_vec(deployment)?)?;
    std::fs::rename(&new, &path)?;
    // Not by its path: an agent may have deleted the executable since.
    let mut args = std::env::args_os();
    let mut again = Command::new("/proc/self/exe");
    again.arg0(args.next().unwrap_or_default());
    Err(again.args(args).exec())
}

/// How long the thread that controls a job may take to let go of the members that it works with. It takes
/// longer where a slot is busy with one record, or reads files.
const LET_GO_MAX: Duration = Duration::from_millis(500);

/// Where handles and cancellers reach the thread that controls a job.
pub(super) struct ControlPanel {
    state: Mutex<PanelState>,
    /// The job is about to go on with other members.
    followed: Condvar,
}

pub(super) struct PanelState {
    wanted: Wanted,
    /// What runs, to be stopped and told.
    pub(super) running: Option<Running>,
    /// Wakes a supervisor that waits between two attempts.
    between: mpsc::Sender<()>,
    /// This process among those of the job, if it can follow another deployment without beginning anew.
    pub(super) host: Option<Arc<Host>>,
    /// What it is to follow.
    deployment: Option<Deployment>,
    /// It was not followed in time, and is by a process that begins anew: this one.
    begins_anew: bool,
}

/// The slots that run, by region, and whom to tell that something is wanted of them.
pub(super) struct Running {
    pub(super) regions: Vec<Arc<attempt::Shared>>,
    pub(super) reports: mpsc::Sender<Report>,
}

impl ControlPanel {
    pub(super) fn new(between: mpsc::Sender<()>) -> Self {
        let state = PanelState {
            wanted: Wanted::Running,
            running: None,
            between,
            host: None,
            deployment: None,
            begins_anew: false,
        };
        Self { state: Mutex::new(state), followed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, PanelState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(&mut PanelState) -> R) -> R {
        f(&mut self.lock())
    }

    pub(super) fn want(&self, wanted: Wanted) {
        self.with(|state| {
            state.wanted = state.wanted.max(wanted);
            if let Some(Running { regions, reports }) = &state.running {
                if wanted == Wanted::Canceled {
                    // Slots end one after another, and the connections of those that are first with them.
                    regions.iter().for_each(|shared| shared.end());
                    regions.iter().for_each(|shared| shared.stop());
                }
                // An error means that the attempt is at its end.
                let _ = reports.send(Report::Woken);
            }
            let _ = state.between.send(());
        });
    }

    /// Does what the agent says that has started this process.
    pub(super) fn obey(&self, order: Order) {
        match order {
            Order::Stop => self.want(Wanted::Stopped),
            Order::Cancel => self.want(Wanted::Canceled),
            Order::Exit => end_as_killed(),
            Order::Checkpoint => self.ask_for_checkpoint(),
            Order::Deploy(deployment) => {
                if !self.hand_over(&deployment, LET_GO_MAX) {
                    tracing::info!("the process begins anew with the other hosts");
                    begin_anew(&deployment);
                }
            }
        }
    }

    /// Has the job go on as another deployment says; what lies in memory stays. False if the thread that
    /// controls the job does not take that up in time, or the process has to begin anew for it.
    fn hand_over(&self, deployment: &Deployment, within: Duration) -> bool {
        let mut state = self.lock();
        let Some(host) = state.host.clone() else { return false };
        state.deployment = Some(deployment.clone());
        if let Some(Running { regions, reports }) = &state.running {
            for shared in regions {
                shared.fail(SlotFailure::of_host(OTHER_HOSTS.to_owned()));
            }
            // As above.
            let _ = reports.send(Report::Woken);
        }
        let _ = state.between.send(());
        drop(state);
        host.let_go();
        let waits = |state: &mut PanelState| state.deployment.is_some();
        let waited = self.followed.wait_timeout_while(self.lock(), within, waits);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.begins_anew = state.deployment.is_some();
        !state.begins_anew
    }

    /// The deployment that is to be followed, if there is one: from now on nothing is wanted that was wanted
    /// before, but what the agent says again. Who cancels the job wants no other.
    pub(super) fn take_deployment(&self) -> Option<Deployment> {
        let mut state = self.lock();
        while state.begins_anew {
            // Nothing more is done here.
            state = self.followed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let deployment = state.deployment.take();
        self.followed.notify_all();
        if state.wanted == Wanted::Canceled {
            return None;
        }
        state.wanted = Wanted::Running;
        deployment
    }

    /// True if the job is to go on with other members.
    pub(super) fn is_handed_over(&self) -> bool {
        self.with(|state| state.deployment.is_some())
    }

    pub(super) fn ask_for_checkpoint(&self) {
        self.with(|state| {
            if let Some(Running { reports, .. }) = &state.running {
                // An error means that the attempt is at its end.
                let _ = reports.send(Report::Asked);
            }
        });
    }

    pub(super) fn wanted(&self) -> Wanted {
        self.with(|state| state.wanted)
    }

    /// True if nobody wants the job to end, or to go on with other members.
    pub(super) fn goes_on(&self) -> bool {
        self.with(|state| state.wanted == Wanted::Running && state.deployment.is_none())
    }
}

/// Why an attempt ends when there are other hosts for the job.
pub(super) const OTHER_HOSTS: &str = "the job goes on with other hosts";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Routes;
    use millstream_protocol::Member;

    fn panel() -> (ControlPanel, Arc<attempt::Shared>) {
        let shared = Arc::new(attempt::Shared::new(Vec::new()));
        let panel = ControlPanel::new(mpsc::channel().0);
        let running = Running { regions: vec![Arc::clone(&shared)], reports: mpsc::channel().0 };
        panel.with(|state| state.running = Some(running));
        (panel, shared)
    }

    #[test]
    fn a_connection_that_ends_as_the_job_is_cancelled_has_failed_nothing() {
        let (panel, shared) = panel();
        panel.want(Wanted::Canceled);
        shared.fail(SlotFailure::of_host("the connection to slot 3 is lost".into()));
        assert!(!shared.has_failed());
    }

    #[test]
    fn a_connection_that_ends_before_the_job_is_cancelled_has_failed_it() {
        let (panel, shared) = panel();
        panel.want(Wanted::Stopped);
        shared.fail(SlotFailure::of_host("the connection to slot 3 is lost".into()));
        panel.want(Wanted::Canceled);
        assert!(shared.has_failed());
    }

    fn deployment() -> Deployment {
        let member = |name: &str, address: &str| Member {
            name: name.into(),
            address: address.into(),
            slots: 1,
            rack: None,
        };
        Deployment {
            job: "job".into(),
            generation: 2,
            members: vec![member("a", "127.0.0.1:0"), member("b", "127.0.0.1:1")],
            member: 0,
            parallelism: None,
            from_checkpoint: None,
            cores: Vec::new(),
            secret_file: None,
            data_directory: None,
            agent: None,
        }
    }

    /// With a host, and an attempt that runs on it.
    fn panel_of_member() -> (ControlPanel, Arc<attempt::Shared>) {
        let (panel, shared) = panel();
        let routes = Routes::of_hosts(&deployment(), 64);
        let host = Host::open(deployment(), routes, 0).unwrap();
        panel.with(|state| state.host = Some(Arc::new(host)));
        (panel, shared)
    }

    #[test]
    fn a_job_that_is_handed_over_ends_its_attempt_and_goes_on_as_if_nothing_else_was_wanted() {
        let (panel, shared) = panel_of_member();
        panel.want(Wanted::Stopped);
        let taken = std::thread::scope(|scope| {
            let control = scope.spawn(|| {
                while !panel.is_handed_over() {
                    std::thread::yield_now();
                }
                assert!(!panel.goes_on());
                panel.take_deployment()
            });
            assert!(panel.hand_over(&deployment(), Duration::from_secs(60)));
            control.join().unwrap()
        });
        assert_eq!(taken, Some(deployment()));
        assert!(shared.has_failed());
        assert!(panel.goes_on());
    }

    #[test]
    fn what_nobody_takes_up_in_time_is_not_taken_up_later() {
        let (panel, _) = panel_of_member();
        let panel = Arc::new(panel);
        assert!(!panel.hand_over(&deployment(), Duration::from_millis(1)));
        let (late, control) = (mpsc::channel(), Arc::clone(&panel));
        // It is left behind, as by a process that begins anew.
        std::thread::spawn(move || drop(late.0.send(control.take_deployment())));
        let taken = late.1.recv_timeout(Duration::from_millis(100));
        assert_eq!(taken, Err(mpsc::RecvTimeoutError::Timeout));
    }

    #[test]
    fn a_job_without_a_host_or_one_that_is_cancelled_follows_no_other_deployment() {
        let (without, _) = panel();
        assert!(!without.hand_over(&deployment(), Duration::from_secs(60)));
        assert!(!without.is_handed_over());
        let (panel, _) = panel_of_member();
        panel.want(Wanted::Canceled);
        panel.with(|state| state.deployment = Some(deployment()));
        assert_eq!(panel.take_deployment(), None);
        assert!(!panel.is_handed_over());
    }
}

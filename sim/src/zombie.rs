//! A member that was taken for lost and replaced, and does not know it yet: it goes on alone with what
//! the attempt has left it. And what a host does for another that asks, whoever that is.

use crate::Bug;
use crate::Report;
use crate::disk::Operation;
use crate::hosts::{Crew, HostDisk, HostId};
use crate::job::Job;
use crate::message::Token;
use crate::network::{Answer, Request};

pub(crate) struct Zombie {
    pub(crate) host: HostId,
    pub(crate) job: Box<Job>,
    /// Whom it takes for members.
    pub(crate) crew: Crew,
    /// When it notices.
    pub(crate) until: u64,
    /// Nobody reads it.
    pub(crate) report: Report,
}

impl Zombie {
    pub(crate) fn new(mut job: Box<Job>, crew: Crew, member: usize, until: u64) -> Self {
        job.leave(member);
        Self { host: crew.hosts[member], job, crew, until, report: Report::default() }
    }

    /// Whether a script of the attempt is one of its own.
    pub(crate) fn has(&self, token: &Token) -> bool {
        self.crew.hosts[self.crew.member_of(token.subtask())] == self.host
    }
}

/// What is done to a disk for a request; or its answer, if nothing is. What is being written has a `name`
/// of its own until it is whole.
pub(crate) fn serve(
    request: Request,
    disk: &HostDisk,
    name: &str,
    bug: Option<Bug>,
) -> Result<Vec<Operation>, Answer> {
    let aside = |path: &str, bytes| {
        let partial = format!("{path}.{name}");
        let script = vec![
            Operation::Create(partial.clone()),
            Operation::Append(partial.clone(), bytes),
            Operation::Sync(partial.clone()),
        ];
        (partial, script)
    };
    let script = match request {
        Request::Look(path) => {
            return Err(Answer::Found(disk.read(&path).map_or(0, |bytes| bytes.len() as u64)));
        }
        Request::Append(path, offset, bytes) => {
            let write = Operation::Write(path.clone(), offset as usize, bytes);
            let sync = [Operation::Sync(path), Operation::SyncDirectory];
            let unsynced = bug == Some(Bug::UnsyncedCopy);
            std::iter::once(write).chain(sync.into_iter().skip(usize::from(unsynced))).collect()
        }
        Request::Put(path, bytes) => {
            let (partial, mut script) = aside(&path, bytes);
            script.push(Operation::Remove(path.clone()));
            script.extend([Operation::Publish(partial, path), Operation::SyncDirectory]);
            script
        }
        Request::Create(path, bytes) => {
            let (partial, mut script) = aside(&path, bytes);
            script.extend([Operation::Publish(partial, path), Operation::SyncDirectory]);
            script
        }
        Request::Delete(paths) => {
            let removals = paths.into_iter().map(Operation::Remove);
            removals.chain([Operation::SyncDirectory]).collect()
        }
    };
    Ok(script)
}

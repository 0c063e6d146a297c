//! What the processes of a job on several hosts are told, and what they tell.
//!
//! A job has one process per host, its **members**, all of the same executable. Each is told who all
//! members are and which it is itself: by a [`Deployment`]. The first member controls the job; whoever
//! started the processes, a worker's agent, hears from each by [`Told`] and asks by [`Order`], one JSON
//! object per line, over a socket of the host.
//!
//! What a process can count on, and its agent:
//!
//! - The process connects to the agent's socket and says [`Hello`](Told::Hello) first, within 10 seconds; and
//!   again when it follows the deployment of an [`Order::Deploy`]: on the same connection, or on a new one if it
//!   has to begin anew for it, as the same process. What it tells counts for the deployment of its last `Hello`.
//! - Its port is free when it starts: the agent has kept it until then. If it is taken all the same, the
//!   process ends, and gets another in the next deployment.
//! - The connection closes when the agent ends. The process then tries to connect again, and says `Hello`; if
//!   there is no agent for 30 seconds it ends, as nobody else would end it. A new agent of the same directory
//!   ends it as well.
//! - [`Ended`](Told::Ended) of the first member is how the job has ended. The others end, too; those that
//!   have not done so after a while get [`Order::Exit`]. A process that ends without it is lost, and replaced.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The variable of the environment that holds the path of a file with a [`Deployment`], as JSON.
pub const DEPLOYMENT_VARIABLE: &str = "MILLSTREAM_DEPLOYMENT";

/// One process of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The host's name, for people.
    pub name: String,
    /// Where the others reach it: `HOST:PORT`, of this job alone.
    pub address: String,
    /// How many of the job's slots it has. They are numbered through, in the order of the members.
    pub slots: u32,
    /// What may fail together with it, such as the hosts of a rack.
    #[serde(default)]
    pub rack: Option<String>,
}

/// All members of a job, and which of them is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    /// The job's id: what others send is refused.
    pub job: String,
    /// Grows with each deployment of the job. What an older one sends is refused, so that a process that
    /// was taken for dead does no harm.
    pub generation: u64,
    /// All members, the one that controls the job first.
    pub members: Vec<Member>,
    /// Which of them this process is.
    pub member: usize,
    /// How many subtasks an operator has that sets none; else as the program says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<u32>,
    /// A directory of checkpoints that the job goes on from, and goes on to use. It must hold one. A relative
    /// path begins at the process' working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_checkpoint: Option<PathBuf>,
    /// The cores that it may pin its slots to; none is pinned if there are fewer of them than slots.
    #[serde(default)]
    pub cores: Vec<usize>,
    /// A file with the secret that members prove to each other that they know. Needed unless all
    /// addresses are of the loopback interface.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// Where the process keeps what it stores on this host, for itself alone.
    #[serde(default)]
    pub data_directory: Option<PathBuf>,
    /// The socket on which the agent listens, if one does.
    #[serde(default)]
    pub agent: Option<PathBuf>,
}

/// What a process tells its agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "snake_case")]
pub enum Told {
    /// The first thing: who it is. Told again when it follows another deployment.
    Hello {
        /// The job's id.
        job: String,
        /// Of the deployment that it follows.
        generation: u64,
        /// Its number among the members.
        member: usize,
        /// The process.
        pid: u32,
    },
    /// Told by the first member: the job's slots work, all of them.
    Running {
        /// How many attempts have begun.
        attempt: u64,
        /// The checkpoint that it has gone on from.
        restored: Option<u64>,
    },
    /// Told by the first member: an attempt has failed, and the next begins after a pause; or it waits for what it
    /// needs to begin.
    Restarting {
        /// Why.
        error: String,
    },
    /// A member cannot be reached. Somebody else is to take its place.
    Unreachable {
        /// Its number.
        member: usize,
        /// What was seen.
        error: String,
    },
    /// Told by the first member: a checkpoint is complete.
    Checkpoint {
        /// Its number.
        id: u64,
        /// From its announcement to its commit, in microseconds.
        took_us: u64,
    },
    /// Told by the first member now and then: counters of the job, as `--metrics` shows them.
    Counters {
        /// Records that sources have emitted.
        records_in: u64,
        /// Records that sinks have taken.
        records_out: u64,
    },
    /// The last thing: how the job has ended as this member sees it. The process ends.
    Ended {
        /// How.
        status: EndStatus,
        /// Why, if it has failed.
        error: Option<String>,
    },
}

/// How a job has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndStatus {
    /// All sources ended and all was processed.
    Finished,
    /// It was stopped, with a last checkpoint to go on from.
    Stopped,
    /// It was cancelled.
    Canceled,
    /// It has failed, and is not to be started again.
    Failed,
}

/// What an agent asks of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// To end with a last checkpoint, which is kept. For the first member. It may come again.
    Stop,
    /// To end at once. For the first member.
    Cancel,
    /// To take a checkpoint. For the first member.
    Checkpoint,
    /// To go on with other members: what this process keeps in memory can be used again. It is the
    /// member that the deployment says from now on.
    Deploy(Deployment),
    /// To end at once, as another process has taken its place.
    Exit,
}

impl Deployment {
    /// The number of slots of all members.
    pub fn slots(&self) -> u32 {
        self.members.iter().map(|member| member.slots).sum()
    }

    /// The number of the first slot of a member.
    pub fn first_slot(&self, member: usize) -> u32 {
        self.members[..member].iter().map(|member| member.slots).sum()
    }

    /// Whose slot it is.
    pub fn member_of(&self, slot: u32) -> Option<usize> {
        let mut end = 0;
        self.members.iter().position(|member| {
            end += member.slots;
            slot < end
        })
    }

    /// The other members in the order in which they are to have copies of what a member keeps: from each
    /// rack as few as can be, its own counted, and else those that follow on it first, and then those before
    /// it, the nearest first: the neighbours take over its slots if nobody else has room.
    pub fn replicas_of(&self, member: usize) -> Vec<usize> {
        let rack = |member: usize| self.members[member].rack.as_deref();
        let mut left: Vec<_> = (member + 1..self.members.len()).chain((0..member).rev()).collect();
        let mut chosen = Vec::new();
        while !left.is_empty() {
            // Of members without a rack nothing is known that they share.
            let as_near = |other: usize| {
                let near = std::iter::once(&member).chain(&chosen);
                near.filter(|one| rack(other).is_some() && rack(**one) == rack(other)).count()
            };
            let next = (0..left.len()).min_by_key(|at| as_near(left[*at])).unwrap_or(0);
            chosen.push(left.remove(next));
        }
        chosen
    }

    /// Checks what the types do not say.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn validate(&self) -> Result<(), String> {
        if self.member >= self.members.len() {
            return Err(format!("there is no member {} of {}", self.member, self.members.len()));
        }
        if let Some(none) = self.members.iter().find(|member| member.slots == 0) {
            return Err(format!("{} has no slots; give it one at least", none.name));
        }
        for (at, one) in self.members.iter().enumerate() {
            if let Some(other) = self.members[..at].iter().find(|o| o.address == one.address) {
                return Err(format!(
                    "{} and {} have the same address {}",
                    other.name, one.name, one.address
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, port: u16, slots: u32) -> Member {
        Member { name: name.into(), address: format!("127.0.0.1:{port}"), slots, rack: None }
    }

    fn deployment() -> Deployment {
        Deployment {
            job: "job".into(),
            generation: 3,
            members: vec![member("a", 1, 2), member("b", 2, 1), member("c", 3, 4)],
            member: 1,
            parallelism: None,
            from_checkpoint: None,
            cores: Vec::new(),
            secret_file: None,
            data_directory: None,
            agent: None,
        }
    }

    #[test]
    fn slots_are_numbered_through() {
        let deployment = deployment();
        assert_eq!(deployment.slots(), 7);
        let members: Vec<_> = (0..8).map(|slot| deployment.member_of(slot)).collect();
        let expected = [0, 0, 1, 2, 2, 2, 2].map(Some);
        assert_eq!(members[..7], expected);
        assert_eq!(members[7], None);
        assert_eq!(deployment.first_slot(2), 3);
    }

    #[test]
    fn copies_go_to_as_many_racks_as_there_are() {
        let of = |racks: &[&str]| {
            let members = (1..).zip(racks).map(|(port, rack)| Member {
                rack: Some((*rack).to_owned()).filter(|rack| !rack.is_empty()),
                ..member(rack, port, 1)
            });
            Deployment { members: members.collect(), ..deployment() }
        };
        // Where nothing is known of racks, or all are in one, the nearest ones.
        for racks in [["", "", "", ""], ["a", "a", "a", "a"]] {
            assert_eq!(of(&racks).replicas_of(2), [3, 1, 0], "{racks:?}");
        }
        let racks = of(&["a", "a", "b", "b", "c", ""]);
        assert_eq!(racks.replicas_of(0), [2, 4, 5, 1, 3]);
        assert_eq!(racks.replicas_of(2), [4, 5, 1, 3, 0]);
        assert_eq!(racks.replicas_of(5), [4, 3, 1, 2, 0]);
        let (two, own) = (of(&["a", "a", "a", "b"]), [3, 2, 0]);
        assert_eq!(two.replicas_of(1), own);
        assert!(of(&["a"]).replicas_of(0).is_empty());
    }

    #[test]
    fn what_cannot_be_is_said() {
        assert_eq!(deployment().validate(), Ok(()));
        let wrong = [
            Deployment { member: 3, ..deployment() },
            Deployment { members: vec![member("a", 1, 1), member("b", 1, 1)], ..deployment() },
            Deployment { members: vec![member("a", 1, 1), member("b", 2, 0)], ..deployment() },
        ];
        for one in wrong {
            assert!(one.validate().is_err(), "{one:?}");
        }
    }
}

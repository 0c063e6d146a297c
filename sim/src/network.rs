//! What hosts say to each other, and what keeps it from arriving.
//!
//! Messages between two hosts come in the order in which they were sent, on each connection; what is
//! sent on different ones comes in any order. Nothing comes through a cut, or to a host that stands
//! still: it waits until then, or until nobody wants it any more.

use crate::hosts::{AttemptId, HostId};
use crate::message::{ToCoordinator, ToSubtask};
use crate::random::Random;
use millstream_protocol::SubtaskId;
use std::collections::{BTreeMap, VecDeque};

/// What is wanted of another member's directory.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    /// How much there is of a file.
    Look(String),
    /// Adds to a file that grows; all of it is durable when this is answered.
    Append(String, u64, Vec<u8>),
    /// Writes a whole file.
    Put(String, Vec<u8>),
    /// The same, only if there is none of that name.
    Create(String, Vec<u8>),
    Delete(Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Found(u64),
    Failed,
}

/// What a message says.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Mail(SubtaskId, ToSubtask),
    Report(SubtaskId, ToCoordinator),
    Request(u64, Request),
    Answer(u64, Answer),
}

impl Body {
    /// Control links and connections for files are different ones.
    fn is_of_files(&self) -> bool {
        matches!(self, Self::Request(..) | Self::Answer(..))
    }
}

/// A connection, by its ends, and one of its directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Wire {
    from: HostId,
    to: HostId,
    attempt: AttemptId,
    of_files: bool,
}

/// What has arrived.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) from: HostId,
    pub(crate) to: HostId,
    pub(crate) attempt: AttemptId,
    pub(crate) body: Body,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Network {
    /// What is on its way, with the tick before which it does not arrive.
    wires: BTreeMap<Wire, VecDeque<(u64, Body)>>,
    /// Nothing passes from the first to the second until then.
    cuts: BTreeMap<(HostId, HostId), u64>,
    /// Hosts that stand still until then.
    frozen: BTreeMap<HostId, u64>,
    /// Since when one has heard nothing of another.
    silent: BTreeMap<(HostId, HostId), u64>,
}

/// How long a message may take.
const DELAY_MAX: u64 = 8;
/// How long one may be late whose connection has ended.
const LATE_MAX: u64 = 80;

impl Network {
    pub(crate) fn send(&mut self, now: u64, message: Message, random: &mut Random) {
        let Message { from, to, attempt, body } = message;
        let wire = Wire { from, to, attempt, of_files: body.is_of_files() };
        let due = now + random.between(1, DELAY_MAX);
        self.wires.entry(wire).or_default().push_back((due, body));
    }

    /// What arrives now.
    pub(crate) fn step(&mut self, now: u64) -> Vec<Message> {
        self.cuts.retain(|_, until| *until > now);
        self.frozen.retain(|_, until| *until > now);
        let mut arrived = Vec::new();
        for (wire, messages) in &mut self.wires {
            let Wire { from, to, attempt, .. } = *wire;
            if self.cuts.contains_key(&(from, to)) || self.frozen.contains_key(&to) {
                continue;
            }
            while messages.front().is_some_and(|(due, _)| *due <= now)
                && let Some((_, body)) = messages.pop_front()
            {
                arrived.push(Message { from, to, attempt, body });
            }
        }
        self.wires.retain(|_, messages| !messages.is_empty());
        arrived
    }

    /// An attempt is over. What it has sent is lost, or comes late.
    pub(crate) fn end(&mut self, attempt: AttemptId, now: u64, random: &mut Random) {
        self.wires.retain(|wire, messages| {
            if wire.attempt != attempt {
                return true;
            }
            let late = now + random.below(LATE_MAX);
            messages.iter_mut().for_each(|(due, _)| *due = late.max(*due));
            random.one_in(2)
        });
    }

    /// Nothing comes from a host that is gone, or to it.
    pub(crate) fn forget(&mut self, host: HostId) {
        self.wires.retain(|wire, _| wire.from != host && wire.to != host);
        self.cuts.retain(|(from, to), _| *from != host && *to != host);
        self.frozen.remove(&host);
    }

    pub(crate) fn cut(&mut self, from: HostId, to: HostId, until: u64) {
        self.cuts.insert((from, to), until);
    }

    pub(crate) fn freeze(&mut self, host: HostId, until: u64) {
        self.frozen.insert(host, until);
    }

    pub(crate) fn is_frozen(&self, host: HostId) -> bool {
        self.frozen.contains_key(&host)
    }

    /// Whether something that is on its way from one to the other arrives there.
    pub(crate) fn is_open(&self, from: HostId, to: HostId) -> bool {
        !self.cuts.contains_key(&(from, to)) && !self.is_frozen(to)
    }

    /// Whether all of these can do what they want, and hear each other.
    pub(crate) fn is_whole(&self, hosts: &[HostId]) -> bool {
        let cut = |(from, to): &(HostId, HostId)| hosts.contains(from) && hosts.contains(to);
        !hosts.iter().any(|host| self.is_frozen(*host)) && !self.cuts.keys().any(cut)
    }

    /// Who of these has heard nothing of another for so long that it takes that for lost: who, and whom.
    /// Signs of life are not messages here.
    pub(crate) fn silence(
        &mut self,
        hosts: &[HostId],
        now: u64,
        most: u64,
    ) -> Option<(HostId, HostId)> {
        let mut found = None;
        for (from, to) in hosts.iter().flat_map(|from| hosts.iter().map(move |to| (*from, *to))) {
            let hears = self.is_open(from, to) && !self.is_frozen(from);
            if hears || from == to {
                self.silent.remove(&(from, to));
                continue;
            }
            let since = *self.silent.entry((from, to)).or_insert(now);
            // Who stands still does not notice.
            if now - since > most && !self.is_frozen(to) {
                found = found.or(Some((to, from)));
            }
        }
        found
    }

    /// A new attempt begins, and nobody has been silent yet.
    pub(crate) fn begin(&mut self) {
        self.silent.clear();
    }

    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
        self.frozen.clear();
    }
}

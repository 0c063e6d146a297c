//! The edges of the graph, and how they become channels.

use super::Pattern;
use crate::exchange::{
    ChannelId, EdgeId, ExchangeSettings, Inlet, Outbound, RemoteChannel, Routes, SlotLinks,
};
use crate::rows::Rows;
use millstream_network::{Doorbell, channel, channel_bytes};
use millstream_state::Data;
use millstream_types::{SlotIndex, SubtaskIndex, Timestamp};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Lets what comes from another host go into a channel within this one: on the thread of the slot that has
/// the connection.
pub(crate) type OpenFeed = Box<dyn FnOnce(&mut SlotLinks) + Send>;

/// What edges are wired with.
pub(crate) struct Wires<'a> {
    slots: Range<u32>,
    doorbells: &'a [Doorbell],
    routes: &'a Routes,
    credits: usize,
    /// The number of the next channel of the job, here or not.
    number: u32,
    /// By slot of this process.
    pub(super) feeds: Vec<Vec<OpenFeed>>,
}

impl<'a> Wires<'a> {
    /// For channels with so many credits in these slots of a process, of which each has a doorbell, and with others
    /// of other processes.
    pub(crate) fn new(
        slots: Range<u32>,
        doorbells: &'a [Doorbell],
        routes: &'a Routes,
        credits: usize,
    ) -> Self {
        let feeds = doorbells.iter().map(|_| Vec::new()).collect();
        Self { slots, doorbells, routes, credits, number: 0, feeds }
    }

    /// Which of this process' slots it is; `None` if it is another host's.
    fn here(&self, slot: SlotIndex) -> Option<usize> {
        self.slots.contains(&slot.0).then(|| (slot.0 - self.slots.start) as usize)
    }
}

/// Between which subtasks an edge's channels are.
#[derive(Clone, Copy)]
struct Shape {
    pattern: Pattern,
    senders: usize,
    receivers: usize,
}

/// An edge of the graph: the channels between the subtasks of two vertices.
pub struct Edge<T: Send + 'static>(Arc<Mutex<Ends<T>>>);

struct Ends<T: Send + 'static> {
    /// Known when the edge is wired.
    id: Option<EdgeId>,
    shape: Shape,
    senders: Vec<Vec<(Outbound<T>, ChannelId)>>,
    receivers: Vec<Vec<Inlet<T>>>,
}

impl<T: Send + 'static> Clone for Edge<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Send + 'static> Default for Edge<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Ends {
            id: None,
            shape: Shape { pattern: Pattern::AllToAll, senders: 0, receivers: 0 },
            senders: Vec::new(),
            receivers: Vec::new(),
        })))
    }
}

impl<T: Send + 'static> Edge<T> {
    fn ends(&self) -> MutexGuard<'_, Ends<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which it is.
    ///
    /// # Panics
    /// If it is not wired.
    pub fn id(&self) -> EdgeId {
        self.ends().id.expect("edges are wired before subtasks are built")
    }

    /// Which subtask is to emit again what was in flight from a sender to a target, one of so many. While
    /// their number has not changed, it is one that has a channel to the target.
    pub(crate) fn emits_again(&self, sender: u32, target: u32, targets: u32) -> u32 {
        let Shape { pattern, senders, receivers } = self.ends().shape;
        let reaches = |sender: &usize| {
            pattern.targets(*sender, senders, receivers).contains(&(target as usize))
        };
        let reaching: Vec<usize> = match targets as usize == receivers {
            true => (0..senders).filter(reaches).collect(),
            false => (0..senders).collect(),
        };
        reaching.get(sender as usize % reaching.len().max(1)).map_or(0, |sender| *sender as u32)
    }

    /// The channels that a sending subtask writes, in the order of their targets. Each subtask
    /// takes them once, when it is built.
    pub fn take_senders(&self, subtask: SubtaskIndex) -> Vec<(Outbound<T>, ChannelId)> {
        std::mem::take(&mut self.ends().senders[subtask.0 as usize])
    }

    /// The channels that a receiving subtask reads.
    pub fn take_receivers(&self, subtask: SubtaskIndex) -> Vec<Inlet<T>> {
        std::mem::take(&mut self.ends().receivers[subtask.0 as usize])
    }
}

/// Makes an edge's channels.
pub(super) trait Wiring {
    /// The bytes of a channel without batches, of the batch that it starts with, and of a full one,
    /// each record of which has a timestamp.
    fn channel_bytes(&self, settings: ExchangeSettings) -> [u64; 3];

    /// Makes the channels that begin or end here.
    fn wire(
        &self,
        id: EdgeId,
        pattern: Pattern,
        from: &[SlotIndex],
        to: &[SlotIndex],
        wires: &mut Wires<'_>,
    );
}

impl<T: Data> Wiring for Edge<T> {
    fn channel_bytes(&self, settings: ExchangeSettings) -> [u64; 3] {
        let rows = settings.rows_per_batch::<T>();
        let ends = channel_bytes::<Rows<T>>(settings.credits);
        let (empty, timestamps) = (rows * size_of::<T>(), rows * size_of::<Timestamp>());
        [ends, empty, empty + timestamps].map(|bytes| bytes as u64)
    }

    fn wire(
        &self,
        edge: EdgeId,
        pattern: Pattern,
        from: &[SlotIndex],
        to: &[SlotIndex],
        wires: &mut Wires<'_>,
    ) {
        let mut ends = self.ends();
        ends.id = Some(edge);
        ends.shape = Shape { pattern, senders: from.len(), receivers: to.len() };
        // Those in other slots may be about to take theirs, of another wiring.
        ends.receivers.resize_with(to.len(), Vec::new);
        ends.senders.resize_with(from.len(), Vec::new);
        for (receivers, slot) in ends.receivers.iter_mut().zip(to) {
            if wires.here(*slot).is_some() {
                receivers.clear();
            }
        }
        for (index, sender_slot) in from.iter().enumerate() {
            let mut senders = Vec::new();
            for target in pattern.targets(index, from.len(), to.len()) {
                let receiver_slot = to[target];
                let (sending, targets) = (index as u32, to.len() as u32);
                let id = ChannelId { edge, sender: sending, target: target as u32, targets };
                let Wires { doorbells, routes, credits, number, .. } = *wires;
                match (wires.here(*sender_slot), wires.here(receiver_slot)) {
                    (Some(from), Some(to)) => {
                        let (sender, receiver) = channel(credits, &doorbells[from], &doorbells[to]);
                        senders.push((Outbound::Here(sender), id));
                        ends.receivers[target].push(Inlet { receiver, id });
                    }
                    (Some(_), None) => {
                        let slot = routes.gateway(*sender_slot, receiver_slot);
                        let remote = RemoteChannel { number, slot };
                        senders.push((Outbound::Elsewhere(remote), id));
                    }
                    (None, Some(to)) => {
                        let gateway = routes.gateway(*sender_slot, receiver_slot);
                        let at = wires.here(gateway).expect("a gateway is on the receiver's host");
                        let (into, receiver) = channel(credits, &doorbells[at], &doorbells[to]);
                        let remote = RemoteChannel { number, slot: *sender_slot };
                        wires.feeds[at]
                            .push(Box::new(move |links| links.receive_into(remote, into)));
                        ends.receivers[target].push(Inlet { receiver, id });
                    }
                    (None, None) => {}
                }
                wires.number += 1;
            }
            if wires.here(*sender_slot).is_some() {
                ends.senders[index] = senders;
            }
        }
    }
}

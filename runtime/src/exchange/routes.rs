//! By which connections the slots of two hosts reach each other.

use millstream_protocol::Deployment;
use millstream_types::SlotIndex;
use std::ops::Range;

/// Which slots of two hosts are connected.
///
/// Few are connected each with each. Where that would make more connections than wanted, they **fan in**:
/// each slot of the host with more of them has one connection to the other host, and by that a **gateway**
/// there, which hands what it receives to the slots that it is for. So two hosts have as many connections as
/// the one with more slots has slots, instead of the product. What has a connection of its own goes by that.
#[derive(Clone, Debug)]
pub(crate) struct Routes {
    /// The slots of each host, one behind the other.
    hosts: Vec<Range<u32>>,
    fan_in_above: u32,
}

impl Routes {
    /// Of a job on one host.
    pub(crate) fn of_one_host(slots: u32) -> Self {
        Self { hosts: std::iter::once(0..slots).collect(), fan_in_above: u32::MAX }
    }

    /// Of a job on these hosts. Two of them have slots that fan in if there are more pairs of them than
    /// said.
    pub(crate) fn of_hosts(deployment: &Deployment, fan_in_above: u32) -> Self {
        let hosts = deployment.members.iter().enumerate().map(|(member, host)| {
            let first = deployment.first_slot(member);
            first..first + host.slots
        });
        Self { hosts: hosts.collect(), fan_in_above }
    }

    /// The slots of a host.
    ///
    /// # Panics
    /// If there is no such host.
    pub(crate) fn slots(&self, host: usize) -> Range<u32> {
        self.hosts[host].clone()
    }

    /// The connections between two hosts, each once: a slot of the one and a slot of the other.
    pub(crate) fn connections(
        &self,
        one: usize,
        other: usize,
    ) -> impl Iterator<Item = (u32, u32)> + use<> {
        let (one, other) = (self.slots(one), self.slots(other));
        let fan_in = self.fan_in(&one, &other);
        let (ones, others) = (one.len() as u32, other.len() as u32);
        let count = if fan_in { ones.max(others) } else { ones * others };
        (0..count).map(move |at| match fan_in {
            true => (one.start + at % ones, other.start + at % others),
            false => (one.start + at / others, other.start + at % others),
        })
    }

    /// How many connections each slot of a host has.
    pub(crate) fn connections_of_slots(&self, host: usize) -> Vec<usize> {
        let own = self.slots(host);
        let of_slot = |slot: usize| {
            let others = self.hosts.iter().enumerate().filter(|(other, _)| *other != host);
            let with = others.map(|(_, other)| match self.fan_in(&own, other) {
                true => (own.len().max(other.len()) - slot).div_ceil(own.len()),
                false => other.len(),
            });
            with.sum()
        };
        (0..own.len()).map(of_slot).collect()
    }

    /// The slot on the receiver's host with which the sender has the connection for what is to go to the
    /// receiver.
    ///
    /// # Panics
    /// If one of them is no slot of the job.
    pub(crate) fn gateway(&self, sender: SlotIndex, receiver: SlotIndex) -> SlotIndex {
        let (from, to) = (self.host_of(sender), self.host_of(receiver));
        if !self.fan_in(from, to) {
            return receiver;
        }
        let (senders, receivers) = (from.len() as u32, to.len() as u32);
        let (sender, receiver) = (sender.0 - from.start, receiver.0 - to.start);
        let at = if senders < receivers {
            // Of those that it is connected with, one near the receiver.
            let at = receiver - receiver % senders + sender;
            if at < receivers { at } else { at - senders }
        } else {
            sender % receivers
        };
        SlotIndex(to.start + at)
    }

    fn host_of(&self, slot: SlotIndex) -> &Range<u32> {
        let found = self.hosts.iter().find(|slots| slots.contains(&slot.0));
        found.expect("each slot of a job is one of its hosts'")
    }

    fn fan_in(&self, one: &Range<u32>, other: &Range<u32>) -> bool {
        one.len() as u64 * other.len() as u64 > u64::from(self.fan_in_above)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn routes(slots: &[u32], fan_in_above: u32) -> Routes {
        let mut end = 0;
        let hosts = slots.iter().map(|slots| {
            end += slots;
            end - slots..end
        });
        Routes { hosts: hosts.collect(), fan_in_above }
    }

    #[test]
    fn two_hosts_with_many_slots_have_as_many_connections_as_slots() {
        let count = |slots: &[u32]| routes(slots, 256).connections(0, 1).count();
        assert_eq!(count(&[16, 16]), 256);
        assert_eq!(count(&[17, 16]), 17);
        assert_eq!(count(&[64, 64]), 64);
        assert_eq!(routes(&[64, 64, 4], 256).connections_of_slots(0), [1 + 4; 64]);
        // One slot has to be connected with each anyhow.
        let one = routes(&[1, 300], 256);
        assert_eq!(one.gateway(SlotIndex(0), SlotIndex(70)), SlotIndex(70));
    }

    proptest! {
        /// Whatever the hosts, each channel finds a connection, which both sides make.
        #[test]
        fn a_gateway_is_connected(
            slots in prop::collection::vec(1u32..7, 2..5),
            fan_in_above in 0u32..30,
        ) {
            let routes = routes(&slots, fan_in_above);
            for one in 0..slots.len() {
                let mut of_slot = BTreeMap::<u32, usize>::new();
                for other in (0..slots.len()).filter(|other| *other != one) {
                    let made: Vec<_> = routes.connections(one, other).collect();
                    let set: BTreeSet<_> = made.iter().copied().collect();
                    prop_assert_eq!(set.len(), made.len(), "a connection is made once");
                    let seen_there = routes.connections(other, one).map(|(there, here)| (here, there));
                    prop_assert_eq!(&set, &seen_there.collect());
                    let pairs = slots[one] * slots[other];
                    prop_assert!(set.len() as u32 <= pairs.min(fan_in_above.max(slots[one].max(slots[other]))));
                    for (from, _) in made {
                        *of_slot.entry(from).or_default() += 1;
                    }
                    for from in routes.slots(one) {
                        for to in routes.slots(other) {
                            let gateway = routes.gateway(SlotIndex(from), SlotIndex(to));
                            prop_assert!(set.contains(&(from, gateway.0)));
                            if set.contains(&(from, to)) {
                                prop_assert_eq!(gateway, SlotIndex(to), "a way that is not needed");
                            }
                        }
                    }
                }
                let counted: Vec<_> = of_slot.into_values().collect();
                prop_assert_eq!(counted, routes.connections_of_slots(one));
            }
        }
    }
}

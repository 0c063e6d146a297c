//! Which core each slot gets.

use crate::{Core, CoreId, Topology};

/// Where a slot runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The core.
    pub core: CoreId,
    /// The memory node near it, for the slot's own allocations.
    pub numa_node: Option<u32>,
    /// True in every placement of an assignment with more slots than [`Topology::slots_max`]. The
    /// slots then share cores or a CPU quota: a slot that spins while it waits takes the time of
    /// the slot that it waits for, so spinning must be refused.
    pub oversubscribed: bool,
}

impl Topology {
    /// One placement per slot, by slot index.
    ///
    /// Every physical core is used before any second hardware thread of one: two threads of a core
    /// share its execution units and its first caches. Among equals, slots fill a memory node, then
    /// a package, then a last-level cache before the next, since a ring hop within a shared cache
    /// is several times cheaper than one across packages. If there are more slots than cores, the
    /// assignment starts over from the first core.
    pub fn assign(&self, slots: usize) -> Vec<Placement> {
        let mut order: Vec<&Core> = self.cores().iter().collect();
        order.sort_by_key(|core| {
            let cache = core.last_level_cache.as_ref().and_then(|cache| cache.shared_by.first());
            (self.thread_rank(core), core.numa_node, core.package, cache, core.id)
        });
        let oversubscribed = slots > self.slots_max();
        order
            .iter()
            .cycle()
            .take(slots)
            .map(|core| Placement { core: core.id, numa_node: core.numa_node, oversubscribed })
            .collect()
    }

    /// How many of the physical core's hardware threads that this process may use come before this
    /// one.
    fn thread_rank(&self, core: &Core) -> usize {
        core.siblings
            .iter()
            .filter(|sibling| **sibling < core.id)
            .filter(|sibling| self.cores().binary_search_by_key(sibling, |c| &c.id).is_ok())
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cache;

    fn core(id: usize, siblings: &[usize], node: u32, cache: &[usize]) -> Core {
        Core {
            id: CoreId(id),
            siblings: siblings.iter().copied().map(CoreId).collect(),
            package: Some(node),
            numa_node: Some(node),
            last_level_cache: Some(Cache {
                level: 3,
                size_bytes: Some(32 << 20),
                shared_by: cache.iter().copied().map(CoreId).collect(),
            }),
        }
    }

    fn ids(topology: &Topology, slots: usize) -> Vec<usize> {
        topology.assign(slots).iter().map(|placement| placement.core.0).collect()
    }

    /// Hardware threads numbered alternately over the nodes, second threads from 4 on.
    fn two_nodes_with_hyper_threads() -> Topology {
        let cores = (0..8)
            .map(|id| {
                let (thread, node) = (id % 4, (id % 2) as u32);
                let cache = [thread % 2, thread % 2 + 2, thread % 2 + 4, thread % 2 + 6];
                core(id, &[thread, thread + 4], node, &cache)
            })
            .collect();
        Topology::new(cores, None)
    }

    #[test]
    fn physical_cores_come_before_second_threads_and_nodes_fill_one_by_one() {
        let topology = two_nodes_with_hyper_threads();
        assert_eq!(ids(&topology, 2), [0, 2]);
        assert_eq!(ids(&topology, 4), [0, 2, 1, 3]);
        assert_eq!(ids(&topology, 8), [0, 2, 1, 3, 4, 6, 5, 7]);
    }

    #[test]
    fn slots_of_one_cache_are_neighbours() {
        let cores = (0..4).map(|id| core(id, &[id], 0, &[id % 2, id % 2 + 2])).collect();
        assert_eq!(ids(&Topology::new(cores, None), 4), [0, 2, 1, 3]);
    }

    #[test]
    fn a_second_thread_counts_as_a_core_if_the_first_is_not_ours() {
        let topology =
            Topology::new(vec![core(5, &[1, 5], 0, &[1]), core(6, &[2, 6], 0, &[1])], None);
        assert_eq!(ids(&topology, 2), [5, 6]);
    }

    #[test]
    fn more_slots_than_cores_wrap_around_and_say_so() {
        let topology = Topology::new((0..2).map(|id| Core::unknown(CoreId(id))).collect(), None);
        assert_eq!(ids(&topology, 5), [0, 1, 0, 1, 0]);
        assert!(topology.assign(5).iter().all(|placement| placement.oversubscribed));
        assert!(topology.assign(2).iter().all(|placement| !placement.oversubscribed));
        assert!(topology.assign(0).is_empty());
    }

    #[test]
    fn more_slots_than_the_quota_are_oversubscribed_on_cores_of_their_own() {
        let topology = Topology::new((0..4).map(|id| Core::unknown(CoreId(id))).collect(), Some(2));
        assert_eq!(ids(&topology, 3), [0, 1, 2]);
        assert!(topology.assign(3)[0].oversubscribed);
        assert!(!topology.assign(2)[0].oversubscribed);
    }
}

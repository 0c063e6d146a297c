//! Pins threads to cores, and keeps others off them.

use crate::{Core, CoreId, Placement, Topology};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::sync::Arc;

/// A thread could not be pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The core's number does not fit the kernel interface's mask.
    #[error("core {core} cannot be pinned to: only cores below {limit} can; choose such a core")]
    OutOfRange {
        /// The core asked for.
        core: CoreId,
        /// The first number that does not fit.
        limit: usize,
    },
    /// The kernel refused.
    #[error(
        "pinning to core {core} was refused ({source}); the core is offline or outside the cpuset: \
         choose one of those listed by `taskset -pc $$`"
    )]
    Refused {
        /// The core asked for.
        core: CoreId,
        /// The kernel's reason.
        source: std::io::Error,
    },
}

/// Restricts the calling thread to one core, from now until it ends.
///
/// # Errors
/// If the core does not exist, or the cpuset does not hold it. The thread then keeps its affinity.
pub fn pin_current_thread(core: CoreId) -> Result<(), PinError> {
    // The size of the mask: a larger number would write outside it.
    let limit = libc::CPU_SETSIZE as usize;
    if core.0 >= limit {
        return Err(PinError::OutOfRange { core, limit });
    }
    if core_affinity::set_for_current(core_affinity::CoreId { id: core.0 }) {
        Ok(())
    } else {
        Err(PinError::Refused { core, source: std::io::Error::last_os_error() })
    }
}

/// Where the threads of a job run that are not slots.
///
/// A thread inherits the affinity of the one that starts it. One that a slot starts would share the
/// slot's core for good, and its work would take turns with the slot's, unless it moves away.
///
/// The default moves nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackgroundCores {
    /// Those that no slot is pinned to, or all if these are too few.
    left: Arc<[CoreId]>,
    all: Arc<[CoreId]>,
}

impl BackgroundCores {
    /// Lets the calling thread, and those that it starts from now on, run beside the slots, on no
    /// core of theirs if enough are left.
    ///
    /// # Errors
    /// If none of the cores is in the cpuset any more, or one does not fit the kernel interface's
    /// mask. The thread then keeps its affinity.
    pub fn leave_slots(&self) -> std::io::Result<()> {
        allow(&self.left)
    }

    /// Lets the calling thread, and those that it starts from now on, run on all cores: for work that
    /// slots wait for.
    ///
    /// # Errors
    /// As [`Self::leave_slots`].
    pub fn spread(&self) -> std::io::Result<()> {
        allow(&self.all)
    }
}

fn allow(cores: &[CoreId]) -> std::io::Result<()> {
    if cores.is_empty() {
        return Ok(());
    }
    let mut mask = CpuSet::new();
    for core in cores {
        if core.0 >= CpuSet::MAX_CPU {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        mask.set(core.0);
    }
    Ok(sched_setaffinity(None, &mask)?)
}

impl Topology {
    /// The cores of other threads, beside slots that are pinned to these places. With a memory node,
    /// only its cores: what a thread is the first to touch lies in the node that it runs on.
    ///
    /// If there is less than one core left for 16 slots, other threads run on those of slots too.
    pub fn background(&self, slots: &[Placement], numa_node: Option<u32>) -> BackgroundCores {
        const SLOTS_PER_CORE: usize = 16;
        let is_near = |core: &&Core| numa_node.is_none() || core.numa_node == numa_node;
        let all: Vec<CoreId> = self.cores().iter().filter(is_near).map(|core| core.id).collect();
        let is_slot = |id: &CoreId| slots.iter().any(|slot| slot.core == *id);
        let (taken, left): (Vec<CoreId>, Vec<CoreId>) = all.iter().copied().partition(is_slot);
        let left = if left.len() * SLOTS_PER_CORE < taken.len().max(1) { &all } else { &left };
        BackgroundCores { left: left.as_slice().into(), all: all.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_core_can_be_pinned_to() {
        for core in Topology::detect().cores() {
            let id = core.id;
            std::thread::spawn(move || {
                pin_current_thread(id).unwrap();
                assert_eq!(
                    core_affinity::get_core_ids().unwrap(),
                    [core_affinity::CoreId { id: id.0 }]
                );
            })
            .join()
            .unwrap();
        }
    }

    #[test]
    fn cores_that_do_not_exist_are_refused_in_words() {
        let before = core_affinity::get_core_ids();
        let refused = pin_current_thread(CoreId(1023)).unwrap_err();
        assert!(matches!(refused, PinError::Refused { .. }), "{refused}");
        assert!(refused.to_string().contains("core 1023"));
        let out_of_range = pin_current_thread(CoreId(100_000)).unwrap_err();
        assert!(matches!(out_of_range, PinError::OutOfRange { .. }), "{out_of_range}");
        assert_eq!(core_affinity::get_core_ids(), before);
    }

    #[test]
    fn a_thread_that_has_left_slots_can_see_all_cores_again() {
        std::thread::spawn(|| {
            let topology = Topology::detect();
            let background = topology.background(&topology.assign(1), None);
            background.leave_slots().unwrap();
            assert_eq!(core_affinity::get_core_ids().unwrap().len(), background.left.len());
            background.spread().unwrap();
            assert_eq!(Topology::detect(), topology);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn background_threads_get_what_slots_leave_if_it_is_enough() {
        let topology = Topology::new((0..4).map(|id| Core::unknown(CoreId(id))).collect(), None);
        let left = |slots| topology.background(&topology.assign(slots), None).left.to_vec();
        assert_eq!(left(1), [1, 2, 3].map(CoreId));
        assert_eq!(left(3), [CoreId(3)]);
        assert_eq!(left(4), [0, 1, 2, 3].map(CoreId));
        assert_eq!(left(9), [0, 1, 2, 3].map(CoreId));
        let all = topology.background(&topology.assign(3), None).all;
        assert_eq!(*all, [0, 1, 2, 3].map(CoreId));

        let large = Topology::new((0..64).map(|id| Core::unknown(CoreId(id))).collect(), None);
        let left = |slots| large.background(&large.assign(slots), None).left.len();
        assert_eq!((left(16), left(60), left(61)), (48, 4, 64));
    }

    #[test]
    fn memory_is_touched_on_its_node() {
        let core = |id, node| Core { numa_node: Some(node), ..Core::unknown(CoreId(id)) };
        let topology = Topology::new(vec![core(0, 0), core(1, 0), core(2, 1), core(3, 1)], None);
        let left = |slots, node| topology.background(&topology.assign(slots), node).left.to_vec();
        assert_eq!(left(1, Some(0)), [CoreId(1)]);
        assert_eq!(left(2, Some(0)), [0, 1].map(CoreId));
        assert_eq!(left(3, Some(1)), [CoreId(3)]);
        assert_eq!(left(3, None), [CoreId(3)]);
    }

    #[test]
    fn a_thread_leaves_the_core_that_it_was_started_on() {
        let topology = Topology::detect();
        let cores: Vec<CoreId> = topology.cores().iter().map(|core| core.id).collect();
        if cores.len() < 2 {
            return eprintln!("skipped: there is only one core");
        }
        let pinned = topology.assign(1)[0].core;
        let background = topology.background(&topology.assign(1), None);
        let seen = std::thread::spawn(move || {
            pin_current_thread(pinned).unwrap();
            std::thread::spawn(move || {
                let seen = || Topology::detect().cores().iter().map(|core| core.id).collect();
                background.leave_slots().unwrap();
                let left: Vec<CoreId> = seen();
                background.spread().unwrap();
                (left, seen())
            })
            .join()
            .unwrap()
        });
        let left: Vec<CoreId> = cores.iter().copied().filter(|id| *id != pinned).collect();
        assert_eq!(seen.join().unwrap(), (left, cores));
    }

    #[test]
    fn without_a_choice_a_thread_stays() {
        let before = core_affinity::get_core_ids();
        BackgroundCores::default().leave_slots().unwrap();
        BackgroundCores::default().spread().unwrap();
        let none = BackgroundCores { left: [CoreId(100_000)].into(), all: [].into() };
        assert!(none.leave_slots().is_err());
        assert_eq!(core_affinity::get_core_ids(), before);
    }
}

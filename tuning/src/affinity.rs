//! Pins threads to cores, and keeps others off them.

use crate::{CoreId, Placement, Topology};
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

/// The cores of a job's threads that are not slots: those that no slot is pinned to, as long as
/// there are any.
///
/// A thread inherits the affinity of the one that starts it. One that a slot starts would share the
/// slot's core for good, and what it does would be missing from the slot's time, unless it
/// [moves](Self::move_here) away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackgroundCores(Arc<[CoreId]>);

impl BackgroundCores {
    /// Lets the calling thread, and those that it starts from now on, run on these cores and no
    /// others. Does nothing without any, as in the default.
    ///
    /// # Errors
    /// If none of the cores is in the cpuset any more, or one does not fit the kernel interface's
    /// mask. The thread then keeps its affinity.
    pub fn move_here(&self) -> std::io::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut mask = CpuSet::new();
        for core in self.0.iter() {
            if core.0 >= CpuSet::MAX_CPU {
                return Err(std::io::ErrorKind::InvalidInput.into());
            }
            mask.set(core.0);
        }
        Ok(sched_setaffinity(None, &mask)?)
    }
}

impl Topology {
    /// The cores that are left beside slots which are pinned to these places; all if none is.
    pub fn background(&self, slots: &[Placement]) -> BackgroundCores {
        let is_slot = |id| slots.iter().any(|slot| slot.core == id);
        let ids = || self.cores().iter().map(|core| core.id);
        let left: Arc<[CoreId]> = ids().filter(|id| !is_slot(*id)).collect();
        BackgroundCores(if left.is_empty() { ids().collect() } else { left })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Core;

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
    fn background_threads_get_what_slots_leave() {
        let topology = Topology::new((0..4).map(|id| Core::unknown(CoreId(id))).collect(), None);
        let left = |slots| topology.background(&topology.assign(slots)).0.to_vec();
        assert_eq!(left(0), [0, 1, 2, 3].map(CoreId));
        assert_eq!(left(1), [1, 2, 3].map(CoreId));
        assert_eq!(left(3), [CoreId(3)]);
        assert_eq!(left(4), [0, 1, 2, 3].map(CoreId));
        assert_eq!(left(9), [0, 1, 2, 3].map(CoreId));
    }

    #[test]
    fn a_thread_leaves_the_core_that_it_was_started_on() {
        let topology = Topology::detect();
        let cores: Vec<CoreId> = topology.cores().iter().map(|core| core.id).collect();
        let background = topology.background(&topology.assign(1));
        let pinned = topology.assign(1)[0].core;
        let seen = std::thread::spawn(move || {
            pin_current_thread(pinned).unwrap();
            let moved = move || {
                background.move_here().unwrap();
                Topology::detect().cores().iter().map(|core| core.id).collect::<Vec<_>>()
            };
            std::thread::spawn(moved).join().unwrap()
        });
        let expected: Vec<CoreId> =
            cores.iter().copied().filter(|id| cores.len() == 1 || *id != pinned).collect();
        assert_eq!(seen.join().unwrap(), expected);
    }

    #[test]
    fn without_a_choice_a_thread_stays() {
        let before = core_affinity::get_core_ids();
        BackgroundCores::default().move_here().unwrap();
        assert!(BackgroundCores([CoreId(100_000)].into()).move_here().is_err());
        assert_eq!(core_affinity::get_core_ids(), before);
    }
}

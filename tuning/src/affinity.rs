//! Pins threads to cores.

use crate::CoreId;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Topology;

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
}

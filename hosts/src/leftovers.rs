//! Names of namespaces that tell whose they are, and the removal of those whose owner is gone.

use crate::namespace::{self, Namespace};
use crate::process;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

/// What all names begin with.
const PREFIX: &str = "ms";

/// A process, for as long as the machine runs: numbers are used again, but not within a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    number: u32,
    started: u64,
}

impl Owner {
    fn lives(self) -> bool {
        process::started(self.number) == Some(self.started)
    }
}

/// The beginning of the names of a new set of this process.
pub(crate) fn new_set() -> String {
    static SETS: AtomicU64 = AtomicU64::new(0);
    let number = std::process::id();
    // Without /proc there is no set: then the name does not matter.
    let started = process::started(number).unwrap_or(0);
    let set = SETS.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}-{number}-{started}-{set}")
}

/// The owner of a namespace with such a name; none if it is not one of ours.
fn owner(name: &str) -> Option<Owner> {
    let mut parts = name.split('-');
    let ours = parts.next()? == PREFIX;
    let owner = Owner { number: parts.next()?.parse().ok()?, started: parts.next()?.parse().ok()? };
    let set = parts.next()?.parse::<u64>();
    let role = parts.next()?;
    (ours && set.is_ok() && !role.is_empty() && parts.next().is_none()).then_some(owner)
}

/// Removes the namespaces of owners that are gone, with the processes in them.
///
/// Names are compared with the processes that this process sees: those who share `/run/netns` must
/// share `/proc`.
pub(crate) fn remove() {
    let Ok(names) = fs::read_dir(namespace::FOLDER) else { return };
    for entry in names.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner(&name).is_some_and(|owner| !owner.lives()) {
            // What cannot be removed is in nobody's way; the next set tries again.
            let _ = Namespace::named(name).remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_owner() {
        let set = new_set();
        let this = owner(&format!("{set}-h0")).unwrap();
        assert_eq!(this.number, std::process::id());
        assert!(this.lives());
        assert_ne!(set, new_set());
    }

    #[test]
    fn a_process_that_came_later_is_not_the_owner() {
        let this = owner(&format!("{}-bridge", new_set())).unwrap();
        assert!(!Owner { started: this.started + 1, ..this }.lives());
    }

    #[test]
    fn other_peoples_names_have_no_owner() {
        for name in ["ms", "ms-1-2-3", "ms-1-2-3-", "ms-1-2-3-h0-x", "ms-a-2-3-h0", "x-1-2-3-h0"] {
            assert_eq!(owner(name), None, "{name}");
        }
        assert_eq!(owner("ms-1-2-3-h0"), Some(Owner { number: 1, started: 2 }));
    }
}

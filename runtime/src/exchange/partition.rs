//! Partitioners: to which of an exchange's targets a record goes.

use crate::operator::in_user_code;
use millstream_types::{KeyGroup, KeyGroupAssignment, OperatorId};

/// Chooses a target for each record.
pub trait Partitioner<T>: 'static {
    /// The index of the target, below the number of targets.
    fn target(&mut self, value: &T) -> usize;
}

/// The only target: the subtask with the same index.
pub struct Forward;

impl<T> Partitioner<T> for Forward {
    #[inline(always)]
    fn target(&mut self, _: &T) -> usize {
        0
    }
}

/// All records to the first target.
pub struct Global;

impl<T> Partitioner<T> for Global {
    #[inline(always)]
    fn target(&mut self, _: &T) -> usize {
        0
    }
}

/// Targets in turn. Serves rebalance (all subtasks are targets) and rescale (some are).
pub struct Rebalance {
    targets: usize,
    next: usize,
}

impl Rebalance {
    /// Starts at a target that depends on the sender, so that few records of many senders do not
    /// all meet at the first target.
    pub fn new(sender: usize, targets: usize) -> Self {
        Self { targets, next: sender % targets.max(1) }
    }
}

impl<T> Partitioner<T> for Rebalance {
    #[inline(always)]
    fn target(&mut self, _: &T) -> usize {
        let target = self.next;
        self.next = if target + 1 == self.targets { 0 } else { target + 1 };
        target
    }
}

/// The owner of the key's group.
pub struct ByKey<F> {
    operator: OperatorId,
    hash: F,
    targets: u16,
    /// Owner by key group. A copy of the assignment as a table, since a division per record would
    /// cost more than the hash.
    owners: Vec<u16>,
}

impl<F> ByKey<F> {
    /// Takes the hash of each record's key by `hash`, on behalf of `operator`.
    pub fn new(operator: OperatorId, hash: F, assignment: &KeyGroupAssignment) -> Self {
        Self { operator, hash, targets: assignment.parallelism(), owners: assignment.owners() }
    }
}

impl<T, F> Partitioner<T> for ByKey<F>
where
    F: FnMut(&T) -> u64 + 'static,
{
    #[inline(always)]
    fn target(&mut self, value: &T) -> usize {
        if self.targets == 1 {
            return 0;
        }
        let hash = in_user_code(self.operator, || (self.hash)(value));
        let group = KeyGroup::of(hash, self.owners.len() as u16);
        usize::from(self.owners[usize::from(group.0)])
    }
}

/// The target that the user's function names.
pub struct Custom<F> {
    operator: OperatorId,
    function: F,
    targets: usize,
}

impl<F> Custom<F> {
    /// Calls `function(record, number of targets)` on behalf of `operator`.
    pub fn new(operator: OperatorId, function: F, targets: usize) -> Self {
        Self { operator, function, targets }
    }
}

impl<T, F> Partitioner<T> for Custom<F>
where
    F: FnMut(&T, usize) -> usize + 'static,
{
    /// # Panics
    /// In the user's name, if the function names a target that does not exist.
    #[inline]
    fn target(&mut self, value: &T) -> usize {
        in_user_code(self.operator, || {
            let target = (self.function)(value, self.targets);
            assert!(
                target < self.targets,
                "the custom partitioner chose target {target} of only {}",
                self.targets
            );
            target
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_types::hash_key;

    #[test]
    fn rebalance_visits_every_target_in_turn() {
        let mut p = Rebalance::new(5, 3);
        let targets: Vec<_> = (0..6).map(|_| p.target(&())).collect();
        assert_eq!(targets, [2, 0, 1, 2, 0, 1]);
    }

    #[test]
    fn by_key_sends_a_key_to_the_owner_of_its_group() {
        let assignment = KeyGroupAssignment::new(3, 128).unwrap();
        let mut p = ByKey::new(OperatorId(0), |v: &u64| hash_key(&(*v / 10)), &assignment);
        for value in 0..1_000u64 {
            let group = KeyGroup::of(hash_key(&(value / 10)), 128);
            assert_eq!(p.target(&value), assignment.owner(group).0 as usize);
        }
    }
}

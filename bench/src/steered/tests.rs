use super::source::{Share, Visits};
use super::*;
use std::collections::BTreeSet;

fn visited(keys: u64, subtasks: u64, first: u64, count: u64) -> Vec<u64> {
    visited_in(0, keys, subtasks, first, count)
}

fn visited_in(order: u64, keys: u64, subtasks: u64, first: u64, count: u64) -> Vec<u64> {
    let visits = |subtask| Visits::new(Share { keys, subtask, subtasks }, order, first, count);
    (0..subtasks)
        .map(visits)
        .flat_map(|mut visits| (0..visits.count()).map(|_| visits.next()).collect::<Vec<_>>())
        .collect()
}

#[test]
fn each_key_is_visited_once_whatever_the_number_of_subtasks() {
    for keys in [16, 97, 1_000, 1_024, 9_240] {
        for subtasks in [1, 2, 3, 16] {
            let all = visited(keys, subtasks, 0, keys);
            let different: BTreeSet<u64> = all.iter().copied().collect();
            assert_eq!((all.len() as u64, different.len() as u64), (keys, keys));
            assert!(different.iter().all(|key| *key < keys));
        }
    }
}

#[test]
fn orders_differ_and_each_is_whole() {
    let of = |order| visited_in(order, 1_000, 2, 0, 1_000);
    let windows: BTreeSet<BTreeSet<u64>> =
        (0..20).map(|order| of(order).into_iter().take(100).collect()).collect();
    assert!(windows.len() > 15, "{}", windows.len());
    for order in 0..20 {
        assert_eq!(of(order).into_iter().collect::<BTreeSet<_>>().len(), 1_000);
    }
}

#[test]
fn windows_that_follow_each_other_have_different_keys() {
    for subtasks in [1, 2] {
        let windows: Vec<u64> =
            (7..17).flat_map(|window| visited(1_000, subtasks, window * 100, 100)).collect();
        assert_eq!(windows.iter().collect::<BTreeSet<_>>().len(), 1_000);
    }
}

#[test]
fn visits_begin_anew() {
    let mut visits = Visits::new(Share { keys: 100, subtask: 0, subtasks: 1 }, 0, 40, 3);
    let (first, second): (Vec<u64>, Vec<u64>) =
        ((0..3).map(|_| visits.next()).collect(), (0..3).map(|_| visits.next()).collect());
    assert_eq!(first, second);
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 3);
}

#[test]
fn visits_that_are_passed_over_are_those_that_would_have_come() {
    for (keys, subtasks) in [(100, 1), (97, 3), (16, 2)] {
        for passed in [0, 1, 7, 31, 100, 1_001] {
            let share = Share { keys, subtask: subtasks - 1, subtasks };
            let (mut all, mut later) =
                (Visits::new(share, 0, 0, keys), Visits::new(share, 0, 0, keys));
            (0..passed).for_each(|_| _ = all.next());
            later.skip(passed);
            let ten = |visits: &mut Visits| [(); 10].map(|()| visits.next());
            assert_eq!(ten(&mut all), ten(&mut later), "{passed} of {keys}");
        }
    }
}

#[test]
fn what_an_entry_takes_in_the_log_is_more_than_itself_and_not_much() {
    let bytes = stored_entry_bytes().unwrap();
    assert!((ENTRY_BYTES..ENTRY_BYTES + 64).contains(&bytes), "{bytes}");
}

//! Which worker gets which slots of a job.
//!
//! Slots spread: each goes to the worker of which the smallest share is in use. Before that counts
//! whether state of the job lies there, and whether its processes have failed there lately.
//!
//! # Invariants
//! - No worker gets more slots than are free, nor two members of a job.
//! - Members that survive keep their worker and their order, and those that replace one stand in its
//!   place, so that slots keep their numbers as far as can be.

use super::names::WorkerName;

/// A worker that may get a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub worker: WorkerName,
    /// Its slots.
    pub offered: u32,
    /// How many of them are in use, by whatever job.
    pub used: u32,
    /// State of the job lies there.
    pub preferred: bool,
    /// How often processes of the job failed there lately.
    pub failures: usize,
}

/// A member of the deployment before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Before {
    /// Its process lives.
    Survives {
        /// Its slots.
        slots: u32,
        /// How many more its worker has free.
        free: u32,
    },
    /// It is lost, with so many slots.
    Lost(u32),
}

/// A member of the next deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seat {
    /// One that survives, by its number before.
    Survivor {
        /// Its number before.
        was: usize,
        /// Its slots from now on.
        slots: u32,
    },
    /// A new one.
    New {
        /// On this worker.
        worker: WorkerName,
        /// Its slots.
        slots: u32,
    },
}

/// Gives a new job its slots.
///
/// # Errors
/// How many slots are missing.
pub fn place(slots: u32, mut candidates: Vec<Candidate>) -> Result<Vec<Seat>, u32> {
    let mut seats = Vec::new();
    match spread(slots, &mut candidates, &mut seats) {
        0 => Ok(seats),
        missing => Err(missing),
    }
}

/// Gives a job that has lost members others instead. `candidates` are workers without a member of it.
///
/// # Errors
/// How many slots are missing.
pub fn replace(before: &[Before], mut candidates: Vec<Candidate>) -> Result<Vec<Seat>, u32> {
    let (mut seats, mut left) = (Vec::new(), Vec::new());
    let mut survivors = Vec::new();
    for (was, member) in before.iter().enumerate() {
        match *member {
            Before::Survives { slots, free } => {
                survivors.push((was, free));
                seats.push(Seat::Survivor { was, slots });
            }
            Before::Lost(slots) => {
                // All on one worker if one has room for them: then as many members stay.
                let room = |one: &&mut Candidate| {
                    one.offered - one.used >= slots && !has_seat(&seats, &one.worker)
                };
                match candidates.iter_mut().filter(room).min_by(|a, b| order(a, b)) {
                    Some(best) => {
                        best.used += slots;
                        seats.push(Seat::New { worker: best.worker.clone(), slots });
                    }
                    None => left.push((spread(slots, &mut candidates, &mut seats), seats.len())),
                }
            }
        }
    }
    // No other worker has room: the neighbours take more, so that all other slots keep their numbers; the
    // one that follows first, as it has the first copy of what was lost.
    let mut missing = 0;
    for (mut slots, at) in left {
        for seat in (at..seats.len()).chain((0..at).rev()) {
            let (has, more) = match &mut seats[seat] {
                Seat::New { worker, slots: has } => {
                    let on = candidates.iter_mut().find(|one| one.worker == *worker);
                    let more = on.map_or(0, |on| {
                        let more = slots.min(on.offered - on.used);
                        on.used += more;
                        more
                    });
                    (has, more)
                }
                Seat::Survivor { was, slots: has } => {
                    let free = survivors.iter_mut().find(|(survivor, _)| survivor == was);
                    let more = free.map_or(0, |(_, free)| {
                        let more = slots.min(*free);
                        *free -= more;
                        more
                    });
                    (has, more)
                }
            };
            *has += more;
            slots -= more;
        }
        missing += slots;
    }
    if missing == 0 { Ok(seats) } else { Err(missing) }
}

fn has_seat(seats: &[Seat], on: &WorkerName) -> bool {
    seats.iter().any(|seat| matches!(seat, Seat::New { worker, .. } if worker == on))
}

/// Slot by slot, on workers that have no seat yet. How many slots are missing.
fn spread(slots: u32, candidates: &mut [Candidate], seats: &mut Vec<Seat>) -> u32 {
    let mut taken: Vec<Seat> = Vec::new();
    let mut missing = slots;
    while missing > 0 {
        let free = |one: &&mut Candidate| one.used < one.offered && !has_seat(seats, &one.worker);
        let free = candidates.iter_mut().filter(free);
        let Some(best) = free.min_by(|a, b| order(a, b)) else { break };
        best.used += 1;
        missing -= 1;
        let seat = taken.iter_mut().find_map(|seat| match seat {
            Seat::New { worker, slots } if *worker == best.worker => Some(slots),
            _ => None,
        });
        match seat {
            Some(slots) => *slots += 1,
            None => taken.push(Seat::New { worker: best.worker.clone(), slots: 1 }),
        }
    }
    seats.extend(taken);
    missing
}

/// The better one is less.
fn order(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    let share = |one: &Candidate, of: &Candidate| u64::from(one.used) * u64::from(of.offered);
    let preference = |one: &Candidate| (!one.preferred, one.failures);
    preference(a)
        .cmp(&preference(b))
        .then_with(|| share(a, b).cmp(&share(b, a)))
        .then_with(|| b.offered.cmp(&a.offered))
        .then_with(|| a.worker.cmp(&b.worker))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn name(at: usize) -> WorkerName {
        WorkerName::new(&format!("w{at}")).unwrap()
    }

    fn candidate(at: usize, offered: u32, used: u32) -> Candidate {
        Candidate { worker: name(at), offered, used, preferred: false, failures: 0 }
    }

    fn new(at: usize, slots: u32) -> Seat {
        Seat::New { worker: name(at), slots }
    }

    #[test]
    fn slots_spread_over_workers() {
        let workers = || vec![candidate(0, 4, 0), candidate(1, 4, 0), candidate(2, 4, 3)];
        assert_eq!(place(4, workers()), Ok(vec![new(0, 2), new(1, 2)]));
        assert_eq!(place(9, workers()), Ok(vec![new(0, 4), new(1, 4), new(2, 1)]));
        assert_eq!(place(11, workers()), Err(2));
    }

    #[test]
    fn where_state_lies_comes_first_and_where_it_failed_last() {
        let mut workers = vec![candidate(0, 4, 0), candidate(1, 4, 1), candidate(2, 4, 2)];
        workers[2].preferred = true;
        workers[0].failures = 1;
        assert_eq!(place(1, workers.clone()), Ok(vec![new(2, 1)]));
        workers[2].preferred = false;
        assert_eq!(place(1, workers), Ok(vec![new(1, 1)]));
    }

    #[test]
    fn a_replacement_stands_in_the_place_of_the_lost() {
        let before = [
            Before::Survives { slots: 2, free: 2 },
            Before::Lost(2),
            Before::Survives { slots: 1, free: 0 },
        ];
        let survivor = |was, slots| Seat::Survivor { was, slots };
        let seats = replace(&before, vec![candidate(7, 4, 0)]);
        assert_eq!(seats, Ok(vec![survivor(0, 2), new(7, 2), survivor(2, 1)]));
        let seats = replace(&before, vec![candidate(7, 1, 0), candidate(8, 1, 0)]);
        assert_eq!(seats, Ok(vec![survivor(0, 2), new(7, 1), new(8, 1), survivor(2, 1)]));
        // Nobody else has room.
        assert_eq!(replace(&before, vec![]), Ok(vec![survivor(0, 4), survivor(2, 1)]));
        assert_eq!(
            replace(&[Before::Survives { slots: 2, free: 1 }, Before::Lost(3)], vec![]),
            Err(2)
        );
    }

    #[test]
    fn where_nobody_else_has_room_the_neighbours_take_over() {
        let survives = || Before::Survives { slots: 1, free: 1 };
        let survivor = |was, slots| Seat::Survivor { was, slots };
        let seats = |before: &[Before]| replace(before, vec![]).unwrap();
        let lost = || Before::Lost(1);
        assert_eq!(seats(&[survives(), lost(), survives()]), [survivor(0, 1), survivor(2, 2)]);
        assert_eq!(seats(&[survives(), survives(), lost()]), [survivor(0, 1), survivor(1, 2)]);
        assert_eq!(seats(&[lost(), survives(), survives()]), [survivor(1, 2), survivor(2, 1)]);
        assert_eq!(
            seats(&[survives(), Before::Lost(2), survives()]),
            [survivor(0, 2), survivor(2, 2)]
        );
    }

    proptest! {
        #[test]
        fn no_slot_is_given_twice_and_none_is_forgotten(
            workers in proptest::collection::vec((0_u32..6, 0_u32..6, any::<bool>(), 0_usize..3), 0..8),
            before in proptest::collection::vec((any::<bool>(), 1_u32..5, 0_u32..4), 1..5),
        ) {
            let candidates: Vec<_> = workers.iter().enumerate().map(|(at, w)| Candidate {
                worker: name(at), offered: w.0.max(w.1), used: w.1, preferred: w.2, failures: w.3,
            }).collect();
            let before: Vec<_> = before.iter().map(|&(survives, slots, free)| match survives {
                true => Before::Survives { slots, free },
                false => Before::Lost(slots),
            }).collect();
            let room: u32 = candidates.iter().map(|one| one.offered - one.used).sum();
            let (mut free, mut lost, mut all) = (0, 0, 0);
            for one in &before {
                match one {
                    Before::Survives { slots, free: more } => { free += more; all += slots; }
                    Before::Lost(slots) => { lost += slots; all += slots; }
                }
            }
            match replace(&before, candidates.clone()) {
                Err(missing) => prop_assert_eq!(missing, lost - room - free),
                Ok(seats) => {
                    prop_assert!(lost <= room + free);
                    let (mut slots_of_all, mut named, mut survivors) = (0, BTreeSet::new(), vec![]);
                    for seat in &seats {
                        match seat {
                            Seat::New { worker, slots } => {
                                let on = candidates.iter().find(|one| one.worker == *worker).unwrap();
                                prop_assert!(*slots > 0 && on.used + slots <= on.offered);
                                prop_assert!(named.insert(worker.clone()));
                                slots_of_all += slots;
                            }
                            Seat::Survivor { was, slots } => {
                                let Before::Survives { slots: had, free } = before[*was] else {
                                    panic!("a lost one survives");
                                };
                                prop_assert!(had <= *slots && *slots <= had + free);
                                survivors.push(*was);
                                slots_of_all += slots;
                            }
                        }
                    }
                    prop_assert_eq!(slots_of_all, all);
                    prop_assert!(survivors.is_sorted());
                }
            }
        }
    }
}

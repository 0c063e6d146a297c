//! The index against a map.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::convert::Infallible;

/// Several keys have the same.
fn hash(key: u16) -> u64 {
    u64::from(key % 61) << 44
}

fn address(key: u16, version: u16) -> Address {
    Address::new(u32::from(key) + 1, 16 * usize::from(version))
}

fn find(index: &Index, key: u16) -> Option<(SlotIndex, Address)> {
    let found: Result<_, Infallible> =
        index.find(hash(key), |address| Ok(address.segment() == u32::from(key) + 1));
    found.unwrap()
}

fn lines(count: usize) -> Lines {
    Lines::zeroed(count).unwrap()
}

/// Grows an index if that is due, and returns how many hashes were read from records.
fn make_room(index: &mut Index, hash: impl Fn(Address) -> u64) -> usize {
    let mut read = 0;
    if index.is_full() {
        let grown: Result<_, Infallible> =
            index.resize(lines(index.lines_for(1)), |addresses, hashes| {
                read += addresses.len();
                for (address, place) in addresses.iter().zip(hashes) {
                    *place = hash(*address);
                }
                Ok(())
            });
        grown.unwrap();
    }
    read
}

#[test]
fn regular_hashes_are_spread() {
    for step in [1, 8, 1 << 20, 1 << 40, 0x9e37_79b9_7f4a_7c15] {
        let mut index = Index::over(lines(1 << 12));
        let mut probes = 0;
        for n in 0..20_000u64 {
            let hash = n.wrapping_mul(step);
            let (mut line, rest) = index.home(hash);
            let start = (rest >> 61) as usize;
            'search: loop {
                for at in start..start + LINE_WORDS {
                    if index.lines[line].0[at % LINE_WORDS] == EMPTY {
                        break 'search;
                    }
                    probes += 1;
                }
                line = (line + 1) & (index.lines.len() - 1);
            }
            index.insert(hash, address(1, 1));
        }
        // At this load of 0.61 random hashes need 0.8.
        assert!(probes < 40_000, "{probes} slots probed with steps of {step:#x}");
    }
}

#[test]
fn growth_reads_hardly_any_record() {
    // Where a key lies gives its hash: SplitMix64's of its number.
    let hash = |n: u64| {
        let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    };
    let place = |n: u64| Address::new(1 + (n >> 20) as u32, 16 * (n as usize & 0xf_ffff));
    let number = |a: Address| u64::from(a.segment() - 1) << 20 | (a.offset() / 16) as u64;
    let count = if cfg!(debug_assertions) { 300_000 } else { 5_000_000u64 };
    let (mut index, mut read) = (Index::default(), 0);
    for n in 0..count {
        read += make_room(&mut index, |address| hash(number(address)));
        index.insert(hash(n), place(n));
    }
    assert!(read > 0, "old entries have used up their bits");
    assert!(read < count as usize / 500, "{read} of {count} records read");
    let mut others = 0;
    for n in 0..2 * count {
        let found: Result<_, Infallible> = index.find(hash(n), |address| {
            others += u64::from(number(address) != n);
            Ok(number(address) == n)
        });
        assert_eq!(found.unwrap().map(|(_, a)| a), (n < count).then(|| place(n)), "{n}");
    }
    assert!(others < count / 50, "{others} records of other keys looked at");
}

#[test]
fn many_keys_may_have_one_hash() {
    let mut index = Index::default();
    for n in 0..1000u16 {
        make_room(&mut index, |_| 42);
        index.insert(42, address(n, 1));
    }
    for n in 0..1000u16 {
        let found: Result<_, Infallible> =
            index.find(42, |address| Ok(address.segment() == u32::from(n) + 1));
        let (slot, _) = found.unwrap().expect("an entry that was inserted");
        index.set(slot, 42, address(n, 2));
    }
    assert_eq!(index.addresses().filter(|address| address.offset() == 32).count(), 1000);
}

proptest! {
    #[test]
    fn an_index_is_a_map(
        operations in prop::collection::vec((0u16..300, any::<u16>(), any::<bool>()), 0..900),
        room in 0usize..400,
    ) {
        let (mut index, mut model) = (Index::default(), BTreeMap::new());
        let hash_of = |address: Address| hash((address.segment() - 1) as u16);
        for (i, (key, version, put)) in operations.into_iter().enumerate() {
            let found = find(&index, key);
            prop_assert_eq!(found.map(|(_, a)| a), model.get(&key).copied());
            match (found, put) {
                (Some((slot, _)), true) => {
                    index.set(slot, hash(key), address(key, version));
                    model.insert(key, address(key, version));
                }
                (None, true) => {
                    make_room(&mut index, hash_of);
                    index.insert(hash(key), address(key, version));
                    model.insert(key, address(key, version));
                }
                (Some((slot, _)), false) => {
                    index.remove(slot);
                    model.remove(&key);
                }
                (None, false) => {}
            }
            prop_assert_eq!(index.len(), model.len());
            if i == 100 {
                // By several doublings at once.
                let grown: Result<_, Infallible> =
                    index.resize(lines(index.lines_for(room).max(1)), |addresses, hashes| {
                        for (address, place) in addresses.iter().zip(hashes) {
                            *place = hash_of(*address);
                        }
                        Ok(())
                    });
                grown.unwrap();
                prop_assert!((index.used + room) * 4 <= index.lines.len() * LINE_WORDS * 3 || room == 0);
            }
        }
        if let Some(fewer) = index.lines_to_shrink_to() {
            prop_assert!(fewer < index.lines.len());
            let shrunk: Result<_, Infallible> = index.resize(lines(fewer), |addresses, hashes| {
                for (address, place) in addresses.iter().zip(hashes) {
                    *place = hash_of(*address);
                }
                Ok(())
            });
            shrunk.unwrap();
            prop_assert!(!index.is_full());
        }
        for (key, address) in &model {
            prop_assert_eq!(find(&index, *key).map(|(_, a)| a), Some(*address));
        }
        let mut all: Vec<_> = index.addresses().collect();
        all.sort();
        prop_assert_eq!(all, model.into_values().collect::<Vec<_>>());
    }
}

//! What goes wrong between hosts does, and ends.

use super::common::{DEADLINE, Result, SILENCE, datagrams, hosts, reaches, receive};
use millstream_hosts::{Hosts, HostsError};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Checks that these pairs reach each other, and no others.
fn check(hosts: &Hosts, expected: &[(usize, usize)]) -> Result<()> {
    let count = hosts.all().len();
    for (from, to) in (0..count).flat_map(|from| (0..count).map(move |to| (from, to))) {
        let expected = from == to || expected.contains(&(from, to));
        let arrives = reaches(hosts, from, to, if expected { DEADLINE } else { SILENCE })?;
        assert_eq!(arrives, expected, "from {from} to {to}");
    }
    Ok(())
}

fn pair(hosts: &Hosts, from: usize, to: usize) -> Result<(TcpStream, TcpStream)> {
    let [from, to] = [from, to].map(|index| hosts.host(index));
    let listener = to.within(|| TcpListener::bind((to.address(), 0)))??;
    let address = listener.local_addr()?;
    let client = from.within(|| TcpStream::connect_timeout(&address, DEADLINE))??;
    let (server, _) = listener.accept()?;
    server.set_read_timeout(Some(DEADLINE))?;
    client.set_read_timeout(Some(DEADLINE))?;
    Ok((client, server))
}

const PAIRS: [(usize, usize); 6] = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)];

#[test]
fn a_partition_cuts_both_ways_and_heals() -> Result<()> {
    let Some(hosts) = hosts(3)? else { return Ok(()) };
    check(&hosts, &PAIRS)?;
    let cut = hosts.partition(0, 1)?;
    check(&hosts, &PAIRS[2..])?;
    cut.heal()?;
    check(&hosts, &PAIRS)?;
    Ok(())
}

#[test]
fn a_partition_one_way_leaves_the_other() -> Result<()> {
    let Some(hosts) = hosts(3)? else { return Ok(()) };
    let cut = hosts.partition_one_way(0, 1)?;
    check(&hosts, &PAIRS[1..])?;
    drop(cut);
    check(&hosts, &PAIRS)?;
    Ok(())
}

#[test]
fn an_isolated_host_reaches_nobody_and_the_others_do() -> Result<()> {
    let Some(hosts) = hosts(3)? else { return Ok(()) };
    let alone = hosts.isolate(0)?;
    check(&hosts, &PAIRS[4..])?;
    alone.heal()?;
    check(&hosts, &PAIRS)?;
    Ok(())
}

#[test]
fn faults_that_overlap_end_one_by_one() -> Result<()> {
    let Some(hosts) = hosts(2)? else { return Ok(()) };
    let pairs = [(0, 1), (1, 0)];
    let (both, one) = (hosts.partition(0, 1)?, hosts.partition_one_way(1, 0)?);
    check(&hosts, &[])?;
    both.heal()?;
    check(&hosts, &[(0, 1)])?;
    one.heal()?;
    check(&hosts, &pairs)?;
    Ok(())
}

#[test]
fn a_connection_is_silent_during_a_partition_and_goes_on_after_it() -> Result<()> {
    let Some(hosts) = hosts(2)? else { return Ok(()) };
    let (mut client, mut server) = pair(&hosts, 0, 1)?;
    let cut = hosts.partition(0, 1)?;
    client.write_all(b"late")?;
    server.set_read_timeout(Some(SILENCE))?;
    let mut words = [0; 4];
    assert!(server.read_exact(&mut words).is_err());
    cut.heal()?;
    server.set_read_timeout(Some(DEADLINE))?;
    server.read_exact(&mut words)?;
    assert_eq!(&words, b"late");
    Ok(())
}

/// Of so many datagrams, how many arrive.
fn arriving(hosts: &Hosts, from: usize, to: usize) -> Result<u32> {
    let (sender, receiver) = (datagrams(hosts.host(from))?, datagrams(hosts.host(to))?);
    let address = receiver.local_addr()?;
    let mut count = 0;
    for _ in 0..DATAGRAMS / BURST {
        for _ in 0..BURST {
            sender.send_to(b"x", address)?;
        }
        // What comes later than this is counted with the next.
        while receive(&receiver, Duration::from_millis(20))?.is_some() {
            count += 1;
        }
    }
    while receive(&receiver, SILENCE)?.is_some() {
        count += 1;
    }
    Ok(count)
}

const DATAGRAMS: u32 = 2_000;
/// So many fit the buffer of a socket.
const BURST: u32 = 100;

#[test]
fn about_as_much_is_lost_as_is_asked_for() -> Result<()> {
    let Some(hosts) = hosts(3)? else { return Ok(()) };
    // Its standard deviation is 1 %.
    let expected = DATAGRAMS * 62 / 100..=DATAGRAMS * 78 / 100;
    let lossy = hosts.loss(0, 30.0)?;
    for (from, to) in [(0, 1), (2, 0)] {
        let count = arriving(&hosts, from, to)?;
        assert!(expected.contains(&count), "{count} of {DATAGRAMS} arrive from {from} at {to}");
    }
    assert_eq!(arriving(&hosts, 1, 2)?, DATAGRAMS);
    lossy.heal()?;
    assert_eq!(arriving(&hosts, 0, 1)?, DATAGRAMS);
    let _all = hosts.loss(0, 100.0)?;
    check(&hosts, &PAIRS[4..])
}

/// How long so many bytes take from the first to the last.
fn transfer(hosts: &Hosts, from: usize, to: usize, bytes: usize) -> Result<Duration> {
    let (mut client, mut server) = pair(hosts, from, to)?;
    let begun = Instant::now();
    let sender = thread::spawn(move || client.write_all(&vec![7; bytes]));
    let mut received = Vec::new();
    server.read_to_end(&mut received)?;
    let took = begun.elapsed();
    sender.join().map_err(|_| "the sender panics")??;
    assert!(received.len() == bytes && received.iter().all(|byte| *byte == 7));
    Ok(took)
}

const BYTES_PER_SECOND: u64 = 2_000_000;
/// What that should take a second; with what fits queues a little less.
const BYTES: usize = 2_000_000;

#[test]
fn a_narrow_line_slows_transfers_down_both_ways() -> Result<()> {
    let Some(hosts) = hosts(3)? else { return Ok(()) };
    let narrow = hosts.bandwidth(0, BYTES_PER_SECOND)?;
    for (from, to) in [(0, 1), (2, 0)] {
        let took = transfer(&hosts, from, to, BYTES)?.as_secs_f64();
        assert!((0.7..8.0).contains(&took), "{from} to {to}: {took} s");
    }
    let others = transfer(&hosts, 1, 2, BYTES)?.as_secs_f64();
    assert!(others < 0.7, "1 to 2: {others} s");
    narrow.heal()?;
    let after = transfer(&hosts, 0, 1, BYTES)?.as_secs_f64();
    assert!(after < 0.7, "after: {after} s");
    Ok(())
}

#[test]
fn a_second_limit_is_refused_and_leaves_the_first() -> Result<()> {
    let Some(hosts) = hosts(2)? else { return Ok(()) };
    let narrow = hosts.bandwidth(0, BYTES_PER_SECOND)?;
    assert!(matches!(hosts.bandwidth(0, 1_000_000_000), Err(HostsError::Failed { .. })));
    let took = transfer(&hosts, 0, 1, BYTES)?.as_secs_f64();
    assert!(took > 0.7, "{took} s");
    narrow.heal()?;
    hosts.bandwidth(0, BYTES_PER_SECOND)?.heal()?;
    Ok(())
}

#[test]
fn numbers_that_make_no_sense_are_refused() -> Result<()> {
    let Some(hosts) = hosts(2)? else { return Ok(()) };
    for percent in [0.0, -1.0, 100.1, f64::NAN] {
        assert!(matches!(hosts.loss(0, percent), Err(HostsError::Argument(_))), "{percent}");
    }
    assert!(matches!(hosts.bandwidth(0, 10), Err(HostsError::Argument(_))));
    assert!(matches!(hosts.delay(1, 1, SILENCE), Err(HostsError::Argument(_))));
    Ok(())
}

#[test]
fn a_fault_that_outlives_its_hosts_needs_no_healing() -> Result<()> {
    let Some(hosts) = hosts(2)? else { return Ok(()) };
    let cut = hosts.partition(0, 1)?;
    drop(hosts);
    cut.heal()?;
    Ok(())
}

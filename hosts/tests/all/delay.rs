//! Packets that take their time.

use super::common::{DEADLINE, Result, SILENCE, datagrams, reaches, receive};
use millstream_hosts::{Host, Hosts, HostsError};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

const DELAY: Duration = Duration::from_millis(80);
/// There and back.
const ROUND_TRIP: Duration = Duration::from_millis(160);

/// So many hosts; none, with the reason printed, where they or delays cannot be had.
fn hosts(count: usize) -> Result<Option<Hosts>> {
    if let Err(missing) = Hosts::delay_available() {
        println!("skipped: {missing}");
        return Ok(None);
    }
    super::common::hosts(count)
}

fn round_trip(one: &UdpSocket, other: &UdpSocket) -> Result<Duration> {
    let begun = Instant::now();
    one.send_to(b"there", other.local_addr()?)?;
    receive(other, DEADLINE)?.ok_or("nothing arrives there")?;
    other.send_to(b"back", one.local_addr()?)?;
    receive(one, DEADLINE)?.ok_or("nothing arrives back")?;
    Ok(begun.elapsed())
}

/// The shortest of some, because the machine may be busy.
fn shortest_round_trip(hosts: &Hosts, one: usize, other: usize) -> Result<Duration> {
    let sockets = (datagrams(hosts.host(one))?, datagrams(hosts.host(other))?);
    let mut shortest = Duration::MAX;
    for _ in 0..5 {
        shortest = shortest.min(round_trip(&sockets.0, &sockets.1)?);
    }
    Ok(shortest)
}

fn connect(from: &Host, to: &Host) -> Result<(TcpStream, TcpStream)> {
    let listener = to.within(|| TcpListener::bind((to.address(), 0)))??;
    let address = listener.local_addr()?;
    let client = from.within(|| TcpStream::connect_timeout(&address, DEADLINE))??;
    let (server, _) = listener.accept()?;
    server.set_read_timeout(Some(DEADLINE))?;
    Ok((client, server))
}

#[test]
fn a_delay_is_that_of_one_pair_until_it_ends() -> Result<()> {
    let Some(hosts) = hosts(3)? else { return Ok(()) };
    assert!(shortest_round_trip(&hosts, 0, 1)? < ROUND_TRIP);
    let slow = hosts.delay(0, 1, DELAY)?;
    for (one, other) in [(0, 1), (1, 0)] {
        let took = shortest_round_trip(&hosts, one, other)?;
        assert!((ROUND_TRIP..ROUND_TRIP * 4).contains(&took), "{one} to {other}: {took:?}");
    }
    for (one, other) in [(0, 2), (1, 2)] {
        let took = shortest_round_trip(&hosts, one, other)?;
        assert!(took < DELAY, "{one} to {other}: {took:?}");
    }
    slow.heal()?;
    let after = shortest_round_trip(&hosts, 0, 1)?;
    assert!(after < DELAY, "{after:?}");
    Ok(())
}

#[test]
fn each_pair_has_a_delay_of_its_own() -> Result<()> {
    let Some(hosts) = hosts(3)? else { return Ok(()) };
    let _near = hosts.delay(0, 1, DELAY)?;
    let far = hosts.delay(0, 2, DELAY * 2)?;
    assert!(matches!(hosts.delay(1, 0, DELAY), Err(HostsError::Failed { .. })));
    for (other, expected) in [(1, ROUND_TRIP), (2, ROUND_TRIP * 2)] {
        let took = shortest_round_trip(&hosts, 0, other)?;
        assert!((expected..expected + ROUND_TRIP).contains(&took), "0 to {other}: {took:?}");
    }
    far.heal()?;
    assert!(shortest_round_trip(&hosts, 0, 2)? < DELAY);
    assert!(shortest_round_trip(&hosts, 0, 1)? >= ROUND_TRIP);
    Ok(())
}

#[test]
fn an_open_connection_takes_the_detour_and_loses_nothing() -> Result<()> {
    const BYTES: usize = 8 << 20;
    let Some(hosts) = hosts(2)? else { return Ok(()) };
    let (mut client, mut server) = connect(hosts.host(0), hosts.host(1))?;
    let slow = hosts.delay(0, 1, Duration::from_millis(20))?;
    let sender = thread::spawn(move || {
        let bytes: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
        client.write_all(&bytes)
    });
    let mut received = vec![0; BYTES / 2];
    server.read_exact(&mut received)?;
    // It ends while packets are under way.
    slow.heal()?;
    server.read_to_end(&mut received)?;
    sender.join().map_err(|_| "the sender panics")??;
    assert_eq!(received.len(), BYTES);
    assert!(received.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at % 251));
    Ok(())
}

/// Sends datagrams with numbers, and collects them in the order they arrive.
fn numbers(hosts: &Hosts, count: u8) -> Result<Vec<u8>> {
    let (sender, receiver) = (datagrams(hosts.host(0))?, datagrams(hosts.host(1))?);
    for number in 0..count {
        sender.send_to(&[number], receiver.local_addr()?)?;
    }
    let mut arrived = Vec::new();
    while arrived.len() < count.into() {
        arrived.extend(receive(&receiver, DEADLINE)?.ok_or("a datagram is lost")?);
    }
    Ok(arrived)
}

#[test]
fn with_one_delay_packets_stay_in_order_and_with_many_they_do_not() -> Result<()> {
    let Some(hosts) = hosts(2)? else { return Ok(()) };
    let in_order: Vec<u8> = (0..100).collect();
    let slow = hosts.delay(0, 1, DELAY)?;
    assert_eq!(numbers(&hosts, 100)?, in_order);
    slow.heal()?;
    let _unsteady = hosts.jitter(0, 1, Duration::ZERO..=DELAY)?;
    let mut arrived = numbers(&hosts, 100)?;
    assert_ne!(arrived, in_order);
    arrived.sort_unstable();
    assert_eq!(arrived, in_order);
    Ok(())
}

#[test]
fn other_faults_hold_on_the_detour() -> Result<()> {
    let Some(hosts) = hosts(2)? else { return Ok(()) };
    let _slow = hosts.delay(0, 1, Duration::from_millis(5))?;
    let cut = hosts.partition_one_way(0, 1)?;
    assert!(!reaches(&hosts, 0, 1, SILENCE)?);
    assert!(reaches(&hosts, 1, 0, DEADLINE)?);
    cut.heal()?;
    assert!(reaches(&hosts, 0, 1, DEADLINE)?);

    let _narrow = hosts.bandwidth(0, 1_000_000)?;
    let (mut client, mut server) = connect(hosts.host(0), hosts.host(1))?;
    let begun = Instant::now();
    let sender = thread::spawn(move || client.write_all(&[7; 1_000_000]));
    let mut received = Vec::new();
    server.read_to_end(&mut received)?;
    sender.join().map_err(|_| "the sender panics")??;
    assert_eq!(received.len(), 1_000_000);
    assert!(begun.elapsed() > Duration::from_millis(700), "{:?}", begun.elapsed());
    Ok(())
}

use super::*;
use crate::remote::cutter::FrameCutter;
use crate::remote::frame::{FrameHeader, FrameKind, HEADER_BYTES};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Instant;

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

const SMALL: TransportSettings = TransportSettings {
    send_buffers: 4,
    send_buffer_bytes: 16 << 10,
    receive_buffers: 2,
    receive_buffer_bytes: 8 << 10,
    zero_copy: ZeroCopy::Never,
};

/// Two ends of a connection.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    one.set_nodelay(true).unwrap();
    other.set_nodelay(true).unwrap();
    (one, other)
}

/// `None` where the host forbids the ring, which the log of the test says.
fn open(settings: TransportSettings) -> Option<Transport> {
    match Transport::open(settings) {
        Ok(transport) => Some(transport),
        Err(error) => {
            println!("skipped: no io_uring here: {error}");
            None
        }
    }
}

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed * 2 + 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn many_connections_have_small_buffers() {
    let of = |connections| TransportSettings::for_connections(connections);
    let sizes = [0, 1, 64, 65, 128, 1_000, 1_024, 5_000].map(|n| of(n).receive_buffer_bytes >> 10);
    assert_eq!(sizes, [264, 264, 256, 128, 128, 16, 16, 16]);
    for connections in 0..=1_024 {
        let sent_from = of(connections).buffer_bytes(0);
        assert!(of(connections).buffer_bytes(connections) - sent_from <= RECEIVE_BYTES_MAX);
    }
}

/// Turns both over until something holds.
fn turn_until(
    sender: &mut Transport,
    receiver: &mut Transport,
    mut on_received: impl FnMut(ConnectionId, TransportEvent),
    mut is_over: impl FnMut(&mut Transport) -> bool,
) {
    let begun = Instant::now();
    while !is_over(sender) {
        assert!(begun.elapsed() < LONG, "it does not end: {:?}, {:?}", sender, receiver);
        sender.tick(&mut |_, _| {}).unwrap();
        receiver.tick(&mut on_received).unwrap();
    }
}

#[test]
fn frames_arrive_whole_and_in_order_and_most_lie_in_place() {
    let (Some(mut sender), Some(mut receiver)) = (open(SMALL), open(SMALL)) else { return };
    let (one, other) = pair();
    let (from, to) = (sender.add(one).unwrap(), receiver.add(other).unwrap());
    let payloads: Vec<_> = (0..400).map(|n| bytes((n * 37) % 1_500, n as u64)).collect();
    let (mut cutter, mut number) = (FrameCutter::new(1), 0);
    let received = std::cell::Cell::new(0);
    let mut next = 0;
    turn_until(
        &mut sender,
        &mut receiver,
        |connection, event| {
            assert_eq!(connection, to);
            let TransportEvent::Received(bytes) = event else { panic!("it is closed") };
            let mut at = 0;
            while let Some(frame) = cutter.next(&bytes, &mut at).unwrap() {
                assert_eq!(frame.header.number, number);
                assert_eq!(frame.bytes(&bytes), payloads[number as usize]);
                number += 1;
            }
            cutter.set_aside(&bytes, &mut at).unwrap();
            received.set(number as usize);
        },
        |sender| {
            // As many frames in a buffer as there is room for.
            while next < payloads.len()
                && let Some(mut buffer) = sender.buffer()
            {
                while let Some(payload) = payloads.get(next) {
                    let header = FrameHeader::new(FrameKind::Batch, 0, 1, 0, next as u64, payload);
                    let Some(room) = buffer.room(HEADER_BYTES + header.padded_bytes()) else {
                        break;
                    };
                    room[..HEADER_BYTES].copy_from_slice(&header.encode());
                    let (body, padding) = room[HEADER_BYTES..].split_at_mut(payload.len());
                    body.copy_from_slice(payload);
                    padding.fill(0);
                    next += 1;
                }
                sender.send(from, buffer);
            }
            received.get() == payloads.len()
        },
    );
    assert!(!cutter.is_amid_a_frame());
    let stats = cutter.stats();
    if receiver.features().incremental_buffers {
        assert!(stats.bytes_in_place > 4 * stats.bytes_copied, "{stats:?}");
    }
    assert_eq!(sender.stats().bytes_sent, receiver.stats().bytes_received);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_is_sent_arrives_whatever_the_buffers(
        sizes in prop::collection::vec(1usize..20_000, 1..30),
        receive_buffers in 0u32..3,
        zero_copy: bool,
        keep in 0usize..3,
    ) {
        let settings = TransportSettings {
            send_buffer_bytes: 20_000,
            receive_buffers: 1 << receive_buffers,
            receive_buffer_bytes: 4096,
            zero_copy: if zero_copy { ZeroCopy::From(0) } else { ZeroCopy::Never },
            ..SMALL
        };
        let (Some(mut sender), Some(mut receiver)) = (open(settings), open(settings)) else {
            return Ok(());
        };
        let (one, other) = pair();
        let (from, _) = (sender.add(one).unwrap(), receiver.add(other).unwrap());
        let expected: Vec<_> = sizes.iter().zip(1..).flat_map(|(size, n)| bytes(*size, n)).collect();
        let found = std::cell::RefCell::new(Vec::new());
        // Some of what was received is used for a while.
        let kept = std::cell::RefCell::new(VecDeque::new());
        let (mut next, mut begin) = (0, 0);
        turn_until(
            &mut sender,
            &mut receiver,
            |_, event| {
                let TransportEvent::Received(bytes) = event else { panic!("it is closed") };
                found.borrow_mut().extend_from_slice(&bytes);
                let mut kept = kept.borrow_mut();
                kept.push_back(bytes);
                if kept.len() > keep {
                    kept.pop_front();
                }
                if found.borrow().len().is_multiple_of(3) {
                    kept.clear();
                }
            },
            |sender| {
                while let Some(size) = sizes.get(next)
                    && let Some(mut buffer) = sender.buffer()
                {
                    assert!(buffer.extend(&expected[begin..begin + size]));
                    (next, begin) = (next + 1, begin + size);
                    sender.send(from, buffer);
                }
                // With all buffers in use no more comes.
                let may_be_stuck = kept.borrow().len() >= usize::from(settings.receive_buffers);
                found.borrow().len() >= expected.len() || may_be_stuck
            },
        );
        prop_assert!(expected.starts_with(&found.borrow()));
    }
}

#[test]
fn who_reads_nothing_stops_the_sender_and_nothing_is_lost() {
    let (Some(mut sender), Some(mut receiver)) = (open(SMALL), open(SMALL)) else { return };
    let (one, other) = pair();
    let (from, _) = (sender.add(one).unwrap(), receiver.add(other).unwrap());
    let mut kept = Vec::new();
    let mut sent = 0u64;
    // Until nothing moves any more: all buffers are in use, here and there and in the kernel.
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < Duration::from_millis(300) {
        while let Some(mut buffer) = sender.buffer() {
            assert!(buffer.extend(&bytes(16 << 10, sent)));
            sender.send(from, buffer);
            sent += 1;
            quiet_since = Instant::now();
        }
        sender.tick(&mut |_, _| {}).unwrap();
        receiver
            .tick(&mut |_, event| match event {
                TransportEvent::Received(bytes) => kept.push(bytes),
                TransportEvent::Closed(error) => panic!("{error:?}"),
            })
            .unwrap();
    }
    let held: usize = kept.iter().map(|bytes| bytes.len()).sum();
    assert!(held <= 16 << 10, "{held} bytes in two buffers of 8 KiB");
    // Now what was held is read, and all the rest comes.
    let mut found: Vec<u8> = kept.drain(..).flat_map(|bytes| bytes.to_vec()).collect();
    let expected: Vec<u8> = (0..sent).flat_map(|n| bytes(16 << 10, n)).collect();
    let found = std::cell::RefCell::new(std::mem::take(&mut found));
    turn_until(
        &mut sender,
        &mut receiver,
        |_, event| match event {
            TransportEvent::Received(bytes) => found.borrow_mut().extend_from_slice(&bytes),
            TransportEvent::Closed(error) => panic!("{error:?}"),
        },
        |_| found.borrow().len() >= expected.len(),
    );
    assert!(*found.borrow() == expected);
}

#[test]
fn a_peer_that_ends_is_reported_once_and_after_what_it_has_sent() {
    let Some(mut transport) = open(SMALL) else { return };
    let (one, mut other) = pair();
    let id = transport.add(one).unwrap();
    other.write_all(b"the last words").unwrap();
    drop(other);
    let (begun, mut found, mut closed) = (Instant::now(), Vec::new(), 0);
    while begun.elapsed() < LONG && (closed == 0 || begun.elapsed() < Duration::from_millis(100)) {
        transport
            .wait(Some(Duration::from_millis(20)), &mut |connection, event| {
                assert_eq!(connection, id);
                match event {
                    TransportEvent::Received(bytes) => {
                        assert_eq!(closed, 0);
                        found.extend_from_slice(&bytes);
                    }
                    TransportEvent::Closed(error) => {
                        assert!(error.is_none(), "{error:?}");
                        closed += 1;
                    }
                }
            })
            .unwrap();
    }
    assert_eq!((found.as_slice(), closed), (b"the last words".as_slice(), 1));
    // Its number is free again.
    let (one, mut other) = pair();
    assert_eq!(transport.add(one).unwrap(), id);
    let mut buffer = transport.buffer().unwrap();
    assert!(buffer.extend(b"hello"));
    transport.send(id, buffer);
    transport.wait(Some(LONG), &mut |_, _| {}).unwrap();
    let mut hello = [0; 5];
    other.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello");
    // And this end closes it.
    transport.close(id);
    let mut closed = 0;
    while closed == 0 {
        assert!(begun.elapsed() < LONG);
        let mut on_event =
            |_, event| closed += u32::from(matches!(event, TransportEvent::Closed(None)));
        transport.wait(Some(Duration::from_millis(20)), &mut on_event).unwrap();
    }
    assert_eq!(other.read(&mut hello).unwrap(), 0);
}

#[test]
fn a_reset_is_an_error_and_gives_the_buffers_back() {
    let Some(mut transport) = open(SMALL) else { return };
    let (one, other) = pair();
    let id = transport.add(one).unwrap();
    let (begun, mut failed) = (Instant::now(), None);
    let mut other = Some(other);
    while failed.is_none() {
        assert!(begun.elapsed() < LONG, "nobody notices");
        // Those that are sent when it is closed come back at once.
        let buffers: Vec<_> = std::iter::from_fn(|| transport.buffer()).collect();
        for mut buffer in buffers {
            assert!(buffer.extend(&[7; 16 << 10]));
            transport.send(id, buffer);
        }
        let mut on_event = |_, event| {
            if let TransportEvent::Closed(error) = event {
                failed = Some(error);
            }
        };
        transport.wait(Some(Duration::from_millis(5)), &mut on_event).unwrap();
        // With bytes that nobody has read, so that it answers with a reset.
        if begun.elapsed() > Duration::from_millis(50) {
            other.take();
        }
    }
    let error = failed.flatten().expect("a reset is no orderly end");
    let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    assert!(kinds.contains(&error.kind()), "{error:?}");
    let all: Vec<_> = std::iter::from_fn(|| transport.buffer()).collect();
    assert_eq!(all.len(), usize::from(SMALL.send_buffers));
    // To whom it is gone nothing can be sent.
    all.into_iter().for_each(|buffer| transport.send(id, buffer));
    assert!(transport.buffer().is_some());
}

#[test]
fn zero_copy_is_given_up_where_the_kernel_copies() {
    let settings = TransportSettings { zero_copy: ZeroCopy::From(1 << 10), ..SMALL };
    let (Some(mut sender), Some(mut receiver)) = (open(settings), open(SMALL)) else { return };
    let (one, other) = pair();
    let (from, _) = (sender.add(one).unwrap(), receiver.add(other).unwrap());
    const SENDS: usize = 50;
    let (mut sent, received) = (0, std::cell::Cell::new(0));
    turn_until(
        &mut sender,
        &mut receiver,
        |_, event| {
            let TransportEvent::Received(bytes) = event else { panic!("it is closed") };
            received.set(received.get() + bytes.len());
        },
        |sender| {
            while sent < SENDS
                && let Some(mut buffer) = sender.buffer()
            {
                // A small one in between is sent plainly, and says nothing about the path.
                let len = if sent % 2 == 0 { 10 << 10 } else { 100 };
                assert!(buffer.extend(&bytes(len, sent as u64)));
                sender.send(from, buffer);
                sent += 1;
            }
            received.get() == SENDS / 2 * ((10 << 10) + 100)
        },
    );
    let stats = sender.stats();
    assert_eq!(stats.notifications, stats.copied, "loopback copies: {stats:?}");
    // Those that were under way when the third came back.
    let most = u64::from(COPIED_MAX) + u64::from(SMALL.send_buffers);
    assert!((u64::from(COPIED_MAX)..=most).contains(&stats.notifications), "{stats:?}");
}

/// Under the address sanitizer this is where memory that the kernel still uses would show.
#[test]
fn a_transport_may_be_dropped_at_any_time() {
    for round in 0..60u64 {
        let zero_copy = if round < 30 { ZeroCopy::Never } else { ZeroCopy::From(0) };
        let settings = TransportSettings { zero_copy, ..SMALL };
        let (Some(mut sender), Some(mut receiver)) = (open(settings), open(SMALL)) else { return };
        let (one, other) = pair();
        let (from, _) = (sender.add(one).unwrap(), receiver.add(other).unwrap());
        let mut kept = Vec::new();
        for _ in 0..round % 30 {
            while let Some(mut buffer) = sender.buffer() {
                assert!(buffer.extend(&bytes(10 << 10, round)));
                sender.send(from, buffer);
            }
            sender.tick(&mut |_, _| {}).unwrap();
            let mut on_event = |_, event| {
                if let TransportEvent::Received(bytes) = event {
                    kept.push(bytes);
                }
            };
            receiver.tick(&mut on_event).unwrap();
        }
        if round % 2 == 0 {
            drop(sender);
            drop(receiver);
        } else {
            drop(receiver);
            drop(sender);
        }
        // What was received outlives it.
        assert!(kept.iter().all(|bytes| !bytes.is_empty()));
    }
}

/// What was sent without copying is the kernel's until the peer has it, which may be never.
#[test]
fn a_peer_that_never_reads_holds_nobody_up() {
    let settings = TransportSettings { zero_copy: ZeroCopy::From(0), ..SMALL };
    let Some(mut transport) = open(settings) else { return };
    let (one, _other) = pair();
    let id = transport.add(one).unwrap();
    let begun = Instant::now();
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < Duration::from_millis(200) {
        while let Some(mut buffer) = transport.buffer() {
            assert!(buffer.extend(&[7; 16 << 10]));
            transport.send(id, buffer);
            quiet_since = Instant::now();
        }
        transport.tick(&mut |_, _| {}).unwrap();
    }
    transport.close(id);
    let mut closed = false;
    while !closed {
        assert!(begun.elapsed() < LONG, "it is not reported: {transport:?}");
        let mut on_event = |_, event| closed |= matches!(event, TransportEvent::Closed(None));
        transport.wait(Some(Duration::from_millis(20)), &mut on_event).unwrap();
    }
    let begun = Instant::now();
    drop(transport);
    assert!(begun.elapsed() < Duration::from_millis(500), "the end was waited for");
}

#[test]
fn a_connection_that_is_closed_before_anything_happened_is_reported_at_once() {
    let Some(mut transport) = open(SMALL) else { return };
    let (one, _other) = pair();
    let id = transport.add(one).unwrap();
    transport.close(id);
    let mut closed = 0;
    let mut on_event =
        |_, event| closed += u32::from(matches!(event, TransportEvent::Closed(None)));
    let begun = Instant::now();
    assert!(transport.wait(Some(LONG), &mut on_event).unwrap());
    assert!(closed == 1 && begun.elapsed() < LONG / 2);
}

#[test]
fn an_alarm_ends_a_wait_from_another_thread_and_is_not_lost() {
    let Some(mut transport) = open(SMALL) else { return };
    let alarm = transport.alarm().unwrap();
    let begun = Instant::now();
    // Before the wait, several at once, which count as one.
    alarm.ring();
    alarm.ring();
    transport.wait(Some(LONG), &mut |_, _| {}).unwrap();
    // During it, from elsewhere; and again, as it is armed anew.
    for _ in 0..3 {
        let other = alarm.clone();
        let ringing = std::thread::spawn(move || other.ring());
        transport.wait(None, &mut |_, _| {}).unwrap();
        ringing.join().unwrap();
        // What was rung behind the wait's end is still to be heard.
        transport.wait(Some(Duration::from_millis(1)), &mut |_, _| {}).unwrap();
    }
    assert!(begun.elapsed() < LONG / 2);
    let begun = Instant::now();
    transport.wait(Some(Duration::from_millis(20)), &mut |_, _| {}).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(20), "nobody has rung");
}

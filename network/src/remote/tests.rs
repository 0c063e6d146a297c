use super::*;
use crate::transport::{Transport, TransportSettings, ZeroCopy};
use crate::{Doorbell, Receiver, Wake, channel};
use links::{LinkError, Links, Window};
use millstream_types::{Barrier, CheckpointId, Element, Timestamp};
use proptest::prelude::*;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(10);
const ATTEMPT: u64 = 4;
const WINDOW: Window = Window { data: 4, control: 4 };

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Numbers(Vec<u64>);

impl Batch for Numbers {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn clear(&mut self) {
        self.0.clear();
    }
}

/// A number that cannot be written.
const UNWRITABLE: u64 = u64::MAX;

struct NumbersCodec {
    schema: u64,
}

impl Codec<Numbers> for NumbersCodec {
    fn schema(&self) -> u64 {
        self.schema
    }
    fn prepare(&mut self, batch: &Numbers) -> Result<usize, CodecError> {
        if batch.0.contains(&UNWRITABLE) {
            return Err(CodecError("it cannot be written".into()));
        }
        Ok(8 * batch.0.len())
    }
    fn write(&mut self, batch: &Numbers, payload: &mut [u8]) {
        let (words, _) = payload.as_chunks_mut();
        for (word, number) in words.iter_mut().zip(&batch.0) {
            *word = number.to_le_bytes();
        }
    }
    fn read(&mut self, payload: FramePayload, batch: &mut Numbers) -> Result<(), CodecError> {
        let (words, rest) = payload.as_chunks();
        if !rest.is_empty() {
            return Err(CodecError("half a number".into()));
        }
        batch.0.extend(words.iter().map(|word| u64::from_le_bytes(*word)));
        Ok(())
    }
}

struct Nobody;

impl Wake for Nobody {
    fn wake(&self) {}
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (one, listener.accept().unwrap().0)
}

fn links(attempt: u64) -> Option<Links> {
    let settings = TransportSettings {
        send_buffers: 4,
        send_buffer_bytes: 8 << 10,
        receive_buffers: 4,
        receive_buffer_bytes: 8 << 10,
        zero_copy: ZeroCopy::Never,
    };
    match Transport::open(settings) {
        Ok(transport) => Some(Links::new(transport, attempt, settings.receive_buffers)),
        Err(error) => {
            println!("skipped: no io_uring here: {error}");
            None
        }
    }
}

/// Two slots, with channel 7 from the one to the other.
struct Two {
    here: Links,
    there: Links,
    sender: RemoteSender<Numbers, NumbersCodec>,
    receiver: Receiver<Numbers>,
}

impl Two {
    fn connected() -> Option<Self> {
        let (mut here, mut there) = (links(ATTEMPT)?, links(ATTEMPT)?);
        let (one, other) = pair();
        let to = here.connect("there".into(), one).unwrap();
        let from = there.connect("here".into(), other).unwrap();
        let sender = here.sender(to, 7, WINDOW, NumbersCodec { schema: 1 });
        let slot = Doorbell::new(Arc::new(Nobody));
        let (into, receiver) = channel(WINDOW.data as usize, &slot, &slot);
        there.receive_into(from, 7, WINDOW, NumbersCodec { schema: 1 }, into);
        Some(Self { here, there, sender, receiver })
    }

    fn tick(&mut self) -> Result<(), LinkError> {
        self.here.tick()?;
        self.there.tick()?;
        Ok(())
    }

    /// Sends a batch if there is a credit.
    fn send(&mut self, numbers: &[u64]) -> bool {
        let Some(mut batch) = self.sender.acquire(Numbers::default) else { return false };
        assert_eq!(batch, Numbers::default());
        batch.0.extend_from_slice(numbers);
        self.sender.send(Element::Batch(batch));
        true
    }

    /// The next element, with its batch given back.
    fn receive(&mut self) -> Option<Element<Numbers>> {
        let element = self.receiver.receive()?;
        if let Element::Batch(batch) = &element {
            self.receiver.give_back(batch.clone());
        }
        Some(element)
    }

    fn until_error(mut self) -> LinkError {
        let begun = Instant::now();
        loop {
            if let Err(error) = self.tick() {
                return error;
            }
            assert!(begun.elapsed() < LONG, "it goes on");
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Batch(Vec<u64>),
    Signal(Element<Numbers>),
    Tick,
    Receive,
    /// Keeps a batch for a while.
    Hold,
    GiveBack,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let batch = prop::collection::vec(0..UNWRITABLE, 0..3_000);
    let signal = prop_oneof![
        any::<i64>().prop_map(|nanos| Element::Watermark(Timestamp::from_nanos(nanos))),
        Just(Element::Idle),
        Just(Element::Active),
        any::<u64>().prop_map(|id| Element::Barrier(Barrier { checkpoint: CheckpointId(id) })),
    ];
    let step = prop_oneof![
        4 => batch.prop_map(Step::Batch),
        2 => signal.prop_map(Step::Signal),
        6 => Just(Step::Tick),
        3 => Just(Step::Receive),
        1 => Just(Step::Hold),
        1 => Just(Step::GiveBack),
    ];
    prop::collection::vec(step, 0..150)
}

/// Only a watermark directly followed by another may be left out.
fn without_superseded(elements: &[Element<Numbers>]) -> Vec<Element<Numbers>> {
    let mut kept = Vec::new();
    for element in elements {
        if let (Element::Watermark(_), Some(Element::Watermark(_))) = (element, kept.last()) {
            kept.pop();
        }
        kept.push(element.clone());
    }
    kept
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn elements_arrive_in_order_whatever_happens_and_never_more_than_were_granted(steps in steps()) {
        let Some(mut two) = Two::connected() else { return Ok(()) };
        let (mut sent, mut received, mut held) = (Vec::new(), Vec::new(), Vec::new());
        let (mut batches_sent, mut batches_given_back) = (0u64, 0);
        for step in steps {
            match step {
                Step::Batch(numbers) => {
                    if two.send(&numbers) {
                        batches_sent += 1;
                        sent.push(Element::Batch(Numbers(numbers)));
                    } else {
                        prop_assert!(two.sender.is_blocked());
                    }
                }
                Step::Signal(signal) => {
                    sent.push(signal.clone());
                    two.sender.send(signal);
                }
                Step::Tick => two.tick().unwrap(),
                Step::Receive => {
                    if let Some(element) = two.receive() {
                        batches_given_back += u64::from(matches!(element, Element::Batch(_)));
                        received.push(element);
                    }
                }
                Step::Hold => {
                    if let Some(element) = two.receiver.receive() {
                        if let Element::Batch(batch) = &element {
                            held.push(batch.clone());
                        }
                        received.push(element);
                    }
                }
                Step::GiveBack => {
                    if let Some(batch) = held.pop() {
                        two.receiver.give_back(batch);
                        batches_given_back += 1;
                    }
                }
            }
            prop_assert!(batches_sent - batches_given_back <= u64::from(WINDOW.data));
        }
        held.into_iter().for_each(|batch| two.receiver.give_back(batch));
        two.sender.send(Element::EndOfInput);
        sent.push(Element::EndOfInput);
        let begun = Instant::now();
        while received.last() != Some(&Element::EndOfInput) {
            prop_assert!(begun.elapsed() < LONG, "stuck: {two:?}", two = (&two.here, &two.sender));
            two.sender.flush_overflow();
            two.tick().unwrap();
            while let Some(element) = two.receive() {
                received.push(element);
            }
        }
        prop_assert_eq!(without_superseded(&received), without_superseded(&sent));
        let stats = two.there.stats();
        let bytes: usize = sent.iter().map(|element| match element {
            Element::Batch(batch) => 8 * batch.len(),
            _ => 16,
        }).sum();
        let found = (stats.bytes_in_place + stats.bytes_copied) as usize;
        // Watermarks may have been left out.
        prop_assert!(found <= bytes && found + 16 * sent.len() >= bytes);
    }

    /// Batches by number. The barrier divides them, wherever they are by then.
    #[test]
    fn a_barrier_that_overtakes_divides_what_was_sent(
        before in 0u64..12, after in 0u64..4, ticks in 0usize..4, received_before in 0usize..8,
    ) {
        let Some(mut two) = Two::connected() else { return Ok(()) };
        let number = |element: &Element<Numbers>| match element {
            Element::Batch(batch) => Some(batch.0[0]),
            _ => None,
        };
        let (mut sent, mut read) = (0, Vec::new());
        let begun = Instant::now();
        while sent < before {
            prop_assert!(begun.elapsed() < LONG);
            if two.send(&[sent; 700]) {
                sent += 1;
                // Signals that use up the credits for control.
                two.sender.send(Element::Idle);
            } else {
                two.tick().unwrap();
                read.extend(two.receive());
            }
        }
        (0..ticks).for_each(|_| two.tick().unwrap());
        for _ in 0..received_before {
            read.extend(two.receive());
            prop_assert!(!two.receiver.has_overtaking());
        }
        let barrier = Barrier { checkpoint: CheckpointId(1) };
        let mut on_this_side: Vec<_> = two.sender.overtake(barrier).cloned().collect();
        // It goes even if nothing is consumed over there.
        while !two.receiver.has_overtaking() {
            prop_assert!(begun.elapsed() < LONG, "it does not arrive");
            two.tick().unwrap();
        }
        let overtaking = two.receiver.take_overtaking().unwrap();
        prop_assert_eq!(overtaking.barrier, barrier);
        let mut captured = Vec::new();
        two.receiver.peek_each(overtaking.waiting, |element| {
            captured.push(element.clone());
            true
        });
        captured.append(&mut on_this_side);
        let all: Vec<_> = read.iter().chain(&captured).filter_map(number).collect();
        prop_assert_eq!(all, (0..before).collect::<Vec<_>>());
        // And all of it is still received, in order.
        while sent < before + after || read.iter().filter_map(number).count() < sent as usize {
            prop_assert!(begun.elapsed() < LONG);
            if sent < before + after && two.send(&[sent]) {
                sent += 1;
            }
            two.sender.flush_overflow();
            two.tick().unwrap();
            read.extend(two.receive());
        }
        let all: Vec<_> = read.iter().filter_map(number).collect();
        prop_assert_eq!(all, (0..sent).collect::<Vec<_>>());
    }
}

#[test]
fn who_consumes_nothing_still_gets_credits() {
    // Both send to each other by one connection, and neither consumes.
    let (Some(mut here), Some(mut there)) = (links(ATTEMPT), links(ATTEMPT)) else { return };
    let (one, other) = pair();
    let to = here.connect("there".into(), one).unwrap();
    let from = there.connect("here".into(), other).unwrap();
    let slot = Doorbell::new(Arc::new(Nobody));
    let wide = Window { data: 64, control: 4 };
    let mut senders = Vec::new();
    let mut receivers = Vec::new();
    for channel_number in 0..8 {
        let codec = || NumbersCodec { schema: 1 };
        senders.push(here.sender(to, channel_number, wide, codec()));
        let (into, receiver) = channel::<Numbers>(64, &slot, &slot);
        there.receive_into(from, channel_number, wide, codec(), into);
        receivers.push(receiver);
    }
    let mut back = there.sender(from, 100, WINDOW, NumbersCodec { schema: 1 });
    let (into, mut at_back) = channel::<Numbers>(WINDOW.data as usize, &slot, &slot);
    here.receive_into(to, 100, WINDOW, NumbersCodec { schema: 1 }, into);
    // Far more than the 32 KiB that a connection has to receive into, and nobody takes any of it.
    let (begun, mut sent) = (Instant::now(), 0);
    while sent < 8 * 64 {
        assert!(begun.elapsed() < LONG, "{sent}: {there:?}");
        for sender in &mut senders {
            if let Some(mut batch) = sender.acquire(Numbers::default) {
                batch.0.resize(200, sent);
                sender.send(Element::Batch(batch));
                sent += 1;
            }
        }
        here.tick().unwrap();
        there.tick().unwrap();
    }
    // What goes back needs credits, which come the same way.
    let mut returned = 0;
    while returned < 20 {
        assert!(begun.elapsed() < LONG, "{returned}");
        if let Some(batch) = back.acquire(Numbers::default) {
            back.send(Element::Batch(batch));
        }
        here.tick().unwrap();
        there.tick().unwrap();
        if let Some(Element::Batch(batch)) = at_back.receive() {
            at_back.give_back(batch);
            returned += 1;
        }
    }
    let held: usize = receivers.iter_mut().map(|receiver| receiver.queued()).sum();
    assert!(held > 8 * 32, "{held}");
}

#[test]
fn a_peer_that_ends_early_is_a_failure_and_one_that_is_done_is_not() {
    let Some(mut two) = Two::connected() else { return };
    assert!(two.send(&[1, 2]));
    two.tick().unwrap();
    let Two { here, there, sender, receiver } = two;
    drop((here, sender));
    let (begun, mut there) = (Instant::now(), there);
    let error = loop {
        assert!(begun.elapsed() < LONG);
        if let Err(error) = there.wait(Some(Duration::from_millis(20))) {
            break error;
        }
    };
    assert!(matches!(&error, LinkError::Lost { peer, .. } if peer == "here"), "{error}");
    assert!(error.to_string().starts_with("the connection to here is lost"), "{error}");
    drop(receiver);

    let Some(mut two) = Two::connected() else { return };
    two.sender.send(Element::EndOfInput);
    while two.receive() != Some(Element::EndOfInput) {
        two.tick().unwrap();
    }
    let Two { here, mut there, .. } = two;
    drop(here);
    for _ in 0..20 {
        there.wait(Some(Duration::from_millis(5))).unwrap();
    }
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let Some(mut two) = Two::connected() else { return };
    two.sender = {
        let (one, other) = pair();
        let to = two.here.connect("there".into(), one).unwrap();
        let from = two.there.connect("here".into(), other).unwrap();
        let slot = Doorbell::new(Arc::new(Nobody));
        let (into, receiver) = channel(4, &slot, &slot);
        two.receiver = receiver;
        two.there.receive_into(from, 9, WINDOW, NumbersCodec { schema: 2 }, into);
        two.here.sender(to, 9, WINDOW, NumbersCodec { schema: 1 })
    };
    assert!(two.send(&[1]));
    let error = two.until_error().to_string();
    assert!(error.contains("records of another type"), "{error}");

    let Some(mut two) = Two::connected() else { return };
    assert!(two.send(&[1, UNWRITABLE]));
    let error = two.until_error().to_string();
    assert_eq!(error, "a batch for there, channel 7, cannot be written: it cannot be written");

    // Of another attempt, and by a channel that is not there.
    for (attempt, number, expected) in
        [(ATTEMPT - 1, 7, "attempt 3 of the job came to attempt 4"), (ATTEMPT, 8, "channel 8")]
    {
        let (Some(mut here), Some(mut there)) = (links(attempt), links(ATTEMPT)) else { return };
        let (one, other) = pair();
        let to = here.connect("there".into(), one).unwrap();
        let from = there.connect("here".into(), other).unwrap();
        let slot = Doorbell::new(Arc::new(Nobody));
        let (into, receiver) = channel(4, &slot, &slot);
        there.receive_into(from, 7, WINDOW, NumbersCodec { schema: 1 }, into);
        let sender = here.sender(to, number, WINDOW, NumbersCodec { schema: 1 });
        let mut two = Two { here, there, sender, receiver };
        assert!(two.send(&[1]));
        let error = two.until_error().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

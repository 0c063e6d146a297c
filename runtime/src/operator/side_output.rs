//! Side outputs: what an operator emits beside its main stream.

use super::{Operator, Signal};
use millstream_types::Timestamp;
use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Names a side output and the type of its records.
///
/// Two tags are different side outputs even if they have the same name.
pub struct OutputTag<T> {
    id: u64,
    name: Arc<str>,
    of: PhantomData<fn(T)>,
}

impl<T> OutputTag<T> {
    /// A new side output.
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Relaxed: only uniqueness matters.
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), name: name.into(), of: PhantomData }
    }

    /// The name given to [`OutputTag::new`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Distinguishes this tag from all others of the process.
    pub fn id(&self) -> u64 {
        self.id
    }
}

impl<T> Clone for OutputTag<T> {
    fn clone(&self) -> Self {
        Self { id: self.id, name: self.name.clone(), of: PhantomData }
    }
}

impl<T> fmt::Debug for OutputTag<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OutputTag({})", self.name)
    }
}

/// The side outputs of one operator: those of its tags that somebody consumes.
///
/// The operator passes every call of [`Operator`] but `record` on to them, beside its successor.
#[derive(Default)]
pub struct SideOutputs {
    outlets: Vec<(u64, Box<dyn Outlet>)>,
}

impl SideOutputs {
    /// Adds a consumer of the side output with this [`OutputTag::id`].
    pub fn attach<T: 'static>(&mut self, tag: u64, consumer: Box<dyn Operator<T>>) {
        self.outlets.push((tag, Box::new(Consumer(consumer))));
    }

    /// Emits a record into a side output. Without a consumer the record is dropped.
    ///
    /// Complexity: linear in the operator's side outputs, and two virtual calls.
    #[inline]
    pub fn emit<T: 'static>(&mut self, tag: &OutputTag<T>, value: T, timestamp: Timestamp) {
        let Some((_, outlet)) = self.outlets.iter_mut().find(|(id, _)| *id == tag.id) else {
            return;
        };
        let consumer: &mut dyn Any = &mut **outlet;
        let Consumer(operator) =
            consumer.downcast_mut::<Consumer<T>>().expect("a tag's id is given to one type only");
        operator.record(value, timestamp);
    }

    /// See [`Operator::watermark`].
    #[inline]
    pub fn watermark(&mut self, watermark: Timestamp) {
        self.outlets.iter_mut().for_each(|(_, o)| o.watermark(watermark));
    }

    /// See [`Operator::resume`].
    pub fn resume(&mut self, watermark: Timestamp) {
        self.outlets.iter_mut().for_each(|(_, o)| o.resume(watermark));
    }

    /// See [`Operator::signal`].
    #[inline]
    pub fn signal(&mut self, signal: Signal) {
        self.outlets.iter_mut().for_each(|(_, o)| o.signal(signal));
    }

    /// See [`Operator::tick`].
    #[inline]
    pub fn tick(&mut self, now: Timestamp) {
        self.outlets.iter_mut().for_each(|(_, o)| o.tick(now));
    }

    /// See [`Operator::next_deadline`].
    #[inline]
    pub fn next_deadline(&self) -> Timestamp {
        self.outlets.iter().map(|(_, o)| o.next_deadline()).min().unwrap_or(Timestamp::MAX)
    }

    /// See [`Operator::flush`].
    #[inline]
    pub fn flush(&mut self) {
        self.outlets.iter_mut().for_each(|(_, o)| o.flush());
    }

    /// See [`Operator::is_blocked`].
    #[inline]
    pub fn is_blocked(&mut self) -> bool {
        // Each is asked, as each moves what waits in it when it is.
        self.outlets.iter_mut().fold(false, |blocked, (_, o)| o.is_blocked() | blocked)
    }

    /// See [`Operator::is_finished`].
    #[inline]
    pub fn is_finished(&mut self) -> bool {
        self.outlets.iter_mut().fold(true, |finished, (_, o)| o.is_finished() & finished)
    }
}

/// What follows on a side output.
struct Consumer<T>(Box<dyn Operator<T>>);

/// A [`Consumer`] whose type is forgotten.
trait Outlet: Any {
    fn watermark(&mut self, watermark: Timestamp);
    fn resume(&mut self, watermark: Timestamp);
    fn signal(&mut self, signal: Signal);
    fn tick(&mut self, now: Timestamp);
    fn next_deadline(&self) -> Timestamp;
    fn flush(&mut self);
    fn is_blocked(&mut self) -> bool;
    fn is_finished(&mut self) -> bool;
}

impl<T: 'static> Outlet for Consumer<T> {
    fn watermark(&mut self, watermark: Timestamp) {
        self.0.watermark(watermark);
    }
    fn resume(&mut self, watermark: Timestamp) {
        self.0.resume(watermark);
    }
    fn signal(&mut self, signal: Signal) {
        self.0.signal(signal);
    }
    fn tick(&mut self, now: Timestamp) {
        self.0.tick(now);
    }
    fn next_deadline(&self) -> Timestamp {
        self.0.next_deadline()
    }
    fn flush(&mut self) {
        self.0.flush();
    }
    fn is_blocked(&mut self) -> bool {
        self.0.is_blocked()
    }
    fn is_finished(&mut self) -> bool {
        self.0.is_finished()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::{AssignTimestamps, EventTime, WatermarkStrategy};
    use crate::window::testing::Sink;
    use millstream_state::OperatorList;
    use millstream_types::OperatorId;
    use std::time::Duration;

    #[test]
    fn what_follows_on_a_side_output_gets_its_records_and_its_deadlines() {
        let idle_after = Duration::from_secs(3);
        let (sink, seen) = Sink::new();
        let strategy = WatermarkStrategy::monotonic(|n: &u64| Timestamp::from_millis(*n as i64))
            .with_idleness(idle_after);
        let (tag, unread) = (OutputTag::<u64>::new("side"), OutputTag::<String>::new("unread"));
        let mut sides = SideOutputs::default();
        sides.attach(
            tag.id(),
            Box::new(AssignTimestamps::new(
                OperatorId(0),
                strategy,
                EventTime::default(),
                OperatorList::default(),
                sink,
            )),
        );
        assert_eq!(sides.next_deadline(), Timestamp::MAX);

        sides.emit(&tag, 7, Timestamp::MIN);
        sides.emit(&unread, "dropped".to_owned(), Timestamp::MIN);
        assert_eq!(seen.borrow().records, [(7, Timestamp::from_millis(7))]);

        let now = Timestamp::from_millis(1_000);
        sides.tick(now);
        assert_eq!(sides.next_deadline(), now + idle_after);
        sides.tick(now + idle_after);
        assert_eq!(seen.borrow().signals, [Signal::Idle]);
    }
}

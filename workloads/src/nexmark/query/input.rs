//! The events as the queries read them: from memory, by reference.

use crate::nexmark::{Bid, Event};
use millstream::Chain;
use millstream::prelude::*;
use std::marker::PhantomData;
use std::sync::Arc;

/// How much later than a later event an event may come, as event time goes.
pub(super) const OUT_OF_ORDERNESS: Duration = Duration::from_secs(4);

/// Blocks of this many events are dealt to the source's subtasks in turn. The subtasks then go
/// through event time side by side, and what is in flight between them stays small.
const BLOCK_EVENTS: usize = 1_024;

/// The source of a query.
///
/// The events stay where they are. The stream that begins at the source carries their positions, and
/// the first operator, fused with the source, looks an event up and takes from it what the query is
/// about.
pub(super) struct Input<'a> {
    env: &'a Environment,
    events: &'a Arc<[Event]>,
}

impl<'a> Input<'a> {
    pub fn new(env: &'a Environment, events: &'a Arc<[Event]>) -> Self {
        Self { env, events }
    }

    /// The events that the positions are about.
    pub fn shared(&self) -> Arc<[Event]> {
        Arc::clone(self.events)
    }

    /// The positions of all events.
    pub fn positions(&self) -> DataStream<impl Chain<Out = usize>> {
        let end = self.events.len();
        self.env.from_blocks("events", end.div_ceil(BLOCK_EVENTS) as u64, move |block| {
            let first = block as usize * BLOCK_EVENTS;
            first..end.min(first + BLOCK_EVENTS)
        })
    }

    /// The positions of all events, in event time.
    fn timed_positions(&self) -> DataStream<impl Chain<Out = usize>> {
        let events = self.shared();
        self.positions().assign_timestamps(WatermarkStrategy::bounded_out_of_orderness(
            OUT_OF_ORDERNESS,
            move |at: &usize| Timestamp::from_millis(events[*at].timestamp_millis() as i64),
        ))
    }

    /// What `project` takes from each bid.
    pub fn bids<T: 'static>(
        &self,
        mut project: impl FnMut(&Bid) -> Option<T> + Clone + Send + 'static,
    ) -> DataStream<impl Chain<Out = T>> {
        let events = self.shared();
        self.positions().filter_map(move |at| match &events[at] {
            Event::Bid(bid) => project(bid),
            _ => None,
        })
    }

    /// What `project` takes from each bid, in event time.
    pub fn timed_bids<T: 'static>(
        &self,
        mut project: impl FnMut(&Bid) -> T + Clone + Send + 'static,
    ) -> DataStream<impl Chain<Out = T>> {
        let events = self.shared();
        self.timed_positions().filter_map(move |at| match &events[at] {
            Event::Bid(bid) => Some(project(bid)),
            _ => None,
        })
    }

    /// Two streams in event time, of what `main` and what `aside` take from each event. The second
    /// should be the smaller one: it goes through a side output, by virtual calls.
    pub fn split<A, B, F, G>(
        &self,
        main: F,
        aside: G,
    ) -> (DataStream<impl Chain<Out = A>>, DataStream<impl Chain<Out = B>>)
    where
        A: Clone + Send + 'static,
        B: millstream::Data + Clone,
        F: FnMut(&Event) -> Option<A> + Clone + Send + 'static,
        G: FnMut(&Event) -> Option<B> + Clone + Send + 'static,
    {
        let tag = OutputTag::new("aside");
        let events = self.shared();
        let split = Split { events, main, aside, tag: tag.clone(), emits: PhantomData };
        let main = self.timed_positions().process(split).name("split");
        let aside = main.side_output(&tag);
        (main, aside)
    }
}

#[derive(Clone)]
struct Split<A, B, F, G> {
    events: Arc<[Event]>,
    main: F,
    aside: G,
    tag: OutputTag<B>,
    emits: PhantomData<fn() -> A>,
}

impl<A, B, F, G> ProcessFunction<usize> for Split<A, B, F, G>
where
    A: 'static,
    B: 'static,
    F: FnMut(&Event) -> Option<A> + 'static,
    G: FnMut(&Event) -> Option<B> + 'static,
{
    type Out = A;

    fn process(
        &mut self,
        at: usize,
        context: &mut ProcessContext<'_>,
        out: &mut impl Collector<A>,
    ) -> Result<(), BoxError> {
        let event = &self.events[at];
        if let Some(record) = (self.main)(event) {
            out.collect(record);
        }
        if let Some(record) = (self.aside)(event) {
            context.emit_to(&self.tag, record);
        }
        Ok(())
    }
}

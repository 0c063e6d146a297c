//! The job graph: vertices (one operator chain each) and the edges between them.
//!
//! A graph is put together on one thread by the program, validated, and consumed by
//! [`crate::job::start`]. Types are forgotten here: an edge knows how to wire channels of its own
//! record type, a vertex how to build its chain.

mod edge;

pub use edge::Edge;
pub(crate) use edge::{OpenFeed, Wires};

use crate::chain::{Head, OpenError, Tail};
use crate::error::{BoxError, JobError};
use crate::exchange::{EdgeId, ExchangeSettings};
use crate::subtask::{Subtask, SubtaskContext};
use edge::Wiring;
use millstream_state::Data;
use millstream_tuning::ChannelMemory;
use millstream_types::{MAX_PARALLELISM_LIMIT, OperatorId, SlotIndex, VertexId, hash_key};
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

/// A job as the program describes it.
#[derive(Default)]
pub struct Graph {
    pub(crate) vertices: Vec<Vertex>,
    pub(crate) operators: Vec<OperatorInfo>,
    pub(crate) edges: Vec<EdgeInfo>,
    pub(crate) validations: Vec<(OperatorId, Check)>,
    pub(crate) outcomes: Vec<(OperatorId, VertexId, Box<dyn Outcome>)>,
    /// Sources that cannot be read again.
    unreplayable: Vec<OperatorId>,
    /// Sources and sinks of which one subtask cannot be restored while others go on.
    inseparable: Vec<OperatorId>,
    /// The side outputs that are read and whose branches have not ended yet.
    open_sides: Vec<OperatorId>,
}

type Check = Box<dyn FnOnce() -> Result<(), BoxError> + Send>;

/// One operator chain, with the branches that begin at its side outputs.
pub(crate) struct Vertex {
    pub(crate) operators: Vec<OperatorId>,
    pub(crate) parallelism: Option<u32>,
    /// What it was set to before, if that was something else.
    contradicted: Option<u32>,
    pub(crate) is_source: bool,
    pub(crate) is_sink: bool,
    build: Option<Box<dyn BuildVertex + Send>>,
}

/// What is known of an operator by name.
pub(crate) struct OperatorInfo {
    pub(crate) name: String,
    pub(crate) uid: Option<String>,
    /// Whose records it gets; none for the first of a vertex.
    after: Option<OperatorId>,
    /// It is on a side output's branch.
    aside: bool,
}

pub(crate) struct EdgeInfo {
    from: VertexId,
    to: VertexId,
    pattern: Pattern,
    wiring: Box<dyn Wiring + Send>,
}

/// Which subtasks of an edge are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Each with each.
    AllToAll,
    /// Each with the one of the same index or, if there are fewer on one side, with its share of
    /// the other side.
    Pointwise,
}

impl Pattern {
    /// How many channels begin or end in some slots, `here`.
    fn channels(self, senders: &[SlotIndex], receivers: &[SlotIndex], here: &Range<u32>) -> u64 {
        let is_here = |slot: &SlotIndex| here.contains(&slot.0);
        let elsewhere =
            |slots: &[SlotIndex]| slots.iter().filter(|slot| !is_here(slot)).count() as u64;
        let count = |slots: &[SlotIndex]| slots.len() as u64;
        match self {
            Self::AllToAll => {
                count(senders) * count(receivers) - elsewhere(senders) * elsewhere(receivers)
            }
            Self::Pointwise => {
                let channels = senders.iter().enumerate().map(|(sender, slot)| {
                    let targets = self.targets(sender, senders.len(), receivers.len());
                    targets.iter().filter(|to| is_here(slot) || is_here(&receivers[**to])).count()
                });
                channels.sum::<usize>() as u64
            }
        }
    }

    /// The targets of subtask `sender`, in order.
    fn targets(self, sender: usize, senders: usize, receivers: usize) -> Vec<usize> {
        match self {
            Self::AllToAll => (0..receivers).collect(),
            Self::Pointwise if senders >= receivers => vec![sender * receivers / senders],
            Self::Pointwise => {
                (0..receivers).filter(|r| r * senders / receivers == sender).collect()
            }
        }
    }
}

/// What happens to a sink's output.
pub(crate) trait Outcome: Send {
    fn commit(&self, transactions: &[Vec<u8>]) -> Result<(), BoxError>;
    fn abort(&self, parallelism: u32);
}

/// Builds a subtask, on its slot's thread.
pub(crate) type Instance =
    Box<dyn FnOnce(&mut SubtaskContext) -> Result<Box<dyn Subtask>, OpenError> + Send>;

/// What a graph is made of in one process.
pub(crate) struct Wired {
    /// By vertex and subtask.
    pub(crate) instances: Vec<Vec<Instance>>,
    /// By slot of the process.
    pub(crate) feeds: Vec<Vec<OpenFeed>>,
}

trait BuildVertex {
    fn instance(&self) -> Instance;
}

struct Built<H, T> {
    head: H,
    tail: T,
}

impl<H: Head, T: Tail<H::Out>> BuildVertex for Built<H, T> {
    fn instance(&self) -> Instance {
        let (head, tail) = (self.head.clone(), self.tail.clone());
        Box::new(move |context| {
            let next = tail.build(context)?;
            head.build(context, next)
        })
    }
}

impl Graph {
    /// Adds a vertex whose first operator has this name.
    pub fn add_vertex(&mut self, name: &str) -> (VertexId, OperatorId) {
        let vertex = VertexId(self.vertices.len() as u32);
        self.vertices.push(Vertex {
            operators: Vec::new(),
            parallelism: None,
            contradicted: None,
            is_source: false,
            is_sink: false,
            build: None,
        });
        (vertex, self.push_operator(vertex, name, None, false))
    }

    /// Adds an operator to a vertex' chain, or to one of its branches: behind the operator `after`.
    pub fn add_operator(&mut self, vertex: VertexId, after: OperatorId, name: &str) -> OperatorId {
        let aside = self.operators[after.0 as usize].aside;
        self.push_operator(vertex, name, Some(after), aside)
    }

    /// Adds what a branch begins with: a side output of the operator `after`. The program must
    /// [end](Self::close_side) the branch.
    pub fn add_side(&mut self, vertex: VertexId, after: OperatorId, name: &str) -> OperatorId {
        let operator = self.push_operator(vertex, name, Some(after), true);
        self.open_sides.push(operator);
        operator
    }

    /// The branch is complete that begins with this side output.
    pub fn close_side(&mut self, operator: OperatorId) {
        self.open_sides.retain(|open| *open != operator);
    }

    fn push_operator(
        &mut self,
        vertex: VertexId,
        name: &str,
        after: Option<OperatorId>,
        aside: bool,
    ) -> OperatorId {
        let operator = OperatorId(self.operators.len() as u32);
        self.operators.push(OperatorInfo { name: name.to_owned(), uid: None, after, aside });
        self.vertex_mut(vertex).operators.push(operator);
        operator
    }

    /// Names an operator: in errors, metrics and the summary.
    pub fn set_name(&mut self, operator: OperatorId, name: &str) {
        self.operators[operator.0 as usize].name = name.to_owned();
    }

    /// Gives an operator the id by which its state is found again.
    pub fn set_uid(&mut self, operator: OperatorId, uid: &str) {
        self.operators[operator.0 as usize].uid = Some(uid.to_owned());
    }

    /// Sets the number of a vertex' subtasks. To set two numbers makes the graph invalid.
    pub fn set_parallelism(&mut self, vertex: VertexId, parallelism: u32) {
        let vertex = self.vertex_mut(vertex);
        let before = vertex.parallelism.replace(parallelism);
        vertex.contradicted = vertex.contradicted.or(before.filter(|p| *p != parallelism));
    }

    /// Marks a vertex as one that reads from outside.
    pub fn mark_source(&mut self, vertex: VertexId) {
        self.vertex_mut(vertex).is_source = true;
    }

    /// Marks a source as one that cannot be read again.
    pub fn mark_unreplayable(&mut self, source: OperatorId) {
        self.unreplayable.push(source);
    }

    /// Marks a source or a sink as one of which all subtasks are restored together.
    pub fn mark_inseparable(&mut self, operator: OperatorId) {
        self.inseparable.push(operator);
    }

    /// The names of the sources that cannot be read again.
    pub(crate) fn unreplayable_sources(&self) -> impl Iterator<Item = &str> {
        self.unreplayable.iter().map(|source| self.operators[source.0 as usize].name.as_str())
    }

    /// Adds a check that is made before anything starts.
    pub fn add_validation(&mut self, operator: OperatorId, check: Check) {
        self.validations.push((operator, check));
    }

    pub(crate) fn add_outcome(
        &mut self,
        operator: OperatorId,
        vertex: VertexId,
        outcome: Box<dyn Outcome>,
    ) {
        self.vertex_mut(vertex).is_sink = true;
        self.outcomes.push((operator, vertex, outcome));
    }

    /// Gives a vertex its chain: it is complete now, but for its branches.
    ///
    /// # Panics
    /// If it had one.
    pub fn close<H: Head>(&mut self, vertex: VertexId, head: H, tail: impl Tail<H::Out>) {
        let build = &mut self.vertex_mut(vertex).build;
        assert!(build.is_none(), "a chain ends once");
        *build = Some(Box::new(Built { head, tail }));
    }

    /// Connects two vertices.
    pub fn connect<T: Data>(
        &mut self,
        from: VertexId,
        to: VertexId,
        pattern: Pattern,
        edge: &Edge<T>,
    ) {
        self.edges.push(EdgeInfo { from, to, pattern, wiring: Box::new(edge.clone()) });
    }

    fn vertex_mut(&mut self, vertex: VertexId) -> &mut Vertex {
        &mut self.vertices[vertex.0 as usize]
    }

    /// The stable name of each operator: its uid or, if it has none, its place and name.
    pub(crate) fn uids(&self) -> Arc<[String]> {
        let uid = |(index, operator): (usize, &OperatorInfo)| {
            operator.uid.clone().unwrap_or_else(|| format!("{index}-{}", operator.name))
        };
        self.operators.iter().enumerate().map(uid).collect()
    }

    /// The operator under whose uid the state of a vertex itself is found again, beside that of its
    /// operators: the first that was given one. So a program may change around it.
    pub(crate) fn anchor(&self, vertex: &Vertex) -> OperatorId {
        let named = |operator: &&OperatorId| self.operators[operator.0 as usize].uid.is_some();
        *vertex.operators.iter().find(named).unwrap_or(&vertex.operators[0])
    }

    /// The names of a vertex' operators: `a -> b -> (c, d -> e)` if two follow on `b`.
    pub(crate) fn vertex_name(&self, vertex: &Vertex) -> String {
        vertex.operators.first().map_or_else(String::new, |first| self.name_from(vertex, *first))
    }

    fn name_from(&self, vertex: &Vertex, operator: OperatorId) -> String {
        let name = &self.operators[operator.0 as usize].name;
        let next: Vec<_> = vertex
            .operators
            .iter()
            .filter(|next| self.operators[next.0 as usize].after == Some(operator))
            .map(|next| self.name_from(vertex, *next))
            .collect();
        match &next[..] {
            [] => name.clone(),
            [next] => format!("{name} -> {next}"),
            _ => format!("{name} -> ({})", next.join(", ")),
        }
    }

    /// The names of a vertex' operators that are on no branch.
    fn main_name(&self, vertex: &Vertex) -> String {
        let operators = vertex.operators.iter().map(|o| &self.operators[o.0 as usize]);
        let names: Vec<_> = operators.filter(|o| !o.aside).map(|o| o.name.as_str()).collect();
        names.join(" -> ")
    }

    /// Checks what can be checked without running anything. A vertex that sets no parallelism has
    /// `parallelism`.
    pub(crate) fn validate(
        &mut self,
        parallelism: u32,
        max_parallelism: u16,
    ) -> Result<(), JobError> {
        if self.vertices.is_empty() {
            return Err(JobError::Invalid(
                "the job has no source; add one with from_source".into(),
            ));
        }
        if max_parallelism == 0 || max_parallelism > MAX_PARALLELISM_LIMIT {
            return Err(JobError::Invalid(format!(
                "max_parallelism is {max_parallelism}; it must be between 1 and {MAX_PARALLELISM_LIMIT}"
            )));
        }
        let unconsumed = |name: &str| {
            JobError::Invalid(format!(
                "nothing consumes the stream \"{name}\"; end it with sink_to, for_each, collect or discard"
            ))
        };
        if let Some(side) = self.open_sides.first() {
            return Err(unconsumed(&self.operators[side.0 as usize].name));
        }
        for vertex in &self.vertices {
            let name = self.vertex_name(vertex);
            if vertex.build.is_none() {
                return Err(unconsumed(&self.main_name(vertex)));
            }
            if let (Some(before), Some(now)) = (vertex.contradicted, vertex.parallelism) {
                return Err(JobError::Invalid(format!(
                    "\"{name}\" is one chain, which has one parallelism, but {before} and {now} are given; between operators of different parallelism put rebalance(), or another exchange"
                )));
            }
            match vertex.parallelism.unwrap_or(parallelism) {
                0 => {
                    return Err(JobError::Invalid(format!(
                        "\"{name}\" has parallelism 0; it must be at least 1"
                    )));
                }
                p if p > u32::from(max_parallelism) => {
                    return Err(JobError::Invalid(format!(
                        "\"{name}\" has parallelism {p}, above max_parallelism {max_parallelism}; raise max_parallelism (at most {MAX_PARALLELISM_LIMIT}) or lower the parallelism, which is the number of slots unless set"
                    )));
                }
                _ => {}
            }
        }
        let mut uids = HashSet::new();
        for operator in &self.operators {
            if let Some(uid) = &operator.uid
                && !uids.insert(uid)
            {
                return Err(JobError::Invalid(format!(
                    "two operators have the uid \"{uid}\"; a uid must be unique in the job"
                )));
            }
        }
        for (operator, check) in std::mem::take(&mut self.validations) {
            check().map_err(|error| JobError::Validation {
                operator: self.operators[operator.0 as usize].name.clone(),
                error,
            })?;
        }
        Ok(())
    }

    /// How many edges the longest way has.
    pub(crate) fn depth(&self) -> u32 {
        let mut depths = vec![0; self.vertices.len()];
        // In any order: after as many turns as there are vertices nothing changes any more.
        for _ in &self.vertices {
            for edge in &self.edges {
                let (from, to) = (edge.from.0 as usize, edge.to.0 as usize);
                depths[to] = depths[to].max(depths[from] + 1);
            }
        }
        depths.into_iter().max().unwrap_or_default()
    }

    /// The slots that are to start again when one of them fails, of a job with so many: those between whose
    /// subtasks there are channels, and those between them. (Flink's pipelined regions, of whole slots, as
    /// the subtasks of one share a thread and a store.)
    pub(crate) fn regions(&self, slots_of: &[Vec<SlotIndex>], slots: u32) -> Vec<Range<u32>> {
        let mut is_inside = vec![!self.inseparable.is_empty(); slots as usize];
        for edge in &self.edges {
            let (from, to) = (&slots_of[edge.from.0 as usize], &slots_of[edge.to.0 as usize]);
            let mut connect = |slots: &mut dyn Iterator<Item = u32>| {
                let (first, last) = slots.fold((u32::MAX, 0), |(a, b), s| (a.min(s), b.max(s)));
                (first..last).for_each(|slot| is_inside[slot as usize + 1] = true);
            };
            if edge.pattern == Pattern::AllToAll {
                connect(&mut from.iter().chain(to).map(|slot| slot.0));
                continue;
            }
            for (sender, slot) in from.iter().enumerate() {
                let targets = edge.pattern.targets(sender, from.len(), to.len());
                connect(&mut targets.iter().map(|target| to[*target].0).chain([slot.0]));
            }
        }
        let mut begins: Vec<u32> = (1..slots).filter(|slot| !is_inside[*slot as usize]).collect();
        begins.insert(0, 0);
        let ends = begins.iter().skip(1).copied().chain([slots]);
        begins.iter().copied().zip(ends).map(|(begin, end)| begin..end).collect()
    }

    /// The edges, as snapshots name them, in order.
    pub(crate) fn edge_ids(&self) -> impl Iterator<Item = EdgeId> {
        let mut inputs = vec![0; self.vertices.len()];
        self.edges.iter().map(move |edge| {
            let receiver = self.anchor(&self.vertices[edge.to.0 as usize]);
            let input = &mut inputs[edge.to.0 as usize];
            let id = EdgeId { receiver, input: *input };
            *input += 1;
            id
        })
    }

    /// What all channels take that [`wire`](Self::wire) makes for these slots in the process that has those
    /// `here`.
    pub(crate) fn channel_memory(
        &self,
        slots: &[Vec<SlotIndex>],
        here: &Range<u32>,
        settings: ExchangeSettings,
    ) -> ChannelMemory {
        let mut total = ChannelMemory::default();
        for edge in &self.edges {
            let (from, to) = (&slots[edge.from.0 as usize], &slots[edge.to.0 as usize]);
            let channels = edge.pattern.channels(from, to, here);
            let [ends, empty, full] = edge.wiring.channel_bytes(settings);
            let batches_max = full.saturating_mul(settings.credits as u64);
            let add = |sum: u64, each: u64| sum.saturating_add(channels.saturating_mul(each));
            total = ChannelMemory {
                channels: total.channels + channels,
                bytes_at_start: add(total.bytes_at_start, ends.saturating_add(empty)),
                bytes_max: add(total.bytes_max, ends.saturating_add(batches_max)),
            };
        }
        total
    }

    /// Makes all channels that begin or end in the slots of the wires, and one instance for each subtask.
    /// `slots[v][i]` is the slot of subtask `i` of vertex `v`.
    pub(crate) fn wire(&self, slots: &[Vec<SlotIndex>], mut wires: Wires<'_>) -> Wired {
        for (edge, id) in self.edges.iter().zip(self.edge_ids()) {
            let (from, to) = (&slots[edge.from.0 as usize], &slots[edge.to.0 as usize]);
            edge.wiring.wire(id, edge.pattern, from, to, &mut wires);
        }
        let instances = self.vertices.iter().zip(slots).map(|(vertex, slots)| {
            let build = vertex.build.as_ref().expect("the graph was validated");
            slots.iter().map(|_| build.instance()).collect()
        });
        Wired { instances: instances.collect(), feeds: wires.feeds }
    }

    /// Tells jobs apart that do not have the same vertices, edges and numbers of subtasks: all processes
    /// of a job must have the same.
    pub(crate) fn fingerprint(&self, slots: &[Vec<SlotIndex>]) -> u64 {
        let vertices: Vec<_> =
            self.vertices.iter().map(|vertex| self.vertex_name(vertex)).collect();
        let edges: Vec<_> = self
            .edges
            .iter()
            .map(|edge| (edge.from.0, edge.to.0, edge.pattern == Pattern::AllToAll))
            .collect();
        let slots: Vec<Vec<u32>> =
            slots.iter().map(|slots| slots.iter().map(|slot| slot.0).collect()).collect();
        hash_key(&(vertices, &*self.uids(), edges, slots))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_channels_grows_with_senders_times_receivers_times_credits() {
        let mut graph = Graph::default();
        let (source, _) = graph.add_vertex("source");
        let (counts, _) = graph.add_vertex("counts");
        let (sink, _) = graph.add_vertex("sink");
        graph.connect(source, counts, Pattern::AllToAll, &Edge::<[u64; 3]>::default());
        graph.connect(counts, sink, Pattern::Pointwise, &Edge::<u8>::default());
        let slots = [20, 30, 30].map(|subtasks| (0..subtasks).map(SlotIndex).collect::<Vec<_>>());
        let of_slots = |here: Range<u32>, credits| {
            let settings = ExchangeSettings { batch_bytes: 24_000, credits, ..Default::default() };
            graph.channel_memory(&slots, &here, settings)
        };
        let memory = |credits| of_slots(0..30, credits);
        // 1,000 rows of 24 bytes, and 4,096, the most there are, of one byte; full, with a timestamp
        // each.
        let empty = 600 * 1_000 * 24 + 30 * 4_096;
        let full = 600 * 1_000 * 32 + 30 * 4_096 * 9;
        let [four, eight] = [4, 8].map(memory);
        assert_eq!((four.channels, eight.channels), (630, 630));
        assert_eq!(four.bytes_max - four.bytes_at_start, 4 * full - empty);
        assert_eq!(eight.bytes_max - eight.bytes_at_start, 8 * full - empty);
        // Each ring has a place for a pointer at least; and no channel is larger than its batches.
        let rings = |memory: ChannelMemory| memory.bytes_at_start - empty;
        assert!(rings(eight) - rings(four) > 630 * 4 * 3 * 8);
        assert!(rings(eight) < full, "{eight:?}");
        // On one of several hosts there are those that begin or end there.
        let channels = |here| of_slots(here, 4).channels;
        assert_eq!(channels(0..10), 10 * 30 + 10 * 10 + 10);
        assert_eq!(channels(20..30), 20 * 10 + 10);
        assert_eq!(channels(30..40), 0);
        // Nothing that can be set makes it wrap around.
        assert_eq!(memory(usize::MAX).bytes_max, u64::MAX);
    }

    #[test]
    fn slots_without_channels_between_them_are_regions_of_their_own() {
        let regions = |patterns: &[(Pattern, u32, u32)], inseparable: bool| {
            let (mut graph, mut slots) = (Graph::default(), Vec::new());
            for (pattern, senders, receivers) in patterns {
                let (from, operator) = graph.add_vertex("from");
                let (to, _) = graph.add_vertex("to");
                graph.connect(from, to, *pattern, &Edge::<u8>::default());
                let of = |subtasks: u32| (0..subtasks).map(|i| SlotIndex(i % 6)).collect();
                slots.extend([of(*senders), of(*receivers)]);
                if inseparable {
                    graph.mark_inseparable(operator);
                }
            }
            graph.regions(&slots, 6)
        };
        let own: Vec<_> = (0..6).map(|slot| slot..slot + 1).collect();
        let whole: Vec<_> = std::iter::once(0..6).collect();
        let (each, with_own) = (Pattern::AllToAll, Pattern::Pointwise);
        assert_eq!(regions(&[(with_own, 6, 6)], false), own);
        assert_eq!(regions(&[(with_own, 6, 6)], true), whole);
        assert_eq!(regions(&[(each, 6, 6)], false), whole);
        assert_eq!(regions(&[(each, 1, 6)], false), whole);
        assert_eq!(regions(&[(each, 1, 1), (with_own, 6, 6)], false), own);
        assert_eq!(regions(&[(each, 2, 3), (with_own, 6, 6)], false), [0..3, 3..4, 4..5, 5..6]);
        // 0 and 1 go to 0, 2 and 3 to 1, 4 and 5 to 2.
        assert_eq!(regions(&[(with_own, 6, 3)], false), whole);
        assert_eq!(regions(&[(with_own, 2, 1)], false), [0..2, 2..3, 3..4, 4..5, 5..6]);
        assert_eq!(regions(&[(with_own, 4, 4), (each, 1, 2)], false)[0], 0..2);
    }

    #[test]
    fn pointwise_gives_every_receiver_a_sender_and_every_sender_a_receiver() {
        for senders in 1..8 {
            for receivers in 1..8 {
                let mut reached = vec![0; receivers];
                for sender in 0..senders {
                    let targets = Pattern::Pointwise.targets(sender, senders, receivers);
                    assert!(!targets.is_empty(), "{senders} -> {receivers}, sender {sender}");
                    targets.iter().for_each(|t| reached[*t] += 1);
                }
                assert!(reached.iter().all(|n| *n > 0), "{senders} -> {receivers}: {reached:?}");
                let slots = |count: usize| vec![SlotIndex(0); count];
                let channels =
                    Pattern::Pointwise.channels(&slots(senders), &slots(receivers), &(0..1));
                assert_eq!(channels, reached.iter().sum::<u64>());
            }
        }
    }
}

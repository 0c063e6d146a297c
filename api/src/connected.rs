//! Two keyed streams side by side.

use crate::{DataStream, KeyedCoProcessFunction, KeyedState, KeyedStream};
use millstream_runtime::chain::{Chain, FromTwo, TwoInputLink};
use millstream_runtime::graph::{Edge, Pattern};
use millstream_runtime::links::{self, KeyedConnectLink, SideBranches};
use millstream_state::{Data, Key};
use millstream_types::{OperatorId, hash_key};
use std::rc::Rc;

/// Two streams with the same type of key; see [`KeyedStream::connect`].
#[must_use = "connected streams do nothing until a function reads them"]
pub struct ConnectedStreams<K, F, C: Chain, G, D: Chain> {
    left: KeyedStream<K, F, C>,
    right: KeyedStream<K, G, D>,
}

impl<K, F, C, G, D> ConnectedStreams<K, F, C, G, D>
where
    K: Key,
    F: Fn(&C::Out) -> K + Clone + Send + 'static,
    C: Chain,
    C::Out: Data,
    G: Fn(&D::Out) -> K + Clone + Send + 'static,
    D: Chain,
    D::Out: Data,
{
    pub(crate) fn new(left: KeyedStream<K, F, C>, right: KeyedStream<K, G, D>) -> Self {
        Self { left, right }
    }

    /// A process function over both streams, which share their state and timers. `make` opens the
    /// state and returns the function; it is called once in each subtask.
    pub fn process<P>(
        self,
        make: impl FnOnce(&mut KeyedState<'_, K>) -> P + Clone + Send + 'static,
    ) -> DataStream<impl Chain<Out = P::Out>>
    where
        P: KeyedCoProcessFunction<K, C::Out, D::Out>,
    {
        let sides = SideBranches::default();
        let own = sides.clone();
        self.two_input("connect", |id, keys| KeyedConnectLink::new(id, keys, make, own))
            .with_sides(sides)
    }

    /// Ends both chains in exchanges by key, and begins one that reads both.
    pub(crate) fn two_input<L: TwoInputLink<C::Out, D::Out>>(
        self,
        name: &str,
        link: impl FnOnce(OperatorId, (F, G)) -> L,
    ) -> DataStream<FromTwo<C::Out, D::Out, L>> {
        let (left, right) = (Edge::default(), Edge::default());
        let graph = Rc::clone(&self.left.stream.graph);
        let (vertex, operator) = graph.borrow_mut().add_vertex(name);
        let keys = (self.left.key.clone(), self.right.key.clone());
        graph.borrow_mut().connect(self.left.stream.vertex, vertex, Pattern::AllToAll, &left);
        graph.borrow_mut().connect(self.right.stream.vertex, vertex, Pattern::AllToAll, &right);
        let (left_key, right_key) = (self.left.key, self.right.key);
        let left_hash = move |value: &C::Out| hash_key(&left_key(value));
        let right_hash = move |value: &D::Out| hash_key(&right_key(value));
        self.left.stream.close(links::by_key_tail(operator, left_hash, left.clone()));
        self.right.stream.close(links::by_key_tail(operator, right_hash, right.clone()));
        let chain = FromTwo::new(left, right, link(operator, keys));
        DataStream::new(graph, vertex, operator, chain)
    }
}

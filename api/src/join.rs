//! Joins of two keyed streams over windows.

use crate::{ConnectedStreams, DataStream};
use millstream_runtime::chain::Chain;
use millstream_runtime::links::WindowJoinLink;
use millstream_runtime::window::Slicing;
use millstream_state::{Data, Key};
use std::time::Duration;

/// Two streams with the same type of key; see [`KeyedStream::join`](crate::KeyedStream::join).
#[must_use = "a join does nothing until windows and a function follow"]
pub struct JoinedStreams<K, F, C: Chain, G, D: Chain> {
    streams: ConnectedStreams<K, F, C, G, D>,
}

impl<K, F, C: Chain, G, D: Chain> JoinedStreams<K, F, C, G, D> {
    pub(crate) fn new(streams: ConnectedStreams<K, F, C, G, D>) -> Self {
        Self { streams }
    }

    /// Pairs records that fall into the same window.
    pub fn window(self, windows: impl Into<Slicing>) -> WindowedJoin<K, F, C, G, D> {
        WindowedJoin { streams: self.streams, slicing: windows.into(), lateness: Duration::ZERO }
    }
}

/// A join over windows.
#[must_use = "a join does nothing until a function follows"]
pub struct WindowedJoin<K, F, C: Chain, G, D: Chain> {
    streams: ConnectedStreams<K, F, C, G, D>,
    slicing: Slicing,
    lateness: Duration,
}

impl<K, F, C, G, D> WindowedJoin<K, F, C, G, D>
where
    K: Key,
    F: Fn(&C::Out) -> K + Clone + Send + 'static,
    C: Chain,
    C::Out: Data + Clone,
    G: Fn(&D::Out) -> K + Clone + Send + 'static,
    D: Chain,
    D::Out: Data + Clone,
{
    /// As [`WindowedStream::allowed_lateness`](crate::WindowedStream::allowed_lateness).
    pub fn allowed_lateness(mut self, lateness: Duration) -> Self {
        self.lateness = lateness;
        self
    }

    /// Calls `function` with each pair of a left and a right record that have the same key and
    /// window, once the window is complete (an inner join).
    pub fn apply<Out: 'static>(
        self,
        function: impl FnMut(&C::Out, &D::Out) -> Out + Clone + Send + 'static,
    ) -> DataStream<impl Chain<Out = Out>> {
        let windows = (self.slicing, self.lateness);
        self.streams.two_input("join", |id, keys| WindowJoinLink::new(id, windows, keys, function))
    }
}

//! Millstream: stateful stream processing at the speed of a hand-written loop.

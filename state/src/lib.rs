//! Keyed state, its backends, and timers.

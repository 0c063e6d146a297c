//! Attribute macros of the crate `millstream`.

//! x
#![forbid(unsafe_code)]

/// Generated.
pub mod rpc {
    tonic::include_proto!("millstream.control.v1");
}

//! What sources and sinks are made of; for those who write connectors.

pub use millstream_runtime::clock::ProcessingClock;
pub use millstream_runtime::error::BoxError;
pub use millstream_runtime::metrics::JobCounters;
pub use millstream_runtime::operator::Collector;
pub use millstream_runtime::sink::{PreCommit, Prepared, Sink, SinkContext, SinkWriter};
pub use millstream_runtime::source::{
    SlotWaker, Source, SourceContext, SourceOutput, SourceReader, SourceStatus,
};
pub use millstream_types::{SubtaskIndex, Timestamp};

use millstream_state::{AlignedVec, Data};

/// An item of a reader's or writer's state as bytes: see
/// [`SourceReader::snapshot`] and [`PreCommit::state`].
///
/// # Errors
/// If a field refuses to be archived, which no built-in type does.
pub fn encode_item<T: Data>(item: &T) -> Result<Vec<u8>, BoxError> {
    let mut bytes = AlignedVec::new();
    item.encode(&mut bytes)?;
    Ok(bytes.to_vec())
}

/// Reads back what [`encode_item`] made. Every byte is validated.
///
/// # Errors
/// If the bytes are of something else.
pub fn decode_item<T: Data>(bytes: &[u8]) -> Result<T, BoxError> {
    Ok(T::decode(bytes)?)
}

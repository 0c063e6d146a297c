//! What barriers have overtaken: batches that become part of a snapshot, and are emitted again after
//! a restore (FLIP-76).
//!
//! Both ends of a channel capture: the sender what had not found its way into the ring, the receiver
//! the rest. All of it is kept in one list per edge, and given back to the edge's *senders*, before
//! they emit anything else: there it takes the channel that it was in or, if the number of receiving
//! subtasks has changed, goes through the partitioner once more.
//!
//! # Invariants
//! - What was captured of one sender is emitted by one sender, what the receivers had of it first, so
//!   that records of one key stay in order.

use crate::rows::Rows;
use millstream_state::{AlignedVec, Data, DecodeError, EncodeError};
use millstream_types::{OperatorId, Timestamp};

/// An edge, as snapshots name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EdgeId {
    /// The operator under whose uid the state of the vertex is found that reads the edge.
    pub receiver: OperatorId,
    /// Which of that vertex' inputs it is.
    pub input: u32,
}

impl EdgeId {
    /// The name of the list of what was in flight on it.
    pub(crate) fn list_name(self) -> String {
        format!("{LIST_NAME}{}", self.input)
    }
}

const LIST_NAME: &str = "in flight ";

/// True for the names of lists of what was in flight on some edge.
pub(crate) fn is_list_name(name: &str) -> bool {
    name.starts_with(LIST_NAME)
}

/// One channel of an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelId {
    /// The edge.
    pub edge: EdgeId,
    /// The sending subtask.
    pub sender: u32,
    /// The receiving subtask.
    pub target: u32,
    /// The number of receiving subtasks.
    pub targets: u32,
}

#[cfg(test)]
impl ChannelId {
    /// From a sender to the only receiver of the only edge.
    pub(crate) fn to_one(sender: u32) -> Self {
        let edge = EdgeId { receiver: OperatorId(0), input: 0 };
        Self { edge, sender, target: 0, targets: 1 }
    }
}

/// Which end of a channel held a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// The receiver's: sent before what the sender still had.
    Receiver,
    Sender,
}

/// A batch that was in flight, read back.
#[derive(Debug)]
pub(crate) struct InFlight<T> {
    pub(crate) sender: u32,
    pub(crate) end: End,
    pub(crate) target: u32,
    pub(crate) targets: u32,
    pub(crate) rows: Rows<T>,
}

/// An item that is no batch of the edge.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InFlightError {
    #[error("records in flight are cut off")]
    Truncated,
    #[error(
        "the records that were in flight have another type than those of the program now ({found} bytes each, archived, and not {expected}); resume with the program that took the checkpoint"
    )]
    OtherType { found: u32, expected: u32 },
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// The item of a batch: sender, target, number of targets, end, bytes of an archived record, all
/// little endian; then for each record its timestamp, the length of its archived form, and that.
pub(crate) fn encode<T: Data>(
    channel: ChannelId,
    end: End,
    rows: &Rows<T>,
) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::new();
    for number in [channel.sender, channel.target, channel.targets] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.push(u8::from(end == End::Sender));
    out.extend_from_slice(&archived_bytes::<T>().to_le_bytes());
    let mut record = AlignedVec::new();
    for (index, value) in rows.values().iter().enumerate() {
        value.encode(&mut record)?;
        out.extend_from_slice(&rows.timestamp(index).as_nanos().to_le_bytes());
        out.extend_from_slice(&(record.len() as u64).to_le_bytes());
        out.extend_from_slice(&record);
    }
    Ok(out)
}

/// Which channel an item was in: the batch without its rows.
pub(crate) fn channel_of(item: &[u8]) -> Result<InFlight<()>, InFlightError> {
    read_channel(&mut &*item)
}

fn read_channel<T>(from: &mut &[u8]) -> Result<InFlight<T>, InFlightError> {
    let [sender, target, targets] = [number(from)?, number(from)?, number(from)?];
    let [end] = array(from)?;
    let end = if end == 0 { End::Receiver } else { End::Sender };
    Ok(InFlight { sender, end, target, targets, rows: Rows::default() })
}

/// Reads an item back. The bytes may be any.
pub(crate) fn decode<T: Data>(mut item: &[u8]) -> Result<InFlight<T>, InFlightError> {
    let from = &mut item;
    let mut batch = read_channel(from)?;
    let (found, expected) = (number(from)?, archived_bytes::<T>());
    if found != expected {
        return Err(InFlightError::OtherType { found, expected });
    }
    while !from.is_empty() {
        let timestamp = Timestamp::from_nanos(i64::from_le_bytes(array(from)?));
        let len = usize::try_from(u64::from_le_bytes(array(from)?)).ok();
        let record = len.and_then(|len| from.split_at_checked(len));
        let (record, rest) = record.ok_or(InFlightError::Truncated)?;
        *from = rest;
        batch.rows.push(T::decode(record)?, timestamp);
    }
    Ok(batch)
}

fn archived_bytes<T: Data>() -> u32 {
    u32::try_from(T::ARCHIVED_BYTES).unwrap_or(u32::MAX)
}

fn array<const N: usize>(from: &mut &[u8]) -> Result<[u8; N], InFlightError> {
    let (array, rest) = from.split_first_chunk::<N>().ok_or(InFlightError::Truncated)?;
    *from = rest;
    Ok(*array)
}

fn number(from: &mut &[u8]) -> Result<u32, InFlightError> {
    array(from).map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests;

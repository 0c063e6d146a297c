//! What members say to each other by a control link.
//!
//! A message is a length, a checksum and an archived value. Its types are the runtime's own, so that a
//! change of one of them changes nothing here by accident.

use std::io::{self, Read, Write};

/// The longest message: a snapshot of a slot is one.
const MESSAGE_MAX: u32 = 2 << 30;

/// How much is read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// To a member.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(super) enum Order {
    /// I am there.
    Heartbeat,
    /// The words in the lock of the first member's directory of checkpoints: say whether you share it.
    Directory { words: String },
    /// Build your slots of these, the first and the one behind the last, for an attempt, from the checkpoint of this
    /// manifest if there is one. State files of these names are damaged in some place.
    Begin { attempt: u64, slots: (u32, u32), restored: Option<Vec<u8>>, damaged: Vec<String> },
    /// All parts are built: go.
    Release { attempt: u64 },
    /// For each slot.
    Mail { attempt: u64, mail: MailMessage },
    /// End the attempt.
    Stop { attempt: u64 },
    /// The job is over.
    Over { ending: Ending },
}

/// How a job is over.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(super) enum Ending {
    Finished,
    Stopped,
    Canceled,
    Failed(String),
}

/// An order for slots.
#[derive(Clone, Copy, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(super) enum MailMessage {
    Announce { checkpoint: u64, kind: u8 },
    Complete { checkpoint: u64, oldest: u64 },
    Abort { checkpoint: u64 },
    Exit,
}

/// From a member.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(super) enum Told {
    /// I am there.
    Heartbeat,
    /// The directory of checkpoints is the first member's.
    Directory { is_shared: bool },
    /// A slot is built.
    Ready { attempt: u64, with_state: Vec<String> },
    /// All subtasks of a slot have finished.
    Finished { attempt: u64, transactions: Vec<TransactionMessage> },
    /// A slot's loop is over.
    Ended { attempt: u64 },
    /// A slot's part of a checkpoint is complete; its bytes are stored by the member.
    Sealed { attempt: u64, slot: u32, checkpoint: u64, transactions: Vec<TransactionMessage> },
    /// They are stored, or not.
    Stored { attempt: u64, slot: u32, checkpoint: u64, result: Result<FileMessage, String> },
    /// What a slot keeps by itself is durable, or not.
    Durable {
        attempt: u64,
        slot: u32,
        checkpoint: u64,
        result: Result<Vec<StateFileMessage>, String>,
    },
    /// A subtask has received all that was in flight in the restored checkpoint.
    Recovered { attempt: u64, vertex: u32, subtask: u32 },
    /// A subtask takes no part in a checkpoint.
    Declined { attempt: u64, vertex: u32, subtask: u32, checkpoint: u64, reason: String },
    /// The attempt has failed here.
    Failed { attempt: u64, failure: FailureMessage },
    /// Nothing of the attempt is left here.
    Gone { attempt: u64 },
    /// How far the member's subtasks are.
    Counters { subtasks: Vec<CountersMessage> },
}

impl Told {
    /// The attempt that it is about.
    pub(super) fn attempt(&self) -> Option<u64> {
        match self {
            Self::Heartbeat | Self::Directory { .. } | Self::Counters { .. } => None,
            Self::Ready { attempt, .. }
            | Self::Finished { attempt, .. }
            | Self::Ended { attempt }
            | Self::Sealed { attempt, .. }
            | Self::Stored { attempt, .. }
            | Self::Durable { attempt, .. }
            | Self::Recovered { attempt, .. }
            | Self::Declined { attempt, .. }
            | Self::Failed { attempt, .. }
            | Self::Gone { attempt } => Some(*attempt),
        }
    }
}

/// What a sink has prepared.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(super) struct TransactionMessage {
    pub(super) operator: u32,
    pub(super) bytes: Vec<u8>,
}

/// Why an attempt has failed.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(super) struct FailureMessage {
    /// The operator and subtask whose fault it is.
    pub(super) blamed: Option<(u32, u32)>,
    pub(super) is_panic: bool,
    pub(super) error: String,
    /// The name of the state file that is damaged, if that is why.
    pub(super) damaged: Option<String>,
}

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(super) struct FileMessage {
    pub(super) name: String,
    pub(super) len: u64,
    pub(super) crc32c: u32,
}

/// A file of a store.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(super) struct StateFileMessage {
    pub(super) name: String,
    pub(super) len: u64,
    pub(super) note: Vec<u8>,
}

/// The counters of a subtask.
#[derive(Clone, Copy, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(super) struct CountersMessage {
    pub(super) vertex: u32,
    pub(super) subtask: u32,
    pub(super) counters: crate::metrics::Counters,
}

/// Makes a type one that goes by a link.
macro_rules! message {
    ($name:ident) => {
        impl $crate::hosts::message::Message for $name {
            fn to_bytes(&self) -> std::io::Result<rkyv::util::AlignedVec> {
                rkyv::to_bytes::<rkyv::rancor::Error>(self).map_err(std::io::Error::other)
            }
            fn from_bytes(bytes: &[u8]) -> std::io::Result<Self> {
                rkyv::from_bytes::<Self, rkyv::rancor::Error>(bytes)
                    .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
            }
        }
    };
}

/// What goes by a control link.
pub(super) trait Message: Sized {
    fn to_bytes(&self) -> io::Result<rkyv::util::AlignedVec>;
    /// Every byte is validated.
    fn from_bytes(bytes: &[u8]) -> io::Result<Self>;
}

pub(super) use message;

message!(Order);
message!(Told);

/// Writes a message.
pub(super) fn write<M: Message>(message: &M, mut out: impl Write) -> io::Result<()> {
    let bytes = message.to_bytes()?;
    let len = u32::try_from(bytes.len()).ok().filter(|len| *len <= MESSAGE_MAX);
    let len = len.ok_or_else(|| io::Error::other("a message is too long"))?;
    let mut framed = Vec::with_capacity(8 + bytes.len());
    framed.extend_from_slice(&len.to_le_bytes());
    framed.extend_from_slice(&crc_fast::crc32_iscsi(&bytes).to_le_bytes());
    framed.extend_from_slice(&bytes);
    out.write_all(&framed)
}

/// Reads a message.
///
/// # Errors
/// If the bytes are none, or cannot be read.
pub(super) fn read<M: Message>(mut from: impl Read) -> io::Result<M> {
    let mut head = [0; 8];
    from.read_exact(&mut head)?;
    let [a, b, c, d, checksum @ ..] = head;
    let len = u32::from_le_bytes([a, b, c, d]);
    if len > MESSAGE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message that is too long"));
    }
    let mut bytes = rkyv::util::AlignedVec::<16>::new();
    // Little by little, so that a wrong length takes no memory.
    let mut chunk = vec![0; CHUNK_BYTES.min(len as usize)];
    let mut left = len as usize;
    while left > 0 {
        let part = &mut chunk[..left.min(CHUNK_BYTES)];
        from.read_exact(part)?;
        bytes.extend_from_slice(part);
        left -= part.len();
    }
    if crc_fast::crc32_iscsi(&bytes) != u32::from_le_bytes(checksum) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a damaged message"));
    }
    M::from_bytes(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_are_what_they_were() {
        let mail = MailMessage::Announce { checkpoint: 3, kind: 1 };
        let orders = [Order::Heartbeat, Order::Mail { attempt: 2, mail }];
        let file = StateFileMessage { name: "f".into(), len: 7, note: vec![1, 2] };
        let told = Told::Durable { attempt: 1, slot: 2, checkpoint: 3, result: Ok(vec![file]) };
        let mut stream = Vec::new();
        orders.iter().for_each(|order| write(order, &mut stream).unwrap());
        write(&told, &mut stream).unwrap();
        let mut from = &*stream;
        for order in orders {
            assert_eq!(read::<Order>(&mut from).unwrap(), order);
        }
        assert_eq!(read::<Told>(&mut from).unwrap(), told);
        assert!(from.is_empty());
        for (at, len) in (0..stream.len()).map(|at| (at, stream.len())) {
            let mut damaged = stream.clone();
            damaged[at] ^= 1;
            let mut from = &damaged[..];
            let first = read::<Order>(&mut from);
            let second = first.and_then(|_| read::<Order>(&mut from));
            assert!(second.and_then(|_| read::<Told>(&mut from)).is_err(), "{at} of {len}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer(bytes: Vec<u8>) {
            let _ = read::<Told>(&bytes[..]);
            let mut framed = (bytes.len() as u32).to_le_bytes().to_vec();
            framed.extend_from_slice(&crc_fast::crc32_iscsi(&bytes).to_le_bytes());
            framed.extend_from_slice(&bytes);
            let _ = read::<Order>(&framed[..]);
            let _ = read::<Told>(&framed[..]);
        }
    }
}

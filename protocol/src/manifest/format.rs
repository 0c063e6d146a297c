//! The manifest as bytes.
//!
//! The frame (mark, version, length, checksum at the end) is the same in every version, so that a
//! damaged manifest is told from a newer one whatever the version. Within the body, integers are
//! little endian, and text, bytes and lists begin with their length in 4 bytes.

use super::layout::is_file_name;
use super::{
    FileEntry, MANIFEST_FORMAT_VERSION, Manifest, ManifestError, OperatorEntry, SlotEntry,
    StateFileEntry,
};
use crate::CheckpointKind;
use millstream_types::{CheckpointId, MAX_PARALLELISM_LIMIT, SlotIndex, Timestamp};
use std::collections::BTreeSet;

/// How a manifest begins.
const MARK: &[u8; 8] = b"MSCKPMAN";
/// Mark, version and length of the body.
const HEAD_LEN: usize = 8 + 4 + 8;
/// The checksum.
const FOOT_LEN: usize = 4;
/// The shortest list entries, by which a list's length is checked before memory is taken for it.
const OPERATOR_LEN_MIN: usize = 4 + 4 + 4;
const SLOT_LEN_MIN: usize = 4 + FILE_LEN_MIN + 4;
const FILE_LEN_MIN: usize = 4 + 8 + 4;
const STATE_FILE_LEN_MIN: usize = 4 + 8 + 4;

impl Manifest {
    /// The manifest as the bytes of its file.
    ///
    /// # Panics
    /// If a manifest of this content could not be decoded: a name is no file name, an operator or a
    /// slot stands there twice, `max_parallelism` is out of its range, or a text or list is longer
    /// than 4 GiB.
    pub fn encode(&self) -> Vec<u8> {
        if let Err(error) = self.check() {
            panic!("checkpoint {}: no manifest may be written, {error}", self.checkpoint);
        }
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(MARK);
        bytes.extend_from_slice(&MANIFEST_FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        self.write_body(&mut bytes);
        let body_len = (bytes.len() - HEAD_LEN) as u64;
        bytes[HEAD_LEN - 8..HEAD_LEN].copy_from_slice(&body_len.to_le_bytes());
        let checksum = crc_fast::crc32_iscsi(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The manifest that a file's bytes are.
    ///
    /// # Errors
    /// If they are not exactly one manifest, undamaged, of a version that this program reads.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let (version, body) = unframe(bytes)?;
        match version {
            MANIFEST_FORMAT_VERSION => {}
            newer if newer > MANIFEST_FORMAT_VERSION => {
                return Err(ManifestError::Newer { version });
            }
            _ => return Err(ManifestError::UnknownVersion { version }),
        }
        let manifest = read_body(body)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// What the types do not say by themselves. Holds before encoding and after decoding.
    fn check(&self) -> Result<(), ManifestError> {
        if !(1..=MAX_PARALLELISM_LIMIT).contains(&self.max_parallelism) {
            return Err(malformed("max parallelism", "is out of its range"));
        }
        let mut uids = BTreeSet::new();
        if !self.operators.iter().all(|operator| uids.insert(&operator.uid)) {
            return Err(malformed("list of operators", "names one twice"));
        }
        let mut slots = BTreeSet::new();
        if !self.slots.iter().all(|slot| slots.insert(slot.slot)) {
            return Err(malformed("list of slots", "names one twice"));
        }
        let names = self.slots.iter().flat_map(|slot| {
            let files = slot.state_files.iter().map(|file| &file.name);
            files.chain([&slot.snapshot.name])
        });
        for name in names {
            if !is_file_name(name) {
                return Err(malformed("list of files", "has a name that is none"));
            }
        }
        Ok(())
    }

    fn write_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.checkpoint.0.to_le_bytes());
        out.push(self.kind.code());
        write_bytes(out, self.job.as_bytes());
        out.extend_from_slice(&self.created.as_nanos().to_le_bytes());
        out.extend_from_slice(&self.max_parallelism.to_le_bytes());
        write_bytes(out, self.backend.as_bytes());
        write_len(out, self.operators.len());
        for operator in &self.operators {
            write_bytes(out, operator.uid.as_bytes());
            write_bytes(out, operator.name.as_bytes());
            out.extend_from_slice(&operator.parallelism.to_le_bytes());
        }
        write_len(out, self.slots.len());
        for SlotEntry { slot, snapshot, state_files } in &self.slots {
            out.extend_from_slice(&slot.0.to_le_bytes());
            write_bytes(out, snapshot.name.as_bytes());
            out.extend_from_slice(&snapshot.len.to_le_bytes());
            out.extend_from_slice(&snapshot.crc32c.to_le_bytes());
            write_len(out, state_files.len());
            for file in state_files {
                write_bytes(out, file.name.as_bytes());
                out.extend_from_slice(&file.len.to_le_bytes());
                write_bytes(out, &file.note);
            }
        }
    }
}

/// The version and the body, if the frame around them is whole and undamaged.
fn unframe(bytes: &[u8]) -> Result<(u32, &[u8]), ManifestError> {
    let mark = &bytes[..bytes.len().min(MARK.len())];
    if !MARK.starts_with(mark) {
        return Err(ManifestError::NotAManifest);
    }
    let found = bytes.len() as u64;
    let frame_len = (HEAD_LEN + FOOT_LEN) as u64;
    let Some((head, _)) = bytes.split_first_chunk::<HEAD_LEN>() else {
        return Err(ManifestError::Truncated { expected: frame_len, found });
    };
    let mut fields = Fields(&head[MARK.len()..]);
    let version = fields.u32("format version")?;
    let expected = fields.u64("length")?.saturating_add(frame_len);
    if found < expected {
        return Err(ManifestError::Truncated { expected, found });
    }
    if found > expected {
        return Err(ManifestError::TrailingBytes { count: found - expected });
    }
    let (covered, foot) = bytes.split_at(bytes.len() - FOOT_LEN);
    let stored = Fields(foot).u32("checksum")?;
    let computed = crc_fast::crc32_iscsi(covered);
    if stored != computed {
        return Err(ManifestError::ChecksumMismatch { stored, computed });
    }
    Ok((version, &covered[HEAD_LEN..]))
}

fn read_body(body: &[u8]) -> Result<Manifest, ManifestError> {
    let mut fields = Fields(body);
    let manifest = Manifest {
        checkpoint: CheckpointId(fields.u64("checkpoint id")?),
        kind: CheckpointKind::from_code(fields.u8("kind")?)
            .ok_or_else(|| malformed("kind", "is none that there is"))?,
        job: fields.text("job name")?,
        created: Timestamp::from_nanos(fields.i64("time of creation")?),
        max_parallelism: fields.u16("max parallelism")?,
        backend: fields.text("backend")?,
        operators: fields.list("list of operators", OPERATOR_LEN_MIN, |fields| {
            Ok(OperatorEntry {
                uid: fields.text("operator uid")?,
                name: fields.text("operator name")?,
                parallelism: fields.u32("parallelism")?,
            })
        })?,
        slots: fields.list("list of slots", SLOT_LEN_MIN, read_slot)?,
    };
    match fields.0.len() {
        0 => Ok(manifest),
        _ => Err(malformed("body", "goes on after its last field")),
    }
}

fn read_slot(fields: &mut Fields<'_>) -> Result<SlotEntry, ManifestError> {
    Ok(SlotEntry {
        slot: SlotIndex(fields.u32("slot")?),
        snapshot: FileEntry {
            name: fields.text("snapshot name")?,
            len: fields.u64("snapshot length")?,
            crc32c: fields.u32("snapshot checksum")?,
        },
        state_files: fields.list("list of state files", STATE_FILE_LEN_MIN, |fields| {
            Ok(StateFileEntry {
                name: fields.text("state file name")?,
                len: fields.u64("state file length")?,
                note: fields.bytes("state file note")?.to_vec(),
            })
        })?,
    })
}

fn malformed(field: &'static str, problem: &'static str) -> ManifestError {
    ManifestError::Malformed { field, problem }
}

fn write_len(out: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("texts and lists of a manifest have less than 2^32 items");
    out.extend_from_slice(&len.to_le_bytes());
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// The fields that have not been read yet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], ManifestError> {
        let Some((array, rest)) = self.0.split_first_chunk() else {
            return Err(malformed(field, "lies beyond the end"));
        };
        self.0 = rest;
        Ok(*array)
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, ManifestError> {
        self.array(field).map(|[byte]| byte)
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, ManifestError> {
        self.array(field).map(u16::from_le_bytes)
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, ManifestError> {
        self.array(field).map(u32::from_le_bytes)
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, ManifestError> {
        self.array(field).map(u64::from_le_bytes)
    }

    fn i64(&mut self, field: &'static str) -> Result<i64, ManifestError> {
        self.array(field).map(i64::from_le_bytes)
    }

    fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], ManifestError> {
        let len = self.u32(field)? as usize;
        let Some((bytes, rest)) = self.0.split_at_checked(len) else {
            return Err(malformed(field, "is longer than the manifest"));
        };
        self.0 = rest;
        Ok(bytes)
    }

    fn text(&mut self, field: &'static str) -> Result<String, ManifestError> {
        let text = std::str::from_utf8(self.bytes(field)?);
        Ok(text.map_err(|_| malformed(field, "is not UTF-8"))?.to_owned())
    }

    /// A list whose entries have `entry_len_min` bytes or more, so that a length that cannot be
    /// right takes no memory.
    fn list<T>(
        &mut self,
        field: &'static str,
        entry_len_min: usize,
        mut entry: impl FnMut(&mut Self) -> Result<T, ManifestError>,
    ) -> Result<Vec<T>, ManifestError> {
        let count = self.u32(field)? as usize;
        if count > self.0.len() / entry_len_min {
            return Err(malformed(field, "is longer than the manifest"));
        }
        (0..count).map(|_| entry(self)).collect()
    }
}

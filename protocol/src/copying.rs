//! Bringing a copy of a file that grows to where it is to be, over a connection that may break.
//!
//! Pure: what is found there is passed in, what to send comes out. Only what is missing is sent, in
//! parts, and a transfer that was broken off goes on where it was.
//!
//! # Invariants
//! - A copy is durable only when the other side has answered something that was sent to it by *this*
//!   value: what was there before may have been written and not be durable.

/// What is next to be done for a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyStep {
    /// To ask how long the copy is.
    Look,
    /// To send so many bytes from `offset` on, which may be none: the other side answers when all of the
    /// copy is durable.
    Append {
        /// Where they begin.
        offset: u64,
        /// How many they are.
        len: u64,
    },
    /// Nothing: the copy is as long as it is to be, and durable.
    Durable,
}

/// A copy on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileCopy {
    len: u64,
    part_max: u64,
    /// How much of it is there, once that is known.
    found: Option<u64>,
    is_durable: bool,
}

impl FileCopy {
    /// A copy that is to be `len` bytes long; at most `part_max` of them are sent at once.
    ///
    /// # Panics
    /// If that is none.
    pub fn new(len: u64, part_max: u64) -> Self {
        assert!(part_max > 0, "something is sent at a time");
        Self { len, part_max, found: None, is_durable: false }
    }

    /// What is next, until [`CopyStep::Durable`].
    pub fn next(self) -> CopyStep {
        match self.found {
            None => CopyStep::Look,
            Some(_) if self.is_durable => CopyStep::Durable,
            Some(offset) => {
                CopyStep::Append { offset, len: (self.len - offset).min(self.part_max) }
            }
        }
    }

    /// The other side has answered a [`CopyStep::Look`]: so long is the copy, 0 if there is none.
    pub fn on_found(&mut self, len: u64) {
        // It may be longer: another checkpoint has needed more of it.
        self.found = Some(len.min(self.len));
    }

    /// It has answered a [`CopyStep::Append`].
    pub fn on_appended(&mut self) {
        if let CopyStep::Append { offset, len } = self.next() {
            self.found = Some(offset + len);
            self.is_durable = offset + len >= self.len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is sent to where so much is there already.
    fn sent(found: u64, len: u64) -> Vec<(u64, u64)> {
        let mut copy = FileCopy::new(len, 4);
        assert_eq!(copy.next(), CopyStep::Look);
        copy.on_found(found);
        let mut sent = Vec::new();
        while let CopyStep::Append { offset, len } = copy.next() {
            sent.push((offset, len));
            copy.on_appended();
        }
        assert_eq!(copy.next(), CopyStep::Durable);
        sent
    }

    #[test]
    fn what_is_missing_is_sent_in_parts() {
        assert_eq!(sent(0, 10), [(0, 4), (4, 4), (8, 2)]);
        assert_eq!(sent(3, 10), [(3, 4), (7, 3)]);
        assert_eq!(sent(0, 8), [(0, 4), (4, 4)]);
    }

    #[test]
    fn what_is_there_is_made_durable_all_the_same() {
        assert_eq!(sent(10, 10), [(10, 0)]);
        assert_eq!(sent(12, 10), [(10, 0)], "more of it was needed before");
        assert_eq!(sent(0, 0), [(0, 0)], "an empty file is a file");
    }
}

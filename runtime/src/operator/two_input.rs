//! Operators with two inputs of different types: joins, connected streams.

use super::Signal;
use crate::rows::Rows;
use millstream_types::Timestamp;

/// The first link of a chain that reads two streams. All as [`super::Operator`], except that there
/// are two kinds of records; the watermark is the lesser of the two inputs'.
pub trait TwoInputOperator<L, R>: 'static {
    /// Processes a record of the first input.
    fn left(&mut self, value: L, timestamp: Timestamp);

    /// Processes a record of the second input.
    fn right(&mut self, value: R, timestamp: Timestamp);

    /// Processes a batch of the first input and leaves it empty.
    #[inline]
    fn left_batch(&mut self, rows: &mut Rows<L>) {
        rows.drain_each(|value, timestamp| self.left(value, timestamp));
    }

    /// Processes a batch of the second input and leaves it empty.
    #[inline]
    fn right_batch(&mut self, rows: &mut Rows<R>) {
        rows.drain_each(|value, timestamp| self.right(value, timestamp));
    }

    /// See [`super::Operator::watermark`].
    fn watermark(&mut self, watermark: Timestamp);
    /// See [`super::Operator::resume`].
    fn resume(&mut self, watermark: Timestamp);
    /// See [`super::Operator::signal`].
    fn signal(&mut self, signal: Signal);
    /// See [`super::Operator::tick`].
    fn tick(&mut self, now: Timestamp);
    /// See [`super::Operator::next_deadline`].
    fn next_deadline(&self) -> Timestamp;
    /// See [`super::Operator::flush`].
    fn flush(&mut self);
    /// See [`super::Operator::is_blocked`].
    fn is_blocked(&mut self) -> bool;
    /// See [`super::Operator::is_finished`].
    fn is_finished(&mut self) -> bool;
}

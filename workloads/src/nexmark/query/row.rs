//! What is done with rows, and the rows of more than one query.

use super::RowsTo;
use crate::nexmark::format::RowWriter;
use millstream::{Chain, DataStream, WindowResult};
use std::collections::HashMap;
use std::hash::Hash;
use std::hint::black_box;

/// A row of a result.
pub(super) trait Row: Send + 'static {
    /// Writes the fields.
    fn write(&self, fields: &mut RowWriter<'_>);

    /// The row as text.
    fn to_text(&self) -> String {
        let mut text = Vec::with_capacity(64);
        self.write(&mut RowWriter::new(&mut text));
        String::from_utf8(text).expect("fields are text")
    }
}

/// A key, the number of its records in a window, and the window.
impl Row for WindowResult<u64, u64> {
    fn write(&self, fields: &mut RowWriter<'_>) {
        fields.integer(self.key).integer(self.value);
        for time in [self.window.start, self.window.end] {
            fields.timestamp(time.as_millis() as u64);
        }
    }
}

/// Gives the rows as text, once the job has ended.
pub(super) type Rows = Box<dyn FnOnce() -> Vec<String>>;

/// Ends a query whose rows stay as they are.
pub(super) fn append<C: Chain<Out: Row>>(rows: DataStream<C>, output: RowsTo) -> Rows {
    match output {
        RowsTo::Discard => discard(rows),
        RowsTo::Collect => {
            let rows = rows.map(|row| row.to_text()).name("format").collect();
            Box::new(move || rows.take())
        }
    }
}

/// Ends a query whose rows replace those before them with the same key.
///
/// The rows of a key must come from one subtask.
pub(super) fn upsert<C: Chain<Out: Row>, K: Hash + Eq>(
    rows: DataStream<C>,
    key: impl Fn(&C::Out) -> K + 'static,
    output: RowsTo,
) -> Rows {
    match output {
        RowsTo::Discard => discard(rows),
        RowsTo::Collect => {
            let rows = rows.collect();
            Box::new(move || {
                let table: HashMap<K, C::Out> =
                    rows.take().into_iter().map(|row| (key(&row), row)).collect();
                table.values().map(Row::to_text).collect()
            })
        }
    }
}

/// Takes each row and looks at it no further, in a way that keeps the compiler from finding out that
/// it need not have been made.
fn discard<C: Chain<Out: Row>>(rows: DataStream<C>) -> Rows {
    rows.for_each(|row| _ = black_box(row));
    Box::new(Vec::new)
}

//! What is done with rows, and the rows of more than one query.

use crate::nexmark::format::RowWriter;
use millstream::Chain;
use millstream::connector::Sink;
use millstream::prelude::*;
use std::collections::HashMap;
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

/// What becomes of a query's rows.
pub(super) enum End<S> {
    /// They are kept as text.
    Collect,
    /// They are made and dropped.
    Discard,
    /// They go to this sink as text.
    Write(S),
}

/// Gives the rows as text, once the job has ended.
pub(super) type Rows = Box<dyn FnOnce() -> Vec<String>>;

/// Ends a query whose rows stay as they are.
pub(super) fn append<C: Chain<Out: Row>, S: Sink<String>>(
    rows: DataStream<C>,
    end: End<S>,
) -> Rows {
    match end {
        End::Discard => discard(rows),
        End::Collect => {
            let rows = rows.map(|row| row.to_text()).name("format").collect();
            Box::new(move || rows.take())
        }
        End::Write(sink) => write(rows.map(|row| row.to_text()).name("format"), sink),
    }
}

/// Ends a query whose rows replace those before them with the same key.
///
/// The rows of a key must come from one subtask.
pub(super) fn upsert<C: Chain<Out: Row>, S: Sink<String>>(
    rows: DataStream<C>,
    key: impl Fn(&C::Out) -> u64 + Clone + Send + 'static,
    end: End<S>,
) -> Rows {
    match end {
        End::Discard => discard(rows),
        End::Collect => {
            let rows = rows.collect();
            Box::new(move || {
                let table: HashMap<u64, C::Out> =
                    rows.take().into_iter().map(|row| (key(&row), row)).collect();
                table.values().map(Row::to_text).collect()
            })
        }
        End::Write(sink) => {
            let table = rows
                .map(move |row| (key(&row), row.to_text()))
                .name("format")
                .key_by(|(key, _)| *key)
                .process(|state| LastRow { row: state.value("row") })
                .name("final table");
            write(table, sink)
        }
    }
}

/// Writes rows by one subtask: one file, whatever the number of slots.
fn write<C: Chain<Out = String>, S: Sink<String>>(rows: DataStream<C>, sink: S) -> Rows {
    rows.global().set_parallelism(1).sink_to("rows", sink);
    Box::new(Vec::new)
}

/// Emits the last row of each key at the end of the input.
struct LastRow {
    row: ValueState<u64, String>,
}

impl KeyedProcessFunction<u64, (u64, String)> for LastRow {
    type Out = String;

    fn process(
        &mut self,
        (_, row): (u64, String),
        cx: &mut KeyedContext<'_, u64>,
        _: &mut impl Collector<String>,
    ) -> Result<(), BoxError> {
        self.row.set(cx, row);
        cx.register_event_timer(Timestamp::MAX);
        Ok(())
    }

    fn on_timer(
        &mut self,
        _: Timestamp,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<String>,
    ) -> Result<(), BoxError> {
        if let Some(row) = self.row.take(cx) {
            out.collect(row);
        }
        Ok(())
    }
}

/// Takes each row and looks at it no further, in a way that keeps the compiler from finding out that
/// it need not have been made.
fn discard<C: Chain<Out: Row>>(rows: DataStream<C>) -> Rows {
    rows.for_each(|row| _ = black_box(row));
    Box::new(Vec::new)
}

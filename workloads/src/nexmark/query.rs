//! The queries, each a function from the events to a stream of its rows.
//!
//! # Invariants
//! - A query reads the events from memory in one pass and copies of each event what it needs: text
//!   is cloned only into what may become a row.
//! - Its rows do not depend on the number of slots, nor on the order of the events within the
//!   [`input::OUT_OF_ORDERNESS`].

mod bidders;
mod input;
mod q3;
mod q4;
mod q5;
mod q7;
mod q8;
mod row;
mod stateless;

use super::Event;
use input::Input;
use millstream::connector::Sink;
use millstream::{CollectSink, Config, Environment, JobError, JobResult};
use row::End;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// A query of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Query {
    /// All bids, as they are: what the engine itself costs.
    Q0,
    /// All bids, their prices in euros.
    Q1,
    /// The bids on some auctions.
    Q2,
    /// Who sells in a category, in some states: a join of persons and auctions without windows.
    Q3,
    /// The average of the highest bids per category, kept up to date.
    Q4,
    /// The auctions with the most bids in the last ten seconds, every two seconds.
    Q5,
    /// The highest bids of every ten seconds.
    Q7,
    /// Who registered and put something up for auction within the same ten seconds.
    Q8,
    /// Bids per bidder and session, which ends after ten seconds without a bid.
    Q11,
    /// As [`Query::Q11`], with sessions that end after one second.
    Q11Gap1s,
    /// Bids per bidder and ten seconds of event time.
    Q12Eventtime,
}

impl Query {
    /// All queries.
    pub const ALL: [Query; 11] = [
        Query::Q0,
        Query::Q1,
        Query::Q2,
        Query::Q3,
        Query::Q4,
        Query::Q5,
        Query::Q7,
        Query::Q8,
        Query::Q11,
        Query::Q11Gap1s,
        Query::Q12Eventtime,
    ];

    /// The name by which the query is asked for, such as `q11_gap1s`.
    pub const fn name(self) -> &'static str {
        match self {
            Query::Q0 => "q0",
            Query::Q1 => "q1",
            Query::Q2 => "q2",
            Query::Q3 => "q3",
            Query::Q4 => "q4",
            Query::Q5 => "q5",
            Query::Q7 => "q7",
            Query::Q8 => "q8",
            Query::Q11 => "q11",
            Query::Q11Gap1s => "q11_gap1s",
            Query::Q12Eventtime => "q12_eventtime",
        }
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Query {
    type Err = UnknownQuery;

    fn from_str(name: &str) -> Result<Self, UnknownQuery> {
        let found = Query::ALL.into_iter().find(|query| query.name() == name);
        found.ok_or_else(|| UnknownQuery(name.to_owned()))
    }
}

/// A name that no query has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no query \"{0}\"; the queries are {names}", names = Query::ALL.map(Query::name).join(", "))]
pub struct UnknownQuery(String);

/// What becomes of a query's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsTo {
    /// They are written as text, and kept.
    Collect,
    /// They are made, counted and dropped.
    Discard,
}

/// What a run of a query came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How the job went.
    pub result: JobResult,
    /// The rows in the [format](super::format) of the golden results, without line ends, in no
    /// particular order; of a result that is updated, the final table. Empty if discarded.
    pub rows: Vec<String>,
    /// Rows that the query emitted; of a result that is updated, every update, or if they were written
    /// to a sink, the rows of the final table.
    pub rows_out: u64,
    /// Events that were read, of all kinds; not those before the checkpoint that the job began with.
    pub events: u64,
}

/// Runs a query over events in memory, which all subtasks of the source read in parallel.
///
/// # Errors
/// If the job cannot start; the queries themselves have nothing that fails.
pub fn run(
    query: Query,
    events: Arc<[Event]>,
    config: Config,
    output: RowsTo,
) -> Result<Outcome, JobError> {
    let end: End<CollectSink<String>> = match output {
        RowsTo::Collect => End::Collect,
        RowsTo::Discard => End::Discard,
    };
    execute(query, &events, config, end)
}

/// As [`run`], with the rows as text to one subtask of a sink; of a result that is updated, the final
/// table at the end. A job that is resumed from a checkpoint goes on with its own rows: those before
/// it are the sink's affair.
///
/// # Errors
/// If the job cannot start or be restored, or the sink fails.
pub fn write(
    query: Query,
    events: &Arc<[Event]>,
    config: Config,
    sink: impl Sink<String>,
) -> Result<Outcome, JobError> {
    execute(query, events, config, End::Write(sink))
}

fn execute<S: Sink<String>>(
    query: Query,
    events: &Arc<[Event]>,
    config: Config,
    end: End<S>,
) -> Result<Outcome, JobError> {
    let env = Environment::new(config);
    let input = Input::new(&env, events);
    let rows = match query {
        Query::Q0 => row::append(stateless::q0(&input), end),
        Query::Q1 => row::append(stateless::q1(&input), end),
        Query::Q2 => row::append(stateless::q2(&input), end),
        Query::Q3 => row::append(q3::q3(&input), end),
        Query::Q4 => row::upsert(q4::q4(&input), |average| average.category, end),
        Query::Q5 => row::append(q5::q5(&input), end),
        Query::Q7 => row::append(q7::q7(&input), end),
        Query::Q8 => row::append(q8::q8(&input), end),
        Query::Q11 => row::append(bidders::q11(&input, Duration::from_secs(10)), end),
        Query::Q11Gap1s => row::append(bidders::q11(&input, Duration::from_secs(1)), end),
        Query::Q12Eventtime => row::append(bidders::q12(&input), end),
    };
    let result = env.execute(query.name())?;
    let (rows_out, events) = (result.metrics.sink_records(), result.metrics.source_records());
    Ok(Outcome { result, rows: rows(), rows_out, events })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_query_is_found_by_its_name() {
        for query in Query::ALL {
            assert_eq!(query.to_string().parse(), Ok(query));
        }
    }

    #[test]
    fn an_unknown_query_is_told_the_known_ones() {
        assert_eq!(
            "q6".parse::<Query>().unwrap_err().to_string(),
            "there is no query \"q6\"; the queries are \
             q0, q1, q2, q3, q4, q5, q7, q8, q11, q11_gap1s, q12_eventtime"
        );
    }
}

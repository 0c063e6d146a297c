//! Hand-written single-thread loops over full, string-carrying Nexmark events.
//!
//! `roofline_nexmark QUERY`, with QUERY one of q0 q1 q2 q5 q7 q8 as Nexmark defines them (ties and
//! all). Environment: `N` events (default 5,000,000), `RATE` of event time (10,000), `BASE_TIME`
//! (1436918400000), `INPUT` (`owned`: the loop takes events by value and frees them, as an engine
//! that owns its records must; `borrowed`: it looks at events that stay), `REPS` (5), `WARM` (1),
//! `INTERACTIVE`, `ROWS` (a file that the rows of one run are written to).
//!
//! Input is in the order of event time, so a window is complete at the first later event.

mod queries;
mod rows;

use std::borrow::Borrow;
use std::fs::File;
use std::io::BufWriter;

use common::interactive;
use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::Event;

use rows::{Rows, Signatures, Text};

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value.parse().unwrap_or_else(|_| fail(&format!("{name}={value} is no number"))),
        Err(_) => default,
    }
}

fn fail(reason: &str) -> ! {
    eprintln!("roofline_nexmark: {reason}");
    std::process::exit(2)
}

fn generate(events: usize) -> Vec<Event> {
    let rate = number("RATE", 10_000) as usize;
    EventGenerator::new(NexmarkConfig {
        base_time: number("BASE_TIME", 1_436_918_400_000),
        first_rate: rate,
        next_rate: rate,
        ..NexmarkConfig::default()
    })
    .take(events)
    .collect()
}

fn run<E: Borrow<Event>>(query: &str, events: impl Iterator<Item = E>, rows: &mut impl Rows) {
    match query {
        "q0" => queries::q0(events, rows),
        "q1" => queries::q1(events, rows),
        "q2" => queries::q2(events, rows),
        "q5" => queries::q5(events, rows),
        "q7" => queries::q7(events, rows),
        "q8" => queries::q8(events, rows),
        _ => fail(&format!("no query {query}; there are q0 q1 q2 q5 q7 q8")),
    }
}

fn main() {
    let query = std::env::args().nth(1).unwrap_or_else(|| fail("which query? q0 q1 q2 q5 q7 q8"));
    let input = std::env::var("INPUT").unwrap_or_else(|_| "owned".into());
    let owned = match input.as_str() {
        "owned" => true,
        "borrowed" => false,
        _ => fail("INPUT is owned or borrowed"),
    };
    let events = generate(number("N", 5_000_000) as usize);

    if let Ok(path) = std::env::var("ROWS") {
        let file = File::create(&path).unwrap_or_else(|e| fail(&format!("{path}: {e}")));
        run(&query, events.iter(), &mut Text(BufWriter::new(file)));
        return;
    }

    let measure = || {
        if owned {
            let copy = events.clone();
            interactive::timed(|| run(&query, copy.into_iter(), &mut Signatures::default()))
        } else {
            interactive::timed(|| run(&query, events.iter(), &mut Signatures::default()))
        }
    };
    if interactive::requested() {
        return interactive::serve(events.len(), measure);
    }

    for _ in 0..number("WARM", 1) {
        measure();
        common::take_sum();
    }
    let mut rates = Vec::new();
    let mut sums = Vec::new();
    for _ in 0..number("REPS", 5).max(1) {
        rates.push(events.len() as f64 / measure().seconds());
        sums.push(common::take_sum());
    }
    rates.sort_by(f64::total_cmp);
    let (checksum, rows_out) = sums[0];
    let stable = if sums.iter().all(|sum| *sum == sums[0]) { "" } else { "UNSTABLE-" };
    println!(
        "roofline_nexmark-{input},{query},1,{:.0},{stable}{checksum:016x},{rows_out},{},{:.0},{:.0},{}",
        rates[rates.len() / 2],
        events.len(),
        rates[0],
        rates[rates.len() - 1],
        rates.len(),
    );
}

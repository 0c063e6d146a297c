use super::*;
use crate::input::EventSource;
use crate::service::{DELAY_MAX, ServiceSource, Settings};
use millstream::{Config, Environment};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A service that has been open for an hour and a half, and is closed now.
fn watched(settings: Settings, hours: f64) -> Watched {
    let env = Environment::new(Config::default().with_slots(2));
    let source = ServiceSource::new(settings, Pace::Times(1e9))
        .for_service_time(Duration::from_secs_f64(hours * 3_600.0));
    let board = crate::describe(&env, EventSource::Service(source), DELAY_MAX);
    let job = env.start("music service").unwrap();
    let (metrics, canceller) = (job.metrics().clone(), job.canceller());
    job.wait().unwrap();
    Watched {
        metrics,
        board,
        pace: Some(Pace::Times(85.0)),
        slots: 2,
        started: Instant::now(),
        job: canceller,
        interrupt: Interrupt::default(),
    }
}

const SETTINGS: Settings = Settings { users: 2_000, songs: 300, seed: 5 };

fn drawn(live: &mut Live<'_>, width: u16, height: u16, at: Duration) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    live.draw_at(&mut terminal, at).unwrap();
    let buffer = terminal.backend().buffer();
    let cell = |x, y| buffer[(x, y)].symbol();
    let lines = (0..height).map(|y| (0..width).map(|x| cell(x, y)).collect::<String>());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_live_view_shows_all_there_is() {
    let watched = watched(SETTINGS, 1.5);
    let mut live = Live::new(&watched);
    live.sample(Duration::from_secs(2));
    let text = drawn(&mut live, 80, 24, Duration::from_secs(2));
    for part in [
        "Millstream",
        "event time 2026-01-01 19:3",
        "(85 x real time)   running 2 s on 2 slots",
        "events per second",
        "watermark behind",
        "latency p50 / p99",
        "backpressure",
        "classical, last 30 minutes",
        "hip hop",
        "skipped 12 songs in a row",
        " events   ",
        " songs   ",
        "what users like now",
        " \u{2192} ",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let top = watched.board.findings().top_lists().next().unwrap().songs[0].0.title.to_string();
    assert!(text.contains(&top[..top.len().min(15)]), "{top}\n{text}");
}

#[test]
fn a_terminal_of_any_size_can_be_drawn_on() {
    let watched = watched(SETTINGS, 0.1);
    let mut live = Live::new(&watched);
    for second in 1..5 {
        live.sample(Duration::from_secs(second));
    }
    for (width, height) in [(1, 1), (20, 5), (80, 24), (300, 100), (7, 60), (60, 7)] {
        drawn(&mut live, width, height, Duration::from_secs(5));
    }
}

#[test]
fn a_view_of_nothing_can_be_drawn() {
    let watched = watched(Settings { users: 0, songs: 10, seed: 1 }, 0.0);
    let mut live = Live::new(&watched);
    let text = drawn(&mut live, 80, 24, Duration::ZERO);
    assert!(text.contains("the first window is not over yet"), "{text}");
    assert_eq!(final_lists(&watched.board.findings()), "");
}

/// The receiver of a job that has ended.
fn ended() -> Receiver<()> {
    channel().1
}

#[test]
fn lines_tell_what_the_live_view_tells() {
    let watched = watched(SETTINGS, 1.5);
    let mut plain = Plain::new(&watched);
    let line = plain.line_at(Duration::from_secs(3_000));
    for part in ["3000 s  2026-01-01 19:3", "/s  watermark -", " sessions  ", " alarms  #1 "] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert_eq!(Plain::new(&watched).run(&ended()).unwrap(), Ended::WithTheJob);
    let lists = final_lists(&watched.board.findings());
    assert!(lists.contains("\npop ") && lists.contains("times somebody played"), "{lists}");
}

//! The live view: charts, lists and alarms, drawn a few times a second.

use super::sampler::{Sample, Sampler};
use super::screen::Screen;
use super::{Ended, Watched, clock, latency};
use crate::DemoError;
use crate::board::Findings;
use crate::job::{Favourite, TOP_WINDOW, TopList};
use compact_str::CompactString;
use millstream_ops::{count, duration};
use ratatui::backend::Backend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Sparkline, Table};
use ratatui::{Frame, Terminal};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

/// The time between two samples: two points of a chart.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);
/// The time between two drawings at the most; keys are answered at once.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);
/// How long a genre's list is shown, until somebody chooses one.
const GENRE_INTERVAL: Duration = Duration::from_secs(4);

const ACCENT: Color = Color::Cyan;

/// The view in a terminal.
pub(crate) struct Live<'a> {
    watched: &'a Watched,
    sampler: Sampler,
    /// The genre whose list is shown: `None` for one after the other.
    chosen: Option<usize>,
    genres: usize,
    /// The newest changes of users' favourites, of the newest sample: all of them would flicker by.
    changes: VecDeque<Favourite>,
}

impl<'a> Live<'a> {
    pub(crate) fn new(watched: &'a Watched) -> Self {
        let sampler = Sampler::new(watched);
        Self { watched, sampler, chosen: None, genres: 0, changes: VecDeque::new() }
    }

    /// Draws until `job_ended` has news, or somebody quits, which cancels the job.
    ///
    /// # Errors
    /// If the terminal cannot be used; the job is cancelled then.
    pub(crate) fn run(mut self, job_ended: &Receiver<()>) -> Result<Ended, DemoError> {
        let ended = self.draw_until(job_ended).map_err(DemoError::Terminal);
        if !matches!(ended, Ok(Ended::WithTheJob)) {
            self.watched.job.cancel();
        }
        ended
    }

    fn draw_until(&mut self, job_ended: &Receiver<()>) -> std::io::Result<Ended> {
        let mut screen = Screen::enter()?;
        loop {
            if self.watched.interrupt.is_raised() {
                return Ok(Ended::Interrupted);
            }
            if job_ended.try_recv() != Err(TryRecvError::Empty) {
                return Ok(Ended::WithTheJob);
            }
            let at = self.watched.started.elapsed();
            if at - self.sampler.at() >= SAMPLE_INTERVAL {
                self.sample(at);
            }
            self.draw_at(&mut screen.terminal, at)?;
            if event::poll(DRAW_INTERVAL)? {
                match event::read()? {
                    Event::Key(key) if key.kind == KeyEventKind::Press => {
                        if let Some(ended) = self.on_key(key, at) {
                            return Ok(ended);
                        }
                        if key.code == KeyCode::Char('l') {
                            screen.terminal.clear()?;
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// Takes in how the job goes, `at` so long after its start.
    pub(super) fn sample(&mut self, at: Duration) {
        self.sampler.take(self.watched, at);
        self.changes = self.watched.board.findings().changes;
    }

    /// Draws what there is to be seen, `at` so long after the job's start.
    pub(super) fn draw_at<B: Backend>(
        &mut self,
        terminal: &mut Terminal<B>,
        at: Duration,
    ) -> Result<(), B::Error> {
        let findings = self.watched.board.findings();
        terminal.draw(|frame| self.draw(frame, &findings, at))?;
        Ok(())
    }

    fn on_key(&mut self, key: KeyEvent, at: Duration) -> Option<Ended> {
        let genres = self.genres.max(1);
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Some(Ended::Interrupted);
            }
            KeyCode::Char('q') | KeyCode::Esc => return Some(Ended::Quit),
            KeyCode::Down | KeyCode::Right => self.chosen = Some((self.shown(at) + 1) % genres),
            KeyCode::Up | KeyCode::Left => {
                self.chosen = Some((self.shown(at) + genres - 1) % genres);
            }
            KeyCode::Char(' ') => {
                self.chosen = if self.chosen.is_some() { None } else { Some(self.shown(at)) };
            }
            _ => {}
        }
        None
    }

    /// The index of the genre whose list is shown.
    fn shown(&self, at: Duration) -> usize {
        let turn = (at.as_secs() / GENRE_INTERVAL.as_secs()) as usize;
        self.chosen.unwrap_or(turn) % self.genres.max(1)
    }

    fn draw(&mut self, frame: &mut Frame<'_>, findings: &Findings, at: Duration) {
        let lists: Vec<&TopList> = findings.top_lists().collect();
        self.genres = lists.len();
        // In a terminal of 24 lines there is room for all genres, and for little else.
        let (charts, people) = if frame.area().height >= 32 { (6, 8) } else { (4, 4) };
        let [header, charts, songs, people] = Layout::vertical([
            Constraint::Length(3),
            Constraint::Length(charts),
            Constraint::Min(8),
            Constraint::Length(people),
        ])
        .areas(frame.area());
        self.draw_header(frame, header, findings, at);
        self.draw_charts(frame, charts);
        let [genres, list] =
            Layout::horizontal([Constraint::Percentage(56), Constraint::Percentage(44)])
                .areas(songs);
        let shown = self.shown(at);
        draw_genres(frame, genres, findings, &lists, shown);
        if let Some(list_shown) = lists.get(shown) {
            draw_list(frame, list, list_shown);
        } else {
            let waiting = Paragraph::new("the first window is not over yet").dim();
            frame.render_widget(waiting.block(panel("top songs")), list);
        }
        let [alarms, tastes] =
            Layout::horizontal([Constraint::Percentage(58), Constraint::Percentage(42)])
                .areas(people);
        draw_alarms(frame, alarms, findings);
        self.draw_tastes(frame, tastes);
    }

    fn draw_header(&self, frame: &mut Frame<'_>, area: Rect, findings: &Findings, at: Duration) {
        let slots = self.watched.slots;
        let title = Line::from(vec![
            " Millstream ".bold().fg(Color::Black).bg(ACCENT),
            " an online music service".into(),
        ]);
        let time = self.watched.board.newest().map_or_else(|| "no event yet".to_owned(), clock);
        let pace = match self.watched.pace {
            Some(crate::service::Pace::Times(times)) => format!(" ({times:.0} x real time)"),
            _ => String::new(),
        };
        let running = format!(
            " event time {time}{pace}   running {} s on {slots} slot{}",
            at.as_secs(),
            if slots == 1 { "" } else { "s" },
        );
        let lines = vec![title, Line::from(running).dim(), self.figures(findings)];
        frame.render_widget(Paragraph::new(lines), area);
        let keys = Line::from("q quit   \u{2190} \u{2192} genre   space hold ").dim();
        frame.render_widget(Paragraph::new(keys).alignment(Alignment::Right), area);
    }

    fn draw_charts(&self, frame: &mut Frame<'_>, area: Rect) {
        let newest = self.sampler.newest();
        let areas: [Rect; 4] = Layout::horizontal([Constraint::Ratio(1, 4); 4]).areas(area);
        let behind = match newest.behind > Duration::from_secs(1) {
            true => format!(", {} behind", duration(newest.behind)),
            false => String::new(),
        };
        let quantiles = newest.latency.map_or_else(
            || "none yet".to_owned(),
            |(p50, p99)| format!("{} / {}", latency(p50), latency(p99)),
        );
        type Value = fn(&Sample) -> u64;
        let charts: [(&str, String, Value, Color); 4] = [
            (
                "events per second",
                format!("{}{behind}", count(newest.rate as u64)),
                |sample| sample.rate as u64,
                Color::Green,
            ),
            (
                "watermark behind",
                format!("{:.1} s event time", newest.lag.as_secs_f64()),
                |sample| sample.lag.as_millis() as u64,
                Color::Yellow,
            ),
            (
                "latency p50 / p99",
                quantiles,
                |sample| sample.latency.map_or(0, |(_, p99)| p99.as_micros() as u64),
                Color::Magenta,
            ),
            (
                "backpressure",
                format!("{:.1} % of polls", newest.backpressure * 100.0),
                |sample| (sample.backpressure * 1_000.0) as u64,
                Color::Red,
            ),
        ];
        for ((title, figure, value, color), area) in charts.into_iter().zip(areas) {
            let block = panel(title);
            let inner = block.inner(area);
            frame.render_widget(block, area);
            let [text, chart] =
                Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(inner);
            frame.render_widget(Paragraph::new(figure.fg(color)), text);
            let width = usize::from(chart.width);
            let samples = self.sampler.samples();
            let skipped = samples.len().saturating_sub(width);
            let points: Vec<u64> = samples.skip(skipped).map(value).collect();
            frame.render_widget(Sparkline::default().data(points).fg(color), chart);
        }
    }

    fn draw_tastes(&self, frame: &mut Frame<'_>, area: Rect) {
        let room = usize::from(area.height.saturating_sub(2));
        let name = |genre: &Option<CompactString>| {
            genre.as_ref().map_or_else(|| "nothing".to_owned(), |genre| genre.to_string())
        };
        let lines: Vec<Line<'_>> = self
            .changes
            .iter()
            .rev()
            .take(room)
            .map(|Favourite { user, before, now }| {
                Line::from(vec![
                    format!("user {user} ").fg(ACCENT),
                    Span::from(format!("{} \u{2192} ", name(before))).dim(),
                    name(now).into(),
                ])
            })
            .collect();
        frame.render_widget(Paragraph::new(lines).block(panel("what users like now")), area);
    }

    /// What the job has counted so far, in a line.
    fn figures(&self, findings: &Findings) -> Line<'static> {
        let Findings { sessions, session_plays, session_time, favourite_changes, .. } = findings;
        let average = |total: f64| total / (*sessions).max(1) as f64;
        let counters = &self.watched.metrics.counters;
        let sessions = format!(
            "{} sessions of {:.0} min, {:.0} songs",
            count(*sessions),
            average(session_time.as_secs_f64() / 60.0),
            average(*session_plays as f64),
        );
        let mut text = format!(
            " {} events   {sessions}   {} changes of taste",
            count(self.watched.metrics.source_records()),
            count(*favourite_changes),
        );
        for (name, number) in [("late", counters.late()), ("malformed", counters.malformed())] {
            if number > 0 {
                // Writing to a string does not fail.
                let _ = write!(text, "   {} {name}", count(number));
            }
        }
        Line::from(text)
    }
}

fn panel(title: &str) -> Block<'_> {
    Block::bordered().title(format!(" {title} ")).border_style(Style::new().dim())
}

fn draw_genres(
    frame: &mut Frame<'_>,
    area: Rect,
    findings: &Findings,
    lists: &[&TopList],
    shown: usize,
) {
    let rows = lists.iter().enumerate().map(|(index, list)| {
        let users = findings.favourites.get(&list.genre).copied().unwrap_or(0).max(0);
        let (title, plays) = list.songs.first().map_or_else(
            || (String::new(), String::new()),
            |(track, plays)| (track.title.to_string(), count(*plays)),
        );
        let cells = [
            Cell::from(list.genre.to_string()),
            Cell::from(title),
            right(plays),
            right(count(users as u64)),
        ];
        let row = Row::new(cells);
        if index == shown { row.fg(ACCENT).bold() } else { row }
    });
    let widths =
        [Constraint::Length(11), Constraint::Min(8), Constraint::Length(7), Constraint::Length(8)];
    let head = [Cell::from("genre"), Cell::from("top song"), right("plays"), right("liked by")];
    let table = Table::new(rows, widths)
        .header(Row::new(head).dim())
        .block(panel("genres and who likes them"));
    frame.render_widget(table, area);
}

fn draw_list(frame: &mut Frame<'_>, area: Rect, list: &TopList) {
    let most = list.songs.first().map_or(1, |(_, plays)| (*plays).max(1));
    let bar = usize::from(area.width / 6);
    let rows = list.songs.iter().enumerate().map(|(index, (track, plays))| {
        let length = (*plays as f64 / most as f64 * bar as f64).round() as usize;
        Row::new([
            right(format!("{}", index + 1)),
            Cell::from(track.title.to_string()),
            right(count(*plays)),
            Cell::from("\u{2588}".repeat(length).fg(ACCENT)),
        ])
    });
    let widths = [
        Constraint::Length(2),
        Constraint::Min(8),
        Constraint::Length(7),
        Constraint::Length(bar as u16),
    ];
    let minutes = TOP_WINDOW.as_secs() / 60;
    let title = format!("{}, last {minutes} minutes", list.genre);
    frame.render_widget(Table::new(rows, widths).block(panel(&title)), area);
}

fn draw_alarms(frame: &mut Frame<'_>, area: Rect, findings: &Findings) {
    let room = usize::from(area.height.saturating_sub(2));
    let lines: Vec<Line<'_>> = findings
        .alarms
        .iter()
        .rev()
        .take(room)
        .map(|alarm| {
            let time = clock(millstream::Timestamp::from_millis(alarm.time_millis));
            let time = time.split(' ').next_back().unwrap_or_default().to_owned();
            Line::from(vec![
                Span::from(time).dim(),
                format!(" user {} ", alarm.user).fg(Color::Red),
                alarm.kind.to_string().into(),
            ])
        })
        .collect();
    let title = format!("alarms: {}", count(findings.alarm_count()));
    frame.render_widget(Paragraph::new(lines).block(panel(&title)), area);
}

fn right<'a>(text: impl Into<String>) -> Cell<'a> {
    Cell::from(Line::from(text.into()).alignment(Alignment::Right))
}

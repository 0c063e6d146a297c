//! The terminal while the live view has it.
//!
//! # Invariants
//! - Whatever ends the view, a panic too, gives the terminal back as it was: cooked, with its own
//!   contents and its cursor.
//! - Nobody else writes while the view draws: what panics of other threads have to say waits until
//!   the terminal is given back.

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use std::io::{self, Stdout};
use std::panic::{self, PanicHookInfo};
use std::sync::{Mutex, Once, PoisonError};
use std::thread::{self, ThreadId};

/// The terminal in raw mode, on its alternate screen, until it is dropped.
pub(super) struct Screen {
    pub(super) terminal: Terminal<CrosstermBackend<Stdout>>,
}

/// Who draws, and what must be said afterwards.
static DRAWING: Mutex<Option<Drawing>> = Mutex::new(None);

struct Drawing {
    thread: ThreadId,
    messages: Vec<String>,
}

impl Screen {
    /// Takes the terminal, for this thread to draw on.
    pub(super) fn enter() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |info| on_panic(info, &*before)));
        });
        *drawing() = Some(Drawing { thread: thread::current().id(), messages: Vec::new() });
        let entered = enable_raw_mode()
            .and_then(|()| execute!(io::stdout(), EnterAlternateScreen, Hide))
            .and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())));
        match entered {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                leave();
                Err(error)
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

fn drawing() -> std::sync::MutexGuard<'static, Option<Drawing>> {
    DRAWING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the terminal back, once.
fn leave() {
    let Some(Drawing { messages, .. }) = drawing().take() else { return };
    // If the terminal has gone, there is nothing to give back.
    let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
    for message in messages {
        eprintln!("{message}");
    }
}

fn on_panic(info: &PanicHookInfo<'_>, before: &dyn Fn(&PanicHookInfo<'_>)) {
    let mut drawing = drawing();
    match &mut *drawing {
        Some(other) if other.thread != thread::current().id() => {
            other.messages.push(info.to_string());
        }
        _ => {
            drop(drawing);
            leave();
            before(info);
        }
    }
}

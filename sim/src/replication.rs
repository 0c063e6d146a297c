//! Copies of what a member writes, on the way to the members that are to have them.
//!
//! What a file still lacks is decided by the product's [`FileCopy`]; a file of a store is sent in parts,
//! from where the other side has it. One request at a time is on its way between two members, and they
//! are done in the order of their tasks.

use crate::message::{Context, Token};
use crate::network::{Answer, Body, Request};
use millstream_protocol::{CopyStep, FileCopy};
use std::collections::{BTreeMap, VecDeque};

/// How much of a file goes in one message.
const PART_BYTES: u64 = 64;

/// What is to be done in another member's directory; the token says for what.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    /// A store's file, as it is here.
    Follow(String, Token),
    Put(String, Token),
    Create(String, Token),
    Delete(Vec<String>, Token),
}

impl Task {
    fn token(&self) -> &Token {
        match self {
            Self::Follow(_, token)
            | Self::Put(_, token)
            | Self::Create(_, token)
            | Self::Delete(_, token) => token,
        }
    }
}

/// What one member has another one do.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    from: usize,
    to: usize,
    tasks: VecDeque<Task>,
    /// The state of the first one, if it takes several requests.
    copy: Option<FileCopy>,
    /// The request that was not answered yet.
    asked: Option<u64>,
    requests: u64,
    /// How long the copies are that it has said to be durable.
    confirmed: BTreeMap<String, u64>,
    /// Copies of which something was there.
    pub(crate) resumed: u64,
}

/// What has come of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) token: Token,
    pub(crate) ok: bool,
}

impl Link {
    pub(crate) fn new(from: usize, to: usize) -> Self {
        Self {
            from,
            to,
            tasks: VecDeque::new(),
            copy: None,
            asked: None,
            requests: 0,
            confirmed: BTreeMap::new(),
            resumed: 0,
        }
    }

    pub(crate) fn add(&mut self, task: Task) {
        self.tasks.push_back(task);
    }

    /// Whether the first of these members has the second one do its tasks.
    pub(crate) fn is_of(&self, from: usize, to: usize) -> bool {
        (self.from, self.to) == (from, to)
    }

    /// Whose tasks these are.
    pub(crate) fn from(&self) -> usize {
        self.from
    }

    /// Sends the next request, if none is on its way. Returns a task that has ended without one.
    pub(crate) fn step(&mut self, cx: &mut Context<'_>) -> Option<Ended> {
        if self.asked.is_some() {
            return None;
        }
        let request = match self.tasks.front()? {
            Task::Follow(path, _) => {
                let Some(bytes) = cx.disk_of(self.from).and_then(|disk| disk.read(path)) else {
                    return self.end(false);
                };
                let len = bytes.len() as u64;
                if self.confirmed.get(path).is_some_and(|confirmed| *confirmed >= len) {
                    return self.end(true);
                }
                let copy = self.copy.get_or_insert(FileCopy::new(len, PART_BYTES));
                match copy.next() {
                    CopyStep::Look => Request::Look(path.clone()),
                    CopyStep::Append { offset, len } => {
                        let part = bytes[offset as usize..(offset + len) as usize].to_vec();
                        Request::Append(path.clone(), offset, part)
                    }
                    CopyStep::Durable => {
                        self.confirmed.insert(path.clone(), len);
                        return self.end(true);
                    }
                }
            }
            Task::Put(path, _) | Task::Create(path, _) => {
                let Some(bytes) = cx.disk_of(self.from).and_then(|disk| disk.read(path)) else {
                    return self.end(false);
                };
                match self.tasks.front()? {
                    Task::Create(..) => Request::Create(path.clone(), bytes.to_vec()),
                    _ => Request::Put(path.clone(), bytes.to_vec()),
                }
            }
            Task::Delete(paths, _) => {
                self.confirmed.retain(|path, _| !paths.contains(path));
                Request::Delete(paths.clone())
            }
        };
        self.requests += 1;
        self.asked = Some(self.requests);
        cx.send(self.from, self.to, Body::Request(self.requests, request));
        None
    }

    /// An answer has come. Returns the task, if it has ended with it.
    pub(crate) fn on_answer(&mut self, number: u64, answer: Answer) -> Option<Ended> {
        if self.asked != Some(number) {
            return None;
        }
        self.asked = None;
        match (answer, &mut self.copy) {
            (Answer::Failed, _) => self.end(false),
            (Answer::Done, None) => self.end(true),
            (Answer::Done, Some(copy)) => {
                copy.on_appended();
                None
            }
            (Answer::Found(len), copy) => {
                self.resumed += u64::from(len > 0);
                copy.as_mut()?.on_found(len);
                None
            }
        }
    }

    fn end(&mut self, ok: bool) -> Option<Ended> {
        self.copy = None;
        let token = self.tasks.pop_front()?.token().clone();
        Some(Ended { token, ok })
    }
}

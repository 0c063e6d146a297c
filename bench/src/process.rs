//! Other programs, and other processes of this one.

use crate::BenchError;
use crate::interactive::Answer;
use millstream_ops::Interrupt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::marker::PhantomData;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel, sync_channel};
use std::time::{Duration, Instant};

/// How long loading the input and a pass may take.
const PASS_DURATION_MAX: Duration = Duration::from_secs(300);
/// How often a wait looks whether a signal came.
const INTERRUPT_INTERVAL: Duration = Duration::from_millis(100);
/// What is given up if nothing is told for so long.
const SILENCE_MAX: Duration = Duration::from_secs(600);

/// A running program. Dropping it ends it.
pub(crate) struct Program {
    name: &'static str,
    child: Ending,
    requests: ChildStdin,
    answers: Receiver<String>,
}

impl Program {
    pub(crate) fn start(mut command: Command, name: &'static str) -> Result<Self, BenchError> {
        let failed = |reason| BenchError::Peer { program: name.to_owned(), reason };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(format!("cannot be started: {error}")))?;
        let requests = child.stdin.take().expect("standard input is a pipe");
        let answers = child.stdout.take().expect("standard output is a pipe");
        // By a thread, so that a program that hangs can be given up. The thread ends with it.
        let (sender, receiver) = sync_channel(1);
        std::thread::spawn(move || {
            for line in BufReader::new(answers).lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { name, child: Ending(child), requests, answers: receiver })
    }

    pub(crate) fn name(&self) -> &str {
        self.name
    }

    /// Asks for one run and waits for it.
    pub(crate) fn pass(&mut self, interrupt: &Interrupt) -> Result<Answer, BenchError> {
        let asked = self.requests.write_all(b"run\n").and_then(|()| self.requests.flush());
        if asked.is_err() {
            return Err(self.ended());
        }
        let deadline = Instant::now() + PASS_DURATION_MAX;
        loop {
            if interrupt.is_raised() {
                return Err(BenchError::Cancelled);
            }
            match self.answers.recv_timeout(INTERRUPT_INTERVAL) {
                Ok(line) => {
                    return serde_json::from_str(&line).map_err(|error| {
                        self.failed(format!("answered what is no result ({error}): {line}"))
                    });
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => {
                    let seconds = PASS_DURATION_MAX.as_secs();
                    return Err(self.failed(format!("no result within {seconds} s; it was ended")));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn ended(&mut self) -> BenchError {
        let status =
            self.child.0.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        self.failed(format!("ended instead of running ({status}); its own message is above"))
    }

    fn failed(&self, reason: String) -> BenchError {
        BenchError::Peer { program: self.name.to_owned(), reason }
    }
}

/// Runs a program from start to end, and returns what it wrote to standard output. What it writes
/// to standard error is shown only if it fails.
pub(crate) fn run_to_end(
    mut command: Command,
    name: &str,
    limit: Duration,
    interrupt: &Interrupt,
) -> Result<String, BenchError> {
    let failed = |reason| BenchError::Peer { program: name.to_owned(), reason };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map(Ending)
        .map_err(|error| failed(format!("cannot be started: {error}")))?;
    let texts = [
        read_to_end(child.0.stdout.take().expect("standard output is a pipe")),
        read_to_end(child.0.stderr.take().expect("standard error is a pipe")),
    ];
    let deadline = Instant::now() + limit;
    let wait = |text: &Receiver<Vec<u8>>| loop {
        if interrupt.is_raised() {
            return Err(BenchError::Cancelled);
        }
        match text.recv_timeout(INTERRUPT_INTERVAL) {
            Ok(bytes) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(RecvTimeoutError::Disconnected) => return Ok(String::new()),
            Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => {
                return Err(failed(format!("not done after {limit:?}; it was ended")));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    };
    let (stdout, stderr) = (wait(&texts[0])?, wait(&texts[1])?);
    match child.0.wait() {
        Ok(status) if status.success() => Ok(stdout),
        Ok(status) => Err(failed(format!("{status}: {}", stderr.trim()))),
        Err(error) => Err(failed(format!("cannot be waited for: {error}"))),
    }
}

/// Reads a stream by a thread, which ends with it.
fn read_to_end(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is what there is to show.
        let _ = stream.read_to_end(&mut bytes);
        // Nobody waits any more if the program was given up.
        let _ = sender.send(bytes);
    });
    receiver
}

/// Another process of this program, which [tells](tell) how far it is. Dropping it kills it (SIGKILL) and
/// waits until it is gone.
pub(crate) struct Teller<T> {
    process: Ending,
    name: String,
    told: Receiver<(Instant, String)>,
    of: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Teller<T> {
    /// Starts it; `name` is what errors call it.
    pub(crate) fn start(mut command: Command, name: impl Into<String>) -> Result<Self, BenchError> {
        let name = name.into();
        let mut process =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|error| {
                BenchError::Peer {
                    program: name.clone(),
                    reason: format!("cannot be started: {error}"),
                }
            })?;
        let stdout = process.stdout.take().expect("standard output is a pipe");
        let (sender, told) = channel();
        // By a thread, so that a line has its time, and a process that hangs can be given up.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { return };
                if sender.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { process: Ending(process), name, told, of: PhantomData })
    }

    /// Waits for what is looked for, in all that it tells and when it did.
    pub(crate) fn expect<F>(
        &mut self,
        interrupt: &Interrupt,
        mut found: impl FnMut(T, Instant) -> Option<F>,
    ) -> Result<F, BenchError> {
        let mut since = Instant::now();
        loop {
            if interrupt.is_raised() {
                return Err(BenchError::Cancelled);
            }
            match self.told.recv_timeout(INTERRUPT_INTERVAL) {
                Ok((at, line)) => {
                    since = Instant::now();
                    let told = serde_json::from_str(&line).map_err(|error| {
                        self.failed(format!("told what is none ({error}): {line}"))
                    })?;
                    if let Some(found) = found(told, at) {
                        return Ok(found);
                    }
                }
                // The same Ctrl-C has ended it.
                Err(RecvTimeoutError::Disconnected) if interrupt.is_raised() => {
                    return Err(BenchError::Cancelled);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.process.0.wait();
                    let status = status.map_or_else(|e| e.to_string(), |status| status.to_string());
                    return Err(self.failed(format!("ended ({status}); its own message is above")));
                }
                Err(RecvTimeoutError::Timeout) if since.elapsed() > SILENCE_MAX => {
                    return Err(self.failed(format!("has told nothing for {SILENCE_MAX:?}")));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn failed(&self, reason: String) -> BenchError {
        BenchError::Peer { program: self.name.clone(), reason }
    }
}

/// Tells whoever has started this process how far it is, by a line on standard output.
pub(crate) fn tell(told: &impl Serialize) -> Result<(), BenchError> {
    let line = serde_json::to_string(told).expect("it has string keys only");
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|source| BenchError::write("standard output", "write it", source))
}

/// A child that is ended when it is dropped.
pub(crate) struct Ending(pub(crate) Child);

impl Drop for Ending {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Program::start(command, "script").unwrap()
    }

    #[test]
    fn every_request_gets_its_answer() {
        let mut program = shell(
            r#"n=0; while read line; do n=$((n+1)); echo "{\"seconds\":$n,\"cpu_seconds\":0.5,\"events\":7,\"rows_out\":2,\"checksum\":\"ab\"}"; done"#,
        );
        let interrupt = Interrupt::default();
        for expected in 1..=3 {
            assert_eq!(program.pass(&interrupt).unwrap().seconds, f64::from(expected));
        }
    }

    #[test]
    fn what_a_process_tells_is_found_or_how_it_ended() {
        let start = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            Teller::<u32>::start(command, "script").unwrap()
        };
        let interrupt = Interrupt::default();
        let mut teller = start("echo 1; echo 2; exit 3");
        assert_eq!(teller.expect(&interrupt, |told, _| (told == 2).then_some(told)).unwrap(), 2);
        let error = teller.expect(&interrupt, |_, _| Some(())).unwrap_err().to_string();
        assert!(error.starts_with("script: ended (exit status: 3)"), "{error}");
        let error = start("echo x").expect(&interrupt, |_, _| Some(())).unwrap_err().to_string();
        assert!(error.contains("told what is none"), "{error}");
    }

    #[test]
    fn a_run_to_the_end_has_an_output_or_a_reason() {
        let run = |script: &str, limit| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            run_to_end(command, "script", limit, &Interrupt::default())
        };
        let long = Duration::from_secs(60);
        assert_eq!(run("echo 7", long).unwrap(), "7\n");
        let error = run("echo why >&2; exit 3", long).unwrap_err().to_string();
        assert_eq!(error, "script: exit status: 3: why");
        let error = run("exec sleep 60", Duration::from_millis(1)).unwrap_err().to_string();
        assert!(error.contains("not done after"), "{error}");
    }

    #[test]
    fn a_program_that_ends_or_babbles_is_named() {
        let interrupt = Interrupt::default();
        let error = shell("exit 3").pass(&interrupt).unwrap_err().to_string();
        assert!(error.starts_with("script: ended instead of running (exit status: 3)"), "{error}");
        let error = shell("read line; echo hello").pass(&interrupt).unwrap_err().to_string();
        assert!(error.contains("hello"), "{error}");
    }
}

//! The binary as scripts see it: what it writes, and its exit code.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// The binary, without settings from this test's environment.
pub fn millstream<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.args(arguments);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MILLSTREAM_") {
            command.env_remove(name);
        }
    }
    command
}

/// What a finished program came to.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("output is text"),
            stderr: String::from_utf8(output.stderr).expect("messages are text"),
        }
    }
}

/// Runs `millstream` with these arguments, separated by spaces.
pub fn run(arguments: &str) -> Ended {
    run_in(Path::new("."), arguments)
}

/// As [`run`], in a folder.
pub fn run_in(folder: &Path, arguments: &str) -> Ended {
    let mut command = millstream(arguments.split_whitespace());
    command.current_dir(folder).stdin(Stdio::null()).output().expect("the program starts").into()
}

impl Ended {
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// It ended with this code and said all of this, in words and not by a panic.
    #[track_caller]
    pub fn refused(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is missing: {self:#?}");
        }
        self
    }

    /// The JSON objects on standard output, one per line.
    pub fn json(&self) -> Vec<serde_json::Value> {
        let parse = |line| serde_json::from_str(line).expect("a line is an object");
        self.stdout.lines().map(parse).collect()
    }
}

/// The keys of an object in their order.
pub fn keys(line: &str) -> Vec<String> {
    // Values hold no such text, and `serde_json::Value` would sort the keys.
    let parts: Vec<&str> = line.split('"').collect();
    parts.windows(2).filter(|w| w[1].starts_with(':')).map(|w| w[0].to_owned()).collect()
}

/// A program that runs, and what it writes line by line.
pub struct Running {
    pub child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Running {
    pub fn start(folder: &Path, arguments: &str) -> Self {
        let mut child = millstream(arguments.split_whitespace())
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().expect("it is a pipe"));
        let stderr = BufReader::new(child.stderr.take().expect("it is a pipe"));
        Self { child, stdout, stderr }
    }

    /// Waits for the next line on standard output.
    pub fn line(&mut self) -> String {
        read_line(&mut self.stdout)
    }

    /// Waits for the next line on standard error.
    pub fn message(&mut self) -> String {
        read_line(&mut self.stderr)
    }

    /// Sends a signal, such as `INT`.
    pub fn signal(&self, name: &str) {
        let process = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &process]).status();
        assert!(sent.expect("kill is there").success());
    }

    /// Waits for its end.
    pub fn ended(self) -> Ended {
        use std::io::Read;
        let Self { mut child, mut stdout, mut stderr } = self;
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).expect("messages are text");
            text
        });
        let mut text = String::new();
        stdout.read_to_string(&mut text).expect("output is text");
        let code = child.wait().expect("it ends").code();
        Ended { code, stdout: text, stderr: errors.join().expect("reading does not panic") }
    }
}

fn read_line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).expect("output is text");
    line
}

/// The names in a folder, hidden ones too.
pub fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder is readable");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.expect("the folder is readable").file_name().to_string_lossy().into_owned()
    };
    entries.map(name).collect()
}

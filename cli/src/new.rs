//! `millstream new`: a project with a job in it, outside of this workspace.

use crate::Failure;
use clap::Args;
use millstream_ops::Exit;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

#[derive(Args)]
#[command(after_help = "\
Examples:
  millstream new word-count && cd word-count && cargo run --release
  millstream new job --millstream-path ../millstream")]
pub(crate) struct NewArgs {
    /// Name of the project, and of the folder that is made for it
    name: String,

    /// The copy of Millstream's repository to build with [default: the one that this program was
    /// built from]
    #[arg(long, value_name = "DIR")]
    millstream_path: Option<PathBuf>,

    /// Instead of a copy, the address of a Git repository that Cargo fetches
    #[arg(long, value_name = "URL", conflicts_with = "millstream_path")]
    millstream_git: Option<String>,
}

impl NewArgs {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let folder = Path::new(&self.name);
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        check_name(name)?;
        if folder.exists() {
            let message = format!("{} exists already; choose another name", folder.display());
            return Err(usage(message));
        }
        let source = self.source()?;
        // Made beside its place and moved there, so that there is no half of a project.
        let partial = folder.with_file_name(format!(".{name}.partial-{}", std::process::id()));
        let made = write(&partial, name, &source).and_then(|()| fs::rename(&partial, folder));
        if let Err(error) = made {
            // Best effort: the error that counts is the first one.
            let _ = fs::remove_dir_all(&partial);
            let message = format!("{}: cannot be made: {error}", folder.display());
            return Err(Failure { exit: Exit::Failed, message });
        }
        let next = format!("Made {0}. Now:\n\n  cd {0}\n  cargo run --release", folder.display());
        writeln!(io::stdout(), "{next}").map_err(|error| Failure {
            exit: Exit::Failed,
            message: format!("{} was made; standard output: {error}", folder.display()),
        })
    }

    fn source(&self) -> Result<Source, Failure> {
        if let Some(url) = &self.millstream_git {
            return Ok(Source::Git(url.clone()));
        }
        let built_from = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let path = self.millstream_path.as_deref().unwrap_or(built_from);
        let found = fs::canonicalize(path).ok();
        match found.filter(|path| path.join("api").join("Cargo.toml").is_file()) {
            Some(path) => Ok(Source::Path(path)),
            None => Err(usage(format!(
                "{} is no copy of Millstream's repository (there is no api/Cargo.toml in it); give \
                 one with --millstream-path, or its address with --millstream-git",
                path.display()
            ))),
        }
    }
}

/// Where the project takes Millstream from.
enum Source {
    Path(PathBuf),
    Git(String),
}

impl Source {
    fn dependency(&self, package: &str, folder: &str) -> String {
        match self {
            Self::Path(path) => {
                let path = path.join(folder).display().to_string();
                format!("{package} = {{ path = {} }}", toml_string(&path))
            }
            Self::Git(url) => format!("{package} = {{ git = {} }}", toml_string(url)),
        }
    }
}

fn usage(message: String) -> Failure {
    Failure { exit: Exit::Usage, message }
}

/// What Cargo accepts as the name of a package that has a program of that name.
fn check_name(name: &str) -> Result<(), Failure> {
    let fits = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let taken = ["test", "core", "std", "alloc", "millstream", "build", "deps", "examples"];
    if !fits {
        let message = format!(
            "\"{name}\" cannot be the name of a project: begin with a letter, go on with letters, \
             digits, - and _"
        );
        return Err(usage(message));
    }
    if taken.contains(&name) {
        return Err(usage(format!("\"{name}\" means something to Cargo; choose another name")));
    }
    Ok(())
}

fn write(folder: &Path, name: &str, source: &Source) -> std::io::Result<()> {
    let manifest = include_str!("../templates/Cargo.toml.txt")
        .replace("{name}", name)
        .replace("{millstream}", &source.dependency("millstream", "api"))
        .replace("{connectors}", &source.dependency("millstream-connectors", "connectors"))
        .replace("{ops}", &source.dependency("millstream-ops", "ops"));
    fs::create_dir(folder)?;
    fs::create_dir(folder.join("src"))?;
    fs::write(folder.join("Cargo.toml"), manifest)?;
    fs::write(folder.join(".gitignore"), "/target\n")?;
    fs::write(folder.join("src/main.rs"), include_str!("../templates/main.rs.txt"))?;
    let readme = include_str!("../templates/README.md.txt").replace("{name}", name);
    fs::write(folder.join("README.md"), readme)
}

/// A TOML string of any text.
fn toml_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cargo_refuses_are_refused() {
        for name in ["", "1st", "a b", "a/../b", "-x", "test", "größe"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        for name in ["a", "word-count", "Job_2"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn the_word_count_has_at_most_15_lines() {
        let program = include_str!("../templates/main.rs.txt");
        let code = program.lines().filter(|l| !l.trim().is_empty() && !l.starts_with("//"));
        assert!(code.count() <= 15);
    }
}

//! The steps of `cargo xtask test`, in the order in which they run: cheap ones first.

use crate::fuzz;
use crate::process::{self, TestOutput, cargo, program, run};
use crate::summary::Outcome;
use crate::tidy;
use crate::workspace::Workspace;
use anyhow::{Result, ensure};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Something that must pass.
pub(crate) struct Step {
    /// What `--only` calls it.
    pub(crate) name: &'static str,
    /// What it does, in a few words.
    pub(crate) about: &'static str,
    /// Does it; an error is its failure.
    pub(crate) action: Action,
}

pub(crate) type Action = Box<dyn Fn(&Workspace) -> Result<Outcome>>;

/// How long each soak lasts among the ordinary tests.
const SOAK_DURATION: Duration = Duration::from_secs(15);
/// How long each fuzz target runs among the ordinary tests.
const FUZZ_DURATION: Duration = Duration::from_secs(15);

type Perform = fn(&Workspace) -> Result<Outcome>;

const STEPS: &[(&str, &str, Perform)] = &[
    ("fmt", "the code is formatted", fmt),
    ("tidy", "the workspace's rules hold", tidy),
    ("deny", "licences, bans and sources of the dependencies", deny),
    ("clippy", "lints, warnings denied", clippy),
    ("doc", "the documentation builds, warnings denied", doc),
    ("unit", "unit and integration tests", unit),
    ("doctest", "examples in the documentation", doctest),
    ("loom", "every interleaving of the lock-free structures", loom),
    ("asan", "crates with unsafe code under the address sanitizer", asan),
    ("fuzz", "the decoders of what comes from disks and wires, 15 s each", fuzz_briefly),
    ("bench", "criterion benchmarks, each once", bench),
    ("soak", "random programs against models, 15 s each", soak_briefly),
    ("new", "`millstream new` makes a project that builds and runs", new_project),
    ("readme", "the commands of the README, and those by which hosts are set up", readme),
];

/// The names that `--only` takes.
pub(crate) fn names() -> Vec<&'static str> {
    STEPS.iter().map(|(name, ..)| *name).collect()
}

/// Prints each step and what it does.
pub(crate) fn list() {
    for (name, about, _) in STEPS {
        println!("{name:<8}  {about}");
    }
}

/// The steps of these names in their own order; all of them if there is none.
pub(crate) fn named(only: &[String]) -> Vec<Step> {
    STEPS
        .iter()
        .filter(|(name, ..)| only.is_empty() || only.iter().any(|wanted| wanted == name))
        .map(|&(name, about, perform)| Step { name, about, action: Box::new(perform) })
        .collect()
}

/// The long forms of soaks and property tests: minutes for each soak, times the cases for each
/// property.
pub(crate) fn soak(minutes: u32) -> Vec<Step> {
    let duration = Duration::from_secs(60 * u64::from(minutes));
    vec![
        Step {
            name: "soak",
            about: "random programs against models",
            action: Box::new(move |workspace| soak_tests(workspace, duration, "--release")),
        },
        Step {
            name: "property",
            about: "all tests, with many cases for each property",
            action: Box::new(move |workspace| {
                build_examples(workspace, "--release")?;
                let mut tests = cargo("test --workspace --tests --release", &workspace.root);
                tests.env("PROPTEST_CASES", PROPERTY_CASES.saturating_mul(minutes).to_string());
                Ok(Outcome::Passed(run(tests)?))
            }),
        },
    ]
}

/// Each fuzz target for so many minutes.
pub(crate) fn fuzz(minutes: u32) -> Vec<Step> {
    let duration = Duration::from_secs(60 * u64::from(minutes));
    vec![Step {
        name: "fuzz",
        about: "the decoders of what is on disk",
        action: Box::new(move |workspace| Ok(Outcome::Passed(fuzz::all(workspace, duration)?))),
    }]
}

/// What proptest runs by default.
const PROPERTY_CASES: u32 = 256;

fn fmt(workspace: &Workspace) -> Result<Outcome> {
    run(cargo("fmt --check", &workspace.root.join("fuzz")))?;
    Ok(Outcome::Passed(run(cargo("fmt --all --check", &workspace.root))?))
}

fn tidy(workspace: &Workspace) -> Result<Outcome> {
    let findings = tidy::findings(workspace)?;
    for finding in &findings {
        println!("{finding}");
    }
    ensure!(findings.is_empty(), "{} findings", findings.len());
    Ok(Outcome::Passed(TestOutput::default()))
}

fn deny(workspace: &Workspace) -> Result<Outcome> {
    const INSTALL: &str = "cargo-deny is not installed: `cargo install --locked cargo-deny`";
    if !process::has_cargo_subcommand("deny") {
        ensure!(!process::in_ci(), INSTALL);
        return Ok(Outcome::Skipped(INSTALL.to_owned()));
    }
    Ok(Outcome::Passed(run(cargo(
        "deny --locked check --hide-inclusion-graph bans licenses sources",
        &workspace.root,
    ))?))
}

fn clippy(workspace: &Workspace) -> Result<Outcome> {
    let lints = cargo("clippy --workspace --all-targets -- -D warnings", &workspace.root);
    Ok(Outcome::Passed(run(lints)?))
}

fn doc(workspace: &Workspace) -> Result<Outcome> {
    let mut documentation = cargo("doc --workspace --no-deps", &workspace.root);
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    Ok(Outcome::Passed(run(documentation)?))
}

/// With nextest each test runs in a process of its own and a test that hangs is ended; without it,
/// the same tests run all the same.
fn unit(workspace: &Workspace) -> Result<Outcome> {
    let tests = if process::has_cargo_subcommand("nextest") {
        cargo("nextest run --workspace --no-fail-fast", &workspace.root)
    } else {
        build_examples(workspace, "")?;
        cargo("test --workspace --lib --bins --tests --examples --no-fail-fast", &workspace.root)
    };
    some_tests(run(tests)?)
}

/// Some tests start examples of their crates. Cargo builds these with the tests only if it is not told which
/// targets to test.
fn build_examples(workspace: &Workspace, profile: &str) -> Result<()> {
    run(cargo(&format!("build --workspace --examples {profile}"), &workspace.root)).map(drop)
}

fn doctest(workspace: &Workspace) -> Result<Outcome> {
    some_tests(run(cargo("test --workspace --doc --no-fail-fast", &workspace.root))?)
}

fn loom(workspace: &Workspace) -> Result<Outcome> {
    let mut models =
        cargo("test --package millstream-network --release --test loom", &workspace.root);
    models.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", workspace.target_dir("loom"));
    some_tests(run(models)?)
}

/// The sanitizer is not stabilised, but the pinned toolchain has it.
fn asan(workspace: &Workspace) -> Result<Outcome> {
    // Only with a target named are build scripts and macros spared, which must not be instrumented.
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut tests = cargo("test --lib --tests --no-fail-fast --target", &workspace.root);
    tests.arg(target);
    for package in tidy::crates_with_unsafe_code() {
        tests.args(["--package", package]);
    }
    // The sanitizer itself takes several times the memory that these tests may have.
    tests.args(["--", "--skip", "limit_of_memory"]);
    tests
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Zsanitizer=address")
        .env("CARGO_TARGET_DIR", workspace.target_dir("asan"));
    some_tests(run(tests)?)
}

fn fuzz_briefly(workspace: &Workspace) -> Result<Outcome> {
    Ok(Outcome::Passed(fuzz::all(workspace, FUZZ_DURATION)?))
}

/// Under `cargo test` criterion runs each benchmark once, to show that it works.
fn bench(workspace: &Workspace) -> Result<Outcome> {
    // Of the whole workspace, as the tests before: of one package alone, its dependencies would have other features
    // and be built anew.
    let benches = cargo("test --workspace --bench *", &workspace.root);
    Ok(Outcome::Passed(run(benches)?))
}

fn soak_briefly(workspace: &Workspace) -> Result<Outcome> {
    soak_tests(workspace, SOAK_DURATION, "")
}

/// Runs the tests with `soak` in their names: each goes on for as long as the variable says.
fn soak_tests(workspace: &Workspace, duration: Duration, profile: &str) -> Result<Outcome> {
    let arguments = format!("test --workspace --lib --tests {profile} -- soak");
    let mut tests = cargo(&arguments, &workspace.root);
    tests.env("MILLSTREAM_SOAK_SECONDS", duration.as_secs().to_string());
    some_tests(run(tests)?)
}

/// Outside of the workspace, as a user has it, but with the versions that were tested here.
fn new_project(workspace: &Workspace) -> Result<Outcome> {
    let folder = tempfile::tempdir()?;
    // The release build, which the README's commands take as well.
    let mut make = cargo("run --release --manifest-path", folder.path());
    make.arg(workspace.root.join("Cargo.toml")).args(["--", "new", "first-job"]);
    let mut output = run(make)?;
    let project = folder.path().join("first-job");
    let lock = project.join("Cargo.lock");
    if !lock.exists() {
        std::fs::copy(workspace.root.join("Cargo.lock"), lock)?;
    }
    let in_project = |arguments: &str| -> Command {
        let mut command = cargo(arguments, &project);
        command.env("CARGO_TARGET_DIR", workspace.target_dir("new-project"));
        command
    };
    output.append(run(in_project("build"))?);
    output.append(run(in_project("test"))?);
    output.append(run(in_project("run"))?);
    Ok(Outcome::Passed(output))
}

/// Succeeds where hosts can be made.
const CAN_MAKE_HOSTS: &str = "command -v ip tc nft nsenter >/dev/null && unshare --net true";

fn readme(workspace: &Workspace) -> Result<Outcome> {
    let mut output = TestOutput::default();
    for document in ["README.md", "docs/operations.md"] {
        let text = std::fs::read_to_string(workspace.root.join(document))?;
        for script in crate::readme::commands(&text)? {
            if script.makes_hosts && run(shell(CAN_MAKE_HOSTS, &workspace.root)).is_err() {
                let why = "no root, or not all of ip, tc, nft, nsenter and unshare";
                output.closing_lines.push(format!("skipped: some commands of {document} ({why})"));
                continue;
            }
            output.append(run(shell(&script.text, &workspace.root))?);
        }
    }
    Ok(Outcome::Passed(output))
}

fn shell(script: &str, folder: &Path) -> Command {
    let mut command = program("bash", folder);
    command.args(["-euo", "pipefail", "-c", script]);
    command
}

/// A step that is there to run tests and finds none has not passed.
fn some_tests(output: TestOutput) -> Result<Outcome> {
    ensure!(output.tally.count() > 0, "no test was run");
    Ok(Outcome::Passed(output))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Tally;

    #[test]
    fn all_steps_run_unless_some_are_named() {
        let chosen = |only: &[&str]| -> Vec<&str> {
            let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
            named(&only).iter().map(|step| step.name).collect()
        };
        assert_eq!(chosen(&[]), names());
        assert_eq!(chosen(&["tidy", "fmt"]), ["fmt", "tidy"]);
    }

    #[test]
    fn a_step_that_found_no_tests_has_failed() {
        assert!(some_tests(TestOutput::default()).is_err());
        let output = TestOutput { tally: Tally { passed: 1, failed: 0 }, ..TestOutput::default() };
        assert!(some_tests(output).is_ok());
    }

    #[test]
    fn scripts_stop_at_the_first_failure() {
        let workspace = Workspace::find().unwrap();
        let passes = |script: &str| run(shell(script, &workspace.root)).is_ok();
        assert!(passes("test -f Cargo.toml"));
        assert!(!passes("false\ntrue"));
        assert!(!passes("false | true"));
        assert!(!passes("echo $NO_SUCH_VARIABLE_HERE"));
    }
}

//! Fuzzing: `cargo fuzz` without the tool, which is a matter of compiler flags.

use crate::process::{TestOutput, cargo, program, run};
use crate::workspace::Workspace;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The targets, as `fuzz/Cargo.toml` names them, each with the longest input that it is given.
const TARGETS: &[(&str, usize)] = &[
    ("channel", 4096),
    ("frames", 4096),
    ("manifest", 4096),
    ("messages", 4096),
    ("segment", 32 << 10),
    ("segment_extent", 4096),
    ("snapshot", 4096),
];

/// Those that cargo-fuzz passes. Coverage and sanitizer are not stabilised, but the pinned toolchain
/// has them.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0 \
    -Zsanitizer=address -Ccodegen-units=1";

/// More than any decoder needs for an input of the longest length: a length that was believed before
/// it was checked is found by it.
const ALLOCATION_MIB_MAX: u32 = 256;

/// Builds the targets and runs each for so long, from the checked-in seeds and what earlier runs on
/// this machine have found.
///
/// # Errors
/// If a target crashes, with the file that makes it.
pub(crate) fn all(workspace: &Workspace, duration: Duration) -> Result<TestOutput> {
    let folder = workspace.root.join("fuzz");
    let target_dir = workspace.target_dir("fuzz");
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let instrumented = |task: &str| {
        let mut command = cargo(task, &folder);
        command.args(["--release", "--target", &triple]);
        command
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", FLAGS)
            .env("CARGO_TARGET_DIR", &target_dir);
        command
    };
    run(instrumented("build --bins"))?;
    let mut output = run(instrumented("test --tests"))?;
    for (target, input_max) in TARGETS {
        let binary = target_dir.join(&triple).join("release").join(target);
        let found = target_dir.join("corpus").join(target);
        let crashes = folder.join("artifacts").join(target);
        for needed in [&found, &crashes] {
            std::fs::create_dir_all(needed)
                .with_context(|| format!("cannot create {}", needed.display()))?;
        }
        let mut fuzzer = program(binary, &folder);
        // What is found goes to the first folder.
        fuzzer.arg(found).arg(folder.join("corpus").join(target)).args([
            format!("-max_total_time={}", duration.as_secs()),
            format!("-max_len={input_max}"),
            format!("-malloc_limit_mb={ALLOCATION_MIB_MAX}"),
            format!("-artifact_prefix={}/", crashes.display()),
            "-timeout=60".to_owned(),
            "-print_final_stats=1".to_owned(),
        ]);
        let before = files(&crashes)?;
        let result = run(fuzzer);
        let mut new = files(&crashes)?;
        new.retain(|file| !before.contains(file));
        ensure!(new.is_empty(), "{target} crashes with {}", new[0].display());
        output.append(result?);
    }
    Ok(output)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)?;
    Ok(entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_run_and_has_seeds() {
        let folder = Workspace::find().unwrap().root.join("fuzz");
        let mut programs = files(&folder.join("targets")).unwrap();
        programs.sort();
        let names: Vec<_> = programs.iter().filter_map(|path| path.file_stem()).collect();
        let run: Vec<_> = TARGETS.iter().map(|(target, _)| *target).collect();
        assert_eq!(names, run);
        for (target, input_max) in TARGETS {
            let seeds = files(&folder.join("corpus").join(target)).unwrap();
            assert!(!seeds.is_empty(), "{target}");
            for seed in seeds {
                let len = seed.metadata().unwrap().len();
                assert!(len <= *input_max as u64, "{} would be cut off", seed.display());
            }
        }
    }
}

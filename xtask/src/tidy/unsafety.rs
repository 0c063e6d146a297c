//! Where unsafe code is, and where it must not be.

use super::{Finding, source};
use crate::workspace::SourceFile;

/// Crate roots that forbid unsafe code altogether.
const FORBIDDING: &[&str] = &[
    "types/src/lib.rs",
    "protocol/src/lib.rs",
    "storage/src/lib.rs",
    "macros/src/lib.rs",
    "api/src/lib.rs",
    "sim/src/lib.rs",
    "fuzz/src/lib.rs",
    "connectors/src/lib.rs",
    "ops/src/lib.rs",
    "control/src/lib.rs",
    "coordinator/src/lib.rs",
    "worker/src/lib.rs",
    "workloads/src/lib.rs",
    "demo/src/lib.rs",
    "cli/src/main.rs",
    "xtask/src/main.rs",
];

/// A crate with unsafe code, and the files that hold it: small modules with safe faces.
struct UnsafeCode {
    package: &'static str,
    files: &'static [&'static str],
}

const UNSAFE_CODE: &[UnsafeCode] = &[
    UnsafeCode {
        package: "millstream-network",
        files: &[
            "network/src/ring.rs",
            "network/src/transport/engine.rs",
            "network/src/transport/receive.rs",
            "network/src/transport/send.rs",
        ],
    },
    UnsafeCode {
        package: "millstream-state",
        files: &[
            "state/examples/segments_rate.rs",
            "state/src/heap/memory.rs",
            "state/src/heap/prefetch.rs",
            "state/src/plain.rs",
            "state/src/segments/disk.rs",
            "state/src/segments/lines.rs",
            "state/src/segments/log.rs",
            "state/src/segments/mapping.rs",
            "state/src/segments/memory.rs",
            "state/src/shared.rs",
            "state/src/subtask.rs",
            "state/src/subtask/tests.rs",
        ],
    },
    UnsafeCode { package: "millstream-hosts", files: &["hosts/src/delay/tun.rs"] },
    UnsafeCode {
        package: "millstream-runtime",
        files: &["runtime/src/checkpoint/slot.rs", "runtime/src/rows/values.rs"],
    },
    UnsafeCode { package: "millstream-bench", files: &["bench/src/state/by_hand/memory.rs"] },
    UnsafeCode {
        package: "millstream-tuning",
        files: &["tuning/src/syscall.rs", "tuning/src/host/tests.rs"],
    },
];

/// The crates to run under the address sanitizer: not the benchmarks, whose unsafe code is a baseline
/// that nothing is built on.
pub(crate) fn crates_with_unsafe_code() -> impl Iterator<Item = &'static str> {
    UNSAFE_CODE.iter().map(|one| one.package).filter(|package| *package != "millstream-bench")
}

/// Crate roots that should forbid unsafe code and do not.
pub(super) fn not_forbidden(files: &[SourceFile]) -> Vec<Finding> {
    FORBIDDING
        .iter()
        .filter(|root| {
            !files.iter().any(|file| {
                file.path == **root
                    && source::code_of(&file.text).contains("#![forbid(unsafe_code)]")
            })
        })
        .map(|root| Finding::of_file(root, "this crate must say #![forbid(unsafe_code)]"))
        .collect()
}

/// Files with unsafe code that are not listed, and listed ones without it.
pub(super) fn not_listed(files: &[SourceFile]) -> Vec<Finding> {
    not_in(files, &UNSAFE_CODE.iter().flat_map(|one| one.files).copied().collect::<Vec<_>>())
}

fn not_in(files: &[SourceFile], listed: &[&str]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| source::is_ours(file)) {
        let line = source::first_word(&source::code_of(&file.text), "unsafe");
        match (line, listed.contains(&file.path.as_str())) {
            (Some(line), false) => findings.push(Finding::at(
                &file.path,
                line,
                "unsafe code outside the files listed in xtask/src/tidy/unsafety.rs: move it \
                 behind one of them, or argue for another",
            )),
            (None, true) => {
                let message = "no unsafe code any more: take it off the list of files with some";
                findings.push(Finding::of_file(&file.path, message));
            }
            _ => {}
        }
    }
    for path in listed.iter().filter(|path| files.iter().all(|file| file.path != **path)) {
        findings.push(Finding::of_file(path, "listed as a file with unsafe code, and not there"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_code_is_found_outside_the_list_only() {
        let unsafe_code = "fn f() {\n    // SAFETY: none needed.\n    unsafe { g() }\n}";
        let files = [
            SourceFile::new("a/src/ring.rs", unsafe_code),
            SourceFile::new("a/src/lib.rs", unsafe_code),
            SourceFile::new("a/src/safe.rs", "// unsafe\n#![deny(unsafe_op_in_unsafe_fn)]"),
            SourceFile::new("bench/peers/x.rs", unsafe_code),
        ];
        let found = not_in(&files, &["a/src/ring.rs"]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].path.as_str(), found[0].line), ("a/src/lib.rs", Some(3)));
    }

    #[test]
    fn the_list_holds_no_stale_entries() {
        let files = [SourceFile::new("a/src/ring.rs", "fn f() {}")];
        let found = not_in(&files, &["a/src/ring.rs", "a/src/gone.rs"]);
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn crates_without_need_forbid_unsafe_code() {
        let with = |text: &str| -> Vec<SourceFile> {
            FORBIDDING.iter().map(|root| SourceFile::new(root, text)).collect()
        };
        assert_eq!(not_forbidden(&with("//! Docs.\n#![forbid(unsafe_code)]\n")), []);
        assert_eq!(not_forbidden(&with("// #![forbid(unsafe_code)]\n")).len(), FORBIDDING.len());
        assert_eq!(not_forbidden(&[]).len(), FORBIDDING.len());
    }
}
